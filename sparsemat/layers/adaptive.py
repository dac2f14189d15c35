"""Adaptive pooling: the matrix of averages, that of maxima at an image, and their layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d

from ..arguments import as_tuple
from ..pattern import Pattern
from ..patterns.pooling import adaptive_avg_pool_pattern
from ..rules import Affine, Rule, image_size, refuse, register, spatial_dims
from .averages import AverageLayer, fixed, own_layer, refuse_other_size
from .maxima import MaximumLayer, register_maxima, require_no_indices

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


class _MatrixAdaptiveAvgPool(AverageLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    window_attributes = ("output_size",)

    def __init__(
        self, output_size: int | Sequence[int | None] | None, *, input_size: int | Sequence[int]
    ) -> None:
        input_size = as_tuple("input_size", input_size, self.dims)
        resolved(output_size, input_size)
        super().__init__(output_size)
        self.input_size = input_size
        self.prepare()

    def _averages(self, channels: int) -> tuple[Pattern, np.ndarray]:
        return adaptive_avg_pool_pattern(channels, self.input_size, self._outputs())

    def _outputs(self) -> tuple[int, ...]:
        return resolved(self.output_size, self.input_size)


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
    if isinstance(module, OWN):
        refuse_other_size(module, shape)
    outputs = resolved(module.output_size, size)
    pattern, divisors = adaptive_avg_pool_pattern(shape[0], size, outputs)
    return fixed(pattern, divisors, like, (shape[0], *outputs))


def _layer_of(own: tuple[type, ...], **required: object) -> Callable:
    """What makes one of these layers from torch's, which must have these attributes."""

    def layer(module: nn.Module, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
        refuse(module, **required)
        size = image_size(module, shape, spatial_dims(module))
        made = own[len(size) - 1](module.output_size, input_size=size)
        return made.train(module.training)

    return layer


register(Rule(STOCK, _matrix, _layer_of(OWN)))
register(Rule(OWN, _matrix, own_layer))


class _MatrixAdaptiveMaxPool(MaximumLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    def __init__(
        self,
        output_size: int | Sequence[int | None] | None,
        return_indices: bool = False,
        *,
        input_size: int | Sequence[int],
    ) -> None:
        input_size = as_tuple("input_size", input_size, self.dims)
        require_no_indices(return_indices)
        resolved(output_size, input_size)
        super().__init__(output_size)
        self.input_size = input_size

    def _first_maximisers(self, images: torch.Tensor) -> torch.Tensor:
        outputs = resolved(self.output_size, self.input_size)
        function = (adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d)[self.dims - 1]
        return function(images.detach(), outputs, return_indices=True)[1]


class AdaptiveMaxPool1d(_MatrixAdaptiveMaxPool, nn.AdaptiveMaxPool1d):
    """1-D adaptive max pooling as a product; see :class:`AdaptiveMaxPool2d`."""

    dims = 1


class AdaptiveMaxPool2d(_MatrixAdaptiveMaxPool, nn.AdaptiveMaxPool2d):
    """2-D adaptive max pooling as a product with a matrix chosen by the data.

    Args:
        output_size: Height and width of the output; None keeps the input's.
        return_indices: Not supported; False.
        input_size: Height and width of the images; any number of channels is served.

    Raises:
        ValueError: A size is below 1.

    Source: chapter "Pooling".
    """

    dims = 2


class AdaptiveMaxPool3d(_MatrixAdaptiveMaxPool, nn.AdaptiveMaxPool3d):
    """3-D adaptive max pooling as a product; see :class:`AdaptiveMaxPool2d`."""

    dims = 3


MAX_STOCK = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
MAX_OWN = (AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d)


register_maxima(MAX_STOCK, MAX_OWN, _layer_of(MAX_OWN, return_indices=False))
