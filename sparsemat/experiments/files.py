"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUNS, RESULTS = Path("runs"), Path("results")  # checkpoints and quick records; full records


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends without an exception.

    A process killed at any moment leaves the old file or the new one, never half of one.

    Args:
        path: The file to write or replace; its folder is made.

    Yields:
        A path in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict | list) -> Path:
    """Replace a file by numbers and texts that a person can read in a diff; its path.

    Args:
        path: The file; its folder is made.
        content: What JSON can hold.
    """
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
    return path
