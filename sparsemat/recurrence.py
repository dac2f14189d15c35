"""Recurrence: the two operators of its implicit form, and the matrix layer."""

from __future__ import annotations

import numpy as np

from .pattern import Pattern


def recurrence_patterns(steps: int, input_size: int, hidden_size: int) -> tuple[Pattern, Pattern]:
    r"""The patterns of N and B in the linear recurrence $h = N h + B x + c$.

    Both are time-major: entry ``t * hidden_size + i`` of h is unit i at step t. Row ``(t, i)`` of N
    holds ``weight_hh[i, j]`` in column ``(t - 1, j)``, row ``(t, i)`` of B holds ``weight_ih[i, j]``
    in column ``(t, j)``. N is strictly block lower triangular, so $(I - N)^{-1} B$ exists; it is the
    explicit matrix, whose entries are polynomials in the parameters and no pattern.

    Args:
        steps: Length T of the sequence.
        input_size: Features d of an input.
        hidden_size: Units h of the hidden state.

    Returns:
        N of shape ``(T h, T h)`` with ``h * h`` parameters (the flattened ``weight_hh``) and B of
        shape ``(T h, T d)`` with ``h * d`` parameters (the flattened ``weight_ih``).

    Raises:
        ValueError: A size is below 1.

    Source: paper 4.3 and A.2, corrected in the chapter "Recurrence".
    """
    for name, value in (("steps", steps), ("input_size", input_size), ("hidden_size", hidden_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    hidden = _block_diagonal(steps - 1, hidden_size, hidden_size)
    shape = (steps * hidden_size, steps * hidden_size)
    row, col, index = hidden
    n = Pattern(shape, row + hidden_size, col, index, hidden_size**2)
    shape = (steps * hidden_size, steps * input_size)
    b = Pattern(shape, *_block_diagonal(steps, hidden_size, input_size), hidden_size * input_size)
    return n, b


def _block_diagonal(blocks: int, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t, i, j = np.indices((blocks, rows, cols)).reshape(3, -1)
    return t * rows + i, t * cols + j, i * cols + j
