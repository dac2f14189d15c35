"""The product with any sparse pattern: compressed rows, summed by ``embedding_bag``.

torch's own CSR autograd is not used: it builds a dense gradient. Here the gradient of the vectors
is the product with the transposed pattern, and the gradient of the values is taken at the pattern
only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from ..pattern import Pattern
from .indices import DeviceIndices

BLOCK_BYTES = 1 << 20


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
        by_col = np.lexsort((row, col))
        self.indices = DeviceIndices(
            row=row,
            col=col,
            index=index,
            crow=np.searchsorted(row, np.arange(pattern.shape[0] + 1)),
            by_col=by_col,
            row_by_col=row[by_col],
            ccol=np.searchsorted(col[by_col], np.arange(pattern.shape[1] + 1)),
        )

    def __repr__(self) -> str:
        rows, cols = self.shape
        return (
            f"GeneralProduct({rows}x{cols}, nnz={self.nnz}): "
            "rows share no columns, so each is summed by itself"
        )

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Theta ``(num_parameters,)`` and x ``(cols, n)`` to y ``(rows, n)``."""
        values = theta.index_select(0, self.indices.on(theta.device).index)
        return _WeightedRowSum.apply(values, x, self)


class _WeightedRowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: torch.Tensor, x: torch.Tensor, product: GeneralProduct):
        ctx.save_for_backward(values, x)
        ctx.product = product
        at = product.indices.on(x.device)
        return _sum_rows(x, at.col, at.crow, values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        values, x = ctx.saved_tensors
        at = ctx.product.indices.on(x.device)
        grad_values = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_values = _sampled_products(grad, at.row, x, at.col)
        if ctx.needs_input_grad[1]:
            grad_x = _sum_rows(grad, at.row_by_col, at.ccol, values[at.by_col])
        return grad_values, grad_x, None


def _sum_rows(x: torch.Tensor, index: torch.Tensor, start: torch.Tensor, weights: torch.Tensor):
    if len(index) == 0 or x.shape[1] == 0:
        return x.new_zeros(len(start) - 1, x.shape[1])
    return embedding_bag(
        index,
        x.contiguous(),
        start,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )


def _sampled_products(
    left: torch.Tensor, row: torch.Tensor, right: torch.Tensor, col: torch.Tensor
):
    """``(left @ right.T)[row, col]`` in blocks, without the dense product."""
    result = left.new_empty(len(row))
    block = max(1, BLOCK_BYTES // (left.element_size() * max(1, left.shape[1])))
    for start in range(0, len(row), block):
        at = slice(start, start + block)
        product = left.index_select(0, row[at]) * right.index_select(0, col[at])
        torch.sum(product, 1, out=result[at])
    return result
