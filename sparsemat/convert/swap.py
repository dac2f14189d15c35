"""Networks to networks of matrix layers: every part that has a rule is exchanged for its layer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from ..arguments import as_flag, as_size
from ..products import check_form
from ..rules import Rule, as_it_is, checked_shape, find, rules
from .matrices import check_module
from .record import Call, Example, Record, arguments, is_example, one_shape, record
from .sizes import PerSize


def from_module(
    module: nn.Module,
    input_shape: Example,
    *,
    tied: bool = True,
    causal: bool = False,
    window: int | None = None,
    form: str | None = None,
    only: Callable[[str, nn.Module], bool] | None = None,
) -> nn.Module:
    """A network with matrix layers in place of the parts that have one; a copy, of the same names.

    What every part is called with is recorded in one forward pass, in the mode the network is in;
    its own Python code stays as it is. Parameters and parts that are shared stay shared, state
    dicts load both ways (a convolution that is not tied has a longer weight). A part that is called
    with images of several sizes becomes a :class:`~sparsemat.convert.sizes.PerSize`. An attention
    that is called with one input becomes a :class:`sparsemat.SelfAttention`, one that is called as
    torch's a :class:`sparsemat.MultiheadAttention`.

    Args:
        module: Any network, or one layer.
        input_shape: Shape of one input, without the batch axis; or an example input with it: a
            tensor, a tuple of arguments or a dictionary of named ones.
        tied: Whether the positions of a convolution share its kernel.
        causal: Whether token i of an attention sees only tokens ``j <= i``.
        window: Distance up to which tokens of an attention see one another; None for no limit.
        form: Form of the products of convolutions; ``"native"`` costs what torch's own does.
        only: Function ``(path, part) -> bool`` that says which parts to exchange; all if None.

    Returns:
        A module of its own.

    Raises:
        TypeError: There is no matrix layer for anything in it, or a part computes something else
            than its kind or has hooks; the message begins with its path.
        ValueError: A part has an option that the matrix layer does not take or a weight that a
            hook or a parametrization computes, an argument has no part to act on, or a weight to
            untie is shared or meets images of two sizes.

    Warns:
        UserWarning: A part that has a matrix layer did not run as a part, so that it stays as it
            is (its weight is read by other code, say), or its matrix layer did not.
    """
    check_module(module)
    if only is not None and not callable(only):
        raise TypeError(f"only must be a function of a path and a part, got {only!r}")
    options = {"tied": tied, "causal": causal, "window": window, "form": form}
    _check_options(module, options)
    network = deepcopy(module)
    rule = _rule(network, "")
    if rule is not None or next(network.children(), None) is None:
        return _alone(network, rule, input_shape, options)
    args, kwargs = arguments(network, input_shape, 2 if _trains(network) else 1)
    made, idle = _made(record(network, args, kwargs), options, only)
    if not made and not any(_stands_as_it_is(part) for part in network.modules()):
        raise _no_layer(network)
    exchange(network, {part: layer for part, (_, layer) in made.items()})
    if made:
        ran = record(network, args, kwargs).calls
        idle += [path for path, layer in made.values() if not ran[layer]]
    if idle:
        warnings.warn(
            f"parts of {type(module).__name__} that did not run as parts, so that no matrix layer "
            f"multiplies there: {', '.join(idle)}",
            stacklevel=2,
        )
    return network


def exchange(network: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Put other parts in place, wherever the old ones stand, so that shared parts stay shared."""
    for parent in list(network.modules()):
        for name, part in parent._modules.items():
            if part in made:
                parent._modules[name] = made[part]
    new = set(made.values())
    for encoder in network.modules():
        if isinstance(encoder, nn.TransformerEncoder) and not new.isdisjoint(encoder.modules()):
            # it would hand its layers a nested tensor, which only torch's own parts take
            encoder.use_nested_tensor = False


def _made(
    seen: Record, options: dict[str, Any], only: Callable[[str, nn.Module], bool] | None
) -> tuple[dict[nn.Module, tuple[str, nn.Module]], list[str]]:
    """The path and the matrix layer of every part to exchange, and the paths of what never ran."""
    made, idle, inside = {}, [], set()
    for part, path in seen.paths.items():
        if part in inside or not path or (only is not None and not only(path, part)):
            continue
        rule = _rule(part, path)
        if rule is None:
            continue
        inside.update(part.modules())
        if not seen.calls[part]:
            idle.append(path)
            continue
        try:
            made[part] = path, _layer(part, rule, seen.calls[part], options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path} ({type(part).__name__}): {error}") from error
    return made, idle


def _layer(part: nn.Module, rule: Rule, calls: list[Call], options: dict[str, Any]) -> nn.Module:
    as_torch = any(len(call.args) != 1 or call.kwargs for call in calls)
    outputs: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for call in calls:
        shape = tuple(getattr(call.output, "shape", ()))
        outputs.setdefault(one_shape(part, call), []).append(shape)
    shapes = list(outputs)

    def made(shape: tuple[int, ...]) -> nn.Module:
        more = {"as_torch": as_torch, "outputs": outputs[shape]}
        return rule.layer(part, shape, options | more)

    first = made(shapes[0])
    sized = isinstance(getattr(first, "input_size", None), tuple)
    if not sized or len(shapes) == 1:
        return first
    if not options["tied"] and "tied" in rule.options:
        raise ValueError(f"tied=False needs images of one size, got {shapes[0]} and {shapes[1]}")
    return PerSize([first, *map(made, shapes[1:])])


def _rule(part: nn.Module, path: str) -> Rule | None:
    """The rule by which a part is exchanged, None where it stays."""
    try:
        rule = find(part)
    except TypeError as error:
        if not any(isinstance(part, rule.kinds) for rule in rules() if _exchanges(rule)):
            return None
        hint = f"{path}: {error}; leave it out with only" if path else str(error)
        raise TypeError(hint) from error
    return rule if rule is not None and _exchanges(rule) else None


def _exchanges(rule: Rule) -> bool:
    return rule.layer is not None and rule.layer is not as_it_is


def _stands_as_it_is(part: nn.Module) -> bool:
    try:
        rule = find(part)
    except TypeError:
        return False
    return rule is not None and rule.layer is as_it_is


def _alone(
    module: nn.Module, rule: Rule | None, input_shape: Example, options: dict[str, Any]
) -> nn.Module:
    """The layer of a module that is one part."""
    rule = rule or find(module)
    if rule is None or rule.layer is None:
        raise _no_layer(module)
    if not is_example(input_shape):
        return rule.layer(module, checked_shape(input_shape), options)
    args, kwargs = arguments(module, input_shape)
    return _layer(module, rule, record(module, args, kwargs).calls[module], options)


def _no_layer(module: nn.Module) -> TypeError:
    names = {kind.__name__ for rule in rules() if _exchanges(rule) for kind in rule.kinds}
    return TypeError(
        f"there is no matrix layer for {type(module).__name__}; from_module takes networks of "
        f"{', '.join(sorted(names))}, and to_matrix every affine module"
    )


def _trains(module: nn.Module) -> bool:
    return any(part.training for part in module.modules())


def _check_options(module: nn.Module, options: dict[str, Any]) -> None:
    as_flag("tied", options["tied"])
    as_flag("causal", options["causal"])
    if options["window"] is not None:
        as_size("window", options["window"], 0)
    if options["form"] is not None:
        check_form(options["form"])
    defaults = {"tied": True, "causal": False, "window": None, "form": None}
    for name, value in options.items():
        if value == defaults[name]:
            continue
        kinds = tuple(kind for rule in rules() if name in rule.options for kind in rule.kinds)
        if not any(isinstance(part, kinds) for part in module.modules()):
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(f"{name} needs one of {names}, got {name}={value} for {module!r}")
    if not options["tied"]:
        _refuse_shared(module)


def _refuse_shared(module: nn.Module) -> None:
    untied = tuple(kind for rule in rules() if "tied" in rule.options for kind in rule.kinds)
    owners = Counter(id(p) for part in module.modules() for p in part._parameters.values())
    for path, part in module.named_modules():
        if isinstance(part, untied) and owners[id(part.weight)] > 1:
            raise ValueError(
                f"tied=False needs a weight that no other part shares, got a shared one at {path!r}"
            )
