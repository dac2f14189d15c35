"""The study of the chapter "Learning the pattern": sparse perceptrons whose pattern moves, or not.

``python -m sparsemat.experiments.pruning`` trains every variant at three rates on 10,000 images of
MNIST, chooses the rate on 2,000 others, trains three more seeds at that rate, and tests those once
on the 10,000 test images. It goes on where it was stopped, and writes
``results/structured/pruning.json``; other data sets may be named, such as ``cifar10``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.linear import SparseLinear
from ..patterns.simple import mask_pattern
from ..structured import BlockSparse, StructuredLinear
from . import studies
from .files import write_json
from .studies import accuracy, batches, best_rate, prepared

WIDTH, BLOCK, BATCH, STEPS = 512, 16, 100, 400
INTERVAL, UNTIL = 25, 0.75  # steps between two changes of the pattern, and the part that has them
FRACTION, BLOCK_FRACTION = 0.3, 0.1  # of the entries or blocks: replaced at the first change
TRAIN, HELD_OUT = 10_000, 2_000
RATES = (1e-3, 3e-3, 9e-3)
CHOICE_SEED, SEEDS = 100, (0, 1, 2)
SPARSITIES = (0.8, 0.95, 0.99)
KINDS = ("narrow dense", "static", "SET", "RigL", "static blocks", "block prune-and-grow")
RECORD = Path(__file__).parents[2] / "results" / "structured" / "pruning.json"


def perceptron(kind: str, sparsity: float, inputs: int, width: int = WIDTH) -> nn.Sequential:
    """Two hidden layers of one width and ten outputs; the last layer is always dense.

    Args:
        kind: ``"dense"``, or one of ``KINDS``. ``"narrow dense"`` has as many parameters as the
            sparse network, by its width.
        sparsity: Part of the entries of each hidden matrix that is absent.
        inputs: Number of inputs.
        width: Units of a hidden layer.
    """
    if kind == "narrow dense":
        budget = size(perceptron("static", sparsity, inputs, width))
        width = max(w for w in range(1, width) if inputs * w + w * w + 12 * w + 10 <= budget)
        kind = "dense"

    def layer(rows: int, cols: int) -> nn.Module:
        if kind == "dense":
            return nn.Linear(cols, rows)
        if "block" in kind:
            grid = rows // BLOCK, cols // BLOCK
            ramped = kind == "block prune-and-grow"
            kept = math.prod(grid) if ramped else round((1 - sparsity) * math.prod(grid))
            return StructuredLinear(BlockSparse((rows, cols), _random_mask(grid, kept)))
        kept = round((1 - sparsity) * rows * cols)
        return SparseLinear(mask_pattern(_random_mask((rows, cols), kept)))

    hidden = layer(width, inputs), nn.ReLU(), layer(width, width), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def _random_mask(shape: tuple[int, int], kept: int) -> Tensor:
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[torch.randperm(len(mask))[:kept]] = True
    return mask.view(shape)


def size(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in network.parameters())


def dense_gradients(network: nn.Sequential, x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradient of the loss with respect to each hidden matrix, absent entries included."""
    outputs, inputs = [], []
    for layer in network:
        inputs.append(x)
        x = layer(x)
        outputs.append(x)
    at = [k for k, layer in enumerate(network[:-1]) if not isinstance(layer, nn.ReLU)]
    slopes = torch.autograd.grad(F.cross_entropy(x, y), [outputs[k] for k in at])
    return [slope.mT @ inputs[k].detach() for k, slope in zip(at, slopes, strict=True)]


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
    """Move the patterns of the hidden matrices, as the kind does.

    Args:
        network: A :func:`perceptron`.
        kind: One of ``KINDS``; a static one stays as it is.
        sparsity: As for :func:`perceptron`.
        part: What part of the changes has been made, in 0..1; the share of entries that are
            replaced falls with it along half a cosine.
        batch: Images and labels whose gradient says where to grow.
        optimizer: Its state moves along.
        generator: Of the draws of SET.
    """
    if kind not in ("SET", "RigL", "block prune-and-grow"):
        return
    layers = [layer for layer in network[:-1] if not isinstance(layer, nn.ReLU)]
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
    network: nn.Sequential,
    kind: str,
    sparsity: float,
    data: tuple[Tensor, Tensor],
    rate: float,
    seed: int,
    steps: int = STEPS,
) -> nn.Sequential:
    """Train with Adam under a cosine of the rate, and let the pattern move on the way."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    stream = batches(data, BATCH, generator)
    for step in range(1, steps + 1):
        x, y = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        schedule.step()
        if step % INTERVAL == 0 and step <= UNTIL * steps:
            part = step / (UNTIL * steps)
            change(network, kind, sparsity, part, (x, y), optimizer, generator)
    return network


def splits(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of pixels, mean 0 and variance 1: to train on, to choose by, the test set."""
    return prepared(studies.splits(name, TRAIN, HELD_OUT))


def run(
    kind: str, sparsity: float, data: tuple[Tensor, Tensor], rate: float, seed: int
) -> tuple[nn.Sequential, float]:
    """A trained network, and the seconds that training took."""
    torch.manual_seed(seed)
    network = perceptron(kind, sparsity, data[0].shape[1])
    start = time.perf_counter()
    fit(network, kind, sparsity, data, rate, seed)
    return network, time.perf_counter() - start


def variants() -> list[tuple[str, float]]:
    """Every kind at every sparsity."""
    return [("dense", 0.0)] + [(kind, s) for s in SPARSITIES for kind in KINDS]


def main() -> None:
    """Run what the record lacks, and store it after every variant."""
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in sys.argv[1:] or ["mnist"]:
        data = splits(name)
        for kind, sparsity in variants():
            entries = record.setdefault(name, [])
            if any((e["kind"], e["sparsity"]) == (kind, sparsity) for e in entries):
                continue
            held = {}
            for rate in RATES:
                network, _ = run(kind, sparsity, data["train"], rate, CHOICE_SEED)
                held[str(rate)] = accuracy(network, data["held out"])
            rate = best_rate(RATES, held)
            trained = [run(kind, sparsity, data["train"], rate, seed) for seed in SEEDS]
            entry = {
                "kind": kind,
                "sparsity": sparsity,
                "parameters": size(network),
                "held out": held,
                "rate": rate,
                "test": [accuracy(network, data["test"]) for network, _ in trained],
                "seconds": [round(seconds, 2) for _, seconds in trained],
            }
            entries.append(entry)
            print(name, entry, flush=True)
            write_json(RECORD, record)


if __name__ == "__main__":
    main()
