"""What whole networks take, each in a fresh interpreter, against limits that were set before.

``python -m benchmarks.limits`` prints the table and writes the record.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from sparsemat.experiments.files import write_json

from .origin import RECORDS, place_of, started

RECORD = RECORDS / "limits.json"
THREADS = 1


class Limit(NamedTuple):
    """A program, and what it may take.

    Attributes:
        name: What is computed.
        given: What is made before, neither timed nor weighed.
        program: What is timed.
        seconds: The most seconds.
        mib: The most memory beyond what was held before; None where no limit was set.
    """

    name: str
    given: str
    program: str
    seconds: float
    mib: float | None


def _model(name: str, size: int, where: str = "cpu") -> str:
    return (
        f"from torchvision.models import {name}\n"
        f"with torch.device('{where}'):\n"
        f"    model = {name}(weights=None).eval()\n"
        f"shape = 3, {size}, {size}\n"
    )


LIMITS = (
    Limit(
        "from_module(resnet18, (3, 224, 224))",
        _model("resnet18", 224),
        "network = sm.from_module(model, shape)",
        20,
        1024,
    ),
    Limit(
        "summary(resnet50, (3, 224, 224)) on meta",
        _model("resnet50", 224, "meta"),
        "table = sm.summary(model, shape)",
        5,
        300,
    ),
    Limit(
        "summary(vit_h_14, (3, 224, 224)) on meta",
        _model("vit_h_14", 224, "meta"),
        "table = sm.summary(model, shape)",
        30,
        1536,
    ),
    Limit(
        "ResNet-18 at 32 pixels as one triangular system, solved by SciPy",
        _model("resnet18", 32) + "model.double(); x = torch.randn(shape, dtype=torch.float64)\n",
        "from scipy.sparse.linalg import spsolve_triangular\n"
        "system = sm.block_system(model, x)\n"
        "r = system.right_hand_side().numpy()\n"
        "z = spsolve_triangular(system.to_scipy(), r, lower=True, unit_diagonal=True)\n",
        10,
        2048,
    ),
    Limit(
        "a row of the secant map of vit_b_16 at 224 pixels",
        _model("vit_b_16", 224) + "M = sm.secant_map(model, torch.randn(shape))\n",
        "row = M.row(0)",
        3,
        None,
    ),
)

CHILD = """
import json, sys, time
import torch
import sparsemat as sm

def held(what):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
scope = {"torch": torch, "sm": sm}
exec(sys.argv[2], scope)
with open("/proc/self/clear_refs", "w") as counters:
    counters.write("5")  # the peak counts from now
before, start = held("VmRSS"), time.perf_counter()
exec(sys.argv[3], scope)
print(json.dumps([time.perf_counter() - start, held("VmHWM") - before]))
"""


def measure(limit: Limit) -> dict:
    """Seconds and MiB of a program, and whether it keeps its limits. Linux only."""
    command = [sys.executable, "-c", CHILD, str(THREADS), limit.given, limit.program]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, mib = json.loads(found.splitlines()[-1])
    kept = seconds <= limit.seconds and (limit.mib is None or mib <= limit.mib)
    return {
        "case": limit.name,
        "seconds": seconds,
        "seconds_limit": limit.seconds,
        "mib": mib,
        "mib_limit": limit.mib,
        "verdict": "kept" if kept else "exceeded",
    }


def main() -> None:
    """Measure all, print a line each, and write the record."""
    measured, rows = started(1), []
    for limit in LIMITS:
        row = measure(limit)
        rows.append(row)
        most = "-" if limit.mib is None else f"{limit.mib:,.0f}"
        print(
            f"{row['case']:<66} {row['seconds']:6.2f} of {limit.seconds:2} s "
            f"{row['mib']:7,.0f} of {most:>5} MiB  {row['verdict']}",
            flush=True,
        )
    write_json(RECORD, place_of(THREADS) | {"measured": measured, "rows": rows})


if __name__ == "__main__":
    main()
