"""How long each chapter took when it was executed, on what: ``results/chapters.json``."""

from __future__ import annotations

import json
from pathlib import Path


def read(root: Path) -> dict[str, dict]:
    """Seconds, machine, versions, commit and date of each chapter that was timed, by name."""
    path = root / "results" / "chapters.json"
    return json.loads(path.read_text()) if path.exists() else {}


def record(root: Path, name: str, seconds: float) -> None:
    """Put the time of one chapter beside those of the others."""
    import torch  # seconds of imports, which nothing else in tools/ needs

    from sparsemat.experiments.files import write_json
    from sparsemat.experiments.provenance import environment

    entry = {"seconds": round(seconds, 1), **environment(torch.device("cpu"))}
    times = read(root) | {name: entry}
    write_json(root / "results" / "chapters.json", dict(sorted(times.items())))
