"""The product with a regular pattern: gathered rows times a small dense matrix.

In a convolution all output channels of a position read the same inputs, and all positions share the
weights. Tied or not, such a pattern is a batch of ``G`` small dense matrices over gathered rows,

    y[rows[g, m, l]] = sum_k theta[params[g, m, k]] * x[cols[g, k, l]].

Tied: one group a channel group, ``l`` runs over positions. Untied: one group a position, ``l`` is
alone. The tables are those of the pattern's Kronecker factors, or found in the index arrays, so any
pattern that has the form is served. Rows are gathered block by block into a reused buffer: nothing
of the size of an unfolded image is ever stored, and the backward pass gathers again instead of
saving. Where the transposed pattern has the form too, as a tied convolution of stride 1 has, the
backward pass gathers from the outgoing gradient, once for both gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from ..kronecker import KroneckerPattern, _interned
from ..pattern import Pattern
from . import plain
from .blocks import Blocks, IndexBlocks, Run
from .layout import Layout
from .product import ADJOINT, APPLY, Product
from .steps import StepBlocks
from .tables import Tables, UntiedTables, find

TALL = 64  # outputs from which their gradient is summed as fast row by row as column by column


class GatherProduct(Product):
    """``W(theta) @ x`` for a regular pattern. Made by ``of``.

    Args:
        pattern: The pattern of W.
        tables: Its tables.
    """

    def __init__(self, pattern: Pattern, tables: Tables | UntiedTables) -> None:
        self.shape, self.num_parameters = pattern.shape, pattern.num_parameters
        self.nnz = pattern.nnz
        self.tables, self.sizes = tables, tables.sizes  # G, M, K, L
        self.blocks: Blocks = IndexBlocks(tables, pattern.shape)
        if tables.steps is not None and self.blocks.row_strides is not None:
            self.blocks = StepBlocks(tables, pattern.shape)
        self._transposed = _transposed_pattern(pattern, tables)

    def __repr__(self) -> str:
        groups, outputs, slots, positions = self.sizes
        return (
            f"GatherProduct({self.shape[0]}x{self.shape[1]}, nnz={self.nnz}): {groups} dense "
            f"{outputs}x{slots} matrices, each shared by {positions} positions"
        )

    @classmethod
    def of(cls, pattern: Pattern) -> GatherProduct | None:
        """The product for this pattern, or None where its structure is not regular."""
        tables = find(pattern)
        return None if tables is None else cls(pattern, tables)

    @cached_property
    def transposed(self) -> GatherProduct | None:
        """The product with the transposed matrix, where tied rows leave it as regular."""
        if self.sizes[3] == 1:
            return None
        product = self.of(self._transposed())
        # scattered rows would be written one by one, as the other way does
        return None if product is None or product.blocks.row_strides is None else product

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        """In the layout of the blocks."""
        return self.blocks.layout(x).laid(x)

    def numbers(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps, block by block; the result lies in memory as ``right`` does."""
        if kind == APPLY:
            return _multiply(self, left, right)
        if kind == ADJOINT:
            if self._gathers_back(right):
                return _multiply(self.transposed, left, right)
            return _scatter(self, left, right)
        total = _wide_zeros(right, self.num_parameters)
        _pass(self, None, right, None, left, total)
        return total.to(right.dtype)

    def gradients(
        self, theta: torch.Tensor, x: torch.Tensor, grad: torch.Tensor, wants: tuple[bool, bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Both gradients; rows gathered once serve both where the transposed pattern is regular."""
        wants_theta, wants_x = wants
        total = _wide_zeros(x, self.num_parameters) if wants_theta else None
        grad_x = None
        conj_theta = theta.conj().resolve_conj() if theta.is_complex() else theta
        grad = self.blocks.layout(x).laid(grad.resolve_conj())
        if wants_x and self._gathers_back(grad):
            # grad x^H is the transpose of conj(x) grad^T: what is gathered from grad serves both
            other = x.conj().resolve_conj() if x.is_complex() else x
            grad_x = _multiply(self.transposed, conj_theta, grad, other, total)
        else:
            if wants_theta:
                _pass(self, None, x.conj() if x.is_complex() else x, None, grad, total)
            if wants_x:
                grad_x = _scatter(self, conj_theta, grad)
        if wants_x:
            # the layer before multiplies it with what it saved in this layout
            grad_x = Layout.of(x).laid(grad_x)
        return total if total is None else total.to(theta.dtype), grad_x

    def _gathers_back(self, grad: torch.Tensor) -> bool:
        """Whether the transposed product serves, which rearranges the weights first."""
        _, outputs, _, positions = self.sizes
        return positions * grad.shape[1] >= outputs and self.transposed is not None

    def arrays(self) -> dict[str, np.ndarray]:
        """The whole tables, flattened: what is read, written and multiplied."""
        return plain.tables_of_gather(self)

    def plain(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps by operations that torch can trace, batch and differentiate."""
        return plain.gathered(self, kind, left, right)


def _multiply(
    product: GatherProduct,
    theta: torch.Tensor,
    x: torch.Tensor,
    grad: torch.Tensor | None = None,
    grad_theta: torch.Tensor | None = None,
) -> torch.Tensor:
    """``W x``, and on the way the gradient of theta if it is wanted."""
    y = product.blocks.layout(x).empty(x, product.shape[0])
    if not product.blocks.covers_all_rows:
        y.zero_()
    _pass(product, theta, x, y, grad, grad_theta)
    return y


def _pass(
    product: GatherProduct,
    theta: torch.Tensor | None,
    x: torch.Tensor,
    y: torch.Tensor | None,
    grad: torch.Tensor | None,
    grad_theta: torch.Tensor | None,
) -> None:
    """Gather x once: write ``W x`` to y, and add theta's share of ``grad x^T`` to grad_theta."""
    n, blocks = x.shape[1], product.blocks
    if n == 0:
        return
    layout = blocks.layout(x)
    x, runs = blocks.padded(x.resolve_conj(), layout), blocks.runs(x, layout)
    theta = None if theta is None else theta.resolve_conj()
    grad = None if grad_theta is None else layout.laid(grad.resolve_conj())
    tall = product.sizes[3] == 1 or product.sizes[1] >= TALL
    buffer = x.new_empty(max([blocks.copied(block, n) for run in runs for block in run.blocks]))
    narrow = grad is not None and grad.dtype != grad_theta.dtype
    for run in runs:
        weights = None if y is None else _weights(theta, product, run)
        if grad is None:
            total = None
        elif in_place := tall and isinstance(run.params, slice):
            total = _weights(grad_theta, product, run)
        else:
            # (K, M) rather than (M, K): the product with few outputs is faster this way round
            total = grad_theta.new_zeros(*run.blocks[0].shape[:2], product.sizes[1])
        for block in run.blocks:
            gathered = blocks.gather(x, block, buffer)
            if weights is not None:
                blocks.write(y, block, weights, gathered)
            if total is not None:
                part = blocks.part(grad, block).flatten(2)
                left, right = (part, gathered.mT) if in_place else (gathered, part.mT)
                if narrow:  # 16 bits would lose the small terms of a long sum
                    left, right = left.to(total.dtype), right.to(total.dtype)
                total.baddbmm_(left, right)
        if total is not None and not in_place:
            _add_at(grad_theta, run.params, total.mT.reshape(-1))


def _add_at(total: torch.Tensor, at: slice | torch.Tensor, values: torch.Tensor) -> None:
    if isinstance(at, slice):
        total[at] += values
    else:
        total.index_add_(0, at, values)


def _scatter(product: GatherProduct, theta: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """``W^T grad``, each block's share added to the rows that it gathers."""
    blocks = product.blocks
    layout = blocks.layout(grad)
    grad, theta = layout.laid(grad.resolve_conj()), theta.resolve_conj()
    total = blocks.zeros(grad, layout)
    for run in blocks.runs(grad, layout) if layout.vectors else ():
        weights = _weights(theta, product, run).mT
        for block in run.blocks:
            blocks.scatter(total, block, torch.bmm(weights, blocks.part(grad, block).flatten(2)))
    return blocks.inner(total, layout, grad.dtype)


def _weights(theta: torch.Tensor, product: GatherProduct, run: Run) -> torch.Tensor:
    """The run's dense matrices ``(g, M, K)``."""
    chosen = (
        theta[run.params] if isinstance(run.params, slice) else theta.index_select(0, run.params)
    )
    groups, slots, _ = run.blocks[0].shape
    return chosen.view(groups, product.sizes[1], slots)


def _wide_zeros(like: torch.Tensor, size: int) -> torch.Tensor:
    return like.new_zeros(size, dtype=torch.promote_types(like.dtype, torch.float32))


def _transposed_pattern(pattern: Pattern, tables: Tables | UntiedTables) -> Callable[[], Pattern]:
    """What makes the transposed pattern when it is wanted, without keeping this one alive."""
    if isinstance(pattern, KroneckerPattern):
        major = "col" if pattern.major == "row" else "row"
        rest = pattern.order, major, pattern.labels, pattern.tied
        factors = pattern.factors
        return lambda: _interned(tuple(f.T for f in factors), *rest)
    shape, number = pattern.shape, pattern.num_parameters
    return lambda: _transposed_of_tables(shape, number, tables)


def _transposed_of_tables(shape: tuple[int, int], number: int, tables: Tables) -> Pattern:
    arrays, table = tables.factors[0], tables.sizes
    stored = np.broadcast_to(arrays.cols[:, None] >= 0, table)
    triples = [
        np.broadcast_to(side, table)[stored]
        for side in (arrays.cols[:, None], arrays.rows[:, :, None], arrays.params[..., None])
    ]
    # in the order in which the search wants them: sorting there would hold two copies
    order = np.lexsort((triples[2], triples[0]))
    for k in range(3):  # one at a time: they can be the most memory of a whole run
        triples[k] = triples[k][order]
    return Pattern(shape[::-1], *triples, number)
