"""A convolution in either direction: one kernel for all positions, or an entry for each."""

from __future__ import annotations

from copy import deepcopy
from math import prod
from typing import Any, Self

import torch
from torch import nn

from ..matrix import SparseMatrix, following
from ..pattern import Pattern
from ..products import Product, choose
from ..products.casting import autocast
from ..products.indices import constant
from ..rules import Affine, taking_over
from .base import MatrixLayer, added, as_images, require_own_weight, require_type


class KernelLayer(MatrixLayer):
    """Mixin of the layers with a kernel; stands before the torch layer of the same dimension.

    A layer kind says which attributes its geometry follows from, its ``output_size`` and its
    pattern.
    """

    dims: int
    geometry_attributes: tuple[str, ...]
    output_size: tuple[int, ...]
    tied = True  # an untied layer is drawn tied, then spread

    @property
    def pattern(self) -> Pattern:
        """Where the matrix may be nonzero, and which entry of ``weight`` sits there."""
        key = tuple(getattr(self, name) for name in self.geometry_attributes)
        key = (*key, self.input_size, self.tied)
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
        return following(self.pattern, lambda: self.weight)

    def untie(self) -> Self:
        """A layer with the same matrix and a parameter of its own for every entry."""
        if self.tied:
            require_own_weight(self, "to untie")
        layer = deepcopy(self)
        if layer.tied:
            layer._untie()
        return layer

    def reset_parameters(self) -> None:
        """Draw new parameters as torch does; an untied layer spreads a tied draw."""
        if self.tied:
            super().reset_parameters()
            return
        require_own_weight(self, "to reset that is not tied")
        untied = self.weight
        self.weight = nn.Parameter(untied.new_empty(self._kernel_shape()))
        super().reset_parameters()
        with torch.no_grad():
            untied.copy_(self._spread(self.weight))
        self.weight = untied

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply every image by the weight matrix and add the bias.

        Args:
            input: Images ``(N, in_channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, out_channels, *output_size)``, or one without the batch axis. It lies in
            memory as ``input`` does, or features first: from 64 images on, or where pixels are
            untied or padded with other things than zeros.

        Raises:
            TypeError: ``input`` is no tensor.
            ValueError: ``input`` has another shape or type.
        """
        return self._multiplied(input)

    def _multiplied(self, x: torch.Tensor) -> torch.Tensor:
        images = as_images(x, self.in_channels, self.input_size)
        product = self.product  # refuses attributes of now that the form does not have
        if self.form == "native":
            require_type(images, self.weight, "images")
            y = super().forward(images)
            return y if x.ndim == images.ndim else y[0]
        weight, bias, images = autocast(self.weight, self.bias, images)
        require_type(images, weight, "images")
        y = product(weight.reshape(-1), images.flatten(1).t())
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
        raise NotImplementedError

    def _kernel_shape(self) -> tuple[int, ...]:
        """Shape of the kernel as torch stores it."""
        raise NotImplementedError

    def _spread(self, weight: torch.Tensor) -> torch.Tensor:
        index = constant(self._tied_pattern().index.copy(), weight.device)
        return weight.detach().reshape(-1)[index]

    def _untie(self) -> None:
        require_own_weight(self, "to untie")
        spread = self._spread(self.weight)
        self.weight = nn.Parameter(spread, requires_grad=self.weight.requires_grad)
        self.tied = False
        self.prepare()


def affine(module: nn.Module, pattern: Pattern, output_size: tuple[int, ...]) -> Affine:
    """The matrix and the constant of a module with a kernel."""
    positions = prod(output_size)
    bias = None
    if module.bias is not None:

        def bias() -> torch.Tensor:
            return module.bias.repeat_interleave(positions)

    output = module.out_channels, *output_size
    return Affine(pattern, lambda: module.weight.reshape(-1), bias, output)


def matrix_of_own(module: KernelLayer, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    """The matrix of a layer of this library, for images of its size."""
    refuse_other_size(module, shape)
    return affine(module, module.pattern, module.output_size)


def in_place_of(module: nn.Module, layer: KernelLayer, options: dict[str, Any]) -> KernelLayer:
    """A new layer with the parameters of torch's module, untied where that is asked for."""
    layer = taking_over(layer, module)
    if not options.get("tied", True):
        layer._untie()
    return layer


def own_layer(module: KernelLayer, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    """A layer of this library as it is, untied where that is asked for."""
    refuse_other_size(module, shape)
    if not options.get("tied", True) and module.tied:
        module._untie()
    return module


def refuse_other_size(module: KernelLayer, shape: tuple[int, ...]) -> None:
    """Refuse images of another size than the layer's.

    Raises:
        ValueError: With both shapes.
    """
    expected = module.in_channels, *module.input_size
    if shape != expected:
        raise ValueError(f"the layer's input shape is {expected}, got input_shape={shape}")
