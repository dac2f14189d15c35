"""The networks of the study of tile products: a small vision transformer and its linear layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..structured import LowRank, StrassenTileLinear, StructuredLinear, TileBases, multiply_adds
from .schemes import published

WIDTH, DEPTH, HEADS, PATCH, TOKENS = 128, 2, 4, 8, 16


class RowLinear(nn.Module):
    """A dense layer with a weight matrix of its own for each token modulo ``period``."""

    def __init__(self, inputs: int, outputs: int, period: int = 4) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, outputs) for _ in range(period)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in groups of ``period``: shape ``(samples, tokens, inputs)``."""
        groups = x.unflatten(1, (-1, len(self.weight)))
        return torch.einsum("ngpi,poi->ngpo", groups, self.weight).flatten(1, 2) + self.bias


class MixedLinear(nn.Linear):
    """A dense layer after a free mixing of every four consecutive tokens."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.mix = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        """Mix, then multiply: shape ``(samples, tokens, inputs)``."""
        return super().forward((self.mix @ x.unflatten(1, (-1, 4))).flatten(1, 2))


class TwoOfFour(nn.Module):
    """A dense layer that keeps two of every four consecutive weights of a row.

    Which two is drawn at the start and never changes.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        kept = torch.rand(outputs, inputs // 4, 4).argsort(2)[..., :2].sort(2).values
        self.register_buffer("columns", (kept + 4 * torch.arange(inputs // 4)[:, None]).flatten(1))
        start = nn.Linear(inputs // 2, outputs)
        self.inputs, self.weight, self.bias = inputs, start.weight, start.bias

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the kept weights: shape ``(..., inputs)``."""
        zeros = self.weight.new_zeros(len(self.weight), self.inputs)
        return F.linear(x, zeros.scatter(1, self.columns, self.weight), self.bias)


def tile_macs(inputs: int, outputs: int, rank: int) -> int:
    """Multiplications a token of a tile product with 4x4 tiles."""
    return multiply_adds(4, inputs, outputs, rank, 4) // 4


def low_rank(inputs: int, outputs: int, rank: int = 24) -> nn.Module:
    """A low rank layer of the operations of a tile product of this rank."""
    affordable = tile_macs(inputs, outputs, rank) // (inputs + outputs)
    return StructuredLinear(LowRank((outputs, inputs), affordable))


def tiles(bases: Callable[[], TileBases]) -> Callable[[int, int], nn.Module]:
    """Tile layers, each with bases of its own."""
    return lambda inputs, outputs: StrassenTileLinear(inputs, outputs, bases())


def fitted() -> TileBases:
    """Pruned products of Strassen's scheme, fitted on with a ridge against cancellation."""
    return TileBases.fit(24, ridge=1e-2, sweeps=100, start=TileBases.pruned(24))


# name: width, and what makes a linear layer
VARIANTS: dict[str, tuple[int, Callable[[int, int], nn.Module]]] = {
    "dense": (WIDTH, nn.Linear),
    "tiles 24, pruned Strassen": (WIDTH, tiles(lambda: TileBases.pruned(24))),
    "dense, a matrix a row": (WIDTH, RowLinear),
    "low rank, equal operations": (WIDTH, low_rank),
    "dense, equal operations": (104, nn.Linear),
    "dense, equal parameters": (160, nn.Linear),
    "tiles 24, random": (WIDTH, tiles(lambda: TileBases.random(24))),
    "tiles 24, naive products": (WIDTH, tiles(lambda: TileBases.naive(4, 24))),
    "dense, tokens mixed": (WIDTH, MixedLinear),
    "tiles 16, pruned Strassen": (WIDTH, tiles(lambda: TileBases.pruned(16))),
    "tiles 32, pruned Strassen": (WIDTH, tiles(lambda: TileBases.pruned(32))),
    "2:4 mask": (WIDTH, TwoOfFour),
    "tiles 24, fitted with a ridge": (WIDTH, tiles(fitted)),
    "tiles 49, Strassen twice": (WIDTH, tiles(lambda: TileBases.strassen(2))),
    "tiles 48, rational": (WIDTH, tiles(lambda: published("rational"))),
}


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and beside a shortcut.

    Args:
        width: Of a token, a multiple of the heads.
        linear: Makes a layer from its numbers of inputs and outputs.
        causal: Whether a token sees only itself and those before it.
    """

    def __init__(
        self, width: int, linear: Callable[[int, int], nn.Module], causal: bool = False
    ) -> None:
        super().__init__()
        self.causal = causal
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.queries, self.out = linear(width, 3 * width), linear(width, width)
        self.up, self.down = linear(width, 2 * width), linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of shape ``(samples, tokens, width)``."""
        heads = self.queries(self.norms[0](x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*heads, is_causal=self.causal)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """Patches of 8x8 pixels as 16 tokens, two blocks, the mean, ten classes."""

    def __init__(self, width: int, linear: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.place = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.blocks = nn.Sequential(*[Block(width, linear) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 3, 32, 32)`` to logits ``(n, 10)``."""
        x = self.embed(images).flatten(2).mT + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


def macs(variant: str) -> int:
    """Multiplications a token in the linear layers of the blocks; a dropped weight takes none."""
    width, _ = VARIANTS[variant]
    sizes = [(width, 3 * width), (width, width), (width, 2 * width), (2 * width, width)]
    if variant.startswith("tiles"):
        rank = int(variant.split()[1].strip(","))
        return DEPTH * sum(tile_macs(*size, rank) for size in sizes)
    if variant.startswith("low rank"):
        return DEPTH * sum(tile_macs(i, o, 24) // (i + o) * (i + o) for i, o in sizes)
    if variant.startswith("2:4"):
        return DEPTH * sum(i * o for i, o in sizes) // 2
    mixing = sum(4 * i for i, _ in sizes) if variant == "dense, tokens mixed" else 0
    return DEPTH * (sum(i * o for i, o in sizes) + mixing)
