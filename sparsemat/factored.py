"""The product of two tied Kronecker patterns filled with parameters, from their factors.

``(A1 x A2)(B1 x B2) = A1 B1 x A2 B2`` holds for the places; the value of a cell is the sum over the
pairs of entries that meet there, and in every factor only a few kinds of cells differ in theirs: a
convolution after a convolution has one kind for each offset, and some at the border. So a table
of all kinds is computed, and each cell reads its kind.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
import torch

from . import memory
from .kronecker import KroneckerPattern, aligned, grouped, kron
from .live import Live
from .matrix import SparseMatrix
from .pattern import Pattern
from .products.indices import constant

MOST_WORK = 4  # numbers held at once a cell of the product; else the product row by row is cheaper


class Met(NamedTuple):
    """The product of two factors.

    Attributes:
        cells: Its cells, each with the number of its kind as parameter.
        left: Parameter of the left factor in each pair, int64 ``(kinds, most pairs)``; -1 fills up.
        right: Parameter of the right factor, likewise.
        sizes: Numbers of parameters of both.
    """

    cells: Pattern
    left: np.ndarray
    right: np.ndarray
    sizes: tuple[int, int]


def factored(left: SparseMatrix, right: SparseMatrix) -> SparseMatrix | None:
    """``left @ right`` with a value for every cell, None where the factors do not allow it.

    Raises:
        MemoryError: The values could need more than there is.
    """
    groups = aligned(left.pattern, right.pattern)
    if groups is None or not (left.pattern.tied and right.pattern.tied):
        return None
    met = [_met(*group) for group in groups]
    kinds = kron(*(part.cells for part in met))
    cells = kinds.distinct()
    if _work(met) > MOST_WORK * cells.nnz:
        return None
    (rows, inner), cols = left.shape, right.shape[1]
    what = f"the product of {rows}x{inner} and {inner}x{cols}, {cells.nnz:,} cells,"
    memory.require(what, 48 * cells.nnz)
    kind = constant(kinds.index.copy(), left.device)
    labels = [_labels(m) for m in (left, right)]

    def theta() -> torch.Tensor:
        sides = [
            m.theta if at is None else m.theta.index_select(0, at)
            for m, at in zip((left, right), labels, strict=True)
        ]
        return _table(*sides, met).reshape(-1).index_select(0, kind)

    return SparseMatrix(cells, Live(theta, cells.nnz, *left._kind))


def _work(met: list[Met]) -> int:
    """The largest tensor of :func:`_table`, in numbers."""
    lefts, rights = (prod(part.sizes[k] for part in met[1:]) for k in range(2))
    kinds, pairs = met[0].left.shape
    largest, done = max(kinds * pairs * (lefts + rights), kinds * lefts * rights), kinds
    for part in met[1:]:
        lefts, rights = lefts // part.sizes[0], rights // part.sizes[1]
        largest = max(largest, done * part.left.size * lefts * rights)
        done *= part.left.shape[0]
    return largest


def _met(left: Pattern, right: Pattern) -> Met:
    i, j = left.pairs(right)
    every = Pattern(
        (left.shape[0], right.shape[1]), left.row[i], right.col[j], np.arange(len(i)), len(i)
    )
    cells, cell = every.cells()
    pair = left.index[i] * right.num_parameters + right.index[j]
    order = np.argsort(pair, kind="stable")
    members = grouped(cell[order], cells.nnz)
    table = np.where(members < 0, -1, pair[order][members])
    kinds, kind = np.unique(table, axis=0, return_inverse=True)
    numbers = np.divmod(kinds, right.num_parameters)
    sides = [np.where(kinds < 0, -1, side) for side in numbers]
    named = Pattern(cells.shape, cells.row, cells.col, kind.reshape(-1), len(kinds))
    return Met(named, *sides, (left.num_parameters, right.num_parameters))


def _labels(matrix: SparseMatrix) -> torch.Tensor | None:
    pattern = matrix.pattern
    assert isinstance(pattern, KroneckerPattern)
    return None if pattern.labels is None else constant(pattern.labels.copy(), matrix.device)


def _table(left: torch.Tensor, right: torch.Tensor, met: list[Met]) -> torch.Tensor:
    """The value of every combination of kinds, an axis a factor; 16 bits are rounded once."""
    narrow, wide = left.dtype, torch.promote_types(left.dtype, torch.float32)
    first, *others = met
    chosen = [
        _rows(side.to(wide).reshape(size, -1), at)
        for side, size, at in zip((left, right), first.sizes, first[1:3], strict=True)
    ]
    total = chosen[0].mT @ chosen[1]  # (kinds, the left factors that wait, and the right ones)
    for part in others:
        (p, q), kinds = part.sizes, total.shape[:-2]
        total = total.unflatten(-2, (p, -1)).unflatten(-1, (q, -1))
        total = total.movedim((-4, -2), (-2, -1)).flatten(-2)  # ..., lefts, rights, p * q
        pair = np.where(part.left < 0, p * q, part.left * q + part.right)
        total = torch.cat([total, torch.zeros_like(total[..., :1])], -1)
        total = total.index_select(-1, constant(pair.reshape(-1), total.device))
        total = total.unflatten(-1, pair.shape).sum(-1).movedim(-1, len(kinds))
    return total.flatten().to(narrow)


def _rows(theta: torch.Tensor, at: np.ndarray) -> torch.Tensor:
    """Rows of theta ``(kinds, pairs, rest)``; zeros where none is named."""
    theta = torch.cat([theta, torch.zeros_like(theta[:1])])
    place = constant(np.where(at < 0, theta.shape[0] - 1, at).reshape(-1), theta.device)
    return theta.index_select(0, place).unflatten(0, at.shape)
