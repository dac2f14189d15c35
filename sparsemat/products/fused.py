"""Torch's fused attention, with derivatives of every order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .product import is_traced, is_transformed


def fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Torch's ``scaled_dot_product_attention``, whose kernels know their first derivatives only.

    Args:
        q: Queries, shape ``(..., T, d)``.
        k: Keys, shape ``(..., S, d)``.
        v: Values, shape ``(..., S, d_v)``.
        mask: Broadcasts to ``(..., T, S)``. Booleans: which pairs are seen; fractions are added to
            the scores.
        causal: Whether token i sees only ``j <= i``; only without a mask.
    """
    options = {"attn_mask": mask, "is_causal": causal}
    learned_mask = mask is not None and mask.requires_grad
    if is_transformed() or forward_ad._current_level >= 0 or learned_mask:
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(q, k, v, **options)
    recorded = torch.is_grad_enabled() and any(side.requires_grad for side in (q, k, v))
    if is_traced(q, k, v) or not recorded:
        return scaled_dot_product_attention(q, k, v, **options)
    return _Fused.apply(q, k, v, options)


class _Fused(torch.autograd.Function):
    """The kernel and its gradient; what is derived again comes from plain operations."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.options, ctx.wanted = options, ctx.needs_input_grad[:3]
        sides = (q, k, v)
        ctx.leaves = [
            side.detach().requires_grad_(wanted)
            for side, wanted in zip(sides, ctx.wanted, strict=True)
        ]
        with torch.enable_grad():
            ctx.result = scaled_dot_product_attention(*ctx.leaves, **options)
        return ctx.result.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        sides, result = ctx.leaves, ctx.result
        if again:
            sides = ctx.saved_tensors
            with sdpa_kernel(SDPBackend.MATH):
                result = scaled_dot_product_attention(*sides, **ctx.options)
        wanted = [side for side, is_wanted in zip(sides, ctx.wanted, strict=True) if is_wanted]
        found = iter(
            torch.autograd.grad(result, wanted, grad, create_graph=again, retain_graph=True)
        )
        return *(next(found) if is_wanted else None for is_wanted in ctx.wanted), None
