"""Transposed convolution: the matrix of a convolution backwards, transposed."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from ..arguments import as_tuple
from ..patterns.convolution import conv_transpose_pattern
from ..rules import Affine, Rule, image_size, register

STOCK = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def transposed_size(module: nn.ConvTranspose2d, size: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial size of the output for images of a size, as torch computes it.

    Raises:
        ValueError: It is empty, or ``output_padding`` is neither below the stride nor the dilation.
    """
    dims = len(size)
    sides = {
        name: as_tuple(name, getattr(module, name), dims, least)
        for name, least in (("stride", 1), ("dilation", 1), ("kernel_size", 1), ("padding", 0))
    }
    extra = as_tuple("output_padding", module.output_padding, dims, least=0)
    for more, stride, dilation in zip(extra, sides["stride"], sides["dilation"], strict=True):
        if more >= max(stride, dilation):
            raise ValueError(
                "output_padding must be below the stride or the dilation, "
                f"got {more} with stride {stride} and dilation {dilation}"
            )
    outputs = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, s, d, k, p, more in zip(size, *sides.values(), extra, strict=True)
    )
    if min(outputs) < 1:
        raise ValueError(f"the output must not be empty, got size {outputs} for input {size}")
    return outputs


def _matrix(module: nn.ConvTranspose2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {module.padding_mode!r}")
    dims = len(module.kernel_size)
    size = image_size(module, shape, dims, module.in_channels)
    outputs = transposed_size(module, size)
    pattern = conv_transpose_pattern(
        *(module.in_channels, module.out_channels, size, outputs),
        as_tuple("kernel_size", module.kernel_size, dims),
        stride=as_tuple("stride", module.stride, dims),
        padding=as_tuple("padding", module.padding, dims, least=0),
        dilation=as_tuple("dilation", module.dilation, dims),
        groups=module.groups,
    )
    bias, positions = None, prod(outputs)
    if module.bias is not None:

        def bias() -> torch.Tensor:
            return module.bias.repeat_interleave(positions)

    output = module.out_channels, *outputs
    return Affine(pattern, lambda: module.weight.reshape(-1), bias, output)


register(Rule(STOCK, _matrix))
