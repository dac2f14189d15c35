"""Softmax attention through torch's flex_attention, which skips blocks where no token is seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from .masks import Mask, near


def flex(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    window: int | None,
    mask: Mask | None,
) -> torch.Tensor:
    """``softmax(q k^T / sqrt(d_k)) v`` under a mask, compiled on a GPU.

    Args:
        q: Queries, shape ``(n, heads, T, d_k)`` or ``(heads, T, d_k)``.
        k: Keys, the same shape.
        v: Values, the same shape.
        causal: Token i sees only ``j <= i``.
        window: Token i sees only ``|i - j| <= window``.
        mask: As for :func:`~sparsemat.products.attention.attend`.

    Raises:
        NotImplementedError: Gradients are wanted on a CPU; torch has none there.
    """
    if q.numel() == 0:
        return q * 0 + k * 0 + v * 0  # in the graph, though there is nothing in it
    sizes = q.shape[:-3].numel(), *q.shape[-3:-1]
    if mask is None:
        blocks = _fixed_blocks(sizes[2], causal, window, q.device)
    else:

        def seen(n, head, i, j):
            return near(i, j, causal, window) & mask(n, head, i, j)

        blocks = create_block_mask(seen, *sizes, sizes[2], device=q.device)
    call = _compiled() if q.device.type == "cuda" else flex_attention
    result = call(*(side.reshape(*sizes, -1) for side in (q, k, v)), block_mask=blocks)
    return result.view(v.shape)


@lru_cache(maxsize=32)
def _fixed_blocks(tokens: int, causal: bool, window: int | None, device: torch.device) -> BlockMask:
    def seen(n, head, i, j):
        return near(i, j, causal, window)

    return create_block_mask(seen, None, None, tokens, tokens, device=device)


@cache
def _compiled() -> Callable:
    # uncompiled, flex_attention forms the whole square
    return torch.compile(flex_attention, dynamic=False)
