"""Pooling: averages as a fixed sparse matrix, maxima as a matrix chosen by the data."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from ..arguments import as_size, as_tuple
from ..matrix import SparseMatrix
from ..pattern import Pattern
from ..patterns.pooling import avg_pool_of_windows
from ..products import Product, choose
from ..products.product import is_traced
from ..rules import Affine, Rule, image_size, refuse, register, spatial_dims
from ..windows import Windows, combine_axes, pool_windows
from .base import MatrixLayer, as_images, check_flags


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
    return pattern, _inverses(divisors, torch.empty(0))


class _MatrixAvgPool(MatrixLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    dims: int
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

    def pattern(self, channels: int = 1) -> Pattern:
        """Where the matrix for images of so many channels is nonzero."""
        return self._made(channels)[0]

    def matrix(self, channels: int = 1) -> SparseMatrix:
        """The averaging matrix for images of so many channels, in torch's default dtype."""
        pattern, divisors, _ = self._made(channels)
        return pattern.fill(_inverses(divisors, torch.empty(0)))

    def product(self, channels: int = 1) -> Product:
        """The product that multiplies by the matrix; its repr says which it is and why."""
        return self._made(channels)[2]

    def prepare(self) -> None:
        """Find the product for one channel."""
        self._made(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average the windows of every image.

        Args:
            x: Images ``(N, channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, channels, *output_size)``, or one without the batch axis, features first in
            memory.

        Raises:
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` has another shape.
        """
        images = as_images(x, None, self.input_size)
        n, channels = images.shape[:2]
        if is_traced(images):  # the product for one channel is at hand
            product, theta = self._made(1)[2], self._theta(1, images)
            y = product(theta, images.reshape(n * channels, -1).t()).t()
            y = y.reshape(n, channels, *self.output_size)
        else:
            product, theta = self._made(channels)[2], self._theta(channels, images)
            y = product(theta, images.flatten(1).t()).t()
            y = y.unflatten(1, (channels, *self.output_size))
        return y if x.ndim == images.ndim else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _theta(self, channels: int, like: torch.Tensor) -> torch.Tensor:
        return _inverses(self._made(channels)[1], like)

    def _made(self, channels: int) -> tuple[Pattern, np.ndarray, Product]:
        key = (
            *(self.kernel_size, self.stride, self.padding, self.ceil_mode),
            *(self.count_include_pad, self.divisor_override, self.input_size),
        )
        return self.remembered(f"product {channels}", key, lambda: self._make(channels))

    def _make(self, channels: int) -> tuple[Pattern, tuple[int, ...], Product]:
        pattern, divisors = avg_pool_of_windows(
            channels, self.windows, self.count_include_pad, self.divisor_override
        )
        return pattern, tuple(divisors.tolist()), choose(pattern)


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


class MaxPool2d(MatrixLayer, nn.MaxPool2d):
    r"""2-D max pooling as a product with a matrix chosen by the data, $y = S(x) x$.

    Every row of S(x) holds a single one, at the first maximiser of its window in row-major order.
    The gradient is $S(x)^T \bar y$.

    Args:
        kernel_size: Size of the window.
        stride: Step between windows; the window's size if None.
        padding: Cells added on both sides that are never chosen, at most half the window.
        dilation: Step between the cells of a window.
        return_indices: Not supported; False.
        ceil_mode: Whether a last window that starts inside the input may reach beyond it.
        input_size: Height and width of the images; any number of channels is served.

    Raises:
        ValueError: An argument is out of range, or a window holds no cell of the input.

    Source: paper 4.2.2, chapter "Pooling".
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        input_size: int | Sequence[int],
    ) -> None:
        check_flags(ceil_mode=ceil_mode)
        if return_indices is not False:
            raise ValueError(f"return_indices must be False, got {return_indices!r}")
        input_size = as_tuple("input_size", input_size, 2)
        pool_windows(input_size, kernel_size, stride, padding, ceil_mode, dilation)
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
        self.input_size = input_size
        self.prepare()

    @property
    def windows(self) -> Windows:
        """The geometry, that is which pixels every output reads."""
        return pool_windows(
            *(self.input_size, self.kernel_size, self.stride, self.padding),
            *(self.ceil_mode, self.dilation),
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.windows.output_size

    def prepare(self) -> None:
        """Lay out the cells of every window."""
        self._cells()

    def matrix(self, x: torch.Tensor) -> SparseMatrix:
        """The matrix S(x) of one image, whose only values are ones.

        Args:
            x: One image ``(channels, *input_size)``.

        Returns:
            Matrix of shape ``(channels * prod(output), channels * prod(input))``, one triple a row.

        Raises:
            ValueError: ``x`` has another shape.
        """
        if not torch.is_tensor(x) or x.ndim != 3:
            got = tuple(getattr(x, "shape", ()))
            raise ValueError(f"x must be one image (C, *{self.input_size}), got {got}")
        images = as_images(x, None, self.input_size)
        chosen = self._first_maximisers(images.detach().flatten(2).permute(1, 2, 0))[..., 0]
        channels, outputs = chosen.shape
        pixels = prod(self.input_size)
        col = (chosen.cpu().numpy() + pixels * np.arange(channels)[:, None]).reshape(-1)
        shape = channels * outputs, channels * pixels
        pattern = Pattern(shape, np.arange(shape[0]), col, np.zeros_like(col), 1)
        return pattern.fill(x.new_ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Select the first maximiser of every window.

        Args:
            x: Images ``(N, channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, channels, *output_size)``, or one without the batch axis, features first in
            memory.

        Raises:
            ValueError: ``x`` has another shape.
        """
        images = as_images(x, None, self.input_size)
        features = images.flatten(2).permute(1, 2, 0).contiguous()  # (channels, pixels, N)
        y = features.gather(1, self._first_maximisers(features.detach()))
        y = y.permute(2, 0, 1).unflatten(2, self.output_size)
        return y if x.ndim == 4 else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _first_maximisers(self, features: torch.Tensor) -> torch.Tensor:
        """The pixel that each output selects, ``(channels, outputs, N)``."""
        cells = self._cells(features.device)
        first = cells.gather(0, (cells >= 0).to(torch.uint8).argmax(0, keepdim=True))[0]
        best = features.index_select(1, first)
        chosen = first[:, None].expand(best.shape).contiguous()
        for cell in cells:
            value = features.index_select(1, cell.clamp(min=0))
            better = (value > best) | value.isnan()  # as torch: a later NaN wins
            better &= (cell >= 0)[:, None]
            best = torch.where(better, value, best)
            chosen = torch.where(better, cell[:, None], chosen)
        return chosen

    def _cells(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The k-th cell of every window in row k, -1 outside; int64 ``(cells, outputs)``."""
        key = (
            *(self.kernel_size, self.stride, self.padding, self.dilation),
            *(self.ceil_mode, self.input_size),
        )
        cells = self.remembered("cells", key, self._make_cells)
        return torch.tensor(cells, device=device)

    def _make_cells(self) -> np.ndarray:
        pixel = combine_axes(self.windows.reads, self.input_size)
        if not (pixel >= 0).any(1).all():
            raise ValueError(
                "every window must hold a cell of the input, got a window beyond it with "
                f"input_size={self.input_size}, padding={self.padding} and dilation={self.dilation}"
            )
        return np.ascontiguousarray(pixel.T)


STOCK = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
OWN = (AvgPool1d, AvgPool2d, AvgPool3d)


def avg_pool_geometry(module: nn.Module, size: tuple[int, ...]) -> Windows:
    """The windows of an average pooling for images of a size, from the attributes of now."""
    return pool_windows(size, module.kernel_size, module.stride, module.padding, module.ceil_mode)


def _inverses(divisors: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    divisors = [1 / int(divisor) for divisor in divisors]
    return torch.tensor(divisors, dtype=like.dtype, device=like.device)


def _matrix(module: nn.AvgPool2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = image_size(module, shape, spatial_dims(module))
    if isinstance(module, OWN):
        _refuse_other_size(module, shape)
    windows = avg_pool_geometry(module, size)
    override = getattr(module, "divisor_override", None)
    pattern, divisors = avg_pool_of_windows(
        shape[0], windows, bool(module.count_include_pad), override
    )
    return _fixed(pattern, divisors, like, (shape[0], *windows.output_size))


def _fixed(
    pattern: Pattern, divisors: np.ndarray, like: torch.Tensor, shape: tuple[int, ...]
) -> Affine:
    theta = _inverses(divisors, like)
    return Affine(pattern, lambda: theta, None, shape)


def _layer(module: nn.AvgPool2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    dims = spatial_dims(module)
    layer = OWN[dims - 1](
        *(module.kernel_size, module.stride, module.padding, module.ceil_mode),
        *(bool(module.count_include_pad), getattr(module, "divisor_override", None)),
        input_size=image_size(module, shape, dims),
    )
    return layer.train(module.training)


def _max_layer(module: nn.MaxPool2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    refuse(module, return_indices=False)
    layer = MaxPool2d(
        *(module.kernel_size, module.stride, module.padding, module.dilation),
        ceil_mode=module.ceil_mode,
        input_size=image_size(module, shape, 2),
    )
    return layer.train(module.training)


def _own_layer(module: nn.Module, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    _refuse_other_size(module, shape)
    return module


def _refuse_other_size(module: nn.Module, shape: tuple[int, ...]) -> None:
    if shape[1:] != module.input_size:
        raise ValueError(f"the layer's input_size is {module.input_size}, got input_shape={shape}")


MAX_HINT = "its matrix depends on the image: sparsemat.MaxPool2d(...).matrix(x) is the matrix at x"
register(Rule(STOCK, _matrix, _layer))
register(Rule(OWN, _matrix, _own_layer))
register(Rule((nn.MaxPool2d,), layer=_max_layer, hint=MAX_HINT))
register(Rule((MaxPool2d,), layer=_own_layer, hint=MAX_HINT))
register(Rule((nn.MaxPool1d, nn.MaxPool3d), hint=MAX_HINT))
