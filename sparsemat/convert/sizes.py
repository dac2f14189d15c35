"""A part that meets images of several sizes: one matrix layer a size, one set of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn


class PerSize(nn.Module):
    """Matrix layers of one part for several image sizes, which share all parameters and buffers.

    A call goes to the layer of the input's size.

    Args:
        layers: One layer a size, each with the very parameters of the others.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        first = layers[0]
        for module in (self, *layers[1:]):  # the same dictionaries, so that none can drift apart
            module._parameters, module._buffers = first._parameters, first._buffers
            module._modules = first._modules
        self.training = first.training
        self.names = frozenset(first._parameters)
        self.__dict__["by_size"] = {layer.input_size: layer for layer in layers}

    def forward(self, input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The output of the layer for images of this size.

        Raises:
            ValueError: There is none; the message names the sizes there are.
        """
        layer = self.chosen(input)
        # of pruning or a parametrization, which stand at this module only
        computed = self.names - self._parameters.keys()
        layer.__dict__.update({name: getattr(self, name) for name in computed})
        try:
            return layer(input, *args, **kwargs)
        finally:
            for name in computed:
                del layer.__dict__[name]

    def chosen(self, x: torch.Tensor) -> nn.Module:
        """The layer for images of this size.

        Raises:
            ValueError: There is none; the message names the sizes there are.
        """
        dims = len(next(iter(self.by_size)))
        size = tuple(x.shape[-dims:])
        if size not in self.by_size:
            sizes = ", ".join(map(str, self.by_size))
            raise ValueError(f"images must have one of the sizes {sizes}, got {size}")
        return self.by_size[size]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all layers."""
        for layer in self.by_size.values():
            layer.train(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        """The layers, for ``repr``."""
        return "; ".join(map(repr, self.by_size.values()))
