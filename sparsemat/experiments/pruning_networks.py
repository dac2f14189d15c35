"""The networks of the chapter "Learning the pattern": dense, or sparse in their inner matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..layers.linear import SparseLinear
from ..patterns.simple import mask_pattern
from ..structured import BlockSparse, StructuredLinear
from .models import count_parameters
from .tile_networks import HEADS, Block

WIDTH, BLOCK = 512, 16
CHARACTER_WIDTH, CHARACTER_BLOCK, DEPTH = 64, 8, 2
KINDS = ("narrow dense", "static", "SET", "RigL", "static blocks", "block prune-and-grow")


def movable(network: nn.Module) -> list[nn.Module]:
    """The layers whose pattern can move, in the order in which they were made."""
    return [m for m in network.modules() if isinstance(m, SparseLinear | StructuredLinear)]


def layer_of(kind: str, sparsity: float, block: int) -> Callable[[int, int], nn.Module]:
    """What makes a layer of a kind from its numbers of inputs and outputs.

    Args:
        kind: ``"dense"``, or one of ``KINDS`` but the narrow one.
        sparsity: Part of the entries of the matrix that is absent.
        block: Rows and columns of a block.
    """

    def layer(inputs: int, outputs: int) -> nn.Module:
        if kind == "dense":
            return nn.Linear(inputs, outputs)
        if "block" in kind:
            grid = outputs // block, inputs // block
            ramped = kind == "block prune-and-grow"
            kept = math.prod(grid) if ramped else round((1 - sparsity) * math.prod(grid))
            return StructuredLinear(BlockSparse((outputs, inputs), _random_mask(grid, kept)))
        kept = round((1 - sparsity) * outputs * inputs)
        return SparseLinear(mask_pattern(_random_mask((outputs, inputs), kept)))

    return layer


def _random_mask(shape: tuple[int, int], kept: int) -> Tensor:
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[torch.randperm(len(mask))[:kept]] = True
    return mask.view(shape)


def _built(
    build: Callable[[Callable[[int, int], nn.Module], int], nn.Module],
    kind: str,
    sparsity: float,
    width: int,
    block: int,
    step: int,
) -> nn.Module:
    """A network; a narrow one has the largest multiple of ``step`` that the parameters allow."""
    if kind == "narrow dense":
        budget = count_parameters(build(layer_of("static", sparsity, block), width))
        with torch.device("meta"):
            sizes = {w: count_parameters(build(nn.Linear, w)) for w in range(step, width, step)}
        width, kind = max(w for w, found in sizes.items() if found <= budget), "dense"
    return build(layer_of(kind, sparsity, block), width)


def perceptron(kind: str, sparsity: float, inputs: int, width: int = WIDTH) -> nn.Sequential:
    """Two hidden layers of one width and ten outputs; the last layer is always dense.

    Args:
        kind: ``"dense"``, or one of ``KINDS``. ``"narrow dense"`` has as many parameters as the
            sparse network, by its width.
        sparsity: Part of the entries of each hidden matrix that is absent.
        inputs: Number of inputs.
        width: Units of a hidden layer.
    """

    def build(layer: Callable[[int, int], nn.Module], width: int) -> nn.Sequential:
        hidden = layer(inputs, width), nn.ReLU(), layer(width, width), nn.ReLU()
        return nn.Sequential(*hidden, nn.Linear(width, 10))

    return _built(build, kind, sparsity, width, BLOCK, 1)


class CharacterTransformer(nn.Module):
    """Logits of the next character: embeddings, two causal blocks, a dense last layer.

    Args:
        layer: Makes the layers of the blocks from their numbers of inputs and outputs.
        width: Of the embeddings, a multiple of the heads.
        characters: Number of characters.
        length: Characters of an example.
    """

    def __init__(
        self, layer: Callable[[int, int], nn.Module], width: int, characters: int, length: int
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*[Block(width, layer, causal=True) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, ids: Tensor) -> Tensor:
        """Characters ``(n, length)`` to logits ``(n, length, characters)``."""
        return self.head(self.norm(self.blocks(self.embed(ids) + self.place)))


def character_transformer(
    kind: str,
    sparsity: float,
    characters: int,
    length: int,
    width: int = CHARACTER_WIDTH,
) -> CharacterTransformer:
    """A Transformer whose blocks have layers of a kind, as for :func:`perceptron`."""
    return _built(
        lambda layer, width: CharacterTransformer(layer, width, characters, length),
        *(kind, sparsity, width, CHARACTER_BLOCK, HEADS),
    )
