"""The product with a regular pattern: gathered rows times a small dense matrix.

In a convolution all output channels of a position read the same inputs, and all positions share the
weights. Tied or not, such a pattern is a batch of ``G`` small dense matrices over gathered rows,

    y[rows[g, m, l]] = sum_k theta[params[g, m, k]] * x[cols[g, k, l]].

Tied: one group a channel group, ``l`` runs over positions. Untied: one group a position, ``l`` is
alone. The form is found in the index arrays, so any pattern that has it is served, whatever layer
it came from. Rows are gathered block by block into a reused buffer: nothing of the size of an
unfolded image is ever stored, and the backward pass gathers again instead of saving. Where the
transposed pattern has the form too, as a tied convolution of stride 1 has, the backward pass
gathers from the outgoing gradient, once for both gradients.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from ..pattern import Pattern
from .casting import as_given
from .indices import check_operands

BLOCK_BYTES = 1 << 20
MOST_WIDTHS = 16  # widths of vectors whose tables are kept
# table entries a stored entry; beyond it the absent entries cost more than they save
MOST_FILL = 2.0


class Block(NamedTuple):
    """Neighbouring positions whose gathered rows fit the buffer.

    Attributes:
        first_row: Where the block begins in the result.
        shape: ``(g, K, l)`` of the gathered rows.
        index: Rows to gather, int64 ``(g * K * l,)``; the number of columns, where the row of zeros
            stands, in place of an absent one.
    """

    first_row: int
    shape: tuple[int, int, int]
    index: torch.Tensor


class Run(NamedTuple):
    """Blocks that are multiplied by the same dense matrices.

    Attributes:
        params: The matrices' parameters in ``(g, M, K)`` order: a slice of theta, or their indices.
            Slots that are absent at every position of the blocks are left out.
        blocks: The blocks.
    """

    params: slice | torch.Tensor
    blocks: list[Block]


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
        self.row_strides = _strides(rows)
        self.covers_all_rows = rows.size == pattern.shape[0]
        self.reads_absent = bool((cols < 0).any())
        self._cols, self._params, self._rows = cols, params, rows
        self._runs: dict[tuple, list[Run]] = {}

    def __repr__(self) -> str:
        groups, outputs, slots, positions = self.sizes
        return (
            f"GatherProduct({self.shape[0]}x{self.shape[1]}, nnz={self.nnz}): {groups} dense "
            f"{outputs}x{slots} matrices, each shared by {positions} positions"
        )

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Theta ``(num_parameters,)`` and x ``(cols, n)`` to y ``(rows, n)``."""
        check_operands(self, theta, x)
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

    def part(self, y: torch.Tensor, block: Block) -> torch.Tensor:
        """The block's rows of contiguous y ``(rows, n)``: ``(g, M, l * n)`` or ``(g, M, l, n)``."""
        n = y.shape[1]
        group, output, position = self.row_strides
        groups, _, positions = block.shape
        first = y.storage_offset() + block.first_row * n
        if position == 1 or positions == 1:
            shape, strides = (groups, self.sizes[1], positions * n), (group * n, output * n, 1)
        else:
            shape = groups, self.sizes[1], positions, n
            strides = group * n, output * n, position * n, 1
        return y.as_strided(shape, strides, first)

    @cached_property
    def transposed(self) -> GatherProduct | None:
        """The product with the transposed matrix, where tied rows leave it regular too."""
        return None if self.sizes[3] == 1 else self.detect(self._transposed_pattern())

    def _transposed_pattern(self) -> Pattern:
        table = self.sizes
        stored = np.broadcast_to(self._cols[:, None] >= 0, table)
        triples = [
            np.broadcast_to(side, table)[stored]
            for side in (self._cols[:, None], self._rows[:, :, None], self._params[..., None])
        ]
        # in the order in which the search wants them: sorting there would hold two copies
        order = np.lexsort((triples[2], triples[0]))
        for k in range(3):  # one at a time: they can be the most memory of a whole run
            triples[k] = triples[k][order]
        return Pattern(self.shape[::-1], *triples, self.num_parameters)

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """Contiguous x, above a row of zeros if a slot reads none of its rows."""
        if not self.reads_absent:
            return x.contiguous()
        padded = x.new_empty(x.shape[0] + 1, x.shape[1])
        padded[:-1], padded[-1] = x, 0
        return padded

    def runs(self, x: torch.Tensor) -> list[Run]:
        """The blocks for vectors like ``x``, kept for the last widths and devices."""
        groups, _, slots, positions = self.sizes
        many = max(1, BLOCK_BYTES // (slots * max(1, x.shape[1]) * x.element_size()))
        step_l = min(positions, many)
        step_g = min(groups, max(1, many // positions))
        key = (step_g, step_l, x.device)
        runs = self._runs.get(key)
        if runs is None:
            widths = (self._params[:, 0] >= 0).sum(1)
            borders = [0, *(np.flatnonzero(np.diff(widths)) + 1), groups]
            runs = [
                run
                for first, stop in pairwise(borders)
                for g in range(first, stop, step_g)
                for run in self._split(slice(g, min(g + step_g, stop)), step_l, x.device)
            ]
            if len(self._runs) >= MOST_WIDTHS:
                self._runs.pop(next(iter(self._runs)), None)
            self._runs[key] = runs
        return runs

    def _split(self, groups: slice, step: int, device: torch.device) -> list[Run]:
        """The runs of some groups: blocks with the same slots together."""
        runs: dict[bytes, Run] = {}
        for start in range(0, self.sizes[3], step):
            positions = slice(start, start + step)
            cols = self._cols[groups, :, positions]
            slots = (cols >= 0).any((0, 2))
            key = slots.tobytes()
            if key not in runs:
                params = self._params[groups][:, :, slots].reshape(-1)
                runs[key] = Run(_slice_or_indices(params, device), [])
            cols = cols[:, slots]
            index = np.where(cols < 0, self.shape[1], cols).reshape(-1)
            first_row = int(self._rows[groups.start, 0, start])
            runs[key].blocks.append(
                Block(first_row, cols.shape, torch.from_numpy(index).to(device))
            )
        return list(runs.values())


class _GatheredProduct(torch.autograd.Function):
    @staticmethod
    @as_given
    def forward(ctx, theta: torch.Tensor, x: torch.Tensor, product: GatherProduct):
        ctx.product = product
        ctx.save_for_backward(theta, x)
        return _multiply(product, theta, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @as_given
    def backward(ctx, grad: torch.Tensor):
        product, (theta, x) = ctx.product, ctx.saved_tensors
        wants_theta, wants_x, _ = ctx.needs_input_grad
        grad_theta = grad_x = None
        if wants_theta:
            wide = torch.promote_types(x.dtype, torch.float32)
            grad_theta = theta.new_zeros(theta.shape, dtype=wide)
        if wants_x and product.transposed is not None:
            # grad x^T is the transpose of x grad^T, so rows gathered from grad serve both
            grad_x = _multiply(product.transposed, theta, grad, x, grad_theta)
        else:
            if wants_theta:
                _pass(product, theta, x, None, grad, grad_theta)
            if wants_x:
                grad_x = _scatter(product, theta, grad)
        if wants_x and x.stride() == (1, x.shape[0]):
            # in the layout of x: the layer before multiplies it with what it saved in that one
            grad_x = grad_x.t().contiguous().t()
        return grad_theta if grad_theta is None else grad_theta.to(theta.dtype), grad_x, None


def _multiply(
    product: GatherProduct,
    theta: torch.Tensor,
    x: torch.Tensor,
    grad: torch.Tensor | None = None,
    grad_theta: torch.Tensor | None = None,
) -> torch.Tensor:
    """``W x``, and on the way the gradient of theta if it is wanted."""
    new = x.new_empty if product.covers_all_rows else x.new_zeros
    y = new(product.shape[0], x.shape[1])
    _pass(product, theta, x, y, grad, grad_theta)
    return y


def _pass(
    product: GatherProduct,
    theta: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor | None,
    grad: torch.Tensor | None,
    grad_theta: torch.Tensor | None,
) -> None:
    """Gather x once: write ``W x`` to y, and add theta's share of ``grad x^T`` to grad_theta."""
    n = x.shape[1]
    if n == 0:
        return
    x, runs = product.padded(x), product.runs(x)
    grad = None if grad_theta is None else grad.contiguous()
    buffer = x.new_empty(max(len(block.index) for run in runs for block in run.blocks), n)
    for run in runs:
        weights = None if y is None else _weights(theta, product, run)
        if grad is None:
            total = None
        elif in_place := product.sizes[3] == 1 and isinstance(run.params, slice):
            total = _weights(grad_theta, product, run)
        else:
            # (K, M) rather than (M, K): the product with few outputs is faster this way round
            total = grad_theta.new_zeros(*run.blocks[0].shape[:2], product.sizes[1])
        shape = None
        for block in run.blocks:
            if block.shape != shape:
                shape = groups, slots, positions = block.shape
                rows = buffer.narrow(0, 0, groups * slots * positions)
                gathered = rows.view(groups, slots, positions * n)
            torch.index_select(x, 0, block.index, out=rows)
            if weights is not None:
                target = product.part(y, block)
                if positions > 1 and target.ndim == 3:
                    torch.bmm(weights, gathered, out=target)
                else:
                    # torch has a batched product only where the result is contiguous
                    target.copy_(torch.bmm(weights, gathered).view(target.shape))
            if total is not None:
                part = product.part(grad, block).flatten(2)
                sides = (part, gathered.mT) if in_place else (gathered, part.mT)
                if total.dtype == part.dtype:
                    total.baddbmm_(*sides)
                else:
                    total += torch.bmm(*sides)
        if total is not None and not in_place:
            _add_at(grad_theta, run.params, total.mT.reshape(-1))


def _add_at(total: torch.Tensor, at: slice | torch.Tensor, values: torch.Tensor) -> None:
    if isinstance(at, slice):
        total[at] += values
    else:
        total.index_add_(0, at, values)


def _scatter(product: GatherProduct, theta: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """``W^T grad``, each block's share added to the rows that it gathers."""
    n = grad.shape[1]
    grad = grad.contiguous()
    total = grad.new_zeros(product.shape[1] + 1, n)  # the last row takes what absent slots give
    for run in product.runs(grad) if n else ():
        weights = _weights(theta, product, run).mT
        for block in run.blocks:
            scattered = torch.bmm(weights, product.part(grad, block).flatten(2))
            total.index_add_(0, block.index, scattered.view(-1, n))
    return total[:-1]


def _weights(theta: torch.Tensor, product: GatherProduct, run: Run) -> torch.Tensor:
    """The run's dense matrices ``(g, M, K)``."""
    chosen = (
        theta[run.params] if isinstance(run.params, slice) else theta.index_select(0, run.params)
    )
    groups, slots, _ = run.blocks[0].shape
    return chosen.view(groups, product.sizes[1], slots)


def _slice_or_indices(params: np.ndarray, device: torch.device) -> slice | torch.Tensor:
    first = int(params[0])
    if np.array_equal(params, np.arange(first, first + len(params))):
        return slice(first, first + len(params))
    return torch.from_numpy(params).to(device)


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
        name = index
        again = (row[1:] == row[:-1]) & (index[1:] == index[:-1])
        if again.any():
            repeat = _count_within_runs(~again)
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
