"""A pattern held as the Kronecker product of small ones. NumPy only.

The pattern of a convolution is channels (x) rows of pixels (x) columns of pixels: row, column and
parameter of a triple are mixed-radix numbers of those of the factors. A few kilobytes then stand
for any image; the triples are written out when somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from math import prod
from weakref import WeakValueDictionary

import numpy as np

from . import memory
from .pattern import Pattern

# equal products are one object, so that whatever belongs to a pattern is made once
_known: WeakValueDictionary[tuple, KroneckerPattern] = WeakValueDictionary()


def kron(*factors: Pattern, order: Sequence[int] | None = None) -> Pattern:
    r"""The Kronecker product of patterns, kept as its factors.

    Its triples are all combinations of one triple of every factor; row, column and parameter are
    the mixed-radix numbers of theirs, the first factor most significant. Filled with
    $\theta_1 \otimes \theta_2$ it is $W_1(\theta_1) \otimes W_2(\theta_2)$; filled with a theta
    that is no such product it is the general matrix with this tying, as a convolution is.

    Args:
        factors: One or more patterns.
        order: The order of the factors in which rows are counted when triples are written out;
            ``(1, 2, 0)`` writes the rows of factor 1 outermost. Row-major if None.

    Returns:
        Pattern of shape ``(prod(rows), prod(cols))`` with ``prod(num_parameters)`` parameters;
        ``.factors`` are the factors. Equal arguments give one object.

    Raises:
        ValueError: There is no factor, or ``order`` is no permutation of them.
        TypeError: A factor is no pattern.

    Source: chapter "Sparse matrices and patterns".
    """
    if not factors:
        raise ValueError("kron must have at least one factor, got none")
    for factor in factors:
        if not isinstance(factor, Pattern):
            raise TypeError(f"factors must be patterns, got {type(factor).__name__}")
    order = tuple(range(len(factors))) if order is None else tuple(order)
    if sorted(order) != list(range(len(factors))):
        raise ValueError(f"order must be a permutation of 0..{len(factors) - 1}, got {order}")
    return _interned(factors, order)


def aligned(left: Pattern, right: Pattern) -> list[tuple[Pattern, Pattern]] | None:
    """Two Kronecker products cut into neighbouring factors whose inner sizes meet.

    ``(A1 x A2)(B1 x B2) = A1 B1 x A2 B2`` wherever the columns of each A are as many as the rows of
    its B. Factors that must stay together are one pattern in the result.

    Args:
        left: Any pattern.
        right: Any pattern.

    Returns:
        Pairs whose products are the factors of the product; None where one pattern is no Kronecker
        product or nothing is gained: a single pair.
    """
    both = isinstance(left, KroneckerPattern) and isinstance(right, KroneckerPattern)
    if not both or left.shape[1] != right.shape[0] or 0 in (left.nnz, right.nnz):
        return None
    waiting = list(flat_factors(left)), list(flat_factors(right))
    groups: list[tuple[list[Pattern], list[Pattern]]] = []
    while all(waiting):
        group, sizes = ([], []), [1, 1]
        while not (group[0] and group[1]) or sizes[0] != sizes[1]:
            k = int(sizes[1] < sizes[0] or (sizes[1] == sizes[0] and bool(group[0])))
            if not waiting[k]:
                return None
            factor = waiting[k].pop(0)
            group[k].append(factor)
            sizes[k] *= factor.shape[1 - k]
        groups.append(group)
    for k in range(2):  # what is left has an inner size of 1
        groups[-1][k].extend(waiting[k])
    if len(groups) == 1:
        return None
    return [tuple(kron(*side) if len(side) > 1 else side[0] for side in group) for group in groups]


def flat_factors(pattern: KroneckerPattern) -> Iterator[Pattern]:
    """The factors, with those of factors that are Kronecker products in their place."""
    for factor in pattern.factors:
        if isinstance(factor, KroneckerPattern) and factor.tied and factor.labels is None:
            yield from flat_factors(factor)
        else:
            yield factor


def _interned(
    factors: Sequence[Pattern],
    order: tuple[int, ...],
    major: str = "row",
    labels: np.ndarray | None = None,
    tied: bool = True,
) -> KroneckerPattern:
    key = (
        *(tuple(_content(factor) for factor in factors), order, major),
        *(None if labels is None else labels.tobytes(), tied),
    )
    pattern = _known.get(key)
    if pattern is None:
        pattern = _known[key] = KroneckerPattern(tuple(factors), order, major, labels, tied)
    return pattern


def _content(pattern: Pattern) -> tuple:
    """What tells a small pattern from others: its arrays, or the factors' where it has some."""
    if isinstance(pattern, KroneckerPattern):
        return (id(pattern),)  # equal ones are one object, which the product keeps alive
    sides = (pattern.row, pattern.col, pattern.index)
    digest = blake2b(b"".join(side.tobytes() for side in sides)).digest()
    return pattern.shape, pattern.num_parameters, digest


class KroneckerPattern(Pattern):
    """A pattern of all combinations of the triples of small patterns; made by :func:`kron`.

    Attributes:
        factors: The small patterns.
        order: Which factors' rows are outermost when triples are written out.
        major: ``"row"`` or ``"col"``: which side groups the triples (a transpose keeps the order).
        labels: The parameter of each mixed-radix number, where several share one; None for the
            number itself.
        tied: Whether parameters are shared as in the factors; if not, every triple has its own, in
            the order in which they are written out.
    """

    factors: tuple[Pattern, ...]
    order: tuple[int, ...]
    major: str
    labels: np.ndarray | None
    tied: bool

    def __init__(
        self,
        factors: tuple[Pattern, ...],
        order: tuple[int, ...],
        major: str,
        labels: np.ndarray | None,
        tied: bool,
    ) -> None:
        shape = prod(f.shape[0] for f in factors), prod(f.shape[1] for f in factors)
        if max(shape) >= 2**63:
            raise ValueError(f"rows and columns must be below 2**63, got shape {shape}")
        if not tied:
            number = prod(f.nnz for f in factors)
        elif labels is None:
            number = prod(f.num_parameters for f in factors)
        else:
            number = int(labels.max(initial=-1)) + 1
        made = {"shape": shape, "num_parameters": number, "factors": factors}
        made |= {"order": order, "major": major, "labels": labels, "tied": tied}
        self.__dict__.update(made)

    def __reduce__(self) -> tuple:
        return _interned, (self.factors, self.order, self.major, self.labels, self.tied)

    @property
    def nnz(self) -> int:
        """Number of triples."""
        return prod(f.nnz for f in self.factors)

    @cached_property
    def row(self) -> np.ndarray:
        """Row of each triple, written out; int64 ``(nnz,)``."""
        return self._written_out("row", [f.shape[0] for f in self.factors])

    @cached_property
    def col(self) -> np.ndarray:
        """Column of each triple, written out; int64 ``(nnz,)``."""
        return self._written_out("col", [f.shape[1] for f in self.factors])

    @cached_property
    def index(self) -> np.ndarray:
        """Parameter of each triple, written out; int64 ``(nnz,)``."""
        if not self.tied:
            return _frozen(np.arange(self.nnz))
        numbers = self._written_out("index", [f.num_parameters for f in self.factors])
        return numbers if self.labels is None else _frozen(self.labels[numbers])

    @cached_property
    def has_duplicates(self) -> bool:
        """Whether two triples name the same cell, so that their parameters add up."""
        return self.nnz > 0 and any(f.has_duplicates for f in self.factors)

    @cached_property
    def lower_bandwidth(self) -> int:
        """Largest ``row - col`` of any triple, at least 0."""
        return max(0, self._largest_distance(1))

    @cached_property
    def upper_bandwidth(self) -> int:
        """Largest ``col - row`` of any triple, at least 0."""
        return max(0, self._largest_distance(-1))

    @cached_property
    def T(self) -> Pattern:
        """The pattern of the transposed matrix, with the same parameters and order of triples."""
        factors = tuple(f.T for f in self.factors)
        major = "col" if self.major == "row" else "row"
        return _interned(factors, self.order, major, self.labels, self.tied)

    @property
    def row_counts(self) -> np.ndarray:
        """Number of triples in each row, int64 ``(rows,)``."""
        counts = np.ones(1, dtype=np.int64)
        for factor in self.factors:
            counts = np.multiply.outer(counts, factor.row_counts).reshape(-1)
        return counts

    def untied(self) -> Pattern:
        """The same triples, each with a parameter of its own, in the order they are written."""
        return _interned(self.factors, self.order, self.major, None, False)

    def labelled(self, labels: np.ndarray) -> Pattern:
        """The same triples with parameter ``labels[i]`` in place of i: more of them tied.

        Args:
            labels: Integers of shape ``(num_parameters,)``, of at least 0.

        Raises:
            ValueError: There is not one label a parameter, or one is negative.
        """
        labels = np.asarray(labels)
        if labels.size and not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels must be integers, got dtype {labels.dtype}")
        labels = labels.astype(np.int64)
        if not self.tied or labels.shape != (self.num_parameters,) or labels.min(initial=0) < 0:
            raise ValueError(
                f"labels must be {self.num_parameters} non-negative integers of a tied pattern, "
                f"got shape {labels.shape} and tied={self.tied}"
            )
        old = labels if self.labels is None else labels[self.labels]
        return _interned(self.factors, self.order, self.major, _frozen(old), True)

    def distinct(self) -> Pattern:
        """The set of cells, in row-major order, each once and with a parameter of its own."""
        order = tuple(range(len(self.factors)))
        return _interned([f.distinct() for f in self.factors], order, tied=False)

    def __matmul__(self, other: Pattern) -> Pattern:
        """Where the product may be nonzero, factor by factor where the sizes allow."""
        groups = aligned(self, other)
        if groups is None:
            return super().__matmul__(other)
        cells = [left @ right for left, right in groups]
        return _interned(cells, tuple(range(len(cells))), tied=False)

    def by_row(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The triples in row-major order, from the factors where they are not written out."""
        if "row" in self.__dict__ or not self.tied:
            return super().by_row()
        part = self.rows(0, self.shape[0])
        return part.by_row()

    def rows(self, start: int, stop: int) -> Pattern:
        """The pattern of ``W[start:stop]``, from the factors; see :meth:`~sparsemat.Pattern.rows`.

        The triples of a row lie together, rows ascending.
        """
        start, stop = self._checked_rows(start, stop)
        if not self.tied:
            return super().rows(start, stop)
        digits = np.unravel_index(np.arange(start, stop), [f.shape[0] for f in self.factors])
        row = np.arange(stop - start)
        col = index = np.zeros(stop - start, dtype=np.int64)
        for factor, digit in zip(self.factors, digits, strict=True):
            table = grouped(factor.row, factor.shape[0])
            triple = table[digit[row]]
            present = triple >= 0
            width = table.shape[1]
            if width == 1 and present.all():
                triple = triple[:, 0]
            else:
                triple = triple[present]
                count = width if present.all() else present.sum(1)
                row, col, index = (np.repeat(side, count) for side in (row, col, index))
            col = col * factor.shape[1] + factor.col[triple]
            index = index * factor.num_parameters + factor.index[triple]
        index = index if self.labels is None else self.labels[index]
        return Pattern((stop - start, self.shape[1]), row, col, index, self.num_parameters)

    def _largest_distance(self, sign: int, row_step: int = 1, col_step: int = 1) -> int:
        """Largest ``sign * (row * row_step - col * col_step)``, a sum of each factor's largest."""
        if self.nnz == 0:
            return 0
        total = 0
        for factor in reversed(self.factors):
            if isinstance(factor, KroneckerPattern):
                total += factor._largest_distance(sign, row_step, col_step)
            else:
                distance = sign * (factor.row * row_step - factor.col * col_step)
                total += int(distance.max())
            row_step, col_step = row_step * factor.shape[0], col_step * factor.shape[1]
        return total

    def _written_out(self, side: str, bases: Sequence[int]) -> np.ndarray:
        memory.require(f"{self!r} as triples", 24 * self.nnz)
        number, axes = len(self.factors), 2 * len(self.factors)
        values, inside = np.zeros((1,) * axes, dtype=np.int64), np.ones((1,) * axes, dtype=bool)
        for k, (factor, base) in enumerate(zip(self.factors, bases, strict=True)):
            rows_of = 0 if self.major == "row" else 1
            table = grouped(getattr(factor, self.major), factor.shape[rows_of])
            shape = [1] * axes
            shape[self.order.index(k)], shape[number + k] = table.shape
            here = getattr(factor, side)[table] if factor.nnz else np.zeros_like(table)
            values = values * base + here.reshape(shape)
            if (table < 0).any():
                inside = inside & (table >= 0).reshape(shape)
        if not inside.all():
            values = np.broadcast_to(values, np.broadcast_shapes(values.shape, inside.shape))
            return _frozen(values[np.broadcast_to(inside, values.shape)])
        return _frozen(np.ascontiguousarray(values).reshape(-1))


def grouped(groups: np.ndarray, number: int) -> np.ndarray:
    """The positions of each group's members in order, ``(number, most)``; -1 fills up."""
    count = np.bincount(groups, minlength=number)
    order = np.argsort(groups, kind="stable")
    slot = np.arange(len(groups)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((number, count.max(initial=0)), -1, dtype=np.int64)
    table[groups[order], slot] = order
    return table


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, dtype=np.int64, copy=None)
    array.flags.writeable = False
    return array
