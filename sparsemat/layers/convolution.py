"""Convolution: the matrix layers, and what turns torch's into them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import Any, Self

import torch
from torch import nn

from ..arguments import as_tuple, check_channels
from ..matrix import SparseMatrix
from ..pattern import Pattern
from ..patterns.convolution import conv_of_windows
from ..products import Product, check_form, choose
from ..products.casting import autocast
from ..products.indices import constant
from ..rules import Affine, Rule, image_size, register, taking_over
from ..windows import Windows, conv_windows
from .base import MatrixLayer, added, as_images, check_flags, require_type


class _MatrixConv(MatrixLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    dims: int
    tied = True  # an untied layer is drawn tied, then spread

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
        """The geometry: which pixels every output reads."""
        return geometry(self, self.input_size)

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.windows.output_size

    @property
    def pattern(self) -> Pattern:
        """Where the matrix may be nonzero, and which entry of ``weight`` sits there."""
        key = (*_geometry_key(self), self.input_size, self.tied)
        return self.remembered("pattern", key, self._make_pattern)

    @property
    def product(self) -> Product:
        """The product that multiplies by the weight matrix; its repr says which and why."""
        key = (self.pattern, self.form)
        return self.remembered("product", key, lambda: choose(*key))

    def prepare(self) -> None:
        """Find the product; refuses a form that the pattern does not have."""
        _ = self.product

    def matrix(self) -> SparseMatrix:
        """The weight matrix, of shape ``(out_channels * prod(output), in_channels * prod(input))``.

        It reads ``weight`` at each use, and gradients reach it. The bias is not part of it.
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
        self.weight = nn.Parameter(
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
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` has another shape or type.
        """
        images = as_images(x, self.in_channels, self.input_size)
        weight, bias, images = autocast(self.weight, self.bias, images)
        require_type(images, weight)
        y = self.product(weight.reshape(-1), images.flatten(1).t())
        if bias is not None:
            y = added(y.unflatten(0, (self.out_channels, -1)), bias[:, None, None]).flatten(0, 1)
        y = y.t().unflatten(1, (self.out_channels, *self.output_size))
        return y if x.ndim == images.ndim else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and what is the matrix layer's own."""
        own = f", input_size={self.input_size}" + ("" if self.tied else ", tied=False")
        return super().extra_repr() + own + self.own_repr()

    def _make_pattern(self) -> Pattern:
        pattern = self._tied_pattern()
        return pattern if self.tied else pattern.untied()

    def _tied_pattern(self) -> Pattern:
        return conv_of_windows(self.in_channels, self.out_channels, self.groups, self.windows)

    def _spread(self, weight: torch.Tensor) -> torch.Tensor:
        index = constant(self._tied_pattern().index.copy(), weight.device)
        return weight.detach().reshape(-1)[index]

    def _untie(self) -> None:
        spread = self._spread(self.weight)
        self.weight = nn.Parameter(spread, requires_grad=self.weight.requires_grad)
        self.tied = False
        self.prepare()


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


def _geometry_key(module: nn.Module) -> tuple:
    return (
        *(module.in_channels, module.out_channels, module.kernel_size, module.stride),
        *(module.padding, module.dilation, module.groups, module.padding_mode),
    )


def _matrix(module: nn.Conv2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = image_size(module, shape, len(module.kernel_size), module.in_channels)
    windows = geometry(module, size)
    pattern = conv_of_windows(module.in_channels, module.out_channels, module.groups, windows)
    return _affine(module, pattern, windows.output_size)


def _matrix_of_own(module: Conv2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    _refuse_other_size(module, shape)
    return _affine(module, module.pattern, module.output_size)


def _affine(module: nn.Module, pattern: Pattern, output_size: tuple[int, ...]) -> Affine:
    positions = prod(output_size)
    bias = None
    if module.bias is not None:

        def bias() -> torch.Tensor:
            return module.bias.repeat_interleave(positions)

    output = module.out_channels, *output_size
    return Affine(pattern, lambda: module.weight.reshape(-1), bias, output)


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
    layer = taking_over(layer, module)
    if not options.get("tied", True):
        layer._untie()
    return layer


def _own_layer(module: Conv2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    _refuse_other_size(module, shape)
    if not options.get("tied", True) and module.tied:
        module._untie()
    return module


def _refuse_other_size(module: Conv2d, shape: tuple[int, ...]) -> None:
    expected = module.in_channels, *module.input_size
    if shape != expected:
        raise ValueError(f"the layer's input shape is {expected}, got input_shape={shape}")


register(Rule(STOCK, _matrix, _layer, options=("tied", "form")))
register(Rule(OWN, _matrix_of_own, _own_layer, options=("tied",)))
