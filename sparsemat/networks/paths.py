"""Which part of a network is running."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as every_module
from torch.overrides import TorchFunctionMode

from ..convert.record import REFUSALS, located

# where a network gets at the gradients of its own run
HOOKS = {
    torch.Tensor.register_hook: "register_hook",
    torch.Tensor.grad_fn.__get__: "grad_fn",
}


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


def require_gradients(model: nn.Module) -> None:
    """Refuse a network that has no derivatives here, or one that hooks may change backwards.

    Raises:
        TypeError: With the path of the first part that has such hooks.
        ValueError: In inference mode, or with the path of a tensor that was made in it.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "derivatives must be on, got torch.inference_mode(), which keeps none; "
            "torch.no_grad() may stay"
        )
    for path, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_inference():
            raise ValueError(f"{path} must have derivatives, got one of torch.inference_mode()")
    hooks = "_backward_hooks", "_backward_pre_hooks"
    if any(getattr(every_module, f"_global{name}") for name in hooks):
        raise TypeError("there must be no backward hooks of all modules, got some")
    for path, part in model.named_modules():
        if any(getattr(part, name) for name in hooks):
            raise TypeError(f"{path or type(part).__name__} must have no backward hooks, got some")


class Unhooked(TorchFunctionMode):
    """Refuses hooks on intermediate tensors: they change gradients, and no derivative forwards.

    Raises:
        TypeError: The network registers one.
    """

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None):
        # forwards there is no gradient to retain
        name = "retain_grad" if function is torch.Tensor.retain_grad else HOOKS.get(function)
        if name and not args[0].is_leaf:
            raise TypeError(
                f"what is made of the input must have no hooks on its gradients, got {name}"
            )
        return function(*args, **kwargs or {})


@contextmanager
def own_buffers(model: nn.Module) -> Iterator[None]:
    """The network on copies of its buffers, so that what it writes there is not kept.

    Compiled scripts, which let nobody exchange theirs, write to their own.
    """
    parts = (part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule))
    kept = [(part, dict(part._buffers)) for part in parts]
    copies = {id(b): b.clone() for _, own in kept for b in own.values() if b is not None}
    try:
        for part, own in kept:
            part._buffers.update({name: copies.get(id(b)) for name, b in own.items()})
        yield
    finally:
        for part, own in kept:
            part._buffers.update(own)


def same_draws() -> Callable[[], AbstractContextManager[None]]:
    """What to run a network in so that it draws now's random numbers, each time anew.

    The random state is afterwards what it was.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    here, there = torch.get_rng_state(), [torch.cuda.get_rng_state(k) for k in devices]

    @contextmanager
    def drawing() -> Iterator[None]:
        with torch.random.fork_rng(devices):
            torch.set_rng_state(here)
            for device, state in zip(devices, there, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    return drawing
