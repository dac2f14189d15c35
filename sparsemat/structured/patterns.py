"""Patterns of the factors of structured matrices, from index arithmetic on their axes."""

from __future__ import annotations

import numpy as np

from ..pattern import Pattern


def einsum_pattern(spec: str, **sizes: int) -> Pattern:
    """The pattern of a parameter tensor that is laid out as a matrix.

    Args:
        spec: ``"axes -> row axes, column axes"``, one letter an axis. A letter that the rows and
            the columns share is a block diagonal; a letter that the parameters lack repeats (ties)
            them. ``"ac -> ab, cb"`` is A x I.
        sizes: The size of each letter.

    Returns:
        Pattern with one triple for each assignment of all letters, in the order of the parameters.

    Raises:
        ValueError: A parameter's axis is neither in the rows nor in the columns.
    """
    parameters, matrix = (side.strip() for side in spec.split("->"))
    rows, cols = (side.strip() for side in matrix.split(","))
    letters = parameters + "".join(dict.fromkeys(c for c in rows + cols if c not in parameters))
    lost = set(parameters) - set(rows + cols)
    if lost:
        raise ValueError(f"axes {sorted(lost)} of {spec!r} are neither in the rows nor the columns")
    grid = dict(zip(letters, np.indices([sizes[c] for c in letters]), strict=True))

    def flat(axes: str) -> tuple[np.ndarray, int]:
        number, total = np.zeros_like(grid[letters[0]]), 1
        for axis in axes:
            number, total = number * sizes[axis] + grid[axis], total * sizes[axis]
        return number.reshape(-1), total

    (row, height), (col, width), (index, count) = map(flat, (rows, cols, parameters))
    return Pattern((height, width), row, col, index, count)
