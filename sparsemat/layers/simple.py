"""Torch's layers of one line that are matrices, and those that stand between matrices."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from ..kronecker import kron
from ..patterns.simple import diagonal_pattern, identity_pattern
from ..rules import Affine, Rule, as_it_is, register, spatial_dims

ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh),
    *(nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Softplus, nn.Softsign),
    nn.Threshold,
)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def identity(shape: tuple[int, ...], like: torch.Tensor, output: tuple[int, ...]) -> Affine:
    """The identity, for what only reshapes."""
    one = like.new_ones(1)
    return Affine(identity_pattern(prod(shape)), lambda: one, None, output)


def _identity(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    return identity(shape, like, shape)


def _dropout(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if module.training:
        raise ValueError(f"{type(module).__name__} is a matrix only after .eval()")
    return identity(shape, like, shape)


def _flatten(module: nn.Flatten, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if module.start_dim == 0 or module.start_dim == -len(shape) - 1:
        raise ValueError(
            "Flatten must keep the batch axis, so start_dim must be at least 1, "
            f"got start_dim={module.start_dim}"
        )
    output = tuple(module(torch.empty(1, *shape, device="meta")).shape[1:])
    return identity(shape, like, output)


def _batch_norm(module: nn.BatchNorm2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if module.training or module.running_mean is None:
        raise ValueError(
            "batch normalisation is a matrix only with running statistics and after .eval(), got "
            f"training={module.training} and track_running_stats={module.track_running_stats}"
        )
    if isinstance(module, nn.SyncBatchNorm):
        ranks = range(1, 5)
    else:
        dims = spatial_dims(module)
        ranks = (1, 2) if dims == 1 else (dims + 1,)
    if len(shape) not in ranks or shape[0] != module.num_features:
        raise ValueError(
            f"input_shape must have {' or '.join(map(str, ranks))} axes, the first of "
            f"num_features={module.num_features}, got input_shape={shape}"
        )
    return scale_and_shift(module, shape)


def scale_and_shift(module: nn.Module, shape: tuple[int, ...]) -> Affine:
    """A normalisation by its running statistics, channel by channel."""
    positions = prod(shape[1:])

    def scale() -> torch.Tensor:
        scale = (module.running_var + module.eps).rsqrt()
        return scale if module.weight is None else scale * module.weight

    def shift() -> torch.Tensor:
        shift = -module.running_mean * scale()
        shift = shift if module.bias is None else shift + module.bias
        return shift.repeat_interleave(positions)

    pattern = kron(diagonal_pattern(shape[0]), identity_pattern(positions))
    return Affine(pattern, scale, shift, shape)


register(Rule((nn.Identity,), _identity, as_it_is))
register(Rule(DROPOUT, _dropout, as_it_is))
register(Rule((nn.Flatten,), _flatten, as_it_is))
register(Rule(BATCH_NORM, _batch_norm, as_it_is))
register(
    Rule(
        ELEMENTWISE,
        layer=as_it_is,
        hint="it acts entry by entry, so apply it between the matrices of its neighbours",
    )
)
register(
    Rule(
        (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d),
        layer=as_it_is,
        hint="apply it after the matrix of the layer before",
    )
)
