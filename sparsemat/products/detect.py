"""The tables of a regular pattern, found in its index arrays.

Rows that share parameters are the positions of one part; parts that read the same columns are the
outputs of one group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..pattern import Pattern

# table entries a stored entry; beyond it the absent entries cost more than they save
MOST_FILL = 2.0


class Arrays(NamedTuple):
    """A regular pattern: ``y[rows[g, m, l]] = sum_k theta[params[g, m, k]] * x[cols[g, k, l]]``.

    Attributes:
        cols: Column read by slot k at position l, int64 ``(G, K, L)``; -1 where absent.
        params: Parameter of output m in slot k, int64 ``(G, M, K)``; -1 where absent, and then the
            column is absent at every position.
        rows: Row written, int64 ``(G, M, L)``.
        in_order: Whether the triples of every row are stored in the order of their slots.
    """

    cols: np.ndarray
    params: np.ndarray
    rows: np.ndarray
    in_order: bool


def detect(pattern: Pattern, most_fill: float = MOST_FILL) -> Arrays | None:
    """The tables of a pattern, or None where it is not regular."""
    if pattern.nnz == 0:
        return None
    component = _rows_sharing_parameters(pattern)
    if component is None:
        return None
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

    row, col, index, in_order = _sorted_triples(pattern, by_column=positions == 1)
    slot = _slots(row, index, part, parts, positions)
    slots = int(slot.max()) + 1
    if parts * positions * slots > most_fill * pattern.nnz:
        return None
    cols = np.full((parts, slots, positions), -1, dtype=np.int64)
    cols[part[row], slot, place[row]] = col
    params = np.full((parts, slots), -1, dtype=np.int64)
    params[part[row], slot] = index
    return _grouped(cols, params, rows, in_order)


def _grouped(
    cols: np.ndarray, params: np.ndarray, rows: np.ndarray, in_order: bool
) -> Arrays | None:
    """Parts that read the same columns as outputs of one group, of as many outputs as all have."""
    parts, slots, positions = cols.shape
    hashed = (cols.reshape(parts, -1) * _hash_weights(slots * positions)).sum(1)
    _, leader, group = np.unique(hashed, return_index=True, return_inverse=True)
    if not np.array_equal(cols, cols[leader[group]]):
        return None  # two different reads of one hash
    members = np.bincount(group)
    outputs = int(np.gcd.reduce(members))
    by_group = np.argsort(group, kind="stable")
    # a group of many parts is cut into groups of the common size, in the order of their rows
    first = by_group[::outputs]
    order = np.argsort(first, kind="stable")
    by_group = by_group.reshape(-1, outputs)[order]
    groups = len(order)
    return Arrays(
        cols[first[order]],
        params[by_group].reshape(groups, outputs, slots),
        rows[by_group].reshape(groups, outputs, positions),
        in_order,
    )


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


def _slots(
    row: np.ndarray, index: np.ndarray, part: np.ndarray, parts: int, positions: int
) -> np.ndarray:
    """Slot of each sorted triple in its part.

    Tied rows align by parameter (one that a row uses twice takes two slots), rows that share
    nothing by column.
    """
    if positions == 1:
        return _count_within_runs(row[1:] != row[:-1])
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
    return slot_of_name[name]


def _sorted_triples(
    pattern: Pattern, by_column: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """The triples by row and, within a row, by column or by parameter; whether they were so."""
    second = pattern.col if by_column else pattern.index
    new_row = pattern.row[1:] != pattern.row[:-1]
    rows_together = new_row.sum() + 1 == len(np.unique(pattern.row[np.append(True, new_row)]))
    # as the builders store them
    if rows_together and (new_row | (second[1:] >= second[:-1])).all():
        return pattern.row, pattern.col, pattern.index, True
    order = np.lexsort((second, pattern.row))
    return pattern.row[order], pattern.col[order], pattern.index[order], False


def _count_within_runs(is_new: np.ndarray) -> np.ndarray:
    """Position of each element in its run; ``is_new[k]`` says element ``k + 1`` starts one."""
    start = np.flatnonzero(np.concatenate([[True], is_new]))
    lengths = np.diff(np.append(start, len(is_new) + 1))
    return np.arange(len(is_new) + 1) - np.repeat(start, lengths)


def _hash_weights(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1 << 62, size=size, dtype=np.int64)
