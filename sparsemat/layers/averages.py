"""Averages over fixed windows: what average pooling and adaptive average pooling share."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import torch
from torch import nn

from ..algebra import as_dtype
from ..matrix import SparseMatrix
from ..pattern import Pattern
from ..products import Product, choose
from ..products.product import is_traced
from ..rules import Affine
from .base import MatrixLayer, as_images


class AverageLayer(MatrixLayer):
    """Mixin of the averages; stands before the torch layer of the same dimension.

    A layer kind says which attributes its windows follow from, its pattern with the divisors, and
    the spatial size of the output.
    """

    dims: int
    input_size: tuple[int, ...]
    window_attributes: tuple[str, ...]

    def pattern(self, channels: int = 1) -> Pattern:
        """Where the matrix for images of so many channels is nonzero."""
        return self._made(channels)[0]

    def matrix(
        self,
        channels: int = 1,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> SparseMatrix:
        """The averaging matrix for images of so many channels.

        Args:
            channels: Channels of the images.
            dtype: Type of the entries; torch's default if None.
            device: Where they live.

        Returns:
            Matrix of shape ``(channels * prod(output), channels * prod(input_size))``.

        Raises:
            ValueError: ``channels`` is below 1, or the type holds no fractions.
        """
        pattern, divisors, _ = self._made(channels)
        like = torch.empty(0, dtype=as_dtype(dtype), device=device)
        return pattern.fill(inverses(divisors, like))

    def product(self, channels: int = 1) -> Product:
        """The product that multiplies by the matrix; its repr says which it is and why."""
        return self._made(channels)[2]

    def prepare(self) -> None:
        """Find the product for one channel."""
        self._made(1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Average the windows of every image.

        Args:
            input: Images ``(N, channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, channels, *output)``, or one without the batch axis.

        Raises:
            TypeError: ``input`` is no tensor.
            ValueError: ``input`` has another shape, or is of integers.
        """
        images = as_images(input, None, self.input_size)
        as_dtype(images.dtype)
        n, channels = images.shape[:2]
        if is_traced(images):  # the product for one channel is at hand
            y = self._times(1, images.reshape(n * channels, prod(self.input_size)))
            y = y.reshape(n, channels, *self._outputs())
        else:
            y = self._times(channels, images.flatten(1))
            y = y.unflatten(1, (channels, *self._outputs()))
        return y if input.ndim == images.ndim else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _times(self, channels: int, vectors: torch.Tensor) -> torch.Tensor:
        _, divisors, product = self._made(channels)
        return product(inverses(divisors, vectors), vectors.t()).t()

    def _made(self, channels: int) -> tuple[Pattern, tuple[int, ...], Product]:
        def make() -> tuple[Pattern, tuple[int, ...], Product]:
            pattern, divisors = self._averages(channels)
            return pattern, tuple(divisors.tolist()), choose(pattern)

        key = *(getattr(self, name) for name in self.window_attributes), self.input_size
        return self.remembered(f"product {channels}", key, make)

    def _averages(self, channels: int) -> tuple[Pattern, np.ndarray]:
        """The pattern for so many channels, and the divisors of its parameters."""
        raise NotImplementedError

    def _outputs(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        raise NotImplementedError


def inverses(divisors: Iterable[int], like: torch.Tensor) -> torch.Tensor:
    """The parameters of an averaging matrix, of a tensor's type and device."""
    values = [1 / int(divisor) for divisor in divisors]
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def fixed(
    pattern: Pattern, divisors: np.ndarray, like: torch.Tensor, shape: tuple[int, ...]
) -> Affine:
    """An average as a matrix without trained parameters."""
    theta = inverses(divisors, like)
    return Affine(pattern, lambda: theta, None, shape)


def own_layer(module: nn.Module, shape: tuple[int, ...], options: dict) -> nn.Module:
    """A layer of this library as it is."""
    refuse_other_size(module, shape)
    return module


def refuse_other_size(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse images of another size than the layer's.

    Raises:
        ValueError: With both sizes.
    """
    if shape[1:] != module.input_size:
        raise ValueError(f"the layer's input_size is {module.input_size}, got input_shape={shape}")
