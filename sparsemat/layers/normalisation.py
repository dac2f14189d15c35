"""Instance and frozen batch normalisation: by stored statistics, a scale and a shift a channel."""

from __future__ import annotations

import torch
from torch import nn

from ..rules import Affine, Rule, image_size, register, register_named, spatial_dims
from .simple import scale_and_shift


def _instance_norm(module: nn.InstanceNorm2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    # torch asks the flag at each call, whatever the buffers hold
    if module.training or not module.track_running_stats or module.running_mean is None:
        raise ValueError(
            "instance normalisation is a matrix only with running statistics and after .eval(), "
            f"got training={module.training} and track_running_stats={module.track_running_stats}"
        )
    image_size(module, shape, spatial_dims(module), module.num_features)
    return scale_and_shift(module, shape)


def _frozen(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    image_size(module, shape, 2, len(module.running_mean))
    return scale_and_shift(module, shape)


register_named("torchvision.ops.misc.FrozenBatchNorm2d", Rule((), _frozen))
register(Rule((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance_norm))
