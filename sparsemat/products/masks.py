"""Which tokens may attend to which: fixed rules, and masks that look at data."""

from __future__ import annotations

from collections.abc import Callable

import torch

# index tensors of sequence, head, query and key to booleans, as torch's flex_attention calls it
Mask = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def allowed(
    q: torch.Tensor, causal: bool, window: int | None, mask: Mask | None = None
) -> torch.Tensor:
    """Whether token i may attend to token j: booleans ``(T, T)``, or ``(..., T, T)`` with a mask.

    Args:
        q: Queries ``(..., T, d_k)``.
        causal: As for :func:`attend`.
        window: As for :func:`attend`.
        mask: As for :func:`attend`; then q is ``(n, heads, T, d_k)`` or ``(heads, T, d_k)``.

    Raises:
        ValueError: There is a mask, and q has no axis of heads; or it gives no booleans.
    """
    if mask is not None and q.ndim < 3:
        raise ValueError(
            f"with a mask, q must be (n, heads, T, d_k) or (heads, T, d_k), got {tuple(q.shape)}"
        )
    at = torch.arange(q.shape[-2], device=q.device)
    seen = near(at[:, None], at, causal, window)
    if mask is None:
        return seen
    n, head = (
        torch.arange(size, device=q.device).view(shape)
        for size, shape in ((q.shape[:-3].numel(), (-1, 1, 1, 1)), (q.shape[-3], (-1, 1, 1)))
    )
    asked = mask(n, head, at[:, None], at)
    kind = asked.dtype if isinstance(asked, torch.Tensor) else type(asked)
    if kind not in (torch.bool, bool):
        raise ValueError(f"mask must give booleans (torch.bool), got {kind}")
    seen = seen & asked
    return seen.expand(len(n), len(head), -1, -1).reshape(*q.shape[:-2], *seen.shape[-2:])


def near(i: torch.Tensor, j: torch.Tensor, causal: bool, window: int | None) -> torch.Tensor:
    """Whether causal and window let token i see token j, for index tensors that broadcast."""
    distance = i - j
    seen = distance >= 0 if causal else distance == distance
    return seen if window is None else seen & (distance.abs() <= window)
