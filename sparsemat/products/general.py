"""The product with any sparse pattern: compressed rows, summed by ``embedding_bag``.

torch's own CSR autograd is not used: it builds a dense gradient. Here the gradient of the vectors
is the product with the transposed pattern, and the gradient of the values is taken at the pattern
only: by ``sampled_addmm`` where that can be had, and where the pattern is dense enough from a dense
product of a few rows at a time.
"""

from __future__ import annotations

import numpy as np
import torch

from ..pattern import Pattern
from . import plain
from .indices import csr_tensor, narrowed
from .product import ADJOINT, OUTER, Product

BLOCK_BYTES = 1 << 20
# from here on all cells of a dense product cost less than the stored ones one by one
DENSE_PRODUCT = 1 / 8
FULL = (torch.float32, torch.float64)


class GeneralProduct(Product):
    """``W(theta) @ x`` for any pattern: one weighted sum of rows of x a row of W.

    Args:
        pattern: The pattern of W.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.shape, self.num_parameters = pattern.shape, pattern.num_parameters
        self.nnz = pattern.nnz
        row, col, index = pattern.by_row()
        self.stored_by_row = np.array_equal(index, np.arange(self.num_parameters))
        self.has_duplicates = bool(((row[1:] == row[:-1]) & (col[1:] == col[:-1])).any())
        self.takes_dense_blocks = pattern.nnz > DENSE_PRODUCT * pattern.shape[0] * pattern.shape[1]
        by_col = np.lexsort((row, col))
        self.crow = np.searchsorted(row, np.arange(pattern.shape[0] + 1))
        arrays = {"row": row, "col": col, "index": index, "crow": self.crow, "by_col": by_col}
        arrays["row_by_col"] = row[by_col]
        arrays["ccol"] = np.searchsorted(col[by_col], np.arange(pattern.shape[1] + 1))
        self._arrays = narrowed(arrays)

    def __repr__(self) -> str:
        rows, cols = self.shape
        return (
            f"GeneralProduct({rows}x{cols}, nnz={self.nnz}): "
            "each row is summed by itself, which serves any pattern"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """The triples sorted by row, and what sorts them by column."""
        return self._arrays

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        """Row after row."""
        return x.contiguous()

    def numbers(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps, row by row."""
        if right.is_complex():  # torch's weighted sums are of real numbers
            return self.plain(kind, left, right)
        if kind == OUTER:
            return self._parameters(_sampled_products(self, left, right))
        values, at = self._values(left), right.device
        if kind == ADJOINT:
            values = values.index_select(0, self._table("by_col", at))
            read, start = self._table("row_by_col", at), self._table("ccol", at)
        else:
            read, start = self._table("col", at), self._table("crow", at)
        return _sum_rows(right.contiguous(), read, start, values)

    def gradients(
        self, theta: torch.Tensor, x: torch.Tensor, grad: torch.Tensor, wants: tuple[bool, bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of theta and x."""
        grad_theta, grad_x = super().gradients(theta, x, grad, wants)
        if wants[1] and x.stride() == (1, x.shape[0]):
            # in the layout of x: the layer before multiplies it with what it saved in that one
            grad_x = grad_x.t().contiguous().t()
        return grad_theta, grad_x

    def plain(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps by operations that torch can trace, batch and differentiate."""
        return plain.general(self, kind, left, right)

    def _values(self, theta: torch.Tensor) -> torch.Tensor:
        if self.stored_by_row:
            return theta
        return theta.index_select(0, self._table("index", theta.device))

    def _parameters(self, values: torch.Tensor) -> torch.Tensor:
        """The values of the triples, summed for each parameter."""
        if self.stored_by_row:
            return values
        wide = torch.promote_types(values.dtype, torch.float32)
        total = values.new_zeros(self.num_parameters, dtype=wide)
        index = self._table("index", values.device)
        return total.index_add_(0, index.long(), values.to(wide)).to(values.dtype)


def _sum_rows(x: torch.Tensor, index: torch.Tensor, start: torch.Tensor, weights: torch.Tensor):
    if len(index) == 0 or x.shape[1] == 0:
        return x.new_zeros(len(start) - 1, x.shape[1])
    # detached, else more is computed for a backward pass that never comes
    return torch.embedding_bag(
        x.detach(), index, start, per_sample_weights=weights.detach(), include_last_offset=True
    )[0]


def _sampled_products(
    product: GeneralProduct, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """``(left @ right.T)[row, col]`` at the pattern, without the dense product."""
    n, device = left.shape[1], left.device
    if product.nnz == 0 or n == 0:
        return left.new_zeros(product.nnz)
    if product.takes_dense_blocks:
        return _cells_of_dense_blocks(product, left, right)
    row, col = product._table("row", device), product._table("col", device)
    # sampled_addmm takes each cell once, and no half precision
    if device.type == "cpu" and left.dtype in FULL and not product.has_duplicates:
        crow = product._table("crow", device)
        result = csr_tensor(crow, col, left.new_zeros(product.nnz), product.shape)
        left, right = left.contiguous(), right.contiguous()
        # in place, else the index arrays are copied
        torch.sparse.sampled_addmm(result, left, right.t(), beta=0.0, out=result)
        return result.values()
    result = left.new_empty(product.nnz)
    block = max(1, BLOCK_BYTES // (left.element_size() * n))
    for start in range(0, product.nnz, block):
        part = slice(start, start + block)
        terms = left.index_select(0, row[part]) * right.index_select(0, col[part])
        torch.sum(terms, 1, out=result[part])
    return result


def _cells_of_dense_blocks(
    product: GeneralProduct, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    rows, cols = product.shape
    row, col = (product._table(name, left.device) for name in ("row", "col"))
    result = left.new_empty(product.nnz)
    step = max(1, BLOCK_BYTES // (left.element_size() * cols))
    for first in range(0, rows, step):
        block = left[first : first + step] @ right.mT
        part = slice(*product.crow[[first, first + len(block)]])
        cell = (row[part] - first) * cols + col[part]
        torch.index_select(block.view(-1), 0, cell, out=result[part])
    return result
