"""The tables of a product over gathered rows: arrays, or made of those of Kronecker factors.

A table of tables is again one: groups, outputs, slots and positions of a Kronecker product are
mixed-radix numbers of the factors'. So a convolution's tables are computed for a block when it is
needed, from those of its channels and axes, and none of the size of the image is kept.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from ..kronecker import KroneckerPattern, flat_factors
from ..pattern import Pattern
from .detect import MOST_FILL, Arrays, detect


class Steps(NamedTuple):
    """The columns that one factor reads: ``first + g * group + k * slot + l * position``.

    Attributes:
        width: Its columns.
        sizes: ``(G, K, L)``.
        steps: What a group, a slot and a position add; none is negative.
        first: The first one, counted from the first zero before the columns.
        pads: Zeros before and after the columns, which absent slots read.
    """

    width: int
    sizes: tuple[int, int, int]
    steps: tuple[int, int, int]
    first: int
    pads: tuple[int, int]

    @property
    def overlaps(self) -> bool:
        """Whether two slots may read one column, at different positions."""
        return self.sizes[1] > 1 and self.sizes[2] > 1


class Tables:
    """``y[rows[g, m, l]] = sum_k theta[params[g, m, k]] * x[cols[g, k, l]]``, part by part.

    Args:
        factors: The tables of each Kronecker factor; one for a pattern that is none.
        shapes: Shape of each factor.
        counts: Parameters of each factor.
        labels: As of a :class:`~sparsemat.kronecker.KroneckerPattern`.

    Attributes:
        sizes: ``(G, M, K, L)``.
        steps: How each factor reads, where all read in regular steps; else None.
    """

    steps: list[Steps] | None = None

    def __init__(
        self,
        factors: list[Arrays],
        shapes: list[tuple[int, int]],
        counts: list[int],
        labels: np.ndarray | None = None,
    ) -> None:
        self.factors, self.shapes, self.counts, self.labels = factors, shapes, counts, labels
        self.sizes = tuple(prod(size) for size in zip(*map(_sizes, factors), strict=True))
        self.reads_absent = any((f.cols < 0).any() for f in factors)

    def stepping(self) -> Tables:
        """The same with slots in rising order where that makes all reads regular, else itself."""
        parts = [
            in_steps(f, width) for f, (_, width) in zip(self.factors, self.shapes, strict=True)
        ]
        if None in parts:
            return self
        factors, steps = (list(side) for side in zip(*parts, strict=True))
        tables = Tables(factors, self.shapes, self.counts, self.labels)
        tables.steps = steps
        return tables

    @property
    def slots_of(self) -> np.ndarray:
        """A number for each group, int64 ``(G,)``, equal where the same slots are present."""
        number = np.zeros(1, dtype=np.int64)
        for factor in self.factors:  # a factor's absent slots are its last
            width = (factor.params[:, 0] >= 0).sum(1)
            number = np.add.outer(number * (factor.params.shape[2] + 1), width).reshape(-1)
        return number

    def rows(self) -> np.ndarray:
        """Row written by each output at each position, int64 ``(G, M, L)``."""
        rows = np.zeros((1, 1, 1), dtype=np.int64)
        for factor, (height, _) in zip(self.factors, self.shapes, strict=True):
            rows = _outer(rows, factor.rows, height)
        return rows

    def cols(self, groups: slice, positions: slice) -> np.ndarray:
        """Columns read, int64 ``(g, K, l)``; -1 where absent."""
        cols = np.zeros((groups.stop - groups.start, 1, positions.stop - positions.start), int)
        group = self._digits(0, np.arange(groups.start, groups.stop))
        place = self._digits(3, np.arange(positions.start, positions.stop))
        parts = zip(self.factors, self.shapes, group, place, strict=True)
        for factor, (_, width), g, at in parts:
            part = factor.cols[g[:, None], :, at].transpose(0, 2, 1)
            cols = _with_absent(cols[:, :, None], part[:, None], width)
            cols = cols.reshape(len(g), -1, len(at))
        return cols

    def params(self, groups: slice) -> np.ndarray:
        """Parameters, int64 ``(g, M, K)``; -1 where absent."""
        group = self._digits(0, np.arange(groups.start, groups.stop))
        params = np.zeros((groups.stop - groups.start, 1, 1), dtype=np.int64)
        for factor, count, g in zip(self.factors, self.counts, group, strict=True):
            part = factor.params[g]
            params = _with_absent(params[:, :, None, :, None], part[:, None, :, None], count)
            params = params.reshape(len(g), -1, params.shape[3] * params.shape[4])
        if self.labels is not None:
            params = np.where(params < 0, -1, self.labels[params])
        return params

    def _digits(self, axis: int, numbers: np.ndarray) -> tuple[np.ndarray, ...]:
        sizes = [_sizes(f)[axis] for f in self.factors]
        return np.unravel_index(numbers, sizes)


class UntiedTables:
    """The tables of the same pattern with a parameter for every triple: a group a position.

    Args:
        tied: Tables of the tied pattern.
        first: The parameter of the first triple of every row, in the order of ``tied.rows()``.
    """

    labels = steps = None

    def __init__(self, tied: Tables, first: np.ndarray) -> None:
        groups, outputs, slots, positions = tied.sizes
        self.tied, self.sizes = tied, (groups * positions, outputs, slots, 1)
        self.first = np.moveaxis(first, 1, 2).reshape(-1, outputs)
        self.reads_absent = tied.reads_absent

    @property
    def slots_of(self) -> np.ndarray:
        """A number for each group, equal where the same slots are present."""
        step = self.tied.sizes[3]
        starts = range(0, self.sizes[0], step)
        return np.concatenate([(self._read(slice(g, g + step)) >= 0).sum(1) for g in starts])

    def rows(self) -> np.ndarray:
        """Row written by each output, int64 ``(G, M, 1)``."""
        return np.moveaxis(self.tied.rows(), 1, 2).reshape(-1, self.sizes[1], 1)

    def cols(self, groups: slice, positions: slice) -> np.ndarray:
        """Columns read, int64 ``(g, K, 1)``: present ones first, -1 after them."""
        read = self._read(groups)
        order = np.argsort(read < 0, axis=1, kind="stable")
        return np.take_along_axis(read, order, 1)[:, :, None]

    def params(self, groups: slice) -> np.ndarray:
        """Parameters, int64 ``(g, M, K)``; -1 where absent."""
        width = (self._read(groups) >= 0).sum(1)
        slot = np.arange(self.sizes[2])
        params = self.first[groups, :, None] + slot
        return np.where(slot < width[:, None, None], params, -1)

    def _read(self, groups: slice) -> np.ndarray:
        """Columns of some positions, ``(g, K)``, in the order of the slots."""
        positions = self.tied.sizes[3]
        numbers, parts = range(groups.start, groups.stop), []
        for group in range(numbers.start // positions, (numbers.stop - 1) // positions + 1):
            start = max(numbers.start - group * positions, 0)
            stop = min(numbers.stop - group * positions, positions)
            part = self.tied.cols(slice(group, group + 1), slice(start, stop))[0].T
            parts.append(part)
        return np.concatenate(parts)


def find(pattern: Pattern) -> Tables | UntiedTables | None:
    """The tables of a pattern from its factors, or found in its triples; None where irregular."""
    if isinstance(pattern, KroneckerPattern) and pattern.nnz:
        made, is_known = _of_factors(pattern)
        if is_known:
            return made
    arrays = detect(pattern)
    if arrays is None or arrays.rows[0].size == 1:
        return None
    return Tables([arrays], [pattern.shape], [pattern.num_parameters])


def in_steps(arrays: Arrays, width: int) -> tuple[Arrays, Steps] | None:
    """A factor's tables with slots in rising order, and its steps; None if it has none."""
    if (arrays.params < 0).any():
        return None
    steps = [_step(arrays.cols, axis) for axis in range(3)]
    if None in steps or steps[0] < 0 or steps[2] < 0:
        return None
    if steps[1] < 0:
        cols, params = arrays.cols[:, ::-1], arrays.params[:, :, ::-1]
        arrays, steps[1] = Arrays(cols, params, arrays.rows, False), -steps[1]
    cols, sizes = arrays.cols, arrays.cols.shape
    grids = np.ogrid[tuple(map(slice, sizes))]
    read = sum(step * grid for step, grid in zip(steps, grids, strict=True))
    at = np.unravel_index(np.argmax(cols >= 0), sizes)
    read = read + (cols[at] - read[at])
    if not np.array_equal(np.where((read >= 0) & (read < width), read, -1), cols):
        return None
    pads = max(0, -int(read.min())), max(0, int(read.max()) + 1 - width)
    found = Steps(width, sizes, tuple(steps), int(read[0, 0, 0]) + pads[0], pads)
    once = read[:, 0] if found.overlaps else read  # a sum into a view must not lose terms
    return (arrays, found) if len(np.unique(once)) == once.size else None


def _step(cols: np.ndarray, axis: int) -> int | None:
    """What the columns grow by along an axis; None where no two neighbours tell."""
    if cols.shape[axis] == 1:
        return 0
    cols = np.moveaxis(cols, axis, 0)
    seen = (cols[1:] >= 0) & (cols[:-1] >= 0)
    return int((cols[1:] - cols[:-1])[seen][0]) if seen.any() else None


def most_fill(outputs: int) -> float:
    """Table entries a stored entry up to which gathering pays, by the outputs that share a read.

    Measured on one core: an absent entry of many outputs costs a part of a dense
    product, one of a single output a read of its own.
    """
    return min(MOST_FILL + outputs / 16, 3 * MOST_FILL)


def _of_factors(pattern: KroneckerPattern) -> tuple[Tables | UntiedTables | None, bool]:
    """The tables of the factors, and whether that is all there is to find."""
    factors = list(flat_factors(pattern))
    if any(isinstance(factor, KroneckerPattern) for factor in factors):
        return None, False
    arrays = [detect(factor, most_fill(pattern.shape[0])) for factor in factors]
    if any(a is None for a in arrays):
        return None, False
    shapes, counts = [f.shape for f in factors], [f.num_parameters for f in factors]
    tables = Tables(arrays, shapes, counts, pattern.labels)
    groups, outputs, slots, positions = tables.sizes
    if groups * outputs * slots * positions > most_fill(outputs) * pattern.nnz:
        return None, pattern.tied  # the triples of a tied pattern would show the same tables
    if pattern.tied:
        return (tables.stepping(), True) if outputs * positions > 1 else (None, False)
    if outputs == 1 or pattern.major != "row" or not all(a.in_order for a in arrays):
        return None, False
    return UntiedTables(tables, _first_parameters(pattern)[tables.rows()]), True


def _first_parameters(pattern: KroneckerPattern) -> np.ndarray:
    """Number of the first triple of each row, in the order in which they are written out."""
    heights = [f.shape[0] for f in pattern.factors]
    rows = np.arange(pattern.shape[0]).reshape(heights).transpose(pattern.order).reshape(-1)
    counts = pattern.row_counts[rows]
    first = np.empty(len(rows), dtype=np.int64)
    first[rows] = np.cumsum(counts) - counts
    return first


def _sizes(arrays: Arrays) -> tuple[int, int, int, int]:
    return *arrays.params.shape, arrays.cols.shape[2]


def _with_absent(left: np.ndarray, right: np.ndarray, base: int) -> np.ndarray:
    return np.where((left < 0) | (right < 0), -1, left * base + right)


def _outer(left: np.ndarray, right: np.ndarray, base: int) -> np.ndarray:
    """Mixed-radix sums of two ``(G, M, L)`` tables, each axis a mixed-radix number too."""
    grid = left[:, None, :, None, :, None] * base + right[None, :, None, :, None]
    shape = [a * b for a, b in zip(left.shape, right.shape, strict=True)]
    return grid.reshape(shape)
