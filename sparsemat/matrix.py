"""A sparse matrix: a pattern with values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from .pattern import Pattern
from .products import matmul
from .products.indices import csr_tensor

if TYPE_CHECKING:
    import scipy.sparse


class SparseMatrix:
    r"""The matrix $W(\theta)$ of a pattern: ``W[row[k], col[k]] += theta[index[k]]``.

    Products and conversions are differentiable with respect to ``theta``, but for ``to_scipy``.

    Args:
        pattern: Where the matrix may be nonzero and which parameter sits there.
        theta: The parameters: a floating-point tensor (or array) of any shape with
            ``pattern.num_parameters`` entries.

    Raises:
        ValueError: ``theta`` has the wrong number of entries, or is complex.
    """

    def __init__(self, pattern: Pattern, theta: torch.Tensor) -> None:
        theta = torch.as_tensor(theta)
        if theta.numel() != pattern.num_parameters:
            raise ValueError(
                f"theta must hold num_parameters={pattern.num_parameters} values, "
                f"got {theta.numel()} (shape {tuple(theta.shape)})"
            )
        if theta.is_complex():
            raise ValueError(f"theta must be real, got dtype {theta.dtype}")
        if not theta.is_floating_point():
            theta = theta.to(torch.get_default_dtype())
        self.pattern = pattern
        self.theta = theta.reshape(-1)

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"SparseMatrix({rows}x{cols}, nnz={self.pattern.nnz}, dtype={self.dtype})"

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        return self.pattern.shape

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the entries."""
        return self.theta.dtype

    @property
    def device(self) -> torch.device:
        """Where the entries live."""
        return self.theta.device

    @property
    def values(self) -> torch.Tensor:
        """One value a triple of the pattern, shape ``(nnz,)``; tied triples share a value."""
        return self.theta.index_select(0, self._index("index"))

    @property
    def T(self) -> SparseMatrix:
        """The transposed matrix, with the same parameters."""
        return SparseMatrix(self.pattern.T, self.theta)

    def to(self, *args, **kwargs) -> SparseMatrix:
        """The matrix with ``theta.to(...)``: another dtype or device."""
        return SparseMatrix(self.pattern, self.theta.to(*args, **kwargs))

    def coalesce(self) -> SparseMatrix:
        """The same matrix with every cell stored once, in row-major order, untied."""
        cells, cell = self.pattern.cells()
        where = torch.from_numpy(cell).to(self.device)
        return SparseMatrix(
            cells, self.values.new_zeros(cells.nnz).index_add(0, where, self.values)
        )

    def to_dense(self) -> torch.Tensor:
        """The dense tensor of shape ``shape``.

        Raises:
            MemoryError: It would not fit; the message says how much it takes.
        """
        rows, cols = self.shape
        require_memory(f"a dense {rows}x{cols} matrix", rows * cols, self.dtype, self.device)
        cell = self._index("row") * cols + self._index("col")
        return self.theta.new_zeros(rows * cols).index_add(0, cell, self.values).view(rows, cols)

    def to_csr(self) -> torch.Tensor:
        """A ``torch.sparse_csr`` tensor; duplicates are summed."""
        matrix = self.coalesce()
        crow = np.searchsorted(matrix.pattern.row, np.arange(self.shape[0] + 1))
        crow = torch.from_numpy(crow).to(self.device)
        return csr_tensor(crow, matrix._index("col"), matrix.values, self.shape)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """A ``scipy.sparse.csr_array`` on the CPU; duplicates are summed. Needs SciPy.

        SciPy has no types of 16 bits: they become float32.
        """
        import scipy.sparse

        values = self.values.detach().cpu()
        values = (values.float() if values.itemsize == 2 else values).numpy()
        entries = values, (self.pattern.row, self.pattern.col)
        return scipy.sparse.coo_array(entries, shape=self.shape).tocsr()

    def __matmul__(self, other: torch.Tensor | SparseMatrix) -> torch.Tensor | SparseMatrix:
        """``W @ x`` for ``x`` of shape ``(cols,)`` or ``(cols, n)``, or the product with a matrix.

        Raises:
            ValueError: The inner sizes differ, or ``x`` has another rank.
        """
        if isinstance(other, SparseMatrix):
            left, right = self.pattern.pairs(other.pattern)
            row, col = self.pattern.row[left], other.pattern.col[right]
            shape = (self.shape[0], other.shape[1])
            terms = Pattern(shape, row, col, np.arange(len(left)), len(left))
            left, right = (torch.from_numpy(side).to(self.device) for side in (left, right))
            return SparseMatrix(terms, self.values[left] * other.values[right]).coalesce()
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[1]:
            raise ValueError(
                f"x must have shape (cols,) or (cols, n) with cols={self.shape[1]}, "
                f"got {tuple(other.shape)}"
            )
        if other.ndim == 1:
            return matmul(self.pattern, self.theta, other[:, None])[:, 0]
        return matmul(self.pattern, self.theta, other)

    def _index(self, name: str) -> torch.Tensor:
        return torch.tensor(getattr(self.pattern, name), device=self.device)


def require_memory(what: str, numel: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a request that the device's whole memory cannot hold, before allocating.

    Args:
        what: Name of the request in the message.
        numel: Number of entries.
        dtype: Their type.
        device: Where they would live.

    Raises:
        MemoryError: The request is larger than the device's memory.
    """
    needed = numel * dtype.itemsize
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > total:
        raise MemoryError(
            f"{what} of {dtype} takes {needed / 2**30:,.1f} GiB, "
            f"but {device.type} memory is {total / 2**30:,.1f} GiB; keep it sparse"
        )
