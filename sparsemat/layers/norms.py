"""Layer, group and RMS normalisation: at an input, scales times a fixed projection."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from ..kronecker import kron
from ..lazy import Chain, Sum
from ..matrix import Matrix
from ..pattern import Pattern
from ..patterns.normalisation import mean_pattern, norm_pattern
from ..patterns.simple import diagonal_pattern, identity_pattern
from ..rules import Rule, as_it_is, register, register_named, taking_over
from .base import MatrixLayer, require_tensor, require_type


class _Norm(MatrixLayer):
    """What the layers share; stands before torch's layer, whose arguments and call they have.

    A call runs torch's kernel: the product with the matrix at its input, and the bias.
    """

    centred = True

    def pattern(self, shape: tuple[int, ...]) -> Pattern:
        """Where the matrix at an input of this shape, without the batch axis, may be nonzero.

        Raises:
            ValueError: The layer takes no such input.
        """
        return norm_pattern(*self._groups(tuple(shape)), centred=self.centred)

    def matrix(self, x: torch.Tensor) -> Matrix:
        r"""The matrix at one input, scales times weights times a fixed projection.

        Times ``x.reshape(-1)`` it is the output, but for the bias. It is not the Jacobian, since
        the scales depend on x.

        Args:
            x: One input, without the batch axis.

        Returns:
            Square matrix of ``x.numel()`` rows, not formed: a diagonal times $I - M^\top M / n$,
            where M sums every group of n entries; for RMS normalisation the diagonal alone.

        Raises:
            TypeError: ``x`` is no tensor.
            ValueError: It has another shape or type than the layer takes.
        """
        require_tensor(x)
        if not (x.is_floating_point() or (x.is_complex() and not self.centred)):
            kinds = "floating-point" if self.centred else "floating-point or complex"
            raise ValueError(f"x must be {kinds}, as the layer takes it, got {x.dtype}")
        if self.weight is not None:
            require_type(x, self.weight)
        groups = self._groups(tuple(x.shape))
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(groups)
        scale = self._scale(wide).to(x.dtype).expand(groups).reshape(x.shape)
        if self.weight is not None:
            scale = scale * self._per_entry(self.weight, x)
        diagonal = diagonal_pattern(x.numel()).fill(scale.reshape(-1))
        if not self.centred:
            return diagonal
        one, sums = x.new_ones(1), mean_pattern(*groups)
        identity = kron(*map(identity_pattern, groups))
        mean = Chain(sums.T.fill(-one), sums.fill(one / groups[1]))
        return Chain(diagonal, Sum(identity.fill(one), mean))

    def _groups(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Groups one after the other, entries of a group, groups side by side.

        Raises:
            ValueError: The layer takes no input of this shape.
        """
        one = tuple(self.normalized_shape)
        before = len(shape) - len(one)
        if before < 0 or shape[before:] != one or 0 in shape:
            raise ValueError(f"one input must end in {one}, got shape {shape}")
        return prod(shape[:before]), prod(one), 1

    def _per_entry(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The weight where it broadcasts to the entries."""
        return weight

    def _scale(self, x: torch.Tensor) -> torch.Tensor:
        return (x.var(1, correction=0, keepdim=True) + self.eps).rsqrt()


class LayerNorm(_Norm, nn.LayerNorm):
    """Layer normalisation, at each input a scale a token times a fixed projection.

    Arguments, parameters and the call are those of ``torch.nn.LayerNorm``.

    Source: chapter "A Transformer block as matrices".
    """


class RMSNorm(_Norm, nn.RMSNorm):
    """RMS normalisation, at each input a diagonal.

    Arguments, parameters and the call are those of ``torch.nn.RMSNorm``.

    Source: chapter "A Transformer block as matrices".
    """

    centred = False

    def _scale(self, x: torch.Tensor) -> torch.Tensor:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        return (x.square().mean(1, keepdim=True) + eps).rsqrt()


class _ChannelNorm(_Norm):
    """A normalisation whose input begins with its channels."""

    def _check_channels(self, shape: tuple[int, ...], channels: int, axes: int) -> None:
        if len(shape) < axes or shape[0] != channels or 0 in shape:
            raise ValueError(f"one input must begin with {channels} channels, got shape {shape}")

    def _per_entry(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return weight.view(-1, *(1,) * (x.ndim - 1))


class GroupNorm(_ChannelNorm, nn.GroupNorm):
    """Group normalisation, at each input a scale a group times a fixed projection.

    Arguments, parameters and the call are those of ``torch.nn.GroupNorm``.

    Source: chapter "A Transformer block as matrices".
    """

    def _groups(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        self._check_channels(shape, self.num_channels, 1)
        return self.num_groups, prod(shape) // self.num_groups, 1


class LayerNorm2d(_ChannelNorm, nn.LayerNorm):
    """Layer normalisation over the channels of every pixel, as torchvision's ConvNeXt has it.

    Arguments and parameters are those of ``torch.nn.LayerNorm``; images are ``(N, C, H, W)``.

    Source: chapter "A Transformer block as matrices".
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise every pixel of images ``(N, C, H, W)``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _groups(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        self._check_channels(shape, prod(self.normalized_shape), 3)
        return 1, shape[0], prod(shape[1:])


def _layer(kind: type[_Norm], module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    options: dict[str, Any] = {"eps": module.eps, "device": "meta"}
    if kind is GroupNorm:
        sizes, least = (module.num_groups, module.num_channels), 1
        options["affine"] = module.affine
    else:
        sizes, least = (module.normalized_shape,), len(module.normalized_shape)
        options["elementwise_affine"] = module.elementwise_affine
    if kind is not RMSNorm and module.weight is not None and module.bias is None:
        options["bias"] = False
    layer = taking_over(kind(*sizes, **options), module)
    if len(shape) >= least:  # a call without a batch axis has none left to compare
        layer._groups(shape)
    return layer


HINT = (
    "it divides by a statistic of its input: its matrix layer has the matrix(x) at an input; "
    "batch normalisation in eval mode is a matrix"
)


def _rule(kind: type[_Norm], *natives: type[nn.Module]) -> Rule:
    return Rule(natives, layer=lambda module, shape, _: _layer(kind, module, shape), hint=HINT)


register(_rule(LayerNorm, nn.LayerNorm))
register(_rule(GroupNorm, nn.GroupNorm))
register(_rule(RMSNorm, nn.RMSNorm))
register_named("torchvision.models.convnext.LayerNorm2d", _rule(LayerNorm2d))
register(Rule((LayerNorm, GroupNorm, RMSNorm, LayerNorm2d), layer=as_it_is, hint=HINT))
