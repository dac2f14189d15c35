"""The blocks of a product over gathered rows: what is read at once, and where it is written."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from .indices import constant
from .tables import Tables, UntiedTables

# gathered at once: what a core's cache holds; elsewhere few launches count
BLOCK_BYTES = {"cpu": 1 << 20}
LARGE_BLOCK_BYTES = 1 << 28
MOST_WIDTHS = 16  # widths of vectors whose tables are kept


class Block(NamedTuple):
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


class Run(NamedTuple):
    """Blocks that are multiplied by the same dense matrices.

    Attributes:
        params: The matrices' parameters in ``(g, M, K)`` order: a slice of theta, or their indices.
            Slots that are absent at every position of the blocks are left out.
        blocks: The blocks.
    """

    params: slice | torch.Tensor
    blocks: list[Block]


class Blocks:
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
        self.tables, self.sizes, self.cols = tables, tables.sizes, shape[1]
        rows = tables.rows()
        self.covers_all_rows = rows.size == shape[0]
        self.row_strides, self.first_row = _strides(rows), int(rows[0, 0, 0])
        self.scattered_rows = rows if self.row_strides is None else None
        self._runs: dict[tuple, list[Run]] = {}

    def part(self, y: torch.Tensor, block: Block) -> torch.Tensor:
        """The block's rows of contiguous y ``(rows, n)``: ``(g, M, l * n)`` or ``(g, M, l, n)``."""
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

    def runs(self, x: torch.Tensor) -> list[Run]:
        """The blocks for vectors like ``x``, kept for the last widths and devices."""
        groups, _, slots, positions = self.sizes
        most = BLOCK_BYTES.get(x.device.type, LARGE_BLOCK_BYTES)
        many = max(1, most // (slots * max(1, x.shape[1]) * x.element_size()))
        step_l = min(positions, many)
        step_g = min(groups, max(1, many // positions))
        key = (step_g, step_l, x.device)
        runs = self._runs.get(key)
        if runs is None:
            borders = [0, *(np.flatnonzero(np.diff(self.tables.slots_of)) + 1), groups]
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
        params = self.tables.params(groups)
        for start in range(0, self.sizes[3], step):
            positions = slice(start, min(start + step, self.sizes[3]))
            cols = self.tables.cols(groups, positions)
            slots = (cols >= 0).any((0, 2))
            key = slots.tobytes()
            if key not in runs:
                runs[key] = Run(_slice_or_indices(params[:, :, slots].reshape(-1), device), [])
            cols = cols[:, slots]
            index = np.where(cols < 0, self.cols, cols).reshape(-1)
            if self.row_strides is None:
                rows = constant(self.scattered_rows[groups, :, positions].reshape(-1), device)
            else:
                group, _, position = self.row_strides
                rows = self.first_row + groups.start * group + start * position
            runs[key].blocks.append(Block(cols.shape, constant(index, device), rows))
        return list(runs.values())


def _slice_or_indices(params: np.ndarray, device: torch.device) -> slice | torch.Tensor:
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
