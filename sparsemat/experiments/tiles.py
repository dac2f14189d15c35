"""The study of the chapter "Strassen-Tile": a small vision transformer, its linear layers replaced.

``python -m sparsemat.experiments.tiles`` trains every variant at every rate on 8,000 images of
CIFAR-10, chooses the rate on 2,000 others, trains three more seeds at that rate, and tests those
once on the 10,000 test images; then it converts a trained dense network. Names of variants, or
"conversion", as arguments restrict it to these. It goes on where it was stopped, and writes
``results/structured/tiles.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..structured import StrassenTileLinear, TileBases
from ..structured.base import relative_error
from . import studies
from .files import write_json
from .models import count_parameters
from .tile_networks import DEPTH, VARIANTS, Transformer, fitted, low_rank, macs

BATCH, EPOCHS, DECAY, CLIP = 64, 4, 0.05, 1.0
TRAIN, HELD_OUT = 8_000, 2_000
RATES = (5e-4, 1.5e-3, 4.5e-3)
CHOICE_SEED, SEEDS = 100, (0, 1, 2)
RECORD = Path(__file__).parents[2] / "results" / "structured" / "tiles.json"


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
    "random, 24": lambda: TileBases.random(24),
    "fitted with a ridge, 24": fitted,
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
    data: dict[str, tuple[Tensor, Tensor]], rate: float, seed: int, rows: dict[str, dict]
) -> None:
    """Accuracies of a dense network, converted and fine-tuned.

    Args:
        data: Parts "train" and "test".
        rate: The rate of the dense network.
        seed: Of the dense network, and of the bases.
        rows: Accuracies by kind of layer; kinds that are missing are added.
    """
    dense = trained("dense", data["train"], rate, seed)
    sample = data["train"][0][:SAMPLE]

    def scores(network: nn.Module) -> dict[str, float]:
        converted = accuracy(network, data["test"])
        fit(network, data["train"], FINE_TUNING_RATE, FINE_TUNING_STEPS, seed)
        return {"converted": converted, "fine-tuned": accuracy(network, data["test"])}

    if "dense" not in rows:
        rows["dense"] = scores(deepcopy(dense))
    if "low rank" not in rows:
        network, error = convert(dense, low_rank_of_outputs, sample)
        rows["low rank"] = {"error": error} | scores(network)
    for name, bases in CONVERSIONS.items():
        if name in rows:
            continue
        torch.manual_seed(seed)
        own = [bases() for _ in range(4 * DEPTH)]
        apart, white_error = convert(dense, _tile_layers(own, False), sample)
        white = {"white error": white_error, "white converted": accuracy(apart, data["test"])}
        network, error = convert(dense, _tile_layers(own, True), sample)
        rows[name] = white | {"error": error} | scores(network)


def _tile_layers(
    bases: list[TileBases], to_inputs: bool
) -> Callable[[nn.Linear, Tensor], nn.Module]:
    left = iter(bases)

    def layer(linear: nn.Linear, inputs: Tensor) -> nn.Module:
        return StrassenTileLinear.from_linear(linear, next(left), inputs if to_inputs else None)

    return layer


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the record lacks, and store it after every run."""
    known = [*VARIANTS, "conversion"]
    parser = argparse.ArgumentParser(prog="python -m sparsemat.experiments.tiles")
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(known)}; all if none")
    names = parser.parse_args(arguments).names or known
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"unknown names {unknown}; known: {known}")
    torch.set_num_threads(1)
    data = splits()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"variants": {}}

    def store() -> None:
        write_json(RECORD, record)

    for variant in (name for name in VARIANTS if name in names):
        network = Transformer(*VARIANTS[variant])
        entry = record["variants"].setdefault(variant, {"held out": {}, "test": {}})
        entry["macs"] = macs(variant)
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
    for seed in SEEDS if "conversion" in names else ():
        rows = record.setdefault("conversion", {}).setdefault(str(seed), {})
        if not {"dense", "low rank", *CONVERSIONS} <= set(rows):
            conversions(data, record["variants"]["dense"]["rate"], seed, rows)
            print("conversion", seed, rows, flush=True)
            store()


if __name__ == "__main__":
    main()
