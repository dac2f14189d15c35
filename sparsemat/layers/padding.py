"""Padding: a selection of entries along every axis, and a constant."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import nn

from ..kronecker import kron
from ..patterns.simple import identity_pattern, selection_pattern
from ..rules import Affine, Rule, output_shape, register, spatial_dims

CONSTANT = (
    *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
)
COPIES = {
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "edge": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "wrap": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}


def _matrix(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    dims = spatial_dims(module)
    output = output_shape(module, shape, dims + 1)
    mode = next((m for m, kinds in COPIES.items() if isinstance(module, kinds)), "constant")
    pairs = np.reshape(module.padding, (dims, 2))[::-1]  # torch names the last axis first
    reads = [_reads(n, *pair, mode) for n, pair in zip(shape[1:], pairs.tolist(), strict=True)]
    axes = [selection_pattern(read, n) for read, n in zip(reads, shape[1:], strict=True)]
    one = like.new_ones(1)
    bias, value = None, getattr(module, "value", 0)
    if mode == "constant" and value != 0:
        inside = np.ones(1, dtype=bool)
        for read in reads:
            inside = np.multiply.outer(inside, read >= 0).reshape(-1)
        border = torch.from_numpy(~inside).to(like.device).repeat(shape[0])

        def bias() -> torch.Tensor:
            constant = like.new_zeros(prod(output))
            return constant.masked_fill(border, module.value)

    return Affine(kron(identity_pattern(shape[0]), *axes), lambda: one, bias, output)


def _reads(size: int, before: int, after: int, mode: str) -> np.ndarray:
    """The entry that each output of an axis reads, -1 for the constant."""
    at = np.arange(-before, size + after)
    if mode == "wrap":  # torch cuts first, then wraps what is left
        kept = np.arange(max(-before, 0), size - max(-after, 0))
        if max(before, after) > len(kept):
            raise ValueError(
                f"circular padding must be at most the {len(kept)} entries left after cutting, "
                f"got ({before}, {after}) for size {size}"
            )
        return kept[np.arange(-max(before, 0), len(kept) + max(after, 0)) % len(kept)]
    if mode == "edge":
        return at.clip(0, size - 1)
    if mode == "reflect":
        return size - 1 - np.abs(size - 1 - np.abs(at))
    return np.where((at >= 0) & (at < size), at, -1)


register(Rule((*CONSTANT, *(kind for kinds in COPIES.values() for kind in kinds)), _matrix))
