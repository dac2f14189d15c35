"""Which part of a network is running."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

from torch import nn
from torch.nn.modules import module as every_module

from ..convert.record import REFUSALS, located


@contextmanager
def running(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the parts that are running, the innermost last; empty for the network itself.

    Raises:
        TypeError: The network raises one; with the path of the part.
        ValueError: The network or torch refuses the input in another way, likewise.
    """
    paths, handles, failed = [""], [], []

    def enter(path: str) -> None:
        failed.clear()
        paths.append(path)

    def leave(part: nn.Module, _: object, output: object) -> None:
        path = paths.pop()
        if output is None and sys.exc_info()[1] is not None:
            failed.append(f"{path} ({type(part).__name__})" if path else type(part).__name__)

    try:
        for path, part in model.named_modules():
            handles.append(part.register_forward_pre_hook(lambda *_, path=path: enter(path)))
            handles.append(part.register_forward_hook(leave, always_call=True))
        yield paths
    except REFUSALS as error:
        raise (located(error, failed[0]) if failed else error) from error
    finally:
        for handle in handles:
            handle.remove()


def require_values(model: nn.Module) -> None:
    """Refuse a network with parameters or buffers on the meta device.

    Raises:
        ValueError: With the path of the first one.
    """
    for path, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"{path} must have values, got a tensor on the meta device")


def require_own_gradients(model: nn.Module) -> None:
    """Refuse a network whose gradients hooks may change: its derivative would be another backwards.

    Raises:
        TypeError: With the path of the first part that has such hooks.
    """
    hooks = "_backward_hooks", "_backward_pre_hooks"
    if any(getattr(every_module, f"_global{name}") for name in hooks):
        raise TypeError("there must be no backward hooks of all modules, got some")
    for path, part in model.named_modules():
        if any(getattr(part, name) for name in hooks):
            raise TypeError(f"{path or type(part).__name__} must have no backward hooks, got some")
