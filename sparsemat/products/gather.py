"""The product with a regular pattern: gathered rows times a small dense matrix.

In a convolution all output channels of a position read the same inputs, and all positions share the
weights. Tied or not, such a pattern is a batch of ``G`` small dense matrices over gathered rows,

    y[rows[g, m, l]] = sum_k theta[params[g, m, k]] * x[cols[g, k, l]].

Tied: one group a channel group, ``l`` runs over positions. Untied: one group a position, ``l`` is
alone. The form is found in the index arrays, so any pattern that has it is served, whatever layer it
came from. Rows are gathered block by block into a reused buffer: nothing of the size of an unfolded
image is ever stored, and the backward pass gathers again instead of saving.
"""

from __future__ import annotations

import numpy as np
import torch

from ..pattern import Pattern
from .indices import DeviceIndices

BLOCK_BYTES = 1 << 20
MOST_FILL = (
    2.0  # table entries a stored entry; beyond it the absent entries cost more than they save
)


class GatherProduct:
    """``W(theta) @ x`` for a regular pattern. Made by :meth:`detect`.

    Args:
        pattern: The pattern of W.
        cols: Column read by slot k at position l, int64 ``(G, K, L)``; -1 where absent.
        params: Parameter of output m in slot k, int64 ``(G, M, K)``; -1 where absent.
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
        self.identity_params = np.array_equal(params.reshape(-1), np.arange(pattern.num_parameters))
        self.all_params_present = bool((params >= 0).all())
        self.indices = DeviceIndices(cols=cols, params=np.maximum(params, 0), absent=params < 0)
        self._blocks: dict[tuple, list[tuple]] = {}

    def __repr__(self) -> str:
        groups, outputs, slots, positions = self.sizes
        return (
            f"GatherProduct({self.shape[0]}x{self.shape[1]}, nnz={self.nnz}): {groups} dense "
            f"{outputs}x{slots} matrices, each shared by {positions} positions"
        )

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Theta ``(num_parameters,)`` and x ``(cols, n)`` to y ``(rows, n)``."""
        groups, outputs, slots, _ = self.sizes
        if self.identity_params:
            weights = theta.view(groups, outputs, slots)
        else:
            at = self.indices.on(theta.device)
            weights = theta.index_select(0, at.params.reshape(-1)).view(groups, outputs, slots)
            if not self.all_params_present:
                weights = weights.masked_fill(at.absent, 0)
        return _GatheredProduct.apply(weights, x, self)

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
        cols, params, rows = tables
        if _strides(rows) is None:
            return None
        return cls(pattern, cols, params, rows)

    def output_view(self, y: torch.Tensor) -> torch.Tensor:
        """Contiguous y ``(rows, n)`` seen as ``(G, M, L, n)``."""
        n = y.shape[1]
        groups, outputs, _, positions = self.sizes
        strides = [stride * n for stride in self.row_strides]
        return y.as_strided((groups, outputs, positions, n), (*strides, 1), self.first_row * n)

    def blocks(self, n: int, itemsize: int, device: torch.device) -> list[tuple]:
        """Blocks of groups and positions whose gathered rows fit the buffer.

        Returns:
            Tuples ``(groups, positions, (g, K, l), index, absent)``: two slices, the shape of the
            gathered block, the columns to read and where in the block a zero stands instead.
        """
        groups, _, slots, positions = self.sizes
        many = max(1, BLOCK_BYTES // (slots * max(1, n) * itemsize))
        step_l = min(positions, many)
        step_g = min(groups, max(1, many // positions))
        key = (step_g, step_l, device)
        if key not in self._blocks:
            self._blocks[key] = [
                self._block(slice(g, g + step_g), slice(start, start + step_l), device)
                for g in range(0, groups, step_g)
                for start in range(0, positions, step_l)
            ]
        return self._blocks[key]

    def _block(self, groups: slice, positions: slice, device: torch.device) -> tuple:
        block = self.indices.on(device).cols[groups, :, positions]
        absent = (block.reshape(-1) < 0).nonzero()[:, 0]
        return groups, positions, tuple(block.shape), block.reshape(-1).clamp(min=0), absent


class _GatheredProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weights: torch.Tensor, x: torch.Tensor, product: GatherProduct):
        x = x.contiguous()
        ctx.save_for_backward(weights, x)
        ctx.product = product
        n = x.shape[1]
        new = x.new_empty if product.covers_all_rows else x.new_zeros
        y = new(product.shape[0], n)
        if n == 0:
            return y
        out = product.output_view(y)
        for g, positions, rows, gathered in _gather(product, x):
            target = out[g, :, positions]
            if rows[0] == 1 and product.row_strides[2] == 1:
                torch.mm(weights[g][0], gathered[0], out=_merge(target[0]))
            else:
                target.copy_(torch.bmm(weights[g], gathered).view(target.shape))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: torch.Tensor):
        weights, x = ctx.saved_tensors
        product = ctx.product
        grad = grad.contiguous()
        incoming = product.output_view(grad)
        n = x.shape[1]
        grad_weights = grad_x = None
        if ctx.needs_input_grad[0]:
            wide = torch.promote_types(x.dtype, torch.float32)
            grad_weights = weights.new_zeros(weights.shape, dtype=wide)
            for g, positions, rows, gathered in _gather(product, x) if n else ():
                part = incoming[g, :, positions].reshape(rows[0], -1, rows[2] * n)
                if wide == x.dtype:
                    grad_weights[g].baddbmm_(part, gathered.mT)
                else:
                    grad_weights[g] += torch.bmm(part, gathered.mT)
            grad_weights = grad_weights.to(weights.dtype)
        if ctx.needs_input_grad[1]:
            grad_x = torch.zeros_like(x)
            transposed = weights.mT
            for g, positions, rows, index, absent in product.blocks(*_key(x)) if n else ():
                part = incoming[g, :, positions].reshape(rows[0], -1, rows[2] * n)
                scattered = torch.bmm(transposed[g], part).view(-1, n)
                if len(absent):
                    scattered.index_fill_(0, absent, 0)
                grad_x.index_add_(0, index, scattered)
        return grad_weights, grad_x, None


def _key(x: torch.Tensor) -> tuple[int, int, torch.device]:
    return x.shape[1], x.element_size(), x.device


def _gather(product: GatherProduct, x: torch.Tensor):
    """Yield ``(groups, positions, block shape (g, K, l), gathered (g, K, l * n))`` block by block."""
    n, blocks = x.shape[1], product.blocks(*_key(x))
    buffer = x.new_empty(max(len(index) for *_, index, _ in blocks), n)
    for g, positions, shape, index, absent in blocks:
        rows = buffer[: len(index)]
        torch.index_select(x, 0, index, out=rows)
        if len(absent):
            rows.index_fill_(0, absent, 0)
        yield g, positions, shape, rows.view(shape[0], shape[1], shape[2] * n)


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

    # Slots of a part: tied rows align by parameter (one that a row uses twice takes two slots), rows
    # that share nothing by column.
    row, col, index = _sorted_triples(pattern, by_column=positions == 1)
    if positions == 1:
        slot = _count_within_runs(row[1:] != row[:-1])
        slots = int(slot.max()) + 1
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
    if len(set(members.tolist())) != 1 or not np.array_equal(cols, cols[leader[group]]):
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
    width = int(second.max()) + 1
    if pattern.shape[0] * width >= 2**63:
        order = np.lexsort((second, pattern.row))
        return pattern.row[order], pattern.col[order], pattern.index[order]
    key = pattern.row * width + second
    if (key[1:] >= key[:-1]).all():  # as the builders store them
        return pattern.row, pattern.col, pattern.index
    order = np.argsort(key, kind="stable")
    return pattern.row[order], pattern.col[order], pattern.index[order]


def _count_within_runs(is_new: np.ndarray) -> np.ndarray:
    """Position of each element in its run; ``is_new[k]`` says element ``k + 1`` starts one."""
    start = np.flatnonzero(np.concatenate([[True], is_new]))
    lengths = np.diff(np.append(start, len(is_new) + 1))
    return np.arange(len(is_new) + 1) - np.repeat(start, lengths)


def _hash_weights(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1 << 62, size=size, dtype=np.int64)
