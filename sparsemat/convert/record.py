"""What every part of a network is called with, from one forward pass that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..rules import checked_shape
from ..rules import like as like_of

Example = Sequence[int] | torch.Tensor | Sequence[torch.Tensor] | Mapping[str, Any]

# what networks and torch raise for inputs that do not fit
REFUSALS = TypeError, ValueError, RuntimeError, AssertionError


@dataclass
class Call:
    """One call of a part.

    Attributes:
        args: The positional arguments, tensors without their numbers (on the meta device).
        kwargs: The named arguments, likewise.
        output: What it returned, likewise.
        order: How many calls came before, of any part.
        clock: How far the clock of :func:`record` went on during the call.
    """

    args: tuple
    kwargs: dict[str, Any]
    output: Any = None
    order: int = 0
    clock: int = 0

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors among the arguments."""
        return [x for x in (*self.args, *self.kwargs.values()) if torch.is_tensor(x)]


@dataclass
class Record:
    """The calls of every part of a network, by the part.

    Attributes:
        paths: The first path of every part.
        calls: The calls of every part, in order; a part that did not run has none.
        output: What the network returned.
    """

    paths: dict[nn.Module, str]
    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)
    output: Any = None


def arguments(
    module: nn.Module, example: Example, batch: int = 1
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, from a shape without the batch axis or from an example input.

    Args:
        module: The network, whose type and device the made input has.
        example: A shape without the batch axis, a tensor, a tuple of arguments, or a dictionary of
            named arguments; tensors have a batch axis.
        batch: The length of the batch axis of an input made from a shape.

    Raises:
        ValueError: It is none of these.
    """
    if torch.is_tensor(example):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if is_example(example):
        return tuple(example), {}
    shape = checked_shape(example)
    axis = batch_axis(module)
    size = *shape[:axis], batch, *shape[axis:]
    return (like_of(module, None, None).new_zeros(size),), {}


def batch_axis(module: nn.Module) -> int:
    """Where the batch axis of its inputs is: second if the module wants the steps first."""
    return 1 if getattr(module, "batch_first", True) is False else 0


def is_example(example: Example) -> bool:
    """Whether it is an example input and not a shape."""
    return isinstance(example, Mapping) or any(map(torch.is_tensor, tree_leaves(example)))


def record(
    module: nn.Module, args: tuple, kwargs: dict[str, Any], clock: Callable[[], int] = int
) -> Record:
    """Run the network once, in the mode it is in, and note what every part is called with.

    Buffers, modes, hooks and the random state are afterwards what they were; fast paths that go
    round the parts of an attention are off.

    Raises:
        TypeError: As the network itself raises for these arguments, with the path of the part.
        ValueError: The network or torch refuses the arguments in another way, likewise; or the
            network writes to a parameter.
    """
    paths = {part: path for path, part in module.named_modules()}
    result = Record(paths, {part: [] for part in paths})
    counted = {path: p for path, p in module.named_parameters() if not p.is_inference()}
    versions = {path: parameter._version for path, parameter in counted.items()}
    handles, orders = [], count()
    running: list[tuple[nn.Module, Call]] = []

    def before(part: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        call = Call(_shapes(args), _shapes(kwargs), order=next(orders), clock=-clock())
        result.calls[part].append(call)
        running.append((part, call))
        # one input: self-attention, which torch's cannot do and the matrix layer can
        return (args * 3, kwargs) if _is_alone(part, call) else None

    def after(part: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        while running[-1][0] is not part:  # the network went on after an error in a part
            running.pop()
        _, call = running.pop()
        call.clock += clock()
        if _is_alone(part, call):
            call.output = _shapes(output[0])
            return output[0]
        call.output = _shapes(output)
        return None

    try:
        for part in paths:
            handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(part.register_forward_hook(after, with_kwargs=True))
        args, kwargs = _copied((args, kwargs))  # the network may write to its input
        with undisturbed(module):
            result.output = _shapes(module(*args, **kwargs))
    except REFUSALS as error:
        part = running[-1][0] if running else module
        where = f"{paths[part]} ({type(part).__name__})" if paths[part] else type(part).__name__
        raise located(error, where) from error
    finally:
        for handle in handles:
            handle.remove()
    for path, parameter in counted.items():
        if parameter._version != versions[path]:
            raise ValueError(f"{path} must stay as it is in a forward pass, got one that writes it")
    return result


def located(error: Exception, where: str) -> Exception:
    """The error with the part that was running: a TypeError or a ValueError, but for memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return error
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{where}: {error}")


def one_shape(part: nn.Module, call: Call) -> tuple[int, ...]:
    """The shape of one input of a part, without the batch axis.

    Raises:
        ValueError: The part was called without a tensor.
    """
    if not call.tensors:
        raise ValueError("the part must be called with a tensor, got none")
    shape = tuple(call.tensors[0].shape)
    names = (kind.__name__ for kind in type(part).__mro__)
    dims = next((int(name[-2]) for name in names if name[-2:] in ("1d", "2d", "3d")), None)
    if dims is not None:
        return shape[-dims - 1 :]
    if hasattr(part, "batch_first"):
        batch = 0 if part.batch_first else 1
        return shape if len(shape) < 3 else shape[:batch] + shape[batch + 1 :]
    return shape[1:]


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Without gradients and fast paths; buffers and the random state are put back."""
    kept = [(part, dict(part._buffers)) for part in module.modules()]
    buffers = [b for _, own in kept for b in own.values() if b is not None]
    values = {id(b): (b, b.clone()) for b in buffers}
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, own in kept:
            if not isinstance(part, torch.jit.ScriptModule):  # which keeps its own
                part._buffers.update(own)
        with torch.no_grad():
            for buffer, value in values.values():
                # autograd's graphs outlive a run that wrote nothing; meta tensors have no values
                if buffer.is_meta or not torch.equal(buffer, value):
                    buffer.copy_(value)


def _is_alone(part: nn.Module, call: Call) -> bool:
    return isinstance(part, nn.MultiheadAttention) and len(call.args) == 1 and not call.kwargs


def _shapes(value: Any) -> Any:
    """The same without numbers, so that a record holds nothing of the run."""
    return _mapped(value, lambda x: torch.empty_like(x, device="meta"))


def _copied(value: Any) -> Any:
    """The same with tensors of its own; one that stands twice still does."""
    copies: dict[int, torch.Tensor] = {}
    return _mapped(value, lambda x: copies.setdefault(id(x), x.detach().clone()))


def _mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)._make(_mapped(part, change) for part in value)  # nothing is checked
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(part, change) for part in value)
    if isinstance(value, dict):
        return {name: _mapped(part, change) for name, part in value.items()}
    return value
