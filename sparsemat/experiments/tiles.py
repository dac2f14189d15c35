"""The study of the chapter "Strassen-Tile": a small vision transformer, its linear layers replaced.

``python -m sparsemat.experiments.tiles`` trains every variant at every rate on 8,000 images of
CIFAR-10, chooses the rate on 2,000 others, trains three more seeds at that rate, and tests those
once on the 10,000 test images; then it converts a trained dense network. It goes on where it was
stopped, and writes ``results/structured/tiles.json``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..structured import LowRank, StrassenTileLinear, StructuredLinear, TileBases, multiply_adds
from ..structured.base import relative_error
from . import studies
from .files import write_json
from .models import count_parameters

WIDTH, DEPTH, HEADS, PATCH, TOKENS = 128, 2, 4, 8, 16
BATCH, EPOCHS, DECAY, CLIP = 64, 4, 0.05, 1.0
TRAIN, HELD_OUT = 8_000, 2_000
RATES = (5e-4, 1.5e-3, 4.5e-3)
CHOICE_SEED, SEEDS = 100, (0, 1, 2)
RECORD = Path(__file__).parents[2] / "results" / "structured" / "tiles.json"


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
    """Multiplications a token in the linear layers of the blocks."""
    width, _ = VARIANTS[variant]
    sizes = [(width, 3 * width), (width, width), (width, 2 * width), (2 * width, width)]
    if variant.startswith("tiles"):
        rank = int(variant.split()[1].strip(","))
        return DEPTH * sum(tile_macs(*size, rank) for size in sizes)
    if variant.startswith("low rank"):
        return DEPTH * sum(tile_macs(i, o, 24) // (i + o) * (i + o) for i, o in sizes)
    mixing = sum(4 * i for i, _ in sizes) if variant == "dense, tokens mixed" else 0
    return DEPTH * (sum(i * o for i, o in sizes) + mixing)


def fit(
    network: nn.Module, data: tuple[Tensor, Tensor], rate: float, steps: int, seed: int
) -> nn.Module:
    """Train with AdamW and one cycle of the rate."""
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for x, y in islice(studies.batches(data, BATCH, generator), steps):
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def accuracy(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of images whose largest logit is the label's."""
    network.eval()
    right = [(network(x).argmax(1) == y).sum() for x, y in zip(*map(_parts, data), strict=True)]
    return float(sum(right)) / len(data[1])


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.split(1000)


def trained(variant: str, data: tuple[Tensor, Tensor], rate: float, seed: int) -> nn.Module:
    """A network of this variant from scratch."""
    torch.manual_seed(seed)
    return fit(Transformer(*VARIANTS[variant]), data, rate, math.ceil(TRAIN / BATCH) * EPOCHS, seed)


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images scaled to ±1: 8,000 to train on, 2,000 to choose by, the test set."""
    parts = studies.splits("cifar10", TRAIN, HELD_OUT)
    return {part: (x.float() / 127.5 - 1, y) for part, (x, y) in parts.items()}


CONVERSIONS: dict[str, Callable[[], TileBases]] = {
    "pruned Strassen, 24": lambda: TileBases.pruned(24),
    "naive products, 24": lambda: TileBases.naive(4, 24),
    "pruned Strassen, 40": lambda: TileBases.pruned(40),
}
FINE_TUNING_STEPS, FINE_TUNING_RATE, SAMPLE = 250, 5e-4, 1_000


@torch.no_grad()
def convert(
    dense: nn.Module, kind: Callable[[nn.Linear, Tensor], nn.Module], images: Tensor
) -> tuple[nn.Module, float]:
    """Replace every linear layer of the blocks, and say how far its outputs moved.

    Args:
        dense: A trained :class:`Transformer`.
        kind: Makes a layer from a dense one and what it sees.
        images: What the network sees.

    Returns:
        The network, and the mean over layers of the relative error on those inputs.
    """
    seen: dict[str, Tensor] = {}
    names = [n for n, m in dense.blocks.named_modules() if isinstance(m, nn.Linear)]
    hooks = [
        dense.blocks.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: inputs[0]})
        )
        for name in names
    ]
    dense(images)
    for hook in hooks:
        hook.remove()
    network, errors = deepcopy(dense), []
    for name in names:
        old = dense.blocks.get_submodule(name)
        new = kind(old, seen[name])
        exact = old(seen[name]) - old.bias
        errors.append(relative_error(new(seen[name]) - new.bias, exact))
        network.blocks.set_submodule(name, new)
    return network, sum(errors) / len(errors)


def low_rank_of_outputs(linear: nn.Linear, inputs: Tensor) -> nn.Module:
    """The low rank layer of equal operations that is best on these inputs (reduced rank)."""
    layer = low_rank(linear.in_features, linear.out_features)
    outputs = (inputs.flatten(0, -2) @ linear.weight.mT).double()
    _, _, v = torch.linalg.svd(outputs, full_matrices=False)
    v = v[: layer.weight.rank].mT.to(linear.weight)
    layer.weight.left.copy_(v)
    layer.weight.right.copy_(linear.weight.mT @ v)
    layer.bias.copy_(linear.bias)
    return layer


def conversions(
    data: dict[str, tuple[Tensor, Tensor]], rate: float, seed: int
) -> dict[str, dict[str, float]]:
    """Accuracies of a dense network, converted and fine-tuned."""
    dense = trained("dense", data["train"], rate, seed)
    sample = data["train"][0][:SAMPLE]
    tune = FINE_TUNING_RATE, FINE_TUNING_STEPS, seed
    rows = {"dense": {"converted": accuracy(dense, data["test"])}}
    tuned = fit(deepcopy(dense), data["train"], *tune)
    rows["dense"]["fine-tuned"] = accuracy(tuned, data["test"])
    network, error = convert(dense, low_rank_of_outputs, sample)
    rows["low rank"] = {"error": error, "converted": accuracy(network, data["test"])}
    rows["low rank"]["fine-tuned"] = accuracy(fit(network, data["train"], *tune), data["test"])
    for name, bases in CONVERSIONS.items():
        torch.manual_seed(seed)
        own = [bases() for _ in range(4 * DEPTH)]
        apart, white_error = convert(dense, _tile_layers(own, False), sample)
        network, error = convert(dense, _tile_layers(own, True), sample)
        rows[name] = {
            "white error": white_error,
            "white converted": accuracy(apart, data["test"]),
            "error": error,
            "converted": accuracy(network, data["test"]),
        }
        tuned = fit(network, data["train"], *tune)
        rows[name]["fine-tuned"] = accuracy(tuned, data["test"])
    return rows


def _tile_layers(
    bases: list[TileBases], to_inputs: bool
) -> Callable[[nn.Linear, Tensor], nn.Module]:
    left = iter(bases)

    def layer(linear: nn.Linear, inputs: Tensor) -> nn.Module:
        return StrassenTileLinear.from_linear(linear, next(left), inputs if to_inputs else None)

    return layer


def main() -> None:
    """Run what the record lacks, and store it after every run."""
    torch.set_num_threads(1)
    data = splits()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"variants": {}}

    def store() -> None:
        write_json(RECORD, record)

    for variant in VARIANTS:
        entry = record["variants"].setdefault(variant, {"held out": {}, "test": {}})
        entry["macs"] = macs(variant)
        network = Transformer(*VARIANTS[variant])
        entry["parameters"] = count_parameters(network.blocks)
        for rate in RATES:
            if str(rate) not in entry["held out"]:
                start = time.perf_counter()
                network = trained(variant, data["train"], rate, CHOICE_SEED)
                entry["held out"][str(rate)] = accuracy(network, data["held out"])
                entry["seconds"] = round(time.perf_counter() - start, 1)
                print(variant, rate, entry["held out"][str(rate)], entry["seconds"], flush=True)
                store()
        entry["rate"] = studies.best_rate(RATES, entry["held out"])
        for seed in SEEDS:
            if str(seed) not in entry["test"]:
                network = trained(variant, data["train"], entry["rate"], seed)
                entry["test"][str(seed)] = accuracy(network, data["test"])
                print(variant, "seed", seed, entry["test"][str(seed)], flush=True)
                store()
    for seed in SEEDS:
        if str(seed) not in record.setdefault("conversion", {}):
            rate = record["variants"]["dense"]["rate"]
            record["conversion"][str(seed)] = conversions(data, rate, seed)
            print("conversion", seed, record["conversion"][str(seed)], flush=True)
            store()


if __name__ == "__main__":
    main()
