"""The networks: every variant built from one configuration, with the same names inside."""

from __future__ import annotations

import torch
from torch import nn

from .images import ImageNetwork
from .series import SeriesNetwork
from .text import LanguageModel, TextClassifier

Network = ImageNetwork | SeriesNetwork | TextClassifier | LanguageModel

__all__ = [
    *("ImageNetwork", "LanguageModel", "Network", "SeriesNetwork", "TextClassifier"),
    *("build", "count_parameters"),
]


def build(network: Network, variant: str, seed: int) -> nn.Module:
    """A network whose shared initial weights depend on the seed alone, not on the variant.

    Args:
        network: The configuration.
        variant: One of ``network.variants``. "native" has torch's own layers, "tied" the matrix
            layers with the native parameters; the network's class lists the others.
        seed: Seed of the initial weights.

    Returns:
        The module. Weights that the native network has under the same name and in the same shape
        are those of the native network.

    Raises:
        ValueError: The variant is unknown.
    """
    if variant not in network.variants:
        raise ValueError(f"the variant must be one of {network.variants}, got {variant!r}")
    torch.manual_seed(seed)
    native = network.module("native")
    if variant == "native":
        return native
    model = network.module(variant)
    known = model.state_dict()
    shared = {
        name: value
        for name, value in native.state_dict().items()
        if name in known and known[name].shape == value.shape
    }
    model.load_state_dict(shared, strict=False)
    return network.untie(model) if variant == "untied" else model


def count_parameters(module: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in module.parameters())
