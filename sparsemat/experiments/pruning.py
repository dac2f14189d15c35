"""The study of the chapter "Learning the pattern": sparse networks whose pattern moves, or not.

``python -m sparsemat.experiments.pruning`` trains every variant of every study at three rates,
chooses the rate on held-out examples, trains three more seeds at that rate, and tests those once.
It goes on where it was stopped, and writes ``results/structured/pruning.json``; single studies may
be named, such as ``cifar10``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.linear import SparseLinear
from . import studies
from .files import write_json
from .models import count_parameters
from .pruning_networks import KINDS, character_transformer, movable, perceptron
from .studies import accuracy, batches, best_rate, bits, characters, prepared

BATCH = 100
INTERVAL, UNTIL = 25, 0.75  # steps between two changes of the pattern, and the part that has them
FRACTION, BLOCK_FRACTION = 0.3, 0.1  # of the entries or blocks: replaced at the first change
RATES = (1e-3, 3e-3, 9e-3)
CHOICE_SEED, SEEDS = 100, (0, 1, 2)
SPARSITIES = (0.8, 0.95, 0.99)
RECORD = Path(__file__).parents[2] / "results" / "structured" / "pruning.json"


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats, over images or over all characters."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def dense_gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradient of the loss with respect to each movable matrix, absent entries included."""
    layers, seen = movable(network), {}
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: seen.update({layer: (args[0], out)}))
        for layer in layers
    ]
    loss = mean_loss(network(x), y)
    for hook in hooks:
        hook.remove()
    slopes = torch.autograd.grad(loss, [seen[layer][1] for layer in layers])
    return [
        slope.flatten(0, -2).mT @ seen[layer][0].detach().flatten(0, -2)
        for layer, slope in zip(layers, slopes, strict=True)
    ]


def ramp(part: float, sparsity: float) -> float:
    """The sparsity after a part of the ramp: cubic, from 0 to its last value."""
    return sparsity * (1 - (1 - min(1.0, part)) ** 3)


def change(
    network: nn.Sequential,
    kind: str,
    sparsity: float,
    part: float,
    batch: tuple[Tensor, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Move the patterns of the movable matrices, as the kind does.

    Args:
        network: With layers that can move, such as a :func:`perceptron`.
        kind: One of ``KINDS``; a static one stays as it is.
        sparsity: As for :func:`perceptron`.
        part: What part of the changes has been made, in 0..1; the share of entries that are
            replaced falls with it along half a cosine.
        batch: Inputs and targets whose gradient says where to grow.
        optimizer: Its state moves along.
        generator: Of the draws of SET.
    """
    if kind not in ("SET", "RigL", "block prune-and-grow"):
        return
    layers = movable(network)
    scores = [None] * len(layers) if kind == "SET" else dense_gradients(network, *batch)
    share = (1 + math.cos(math.pi * part)) / 2
    for layer, score in zip(layers, scores, strict=True):
        if isinstance(layer, SparseLinear):
            layer.prune_and_regrow(
                FRACTION * share, scores=score, generator=generator, optimizer=optimizer
            )
            continue
        every = math.prod(layer.weight.grid)
        kept = round((1 - ramp(part, sparsity)) * every)
        grown = round(BLOCK_FRACTION * share * kept)
        grown = min(grown, every - len(layer.weight.block_row))
        layer.weight.prune_and_grow(kept, grown, scores=score, optimizer=optimizer)


def fit(
    network: nn.Module,
    kind: str,
    sparsity: float,
    data: tuple[Tensor, Tensor],
    rate: float,
    seed: int,
    steps: int,
    batch: int = BATCH,
) -> nn.Module:
    """Train with Adam under a cosine of the rate, and let the pattern move on the way."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    stream = batches(data, batch, generator)
    for step in range(1, steps + 1):
        x, y = next(stream)
        optimizer.zero_grad()
        mean_loss(network(x), y).backward()
        optimizer.step()
        schedule.step()
        if step % INTERVAL == 0 and step <= UNTIL * steps:
            part = step / (UNTIL * steps)
            change(network, kind, sparsity, part, (x, y), optimizer, generator)
    return network


@dataclass(frozen=True)
class Study:
    """What is trained on a data set, and by what it is judged.

    Args:
        network: An untrained network of a kind and a sparsity.
        splits: Inputs and targets by ``"train"``, ``"held out"`` and ``"test"``.
        steps: Of training.
        batch: Examples in a step.
        score: The number reported, from a network and a part of the data.
        best: ``max`` or ``min``, whichever picks the better score.
    """

    network: Callable[[str, float], nn.Module]
    splits: Callable[[], dict[str, tuple[Tensor, Tensor]]]
    steps: int
    batch: int
    score: Callable[[nn.Module, tuple[Tensor, Tensor]], float]
    best: Callable


def _images(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    return prepared(studies.splits(name, 10_000, 2_000))


STUDIES = {
    "mnist": Study(
        partial(perceptron, inputs=784),
        partial(_images, "mnist"),
        *(400, BATCH, accuracy, max),
    ),
    "cifar10": Study(
        partial(perceptron, inputs=3072, width=256),
        partial(_images, "cifar10"),
        *(300, BATCH, accuracy, max),
    ),
    "ptb": Study(
        partial(character_transformer, characters=50, length=64),
        partial(characters, "ptb", 200_000, 30_000),
        *(200, 8, bits, min),
    ),
}


def variants() -> list[tuple[str, float]]:
    """Every kind at every sparsity."""
    return [("dense", 0.0)] + [(kind, s) for s in SPARSITIES for kind in KINDS]


def run(
    study: Study, kind: str, sparsity: float, data: tuple[Tensor, Tensor], rate: float, seed: int
) -> tuple[nn.Module, float]:
    """A trained network, and the seconds that training took."""
    torch.manual_seed(seed)
    network = study.network(kind, sparsity)
    start = time.perf_counter()
    fit(network, kind, sparsity, data, rate, seed, study.steps, study.batch)
    return network, time.perf_counter() - start


def entry_of(
    study: Study, kind: str, sparsity: float, data: dict[str, tuple[Tensor, Tensor]]
) -> dict:
    """The record of a variant: its rate by the held-out part, and what the test says of it."""
    held = {}
    for rate in RATES:
        network, _ = run(study, kind, sparsity, data["train"], rate, CHOICE_SEED)
        held[str(rate)] = study.score(network, data["held out"])
    rate = best_rate(RATES, held, study.best)
    trained = [run(study, kind, sparsity, data["train"], rate, seed) for seed in SEEDS]
    return {
        "kind": kind,
        "sparsity": sparsity,
        "parameters": count_parameters(network),
        "held out": held,
        "rate": rate,
        "test": [study.score(network, data["test"]) for network, _ in trained],
        "seconds": [round(seconds, 2) for _, seconds in trained],
    }


def main() -> None:
    """Run what the record lacks, and store it after every variant."""
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in sys.argv[1:] or STUDIES:
        study, entries = STUDIES[name], record.setdefault(name, [])
        found = {(entry["kind"], entry["sparsity"]) for entry in entries}
        missing = [variant for variant in variants() if variant not in found]
        data = study.splits() if missing else {}
        for kind, sparsity in missing:
            entries.append(entry_of(study, kind, sparsity, data))
            print(name, entries[-1], flush=True)
            write_json(RECORD, record)


if __name__ == "__main__":
    main()
