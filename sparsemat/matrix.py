"""The matrix of a pattern with values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from .algebra import Matrix, as_array, as_dtype, as_scalar, require_memory
from .live import Live
from .pattern import Pattern
from .products import Product, choose
from .products.indices import constant, csr_tensor

if TYPE_CHECKING:
    import scipy.sparse


class SparseMatrix(Matrix):
    r"""The matrix $W(\theta)$ of a pattern: ``W[row[k], col[k]] += theta[index[k]]``.

    Products and conversions are differentiable with respect to ``theta``, but for ``to_scipy``.
    Where ``theta`` is a tensor, the matrix reads it at each use: after an optimiser step it is the
    matrix of the new parameters. :meth:`detach` gives the one of now, for good.

    Args:
        pattern: Where the matrix may be nonzero and which parameter sits there.
        theta: The parameters: a floating-point or complex tensor (or array) of any shape with
            ``pattern.num_parameters`` entries, or such a tensor that is computed at each use.

    Raises:
        TypeError: ``pattern`` is no pattern, or ``theta`` no numbers.
        ValueError: ``theta`` has the wrong number of entries.
    """

    def __init__(self, pattern: Pattern, theta: torch.Tensor | Live) -> None:
        if not isinstance(pattern, Pattern):
            raise TypeError(f"pattern must be a Pattern, got {type(pattern).__name__}")
        self.pattern = pattern
        self._theta = theta if isinstance(theta, Live) else _as_numbers(theta)
        number = pattern.num_parameters
        if not isinstance(theta, Live) and self._theta.numel() != number:
            raise ValueError(
                f"theta must hold num_parameters={number} values, "
                f"got {self._theta.numel()} (shape {tuple(self._theta.shape)})"
            )

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"SparseMatrix({rows}x{cols}, nnz={self.nnz}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict) -> Self:
        return self._copy()

    def __reduce__(self) -> tuple:
        return SparseMatrix, (self.pattern, self._copy().theta)

    @property
    def theta(self) -> torch.Tensor:
        """The parameters, shape ``(num_parameters,)``, as they are now."""
        if isinstance(self._theta, Live):
            return self._theta.value()
        # not before: the view of a parameter would keep the numbers it had before its data moved
        return self._theta if self._theta.ndim == 1 else self._theta.reshape(-1)

    @property
    def _kind(self) -> tuple[torch.dtype, torch.device]:
        theta = self._theta
        return theta.kind if isinstance(theta, Live) else (theta.dtype, theta.device)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.pattern.shape

    @property
    def nnz(self) -> int:
        """Number of stored triples; duplicates of a cell count each."""
        return self.pattern.nnz

    @property
    def num_parameters(self) -> int:
        """Number of parameters; tied entries share one."""
        return self.pattern.num_parameters

    @property
    def dtype(self) -> torch.dtype:
        """The type of the entries, floating-point or complex."""
        return self._kind[0]

    @property
    def device(self) -> torch.device:
        """Where the entries live."""
        return self._kind[1]

    @property
    def requires_grad(self) -> bool:
        """Whether gradients reach the parameters."""
        return self.theta.requires_grad

    @property
    def product(self) -> Product:
        """The product that multiplies by the matrix; its repr says which it is and why."""
        return choose(self.pattern)

    @property
    def values(self) -> torch.Tensor:
        """One value a triple of the pattern, shape ``(nnz,)``; tied triples share a value."""
        return self.theta.index_select(0, self._index("index"))

    @property
    def T(self) -> SparseMatrix:
        """The transposed matrix, with the same parameters."""
        return SparseMatrix(self.pattern.T, self._theta)

    def conj(self) -> SparseMatrix:
        """The matrix of conjugate entries; itself where they are real."""
        if not self.dtype.is_complex:
            return self
        return self._with(lambda: self.theta.conj())

    def to(self, *args, **kwargs) -> SparseMatrix:
        """The matrix with ``theta.to(...)``: another dtype or device.

        One that is computed at each use, as by ``to_matrix``, stays so and follows its sources.

        Raises:
            ValueError: The type holds no fractions.
        """
        theta = self.theta.to(*args, **kwargs)
        as_dtype(theta.dtype)
        if isinstance(self._theta, Live):
            theta = Live(
                lambda: self.theta.to(*args, **kwargs), len(theta), theta.dtype, theta.device
            )
        return SparseMatrix(self.pattern, theta)

    def detach(self) -> SparseMatrix:
        """The matrix of the parameters of now: later changes and gradients do not reach it."""
        return SparseMatrix(self.pattern, self.theta.detach().clone())

    def coalesce(self) -> SparseMatrix:
        """The same matrix with every cell stored once, in row-major order, untied."""
        cells, cell = self.pattern.cells()
        theta = Live(lambda: self._summed(cell, cells.nnz), cells.nnz, *self._kind)
        return SparseMatrix(cells, theta)

    def to_dense(self) -> torch.Tensor:
        """The dense tensor of shape ``shape``; entries of a cell are summed before rounding.

        Raises:
            MemoryError: It would not fit; the message says how much it takes.
        """
        rows, cols = self.shape
        require_memory(f"a dense {rows}x{cols} matrix", rows * cols, self.dtype, self.device)
        cell = self.pattern.row * cols + self.pattern.col
        return self._summed(cell, rows * cols).view(rows, cols)

    def to_csr(self) -> torch.Tensor:
        """A ``torch.sparse_csr`` tensor; duplicates are summed."""
        matrix = self.coalesce()
        crow = np.searchsorted(matrix.pattern.row, np.arange(self.shape[0] + 1))
        crow = constant(crow, self.device)
        return csr_tensor(crow, matrix._index("col"), matrix.values, self.shape)

    def to_coo(self) -> torch.Tensor:
        """A coalesced ``torch.sparse_coo`` tensor; duplicates are summed."""
        matrix = self.coalesce()
        at = torch.stack([matrix._index("row"), matrix._index("col")])
        return torch.sparse_coo_tensor(
            *(at, matrix.values, self.shape),
            device=self.device,
            is_coalesced=True,
            check_invariants=False,
        )

    def to_scipy(self) -> scipy.sparse.csr_array:
        """A ``scipy.sparse.csr_array`` on the CPU; duplicates are summed. Needs SciPy.

        SciPy has no types of 16 bits: they become float32.
        """
        import scipy.sparse

        entries = as_array(self.values), (self.pattern.row, self.pattern.col)
        return scipy.sparse.coo_array(entries, shape=self.shape).tocsr()

    def __getitem__(self, rows: slice) -> SparseMatrix:
        """``W[start:stop]``: some of the rows, with all the parameters."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"W[start:stop] takes a slice of rows without a step, got {rows!r}")
        start, stop, _ = rows.indices(self.shape[0])
        return SparseMatrix(self.pattern.rows(start, max(start, stop)), self._theta)

    def __matmul__(self, other: torch.Tensor | Matrix) -> torch.Tensor | Matrix:
        """``W @ x`` for ``x`` of shape ``(cols,)`` or ``(cols, n)``, or the product with a matrix.

        The product of two sparse matrices is one whose cells each have their own value; where one
        of them is a permutation, a selection of rows, a multiple of the identity or diagonal, the
        other keeps its tying.

        Raises:
            TypeError: ``other`` is neither a tensor nor a matrix.
            ValueError: The inner sizes or the types differ, or ``x`` has another rank.
            MemoryError: The product could need more than there is; a :class:`sparsemat.Chain`
                multiplies without being formed.
        """
        if isinstance(other, SparseMatrix):
            from .multiply import multiplied

            return multiplied(self, other)
        return super().__matmul__(other)

    def __add__(self, other: Matrix) -> Matrix:
        """The sum; of two sparse matrices a sparse one with the parameters of both."""
        if not isinstance(other, SparseMatrix):
            return super().__add__(other)
        if self.shape != other.shape or self.dtype != other.dtype:
            raise ValueError(
                "a sum needs one shape and type, got "
                f"{self.shape} {self.dtype} and {other.shape} {other.dtype}"
            )
        mine, theirs = self.pattern, other.pattern
        if mine is theirs:
            return self._with(lambda: self.theta + other.theta)
        pattern = Pattern(
            self.shape,
            np.concatenate([mine.row, theirs.row]),
            np.concatenate([mine.col, theirs.col]),
            np.concatenate([mine.index, theirs.index + mine.num_parameters]),
            mine.num_parameters + theirs.num_parameters,
        )
        return SparseMatrix(
            pattern,
            Live(lambda: torch.cat([self.theta, other.theta]), pattern.num_parameters, *self._kind),
        )

    def __mul__(self, scalar: float | torch.Tensor) -> SparseMatrix:
        """A number times the matrix: the same pattern."""
        scalar = as_scalar(self, scalar)
        return NotImplemented if scalar is None else self._with(lambda: self.theta * scalar)

    def __truediv__(self, scalar: float | torch.Tensor) -> SparseMatrix:
        """The matrix divided by a number: the same pattern."""
        scalar = as_scalar(self, scalar)
        return NotImplemented if scalar is None else self._with(lambda: self.theta / scalar)

    def _with(self, theta: Callable[[], torch.Tensor]) -> SparseMatrix:
        return SparseMatrix(self.pattern, Live(theta, self.num_parameters, *self._kind))

    def _copy(self) -> SparseMatrix:
        """The matrix of now, with parameters of its own that take gradients if these do."""
        theta = self.theta.detach().clone().requires_grad_(self.requires_grad)
        return SparseMatrix(self.pattern, theta)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(self.theta, x)

    def _summed(self, cell: np.ndarray, cells: int) -> torch.Tensor:
        values = self.values
        wide = torch.promote_types(values.dtype, torch.float32)
        total = values.new_zeros(cells, dtype=wide)
        return total.index_add(0, constant(cell, self.device), values.to(wide)).to(values.dtype)

    def _index(self, name: str) -> torch.Tensor:
        return constant(getattr(self.pattern, name).copy(), self.device)


def following(pattern: Pattern, read: Callable[[], torch.Tensor]) -> SparseMatrix:
    """The matrix whose parameters are read at each use, whatever became of them.

    Args:
        pattern: Where the matrix may be nonzero.
        read: Function without arguments that returns the parameters, of any shape.
    """
    now = pattern.fill(read())  # refuses another number of them
    return SparseMatrix(pattern, Live(read, pattern.num_parameters, now.dtype, now.device))


def _as_numbers(theta: torch.Tensor) -> torch.Tensor:
    if theta is None or isinstance(theta, (str, bytes, dict, set)):
        raise TypeError(f"theta must be a tensor or numbers, got {type(theta).__name__}")
    try:  # a tensor stays where it is, whatever the default device
        theta = theta if torch.is_tensor(theta) else torch.as_tensor(theta)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"theta must be a tensor or numbers, got {type(theta).__name__}") from error
    if not (theta.is_floating_point() or theta.is_complex()):
        theta = theta.to(torch.get_default_dtype())
    return theta
