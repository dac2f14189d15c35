"""The patterns of convolutions: channels (x) axes. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

from ..arguments import as_tuple, check_channels
from ..kronecker import kron
from ..pattern import Pattern
from ..windows import Windows, conv_windows
from .simple import _column, diagonal_pattern


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

    Row ``(c_o, a, b)`` holds ``weight[c_o, c, i, j]`` in column
    ``(c, s a + d i - p, s b + d j - p)`` (indices flattened row-major, channels first; s stride,
    d dilation, p padding before).

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
        It is held as a Kronecker product, channels times one factor an axis; triples are written
        out position by position, the output channels of a position together. Padding modes other
        than zeros can name a cell twice.

    Raises:
        ValueError: An argument is out of range, ``groups`` does not divide the channels, or the
            output would be empty.

    Source: paper 4.2.1 and A.1, corrected in the chapter "Convolution".
    """
    size = as_tuple("input_size", input_size)
    dims = len(size)
    windows = conv_windows(
        size,
        as_tuple("kernel_size", kernel_size, dims),
        as_tuple("stride", stride, dims),
        padding,
        as_tuple("dilation", dilation, dims),
        padding_mode,
    )
    return conv_of_windows(in_channels, out_channels, groups, windows)


def conv_of_windows(in_channels: int, out_channels: int, groups: int, windows: Windows) -> Pattern:
    """The pattern of :func:`conv_pattern` for a geometry that is known to be right."""
    in_channels, out_channels, groups = check_channels(in_channels, out_channels, groups)
    return _channels_and_axes(in_channels, out_channels, groups, windows.axes)


def conv_transpose_pattern(
    in_channels: int,
    out_channels: int,
    input_size: Sequence[int],
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Pattern:
    """The pattern of a transposed convolution: that of the convolution backwards, transposed.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        input_size: Spatial size of the input.
        output_size: Spatial size of the output; the convolution from it must reach the input.
        kernel_size: Spatial size of the kernel.
        stride: Step between outputs of the convolution backwards.
        padding: Cells that the convolution backwards adds.
        dilation: Step between neighbouring taps of the kernel.
        groups: Number of blocks of channels that do not see one another.

    Returns:
        Pattern of shape ``(out_channels * prod(output), in_channels * prod(input_size))`` whose
        parameters are the flattened torch weight ``(in_channels, out_channels / groups, *kernel)``.

    Raises:
        ValueError: As :func:`conv_pattern`.

    Source: chapter "Convolution".
    """
    out_channels, in_channels, groups = check_channels(out_channels, in_channels, groups)
    windows = conv_windows(output_size, kernel_size, stride, padding, dilation)
    # output_padding makes room for rows of the convolution that are not there
    axes = [axis.rows(0, n) for axis, n in zip(windows.axes, input_size, strict=True)]
    return _channels_and_axes(out_channels, in_channels, groups, axes).T


def _channels_and_axes(
    in_channels: int, out_channels: int, groups: int, axes: Sequence[Pattern]
) -> Pattern:
    factors = [
        *([] if groups == 1 else [diagonal_pattern(groups)]),
        *(_column(out_channels // groups), _column(in_channels // groups).T),
    ]
    channels = range(len(factors))
    positions = range(len(factors), len(factors) + len(axes))
    return kron(*factors, *axes, order=(*positions, *channels))
