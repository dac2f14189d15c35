"""Transposed convolution: the matrix of a convolution backwards, transposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import as_tuple, check_channels
from ..pattern import Pattern
from ..patterns.convolution import conv_transpose_pattern
from ..products import check_form
from ..rules import Affine, Rule, image_size, register
from .base import check_flags
from .kernel import KernelLayer, affine, in_place_of, matrix_of_own, own_layer


class _MatrixConvTranspose(KernelLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    geometry_attributes = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
        *("groups", "output_padding", "padding_mode"),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
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
        stride = as_tuple("stride", stride, self.dims)
        padding = as_tuple("padding", padding, self.dims, least=0)
        output_padding = as_tuple("output_padding", output_padding, self.dims, least=0)
        dilation = as_tuple("dilation", dilation, self.dims)
        input_size = as_tuple("input_size", input_size, self.dims)
        _check_mode(padding_mode)
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride, padding, output_padding),
            *(groups, bias, dilation, padding_mode, device, dtype),
        )
        self.input_size, self.form = input_size, form
        _ = self.output_size  # refused before anything is laid out
        if not tied:
            self._untie()
        self.prepare()

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return transposed_size(self, self.input_size)

    def forward(
        self, input: torch.Tensor, output_size: int | Sequence[int] | None = None
    ) -> torch.Tensor:
        """Multiply every image by the weight matrix and add the bias.

        Args:
            input: Images ``(N, in_channels, *input_size)``, or one without the batch axis.
            output_size: For callers of torch's layer; must be the size that the layer has.

        Returns:
            Tensor ``(N, out_channels, *output_size)``, or one without the batch axis, features
            first in memory.

        Raises:
            TypeError: ``input`` is no tensor.
            ValueError: ``input`` has another shape or type, or the layer another output size.
        """
        if output_size is not None:
            wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,)
            if wanted[-self.dims :] != self.output_size:
                raise ValueError(
                    f"output_size must be that of the layer, {self.output_size}, "
                    f"got {output_size}; see output_padding"
                )
        return self._multiplied(input)

    def _tied_pattern(self) -> Pattern:
        return _pattern(self, self.input_size)

    def _kernel_shape(self) -> tuple[int, ...]:
        return self.in_channels, self.out_channels // self.groups, *self.kernel_size


class ConvTranspose1d(_MatrixConvTranspose, nn.ConvTranspose1d):
    """A 1-D transposed convolution as a product with its matrix; see :class:`ConvTranspose2d`."""

    dims = 1


class ConvTranspose2d(_MatrixConvTranspose, nn.ConvTranspose2d):
    """A 2-D transposed convolution as a product with its sparse matrix.

    The matrix is the transpose of the one of the convolution that goes from the output's size to
    the input's. Parameters and arguments up to ``dtype`` are those of
    ``torch.nn.ConvTranspose2d``, and state dicts load across.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel.
        stride: Step between the outputs of neighbouring inputs.
        padding: Cells cut off on both sides of the output.
        output_padding: Cells added behind the output; below the stride or the dilation.
        groups: Number of blocks of channels that do not see one another.
        bias: Whether to add a number to every output channel.
        dilation: Step between neighbouring taps of the kernel.
        padding_mode: ``"zeros"``, as torch has no other.
        device: Where the parameters live.
        dtype: Type of the parameters.
        input_size: Height and width of the images.
        tied: Whether all positions share the kernel. If not, ``weight`` has shape ``(nnz,)``, one
            parameter a triple of ``pattern``, and starts at the values of the tied layer.
        form: ``"gather"``, ``"general"`` or ``"native"``, see
            :func:`sparsemat.products.choose`; the one that suits the pattern if None.

    Raises:
        ValueError: An argument is out of range, the output would be empty, or the pattern does not
            have the form.

    Source: chapter "Convolution".
    """

    dims = 2


class ConvTranspose3d(_MatrixConvTranspose, nn.ConvTranspose3d):
    """A 3-D transposed convolution as a product with its matrix; see :class:`ConvTranspose2d`."""

    dims = 3


STOCK = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
OWN = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)


def transposed_size(module: nn.ConvTranspose2d, size: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial size of the output for images of a size, as torch computes it.

    Raises:
        ValueError: It is empty, or ``output_padding`` is neither below the stride nor the dilation.
    """
    kernels, strides, paddings, dilations = _sides(module, len(size))
    extra = as_tuple("output_padding", module.output_padding, len(size), least=0)
    for more, stride, dilation in zip(extra, strides, dilations, strict=True):
        if more >= max(stride, dilation):
            raise ValueError(
                "output_padding must be below the stride or the dilation, "
                f"got {more} with stride {stride} and dilation {dilation}"
            )
    outputs = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, k, s, p, d, more in zip(
            size, kernels, strides, paddings, dilations, extra, strict=True
        )
    )
    if min(outputs) < 1:
        raise ValueError(f"the output must not be empty, got size {outputs} for input {size}")
    return outputs


def _sides(module: nn.ConvTranspose2d, dims: int) -> tuple[tuple[int, ...], ...]:
    least = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    return tuple(as_tuple(name, getattr(module, name), dims, low) for name, low in least.items())


def _check_mode(padding_mode: str) -> None:
    if padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}")


def _pattern(module: nn.ConvTranspose2d, size: tuple[int, ...]) -> Pattern:
    _check_mode(module.padding_mode)
    kernel, stride, padding, dilation = _sides(module, len(size))
    outputs = transposed_size(module, size)
    return conv_transpose_pattern(
        *(module.in_channels, module.out_channels, size, outputs, kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=module.groups,
    )


def _matrix(module: nn.ConvTranspose2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = image_size(module, shape, len(module.kernel_size), module.in_channels)
    return affine(module, _pattern(module, size), transposed_size(module, size))


def _layer(
    module: nn.ConvTranspose2d, shape: tuple[int, ...], options: dict[str, Any]
) -> nn.Module:
    dims = len(module.kernel_size)
    size = image_size(module, shape, dims, module.in_channels)
    layer = OWN[dims - 1](
        *(module.in_channels, module.out_channels, module.kernel_size, module.stride),
        *(module.padding, _output_padding(module, size, options.get("outputs", ()))),
        *(module.groups, module.bias is not None, module.dilation, module.padding_mode),
        device="meta",  # leaves the random state alone
        input_size=size,
        form=options.get("form"),
    )
    return in_place_of(module, layer, options)


def _output_padding(
    module: nn.ConvTranspose2d, size: tuple[int, ...], outputs: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """The module's own, or that of the size which its callers ask for."""
    extra = as_tuple("output_padding", module.output_padding, len(size), least=0)
    sizes = {shape[-len(size) :] for shape in outputs} or {transposed_size(module, size)}
    if len(sizes) > 1:
        raise ValueError(f"images of {size} must have one output size, got {sorted(sizes)}")
    own = transposed_size(module, size)
    return tuple(e + m - n for e, m, n in zip(extra, sizes.pop(), own, strict=True))


register(Rule(STOCK, _matrix, _layer, options=("tied", "form")))
register(Rule(OWN, matrix_of_own, own_layer, options=("tied",)))
