"""Patterns filled with SymPy symbols, and exact comparison of what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy

from .pattern import Pattern


def array(name: str, shape: int | Sequence[int]) -> np.ndarray:
    """An array of symbols ``name_i``, ``name_ij`` or, with long indices, ``name_i,j``.

    Args:
        name: LaTeX name of the array.
        shape: Its shape.

    Returns:
        Object array of that shape; entry ``[i, j]`` is ``Symbol("name_ij")``.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    separator = "" if len(shape) == 1 or max(shape, default=0) <= 10 else ","
    result = np.empty(shape, dtype=object)
    for position in np.ndindex(*shape):
        subscript = separator.join(map(str, position))
        result[position] = sympy.Symbol(
            f"{name}_{{{subscript}}}" if len(subscript) > 1 else f"{name}_{subscript}"
        )
    return result


def fill(pattern: Pattern, theta: Sequence) -> sympy.SparseMatrix:
    """The pattern's matrix with SymPy parameters; triples of one cell add up.

    Args:
        pattern: The pattern.
        theta: Its parameters, any nested sequence of ``num_parameters`` expressions or numbers.

    Returns:
        A mutable ``sympy.SparseMatrix`` of the pattern's shape.

    Raises:
        ValueError: ``theta`` has the wrong length.
    """
    theta = np.array(theta, dtype=object).reshape(-1)
    if len(theta) != pattern.num_parameters:
        raise ValueError(
            f"theta must hold num_parameters={pattern.num_parameters} values, got {len(theta)}"
        )
    entries: dict[tuple[int, int], sympy.Expr] = {}
    for row, col, index in zip(
        pattern.row.tolist(), pattern.col.tolist(), pattern.index.tolist(), strict=True
    ):
        entries[row, col] = entries.get((row, col), 0) + sympy.sympify(theta[index])
    return sympy.SparseMatrix(*pattern.shape, entries)


def column(values: np.ndarray) -> sympy.Matrix:
    """A column vector of the row-major flattened values (the book's ``vec``)."""
    return sympy.Matrix(np.asarray(values, dtype=object).reshape(-1, 1).tolist())


def equal(left: Sequence, right: Sequence) -> bool:
    """Whether two arrays or matrices of expressions agree exactly, decided by expansion.

    Args:
        left: Matrix, array or nested sequence of polynomial expressions.
        right: The same, of the same shape.

    Raises:
        ValueError: The shapes differ.
    """
    left, right = (np.array(side, dtype=object) for side in (left, right))
    if left.shape != right.shape:
        raise ValueError(f"shapes must agree, got {left.shape} and {right.shape}")
    return all(sympy.expand(a - b) == 0 for a, b in zip(left.flat, right.flat, strict=True))
