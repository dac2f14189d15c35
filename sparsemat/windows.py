"""The geometry of convolution and pooling: which inputs every output reads. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .arguments import as_tuple
from .pattern import Pattern

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


@dataclass(frozen=True)
class Windows:
    """Windows that slide over an input of one or more axes.

    Made by :func:`conv_windows` and :func:`pool_windows`, which check their arguments.

    Attributes:
        size: Size of the input, one number a dimension, as are the others.
        kernel: Cells of a window.
        stride: Step between windows.
        pads: Cells added ``(before, after)``.
        dilation: Step between the cells of a window.
        output_size: Number of windows.
        padding_mode: What the added cells hold.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    output_size: tuple[int, ...]
    padding_mode: str = "zeros"

    @cached_property
    def positions(self) -> list[np.ndarray]:
        """Coordinates ``stride * a + dilation * i - before``, one ``(outputs, kernel)`` an axis."""
        sides = self.output_size, self.kernel, self.stride, self.dilation, self.pads
        return [
            stride * np.arange(outputs)[:, None] + dilation * np.arange(kernel) - before
            for outputs, kernel, stride, dilation, (before, _) in zip(*sides, strict=True)
        ]

    @cached_property
    def reads(self) -> list[np.ndarray]:
        """The coordinate read by each output through each tap, along each axis.

        int64 ``(outputs, kernel)``: the position, mapped into the input by the padding mode, or -1
        where a zero is read.
        """
        return [
            _wrapped(position, size, self.padding_mode)
            for position, size in zip(self.positions, self.size, strict=True)
        ]

    @cached_property
    def axes(self) -> tuple[Pattern, ...]:
        """The pattern of each axis, ``(outputs, size)``, whose parameters are the taps."""
        return tuple(
            reads_pattern(read, size) for read, size in zip(self.reads, self.size, strict=True)
        )


def reads_pattern(read: np.ndarray, size: int) -> Pattern:
    """The pattern of an axis of ``size`` inputs, from what each output reads through each tap.

    Args:
        read: int64 ``(outputs, taps)``, -1 for nothing.
        size: Columns of the pattern.

    Returns:
        Pattern of shape ``(outputs, size)``, row by row, whose parameters are the taps.
    """
    outputs, taps = read.shape
    row, tap = np.nonzero(read >= 0)
    return Pattern((outputs, size), row, read[row, tap], tap, taps)


def conv_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: int | str | Sequence[int] | Sequence[tuple[int, int]],
    dilation: Sequence[int],
    padding_mode: str = "zeros",
) -> Windows:
    """The windows of a convolution, with the arguments of :func:`~sparsemat.conv_pattern`.

    Raises:
        ValueError: The output would be empty, or the padding is too wide for its mode.
    """
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}")
    pads = padding_pairs(padding, kernel, stride, dilation)
    outputs = []
    for n, k, s, d, pad in zip(size, kernel, stride, dilation, pads, strict=True):
        extent, padded = d * (k - 1) + 1, n + sum(pad)
        if extent > padded:
            raise ValueError(
                "the dilated kernel must fit the padded input, "
                f"got extent {extent} and size {padded}"
            )
        # torch's limits: circular wraps once, reflect needs a neighbour to reflect
        widest = {"circular": n, "reflect": n - 1}.get(padding_mode, max(pad))
        if max(pad) > widest:
            raise ValueError(
                f"{padding_mode} padding must be at most {widest} for size {n}, got {max(pad)}"
            )
        outputs.append((padded - extent) // s + 1)
    return Windows(
        *(tuple(size), tuple(kernel), tuple(stride), tuple(pads), tuple(dilation)),
        tuple(outputs),
        padding_mode,
    )


def pool_windows(
    size: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    dilation: int | Sequence[int] = 1,
) -> Windows:
    """The windows of a pooling layer, as torch places them.

    Args:
        size: Spatial size of the input.
        kernel_size: Size of the window.
        stride: Step between windows; the window's size if None or empty.
        padding: Cells added on both sides.
        ceil_mode: Whether a last window may reach beyond the padded input.
        dilation: Step between the cells of a window.

    Raises:
        ValueError: An argument is out of range or the output would be empty.
    """
    dims = len(size)
    kernel = as_tuple("kernel_size", kernel_size, dims)
    is_default = stride is None or (isinstance(stride, (list, tuple)) and len(stride) == 0)
    stride = kernel if is_default else as_tuple("stride", stride, dims)
    padding = as_tuple("padding", padding, dims, least=0)
    dilation = as_tuple("dilation", dilation, dims)
    outputs = []
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
        outputs.append(count)
    pads = tuple((p, p) for p in padding)
    return Windows(tuple(size), kernel, stride, pads, dilation, tuple(outputs))


def combine_axes(reads: Sequence[np.ndarray], size: Sequence[int]) -> np.ndarray:
    """The pixels that windows read, from what they read along each axis.

    Args:
        reads: For each axis the coordinate read, int64 ``(outputs, taps)``, -1 for none.
        size: Length of each axis.

    Returns:
        int64 ``(prod(outputs), prod(taps))``: the flattened pixel, -1 where any axis reads none.
    """
    pixel = np.zeros((1, 1), dtype=np.int64)
    for read, length in zip(reads, size, strict=True):
        outside = (pixel[:, None, :, None] < 0) | (read[None, :, None, :] < 0)
        pixel = np.where(outside, -1, pixel[:, None, :, None] * length + read[None, :, None, :])
        pixel = pixel.reshape(pixel.shape[0] * pixel.shape[1], -1)
    return pixel


def padding_pairs(
    padding: int | str | Sequence,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> list[tuple[int, int]]:
    """``(before, after)`` a dimension, from any form that :func:`~sparsemat.conv_pattern` takes.

    Raises:
        ValueError: The form is unknown, a number is negative, or ``"same"`` meets a stride.
    """
    if isinstance(padding, str) and padding == "valid":
        return [(0, 0)] * len(kernel)
    if isinstance(padding, str) and padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(f"padding='same' needs stride 1, got stride={tuple(stride)}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    if isinstance(padding, str):
        raise ValueError(f"padding must be numbers, 'same' or 'valid', got {padding!r}")
    if isinstance(padding, Iterable) and any(isinstance(pad, Iterable) for pad in padding):
        pairs = [as_tuple("padding", pad, 2, least=0) for pad in padding]
        if len(pairs) != len(kernel):
            raise ValueError(f"padding must have {len(kernel)} pairs, got {len(pairs)}")
        return pairs
    return [(pad, pad) for pad in as_tuple("padding", padding, len(kernel), least=0)]


def _wrapped(position: np.ndarray, size: int, padding_mode: str) -> np.ndarray:
    if padding_mode == "circular":
        return position % size
    if padding_mode == "reflect":
        position = np.abs(position)
        return np.where(position >= size, 2 * (size - 1) - position, position)
    if padding_mode == "replicate":
        return position.clip(0, size - 1)
    return np.where((position >= 0) & (position < size), position, -1)
