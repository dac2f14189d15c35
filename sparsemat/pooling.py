"""Pooling: averages as a fixed sparse matrix, maxima as a matrix chosen by the data."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from .convolution import as_tuple, combine_axes
from .matrix import SparseMatrix
from .pattern import Pattern
from .products import GatherProduct, GeneralProduct, choose
from .products.indices import DeviceIndices


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
    pattern, divisors = avg_pool_divisors(
        channels,
        input_size,
        kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return pattern, 1 / divisors.to(torch.get_default_dtype())


def pool_windows(
    size: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    ceil_mode: bool,
    dilation: int | Sequence[int] = 1,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The windows of a pooling layer along each axis, as torch places them.

    Args:
        size: Spatial size of the input.
        kernel_size: Size of the window.
        stride: Step between windows; the window's size if None.
        padding: Cells added on both sides.
        ceil_mode: Whether a last window may reach beyond the padded input.
        dilation: Step between the cells of a window.

    Returns:
        For each axis the coordinates read, int64 ``(windows, kernel)``, -1 outside the input, and
        whether each lies within the padded input, bool of the same shape.

    Raises:
        ValueError: An argument is out of range or the output would be empty.
    """
    dims = len(size)
    kernel = as_tuple("kernel_size", kernel_size, dims)
    stride = kernel if stride is None else as_tuple("stride", stride, dims)
    padding = as_tuple("padding", padding, dims, least=0)
    dilation = as_tuple("dilation", dilation, dims)
    windows = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        extent = d * (k - 1) + 1
        if 2 * p > k:
            raise ValueError(f"padding must be at most half the window, got {p} and window {k}")
        if extent > n + 2 * p and not (ceil_mode and extent <= n + 2 * p + s - 1):
            raise ValueError(
                f"the window must fit the padded input, got extent {extent} and size {n + 2 * p}"
            )
        span = n + 2 * p - extent
        count = (-(-span // s) if ceil_mode else span // s) + 1
        if ceil_mode and (count - 1) * s >= n + p:  # the last window must start inside
            count -= 1
        read = s * np.arange(count)[:, None] + d * np.arange(k) - p
        windows.append((np.where((read >= 0) & (read < n), read, -1), read < n + p))
    return windows


class _MatrixAvgPool:
    """What the three layers share; stands before the torch layer of the same dimension."""

    dims: int
    divisor_override = None  # torch's 1-D layer has none

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        input_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        input_size = as_tuple("input_size", input_size, self.dims)
        windows = pool_windows(input_size, kernel_size, stride, padding, ceil_mode)
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        if divisor_override is not None:
            if divisor_override < 1:
                raise ValueError(f"divisor_override must be at least 1, got {divisor_override}")
            self.divisor_override = divisor_override
        self.input_size, self.output_size = input_size, tuple(len(read) for read, _ in windows)
        self._products = {}

    def pattern(self, channels: int = 1) -> Pattern:
        """Where the matrix for images of so many channels is nonzero."""
        return self._pattern(channels)[0]

    def matrix(self, channels: int = 1) -> SparseMatrix:
        """The averaging matrix for images of so many channels, in torch's default dtype."""
        pattern, divisors = self._pattern(channels)
        return pattern.fill(1 / divisors.to(torch.get_default_dtype()))

    def product(self, channels: int = 1) -> GatherProduct | GeneralProduct:
        """The product that multiplies by the matrix; made once a number of channels."""
        return self._product(channels)[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average the windows of every image.

        Args:
            x: Images ``(N, channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, channels, *output_size)``, or one without the batch axis, features first in
            memory.

        Raises:
            ValueError: ``x`` has another shape.
        """
        images = _images(x, self.input_size)
        channels = images.shape[1]
        product, divisors = self._product(channels)
        y = product(1 / divisors.to(x.device, x.dtype), images.flatten(1).t())
        y = y.t().unflatten(1, (channels, *self.output_size))
        return y if x.ndim == images.ndim else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_products": {}}

    def _pattern(self, channels: int) -> tuple[Pattern, torch.Tensor]:
        return avg_pool_divisors(
            channels,
            self.input_size,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            divisor_override=self.divisor_override,
        )

    def _product(self, channels: int) -> tuple[GatherProduct | GeneralProduct, torch.Tensor]:
        if channels not in self._products:
            pattern, divisors = self._pattern(channels)
            self._products[channels] = choose(pattern), divisors
        return self._products[channels]


class AvgPool1d(_MatrixAvgPool, torch.nn.AvgPool1d):
    """1-D average pooling as a product with its sparse matrix; see :class:`AvgPool2d`."""

    dims = 1


class AvgPool2d(_MatrixAvgPool, torch.nn.AvgPool2d):
    """2-D average pooling as a product with its sparse matrix.

    Args:
        kernel_size: Size of the window.
        input_size: Height and width of the images; any number of channels is served.
        stride: Step between windows; the window's size if None.
        padding: Zeros added on both sides, at most half the window.
        ceil_mode: Whether a last window that starts inside the input may reach beyond it.
        count_include_pad: Whether padded zeros count in the divisor.
        divisor_override: The divisor to use instead.

    Raises:
        ValueError: As :func:`avg_pool_pattern`.

    Source: paper 4.2.2, chapter "Pooling".
    """

    dims = 2


class AvgPool3d(_MatrixAvgPool, torch.nn.AvgPool3d):
    """3-D average pooling as a product with its sparse matrix; see :class:`AvgPool2d`."""

    dims = 3


class MaxPool2d(torch.nn.MaxPool2d):
    r"""2-D max pooling as a product with a matrix chosen by the data, $y = S(x) x$.

    Every row of S(x) holds a single one, at the first maximiser of its window in row-major order.
    The gradient is $S(x)^T \bar y$.

    Args:
        kernel_size: Size of the window.
        input_size: Height and width of the images; any number of channels is served.
        stride: Step between windows; the window's size if None.
        padding: Cells added on both sides that are never chosen, at most half the window.
        dilation: Step between the cells of a window.
        ceil_mode: Whether a last window that starts inside the input may reach beyond it.

    Raises:
        ValueError: An argument is out of range, or a window holds no cell of the input.

    Source: paper 4.2.2, chapter "Pooling".
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        input_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
    ) -> None:
        input_size = as_tuple("input_size", input_size, 2)
        windows = pool_windows(input_size, kernel_size, stride, padding, ceil_mode, dilation)
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
        self.input_size, self.output_size = input_size, tuple(len(read) for read, _ in windows)
        pixel = combine_axes([read for read, _ in windows], input_size)
        if not (pixel >= 0).any(1).all():
            raise ValueError(
                "every window must hold a cell of the input, got a window beyond it with "
                f"input_size={input_size}, padding={padding} and dilation={dilation}"
            )
        # row k: the k-th cell of every window, -1 outside; no buffer, as torch saves no state
        self._cells = DeviceIndices(pixel=pixel.T)

    def selection(self, x: torch.Tensor) -> SparseMatrix:
        """The matrix S(x) of one image, whose only values are ones.

        Args:
            x: One image ``(channels, *input_size)``.

        Returns:
            Matrix of shape ``(channels * prod(output), channels * prod(input))``, one triple a row.

        Raises:
            ValueError: ``x`` has another shape.
        """
        if x.ndim != 3:
            raise ValueError(f"x must be one image (C, *{self.input_size}), got {tuple(x.shape)}")
        images = _images(x, self.input_size)
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
        images = _images(x, self.input_size)
        features = images.flatten(2).permute(1, 2, 0).contiguous()  # (channels, pixels, N)
        y = features.gather(1, self._first_maximisers(features.detach()))
        y = y.permute(2, 0, 1).unflatten(2, self.output_size)
        return y if x.ndim == 4 else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _first_maximisers(self, features: torch.Tensor) -> torch.Tensor:
        """The pixel that each output selects, ``(channels, outputs, N)``."""
        cells = self._cells.on(features.device).pixel.long()
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


def avg_pool_divisors(
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
    """:func:`avg_pool_pattern` with the divisors, integers, in place of their inverses."""
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"divisor_override must be at least 1, got {divisor_override}")
    size = as_tuple("input_size", input_size)
    windows = pool_windows(size, kernel_size, stride, padding, ceil_mode)
    pixel = combine_axes([read for read, _ in windows], size)
    padded = np.ones(1, dtype=np.int64)  # cells of a window inside the padded input
    for _, in_padded in windows:
        padded = (padded[:, None] * in_padded.sum(1)).reshape(-1)
    divisor = padded if count_include_pad else (pixel >= 0).sum(1)
    if divisor_override is not None:
        divisor = np.full(len(pixel), divisor_override)
    return _average(channels, prod(size), pixel, divisor)


def adaptive_avg_pool(
    channels: int, input_size: Sequence[int], output_size: Sequence[int]
) -> tuple[Pattern, torch.Tensor]:
    """The pattern of ``torch.nn.AdaptiveAvgPool1d`` to ``3d``, and its divisors.

    Output a of an axis averages the inputs from ``floor(a n / m)`` up to ``ceil((a + 1) n / m)``.

    Args:
        channels: Number of channels.
        input_size: Size n of every axis.
        output_size: Size m of every axis.

    Returns:
        Pattern of shape ``(channels * prod(output_size), channels * prod(input_size))`` and the
        distinct divisors, int64, whose inverses are its parameters.
    """
    reads = []
    for n, m in zip(input_size, output_size, strict=True):
        start, stop = np.arange(m) * n // m, -(-np.arange(1, m + 1) * n // m)
        read = start[:, None] + np.arange((stop - start).max())
        reads.append(np.where(read < stop[:, None], read, -1))
    pixel = combine_axes(reads, input_size)
    return _average(channels, prod(input_size), pixel, (pixel >= 0).sum(1))


def _average(
    channels: int, pixels: int, pixel: np.ndarray, divisor: np.ndarray
) -> tuple[Pattern, torch.Tensor]:
    outputs, taps = pixel.shape
    divisors, which = np.unique(divisor, return_inverse=True)
    shape = (channels, outputs, taps)
    kept = np.broadcast_to(pixel >= 0, shape)
    channel = np.arange(channels).reshape(-1, 1, 1)
    position = np.arange(outputs).reshape(-1, 1)
    pattern = Pattern(
        (channels * outputs, channels * pixels),
        np.broadcast_to(channel * outputs + position, shape)[kept],
        np.broadcast_to(channel * pixels + pixel, shape)[kept],
        np.broadcast_to(which[:, None], shape)[kept],
        len(divisors),
    )
    return pattern, torch.from_numpy(divisors)


def _images(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """``x`` with a batch axis, after its shape is found right."""
    dims = len(size)
    if x.ndim not in (dims + 1, dims + 2) or x.shape[x.ndim - dims :] != size:
        raise ValueError(f"x must have shape (N, C, *{size}) or (C, *{size}), got {tuple(x.shape)}")
    return x if x.ndim == dims + 2 else x[None]
