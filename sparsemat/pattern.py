"""Where a weight matrix may be nonzero, and which parameter sits there. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .arguments import as_array, as_size

if TYPE_CHECKING:
    import sympy
    import torch

    from .matrix import SparseMatrix


@dataclass(frozen=True, eq=False, repr=False)
class Pattern:
    r"""A sparsity pattern whose entries share parameters.

    Filled with parameters $\theta$ it is the matrix

    $$W(\theta) = \sum_k \theta_{\mathrm{index}_k} E_{\mathrm{row}_k, \mathrm{col}_k},$$

    where $E_{rc}$ is zero but for a one at $(r, c)$. Triples that name the same cell accumulate;
    triples that share an index are tied. Derived in the chapter "Sparse matrices and patterns".

    Args:
        shape: ``(rows, columns)`` of the matrix.
        row: Row of each triple, integers of shape ``(nnz,)``.
        col: Column of each triple, integers of shape ``(nnz,)``.
        index: Parameter of each triple, integers of shape ``(nnz,)``.
        num_parameters: Length of $\theta$; parameters that no triple names are allowed.

    Raises:
        ValueError: The arrays are not one-dimensional and of one length, are not integers, or an
            entry lies outside ``shape`` or ``num_parameters``; a size is negative.
    """

    shape: tuple[int, int]
    row: np.ndarray
    col: np.ndarray
    index: np.ndarray
    num_parameters: int

    def __post_init__(self) -> None:
        try:
            rows, cols = self.shape
            shape = as_size("shape", rows, 0), as_size("shape", cols, 0)
        except (TypeError, ValueError) as error:
            message = f"shape must be two non-negative sizes, got {self.shape!r}"
            raise ValueError(message) from error
        object.__setattr__(self, "shape", shape)
        number = as_size("num_parameters", self.num_parameters, 0)
        object.__setattr__(self, "num_parameters", number)
        bounds = {"row": shape[0], "col": shape[1], "index": self.num_parameters}
        for name, bound in bounds.items():
            object.__setattr__(self, name, _index_array(name, getattr(self, name), bound))
        lengths = len(self.row), len(self.col), len(self.index)
        if len(set(lengths)) != 1:
            raise ValueError(f"row, col and index must have one length, got {lengths}")

    def __reduce__(self) -> tuple:
        # made anew, so that the arrays stay read-only and nothing that was cached is stored
        return type(self), (self.shape, self.row, self.col, self.index, self.num_parameters)

    def __deepcopy__(self, memo: dict) -> Pattern:
        return self  # nothing in it can change

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"Pattern({rows}x{cols}, nnz={self.nnz}, num_parameters={self.num_parameters})"

    @property
    def nnz(self) -> int:
        """Number of stored triples; duplicates of a cell count each."""
        return len(self.row)

    @cached_property
    def has_duplicates(self) -> bool:
        """Whether two triples name the same cell, so that their parameters add up."""
        return self.distinct().nnz < self.nnz

    @cached_property
    def lower_bandwidth(self) -> int:
        """Largest ``row - col`` of any triple, at least 0."""
        return int(max(0, (self.row - self.col).max(initial=0)))

    @cached_property
    def upper_bandwidth(self) -> int:
        """Largest ``col - row`` of any triple, at least 0."""
        return int(max(0, (self.col - self.row).max(initial=0)))

    @property
    def is_upper_triangular(self) -> bool:
        """Whether no triple lies below the main diagonal (``row > col``)."""
        return self.lower_bandwidth == 0

    @property
    def is_lower_triangular(self) -> bool:
        """Whether no triple lies above the main diagonal (``col > row``)."""
        return self.upper_bandwidth == 0

    @cached_property  # the transposed product is chosen once, too
    def T(self) -> Pattern:
        """The pattern of the transposed matrix, with the same parameters."""
        return Pattern(self.shape[::-1], self.col, self.row, self.index, self.num_parameters)

    def untied(self) -> Pattern:
        """The same triples, each with a parameter of its own, in the order they are stored."""
        return Pattern(self.shape, self.row, self.col, np.arange(self.nnz), self.nnz)

    @property
    def row_counts(self) -> np.ndarray:
        """Number of triples in each row, int64 ``(rows,)``."""
        return np.bincount(self.row, minlength=self.shape[0])

    def rows(self, start: int, stop: int) -> Pattern:
        """The pattern of ``W[start:stop]``, with all the parameters of W.

        Args:
            start: First row.
            stop: One past the last row.

        Returns:
            Pattern of shape ``(stop - start, cols)``; the triples keep their order.

        Raises:
            ValueError: Not ``0 <= start <= stop <= rows``.
        """
        start, stop = self._checked_rows(start, stop)
        kept = (self.row >= start) & (self.row < stop)
        row, col, index = self.row[kept] - start, self.col[kept], self.index[kept]
        return Pattern((stop - start, self.shape[1]), row, col, index, self.num_parameters)

    def by_row(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The triples in row-major order: ``(row, col, index)``, each int64 ``(nnz,)``."""
        step = np.diff(self.row)
        if ((step > 0) | ((step == 0) & (np.diff(self.col) >= 0))).all():
            return self.row, self.col, self.index
        order = np.lexsort((self.col, self.row))
        return self.row[order], self.col[order], self.index[order]

    def _checked_rows(self, start: int, stop: int) -> tuple[int, int]:
        start, stop = (as_size("rows", side, None, "integers") for side in (start, stop))
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(
                f"rows must satisfy 0 <= start <= stop <= {self.shape[0]}, got {start}..{stop}"
            )
        return start, stop

    def distinct(self) -> Pattern:
        """The set of cells, in row-major order, each once and with a parameter of its own."""
        return self.cells()[0]

    def cells(self) -> tuple[Pattern, np.ndarray]:
        """The set of cells (see :meth:`distinct`), and for each triple which of them it names."""
        order = np.lexsort((self.col, self.row))
        row, col = self.row[order], self.col[order]
        first = np.ones(len(row), dtype=bool)
        first[1:] = (row[1:] != row[:-1]) | (col[1:] != col[:-1])
        cell = np.empty(len(row), dtype=np.int64)
        cell[order] = np.cumsum(first) - 1
        row, col = row[first], col[first]
        return Pattern(self.shape, row, col, np.arange(len(row)), len(row)), cell

    def permute(
        self, rows: Sequence[int] | None = None, cols: Sequence[int] | None = None
    ) -> Pattern:
        """The pattern of ``W[rows][:, cols]``: another order of the outputs and inputs.

        Args:
            rows: A permutation of the rows; entry ``r`` is the old row that becomes row ``r``.
            cols: A permutation of the columns, likewise.

        Raises:
            ValueError: An argument is not a permutation of the rows or columns.
        """
        row = self.row if rows is None else _inverse("rows", rows, self.shape[0])[self.row]
        col = self.col if cols is None else _inverse("cols", cols, self.shape[1])[self.col]
        return Pattern(self.shape, row, col, self.index, self.num_parameters)

    def __matmul__(self, other: Pattern) -> Pattern:
        """Where the product of two filled patterns may be nonzero (distinct cells, untied).

        Raises:
            TypeError: ``other`` is no pattern.
            ValueError: The inner sizes differ.
        """
        _require_pattern(other)
        left, right = self.pairs(other)
        shape = (self.shape[0], other.shape[1])
        every = Pattern(shape, self.row[left], other.col[right], np.arange(len(left)), len(left))
        return every.distinct()

    def __or__(self, other: Pattern) -> Pattern:
        """The union: the cells that either pattern names (distinct cells, untied).

        Raises:
            TypeError: ``other`` is no pattern.
            ValueError: The shapes differ.
        """
        self._check_shape(other)
        row, col = np.append(self.row, other.row), np.append(self.col, other.col)
        return Pattern(self.shape, row, col, np.arange(len(row)), len(row)).distinct()

    def __and__(self, other: Pattern) -> Pattern:
        """The intersection: the cells that both patterns name (distinct cells, untied).

        Raises:
            TypeError: ``other`` is no pattern.
            ValueError: The shapes differ.
        """
        self._check_shape(other)
        mine, theirs = self.distinct(), other.distinct()
        row, col = np.append(mine.row, theirs.row), np.append(mine.col, theirs.col)
        # each names a cell once; a number of the cell could overflow
        either, cell = Pattern(self.shape, row, col, np.arange(len(row)), len(row)).cells()
        kept = np.bincount(cell, minlength=either.nnz) == 2
        row, col = either.row[kept], either.col[kept]
        return Pattern(self.shape, row, col, np.arange(len(row)), len(row))

    def _check_shape(self, other: Pattern) -> None:
        _require_pattern(other)
        if self.shape != other.shape:
            raise ValueError(f"shapes must agree, got {self.shape} and {other.shape}")

    def pairs(self, other: Pattern) -> tuple[np.ndarray, np.ndarray]:
        """Every pair of triples that meet in a product ``self @ other``.

        Returns:
            Two integer arrays of one length, each pair once, with
            ``self.col[left] == other.row[right]``.

        Raises:
            ValueError: The inner sizes differ.
        """
        if self.shape[1] != other.shape[0]:
            raise ValueError(
                f"inner sizes must agree, got {self.shape[1]} columns and {other.shape[0]} rows"
            )
        order = np.argsort(other.row, kind="stable")
        start = np.searchsorted(other.row[order], np.arange(other.shape[0] + 1))
        count = np.diff(start)[self.col]
        left = np.repeat(np.arange(self.nnz), count)
        offset = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
        return left, order[start[self.col[left]] + offset]

    def equals(self, other: Pattern) -> bool:
        """Whether both give the same matrix for every theta (the order of triples is free).

        Raises:
            TypeError: ``other`` is no pattern.
        """
        _require_pattern(other)
        if (self.shape, self.nnz, self.num_parameters) != (
            (other.shape, other.nnz, other.num_parameters)
        ):
            return False
        mine = np.lexsort((self.index, self.col, self.row))
        theirs = np.lexsort((other.index, other.col, other.row))
        return all(
            np.array_equal(getattr(self, name)[mine], getattr(other, name)[theirs])
            for name in ("row", "col", "index")
        )

    def fill(self, theta: torch.Tensor) -> SparseMatrix:
        """The matrix with these parameters; see :class:`sparsemat.SparseMatrix`."""
        from .matrix import SparseMatrix

        return SparseMatrix(self, theta)

    def to_sympy(self, theta: Sequence) -> sympy.SparseMatrix:
        """The matrix with SymPy expressions as parameters; see :mod:`sparsemat.symbolic`."""
        from .symbolic import fill

        return fill(self, theta)

    def symbols(self, name: str) -> sympy.SparseMatrix:
        """The matrix with parameters named ``name_0, name_1, ...``."""
        from .symbolic import array

        return self.to_sympy(array(name, self.num_parameters))


def _require_pattern(other: object) -> None:
    if not isinstance(other, Pattern):
        raise TypeError(f"other must be a Pattern, got {type(other).__name__}")


def _index_array(name: str, values: np.ndarray, bound: int) -> np.ndarray:
    array = as_array(name, values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must hold integers, got dtype {array.dtype}")
    array = array.astype(np.int64)  # a copy: the caller's array stays free to change
    if array.size and not (array.min() >= 0 and array.max() < bound):
        raise ValueError(f"{name} must lie in 0..{bound - 1}, got {array.min()}..{array.max()}")
    array.flags.writeable = False
    return array


def _inverse(name: str, order: Sequence[int], size: int) -> np.ndarray:
    order = as_array(name, order)
    is_integer = order.size == 0 or np.issubdtype(order.dtype, np.integer)
    if not is_integer or order.size != size or not np.array_equal(np.sort(order), np.arange(size)):
        raise ValueError(f"{name} must be a permutation of 0..{size - 1}, got {order}")
    return np.argsort(order)
