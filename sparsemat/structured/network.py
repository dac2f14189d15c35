"""Whole networks: every dense layer projected to a structured one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from ..convert.swap import exchange
from .base import StructuredLinear, StructuredMatrix


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
        A copy, in which a layer that is shared stays shared.

    Raises:
        TypeError: No dense layer is to be exchanged.
        ValueError: A layer's shape does not have the structure, or its weight is shared with
            another part; the message begins with its path.
    """
    network, made = deepcopy(module), {}
    for path, layer in network.named_modules():
        if type(layer) is not nn.Linear or (only is not None and not only(path, layer)):
            continue
        chosen = structure(tuple(layer.weight.shape)) if callable(structure) else structure
        if chosen is None:
            continue
        owners = [p for p, part in network.named_modules() if _owns(part, layer.weight)]
        if len(owners) > 1:
            raise ValueError(f"{path}: its weight must be its own, got one that {owners} share")
        try:
            made[layer] = StructuredLinear.from_linear(layer, kind, **chosen)
        except ValueError as error:
            raise ValueError(f"{path} ({layer}): {error}") from error
    if not made:
        raise TypeError(f"no dense layer is to be exchanged in {type(module).__name__}")
    if network in made:
        return made[network]
    exchange(network, made)
    return network


def _owns(part: nn.Module, weight: nn.Parameter) -> bool:
    return any(own is weight for own in part._parameters.values())
