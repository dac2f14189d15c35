"""Attention with a bias of low rank on its scores, as attention with more features."""

from __future__ import annotations

import torch
from torch.nn.functional import pad


def with_bias(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Queries and keys whose scaled scores are $q k^T / \sqrt{d} + U V^T$.

    Args:
        q: Queries, shape ``(..., T, d)``.
        k: Keys, the same shape.
        v: Values, the same shape.
        left: U, shape ``(..., T, R)``, broadcast over the axes before.
        right: V, the same.

    Returns:
        The three with ``d + R`` features, scores to be divided by the root of that; the values have
        zeros in the new ones.

    Raises:
        ValueError: The two sides do not fit each other or the queries.
    """
    tokens, dim = q.shape[-2:]
    rank = left.shape[-1]
    if left.shape[-2:] != (tokens, rank) or right.shape[-2:] != (tokens, rank):
        raise ValueError(
            f"both sides of a bias must be (..., {tokens}, R) with one R, "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    left, right = (side.expand(*q.shape[:-2], tokens, rank) for side in (left, right))
    wide = dim + rank
    q = torch.cat([q * (wide / dim) ** 0.5, left * wide**0.5], -1)
    return q, torch.cat([k, right], -1), pad(v, (0, rank))
