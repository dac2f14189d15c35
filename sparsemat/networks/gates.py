"""Entrywise functions and softmax as diagonal matrices that depend on the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .follow import GATE, Follow, Form, Tracked
from .operators import Diagonal

Slope = Callable[..., torch.Tensor]
# the derivatives of piecewise linear gates, where they are on a kink those of torch
SLOPES: dict[str, Slope] = {
    "relu": lambda x: (x > 0).to(x),
    "abs": lambda x: x.sign(),
    "leaky_relu": lambda x, slope=0.01: torch.where(x > 0, 1, x.new_tensor(slope)),
    "_prelu_kernel": lambda x, weight: torch.where(x > 0, x.new_ones(()), weight),
    "threshold": lambda x, bound, value: (x > bound).to(x),
    "hardtanh": lambda x, low=-1, high=1: ((x > low) & (x < high)).to(x),
    "clamp": lambda x, low=None, high=None: _inside(x, low, high),
    "clamp_min": lambda x, low: _inside(x, low, None),
    "clamp_max": lambda x, high: _inside(x, None, high),
}
SQUASHING = "sigmoid hardsigmoid"
SMOOTH = """
tanh gelu silu elu softplus hardswish mish log_sigmoid_forward exp expm1 log1p erf sin cos sinh cosh
asinh atan tan pow softshrink hardshrink
"""


def _inside(x: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    inside = torch.ones_like(x)
    if low is not None:
        inside = inside * (above(x, low) if torch.is_tensor(low) else x > low)
    if high is not None:
        inside = inside * (above(high, x) if torch.is_tensor(high) else x < high)
    return inside.to(x)


def above(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """One where a is larger than b, half where they are equal, as torch has it, else zero."""
    return ((a > b).double() + (a >= b)) / 2


def _gate(slope: Slope, function: Any) -> Callable:
    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form | None:
        x, *rest = args
        if not alone(x, *rest, *kwargs.values()):
            return None
        values = slope(x.value, *rest, **kwargs)
        constant = function(x.value, *rest, **kwargs) - values * x.value
        return Form([(Diagonal(values), x)], constant if constant.any() else None, "gates")

    return rule


def _secant(function: Any, rank: int) -> Callable:
    r"""$f(x) = f(0) + \frac{f(x) - f(0)}x x$, entry by entry; at zero a slope that is finite."""

    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form | None:
        x, *rest = args
        if not alone(x, *rest, *kwargs.values()):
            return None

        def f(t: torch.Tensor) -> torch.Tensor:
            result = function(t, *rest, **kwargs)
            return result[0] if isinstance(result, tuple) else result

        eps = torch.finfo(x.value.dtype).eps
        near = torch.full_like(x.value, eps**0.5).copysign(x.value)
        zero, value = f(torch.zeros_like(x.value)), f(x.value)
        # nearer to zero the quotient is that of a small number, where the value does not see it
        away = torch.where(x.value.abs() < eps**0.5, near, x.value)
        values = (f(away) - zero) / away
        seen = (values * x.value + zero - value).abs() > 4 * eps * (value.abs() + zero.abs())
        values = torch.where(seen, (value - zero) / x.value, values)
        nearer = near * eps**0.5
        steeper = (f(nearer) - zero).abs() > 1.1 * (values * nearer).abs() + 4 * eps * zero.abs()
        infinite = ((x.value == 0) & steeper).any()
        if infinite or not (values.isfinite().all() and zero.isfinite().all()):
            return None
        return Form([(Diagonal(values), x)], zero if zero.any() else None, "gates", rank)

    return rule


def alone(x: Any, *others: Any) -> bool:
    """Whether it alone of the arguments depends on the input."""
    return isinstance(x, Tracked) and not any(isinstance(other, Tracked) for other in others)


def _softmax(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form | None:
    r"""$e^x / Z = (1 + \frac{e^x - 1}x x) / Z$, with Z frozen."""
    x, axis = args[:2]
    start = torch.exp(-torch.logsumexp(x.value, axis, keepdim=True)).expand(out.shape)
    small = torch.finfo(out.dtype).eps ** 0.5
    values = torch.where(x.value.abs() < small, start, (out - start) / x.value)
    if not (values.isfinite().all() and x.value.isfinite().all() and start.isfinite().all()):
        return None  # hidden scores: only a coefficient
    error, largest = (values * x.value + start - out).abs(), out.amax(axis, keepdim=True)
    if (error > small * largest).any():
        return None  # the start is so large that rounding hides the result
    return Form([(Diagonal(values), x)], start, "attention", GATE)


def gate_rules() -> dict[str, Callable]:
    """The rule of every operation of this kind, by its name."""
    aten = torch.ops.aten
    rules = {name: _gate(slope, getattr(aten, name)) for name, slope in SLOPES.items()}
    rules |= {name: _secant(getattr(aten, name), GATE) for name in SQUASHING.split()}
    rules |= {name: _secant(getattr(aten, name), 0) for name in SMOOTH.split()}
    return rules | {"_softmax": _softmax, "_safe_softmax": _softmax}
