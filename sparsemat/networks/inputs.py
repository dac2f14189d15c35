"""The inputs of a network at which its matrices are made: each given without its batch axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..convert.record import batch_axis


def batched(model: nn.Module, inputs: Sequence[Any]) -> list[Any]:
    """Copies of the tensors with a batch axis, second where the network wants the steps first.

    Raises:
        TypeError: None of them is of floating-point numbers.
    """
    if not any(map(is_floating, inputs)):
        kinds = ", ".join(str(getattr(x, "dtype", type(x).__name__)) for x in inputs)
        raise TypeError(f"inputs must have a tensor of floating-point numbers, got {kinds or None}")
    axis = batch_axis(model)
    return [x.detach().clone().unsqueeze(axis) if torch.is_tensor(x) else x for x in inputs]


def flat(
    model: nn.Module, inputs: Sequence[Any]
) -> tuple[torch.Tensor, Callable[[torch.Tensor], list[Any]]]:
    """All floating-point entries as one vector, and what makes the arguments of it.

    Raises:
        TypeError: There are none.
    """
    given = batched(model, inputs)
    floating = [x for x in given if is_floating(x)]
    vector = torch.cat([x.reshape(-1) for x in floating])

    def arguments(vector: torch.Tensor) -> list[Any]:
        made, start = [], 0
        for x in given:
            if is_floating(x):
                part = vector[start : start + x.numel()].view(x.shape).to(x.dtype)
                start += x.numel()
            else:
                part = x
            # the network may write to it
            made.append(part.clone() if torch.is_tensor(part) else part)
        return made

    return vector, arguments


def is_floating(x: Any) -> bool:
    """Whether it is a tensor of real floating-point numbers."""
    return torch.is_tensor(x) and x.is_floating_point()


def is_numeric(x: Any) -> bool:
    """Whether it is a tensor of real or complex floating-point numbers."""
    return torch.is_tensor(x) and (x.is_floating_point() or x.is_complex())
