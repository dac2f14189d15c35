"""The product of two sparse matrices as one, on torch's product of compressed rows."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from . import memory
from .factored import factored
from .live import Live
from .matrix import SparseMatrix
from .pattern import Pattern
from .products import GatherProduct, choose
from .products.casting import as_given, without_autocast
from .products.indices import constant, csr_tensor, no_transform
from .products.product import is_traced, is_transformed


def multiplied(left: SparseMatrix, right: SparseMatrix) -> SparseMatrix:
    """``left @ right``; see :meth:`SparseMatrix.__matmul__`.

    Raises:
        ValueError: The inner sizes or the types differ.
        MemoryError: The product could need more than there is.
    """
    if left.shape[1] != right.shape[0]:
        raise ValueError(
            f"inner sizes must agree, got {left.shape[1]} columns and {right.shape[0]} rows"
        )
    if left.dtype != right.dtype:
        raise ValueError(f"both must have one type, got {left.dtype} and {right.dtype}")
    if _is_monomial(left.pattern):
        return _absorbed(left, right)
    if _is_monomial(right.pattern):
        return _absorbed(right.T, left.T).T
    return factored(left, right) or _formed(left, right)


def _is_monomial(pattern: Pattern) -> bool:
    """Whether every row and column has at most one entry: a permutation with weights and gaps."""
    factors = getattr(pattern, "factors", (pattern,))
    return all(f.row_counts.max(initial=0) <= 1 for f in factors) and all(
        f.T.row_counts.max(initial=0) <= 1 for f in factors
    )


def _absorbed(monomial: SparseMatrix, matrix: SparseMatrix) -> SparseMatrix:
    """``monomial @ matrix`` with the tying of ``matrix``: its rows moved and weighted."""
    rows, inner = monomial.shape
    row, col, weight = monomial.pattern.by_row()
    target = np.full(inner, -1)
    target[col] = row
    pattern = matrix.pattern
    moved = rows != inner or not np.array_equal(target, np.arange(inner))
    weight_of_row = np.full(inner, -1)
    weight_of_row[col] = weight
    if monomial.num_parameters == 1 and not moved:
        return matrix._with(lambda: monomial.theta * matrix.theta)
    kind = None
    if monomial.num_parameters == 1:
        kind = np.zeros(pattern.num_parameters, dtype=np.int64)
    elif monomial.nnz and not (weight_of_row < 0).any():
        kind = _one_weight_each(pattern, weight_of_row)
    if kind is None:  # a parameter meets several weights: one for each
        kept = weight_of_row[pattern.row] >= 0
        both = weight_of_row[pattern.row] * pattern.num_parameters + pattern.index
        pairs, index = np.unique(both[kept], return_inverse=True)
        kind, source = np.divmod(pairs, max(pattern.num_parameters, 1))
        sides = pattern.row[kept], pattern.col[kept], index
        pattern = Pattern(pattern.shape, *sides, len(pairs))
        source = constant(source, matrix.device)
    else:
        source = None
    if moved:
        kept = target[pattern.row] >= 0
        sides = target[pattern.row[kept]], pattern.col[kept], pattern.index[kept]
        pattern = Pattern((rows, pattern.shape[1]), *sides, pattern.num_parameters)
    kind = constant(kind, matrix.device)

    def theta() -> torch.Tensor:
        chosen = matrix.theta if source is None else matrix.theta.index_select(0, source)
        return monomial.theta.index_select(0, kind) * chosen

    return SparseMatrix(pattern, Live(theta, pattern.num_parameters, *matrix._kind))


def _one_weight_each(pattern: Pattern, weight_of_row: np.ndarray) -> np.ndarray | None:
    """The weight that every parameter meets, or None where one meets two."""
    kind = np.full(pattern.num_parameters, -1)
    product = choose(pattern)
    if isinstance(product, GatherProduct):  # a few rows of tables for all triples
        weights = weight_of_row[product.tables.rows()]
        if not (weights == weights[..., :1]).all():
            return None
        params = product.tables.params(slice(0, product.sizes[0]))
        weights = np.broadcast_to(weights[..., :1], params.shape)
        weights, params = weights[params >= 0], params[params >= 0]
    else:
        weights, params = weight_of_row[pattern.row], pattern.index
    kind[params] = weights
    return kind.clip(0) if np.array_equal(kind[params], weights) else None


def _formed(left: SparseMatrix, right: SparseMatrix) -> SparseMatrix:
    """The product cell by cell, each with its own value."""
    a, b = _Cells(left), _Cells(right)
    _require_memory(a, b)
    structure = _Structure(a.pattern, b.pattern)
    cells = structure.pattern.nnz
    theta = Live(lambda: structure.values(a.values(), b.values()), cells, *left._kind)
    return SparseMatrix(structure.pattern, theta)


class _Cells:
    """A matrix with every cell stored once, in row-major order."""

    def __init__(self, matrix: SparseMatrix) -> None:
        self.matrix, self.cell = matrix, None
        row, col, index = matrix.pattern.by_row()
        if matrix.pattern.has_duplicates:
            self.pattern, self.cell = matrix.pattern.cells()
            return
        self.pattern = Pattern(matrix.shape, row, col, np.arange(len(row)), len(row))
        self.index = constant(np.array(index), matrix.device)

    def values(self) -> torch.Tensor:
        if self.cell is not None:
            return self.matrix._summed(self.cell, self.pattern.nnz)
        return self.matrix.theta.index_select(0, self.index)


def _require_memory(a: _Cells, b: _Cells) -> None:
    """A row has at most as many cells as pairs of entries that meet, and as there are columns."""
    meets = b.pattern.row_counts[a.pattern.col]
    pairs = np.bincount(a.pattern.row, weights=meets, minlength=a.pattern.shape[0])
    cells = int(np.minimum(pairs, b.pattern.shape[1]).sum())
    rows, cols = a.pattern.shape[0], b.pattern.shape[1]
    what = f"the product {rows}x{cols} of two sparse matrices, of up to {cells:,} cells,"
    memory.require(what, 48 * cells)


class _Structure:
    """Where the product of two patterns of distinct cells has cells, and its values.

    Args:
        left: Pattern in row-major order, each cell once.
        right: The same.
    """

    def __init__(self, left: Pattern, right: Pattern) -> None:
        self.left, self.right = left, right
        self._orders: dict[torch.device, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._backward: dict[str, tuple[_Structure, np.ndarray]] = {}
        # made in a transform, its tensors would be wrapped, and torch has no wrapped rows
        with no_transform(), without_autocast("cpu"):
            self.pattern = self._find()

    def _find(self) -> Pattern:
        if not _has_rows(torch.device("cpu")):
            return self.left @ self.right
        ones = (torch.ones(side.nnz, device="cpu") for side in (self.left, self.right))
        product = self._multiply(*ones)
        row = np.repeat(np.arange(product.shape[0]), product.crow_indices().diff().numpy())
        col = product.col_indices()
        order = self._order(row, col)
        col = (col if order is None else col[order]).numpy()
        return Pattern(tuple(product.shape), row, col, np.arange(len(row)), len(row))

    def _order(self, row: np.ndarray, col: torch.Tensor) -> torch.Tensor | None:
        """What sorts the columns in each row, which torch leaves unsorted; None if nothing does."""
        known = self._orders.get(col.device)
        if known is None or not torch.equal(known[0], col):
            cols, order = col.cpu().numpy(), None
            if ((np.diff(row) == 0) & (np.diff(cols) < 0)).any():
                order = constant(np.lexsort((cols, row)), col.device)
            known = self._orders[col.device] = col, order
        return known[1]

    def values(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One value a cell of ``pattern``, differentiable to any order."""
        if is_transformed() or is_traced(left, right):
            return self._plain(left, right)
        return _Values.apply(left, right, self)

    def numbers(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The same, without autograd."""
        if not _has_rows(left.device):
            return self._plain(left, right)
        wide = torch.promote_types(left.dtype, torch.float32)
        product = self._multiply(left.to(wide), right.to(wide))
        # a copy: the values of a product are a view of it, which has no second derivative
        values = product.values().to(left.dtype, copy=True)
        order = self._order(self.pattern.row, product.col_indices())
        return values if order is None else values.index_select(0, order)

    def _multiply(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        a, b = (
            csr_tensor(*_compressed(pattern, values.device), values.resolve_conj(), pattern.shape)
            for pattern, values in ((self.left, left), (self.right, right))
        )
        return a @ b

    def _plain(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The same by plain operations, which torch can differentiate, batch and trace."""
        wide = torch.promote_types(left.dtype, torch.float32)
        i, j, cell = (constant(array, left.device) for array in self._pairs)
        terms = left.to(wide).index_select(0, i) * right.to(wide).index_select(0, j)
        return terms.new_zeros(self.pattern.nnz).index_add(0, cell, terms).to(left.dtype)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every pair of cells that meet, and the cell of ``pattern`` to which it adds."""
        pairs = int(self.right.row_counts[self.left.col].sum())
        memory.require(f"a product of two sparse matrices, pair by pair ({pairs:,})", 48 * pairs)
        i, j = self.left.pairs(self.right)
        return i, j, _places(self.pattern, self.left.row[i], self.right.col[j])

    def of_left(self) -> tuple[_Structure, np.ndarray]:
        """``grad @ right^T``, and where in it the cells of ``left`` are."""
        return self._made("left", lambda: _Structure(self.pattern, _sorted_transpose(self.right)))

    def of_right(self) -> tuple[_Structure, np.ndarray]:
        """``left^T @ grad``, and where in it the cells of ``right`` are."""
        return self._made("right", lambda: _Structure(_sorted_transpose(self.left), self.pattern))

    def _made(self, side: str, make) -> tuple[_Structure, np.ndarray]:
        if side not in self._backward:
            structure, wanted = make(), getattr(self, side)
            self._backward[side] = structure, _places(structure.pattern, wanted.row, wanted.col)
        return self._backward[side]


class _Values(torch.autograd.Function):
    """Values of a product of two sparse matrices; each gradient is such a product, sampled."""

    @staticmethod
    @as_given
    def forward(left, right, structure):
        return structure.numbers(left, right)

    @staticmethod
    def setup_context(ctx, inputs, output):
        left, right, ctx.structure = inputs
        ctx.save_for_backward(left, right)
        ctx.save_for_forward(left, right)

    @staticmethod
    @as_given
    def backward(ctx, grad):
        left, right = ctx.saved_tensors
        structure, grads = ctx.structure, [None, None, None]
        if ctx.needs_input_grad[0]:
            product, at = structure.of_left()
            turned = right.conj().index_select(0, _transpose_order(structure.right, right.device))
            grads[0] = _sampled(product.values(grad, turned), at)
        if ctx.needs_input_grad[1]:
            product, at = structure.of_right()
            turned = left.conj().index_select(0, _transpose_order(structure.left, left.device))
            grads[1] = _sampled(product.values(turned, grad), at)
        return tuple(grads)

    @staticmethod
    def jvp(ctx, d_left, d_right, _):
        left, right = ctx.saved_tensors
        parts = []
        if d_left is not None:
            parts.append(ctx.structure.values(d_left, right))
        if d_right is not None:
            parts.append(ctx.structure.values(left, d_right))
        return sum(parts[1:], parts[0])


def _sampled(values: torch.Tensor, at: np.ndarray) -> torch.Tensor:
    """Values at these places; one past the end reads zero, as no pair meets in such a cell."""
    padded = torch.cat([values, values.new_zeros(1)])
    return padded.index_select(0, constant(at, values.device))


def _places(cells: Pattern, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Where these cells are among others in row-major order; ``cells.nnz`` if they are not."""
    cols = np.unique(cells.col)  # numbered anew: a product of the sizes could overflow
    key, wanted = (
        row * (len(cols) + 1) + np.searchsorted(cols, col)
        for row, col in ((cells.row, cells.col), (row, col))
    )
    at = np.searchsorted(key, wanted)
    found = np.append(cells.row, -1)[at] == row
    found &= np.append(cells.col, -1)[at] == col
    return np.where(found, at, cells.nnz)


def _has_rows(device: torch.device) -> bool:
    """Whether torch has a product of compressed rows there."""
    return device.type != "cpu" or torch.backends.mkl.is_available()


def _compressed(pattern: Pattern, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    crow = np.searchsorted(pattern.row, np.arange(pattern.shape[0] + 1))
    return constant(crow, device), constant(np.array(pattern.col), device)


def _sorted_transpose(pattern: Pattern) -> Pattern:
    order = np.lexsort((pattern.row, pattern.col))
    row, col = pattern.col[order], pattern.row[order]
    return Pattern(pattern.shape[::-1], row, col, np.arange(len(row)), len(row))


def _transpose_order(pattern: Pattern, device: torch.device) -> torch.Tensor:
    return constant(np.lexsort((pattern.row, pattern.col)), device)
