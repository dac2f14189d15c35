r"""Attention of third order: a token looks at pairs of tokens.

Scores are $\sum_c q_{tc} k_{ic} k'_{jc}$, the product of queries with the Khatri-Rao product of two
sets of keys; values are products $v_i \odot v'_j$. See the chapter "Attention of other kinds".
"""

from __future__ import annotations

import torch


def attend_triples(
    q: torch.Tensor,
    keys: tuple[torch.Tensor, torch.Tensor],
    values: tuple[torch.Tensor, torch.Tensor],
    *,
    softmax: bool = True,
) -> torch.Tensor:
    r"""$\sum_{ij} A_{tij}\, v_i \odot v'_j$ with A the scores of all pairs, or their softmax.

    Args:
        q: Queries, shape ``(..., T, d)``; a scale of the scores is theirs.
        keys: Two tensors of the shape of q.
        values: Two tensors ``(..., T, e)``.
        softmax: Normalise over all pairs (i, j) by softmax; takes ``T^3`` memory. Without it the
            sum factors, and takes ``T (d + e)``.

    Returns:
        Tensor ``(..., T, e)``.

    Raises:
        ValueError: Keys or values do not have the shapes above.
    """
    for name, pair, shape in (("keys", keys, q.shape), ("values", values, values[0].shape)):
        if any(side.shape != shape for side in pair) or shape[:-1] != q.shape[:-1]:
            raise ValueError(
                f"{name} must fit q {tuple(q.shape)} and each other, "
                f"got {[tuple(side.shape) for side in pair]}"
            )
    if not softmax:
        return q @ ((keys[0].mT @ values[0]) * (keys[1].mT @ values[1]))
    pairs = (q.unsqueeze(-2) * keys[0].unsqueeze(-3)).flatten(-3, -2)  # rows (t, i)
    scores = (pairs @ keys[1].mT).unflatten(-2, (q.shape[-2], -1))
    weights = scores.flatten(-2).softmax(-1).unflatten(-1, scores.shape[-2:])
    inner = (weights.flatten(-3, -2) @ values[1]).unflatten(-2, scores.shape[-3:-1])
    return (inner * values[0].unsqueeze(-3)).sum(-2)
