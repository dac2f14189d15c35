"""How modules become matrices and matrix layers: one rule a kind, registered beside its layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn

# private, but there is no public way to ask
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.parametrize import is_parametrized

from .algebra import as_dtype
from .arguments import as_tuple
from .live import Live
from .matrix import SparseMatrix
from .pattern import Pattern


class Affine(NamedTuple):
    """A module as a matrix and a constant, read from its parameters at each use.

    Attributes:
        pattern: The pattern of the matrix.
        theta: Function that returns its parameters.
        bias: Function that returns the constant ``(rows,)``; None for zeros.
        shape: Shape of the output, without the batch axis.
    """

    pattern: Pattern
    theta: Callable[[], torch.Tensor]
    bias: Callable[[], torch.Tensor] | None
    shape: tuple[int, ...]

    def matrix(self, like: torch.Tensor) -> SparseMatrix:
        """The matrix; ``like`` tells type and device."""
        return SparseMatrix(
            self.pattern, Live(self.theta, self.pattern.num_parameters, like.dtype, like.device)
        )

    def constant(self, like: torch.Tensor) -> Live:
        """The constant, zeros where there is no bias."""
        rows = self.pattern.shape[0]
        bias = self.bias or (lambda: like.new_zeros(rows))
        return Live(bias, rows, like.dtype, like.device)


@dataclass(frozen=True)
class Rule:
    """What is known of some kinds of modules.

    Attributes:
        kinds: The classes.
        matrix: Function ``(module, shape, like) -> Affine``; None where it is no fixed matrix.
        layer: Function ``(module, shape, options) -> module`` that makes the matrix layer, which
            takes over the module's parameters; None where there is none.
        options: Names of the options of ``from_module`` that the layer follows.
        hint: What to do where ``matrix`` is None.
    """

    kinds: tuple[type[nn.Module], ...]
    matrix: Callable[[nn.Module, tuple[int, ...], torch.Tensor], Affine] | None = None
    layer: Callable[[nn.Module, tuple[int, ...], dict[str, Any]], nn.Module] | None = None
    options: tuple[str, ...] = field(default=())
    hint: str = ""


_rules: dict[type[nn.Module], Rule] = {}
_named: dict[str, Rule] = {}
# what the kinds were when their rules were made: a class can be patched later
_originals: dict[type[nn.Module], dict[str, object]] = {}

# methods that only make, print, store or move a module; all others can change what it computes
HARMLESS = {
    *("__init__", "__repr__", "extra_repr", "reset_parameters", "train", "flatten_parameters"),
    *("__getstate__", "__setstate__", "__reduce__", "__deepcopy__", "__dir__", "_apply"),
    *("_load_from_state_dict", "_save_to_state_dict", "get_extra_state", "set_extra_state"),
}
CALLS = ("__call__", "_call_impl", "_wrapped_call_impl", "_slow_forward", "__getattr__")


def register(rule: Rule) -> None:
    """Make a rule known for its kinds and for subclasses that compute the same."""
    _rules.update(dict.fromkeys(rule.kinds, rule))
    for kind in rule.kinds:
        _original(kind)


def register_named(name: str, rule: Rule) -> None:
    """The same for a class of a library that is not imported, by its full name."""
    _named[name] = rule


def rules() -> Iterator[Rule]:
    """Every rule, each once."""
    return iter(dict.fromkeys(_rules.values()))


def find(module: nn.Module) -> Rule | None:
    """The rule of the module's class, or of the class it derives from.

    Raises:
        TypeError: The class or this instance replaced something that the rule relies on, or has
            hooks.
    """
    for kind in type(module).__mro__:
        rule = _rules.get(kind) or _named.get(f"{kind.__module__}.{kind.__qualname__}")
        if rule is not None:
            replaced = what_is_replaced(module, kind)
            if replaced:
                raise TypeError(
                    f"{type(module).__name__} computes something else than {kind.__name__}: "
                    f"{replaced}, so the rule of {kind.__name__} does not hold"
                )
            return rule
    return None


def what_is_replaced(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """What is no longer the kind's: a method, or that there are no hooks; None if all is.

    A kind's ``forward`` may call any method that the kind defines, so each of them counts, on the
    class of the module, on the module itself, and on the kind since its rule was made.
    """
    for name, original in _original(kind).items():
        if name in vars(module) or _defined(type(module), name) is not original:
            return f"its {name} was replaced"
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    for name in hooks:
        if getattr(module, name):
            return f"its {name[1:]} are not empty"
    if _has_any_global_hook():
        return "there are hooks of all modules, see torch.nn.modules.module"
    return None


def _original(kind: type[nn.Module]) -> dict[str, object]:
    if kind not in _originals:
        _originals[kind] = {name: _defined(kind, name) for name in (*methods(kind), *CALLS)}
    return _originals[kind]


@cache
def methods(kind: type[nn.Module]) -> tuple[str, ...]:
    """Methods and properties that a kind adds to ``nn.Module`` and that its result may rest on."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    sorts = (FunctionType, property, cached_property, classmethod, staticmethod)
    names = (name for part in own for name, value in vars(part).items() if isinstance(value, sorts))
    return tuple(sorted({"forward", *names} - HARMLESS))


def _defined(kind: type, name: str) -> object:
    return next((vars(part)[name] for part in kind.__mro__ if name in vars(part)), None)


def like(module: nn.Module, dtype: torch.dtype | None, device: Any) -> torch.Tensor:
    """An empty tensor of the module's type and device, or of those that are given.

    Raises:
        TypeError: ``dtype`` is no type of torch's.
        ValueError: It is a type of integers, or the parameters have another type or device.
    """
    if dtype is not None:
        as_dtype(dtype)
    floating = (
        t
        for t in chain(module.parameters(), module.buffers())
        if t.is_floating_point() or t.is_complex()
    )
    own = next(floating, None)
    if own is None:
        return torch.empty(0, dtype=dtype, device=device)
    wanted = torch.empty(0, dtype=dtype or own.dtype, device=device or own.device)
    if wanted.dtype != own.dtype or wanted.device.type != own.device.type:
        raise ValueError(
            f"the parameters of {type(module).__name__} are {own.dtype} on {own.device}, "
            f"got dtype={dtype} and device={device}; see module.to(...)"
        )
    return own.detach().new_empty(0)


def checked_shape(input_shape: Any) -> tuple[int, ...]:
    """An input's shape as a tuple of integers of at least 1; empty for a number.

    Raises:
        ValueError: With the rule and the value.
    """
    if isinstance(input_shape, (list, tuple, torch.Size)) and len(input_shape) == 0:
        return ()
    return as_tuple("input_shape", input_shape)


def image_size(
    module: nn.Module, shape: tuple[int, ...], dims: int, channels: int | None = None
) -> tuple[int, ...]:
    """The spatial size in an input's shape ``(channels, *size)``.

    Raises:
        ValueError: The shape has another number of axes or of channels.
    """
    if len(shape) != dims + 1 or channels not in (None, shape[0]):
        raise ValueError(
            f"input_shape of {type(module).__name__} must be {dims + 1} sizes, "
            f"the first of {channels or 'any number of'} channels, got {shape}"
        )
    return shape[1:]


def output_shape(module: nn.Module, shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Shape of a parameterless module's output, without the batch axis, as torch computes it.

    Raises:
        ValueError: The input has another number of axes, or torch refuses it.
    """
    name = type(module).__name__
    if len(shape) != axes:
        raise ValueError(f"input_shape of {name} must be {axes} sizes, got {shape}")
    try:
        output = module(torch.empty(1, *shape, device="meta"))
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        raise ValueError(f"{name} must take input_shape={shape}, torch says: {error}") from error
    return tuple(output.shape[1:])


def spatial_dims(module: nn.Module) -> int:
    """Spatial dimensions of a stock module, by the name of its class."""
    names = (kind.__name__ for kind in type(module).__mro__)
    return int(next(name for name in names if name[-2:] in ("1d", "2d", "3d"))[-2])


def taking_over(layer: nn.Module, module: nn.Module) -> nn.Module:
    """The layer with the very parameters and the mode of the module, for the same names.

    Raises:
        ValueError: A parameter is computed by a parametrization, a hook or a property.
    """
    if any(map(is_parametrized, module.modules())):
        raise ValueError(
            f"the matrix layer of {type(module).__name__} needs parameters of its own, got "
            "parametrized ones; see torch.nn.utils.parametrize.remove_parametrizations"
        )
    refuse_computed(module)
    for path, part in layer.named_modules():
        source = module.get_submodule(path)
        mine, theirs = (
            {name for name, value in side._parameters.items() if value is not None}
            for side in (part, source)
        )
        if mine != theirs:
            raise ValueError(
                f"{type(module).__name__} must have the parameters {sorted(mine)}, "
                f"got {sorted(theirs)}"
            )
        for name in mine:
            if getattr(source, name) is not source._parameters[name]:
                raise ValueError(
                    f"{name} of {type(source).__name__} must be its parameter, got a tensor that "
                    "the class computes from it"
                )
            part._parameters[name] = source._parameters[name]
    return layer.train(module.training)


def refuse_computed(module: nn.Module) -> None:
    """Refuse a weight that a hook writes before a call, or that asking for it would change.

    Raises:
        ValueError: With the name of the weight, and what to do.
    """
    for part in module.modules():
        for name, value in vars(part).items():
            sources = {f"{name}_orig", f"{name}_g"}  # of pruning, and of torch's old weight_norm
            if torch.is_tensor(value) and sources & part._parameters.keys():
                raise ValueError(
                    f"{name} of {type(part).__name__} must be a parameter, got a tensor that a "
                    "hook computes; make it one first, for example with torch.nn.utils.prune.remove"
                )
        if is_parametrized(part) and part.training:
            for name, transforms in part.parametrizations.items():
                if any(True for _ in transforms.buffers()):
                    raise ValueError(
                        f"{name} of {type(part).__name__} has a parametrization that changes its "
                        "buffers whenever it is asked in training mode; call .eval() first"
                    )


def refuse(module: nn.Module, **required: object) -> None:
    """Refuse a module whose attributes are not these.

    Raises:
        ValueError: With the name, the value needed and the one there is.
    """
    for name, value in required.items():
        if getattr(module, name) != value:
            raise ValueError(
                f"the matrix layer of {type(module).__name__} needs {name}={value}, "
                f"got {getattr(module, name)}"
            )


def as_it_is(module: nn.Module, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    """The layer of a module that multiplies by its matrix already, or stands between matrices."""
    return module
