"""A transformer of the shape of T2T-ViT-7, its blocks dense or tiles, trained for a small budget.

``python -m sparsemat.experiments.tokens_to_token`` trains each variant once on 8,000 images of
CIFAR-10, tests it once, and writes ``results/structured/tokens_to_token.json``. It goes on where it
was stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import tiles
from .files import write_json
from .models import count_parameters
from .tile_networks import VARIANTS, Block

WIDTH, DEPTH, INNER, FEATURES = 256, 7, 64, 32
# kernel, stride and padding of each soft split
IMAGENET = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # as published: 224 pixels to 14x14 tokens
CIFAR = ((7, 4, 2), (3, 2, 1))  # 32 pixels to 4x4 tokens
NAMES = "dense", "tiles 24, pruned Strassen"
STEPS, RATE, SEED = 250, 5e-4, 0  # fixed before any run; none was tuned
RECORD = Path(__file__).parents[2] / "results" / "structured" / "tokens_to_token.json"


class Performer(nn.Module):
    """Attention by positive random features, then a perceptron, on tokens of few channels.

    As in the public code, 1e-8 is added to what attention is divided by: queries and keys that are
    so long that their features fall below it attend to nothing.

    Args:
        width: Channels of a token; the result has ``INNER`` of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(INNER)])
        self.mixed, self.out = nn.Linear(width, 3 * INNER), nn.Linear(INNER, INNER)
        self.up, self.down = nn.Linear(INNER, INNER), nn.Linear(INNER, INNER)
        directions = nn.init.orthogonal_(torch.empty(FEATURES, INNER)) * FEATURES**0.5
        self.register_buffer("directions", directions)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of shape ``(samples, tokens, width)``."""
        k, q, v = self.mixed(self.norms[0](x)).chunk(3, 2)
        k, q = self._features(k), self._features(q)
        shares = q @ k.sum(1)[..., None]
        x = v + self.out(q @ (k.mT @ v) / (shares + 1e-8))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))

    def _features(self, x: Tensor) -> Tensor:
        exponents = x @ self.directions.mT - x.square().sum(2, keepdim=True) / 2
        return exponents.exp() / FEATURES**0.5


class TokensToToken(nn.Module):
    """Soft splits with performers between them, a class token, seven blocks, a linear head.

    The sizes are those of T2T-ViT-7 in its public code: width 256, depth 7, four heads,
    perceptrons twice as wide. Places are learned here.

    Args:
        pixels: Height and width of an image.
        splits: Kernel, stride and padding of each soft split.
        classes: Number of classes.
        linear: Makes a linear layer of the blocks from its numbers of inputs and outputs.

    Source: arXiv 2101.11986; chapter "Strassen-Tile".
    """

    def __init__(
        self,
        pixels: int,
        splits: Sequence[tuple[int, int, int]],
        classes: int,
        linear: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        self.splits = nn.ModuleList([nn.Unfold(k, stride=s, padding=p) for k, s, p in splits])
        widths = [(INNER if n else 3) * k * k for n, (k, _, _) in enumerate(splits)]
        self.performers = nn.ModuleList([Performer(width) for width in widths[:-1]])
        self.project = nn.Linear(widths[-1], WIDTH)
        for kernel, stride, padding in splits:
            pixels = (pixels + 2 * padding - kernel) // stride + 1
        self.summary = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.place = nn.Parameter(0.02 * torch.randn(1 + pixels**2, WIDTH))
        self.blocks = nn.Sequential(*[Block(WIDTH, linear) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 3, pixels, pixels)`` to logits ``(n, classes)``."""
        x = images
        for split, performer in zip(self.splits[:-1], self.performers, strict=True):
            x = performer(split(x).mT).mT
            x = x.unflatten(2, (round(x.shape[2] ** 0.5), -1))
        tokens = self.project(self.splits[-1](x).mT)
        summary = self.summary.expand(len(tokens), -1, -1)
        x = torch.cat([summary, tokens], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


def main() -> None:
    """Train what the record lacks, and store it after every run."""
    torch.set_num_threads(1)
    data = tiles.splits()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"variants": {}}
    record |= {"steps": STEPS, "batch": tiles.BATCH, "images": tiles.TRAIN, "rate": RATE}
    for name in NAMES:
        if name in record["variants"]:
            continue
        torch.manual_seed(SEED)
        network = TokensToToken(32, CIFAR, 10, VARIANTS[name][1])
        start = time.process_time()
        tiles.fit(network, data["train"], RATE, STEPS, SEED)
        seconds = round(time.process_time() - start, 1)
        found = {part: tiles.accuracy(network, data[part]) for part in ("train", "test")}
        parameters = count_parameters(network)
        record["variants"][name] = found | {"parameters": parameters, "CPU seconds": seconds}
        print(name, record["variants"][name], flush=True)
        write_json(RECORD, record)


if __name__ == "__main__":
    main()
