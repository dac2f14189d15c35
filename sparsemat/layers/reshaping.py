"""What only moves entries: shuffles, unflattening, patches and their sums."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from ..pattern import Pattern
from ..patterns.simple import selection_pattern
from ..rules import Affine, Rule, output_shape, register
from .simple import identity


def _selection(module: nn.Module, shape: tuple[int, ...]) -> Pattern:
    """Which entry each output is, as the module moves the numbers 1, 2, ...; 0 is padding."""
    numbers = torch.arange(1, prod(shape) + 1, dtype=torch.float64, device="cpu")
    read = module(numbers.reshape(1, *shape)).reshape(-1).to(torch.int64) - 1
    return selection_pattern(read.numpy(), prod(shape))


def _moved(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    output, one = output_shape(module, shape, 3), like.new_ones(1)
    return Affine(_selection(module, shape), lambda: one, None, output)


def _shuffled(module: nn.ChannelShuffle, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    output, one = output_shape(module, shape, len(shape)), like.new_ones(1)
    return Affine(_selection(module, shape), lambda: one, None, output)


def _fold(module: nn.Fold, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    output, one = output_shape(module, shape, 2), like.new_ones(1)
    unfold = nn.Unfold(module.kernel_size, module.dilation, module.padding, module.stride)
    return Affine(_selection(unfold, output).T, lambda: one, None, output)


def _unflatten(module: nn.Unflatten, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if module.dim in (0, -len(shape) - 1):
        raise ValueError(f"Unflatten must keep the batch axis, got dim={module.dim}")
    return identity(shape, like, output_shape(module, shape, len(shape)))


register(Rule((nn.PixelShuffle, nn.PixelUnshuffle, nn.Unfold), _moved))
register(Rule((nn.ChannelShuffle,), _shuffled))
register(Rule((nn.Fold,), _fold))
register(Rule((nn.Unflatten,), _unflatten))
