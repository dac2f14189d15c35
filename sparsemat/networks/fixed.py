"""Operations as linear maps where torch's second derivatives do not serve a product with A.

Those of convolution and batch normalisation compute gradients of the weights, whether they are
wanted or not; that of PReLU takes the other slope at zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Step(NamedTuple):
    """A linear map at work.

    Attributes:
        input: What it was applied to.
        output: The result, with torch's own derivative.
        value: The same without it; no view, since the network may write to it.
        linear: The map without its constant.
        weights: What it reads.
    """

    input: torch.Tensor
    output: torch.Tensor
    value: torch.Tensor
    linear: Callable[[torch.Tensor], torch.Tensor]
    weights: tuple[torch.Tensor, ...]


def fixed(function: Callable, args: tuple, kwargs: dict[str, Any], output: Any) -> torch.Tensor:
    """The output of a function; of one that is a linear map of its first argument with its adjoint.

    Args:
        function: What torch was asked for.
        args: Its arguments, of which only the first depends on the input.
        kwargs: Those by name.
        output: What it returned.
    """
    make = LINEAR.get(function)
    linear = make(function, *args, **kwargs) if make and args else None
    if linear is None or not output.requires_grad:
        return output
    weights = tuple(filter(torch.is_tensor, (*args[1:], *kwargs.values())))
    return _Forward.apply(args[0], Step(args[0], output, output.data, linear, weights))


def _convolution(function: Callable, x: Any, weight: Any, bias: Any = None, *args, **kwargs: Any):
    return lambda v: function(v, weight, None, *args, **kwargs)


def _batch_norm(
    function: Callable,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *args: Any,
    **kwargs: Any,
):
    if training or running_mean is None:
        return None
    zero = torch.zeros_like(running_mean)
    return lambda v: function(v, zero, running_var, weight, None, False, *args, **kwargs)


def _prelu(function: Callable, x: torch.Tensor, weight: torch.Tensor):
    slope = weight if weight.ndim == 0 else weight.reshape(-1, *[1] * (x.ndim - 2))
    return lambda v: torch.where(x > 0, v, slope * v)


class OneSlope(TorchFunctionMode):
    """PReLU with the left slope at zero in both directions; torch takes the right one forwards."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None):
        if function not in (torch.prelu, torch.Tensor.prelu):
            return function(*args, **kwargs or {})
        x, weight = (*args, *(kwargs or {}).values())
        return _prelu(function, x, weight)(x)


LINEAR = dict.fromkeys(
    (
        *(torch.conv1d, torch.conv2d, torch.conv3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    ),
    _convolution,
) | {F.batch_norm: _batch_norm, torch.prelu: _prelu, torch.Tensor.prelu: _prelu}


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, step):
        ctx.step = step
        return step.value

    @staticmethod
    def backward(ctx, grad):
        return _Adjoint.apply(grad, ctx.step), None


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, step):
        ctx.step = step
        ctx.save_for_backward(*step.weights)
        return torch.autograd.grad(step.output, step.input, grad, retain_graph=True)[0]

    @staticmethod
    def backward(ctx, v):
        _ = ctx.saved_tensors  # refuses weights that were written to
        return ctx.step.linear(v), None
