"""Attention on any pattern of pairs, piece by piece, so that the full square is never formed.

Softmax is a ratio of two sums over the keys, so it may be summed over disjoint pieces, each with a
maximum of its own (the merge of FlashAttention-2). The pieces: tokens that see many others; blocks
of successive queries with the keys that they share; and what is left, by the components of its
graph or query by query.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..pattern import Pattern
from .fused import fused
from .indices import constant

BLOCK = 64
SHARED = 8  # queries of a block that share a key; and how near to such a key others join the block
HEAVY = 4  # times the median number of keys: such queries have a piece of their own


@dataclass(frozen=True, eq=False)
class Piece:
    """Groups of queries and keys of one size.

    Attributes:
        queries: int64 ``(groups, rows)``; T where a group is shorter.
        keys: int64 ``(groups, width)``; any key where a group is narrower.
        seen: Booleans ``(groups, rows, width)``: the pairs that belong to the piece.
    """

    queries: np.ndarray
    keys: np.ndarray
    seen: np.ndarray


@lru_cache(maxsize=64)
def pieces(pattern: Pattern) -> tuple[Piece, ...]:
    """Pieces that hold every pair of a pattern once; one of all tokens if they save too little.

    Args:
        pattern: Square; every row has a cell.

    Raises:
        ValueError: The pattern is not square, or a token sees nothing.
    """
    tokens = pattern.shape[0]
    if pattern.shape[1] != tokens:
        raise ValueError(f"the pattern must be square, got shape {pattern.shape}")
    if tokens and (blind := np.flatnonzero(pattern.row_counts == 0)).size:
        raise ValueError(f"every token must see a token, got none for token {blind[0]}")
    pairs = pattern.distinct()
    heavy = (pairs.row_counts > HEAVY * np.median(pairs.row_counts))[pairs.row]
    shared = ~heavy & _shared(tokens, pairs.row, pairs.col)
    found = []
    for kept, groups in ((heavy, _together), (shared, _blocks), (~heavy & ~shared, _left)):
        if kept.any():
            i, j = pairs.row[kept], pairs.col[kept]
            found.append(_piece(tokens, i, j, groups(tokens, i, j)))
    if 2 * sum(piece.seen.size for piece in found) > tokens**2:
        everything, seen = np.arange(tokens)[None], np.zeros((1, tokens, tokens), dtype=bool)
        seen[0, pairs.row, pairs.col] = True
        return (Piece(everything, everything, seen),)
    return tuple(found)


def _shared(tokens: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which pairs have a key that several queries of a block see, or one near to such a key."""
    cells, at, counts = np.unique(i // BLOCK * tokens + j, return_inverse=True, return_counts=True)
    block, key = np.divmod(cells, tokens)
    place = block * (tokens + 2 * SHARED) + key  # no two blocks are near to each other
    keys = place[counts >= SHARED]
    if not keys.size:
        return np.zeros(len(i), dtype=bool)
    after = np.searchsorted(keys, place).clip(max=len(keys) - 1)
    distance = np.minimum(abs(keys[after] - place), abs(keys[(after - 1).clip(0)] - place))
    return (distance < SHARED)[at]


def _together(tokens: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    return np.zeros_like(i)


def _blocks(tokens: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    return i // BLOCK


def _left(tokens: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Components, unless single queries have far less to do."""
    component = _components(tokens, i, j)
    areas = [_piece(tokens, i, j, group).seen.size for group in (component, i)]
    return component if areas[0] <= SHARED * areas[1] else i


def _components(tokens: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """For each pair, a number of its connected component in the graph of queries and keys."""
    label, ends = np.arange(2 * tokens), np.concatenate([i, tokens + j])
    while True:
        least = np.tile(np.minimum(label[i], label[tokens + j]), 2)
        new = label.copy()
        np.minimum.at(new, label[ends], least)
        np.minimum.at(new, ends, least)
        new = new[new]
        if (new == label).all():
            return label[i]
        label = new


def _piece(tokens: int, i: np.ndarray, j: np.ndarray, group: np.ndarray) -> Piece:
    group = np.unique(group, return_inverse=True)[1]
    queries, row = _members(group, i, tokens, tokens)
    keys, col = _members(group, j, tokens, 0)
    seen = np.zeros((*queries.shape, keys.shape[1]), dtype=bool)
    seen[group, row, col] = True
    return Piece(queries, keys, seen)


def _members(
    group: np.ndarray, at: np.ndarray, tokens: int, fill: int
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct members of each group, padded, and where in its group each one stands."""
    cells, inverse = np.unique(group * tokens + at, return_inverse=True)
    owner, member = np.divmod(cells, tokens)
    place = np.arange(len(cells)) - np.searchsorted(owner, owner)
    table = np.full((owner[-1] + 1, place.max() + 1), fill)
    table[owner, place] = member
    return table, place[inverse]


def attend_pieces(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, softmax: bool) -> Tensor:
    """``A v`` where A has the scores of q and k at the pairs of a pattern.

    Args:
        q: Queries, shape ``(..., T, d_k)``.
        k: Keys, the same shape.
        v: Values, the same shape.
        pattern: T x T; cell (i, j) if token i sees token j.
        softmax: Normalise each row.

    Raises:
        ValueError: The pattern has another size, is not square, or a token sees nothing.
    """
    tokens, dim = q.shape[-2:]
    if pattern.shape != (tokens, tokens):
        raise ValueError(f"the pattern must be {tokens}x{tokens}, got shape {pattern.shape}")
    found = pieces(pattern)
    if softmax and _is_one_each(pattern):
        return _fused(q, k, v, found)
    q = q * dim**-0.5
    sums = [_sum(q, k, v, piece, softmax) for piece in found]
    if not softmax:
        return sum(total for total, _, _ in sums)
    top = torch.stack([largest for _, _, largest in sums]).amax(0)
    scales = [(largest - top).exp() for _, _, largest in sums]
    above, below = (
        sum(s[part] * scale for s, scale in zip(sums, scales, strict=True)) for part in (0, 1)
    )
    return above / below


@lru_cache(maxsize=64)
def _is_one_each(pattern: Pattern) -> bool:
    """Whether all pairs of a token are in one piece, so that there is nothing to merge."""
    tokens = pattern.shape[0]
    queries = np.concatenate([piece.queries.ravel() for piece in pieces(pattern)])
    return np.bincount(queries, minlength=tokens)[:tokens].max(initial=0) <= 1


def _fused(q: Tensor, k: Tensor, v: Tensor, found: tuple[Piece, ...]) -> Tensor:
    """Softmax attention within each piece, by torch's kernel."""
    tokens, leading = q.shape[-2], q.shape[:-2]
    q, k, v = (side.reshape(-1, *side.shape[-2:]) for side in (q, k, v))
    y = v.new_zeros(q.shape[0], tokens + 1, v.shape[-1])
    for piece in found:
        queries, seen, sides = _gathered(q, k, v, piece)
        filler = queries == tokens  # of shorter groups: they see something, so that none is NaN
        part = fused(*sides, (seen | filler[..., None])[None])
        y = y.index_copy(1, queries.flatten(), part.flatten(1, 2))
    return y[:, :tokens].reshape(*leading, tokens, v.shape[-1])


def _gathered(
    q: Tensor, k: Tensor, v: Tensor, piece: Piece
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Queries and pairs of a piece, and its rows of q, k and v, ``(..., groups, size, d)``."""
    queries, keys, seen = (constant(a, q.device) for a in (piece.queries, piece.keys, piece.seen))
    inside = queries.clamp(max=q.shape[-2] - 1)
    sides = tuple(
        side.index_select(-2, at.flatten()).unflatten(-2, at.shape)
        for side, at in ((q, inside), (k, keys), (v, keys))
    )
    return queries, seen, sides


def _sum(
    q: Tensor, k: Tensor, v: Tensor, piece: Piece, softmax: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted values, weights and largest score of every token."""
    tokens = q.shape[-2]
    queries, seen, (rows, left, right) = _gathered(q, k, v, piece)
    # finite, so that a token without a pair gives no NaN; its sums then weigh nothing
    lowest = torch.finfo(q.dtype).min / 4 if softmax else 0.0
    weights = (rows @ left.mT).masked_fill_(~seen, lowest)
    largest = weights.detach().amax(-1, keepdim=True)
    if softmax:
        weights = weights.sub_(largest).exp_()
    found = (weights @ right, weights.sum(-1, keepdim=True), largest)
    at = queries.flatten()
    return tuple(
        part.new_full((*part.shape[:-3], tokens + 1, part.shape[-1]), fill).index_copy(
            -2, at, part.flatten(-3, -2)
        )[..., :tokens, :]
        for part, fill in zip(found, (0.0, 0.0, lowest), strict=True)
    )
