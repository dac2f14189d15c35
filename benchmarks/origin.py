"""What a record of benchmarks says of its origin: machine, versions, commit, date and load."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

from sparsemat.experiments import provenance

RECORDS = Path(__file__).parent.parent / "results" / "benchmarks"


def place_of(threads: int) -> dict:
    """The machine and the versions: a record has one of each."""
    return {
        "machine": {
            "processor": provenance.processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def started(rounds: int) -> dict:
    """What a record says of each area that is measured now."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": provenance.commit(),
        "rounds": rounds,
        "load": [os.getloadavg()[1]],  # of the last five minutes; that at the end follows
    }
