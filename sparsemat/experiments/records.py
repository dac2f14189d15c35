"""Records of runs: one JSON file each, written whole, and only by a run."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import sparsemat

from .configurations import EXPERIMENTS, Configuration
from .files import atomic
from .models import Network

# fields that differ between two runs of the same thing
INCIDENTAL = ("seconds", "peak_mebibytes", "device", "versions", "commit")
DIRTY = "-dirty"  # ends the commit where the code was not the commit's
NAMED = ("experiment", "variant", "seed", "profile")
FIELDS = (
    *(*NAMED, "configuration", "data", "metric", "parameters"),
    *("nonzeros", "curve", "best", "last", "weights_sha256", *INCIDENTAL),
)


def write(record: dict, folder: Path) -> Path:
    """Write a record to ``folder/EXPERIMENT-VARIANT-SEED.json``.

    Between experiment and variant stands the profile, if it is neither the full nor the quick one.

    Returns:
        The path.
    """
    return _write(record, folder / f"{name(**{part: record[part] for part in NAMED})}.json")


def name(experiment: str, variant: str, seed: int, profile: str) -> str:
    """What a run is called: the stem of its record's file."""
    special = [] if profile in ("full", "quick") else [profile]
    return "-".join([experiment, *special, variant, str(seed)])


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


def write_baselines(record: dict, folder: Path) -> Path:
    """Write the errors of the forecasts without a network.

    Returns:
        The path, ``folder/baselines/EXPERIMENT-PROFILE.json``.
    """
    return _write(record, folder / "baselines" / "{experiment}-{profile}.json".format(**record))


def _write(record: dict, path: Path) -> Path:
    with atomic(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read_baselines(folder: Path | str, experiment: str, profile: str) -> dict:
    """The record that :func:`write_baselines` wrote.

    Raises:
        FileNotFoundError: There is none.
    """
    return json.loads((Path(folder) / "baselines" / f"{experiment}-{profile}.json").read_text())


def comparable(record: dict) -> dict:
    """A record without what differs between two runs of the same thing: times, machine, commit."""
    kept = {name: value for name, value in record.items() if name not in INCIDENTAL}
    kept["curve"] = [{**epoch, "seconds": None} for epoch in record["curve"]]
    for name in ("best", "last"):
        kept[name] = {**record[name], "seconds": None}
    return kept


def configuration(record: dict) -> dict:
    """The configuration of a record; a field that is younger than the record had its default."""
    now = EXPERIMENTS[record["experiment"]].profiles[record["profile"]]
    then = _defaults(now) | record["configuration"]
    then["network"] = _defaults(now.network) | then["network"]
    return json.loads(json.dumps(then))


def _defaults(made: Configuration | Network) -> dict:
    return {f.name: f.default for f in fields(made) if f.default is not MISSING}


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two dictionaries, or dictionaries in them: one phrase a field."""
    found = []
    for name in dict.fromkeys((*then, *now)):
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new)
        elif old != new:
            found.append(f"{name} was {old!r} and is {new!r}")
    return found


def table(found: list[dict]) -> pd.DataFrame:
    """One row an experiment, profile and variant: the last epoch's metric over seeds, and costs.

    Args:
        found: Records, in any order.

    Returns:
        A frame in the order of ``EXPERIMENTS``, whose ``metric`` is the mean over seeds at the last
        epoch (the epochs were chosen in advance) and ``spread`` the standard deviation, missing for
        a single seed; ``best epoch`` is the mean over seeds of the epoch that was best on the test
        examples; the paper's numbers are missing where its text lacks them.

    Raises:
        ValueError: Two runs of one row differ in more than the seed.
    """
    rows = []
    for (title, profile, variant), group in _groups(found):
        paper = EXPERIMENTS[title].paper["native" if variant.startswith("native") else "matrix"]
        metrics = np.array([record["last"][record["metric"]] for record in group])
        seconds = [epoch["seconds"] for record in group for epoch in record["curve"]]
        rows.append(
            {
                "experiment": title,
                "profile": profile,
                "variant": variant,
                "seeds": len(group),
                "name": group[0]["metric"],
                "metric": metrics.mean(),
                "spread": metrics.std(ddof=1) if len(group) > 1 else np.nan,
                "paper": np.nan if paper["metric"] is None else paper["metric"],
                "epochs": group[0]["last"]["epoch"],
                "best epoch": np.mean([record["best"]["epoch"] for record in group]),
                "paper epoch": paper["epoch"],
                "parameters": group[0]["parameters"],
                "nonzeros": group[0]["nonzeros"],
                "seconds an epoch": float(np.median(seconds)),
                "peak MiB": max(record["peak_mebibytes"] for record in group),
                "data": group[0]["data"]["subset"] or "whole",
            }
        )
    return pd.DataFrame(rows)


def _groups(found: list[dict]) -> Iterator[tuple[tuple[str, str, str], list[dict]]]:
    """The records of each experiment, profile and variant, by seed, in the experiments' order."""
    for title, experiment in EXPERIMENTS.items():
        for profile in experiment.profiles:
            for variant in experiment.variants:
                key = title, profile, variant
                group = [
                    record
                    for record in found
                    if (record["experiment"], record["profile"], record["variant"]) == key
                ]
                if group:
                    _check_alike(key, group)
                    yield key, sorted(group, key=lambda record: record["seed"])


def _check_alike(key: tuple[str, str, str], group: list[dict]) -> None:
    first, *others = (
        configuration(record) | {"fingerprint": record["data"]["fingerprint"]} for record in group
    )
    for other in others:
        if differ := differences(first, other):
            runs, differ = " ".join(key), "; ".join(differ)
            raise ValueError(f"the runs of {runs} must differ in the seed alone, but {differ}")


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
        return git("rev-parse", "HEAD") + (DIRTY if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
