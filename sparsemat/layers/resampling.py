"""Upsampling: the Kronecker product of one interpolation matrix an axis."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..kronecker import kron
from ..pattern import Pattern
from ..patterns.simple import identity_pattern, selection_pattern
from ..rules import Affine, Rule, output_shape, register

ALONG = {"bilinear": "linear", "trilinear": "linear"}  # every other mode keeps its name


def _matrix(module: nn.Upsample, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    output = output_shape(module, shape, len(shape))
    factors = module.scale_factor
    dims = len(shape) - 1
    if not isinstance(factors, tuple):
        factors = (factors,) * dims
    theta, axes = like.new_ones(1), []
    for axis, (n, m, factor) in enumerate(zip(shape[1:], output[1:], factors, strict=True)):
        if module.mode.startswith("nearest"):
            axes.append(_nearest(module, shape, axis, like))
            continue
        pattern, values = _axis(module, n, m, factor, like)
        axes.append(pattern)
        theta = torch.outer(theta, values).reshape(-1)
    return Affine(kron(identity_pattern(shape[0]), *axes), lambda: theta, None, output)


def _nearest(module: nn.Upsample, shape: tuple[int, ...], axis: int, like: torch.Tensor) -> Pattern:
    """Which entry of the axis every output reads, as torch rounds for images of this very shape.

    Its kernels round in different types, so that a border case depends on the number of channels.
    """
    n, dims = shape[1 + axis], len(shape) - 1
    kind = torch.promote_types(like.dtype, torch.float32)
    ramp = torch.arange(n, dtype=kind, device="cpu").reshape(-1, *(1,) * (dims - 1 - axis))
    line = module(ramp.expand(1, *shape).contiguous())[0, 0]
    line = line.movedim(axis, 0).reshape(line.shape[axis], -1)[:, 0]
    return selection_pattern(line.to(torch.int64).numpy(), n)


def _axis(
    module: nn.Upsample, n: int, m: int, factor: float | None, like: torch.Tensor
) -> tuple[Pattern, torch.Tensor]:
    """The matrix of an axis, column by column as torch interpolates the unit vectors."""
    kind = torch.promote_types(like.dtype, torch.float32)  # 16-bit weights are rounded once
    unit = torch.eye(n, dtype=kind, device="cpu").reshape(1, n, n, 1)
    mode, options = ALONG.get(module.mode, module.mode), {}
    if mode in ("linear", "bicubic"):
        options["align_corners"] = module.align_corners
    if factor is None:
        size = {"size": (m, 1)}
    else:
        size = {"scale_factor": (float(factor), 1.0)}
        options["recompute_scale_factor"] = module.recompute_scale_factor
    if mode != "bicubic":
        unit, size = unit[..., 0], {name: value[0] for name, value in size.items()}
    matrix = F.interpolate(unit, mode=mode, **size, **options).reshape(n, m).T.numpy()
    row, col = matrix.nonzero()
    values, index = np.unique(matrix[row, col], return_inverse=True)
    pattern = Pattern((m, n), row, col, index.reshape(-1), len(values))
    return pattern, torch.from_numpy(values).to(like)


register(Rule((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _matrix))
