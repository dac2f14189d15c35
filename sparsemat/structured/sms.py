"""Matrices of fractions in the sparse text format in which schemes of products are published."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def read_sms(path: str | Path) -> np.ndarray:
    """A matrix of fractions from a file in the SMS format.

    The first line gives the numbers of rows and columns and a letter, each further one a row and a
    column, both from 1 on, and an entry like ``-1/8``; ``0 0 0`` ends the matrix. Lines that begin
    with ``#`` and empty ones say nothing.

    Args:
        path: The file.

    Returns:
        The numbers as ``fractions.Fraction``, zeros included, in an array of objects.

    Raises:
        ValueError: The file has another form, an entry lies outside or comes twice, or the end is
            missing or not the last line; the message begins with the path and the line's number.
    """
    lines = [
        (number, line.split())
        for number, line in enumerate(Path(path).read_text().splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise ValueError(f"{path}: a matrix must begin with its rows and columns, got nothing")
    matrix = None
    for at, (number, words) in enumerate(lines):
        where = f"{path}, line {number}"
        if len(words) != 3:
            raise ValueError(f"{where}: a line must have 3 words, got {len(words)}")
        try:
            i, j = int(words[0]), int(words[1])
            if matrix is None:
                matrix, seen = np.full((i, j), Fraction(0), dtype=object), set()
                continue
            value = Fraction(words[2])
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(
                f"{where}: a line must be a row, a column and an entry, got {' '.join(words)!r}"
            ) from error
        if (i, j) == (0, 0):
            if words[2] != "0":
                raise ValueError(f"{where}: the end must be 0 0 0, got {' '.join(words)!r}")
            if lines[at + 1 :]:
                after, more = lines[at + 1]
                raise ValueError(
                    f"{path}, line {after}: nothing must follow 0 0 0, got {' '.join(more)!r}"
                )
            return matrix
        rows, cols = matrix.shape
        if not (1 <= i <= rows and 1 <= j <= cols):
            raise ValueError(f"{where}: an entry must lie in {rows}x{cols}, got ({i}, {j})")
        if (i, j) in seen:
            raise ValueError(f"{where}: an entry must come once, got ({i}, {j}) again")
        seen.add((i, j))
        matrix[i - 1, j - 1] = value
    raise ValueError(f"{path}: a matrix must end with 0 0 0, got {' '.join(lines[-1][1])!r}")
