"""The product with any sparse pattern: compressed rows, summed by ``embedding_bag``.

torch's own CSR autograd is not used: it builds a dense gradient. Here the gradient of the vectors
is the product with the transposed pattern, and the gradient of the values is taken at the pattern
only: by ``sampled_addmm`` where that can be had, and where the pattern is dense enough from a dense
product of a few rows at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from ..pattern import Pattern
from .casting import as_given
from .indices import DeviceIndices, check_operands, csr_tensor

BLOCK_BYTES = 1 << 20
# from here on all cells of a dense product cost less than the stored ones one by one
DENSE_PRODUCT = 1 / 8


class GeneralProduct:
    """``W(theta) @ x`` for any pattern: one weighted sum of rows of x a row of W.

    Args:
        pattern: The pattern of W.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.shape, self.num_parameters, self.nnz = (
            pattern.shape,
            pattern.num_parameters,
            pattern.nnz,
        )
        by_row = np.lexsort((pattern.col, pattern.row))
        row, col, index = pattern.row[by_row], pattern.col[by_row], pattern.index[by_row]
        self.stored_by_row = np.array_equal(index, np.arange(self.num_parameters))
        self.has_duplicates = bool(((row[1:] == row[:-1]) & (col[1:] == col[:-1])).any())
        self.takes_dense_blocks = pattern.nnz > DENSE_PRODUCT * pattern.shape[0] * pattern.shape[1]
        by_col = np.lexsort((row, col))
        self.crow = np.searchsorted(row, np.arange(pattern.shape[0] + 1))
        self.indices = DeviceIndices(
            row=row,
            col=col,
            index=index,
            crow=self.crow,
            by_col=by_col,
            row_by_col=row[by_col],
            ccol=np.searchsorted(col[by_col], np.arange(pattern.shape[1] + 1)),
        )

    def __repr__(self) -> str:
        rows, cols = self.shape
        return (
            f"GeneralProduct({rows}x{cols}, nnz={self.nnz}): "
            "each row is summed by itself, which serves any pattern"
        )

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Theta ``(num_parameters,)`` and x ``(cols, n)`` to y ``(rows, n)``."""
        check_operands(self, theta, x)
        if self.stored_by_row:
            values = theta
        else:
            values = theta.index_select(0, self.indices.on(theta.device).index)
        return _WeightedRowSum.apply(values, x, self)


class _WeightedRowSum(torch.autograd.Function):
    @staticmethod
    @as_given
    def forward(ctx, values: torch.Tensor, x: torch.Tensor, product: GeneralProduct):
        ctx.strides = x.stride()
        x = x.contiguous()
        ctx.save_for_backward(values, x)
        ctx.product = product
        at = product.indices.on(x.device)
        return _sum_rows(x, at.col, at.crow, values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @as_given
    def backward(ctx, grad: torch.Tensor):
        values, x = ctx.saved_tensors
        at = ctx.product.indices.on(x.device)
        grad_values = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_values = _sampled_products(ctx.product, grad, x)
        if ctx.needs_input_grad[1]:
            transposed = values.index_select(0, at.by_col)
            grad_x = _sum_rows(grad.contiguous(), at.row_by_col, at.ccol, transposed)
            if ctx.strides == (1, x.shape[0]):
                # in the layout of x: the layer before multiplies it with what it saved in that one
                grad_x = grad_x.t().contiguous().t()
        return grad_values, grad_x, None


def _sum_rows(x: torch.Tensor, index: torch.Tensor, start: torch.Tensor, weights: torch.Tensor):
    if len(index) == 0 or x.shape[1] == 0:
        return x.new_zeros(len(start) - 1, x.shape[1])
    return embedding_bag(
        index,
        x.detach(),  # else more is computed for a backward pass that never comes
        start,
        mode="sum",
        per_sample_weights=weights.detach(),
        include_last_offset=True,
    )


def _sampled_products(
    product: GeneralProduct, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """``(left @ right.T)[row, col]`` at the pattern, without the dense product."""
    at, n = product.indices.on(left.device), left.shape[1]
    if product.nnz == 0 or n == 0:
        return left.new_zeros(product.nnz)
    if product.takes_dense_blocks:
        return _cells_of_dense_blocks(product, left, right)
    # sampled_addmm takes each cell once, and no half precision
    full = left.device.type == "cpu" and left.dtype in (torch.float32, torch.float64)
    if full and not product.has_duplicates:
        result = csr_tensor(at.crow, at.col, left.new_zeros(product.nnz), product.shape)
        left, right = left.contiguous(), right.contiguous()
        # in place, else the index arrays are copied
        torch.sparse.sampled_addmm(result, left, right.t(), beta=0.0, out=result)
        return result.values()
    result = left.new_empty(product.nnz)
    block = max(1, BLOCK_BYTES // (left.element_size() * n))
    for start in range(0, product.nnz, block):
        part = slice(start, start + block)
        terms = left.index_select(0, at.row[part]) * right.index_select(0, at.col[part])
        torch.sum(terms, 1, out=result[part])
    return result


def _cells_of_dense_blocks(
    product: GeneralProduct, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    rows, cols = product.shape
    at, result = product.indices.on(left.device), left.new_empty(product.nnz)
    step = max(1, BLOCK_BYTES // (left.element_size() * cols))
    for first in range(0, rows, step):
        block = left[first : first + step] @ right.mT
        part = slice(*product.crow[[first, first + len(block)]])
        cell = (at.row[part] - first) * cols + at.col[part]
        torch.index_select(block.view(-1), 0, cell, out=result[part])
    return result
