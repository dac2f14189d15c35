"""The product with a regular pattern: gathered rows times a small dense matrix.

In a convolution all output channels of a position read the same inputs, and all positions share the
weights. Tied or not, such a pattern is a batch of ``G`` small dense matrices over gathered rows,

    y[rows[g, m, l]] = sum_k theta[params[g, m, k]] * x[cols[g, k, l]].

Tied: one group a channel group, ``l`` runs over positions. Untied: one group a position, ``l`` is
alone. The form is found in the index arrays, so any pattern that has it is served, whatever layer
it came from. Rows are gathered block by block into a reused buffer: nothing of the size of an
unfolded image is ever stored, and the backward pass gathers again instead of saving.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ..pattern import Pattern

BLOCK_BYTES = 1 << 20
# table entries a stored entry; beyond it the absent entries cost more than they save
MOST_FILL = 2.0


class Block(NamedTuple):
    """A run of groups and positions whose gathered rows fit the buffer.

    Attributes:
        groups: Slice of the G groups.
        positions: Slice of the L positions.
        shape: ``(g, K, l)`` of the gathered rows.
        index: Columns to gather, int64 ``(g * K * l,)``.
        absent: Where in ``index`` a zero stands instead of a column, int64.
        params: The block's parameters in ``(g, M, K)`` order: a slice of theta, or their indices.
    """

    groups: slice
    positions: slice
    shape: tuple[int, int, int]
    index: torch.Tensor
    absent: torch.Tensor
    params: slice | torch.Tensor


class GatherProduct:
    """``W(theta) @ x`` for a regular pattern. Made by ``detect``.

    Args:
        pattern: The pattern of W.
        cols: Column read by slot k at position l, int64 ``(G, K, L)``; -1 where absent.
        params: Parameter of output m in slot k, int64 ``(G, M, K)``; -1 where absent, and then the
            column is absent at every position.
        rows: Row written, int64 ``(G, M, L)``, an arithmetic progression along every axis.
    """

    def __init__(
        self, pattern: Pattern, cols: np.ndarray, params: np.ndarray, rows: np.ndarray
    ) -> None:
        self.shape, self.num_parameters, self.nnz = (
            pattern.shape,
            pattern.num_parameters,
            pattern.nnz,
        )
        self.sizes = (*params.shape, cols.shape[2])  # G, M, K, L
        self.first_row = int(rows[0, 0, 0])
        self.row_strides = _strides(rows)
        self.covers_all_rows = rows.size == pattern.shape[0]
        self._cols, self._params = cols, params
        self._blocks: dict[tuple, list[Block]] = {}

    def __repr__(self) -> str:
        groups, outputs, slots, positions = self.sizes
        return (
            f"GatherProduct({self.shape[0]}x{self.shape[1]}, nnz={self.nnz}): {groups} dense "
            f"{outputs}x{slots} matrices, each shared by {positions} positions"
        )

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Theta ``(num_parameters,)`` and x ``(cols, n)`` to y ``(rows, n)``."""
        return _GatheredProduct.apply(theta, x, self)

    @classmethod
    def detect(cls, pattern: Pattern) -> GatherProduct | None:
        """The product for this pattern, or None where its structure is not regular."""
        if pattern.nnz == 0:
            return None
        component = _rows_sharing_parameters(pattern)
        if component is None:
            return None
        tables = _tables(pattern, component)
        if tables is None:
            return None
        product = cls(pattern, *tables)
        return None if product.row_strides is None else product

    def output_view(self, y: torch.Tensor) -> torch.Tensor:
        """Contiguous y ``(rows, n)`` seen as ``(G, M, L, n)``."""
        n = y.shape[1]
        groups, outputs, _, positions = self.sizes
        strides = [stride * n for stride in self.row_strides]
        return y.as_strided((groups, outputs, positions, n), (*strides, 1), self.first_row * n)

    def blocks(self, x: torch.Tensor) -> list[Block]:
        """The blocks for vectors like ``x``, made once a width and device."""
        groups, _, slots, positions = self.sizes
        many = max(1, BLOCK_BYTES // (slots * max(1, x.shape[1]) * x.element_size()))
        step_l = min(positions, many)
        step_g = min(groups, max(1, many // positions))
        key = (step_g, step_l, x.device)
        if key not in self._blocks:
            widths = (self._params[:, 0] >= 0).sum(1)
            borders = [0, *(np.flatnonzero(np.diff(widths)) + 1), groups]
            self._blocks[key] = [
                self._block(slice(g, min(g + step_g, stop)), slice(l, l + step_l), x.device)
                for first, stop in pairwise(borders)
                for g in range(first, stop, step_g)
                for l in range(0, positions, step_l)  # noqa: E741
            ]
        return self._blocks[key]

    def _block(self, groups: slice, positions: slice, device: torch.device) -> Block:
        width = int((self._params[groups.start, 0] >= 0).sum())
        cols = self._cols[groups, :width, positions]
        params = self._params[groups, :, :width].reshape(-1)
        first = int(params[0])
        if np.array_equal(params, np.arange(first, first + len(params))):
            params = slice(first, first + len(params))
        else:
            params = torch.from_numpy(params).to(device)
        index = torch.from_numpy(cols.reshape(-1)).to(device)
        absent = (index < 0).nonzero()[:, 0]
        return Block(groups, positions, cols.shape, index.clamp(min=0), absent, params)


class _GatheredProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta: torch.Tensor, x: torch.Tensor, product: GatherProduct):
        ctx.strides = x.stride()
        theta, x = theta.contiguous(), x.contiguous()
        ctx.save_for_backward(theta, x)
        ctx.product = product
        n = x.shape[1]
        new = x.new_empty if product.covers_all_rows else x.new_zeros
        y = new(product.shape[0], n)
        out = product.output_view(y)
        for block, gathered in _gather(product, x):
            target = out[block.groups, :, block.positions]
            weights = _weights(theta, product, block)
            if len(target) == 1 and product.row_strides[2] == 1:
                torch.mm(weights[0], gathered[0], out=_merge(target[0]))
            else:
                target.copy_(torch.bmm(weights, gathered).view(target.shape))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        theta, x = ctx.saved_tensors
        product, n = ctx.product, x.shape[1]
        incoming = product.output_view(grad.contiguous())
        grad_theta = grad_x = None
        if ctx.needs_input_grad[0]:
            grad_theta = _theta_gradient(product, theta, x, incoming)
        if ctx.needs_input_grad[1]:
            grad_x = torch.zeros_like(x)
            for block in product.blocks(x) if n else ():
                weights = _weights(theta, product, block)
                scattered = torch.bmm(weights.mT, _merged(incoming, block)).view(-1, n)
                if len(block.absent):
                    scattered.index_fill_(0, block.absent, 0)
                grad_x.index_add_(0, block.index, scattered)
            if ctx.strides == (1, x.shape[0]):
                # in the layout of x: the layer before multiplies it with what it saved in that one
                grad_x = grad_x.t().contiguous().t()
        return grad_theta, grad_x, None


def _theta_gradient(
    product: GatherProduct, theta: torch.Tensor, x: torch.Tensor, incoming: torch.Tensor
) -> torch.Tensor:
    """For each parameter, outgoing gradient times gathered input, summed over positions."""
    wide = torch.promote_types(x.dtype, torch.float32)
    grad = theta.new_zeros(theta.shape, dtype=wide)
    groups, outputs, slots, positions = product.sizes
    # (K, M) rather than (M, K): the product with few outputs is faster this way round
    sums = grad.new_zeros((groups, slots, outputs) if positions > 1 else 0)
    for block, gathered in _gather(product, x):
        part = _merged(incoming, block)
        if positions == 1:
            _add_at(grad, block.params, torch.bmm(part, gathered.mT))
        elif wide == x.dtype:
            sums[block.groups, : block.shape[1]].baddbmm_(gathered, part.mT)
        else:
            sums[block.groups, : block.shape[1]] += torch.bmm(gathered, part.mT)
    if positions > 1:
        for block in product.blocks(x):
            if block.positions.start == 0:
                _add_at(grad, block.params, sums[block.groups, : block.shape[1]].mT)
    return grad.to(theta.dtype)


def _add_at(total: torch.Tensor, at: slice | torch.Tensor, values: torch.Tensor) -> None:
    values = values.reshape(-1).to(total.dtype)
    if isinstance(at, slice):
        total[at] += values
    else:
        total.index_add_(0, at, values)


def _gather(product: GatherProduct, x: torch.Tensor) -> Iterator[tuple[Block, torch.Tensor]]:
    """The blocks with their gathered rows ``(g, K, l * n)``, in a buffer that is used again."""
    n = x.shape[1]
    if n == 0:
        return
    blocks = product.blocks(x)
    buffer = x.new_empty(max(len(block.index) for block in blocks), n)
    for block in blocks:
        rows = buffer[: len(block.index)]
        torch.index_select(x, 0, block.index, out=rows)
        if len(block.absent):
            rows.index_fill_(0, block.absent, 0)
        groups, slots, positions = block.shape
        yield block, rows.view(groups, slots, positions * n)


def _weights(theta: torch.Tensor, product: GatherProduct, block: Block) -> torch.Tensor:
    """The block's dense matrices ``(g, M, K)``."""
    at = block.params
    chosen = theta[at] if isinstance(at, slice) else theta.index_select(0, at)
    return chosen.view(block.shape[0], product.sizes[1], block.shape[1])


def _merged(incoming: torch.Tensor, block: Block) -> torch.Tensor:
    """The block's part of the outputs as ``(g, M, l * n)``."""
    part = incoming[block.groups, :, block.positions]
    return part.reshape(part.shape[0], part.shape[1], -1)


def _merge(target: torch.Tensor) -> torch.Tensor:
    """``(M, l, n)`` with contiguous ``(l, n)`` seen as ``(M, l * n)``."""
    outputs, positions, n = target.shape
    return target.as_strided((outputs, positions * n), (target.stride(0), 1))


def _strides(rows: np.ndarray) -> tuple[int, int, int] | None:
    """The steps of an arithmetic progression along every axis, or None."""
    first = rows[0, 0, 0]
    steps = tuple(
        int(rows[tuple(int(a == axis) for a in range(3))] - first) if size > 1 else 1
        for axis, size in enumerate(rows.shape)
    )
    grid = sum(
        step * np.arange(size).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (step, size) in enumerate(zip(steps, rows.shape, strict=True))
    )
    # as_strided wants non-negative steps
    return steps if min(steps) >= 0 and np.array_equal(rows, first + grid) else None


def _rows_sharing_parameters(pattern: Pattern) -> np.ndarray | None:
    """Smallest row connected to each row through shared parameters; None if the search is long."""
    label = np.arange(pattern.shape[0])
    if np.bincount(pattern.index, minlength=1).max() == 1:
        return label
    for _ in range(8):
        smallest = np.full(pattern.num_parameters, pattern.shape[0])
        np.minimum.at(smallest, pattern.index, label[pattern.row])
        new = label.copy()
        np.minimum.at(new, pattern.row, smallest[pattern.index])
        if np.array_equal(new, label):
            return label
        label = new
    return None


def _tables(
    pattern: Pattern, component: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """``cols (G, K, L)``, ``params (G, M, K)`` and ``rows (G, M, L)``, or None if not regular."""
    used = np.flatnonzero(np.bincount(pattern.row, minlength=pattern.shape[0]))
    names, part_of_row = np.unique(component[used], return_inverse=True)
    heights = np.bincount(part_of_row)
    if heights.min() != heights.max():
        return None
    parts, positions = len(names), int(heights[0])
    rows = used[np.argsort(part_of_row, kind="stable")].reshape(parts, positions)
    place = np.empty(pattern.shape[0], dtype=np.int64)
    place[rows.reshape(-1)] = np.tile(np.arange(positions), parts)
    part = np.empty(pattern.shape[0], dtype=np.int64)
    part[used] = part_of_row

    # Slots of a part: tied rows align by parameter (one that a row uses twice takes two slots),
    # rows that share nothing by column.
    row, col, index = _sorted_triples(pattern, by_column=positions == 1)
    if positions == 1:
        slot = _count_within_runs(row[1:] != row[:-1])
    else:
        repeat = _count_within_runs((row[1:] != row[:-1]) | (index[1:] != index[:-1]))
        name = index * (int(repeat.max()) + 1) + repeat
        part_of_name = np.full(int(name.max()) + 1, parts)
        part_of_name[name] = part[row]
        ranked = np.argsort(part_of_name, kind="stable")
        slot_of_name = np.empty_like(ranked)
        slot_of_name[ranked] = _count_within_runs(np.diff(part_of_name[ranked]) != 0)
        slot = slot_of_name[name]
    slots = int(slot.max()) + 1
    if parts * positions * slots > MOST_FILL * pattern.nnz:
        return None

    cols = np.full((parts, slots, positions), -1, dtype=np.int64)
    cols[part[row], slot, place[row]] = col
    params = np.full((parts, slots), -1, dtype=np.int64)
    params[part[row], slot] = index

    # parts that read the same columns are outputs of one group
    hashed = (cols.reshape(parts, -1) * _hash_weights(slots * positions)).sum(1)
    _, leader, group = np.unique(hashed, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(leader))[group]
    leader = np.sort(leader)
    members = np.bincount(group)
    if members.min() != members.max() or not np.array_equal(cols, cols[leader[group]]):
        return None
    groups, outputs = len(leader), int(members[0])
    if outputs * positions == 1:
        return None
    by_group = np.argsort(group, kind="stable")
    return (
        cols[leader],
        params[by_group].reshape(groups, outputs, slots),
        rows[by_group].reshape(groups, outputs, positions),
    )


def _sorted_triples(pattern: Pattern, by_column: bool) -> tuple[np.ndarray, ...]:
    """The triples by row and, within a row, by column or by parameter."""
    second = pattern.col if by_column else pattern.index
    new_row = pattern.row[1:] != pattern.row[:-1]
    rows_together = new_row.sum() + 1 == len(np.unique(pattern.row[np.append(True, new_row)]))
    # as the builders store them
    if rows_together and (new_row | (second[1:] >= second[:-1])).all():
        return pattern.row, pattern.col, pattern.index
    order = np.lexsort((second, pattern.row))
    return pattern.row[order], pattern.col[order], pattern.index[order]


def _count_within_runs(is_new: np.ndarray) -> np.ndarray:
    """Position of each element in its run; ``is_new[k]`` says element ``k + 1`` starts one."""
    start = np.flatnonzero(np.concatenate([[True], is_new]))
    lengths = np.diff(np.append(start, len(is_new) + 1))
    return np.arange(len(is_new) + 1) - np.repeat(start, lengths)


def _hash_weights(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1 << 62, size=size, dtype=np.int64)
