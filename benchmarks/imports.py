"""What `import sparsemat` adds to `import torch`, each in a fresh interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys

GOAL_SECONDS = 0.3
ADDED = (
    "import time, torch; s = time.perf_counter(); import sparsemat; print(time.perf_counter() - s)"
)
ALONE = "import time; s = time.perf_counter(); import torch; print(time.perf_counter() - s)"


def seconds(program: str, rounds: int = 7) -> float:
    """Median over fresh interpreters of the number that a program prints."""
    command = [sys.executable, "-c", program]
    return statistics.median(
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(rounds)
    )
