"""Average pooling: its pattern and values, and the layers that multiply by the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import as_size, as_tuple
from ..pattern import Pattern
from ..patterns.pooling import avg_pool_of_windows
from ..rules import Affine, Rule, image_size, register, spatial_dims
from ..windows import Windows, pool_windows
from .averages import AverageLayer, fixed, inverses, own_layer, refuse_other_size
from .base import check_flags


def avg_pool_pattern(
    channels: int,
    input_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Pattern, torch.Tensor]:
    """The pattern of average pooling in 1, 2 or 3 dimensions, and its values.

    Row ``(c, a, b)`` holds ``1 / divisor`` in the columns of the pixels of its window. Windows with
    the same divisor share a parameter: there is one, unless the border changes the count.

    Args:
        channels: Number of channels; each is pooled alone.
        input_size: Spatial size of the input, one number a dimension.
        kernel_size: Size of the window.
        stride: Step between windows; the window's size if None.
        padding: Zeros added on both sides, at most half the window.
        ceil_mode: Whether a last window that starts inside the input may reach beyond it.
        count_include_pad: Whether padded zeros count in the divisor.
        divisor_override: The divisor to use instead.

    Returns:
        Pattern of shape ``(channels * prod(output), channels * prod(input_size))`` and theta, one
        value a distinct divisor, ascending by divisor, in torch's default dtype.

    Raises:
        ValueError: An argument is out of range or the output would be empty.

    Source: paper 4.2.2, chapter "Pooling".
    """
    check_flags(ceil_mode=ceil_mode)
    size = as_tuple("input_size", input_size)
    windows = pool_windows(size, kernel_size, stride, padding, ceil_mode)
    pattern, divisors = avg_pool_of_windows(channels, windows, count_include_pad, divisor_override)
    return pattern, inverses(divisors, torch.empty(0))


class _MatrixAvgPool(AverageLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    window_attributes = (
        *("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
        "divisor_override",
    )
    divisor_override = None  # torch's 1-D layer has none

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        input_size: int | Sequence[int],
    ) -> None:
        check_flags(ceil_mode=ceil_mode, count_include_pad=count_include_pad)
        input_size = as_tuple("input_size", input_size, self.dims)
        pool_windows(input_size, kernel_size, stride, padding, ceil_mode)
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        if divisor_override is not None:
            self.divisor_override = as_size("divisor_override", divisor_override)
        self.input_size = input_size
        self.prepare()

    @property
    def windows(self) -> Windows:
        """The geometry, that is which pixels every output reads."""
        return avg_pool_geometry(self, self.input_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.windows.output_size

    def _averages(self, channels: int) -> tuple[Pattern, np.ndarray]:
        return avg_pool_of_windows(
            channels, self.windows, self.count_include_pad, self.divisor_override
        )

    def _outputs(self) -> tuple[int, ...]:
        return self.output_size


class AvgPool1d(_MatrixAvgPool, nn.AvgPool1d):
    """1-D average pooling as a product with its sparse matrix; see :class:`AvgPool2d`."""

    dims = 1


class AvgPool2d(_MatrixAvgPool, nn.AvgPool2d):
    """2-D average pooling as a product with its sparse matrix.

    Args:
        kernel_size: Size of the window.
        stride: Step between windows; the window's size if None.
        padding: Zeros added on both sides, at most half the window.
        ceil_mode: Whether a last window that starts inside the input may reach beyond it.
        count_include_pad: Whether padded zeros count in the divisor.
        divisor_override: The divisor to use instead.
        input_size: Height and width of the images; any number of channels is served.

    Raises:
        ValueError: As :func:`avg_pool_pattern`.

    Source: paper 4.2.2, chapter "Pooling".
    """

    dims = 2


class AvgPool3d(_MatrixAvgPool, nn.AvgPool3d):
    """3-D average pooling as a product with its sparse matrix; see :class:`AvgPool2d`."""

    dims = 3


STOCK = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
OWN = (AvgPool1d, AvgPool2d, AvgPool3d)


def avg_pool_geometry(module: nn.Module, size: tuple[int, ...]) -> Windows:
    """The windows of an average pooling for images of a size, from the attributes of now."""
    return pool_windows(size, module.kernel_size, module.stride, module.padding, module.ceil_mode)


def _matrix(module: nn.AvgPool2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = image_size(module, shape, spatial_dims(module))
    if isinstance(module, OWN):
        refuse_other_size(module, shape)
    windows = avg_pool_geometry(module, size)
    override = getattr(module, "divisor_override", None)
    pattern, divisors = avg_pool_of_windows(
        shape[0], windows, bool(module.count_include_pad), override
    )
    return fixed(pattern, divisors, like, (shape[0], *windows.output_size))


def _layer(module: nn.AvgPool2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    dims = spatial_dims(module)
    layer = OWN[dims - 1](
        *(module.kernel_size, module.stride, module.padding, module.ceil_mode),
        *(bool(module.count_include_pad), getattr(module, "divisor_override", None)),
        input_size=image_size(module, shape, dims),
    )
    return layer.train(module.training)


register(Rule(STOCK, _matrix, _layer))
register(Rule(OWN, _matrix, own_layer))
