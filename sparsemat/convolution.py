"""Convolution: its pattern, and the matrix layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from math import prod
from numbers import Real
from typing import Self
from weakref import WeakValueDictionary

import numpy as np
import torch

from .matrix import SparseMatrix
from .pattern import Pattern
from .products import GatherProduct, GeneralProduct, check_form, choose
from .products.casting import autocast

PADDING_MODES = ("zeros", "circular", "reflect", "replicate")

_products: WeakValueDictionary[tuple, GatherProduct | GeneralProduct] = WeakValueDictionary()


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
    reads = _reads(size, kernel, stride, padding, dilation, padding_mode)
    pixel = combine_axes(reads, size)
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
        (out_channels * positions, in_channels * prod(size)),
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
    values = tuple(value) if isinstance(value, Iterable) else (value,) * (length or 1)
    values = tuple(v.item() if hasattr(v, "item") else v for v in values)
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must have {length} entries, one a dimension, got {values}")
    if not values or any(not isinstance(v, Real) or v % 1 or v < least for v in values):
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


def output_size(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: int | str | Sequence,
    dilation: tuple[int, ...],
    padding_mode: str = "zeros",
) -> tuple[int, ...]:
    """Spatial size of a convolution's output.

    Raises:
        ValueError: The output would be empty, or the padding does not fit its mode.
    """
    reads = _reads(input_size, kernel_size, stride, padding, dilation, padding_mode)
    return tuple(len(read) for read in reads)


def _reads(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: int | str | Sequence,
    dilation: tuple[int, ...],
    padding_mode: str,
) -> list[np.ndarray]:
    """:func:`axis_reads` of every axis."""
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}")
    pads = padding_pairs(padding, kernel, stride, dilation)
    return [
        axis_reads(*axis, padding_mode=padding_mode)
        for axis in zip(size, kernel, stride, pads, dilation, strict=True)
    ]


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


class _MatrixConv:
    """What the three layers share; stands before the torch layer of the same dimension."""

    dims: int
    tied = True  # an untied layer is drawn tied, then spread

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        input_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        tied: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        form: str | None = None,
    ) -> None:
        if form is not None:
            check_form(form)
        kernel_size = as_tuple("kernel_size", kernel_size, self.dims)
        input_size = as_tuple("input_size", input_size, self.dims)
        stride = as_tuple("stride", stride, self.dims)
        dilation = as_tuple("dilation", dilation, self.dims)
        if not isinstance(padding, str):
            padding = as_tuple("padding", padding, self.dims, least=0)
        check_channels(in_channels, out_channels, groups)
        outputs = output_size(input_size, kernel_size, stride, padding, dilation, padding_mode)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self.input_size, self.output_size, self.form = input_size, outputs, form
        if not tied:
            self._untie()
        if form == "gather":
            _ = self.product  # refuses a pattern that is irregular

    @property
    def pattern(self) -> Pattern:
        """Where the matrix may be nonzero; computed anew, as the layer keeps only the product."""
        pattern = self._tied_pattern()
        return pattern if self.tied else pattern.untied()

    @property
    def product(self) -> GatherProduct | GeneralProduct:
        """The product that multiplies by the weight matrix; layers of one geometry share it."""
        if "_product" not in self.__dict__:
            key = (
                *(self.in_channels, self.out_channels, self.input_size, self.kernel_size),
                *(self.stride, self.padding, self.dilation, self.groups),
                *(self.padding_mode, self.tied, self.form),
            )
            product = _products.get(key)
            if product is None:
                product = _products[key] = choose(self.pattern, self.form)
            self.__dict__["_product"] = product
        return self.__dict__["_product"]

    def matrix(self) -> SparseMatrix:
        """The weight matrix, of shape ``(out_channels * prod(output), in_channels * prod(input))``.

        Gradients of its products reach ``weight``. The bias is not part of it.
        """
        return self.pattern.fill(self.weight)

    def untie(self) -> Self:
        """A layer with the same matrix and a parameter of its own for every entry."""
        layer = deepcopy(self)
        if layer.tied:
            layer._untie()
        return layer

    def reset_parameters(self) -> None:
        """Draw new parameters as torch does; an untied layer spreads a tied draw."""
        if self.tied:
            super().reset_parameters()
            return
        untied = self.weight
        self.weight = torch.nn.Parameter(
            untied.new_empty(self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        )
        super().reset_parameters()
        with torch.no_grad():
            untied.copy_(self._spread(self.weight))
        self.weight = untied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply every image by the weight matrix and add the bias.

        Args:
            x: Images ``(N, in_channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, out_channels, *output_size)``, or one without the batch axis. It lies
            features first in memory: neighbours are the same entry of different images.

        Raises:
            ValueError: ``x`` has another shape.
        """
        shape = self.in_channels, *self.input_size
        batched = x.ndim == len(shape) + 1
        if x.shape[x.ndim - len(shape) :] != shape or x.ndim > len(shape) + 1:
            batch = str(("N", *shape)).replace("'", "")
            raise ValueError(f"x must have shape {batch} or {shape}, got {tuple(x.shape)}")
        weight, bias, x = autocast(self.weight, self.bias, x)
        y = self.product(weight.reshape(-1), (x.flatten(1) if batched else x.reshape(1, -1)).t())
        if bias is not None:  # in place: the product keeps no output for its backward
            y.unflatten(0, (self.out_channels, -1)).add_(bias[:, None, None])
        y = y.t().unflatten(1, (self.out_channels, *self.output_size))
        return y if batched else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and what is the matrix layer's own."""
        own = f", input_size={self.input_size}" + ("" if self.tied else ", tied=False")
        own += "" if self.form is None else f", form={self.form!r}"
        return super().extra_repr() + own

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_product"}

    def _tied_pattern(self) -> Pattern:
        return conv_pattern(
            self.in_channels,
            self.out_channels,
            self.input_size,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
        )

    def _spread(self, weight: torch.Tensor) -> torch.Tensor:
        index = torch.tensor(self._tied_pattern().index, device=weight.device)
        return weight.detach().reshape(-1)[index]

    def _untie(self) -> None:
        spread = self._spread(self.weight)
        self.weight = torch.nn.Parameter(spread, requires_grad=self.weight.requires_grad)
        self.tied = False
        self.__dict__.pop("_product", None)


class Conv1d(_MatrixConv, torch.nn.Conv1d):
    """A 1-D convolution as a product with its sparse matrix; see :class:`Conv2d`."""

    dims = 1


class Conv2d(_MatrixConv, torch.nn.Conv2d):
    """A 2-D convolution as a product with its sparse matrix.

    Parameters, their names, shapes and initial values are those of ``torch.nn.Conv2d``, and state
    dicts load across. The matrix depends on the size of the image, so that size is an argument.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel.
        input_size: Height and width of the images.
        stride: Step between neighbouring outputs.
        padding: Cells added on both sides, ``"same"`` or ``"valid"``.
        dilation: Step between neighbouring taps of the kernel.
        groups: Number of blocks of channels that do not see one another.
        bias: Whether to add a number to every output channel.
        padding_mode: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``.
        tied: Whether all positions share the kernel. If not, ``weight`` has shape ``(nnz,)``, one
            parameter a triple of ``pattern``, and starts at the values of the tied layer.
        device: Where the parameters live.
        dtype: Type of the parameters.
        form: ``"gather"`` or ``"general"``, see :func:`sparsemat.products.choose`; the one that
            suits the pattern if None.

    Raises:
        ValueError: As :func:`conv_pattern`, there is no such form, or the pattern does not have it.

    Source: paper 4.2.1, chapter "Convolution".
    """

    dims = 2


class Conv3d(_MatrixConv, torch.nn.Conv3d):
    """A 3-D convolution as a product with its sparse matrix; see :class:`Conv2d`."""

    dims = 3
