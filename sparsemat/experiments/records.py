"""Records of runs: one JSON file each, written whole, and only by a run."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import sparsemat

from .configurations import EXPERIMENTS
from .files import atomic

# fields that differ between two runs of the same thing
INCIDENTAL = ("seconds", "peak_mebibytes", "device", "versions", "commit")
FIELDS = (
    *("experiment", "variant", "seed", "profile", "configuration", "data", "metric", "parameters"),
    *("nonzeros", "curve", "best", "last", "weights_sha256", *INCIDENTAL),
)


def write(record: dict, folder: Path) -> Path:
    """Write a record to ``folder/EXPERIMENT-VARIANT-SEED.json``.

    Returns:
        The path.
    """
    path = folder / "{experiment}-{variant}-{seed}.json".format(**record)
    with atomic(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read(path: Path) -> dict:
    """A record from its file.

    Raises:
        ValueError: The file is not JSON, or a field is missing.
    """
    try:
        record = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"a record must be JSON, got {path}: {error}") from error
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(f"a record must have every field, but {path} has no {', '.join(missing)}")
    return record


def read_all(folder: Path | str, experiment: str | None = None) -> list[dict]:
    """The records of a folder, of one experiment or of all, by name of file."""
    return [read(path) for path in sorted(Path(folder).glob(f"{experiment or '*'}-*.json"))]


def comparable(record: dict) -> dict:
    """A record without what differs between two runs of the same thing: times, machine, commit."""
    kept = {name: value for name, value in record.items() if name not in INCIDENTAL}
    kept["curve"] = [{**epoch, "seconds": None} for epoch in record["curve"]]
    for name in ("best", "last"):
        kept[name] = {**record[name], "seconds": None}
    return kept


def table(found: list[dict]) -> pd.DataFrame:
    """One row an experiment and variant: the last epoch's metric over seeds, sizes and times.

    Args:
        found: Records, of the full profile if the table is to be compared with the paper's.

    Returns:
        A frame whose ``metric`` is the mean over seeds at the last epoch (the epochs were chosen in
        advance) and ``spread`` the standard deviation, missing for a single seed.
    """
    rows = []
    for name, experiment in EXPERIMENTS.items():
        for variant in experiment.variants:
            group = [r for r in found if (r["experiment"], r["variant"]) == (name, variant)]
            if not group:
                continue
            metrics = np.array([record["last"][record["metric"]] for record in group])
            seconds = [epoch["seconds"] for record in group for epoch in record["curve"]]
            side = "native" if variant == "native" else "matrix"
            rows.append(
                {
                    "experiment": name,
                    "variant": variant,
                    "seeds": len(group),
                    "name": group[0]["metric"],
                    "metric": metrics.mean(),
                    "spread": metrics.std(ddof=1) if len(group) > 1 else np.nan,
                    "paper": experiment.paper[side]["metric"],
                    "epochs": group[0]["last"]["epoch"],
                    "paper epoch": experiment.paper[side]["epoch"],
                    "parameters": group[0]["parameters"],
                    "nonzeros": group[0]["nonzeros"],
                    "seconds an epoch": float(np.median(seconds)),
                    "peak MiB": max(record["peak_mebibytes"] for record in group),
                    "data": group[0]["data"]["subset"] or "whole",
                }
            )
    return pd.DataFrame(rows)


def environment(device: torch.device) -> dict:
    """Where a run happens: device, versions, and the commit of the code if it is in a checkout."""
    return {
        "device": {
            "type": device.type,
            "name": _device_name(device),
            "threads": torch.get_num_threads(),
        },
        "versions": {
            "python": platform.python_version(),
            "sparsemat": sparsemat.__version__,
            "torch": torch.__version__,
            "numpy": version("numpy"),
        },
        "commit": _commit(),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """The checkout's commit, with ``-dirty`` where a tracked file of the package was changed."""

    def git(*command: str) -> str:
        package = Path(sparsemat.__file__).parent
        return subprocess.run(
            ["git", "-C", str(package), *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not a copy in somebody's environment
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
