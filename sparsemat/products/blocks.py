"""The blocks of a product over gathered rows: what is read at once, and where it is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from .indices import constant
from .layout import Layout
from .tables import Tables, UntiedTables

# gathered at once: what the caches of the cores hold; elsewhere few launches count
CORE_BYTES = {"cpu": 1 << 20}
LARGE_BLOCK_BYTES = 1 << 28
MOST_WIDTHS = 16  # widths of vectors whose tables are kept
WIDE = 256  # columns from which matrices are multiplied as fast one by one as all at once


class Run(NamedTuple):
    """Blocks that are multiplied by the same dense matrices.

    Attributes:
        params: The matrices' parameters in ``(g, M, K)`` order: a slice of theta, or their indices.
            Slots that are absent at every position of the blocks are left out.
        blocks: The blocks, each with the ``shape`` of its gathered rows, ``(g, K, ...)``.
    """

    params: slice | torch.Tensor
    blocks: list[Any]


class Blocks(ABC):
    """The blocks of some tables, laid out for vectors of any number, type and device.

    Args:
        tables: The tables.
        shape: ``(rows, cols)`` of the matrix.

    Attributes:
        covers_all_rows: Whether every row of the result is written.
        row_strides: Steps ``(group, output, position)`` of the rows written; None where they are no
            arithmetic progression.
    """

    def __init__(self, tables: Tables | UntiedTables, shape: tuple[int, int]) -> None:
        self.tables, self.sizes, self.shape = tables, tables.sizes, shape
        rows = tables.rows()
        self.covers_all_rows = rows.size == shape[0]
        self.row_strides, self.first_row = _strides(rows), int(rows[0, 0, 0])
        self._runs: dict[tuple, list[Run]] = {}

    @abstractmethod
    def layout(self, x: torch.Tensor) -> Layout:
        """How vectors ``(cols, n)`` are read, and results written."""

    @abstractmethod
    def padded(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The vectors in a layout, with the zeros that absent slots read."""

    @abstractmethod
    def runs(self, x: torch.Tensor, layout: Layout) -> list[Run]:
        """The blocks for such vectors."""

    @abstractmethod
    def gather(self, x: torch.Tensor, block: Any, buffer: torch.Tensor) -> torch.Tensor:
        """The rows of padded x that a block reads, ``(g, K, columns)``."""

    @abstractmethod
    def copied(self, block: Any, vectors: int) -> int:
        """Numbers that :meth:`gather` writes to the buffer."""

    @abstractmethod
    def part(self, y: torch.Tensor, block: Any) -> torch.Tensor:
        """The block's rows of y: ``(g, M, columns)``, or more axes where they lie apart."""

    @abstractmethod
    def zeros(self, like: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Padded vectors of zeros in a type in which many may be added."""

    @abstractmethod
    def scatter(self, total: torch.Tensor, block: Any, rows: torch.Tensor) -> None:
        """Add rows ``(g, K, columns)`` where :meth:`gather` reads them."""

    @abstractmethod
    def inner(self, total: torch.Tensor, layout: Layout, dtype: torch.dtype) -> torch.Tensor:
        """The vectors without what pads them; no view."""

    def write(
        self, y: torch.Tensor, block: Any, weights: torch.Tensor, gathered: torch.Tensor
    ) -> None:
        """Write the product of the dense matrices and the gathered rows to y."""
        target = self.part(y, block)
        if target.ndim == 3 and (weights.shape[0] == 1 or gathered.shape[2] >= WIDE):
            torch.bmm(weights, gathered, out=target)
        else:
            # torch has a batched product only where the result is contiguous
            target.copy_(torch.bmm(weights, gathered).view(target.shape))

    def _kept(self, key: tuple, make: Any) -> list[Run]:
        runs = self._runs.get(key)
        if runs is None:
            runs = make()
            if len(self._runs) >= MOST_WIDTHS:
                self._runs.pop(next(iter(self._runs)), None)
            self._runs[key] = runs
        return runs


class IndexBlock(NamedTuple):
    """Neighbouring positions whose gathered rows fit the buffer.

    Attributes:
        shape: ``(g, K, l)`` of the gathered rows.
        index: Rows to gather, int64 ``(g * K * l,)``; the number of columns, where the row of zeros
            stands, in place of an absent one.
        rows: Where the block begins in the result, or all its rows ``(g * M * l,)`` where they are
            no arithmetic progression.
    """

    shape: tuple[int, int, int]
    index: torch.Tensor
    rows: int | torch.Tensor


class IndexBlocks(Blocks):
    """Blocks whose rows are gathered one by one, by an index: they serve any tables."""

    def __init__(self, tables: Tables | UntiedTables, shape: tuple[int, int]) -> None:
        super().__init__(tables, shape)
        self.scattered_rows = tables.rows() if self.row_strides is None else None

    def layout(self, x: torch.Tensor) -> Layout:
        """Entry after entry, so that a gathered row is one entry of all vectors."""
        return Layout(x.shape[1], False)

    def padded(self, x: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The vectors, above a row of zeros if a slot reads none of their rows."""
        if not self.tables.reads_absent:
            return layout.laid(x)
        padded = x.new_empty(x.shape[0] + 1, x.shape[1])
        padded[:-1], padded[-1] = x, 0
        return padded

    def runs(self, x: torch.Tensor, layout: Layout) -> list[Run]:
        """The blocks for such vectors, kept for the last widths and devices."""
        groups, _, slots, positions = self.sizes
        many = max(1, block_bytes(x.device) // (slots * max(1, layout.vectors) * x.element_size()))
        step_l = min(positions, many)
        step_g = min(groups, max(1, many // positions))

        def make() -> list[Run]:
            borders = [0, *(np.flatnonzero(np.diff(self.tables.slots_of)) + 1), groups]
            return [
                run
                for first, stop in pairwise(borders)
                for g in range(first, stop, step_g)
                for run in self._split(slice(g, min(g + step_g, stop)), step_l, x.device)
            ]

        return self._kept((step_g, step_l, x.device), make)

    def gather(self, x: torch.Tensor, block: IndexBlock, buffer: torch.Tensor) -> torch.Tensor:
        """The rows, entry by entry."""
        groups, slots, positions = block.shape
        n = x.shape[1]
        rows = buffer[: prod(block.shape) * n].view(groups, slots, positions * n)
        torch.index_select(x, 0, block.index, out=rows.view(-1, n))
        return rows

    def copied(self, block: IndexBlock, vectors: int) -> int:
        """All of them."""
        return prod(block.shape) * vectors

    def part(self, y: torch.Tensor, block: IndexBlock) -> torch.Tensor:
        """The rows of contiguous y; a copy where they are no progression."""
        n = y.shape[1]
        groups, _, positions = block.shape
        if self.row_strides is None:
            return y.index_select(0, block.rows).view(groups, self.sizes[1], positions * n)
        group, output, position = self.row_strides
        first = y.storage_offset() + block.rows * n
        if position == 1 or positions == 1:
            shape, strides = (groups, self.sizes[1], positions * n), (group * n, output * n, 1)
        else:
            shape = groups, self.sizes[1], positions, n
            strides = group * n, output * n, position * n, 1
        return y.as_strided(shape, strides, first)

    def write(
        self, y: torch.Tensor, block: IndexBlock, weights: torch.Tensor, gathered: torch.Tensor
    ) -> None:
        """Write the product, row by row where the rows are no progression."""
        if self.row_strides is None:
            result = torch.bmm(weights, gathered)
            y.index_copy_(0, block.rows, result.view(-1, y.shape[1]))
        else:
            super().write(y, block, weights, gathered)

    def zeros(self, like: torch.Tensor, layout: Layout) -> torch.Tensor:
        """One row more, which takes what absent slots give."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(self.shape[1] + 1, layout.vectors, dtype=dtype)

    def scatter(self, total: torch.Tensor, block: IndexBlock, rows: torch.Tensor) -> None:
        """Add them one by one."""
        total.index_add_(0, block.index, rows.view(-1, total.shape[1]).to(total.dtype))

    def inner(self, total: torch.Tensor, layout: Layout, dtype: torch.dtype) -> torch.Tensor:
        """All rows but the last."""
        return total[:-1].to(dtype, copy=True)

    def _split(self, groups: slice, step: int, device: torch.device) -> list[Run]:
        """The runs of some groups: blocks with the same slots together."""
        runs: dict[bytes, Run] = {}
        params = self.tables.params(groups)
        for start in range(0, self.sizes[3], step):
            positions = slice(start, min(start + step, self.sizes[3]))
            cols = self.tables.cols(groups, positions)
            slots = (cols >= 0).any((0, 2))
            key = slots.tobytes()
            if key not in runs:
                runs[key] = Run(slice_or_indices(params[:, :, slots].reshape(-1), device), [])
            cols = cols[:, slots]
            index = np.where(cols < 0, self.shape[1], cols).reshape(-1)
            if self.row_strides is None:
                rows = constant(self.scattered_rows[groups, :, positions].reshape(-1), device)
            else:
                group, _, position = self.row_strides
                rows = self.first_row + groups.start * group + start * position
            runs[key].blocks.append(IndexBlock(cols.shape, constant(index, device), rows))
        return list(runs.values())


def block_bytes(device: torch.device) -> int:
    """Bytes of a block; on a CPU every thread takes a share of it to its own cache."""
    if device.type not in CORE_BYTES:
        return LARGE_BLOCK_BYTES
    return CORE_BYTES[device.type] * torch.get_num_threads()


def slice_or_indices(params: np.ndarray, device: torch.device) -> slice | torch.Tensor:
    """Parameters that follow one another as a slice, others as a tensor."""
    first = int(params[0])
    if np.array_equal(params, np.arange(first, first + len(params))):
        return slice(first, first + len(params))
    return constant(params, device)


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
