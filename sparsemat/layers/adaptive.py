"""Adaptive average pooling: its matrix, and the layer that multiplies by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import as_tuple
from ..matrix import SparseMatrix
from ..pattern import Pattern
from ..patterns.pooling import adaptive_avg_pool_pattern
from ..products import Product, choose
from ..rules import Affine, Rule, image_size, register, spatial_dims
from .base import MatrixLayer, as_images

STOCK = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def resolved(output_size: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """One size an axis; None keeps the input's.

    Raises:
        ValueError: Another number of entries, or one below 1.
    """
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,)
    sizes = sizes * len(size) if len(sizes) == 1 else sizes
    if len(sizes) != len(size) or sizes == (None,):  # torch's 1-D layer takes no None
        raise ValueError(
            f"output_size must have {len(size)} entries (no None in 1-D), got {output_size}"
        )
    chosen = tuple(n if m is None else m for n, m in zip(size, sizes, strict=True))
    return as_tuple("output_size", chosen, len(size))


class _MatrixAdaptiveAvgPool(MatrixLayer):
    dims: int

    def __init__(
        self, output_size: int | Sequence[int | None] | None, *, input_size: int | Sequence[int]
    ) -> None:
        input_size = as_tuple("input_size", input_size, self.dims)
        resolved(output_size, input_size)
        super().__init__(output_size)
        self.input_size = input_size
        self.prepare()

    def pattern(self, channels: int = 1) -> Pattern:
        """Where the matrix for images of so many channels is nonzero."""
        return self._pattern_and_divisors(channels)[0]

    def matrix(self, channels: int = 1) -> SparseMatrix:
        """The averaging matrix for images of so many channels, in torch's default dtype."""
        pattern, divisors = self._pattern_and_divisors(channels)
        return pattern.fill(1 / torch.tensor(divisors, dtype=torch.get_default_dtype()))

    def prepare(self) -> None:
        """Find the product for one channel."""
        self._made()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average the windows of images ``(N, C, *input_size)``, or of one without the batch.

        Raises:
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` has another shape.
        """
        images = as_images(x, None, self.input_size)
        product, divisors = self._made()
        theta = 1 / torch.tensor(divisors, dtype=images.dtype, device=images.device)
        y = product(theta, images.flatten(0, 1).flatten(1).t()).t()
        y = y.reshape(*images.shape[:2], *resolved(self.output_size, self.input_size))
        return y if x.ndim == images.ndim else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _pattern_and_divisors(self, channels: int) -> tuple[Pattern, np.ndarray]:
        output = resolved(self.output_size, self.input_size)
        return adaptive_avg_pool_pattern(channels, self.input_size, output)

    def _made(self) -> tuple[Product, tuple[int, ...]]:
        def make() -> tuple[Product, tuple[int, ...]]:
            pattern, divisors = self._pattern_and_divisors(1)
            return choose(pattern), tuple(divisors.tolist())

        return self.remembered("product", (self.output_size, self.input_size), make)


class AdaptiveAvgPool1d(_MatrixAdaptiveAvgPool, nn.AdaptiveAvgPool1d):
    """1-D adaptive average pooling as a product; see :class:`AdaptiveAvgPool2d`."""

    dims = 1


class AdaptiveAvgPool2d(_MatrixAdaptiveAvgPool, nn.AdaptiveAvgPool2d):
    """2-D adaptive average pooling as a product with its sparse matrix.

    Args:
        output_size: Height and width of the output; None keeps the input's.
        input_size: Height and width of the images; any number of channels is served.

    Raises:
        ValueError: A size is below 1.

    Source: chapter "Pooling".
    """

    dims = 2


class AdaptiveAvgPool3d(_MatrixAdaptiveAvgPool, nn.AdaptiveAvgPool3d):
    """3-D adaptive average pooling as a product; see :class:`AdaptiveAvgPool2d`."""

    dims = 3


OWN = (AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d)


def _matrix(module: nn.AdaptiveAvgPool2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = image_size(module, shape, spatial_dims(module))
    _check_size(module, size)
    outputs = resolved(module.output_size, size)
    pattern, divisors = adaptive_avg_pool_pattern(shape[0], size, outputs)
    theta = 1 / torch.from_numpy(divisors).to(like)
    return Affine(pattern, lambda: theta, None, (shape[0], *outputs))


def _layer(module: nn.Module, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    size = image_size(module, shape, spatial_dims(module))
    if isinstance(module, OWN):
        _check_size(module, size)
        return module
    made = OWN[len(size) - 1](module.output_size, input_size=size)
    return made.train(module.training)


def _check_size(module: nn.Module, size: tuple[int, ...]) -> None:
    if isinstance(module, OWN) and size != module.input_size:
        raise ValueError(f"the layer's input_size is {module.input_size}, got images of {size}")


register(Rule(STOCK, _matrix, _layer))
register(Rule(OWN, _matrix, _layer))
