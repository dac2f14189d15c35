"""Where a record comes from: the machine, the versions, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import sparsemat

DIRTY = "-dirty"  # ends the commit where the code was not the commit's
PACKAGE = Path(sparsemat.__file__).parent


def environment(device: torch.device) -> dict:
    """Where a run happens: device, versions, and the commit of the code if it is in a checkout."""
    return {
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
            "threads": torch.get_num_threads(),
        },
        "versions": {
            "python": platform.python_version(),
            "sparsemat": sparsemat.__version__,
            "torch": torch.__version__,
            "numpy": version("numpy"),
        },
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor() -> str:
    """The name of the processor, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The checkout's commit, with ``-dirty`` where a tracked file of the package was changed."""
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")  # not a copy in somebody's environment
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return _git("rev-parse", "HEAD") + (DIRTY if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def changed_since(commit: str | None) -> list[str] | None:
    """The files of the package that are not as they were at a commit.

    Args:
        commit: Of a record, as :func:`commit` gives it.

    Returns:
        Their paths in the package, sorted; None where it cannot be told: without a commit, or in a
        checkout without its history.
    """
    if commit is None:
        return None
    try:
        found = _git("diff", "--name-only", "--relative", commit.removesuffix(DIRTY), "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return sorted(found.splitlines())


def _git(*command: str) -> str:
    return subprocess.run(
        ["git", "-C", str(PACKAGE), *command], capture_output=True, text=True, check=True
    ).stdout.strip()
