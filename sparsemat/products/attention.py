"""The products of attention, softmax or linear, each in the order that costs least.

Linear attention ``(q k^T) v`` is associative: with more tokens than features ``q (k^T v)`` is
cheaper; causal, the state ``k^T v`` is carried from chunk to chunk. A window needs the band of the
square only, so blocks of queries meet the few keys they may see.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

BAND_BLOCK = 64


def form(
    tokens: int, dim: int, *, softmax: bool, causal: bool = False, window: int | None = None
) -> str:
    """Which form of the product serves a case, from its sizes alone.

    Args:
        tokens: Length T of the sequence.
        dim: Features of a query.
        softmax: Whether the rows are normalised.
        causal: Whether token i sees only ``j <= i``.
        window: Whether token i sees only ``|i - j| <= window``.

    Returns:
        ``"band"``: blocks of queries against the keys of their window. ``"fused"``: torch's
        scaled_dot_product_attention. ``"state"``: ``q (k^T v)``. ``"chunks"``: the same, causal,
        chunk by chunk. ``"square"``: ``(q k^T) v``.
    """
    if window is not None and window < tokens - 1:
        width = BAND_BLOCK + (window if causal else 2 * window)
        if 2 * width <= tokens:
            return "band"
        return "fused" if softmax else "square"
    if softmax:
        return "fused"
    if tokens <= dim:
        return "square"
    if not causal:
        return "state"
    return "chunks" if tokens > 2 * _chunk(dim) else "square"


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    softmax: bool = True,
    causal: bool = False,
    window: int | None = None,
) -> torch.Tensor:
    r"""$A v$ with $A$ = ``scores(q, k)``, without forming A where that is dearer.

    Args:
        q: Queries, shape ``(..., T, d_k)``.
        k: Keys, the same shape.
        v: Values, the same shape.
        softmax: Normalise each row of A by softmax.
        causal: Token i sees only ``j <= i``.
        window: Token i sees only ``|i - j| <= window``.

    Returns:
        Tensor of the shape of ``v``.
    """
    tokens, dim = q.shape[-2:]
    chosen = form(tokens, dim, softmax=softmax, causal=causal, window=window)
    if chosen == "fused":
        masked = window is not None and window < tokens - 1
        mask = allowed(tokens, causal, window, q.device) if masked else None
        return scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and not masked
        )
    if chosen == "band":
        return _band(q, k, v, softmax, causal, window)
    if chosen == "square":
        return scores(q, k, softmax=False, causal=causal, window=window) @ v
    q = q * dim**-0.5
    return q @ (k.mT @ v) if chosen == "state" else _chunks(q, k, v)


def scores(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    softmax: bool = True,
    causal: bool = False,
    window: int | None = None,
) -> torch.Tensor:
    r"""The explicit attention matrix $A$: $q k^T / \sqrt{d_k}$, masked, with softmax rows or as is.

    Args:
        q: Queries, shape ``(..., T, d_k)``.
        k: Keys, the same shape.
        softmax: Normalise each row.
        causal: Zero for ``j > i``.
        window: Zero for ``|i - j| > window``.

    Returns:
        Tensor of shape ``(..., T, T)``; entry ``[i, j]`` is what token i takes from token j.
    """
    tokens, dim = q.shape[-2:]
    masked = causal or window is not None
    if not softmax:
        result = (q * dim**-0.5) @ k.mT
        return result * allowed(tokens, causal, window, q.device) if masked else result
    mask = q.new_zeros(1, tokens, tokens) if masked else q.new_zeros(1, 1, 1)
    if masked:
        mask.masked_fill_(~allowed(tokens, causal, window, q.device), float("-inf"))
    flat_q, flat_k = (side.reshape(-1, tokens, dim) for side in (q, k))
    # one pass: mask and scale go into the product
    result = torch.baddbmm(mask, flat_q, flat_k.mT, alpha=dim**-0.5)
    return result.softmax(-1).view(*q.shape[:-1], tokens)


def allowed(tokens: int, causal: bool, window: int | None, device: torch.device) -> torch.Tensor:
    """Boolean mask ``(T, T)``: whether token i may attend to token j."""
    at = torch.arange(tokens, device=device)
    distance = at[:, None] - at
    mask = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        mask &= distance >= 0
    if window is not None:
        mask &= distance.abs() <= window
    return mask


def _chunk(dim: int) -> int:
    """Length of a chunk: as long as a state is high, so that both products cost the same."""
    return max(32, dim)


def _chunks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    tokens, dim = q.shape[-2:]
    q, k, v = (_split(side, _chunk(dim)) for side in (q, k, v))
    sums = k[..., :-1, :, :].mT @ v[..., :-1, :, :]
    wide = torch.promote_types(sums.dtype, torch.float32)
    # what earlier chunks have left
    state = pad(sums.cumsum(-3, dtype=wide).to(sums.dtype), (0, 0, 0, 0, 1, 0))
    result = (q @ k.mT).tril() @ v + q @ state
    return result.flatten(-3, -2)[..., :tokens, :]


def _band(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax: bool,
    causal: bool,
    window: int,
) -> torch.Tensor:
    tokens, dim = q.shape[-2:]
    q = _split(q * dim**-0.5, BAND_BLOCK)
    after = 0 if causal else window
    width = window + BAND_BLOCK + after
    rest = q.shape[-3] * BAND_BLOCK - tokens
    k, v = (
        pad(side, (0, 0, window, after + rest)).unfold(-2, width, BAND_BLOCK) for side in (k, v)
    )  # (..., blocks, dim, width)
    result = q @ k
    block, i, j = (
        torch.arange(size, device=q.device).view([-1 if axis == a else 1 for a in range(3)])
        for axis, size in enumerate(result.shape[-3:])
    )
    key = block * BAND_BLOCK + j - window
    seen = (j >= i) & (j - i <= window + after) & (key >= 0) & (key < tokens)
    # finite, so that the padded queries, which see no key, give no NaN
    absent = torch.finfo(result.dtype).min if softmax else 0.0
    result = result.masked_fill(~seen, absent)
    result = (result.softmax(-1) if softmax else result) @ v.mT
    return result.flatten(-3, -2)[..., :tokens, :]


def _split(side: torch.Tensor, size: int) -> torch.Tensor:
    """``(..., T, d)`` as ``(..., blocks, size, d)``, zeros after the end."""
    side = pad(side, (0, 0, 0, -side.shape[-2] % size))
    return side.unflatten(-2, (-1, size))
