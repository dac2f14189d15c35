"""A small causal language model of tile layers: over what may the rows of a tile go?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..structured import StrassenTile, StrassenTileLinear, StructuredLinear, TileBases
from . import studies
from .tile_networks import Block

RANK, TEXT = 24, "wikitext-2-sample"


class BatchTileLinear(StrassenTileLinear):
    """A tile layer whose rows are samples of the batch at one position, instead of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to every t consecutive samples: ``(samples, tokens, inputs)``."""
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


def over_features(inputs: int, outputs: int) -> nn.Module:
    """A layer for each token alone, whose vector is cut into t rows: a slab of tiles."""
    return StructuredLinear(StrassenTile((outputs, inputs), TileBases.random(RANK)))


# over what the rows of a tile go: what makes a linear layer
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "dense": nn.Linear,
    "tiles over tokens": lambda i, o: StrassenTileLinear(i, o, TileBases.random(RANK)),
    "tiles over features": over_features,
    "tiles over the batch": lambda i, o: BatchTileLinear(i, o, TileBases.random(RANK)),
}


class CharacterModel(nn.Module):
    """Characters and their places as vectors, one causal block, and the logits of the next one.

    Args:
        characters: Size of the alphabet.
        length: Most characters of a text.
        width: Of a vector, a multiple of 16.
        linear: Makes the block's layers from their numbers of inputs and outputs.
    """

    def __init__(
        self, characters: int, length: int, width: int, linear: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.block = Block(width, linear, causal=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, text: Tensor) -> Tensor:
        """Ids ``(samples, tokens)`` to logits ``(samples, characters, tokens)``."""
        x = self.embed(text) + self.place.weight[: text.shape[1]]
        return self.head(self.norm(self.block(x))).mT


def text(train: int, test: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Characters of the text that comes with the library, as :func:`studies.characters` cuts it."""
    return studies.characters(TEXT, train, test)


def dependence(block: nn.Module, width: int, samples: int, tokens: int) -> Tensor:
    """How strongly every output vector of a block depends on every input vector, at random inputs.

    Args:
        block: Takes ``(samples, tokens, width)`` to the same shape.
        width: Of a vector.
        samples: Of the batch.
        tokens: Of a sample.

    Returns:
        ``(samples, tokens, samples, tokens)``: norm of the derivative of a random combination of
        the output vector at the first two by the input vector at the last two. Zero where nothing
        depends.
    """
    kind = next(block.parameters())
    x = torch.randn(samples, tokens, width, dtype=kind.dtype, requires_grad=True)
    combined = (block(x) * torch.randn_like(x)).sum(2).flatten()
    slopes = [torch.autograd.grad(y, x, retain_graph=True)[0].norm(dim=2) for y in combined]
    return torch.stack(slopes).unflatten(0, (samples, tokens))


@torch.no_grad()
def losses(network: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of the next character in bits, by position, whole texts at once: ``(tokens,)``.

    A network that sees later characters finds the next one among them.
    """
    inputs, targets = data
    return F.cross_entropy(network(inputs), targets, reduction="none").mean(0) / math.log(2)


@torch.no_grad()
def losses_in_use(network: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    """The same as the network is used: one text alone, and nothing after the position is there."""
    inputs, targets = data
    found = []
    for position in range(inputs.shape[1]):
        alone = torch.vmap(lambda sample: network(sample[None])[0, :, -1])
        with sdpa_kernel(SDPBackend.MATH):  # the other one takes texts one after another
            logits = alone(inputs[:, : position + 1])
        found.append(F.cross_entropy(logits, targets[:, position]) / math.log(2))
    return torch.stack(found)
