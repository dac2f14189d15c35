"""Reads in regular steps: gathered rows are a strided view of padded vectors, without an index.

A convolution reads column ``stride * position + dilation * tap - padding`` of every axis. Where
that holds of all factors of a pattern, gathering is one strided copy of long runs, scattering a few
strided sums, and a kernel of one tap needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as every
from math import ceil, prod
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import pad

from .blocks import Blocks, Run, block_bytes, slice_or_indices
from .layout import Layout
from .tables import Tables

LONG = 64  # vectors whose entries lie next to each other are copied faster than rows of an image
View = tuple[tuple[int, ...], tuple[int, ...], int]  # sizes, strides, offset
Box = tuple[list[int], list[int]]  # the first place and the size along every factor


class StepBlock(NamedTuple):
    """Neighbouring positions, of one vector or of several.

    Attributes:
        shape: ``(g, K, columns)`` of the gathered rows.
        read: The gathered rows in the padded vectors: groups, slots, columns.
        slots: The axes of ``read`` along which two entries may be one.
        wrote: The rows written, ``(g, M, ...)``.
        is_view: Whether nothing needs copying.
    """

    shape: tuple[int, int, int]
    read: View
    slots: tuple[int, ...]
    wrote: View
    is_view: bool


class StepBlocks(Blocks):
    """Blocks whose rows are gathered as a view.

    Args:
        tables: Tables that have steps, and write rows in steps.
        shape: ``(rows, cols)`` of the matrix.
    """

    def __init__(self, tables: Tables, shape: tuple[int, int]) -> None:
        super().__init__(tables, shape)
        self.factors = tables.steps
        self.widths = [steps.width + sum(steps.pads) for steps in self.factors]

    def layout(self, x: torch.Tensor) -> Layout:
        """As they lie; entry after entry where an entry of all vectors is a long run to copy."""
        return Layout.of(x) if x.shape[1] < LONG else Layout(x.shape[1], False)

    def padded(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The vectors, with zeros around them along every factor."""
        x = layout.laid(x)
        if not self.tables.reads_absent:
            return x
        x = x.unflatten(0, [steps.width for steps in self.factors])
        sides = [steps.pads for steps in self.factors]
        if layout.batch_first:
            x, sides = x.movedim(-1, 0), [(0, 0), *sides]
        else:
            sides = [*sides, (0, 0)]
        return pad(x, [side for pair in reversed(sides) for side in pair])

    def runs(self, x: torch.Tensor, layout: Layout) -> list[Run]:
        """The blocks for such vectors, as large as the matrix they meet if that is larger."""
        least = block_bytes(x.device)
        key = *layout, x.element_size(), x.device, least
        return self._kept(key, lambda: list(self._made(x, layout, least)))

    def _made(self, x: torch.Tensor, layout: Layout, least: int) -> Iterator[Run]:
        _, outputs, slots, positions = self.sizes
        heights = [steps.sizes[0] for steps in self.factors]
        lengths = [steps.sizes[2] for steps in self.factors]
        columns = max(1, least // (slots * x.element_size()), outputs)
        n = layout.vectors
        together = 1 if layout.batch_first else n
        everywhere, every_slot = _whole(lengths), _whole([steps.sizes[1] for steps in self.factors])
        box = next(boxes(heights, 1))
        if self._block(layout, box, every_slot, everywhere, (0, together)).is_view:
            columns = positions * together  # nothing is copied
        most = max(1, columns // together)
        if layout.batch_first:
            together = min(n, max(1, columns // positions))
        at_once = max(1, columns // (positions * together))
        if self._block(layout, _whole(heights), every_slot, everywhere, (0, together)).is_view:
            at_once = prod(heights)
        vectors = [(first, min(together, n - first)) for first in range(0, n, together)]
        for groups in boxes(heights, at_once):
            first = _flat(groups[0], heights)
            params = self.tables.params(slice(first, first + prod(groups[1])))
            params = params.reshape(len(params), outputs, *every_slot[1])
            shared: dict[tuple, list[StepBlock]] = {}
            places = [(box, self._present(groups, box)) for box in boxes(lengths, most)]
            for part, (box, slots) in every(vectors, places):
                block = self._block(layout, groups, slots, box, part)
                shared.setdefault(tuple(map(tuple, slots)), []).append(block)
            for box, blocks in shared.items():
                kept = tuple(slice(at, at + size) for at, size in zip(*box, strict=True))
                chosen = params[:, :, *kept].reshape(-1)
                yield Run(slice_or_indices(chosen, x.device), blocks)

    def _present(self, groups: Box, positions: Box) -> Box:
        """The slots that read more than zeros there: at the border of an image fewer."""
        result = [], []
        for k, steps in enumerate(self.factors):
            first, size = 0, steps.sizes[1]
            if steps.pads != (0, 0):
                at, place = (slice(b[0][k], b[0][k] + b[1][k]) for b in (groups, positions))
                present = np.flatnonzero(
                    (self.tables.factors[k].cols[at, :, place] >= 0).any((0, 2))
                )
                if len(present):
                    first, size = int(present[0]), int(np.ptp(present)) + 1
            result[0].append(first)
            result[1].append(size)
        return result

    def gather(self, x: torch.Tensor, block: StepBlock, buffer: torch.Tensor) -> torch.Tensor:
        """The rows, of the vectors themselves where they lie so."""
        sizes, strides, first = block.read
        view = x.as_strided(sizes, strides, x.storage_offset() + first)
        if block.is_view:
            return view
        rows = buffer[: prod(sizes)].view(block.shape)
        rows.view(sizes).copy_(view)
        return rows

    def copied(self, block: StepBlock, vectors: int) -> int:
        """All of them, or none."""
        return 0 if block.is_view else prod(block.shape)

    def part(self, y: torch.Tensor, block: StepBlock) -> torch.Tensor:
        """The rows of y."""
        sizes, strides, first = block.wrote
        return y.as_strided(sizes, strides, y.storage_offset() + first)

    def zeros(self, like: torch.Tensor, layout: Layout) -> torch.Tensor:
        """With what absent slots give around them."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(prod(self.widths) * layout.vectors, dtype=dtype)

    def scatter(self, total: torch.Tensor, block: StepBlock, rows: torch.Tensor) -> None:
        """Add all that one tap reads at a time."""
        sizes, strides, first = block.read
        kept = [axis for axis in range(len(sizes)) if axis not in block.slots]
        rows = rows.view(sizes).permute(*block.slots, *kept)
        sides = [sizes[a] for a in kept], [strides[a] for a in kept]
        for tap in every(*(range(sizes[a]) for a in block.slots)):
            offset = first + sum(t * strides[a] for t, a in zip(tap, block.slots, strict=True))
            total.as_strided(*sides, offset).add_(rows[tap])

    def inner(self, total: torch.Tensor, layout: Layout, dtype: torch.dtype) -> torch.Tensor:
        """The vectors without the zeros around them."""
        axis = int(layout.batch_first)
        sizes = [layout.vectors, *self.widths] if axis else [*self.widths, layout.vectors]
        x = total.view(sizes)
        for k, steps in enumerate(self.factors, axis):
            x = x.narrow(k, steps.pads[0], steps.width)
        result = layout.empty(total, self.shape[1], dtype)
        target = result.unflatten(0, [steps.width for steps in self.factors])
        (target.movedim(-1, 0) if axis else target).copy_(x)
        return result

    def _block(
        self, layout: Layout, groups: Box, slots: Box, positions: Box, vectors: tuple[int, int]
    ) -> StepBlock:
        """The block of a box of groups, one of slots, one of positions, and some vectors."""
        entry, vector = layout.strides(prod(self.widths))
        offset = vectors[0] * vector
        axes: tuple[list, list, list] = [], [], []
        for k, steps in enumerate(self.factors):
            scale = entry * prod(self.widths[k + 1 :])
            group, slot, position = (step * scale for step in steps.steps)
            offset += steps.first * scale + groups[0][k] * group
            offset += slots[0][k] * slot + positions[0][k] * position
            axes[0].append((groups[1][k], group, False))
            axes[1].append((slots[1][k], slot, steps.overlaps))
            axes[2].append((positions[1][k], position, False))
        axes[2].insert(0 if layout.batch_first else len(axes[2]), (vectors[1], vector, False))
        shape = tuple(prod(size for size, *_ in part) for part in axes)
        merged = [_merged(part) for part in axes]
        columns = merged[2] or [(1, 1, False)]
        is_view = all(len(part) < 2 for part in merged) and columns[0][1] == 1
        is_view = is_view and all(stride >= shape[2] for _, stride, _ in merged[1])
        parts = [part or [(1, shape[2], False)] for part in merged[:2]]
        sizes, strides, apart = zip(*parts[0], *parts[1], *columns, strict=True)
        taps = tuple(axis for axis, overlaps in enumerate(apart) if overlaps)
        wrote = self._wrote(layout, groups, positions, vectors)
        return StepBlock(shape, (sizes, strides, offset), taps, wrote, is_view)

    def _wrote(self, layout: Layout, groups: Box, positions: Box, vectors: tuple[int, int]) -> View:
        entry, vector = layout.strides(self.shape[0])
        group, output, position = (step * entry for step in self.row_strides)
        first = [
            _flat(box[0], [steps.sizes[axis] for steps in self.factors])
            for box, axis in ((groups, 0), (positions, 2))
        ]
        offset = self.first_row * entry + first[0] * group + first[1] * position
        axes = [(prod(positions[1]), position, False)]
        axes.insert(0 if layout.batch_first else 1, (vectors[1], vector, False))
        columns = _merged(axes) or [(1, 1, False)]
        if len(columns) == 1 and columns[0][1] != 1:
            columns.append((1, 1, False))
        sizes = prod(groups[1]), self.sizes[1], *(size for size, *_ in columns)
        strides = group, output, *(stride for _, stride, _ in columns)
        return sizes, strides, offset + vectors[0] * vector


def _whole(sizes: list[int]) -> Box:
    return [0] * len(sizes), list(sizes)


def _flat(place: list[int], sizes: list[int]) -> int:
    return int(np.ravel_multi_index(place, sizes))


def _merged(axes: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """The axes ``(size, stride, overlaps)`` longer than one; those that lie as one are one."""
    result: list[tuple[int, int, bool]] = []
    for size, stride, overlaps in axes:
        if size == 1:
            continue
        if result and not overlaps and not result[-1][2] and result[-1][1] == stride * size:
            result[-1] = result[-1][0] * size, stride, False
        else:
            result.append((size, stride, overlaps))
    return result


def boxes(sizes: list[int], most: int) -> Iterator[Box]:
    """Parts of a grid in order, each a run of about so many of its places, at most twice that."""
    axis, inner = len(sizes), 1
    while axis and inner * sizes[axis - 1] <= most:
        axis -= 1
        inner *= sizes[axis]
    if axis == 0:
        yield _whole(sizes)
        return
    axis, step = axis - 1, max(1, most // inner)
    step = ceil(sizes[axis] / max(1, round(sizes[axis] / step)))  # no small part at the end
    rest = sizes[axis + 1 :]
    for outer in every(*map(range, sizes[:axis])):
        for start in range(0, sizes[axis], step):
            length = min(step, sizes[axis] - start)
            yield [*outer, start, *(0 for _ in rest)], [*(1 for _ in outer), length, *rest]
