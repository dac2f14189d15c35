"""Pooling: averages as a fixed sparse matrix, maxima as a matrix chosen by the data."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from .convolution import as_tuple
from .pattern import Pattern


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
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"divisor_override must be at least 1, got {divisor_override}")
    size = as_tuple("input_size", input_size)
    windows = pool_windows(size, kernel_size, stride, padding, ceil_mode)
    inside, pixel = np.ones((1, 1), dtype=bool), np.zeros((1, 1), dtype=np.int64)
    padded = np.ones(1, dtype=np.int64)  # cells of a window inside the padded input
    for length, (read, in_padded) in zip(size, windows, strict=True):
        valid = (read >= 0) & (read < length)
        inside = (inside[:, None, :, None] & valid[None, :, None, :]).reshape(
            len(inside) * len(read), -1
        )
        pixel = (pixel[:, None, :, None] * length + read[None, :, None, :]).reshape(inside.shape)
        padded = (padded[:, None] * in_padded.sum(1)).reshape(-1)
    outputs, taps = pixel.shape

    divisor = padded if count_include_pad else inside.sum(1)
    if divisor_override is not None:
        divisor = np.full(outputs, divisor_override)
    divisors, which = np.unique(divisor, return_inverse=True)
    shape = (channels, outputs, taps)
    kept = np.broadcast_to(inside, shape)
    channel = np.arange(channels).reshape(-1, 1, 1)
    position = np.arange(outputs).reshape(-1, 1)
    pattern = Pattern(
        (channels * outputs, channels * prod(size)),
        np.broadcast_to(channel * outputs + position, shape)[kept],
        np.broadcast_to(channel * prod(size) + pixel, shape)[kept],
        np.broadcast_to(which[:, None], shape)[kept],
        len(divisors),
    )
    return pattern, 1 / torch.from_numpy(divisors).to(torch.get_default_dtype())


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
        For each axis the coordinates read, int64 ``(windows, kernel)``, possibly outside the input,
        and whether each lies within the padded input, bool of the same shape.

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
        windows.append((read, read < n + p))
    return windows
