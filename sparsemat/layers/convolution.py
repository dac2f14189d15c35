"""Convolution: the matrix layers, and what turns torch's into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import as_tuple, check_channels
from ..pattern import Pattern
from ..patterns.convolution import conv_of_windows
from ..products import check_form
from ..rules import Affine, Rule, image_size, register
from ..windows import Windows, conv_windows
from .base import check_flags
from .kernel import KernelLayer, affine, in_place_of, matrix_of_own, own_layer


class _MatrixConv(KernelLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    geometry_attributes = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
        *("groups", "padding_mode"),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_size: int | Sequence[int],
        tied: bool = True,
        form: str | None = None,
    ) -> None:
        if form is not None:
            check_form(form)
        check_flags(bias=bias, tied=tied)
        in_channels, out_channels, groups = check_channels(in_channels, out_channels, groups)
        kernel_size = as_tuple("kernel_size", kernel_size, self.dims)
        input_size = as_tuple("input_size", input_size, self.dims)
        stride = as_tuple("stride", stride, self.dims)
        dilation = as_tuple("dilation", dilation, self.dims)
        if not isinstance(padding, str):
            padding = as_tuple("padding", padding, self.dims, least=0)
        conv_windows(input_size, kernel_size, stride, padding, dilation, padding_mode)
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups),
            *(bias, padding_mode, device, dtype),
        )
        self.input_size, self.form = input_size, form
        if not tied:
            self._untie()
        self.prepare()

    @property
    def windows(self) -> Windows:
        """The geometry, that is which pixels every output reads."""
        return geometry(self, self.input_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.windows.output_size

    def _tied_pattern(self) -> Pattern:
        return conv_of_windows(self.in_channels, self.out_channels, self.groups, self.windows)

    def _kernel_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel_size


class Conv1d(_MatrixConv, nn.Conv1d):
    """A 1-D convolution as a product with its sparse matrix; see :class:`Conv2d`."""

    dims = 1


class Conv2d(_MatrixConv, nn.Conv2d):
    """A 2-D convolution as a product with its sparse matrix.

    Parameters, their names, shapes and initial values are those of ``torch.nn.Conv2d``, as are the
    arguments up to ``dtype``, and state dicts load across. The matrix depends on the size of the
    image, so that size is an argument.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel.
        stride: Step between neighbouring outputs.
        padding: Cells added on both sides, ``"same"`` or ``"valid"``.
        dilation: Step between neighbouring taps of the kernel.
        groups: Number of blocks of channels that do not see one another.
        bias: Whether to add a number to every output channel.
        padding_mode: ``"zeros"``, ``"circular"``, ``"reflect"`` or ``"replicate"``.
        device: Where the parameters live.
        dtype: Type of the parameters.
        input_size: Height and width of the images.
        tied: Whether all positions share the kernel. If not, ``weight`` has shape ``(nnz,)``, one
            parameter a triple of ``pattern``, and starts at the values of the tied layer.
        form: ``"gather"``, ``"general"`` or ``"native"``, see
            :func:`sparsemat.products.choose`; the one that suits the pattern if None.

    Raises:
        ValueError: As :func:`conv_pattern`, there is no such form, or the pattern does not have it.

    Source: paper 4.2.1, chapter "Convolution".
    """

    dims = 2


class Conv3d(_MatrixConv, nn.Conv3d):
    """A 3-D convolution as a product with its sparse matrix; see :class:`Conv2d`."""

    dims = 3


STOCK = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OWN = (Conv1d, Conv2d, Conv3d)


def geometry(module: nn.Module, size: tuple[int, ...]) -> Windows:
    """The windows of a convolution for images of a size, from the attributes of now.

    Raises:
        ValueError: An attribute is out of range, or torch would not use the padding it says.
    """
    dims = len(size)
    padding, mode = module.padding, module.padding_mode
    kernel = as_tuple("kernel_size", module.kernel_size, dims)
    stride = as_tuple("stride", module.stride, dims)
    dilation = as_tuple("dilation", module.dilation, dims)
    windows = conv_windows(size, kernel, stride, padding, dilation, mode)
    if mode != "zeros" and not isinstance(module, OWN):
        # here torch pads by what it worked out when the module was made
        pads = tuple(side for pair in reversed(windows.pads) for side in pair)
        made = tuple(module._reversed_padding_repeated_twice)
        if pads != made and tuple(reversed(pads)) != made:
            raise ValueError(
                f"padding={padding} with padding_mode={mode!r} must be that of construction, "
                f"got a module that was made to pad by {made}"
            )
    return windows


def _matrix(module: nn.Conv2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = image_size(module, shape, len(module.kernel_size), module.in_channels)
    windows = geometry(module, size)
    pattern = conv_of_windows(module.in_channels, module.out_channels, module.groups, windows)
    return affine(module, pattern, windows.output_size)


def _layer(module: nn.Conv2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    dims = len(module.kernel_size)
    size = image_size(module, shape, dims, module.in_channels)
    geometry(module, size)
    layer = OWN[dims - 1](
        *(module.in_channels, module.out_channels, module.kernel_size, module.stride),
        *(module.padding, module.dilation, module.groups, module.bias is not None),
        module.padding_mode,
        device="meta",  # leaves the random state alone
        input_size=size,
        form=options.get("form"),
    )
    return in_place_of(module, layer, options)


register(Rule(STOCK, _matrix, _layer, options=("tied", "form")))
register(Rule(OWN, matrix_of_own, own_layer, options=("tied",)))
