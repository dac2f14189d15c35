"""Small trainable structured matrices beside a frozen dense layer: LoRA, MoKA."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from .base import StructuredMatrix, require_plain
from .kronecker import KroneckerSum
from .low_rank import LowRank


class AdaptedLinear(nn.Module):
    r"""$y=(W_0+\sum_ig_iM_i)\,x+b$ with frozen $W_0$, b and trainable structured matrices $M_i$.

    The gate g is k times the softmax of k trainable logits, all one at first; a single matrix has
    none.

    Args:
        linear: The dense layer; its parameters no longer require gradients.
        matrices: The structured matrices, all of the shape of the layer's weight.

    Raises:
        ValueError: There is no matrix, or one has another shape; the layer stays as it is.

    Source: arXiv 2106.09685 (LoRA), arXiv 2508.03527 (MoKA).
    """

    def __init__(self, linear: nn.Linear, matrices: Iterable[StructuredMatrix]) -> None:
        super().__init__()
        self.linear, self.matrices = linear, nn.ModuleList(matrices)
        shapes = [matrix.shape for matrix in self.matrices]
        if not shapes or any(shape != tuple(linear.weight.shape) for shape in shapes):
            raise ValueError(
                f"matrices must have the shape of the weight {tuple(linear.weight.shape)}, "
                f"got {shapes}"
            )
        linear.requires_grad_(False)
        logits = torch.zeros(len(shapes)).to(linear.weight)
        self.logits = nn.Parameter(logits) if len(shapes) > 1 else None

    @classmethod
    def lora(cls, linear: nn.Linear, rank: int) -> Self:
        """A matrix of low rank that starts at zero: U zero, V Gaussian of variance 1 / columns."""
        matrix = LowRank(tuple(linear.weight.shape), rank).to(linear.weight)
        nn.init.zeros_(matrix.left)
        nn.init.normal_(matrix.right, std=linear.in_features**-0.5)
        return cls(linear, [matrix])

    @classmethod
    def kronecker(cls, linear: nn.Linear, grids: Iterable[tuple[int, int]]) -> Self:
        """One Kronecker product a grid (the shape of A), each starting at zero: B zero."""
        shape = tuple(linear.weight.shape)
        matrices = [KroneckerSum(shape, grid, 1).to(linear.weight) for grid in grids]
        for matrix in matrices:
            nn.init.zeros_(matrix.right)
        return cls(linear, matrices)

    def gates(self) -> Tensor:
        """The factor of each matrix, summing to their number."""
        count = len(self.matrices)
        if self.logits is None:
            return torch.ones(count).to(self.linear.weight)
        return count * self.logits.softmax(0)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply vectors of shape ``(..., in_features)``."""
        y = self.linear(input)
        for gate, matrix in zip(self.gates(), self.matrices, strict=True):
            y = y + gate * matrix(input)
        return y

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A dense layer that computes the same, trainable again.

        Raises:
            ValueError: The dense layer is none that its weight and bias alone describe.
        """
        require_plain(self.linear)
        update = sum(g * m.to_dense() for g, m in zip(self.gates(), self.matrices, strict=True))
        rows, cols = self.linear.weight.shape
        layer = nn.Linear(cols, rows, self.linear.bias is not None).to(self.linear.weight)
        layer.weight.copy_(self.linear.weight + update)
        if layer.bias is not None:
            layer.bias.copy_(self.linear.bias)
        return layer.train(self.training)
