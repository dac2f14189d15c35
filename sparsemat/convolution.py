"""Convolution: its pattern, and the matrix layers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .pattern import Pattern

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")


def conv_pattern(
    in_channels: int,
    out_channels: int,
    input_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Pattern:
    r"""The pattern of a convolution in 1, 2 or 3 dimensions (cross-correlation, as in torch).

    Row ``(c_o, a, b)`` holds ``weight[c_o, c, i, j]`` in column ``(c, s a + d i - p, s b + d j - p)``
    (indices flattened row-major, channels first; s stride, d dilation, p padding before).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        input_size: Spatial size of the input, one number a dimension.
        kernel_size: Spatial size of the kernel.
        stride: Step between neighbouring outputs.
        padding: Cells added on both sides; one number, one a dimension, a pair ``(before, after)``
            a dimension, ``"same"`` (output as large as the input) or ``"valid"`` (none).
        dilation: Step between neighbouring taps of the kernel.
        groups: Number of blocks of channels that do not see one another.
        padding_mode: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``.

    Returns:
        Pattern of shape ``(out_channels * prod(output), in_channels * prod(input_size))`` whose
        parameters are the flattened torch weight ``(out_channels, in_channels / groups, *kernel)``.
        Triples are stored position by position, the output channels of a position together.
        Padding modes other than zeros can name a cell twice.

    Raises:
        ValueError: An argument is out of range, ``groups`` does not divide the channels, or the
            output would be empty.

    Source: paper 4.2.1 and A.1, corrected in the chapter "Convolution".
    """
    size = as_tuple("input_size", input_size)
    dims = len(size)
    kernel = as_tuple("kernel_size", kernel_size, dims)
    stride, dilation = as_tuple("stride", stride, dims), as_tuple("dilation", dilation, dims)
    check_channels(in_channels, out_channels, groups)
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}")
    pads = padding_pairs(padding, kernel, stride, dilation)
    reads = [
        axis_reads(*axis, padding_mode=padding_mode)
        for axis in zip(size, kernel, stride, pads, dilation, strict=True)
    ]
    pixel, outputs = _combine(reads, size)  # (positions, taps), -1 outside
    positions, taps = pixel.shape
    group_in, group_out = in_channels // groups, out_channels // groups

    position = np.arange(positions).reshape(-1, 1, 1, 1)
    co = np.arange(out_channels).reshape(1, -1, 1, 1)
    channel = np.arange(group_in).reshape(1, 1, -1, 1)
    tap = np.arange(taps)
    shape = positions, out_channels, group_in, taps
    read = pixel[:, None, None, :]
    inside = np.broadcast_to(read >= 0, shape)
    row = np.broadcast_to(co * positions + position, shape)[inside]
    ci = (co // group_out) * group_in + channel
    col = np.broadcast_to(ci * prod(size) + read, shape)[inside]
    index = np.broadcast_to((co * group_in + channel) * taps + tap, shape)[inside]
    return Pattern(
        (out_channels * prod(outputs), in_channels * prod(size)),
        row,
        col,
        index,
        out_channels * group_in * taps,
    )


def axis_reads(
    size: int,
    kernel: int,
    stride: int,
    pads: tuple[int, int],
    dilation: int,
    padding_mode: str = "zeros",
) -> np.ndarray:
    """Which input each output reads through each tap, along one axis.

    Args:
        size: Length of the input.
        kernel: Number of taps.
        stride: Step between outputs.
        pads: Cells added ``(before, after)``.
        dilation: Step between taps.
        padding_mode: What the added cells hold.

    Returns:
        int64 array ``(outputs, kernel)``; entry ``[a, i]`` is ``stride*a + dilation*i - before``
        mapped into the input by the padding mode, or -1 where a zero is read.

    Raises:
        ValueError: The output would be empty, or the padding is too wide for its mode.
    """
    before, after = pads
    extent, padded = dilation * (kernel - 1) + 1, size + before + after
    if extent > padded:
        raise ValueError(
            f"the dilated kernel must fit the padded input, got extent {extent} and size {padded}"
        )
    # torch's limits: circular wraps once, reflect needs a neighbour to reflect
    widest = {"circular": size, "reflect": size - 1}.get(padding_mode, max(pads))
    if max(pads) > widest:
        raise ValueError(
            f"{padding_mode} padding must be at most {widest} for size {size}, got {max(pads)}"
        )
    outputs = (padded - extent) // stride + 1
    read = stride * np.arange(outputs)[:, None] + dilation * np.arange(kernel) - before
    if padding_mode == "circular":
        return read % size
    if padding_mode == "reflect":
        read = np.abs(read)
        return np.where(read >= size, 2 * (size - 1) - read, read)
    if padding_mode == "replicate":
        return read.clip(0, size - 1)
    return np.where((read >= 0) & (read < size), read, -1)


def padding_pairs(
    padding: int | str | Sequence,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> list[tuple[int, int]]:
    """``(before, after)`` a dimension, from any form that :func:`conv_pattern` takes.

    Raises:
        ValueError: The form is unknown, a number is negative, or ``"same"`` meets a stride.
    """
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(f"padding='same' needs stride 1, got stride={tuple(stride)}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    if isinstance(padding, str):
        raise ValueError(f"padding must be numbers, 'same' or 'valid', got {padding!r}")
    if not isinstance(padding, int) and any(isinstance(pad, Sequence) for pad in padding):
        pairs = [as_tuple("padding", pair, 2, least=0) for pair in padding]
        if len(pairs) != len(kernel):
            raise ValueError(f"padding must have {len(kernel)} pairs, got {len(pairs)}")
        return pairs
    return [(pad, pad) for pad in as_tuple("padding", padding, len(kernel), least=0)]


def as_tuple(
    name: str, value: int | Sequence[int], length: int | None = None, least: int = 1
) -> tuple[int, ...]:
    """One integer a dimension, from one for all or a sequence.

    Raises:
        ValueError: The length differs, or a number is below ``least``.
    """
    values = (value,) * (length or 1) if isinstance(value, int) else tuple(value)
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must have {length} entries, one a dimension, got {values}")
    if not values or any(int(v) != v or v < least for v in values):
        raise ValueError(f"{name} must be integers of at least {least}, got {values}")
    return tuple(int(v) for v in values)


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    """Refuse channel counts that groups do not divide.

    Raises:
        ValueError: With the rule and the values.
    """
    for name, value in (
        ("in_channels", in_channels),
        ("out_channels", out_channels),
        ("groups", groups),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value % groups:
            raise ValueError(f"groups must divide {name}, got groups={groups} and {name}={value}")


def _combine(reads: list[np.ndarray], size: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Flatten the axes' reads to ``(positions, taps)`` pixels, -1 where any axis reads a zero."""
    pixel = np.zeros((1, 1), dtype=np.int64)
    for read, length in zip(reads, size, strict=True):
        outside = (pixel[:, None, :, None] < 0) | (read[None, :, None, :] < 0)
        pixel = np.where(outside, -1, pixel[:, None, :, None] * length + read[None, :, None, :])
        pixel = pixel.reshape(pixel.shape[0] * pixel.shape[1], -1)
    return pixel, tuple(len(read) for read in reads)
