"""Patterns of which token sees which, to be joined by ``|`` and cut by ``&``. NumPy only.

Each is square; cell (i, j) says that token i sees token j. Derived in the chapter "Patterns of
attention".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arguments import as_array, as_size
from ..pattern import Pattern
from .attention import allowed_pairs


def causal(tokens: int) -> Pattern:
    """Every token sees itself and what came before: ``j <= i``."""
    return _pattern(tokens, *allowed_pairs(tokens, causal=True))


def window(tokens: int, reach: int, dilation: int = 1) -> Pattern:
    """Every token sees those at most ``reach`` steps of ``dilation`` away, on both sides.

    Args:
        tokens: Length T of the sequence.
        reach: Number of steps on each side.
        dilation: Tokens of one step.
    """
    as_size("reach", reach, 0)
    as_size("dilation", dilation)
    i, j = allowed_pairs(tokens, window=reach * dilation)
    kept = (i - j) % dilation == 0
    return _pattern(tokens, i[kept], j[kept])


def strided(tokens: int, stride: int) -> Pattern:
    """Every token sees those a multiple of ``stride`` away, as in the Sparse Transformer."""
    return window(tokens, -(-tokens // as_size("stride", stride)), stride)


def blocks(tokens: int, block: int) -> Pattern:
    """Every token sees its own block of successive tokens; the last block may be shorter."""
    as_size("block", block)
    i, j = allowed_pairs(tokens, window=block - 1)
    kept = i // block == j // block
    return _pattern(tokens, i[kept], j[kept])


def seen(tokens: int, at: Sequence[int]) -> Pattern:
    """Every token sees the tokens ``at``; the transpose is that these see every token.

    ``seen(...) | seen(...).T`` are the global tokens of Longformer and BigBird.

    Raises:
        ValueError: ``at`` is not one-dimensional, not integer, or lies outside the tokens.
    """
    as_size("tokens", tokens)
    at = as_array("at", at)
    i = np.repeat(np.arange(tokens), len(at))
    return _pattern(tokens, i, np.tile(at, tokens)).distinct()


def drawn(tokens: int, count: int, generator: np.random.Generator) -> Pattern:
    """Every token sees ``count`` tokens drawn without repetition, as in BigBird.

    Raises:
        ValueError: There are not so many tokens.
    """
    as_size("tokens", tokens)
    if not 0 <= as_size("count", count, None) <= tokens:
        raise ValueError(f"count must lie in 0..tokens={tokens}, got {count}")
    j = np.stack([generator.choice(tokens, count, replace=False) for _ in range(tokens)])
    return _pattern(tokens, np.repeat(np.arange(tokens), count), j.reshape(-1)).distinct()


def largest(scores: np.ndarray, count: int, among: Pattern | None = None) -> Pattern:
    """Every token sees the ``count`` tokens of its largest scores: a pattern that the data choose.

    Args:
        scores: T x T numbers; of equal ones the first token is seen.
        count: At least 1; a token that has fewer to choose from sees all of them.
        among: A T x T pattern; only its pairs may be chosen. All pairs if None.

    Raises:
        ValueError: The scores are not square or not all numbers, ``count`` is below 1, or ``among``
            has another shape.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be T x T, got shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("scores must be numbers, got NaN")
    tokens, count = len(scores), as_size("count", count)
    allowed = np.ones(scores.shape, dtype=bool)
    if among is not None:
        if among.shape != scores.shape:
            raise ValueError(f"among must be {tokens}x{tokens}, got shape {among.shape}")
        allowed[:] = False
        allowed[among.row, among.col] = True
    order = np.lexsort((-scores, ~allowed))  # allowed pairs first, the larger scores before
    i, rank = np.nonzero(np.take_along_axis(allowed, order, 1)[:, :count])
    return _pattern(tokens, i, order[i, rank]).distinct()


def tree(branching: int, levels: int) -> Pattern:
    r"""A hierarchy: tokens, and a summary of each block of tokens, of summaries, and so on.

    The $b^m$ tokens come first, then $b^{m-1}$ summaries of blocks of b tokens, and so on, up to a
    last level of b nodes. Each sees its b siblings (itself included), its parent and its children.

    Args:
        branching: b, at least 2.
        levels: m, at least 1.

    Returns:
        Square pattern of $b + b^2 + \dots + b^m$ nodes.
    """
    as_size("branching", branching, 2)
    as_size("levels", levels)
    sizes = [branching**k for k in range(levels, 0, -1)]
    starts = np.cumsum([0, *sizes])
    nodes = int(starts[-1])
    siblings = blocks(nodes, branching)  # b divides the size of every level
    child = np.arange(nodes - sizes[-1])
    level = np.searchsorted(starts, child, side="right") - 1
    parent = starts[level + 1] + (child - starts[level]) // branching
    up = _pattern(nodes, child, parent)
    return siblings | up | up.T


def closure(pattern: Pattern) -> tuple[Pattern, int]:
    """What is seen through any number of layers of one pattern, and how many layers that takes.

    Args:
        pattern: A square pattern in which every token sees itself.

    Returns:
        The largest power of the pattern, as a pattern, and the least exponent that reaches it.

    Raises:
        ValueError: The pattern is not square, or some token does not see itself.
    """
    rows, cols = pattern.shape
    if rows != cols:
        raise ValueError(f"the pattern must be square, got shape {pattern.shape}")
    blind = np.setdiff1d(np.arange(rows), pattern.row[pattern.row == pattern.col])
    if blind.size:
        raise ValueError(f"every token must see itself, got one that does not: {blind[0]}")
    now, layers = pattern.distinct(), 1
    while (more := now @ pattern).nnz > now.nnz:
        now, layers = more, layers + 1
    return now, layers


def _pattern(tokens: int, i: np.ndarray, j: np.ndarray) -> Pattern:
    return Pattern((tokens, tokens), i, j, np.arange(len(i)), len(i))
