"""The three maps of a product by plain operations: for tracing, batching and differentiating."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .product import ADJOINT, APPLY

if TYPE_CHECKING:
    from .gather import GatherProduct
    from .general import GeneralProduct


def gathered(
    product: GatherProduct, kind: str, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """A map of a regular pattern; arguments and result as :meth:`Product.numbers`."""
    groups, outputs, slots, positions = product.sizes
    cols = product.shape[1]
    n, at = right.shape[1], right.device
    read = product.table("cols", at)  # the row after the last is zero
    wrote = product.table("rows", at)
    params = product.table("params", at)
    if kind != ADJOINT:
        x = _with_zero_row(right).index_select(0, read).view(groups, slots, positions * n)
    if kind == APPLY:
        y = torch.bmm(_matrices(left, params, groups, outputs, slots), x)
        y = y.reshape(groups * outputs * positions, n)
        return _with_zero_row(y).index_select(0, wrote)
    side = right if kind == ADJOINT else left
    g = side.index_select(0, product.table("written", at)).view(groups, outputs, positions * n)
    if kind == ADJOINT:
        weights = _matrices(left, params, groups, outputs, slots)
        x = torch.bmm(weights.mT, g).reshape(groups * slots * positions, n)
        return _summed(x, read, cols + 1)[:cols]
    theta = torch.bmm(g, x.mT).reshape(-1)
    return _summed(theta, params, product.num_parameters + 1)[: product.num_parameters]


def general(
    product: GeneralProduct, kind: str, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """A map of any pattern, triple by triple; arguments and result as :meth:`Product.numbers`."""
    row, col, index = (product.table(name, right.device) for name in ("row", "col", "index"))
    if kind == APPLY:
        terms = left.index_select(0, index)[:, None] * right.index_select(0, col)
        return _summed(terms, row, product.shape[0])
    if kind == ADJOINT:
        terms = left.index_select(0, index)[:, None] * right.index_select(0, row)
        return _summed(terms, col, product.shape[1])
    terms = (left.index_select(0, row) * right.index_select(0, col)).sum(1)
    return _summed(terms, index, product.num_parameters)


def tables_of_gather(product: GatherProduct) -> dict[str, np.ndarray]:
    """The whole tables, flattened: what is read, written and multiplied."""
    groups, _, _, positions = product.sizes
    whole = slice(0, groups), slice(0, positions)
    cols, params = product.tables.cols(*whole), product.tables.params(whole[0])
    rows = product.tables.rows().reshape(-1)
    place = np.full(product.shape[0], len(rows))
    place[rows] = np.arange(len(rows))
    return {
        "cols": np.where(cols < 0, product.shape[1], cols).reshape(-1),
        "params": np.where(params < 0, product.num_parameters, params).reshape(-1),
        "rows": place,
        "written": rows,
    }


def _matrices(
    theta: torch.Tensor, params: torch.Tensor, groups: int, outputs: int, slots: int
) -> torch.Tensor:
    theta = torch.cat([theta, theta.new_zeros(1)])
    return theta.index_select(0, params).view(groups, outputs, slots)


def _with_zero_row(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.new_zeros(1, x.shape[1])])


def _summed(terms: torch.Tensor, at: torch.Tensor, size: int) -> torch.Tensor:
    wide = torch.promote_types(terms.dtype, torch.float32)
    zeros = terms.new_zeros((size, *terms.shape[1:]), dtype=wide)
    # ONNX scatters by 64-bit indices only
    return zeros.index_add(0, at.long(), terms.to(wide)).to(terms.dtype)
