"""Attention: the explicit matrix A(X) and linear attention against scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from sparsemat.patterns import tokens
from sparsemat.products.attention import attend

from .paired import Case

BATCH, HEADS, DIM = 4, 4, 64


def cases() -> Iterator[Case]:
    """A forward and a backward pass, gradients to queries, keys and values."""
    for length in (64, 128, 256):
        yield case(
            f"softmax as explicit A(X), T {length}",
            length,
            lambda q, k, v: attend(q, k, v, form="square"),
            goal=1.2,
            stretch=1.0,
        )
    for causal, goal, stretch in ((False, 0.4, 0.2), (True, 0.65, 0.5)):
        yield case(
            f"linear{', causal' if causal else ''}, T 1024",
            1024,
            lambda q, k, v, causal=causal: attend(q, k, v, softmax=False, causal=causal),
            causal=causal,
            goal=goal,
            stretch=stretch,
        )
    yield case("softmax, window 64, T 1024", 1024, lambda q, k, v: attend(q, k, v, window=64))
    size = 4096
    hubs = tokens.seen(size, range(16))
    patterns = {
        "window 64 and 16 global tokens": (tokens.window(size, 64) | hubs | hubs.T, 1 / 5),
        "fixed blocks of 64, causal": (
            (tokens.blocks(size, 64) | tokens.seen(size, range(63, size, 64)))
            & tokens.causal(size),
            None,
        ),
    }
    for name, (pattern, goal) in patterns.items():
        name, product = f"softmax, {name}, T {size}", partial(attend, pattern=pattern)
        yield case(name, size, product, goal=goal)
        if goal is not None:
            whole = "all of A(X)", partial(attend, form="square")
            found = case(name, size, product, goal=goal, against=whole)
            yield replace(found, memory_goal=goal)

    yield alibi(1024)


def alibi(length: int) -> Case:
    """A bias that falls with the distance, as a mask and as one feature, causal."""
    slopes = 2.0 ** -torch.arange(2, 2 + 2 * HEADS, 2)[:, None, None]
    place = torch.arange(length)
    bias = slopes * (place - place[:, None])
    bias = bias.masked_fill(place > place[:, None], float("-inf"))
    feature = slopes.expand(-1, length, 1), place[:, None].float()
    return case(
        f"softmax, causal ALiBi, T {length}",
        length,
        partial(attend, causal=True, bias=feature),
        against=("torch, bias as a mask", partial(scaled_dot_product_attention, attn_mask=bias)),
    )


def case(
    name: str,
    length: int,
    product: Callable,
    *,
    causal: bool = False,
    goal: float | None = None,
    stretch: float | None = None,
    against: tuple[str, Callable] | None = None,
) -> Case:
    """A product on random heads beside torch's fused softmax attention, or another by name."""
    shape = BATCH, HEADS, length, DIM
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    grad = torch.randn(shape)

    def run(function: Callable) -> None:
        function(q, k, v).backward(grad)
        q.grad = k.grad = v.grad = None

    fused = "torch's fused softmax", partial(scaled_dot_product_attention, is_causal=causal)
    label, other = against or fused
    name = f"attention, {name}, {HEADS} heads of {DIM}"
    return Case(
        name,
        (label, lambda: run(other)),
        ("ours", lambda: run(product)),
        goal,
        stretch,
    )
