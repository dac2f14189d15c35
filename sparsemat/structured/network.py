"""Whole networks: every dense layer projected to a structured one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..convert.swap import exchange
from .base import StructuredLinear, StructuredMatrix, require_plain


def from_module(
    module: nn.Module,
    kind: type[StructuredMatrix],
    structure: dict[str, Any] | Callable[[tuple[int, int]], dict[str, Any] | None],
    only: Callable[[str, nn.Linear], bool] | None = None,
) -> nn.Module:
    """A network with structured layers in place of its dense ones, each the projection of its own.

    Args:
        module: Any network, or one ``nn.Linear``; it stays as it is.
        kind: The class of the matrices, :class:`LowRank` for instance.
        structure: Its arguments beside the shape; or a function of the shape ``(rows, columns)``
            that gives them, None for a layer that stays dense.
        only: Function ``(path, layer) -> bool`` that says which layers to exchange; all if None.

    Returns:
        A copy, in which a layer that is shared stays shared. What is frozen stays frozen, and every
        part keeps its mode.

    Raises:
        TypeError: No dense layer is to be exchanged.
        ValueError: A layer's shape does not have the structure, its weight or bias is shared with
            another part or computed from other parameters, or it has hooks or a method that was
            replaced; the message begins with its path.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for path, layer in module.named_modules():
        if not _is_dense(layer) or (only is not None and not only(path, layer)):
            continue
        weight = layer._parameters.get("weight")  # a computed one may change when asked for
        shape = (layer.out_features, layer.in_features) if weight is None else tuple(weight.shape)
        own = structure(shape) if callable(structure) else structure
        if own is not None:
            _check(module, path, layer)
            chosen[path] = own
    if not chosen:
        raise TypeError(f"no dense layer is to be exchanged in {type(module).__name__}")
    network, made = deepcopy(module), {}
    for path, own in chosen.items():
        layer = module.get_submodule(path)
        try:
            made[path] = StructuredLinear.from_linear(layer, kind, **own)
        except ValueError as error:
            raise ValueError(f"{path} ({layer}): {error}") from error
    if "" in made:
        return made[""]
    exchange(network, {network.get_submodule(path): layer for path, layer in made.items()})
    return network


def _is_dense(part: nn.Module) -> bool:
    kind = type(part)  # a parametrization puts a class of its own before the part's
    return (kind.__base__ if is_parametrized(part) else kind) is nn.Linear


def _check(module: nn.Module, path: str, layer: nn.Linear) -> None:
    require_plain(layer, path or "linear")
    for name, value in layer._parameters.items():
        if value is None:
            continue
        owners = [p for p, part in module.named_modules() if _owns(part, value)]
        if len(owners) > 1:
            raise ValueError(f"{path}: its {name} must be its own, got one that {owners} share")


def _owns(part: nn.Module, weight: nn.Parameter) -> bool:
    return any(own is weight for own in part._parameters.values())
