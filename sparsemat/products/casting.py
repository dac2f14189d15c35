"""The type in which a product is taken where ``torch.autocast`` is on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import signature

import torch


def autocast(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The tensors in the type of the surrounding ``torch.autocast``, as a product of torch casts.

    Args:
        tensors: Floating-point tensors, or None; the last one says on which device.

    Returns:
        The same, cast where autocast is on; float64 and complex types are left as they are.
    """
    device = tensors[-1].device.type
    if not is_on(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    kept = (torch.float64, torch.complex64, torch.complex128)
    return tuple(t if t is None or t.dtype in kept else t.to(dtype) for t in tensors)


def as_given(function: Callable) -> Callable:
    """A step of an autograd function that takes its products in the types of its tensors."""

    @wraps(function)
    def plain(*args):
        tensor = args[0] if isinstance(args[0], torch.Tensor) else args[1]
        with without_autocast(tensor.device.type):
            return function(*args)

    plain.__signature__ = signature(function)  # torch asks for it at every call
    return plain


def without_autocast(device: str) -> AbstractContextManager:
    """Here every operation is taken in the types of its tensors."""
    return torch.autocast(device, enabled=False) if is_on(device) else nullcontext()


def is_on(device: str) -> bool:
    """Whether autocast is on for a kind of device."""
    # there is none for the device "meta", and to ask whether it is enabled there would raise
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
