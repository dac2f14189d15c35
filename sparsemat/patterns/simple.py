"""Patterns of one line: dense, diagonal, masks, permutations, selections, lags. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arguments import as_array, as_size
from ..kronecker import kron
from ..pattern import Pattern


def dense_pattern(rows: int, cols: int) -> Pattern:
    """The pattern of a dense matrix: a parameter of its own for every cell, row-major.

    It is held as a column times a row, so that its size does not matter.

    Raises:
        ValueError: A size is below 0.
    """
    rows, cols = as_size("rows", rows, 0), as_size("cols", cols, 0)
    return kron(_column(rows), _column(cols).T)


def identity_pattern(size: int) -> Pattern:
    """The identity with one parameter, to be filled with 1 (or with any scalar).

    Raises:
        ValueError: ``size`` is below 0.
    """
    at = np.arange(as_size("size", size, 0))
    return Pattern((len(at), len(at)), at, at, np.zeros_like(at), 1)


def diagonal_pattern(size: int) -> Pattern:
    """The diagonal with a parameter an entry.

    Raises:
        ValueError: ``size`` is below 0.
    """
    at = np.arange(as_size("size", size, 0))
    return Pattern((len(at), len(at)), at, at, at, len(at))


def shift_pattern(size: int, by: int = 1) -> Pattern:
    """The matrix that delays a series: row t reads entry ``t - by``, rows without one are empty.

    Args:
        size: Rows and columns.
        by: Steps of delay; negative for an advance.

    Returns:
        Pattern of shape ``(size, size)`` with one parameter, to be filled with 1.

    Raises:
        ValueError: ``size`` is below 0.
    """
    row = np.arange(as_size("size", size, 0))
    by = as_size("by", by, None)
    row = row[(row - by >= 0) & (row - by < size)]
    return zero_one((size, size), row, row - by)


def selection_pattern(cols: Sequence[int], size: int) -> Pattern:
    """The matrix that reads one entry a row: filled with 1, ``S @ x`` is ``x[cols]``.

    Args:
        cols: The entry read by each row, integers of shape ``(rows,)``; -1 for an empty row.
        size: Columns.

    Returns:
        Pattern of shape ``(rows, size)`` with one parameter.

    Raises:
        ValueError: ``cols`` is not one-dimensional, not integer, or out of range.
    """
    cols, size = as_array("cols", cols), as_size("size", size, 0)
    row = np.flatnonzero(cols != -1)
    return zero_one((len(cols), size), row, cols[row])


def mask_pattern(mask: np.ndarray) -> Pattern:
    """The pattern of a mask: a parameter of its own for every cell that is kept.

    Args:
        mask: Booleans, an array or tensor of shape ``(rows, cols)``; True where the matrix may be
            nonzero.

    Returns:
        Pattern of shape ``(rows, cols)`` whose parameters are the kept cells in row-major order.

    Raises:
        ValueError: The mask has no two axes or is not boolean.
    """
    mask = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(
            f"mask must be booleans of shape (rows, cols), got {mask.dtype} of shape {mask.shape}"
        )
    row, col = mask.nonzero()
    return Pattern(mask.shape, row, col, np.arange(len(row)), len(row))


def permutation_pattern(order: Sequence[int]) -> Pattern:
    """The permutation matrix P of an order: filled with 1, ``P @ x`` is ``x[order]``.

    Args:
        order: A permutation of ``0..n - 1``.

    Returns:
        Pattern of shape ``(n, n)`` with one nonzero a row and a column, and one parameter.

    Raises:
        ValueError: ``order`` is not a permutation.
    """
    order = as_array("order", order)
    size = len(order)
    return zero_one((size, size), np.arange(size), np.arange(size)).permute(rows=order)


def one_hot_pattern(tokens: Sequence[int], vocabulary_size: int) -> Pattern:
    """The matrix that looks tokens up: row t reads row ``tokens[t]`` of the embedding.

    Args:
        tokens: Integers of shape ``(T,)`` in ``0..vocabulary_size - 1``, an array or a tensor.
        vocabulary_size: Number V of tokens.

    Returns:
        Pattern of shape ``(T, V)`` with one nonzero a row and one parameter, to be filled with 1.

    Raises:
        ValueError: ``tokens`` is not one-dimensional, not integer, or lies outside the vocabulary.
    """
    col = as_array("tokens", tokens)
    vocabulary_size = as_size("vocabulary_size", vocabulary_size, 0)
    if not (col.size == 0 or np.issubdtype(col.dtype, np.integer)):
        raise ValueError(f"tokens must be integers of shape (T,), got {col.dtype}")
    if col.size and (col.min() < 0 or col.max() >= vocabulary_size):
        raise ValueError(
            f"tokens must lie in 0..{vocabulary_size - 1}, got {col.min()}..{col.max()}"
        )
    return zero_one((len(col), vocabulary_size), np.arange(len(col)), col)


def lag_pattern(steps: int, window: int) -> Pattern:
    """The matrix that lays out every window of a series, one after the other.

    Filled with 1 and applied to a series x it is ``x.unfold(0, window, 1)``, flattened: row
    ``k * window + i`` reads value ``k + i``.

    Args:
        steps: Length T of the series.
        window: Length w of a window, at most T.

    Returns:
        Pattern of shape ``((T - w + 1) * w, T)`` with one nonzero a row and one parameter.

    Raises:
        ValueError: ``window`` is not in ``1..steps``.

    Source: chapter "Data2Matrix".
    """
    steps, window = as_size("steps", steps, 0), as_size("window", window, 0)
    if not 1 <= window <= steps:
        raise ValueError(f"window must lie in 1..steps, got window={window} and steps={steps}")
    col = np.add.outer(np.arange(steps - window + 1), np.arange(window)).reshape(-1)
    return zero_one((len(col), steps), np.arange(len(col)), col)


def zero_one(shape: tuple[int, int], row: np.ndarray, col: np.ndarray) -> Pattern:
    """The pattern of a matrix of zeros and ones: all entries share one parameter, which is 1."""
    return Pattern(shape, row, col, np.zeros(len(row), dtype=np.int64), 1)


def _column(rows: int) -> Pattern:
    at = np.arange(rows)
    return Pattern((rows, 1), at, np.zeros_like(at), at, rows)
