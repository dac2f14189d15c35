"""The study of the chapter "Kronecker products and adapters", on MNIST.

``python -m sparsemat.experiments.kronecker`` trains perceptrons with two structured hidden
matrices on all digits, and adapts perceptrons that know the digits 0 to 4 to the digits 5 to 9.
Every variant is trained at each rate, and its rate is chosen on held-out images; three more seeds
at that rate are then tested once. "As accurate" means that the mean over these seeds is at most
half a point lower. The run goes on where it was stopped, and writes
``results/structured/kronecker.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..structured import (
    AdaptedLinear,
    KroneckerSum,
    LowRank,
    StructuredLinear,
    StructuredMatrix,
    hamilton,
    phm,
)
from .files import write_json
from .studies import accuracy, batches, best_rate, prepared, splits

WIDTH, BATCH, STEPS = 256, 100, 400
TRAIN, HELD_OUT = 20_000, 4_000
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
CHOICE_SEED, SEEDS = 100, (0, 1, 2)
BASE_RATE = 1e-3  # of the network that knows the digits 0 to 4
SQUARE = {784: 28, 256: 16}  # the half of a size, for products that are as square as can be
RECORD = Path(__file__).parents[2] / "results" / "structured" / "kronecker.json"

Data = tuple[Tensor, Tensor]
Shape = tuple[int, int]


def ruled(shape: Shape, rule: Tensor | None) -> KroneckerSum:
    """A hypercomplex matrix of order 4 whose rule stays as it is; as drawn for None."""
    matrix = phm(shape, 4)
    if rule is not None:
        with torch.no_grad():
            matrix.left.copy_(rule)
    matrix.left.requires_grad_(False)
    return matrix


def terms(shape: Shape, number: int) -> KroneckerSum:
    """A sum of Kronecker products of matrices that are as square as can be."""
    return KroneckerSum(shape, (SQUARE[shape[0]], SQUARE[shape[1]]), number)


def as_large(kind: Callable[[Shape], StructuredMatrix]) -> Callable[[Shape], LowRank]:
    """Low rank with as many parameters as a kind, or as near below as can be."""
    return lambda shape: LowRank(shape, kind(shape).num_parameters // sum(shape))


def as_costly(kind: Callable[[Shape], StructuredMatrix]) -> Callable[[Shape], LowRank]:
    """Low rank with as many multiplications as a kind, or as near below as can be."""
    return lambda shape: LowRank(shape, kind(shape).macs // sum(shape))


def _phm(order: int) -> Callable[[Shape], StructuredMatrix]:
    return lambda shape: phm(shape, order)


def _four(shape: Shape) -> KroneckerSum:
    return terms(shape, 4)


LAYERS: dict[str, Callable[[Shape], StructuredMatrix] | None] = {
    "dense": None,
    **{f"PHM, order {n}": _phm(n) for n in (2, 4, 8)},
    **{f"low rank, parameters of order {n}": as_large(_phm(n)) for n in (2, 4, 8)},
    "Hamilton's rule": lambda shape: ruled(shape, hamilton() / 2),
    "a random rule": lambda shape: ruled(shape, None),
    "four Kronecker products": _four,
    "low rank, parameters of four": as_large(_four),
    "low rank, operations of four": as_costly(_four),
}


def split(linear: nn.Linear, sizes: Iterable[int]) -> AdaptedLinear:
    """An adapter with a product of ``m/s x s`` and ``s x n/s`` for each size s."""
    return AdaptedLinear.kronecker(linear, [(linear.out_features // s, s) for s in sizes])


def _lora(rank: int) -> Callable[[nn.Linear], AdaptedLinear]:
    return lambda linear: AdaptedLinear.lora(linear, rank)


def _split(*sizes: int) -> Callable[[nn.Linear], AdaptedLinear]:
    return lambda linear: split(linear, sizes)


ADAPTERS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "head alone": lambda linear: linear.requires_grad_(False),
    **{f"LoRA, rank {r}": _lora(r) for r in (1, 2, 4, 8, 16)},
    **{f"Kronecker, s = {s}": _split(s) for s in (2, 4, 8, 16)},
    "MoKA, s = 4, 16": _split(4, 16),
    "MoKA, s = 2, 4, 8, 16": _split(2, 4, 8, 16),
    "all weights": lambda linear: linear,
}


def perceptron(layer: Callable[[int, int], nn.Module], outputs: int) -> nn.Sequential:
    """Two hidden layers ``layer(inputs, outputs)`` and a dense one."""
    hidden = layer(784, WIDTH), nn.ReLU(), layer(WIDTH, WIDTH), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))


def structured(name: str) -> nn.Sequential:
    """The perceptron for ten digits whose hidden matrices are those of a variant of ``LAYERS``."""
    kind = LAYERS[name]
    if kind is None:
        return perceptron(nn.Linear, 10)
    return perceptron(lambda n, m: StructuredLinear(kind((m, n))), 10)


def adapted(base: nn.Sequential, name: str) -> nn.Sequential:
    """A copy of a network, its hidden layers adapted as in ``ADAPTERS``, with a new last layer."""
    network = deepcopy(base)
    for k in (0, 2):
        network[k] = ADAPTERS[name](network[k])
    network[4] = nn.Linear(WIDTH, base[4].out_features)
    return network


def trainable(network: nn.Sequential) -> int:
    """Numbers that train in the hidden layers, biases aside."""
    named = network[:4].named_parameters()
    return sum(p.numel() for n, p in named if p.requires_grad and not n.endswith("bias"))


def macs(network: nn.Sequential) -> int:
    """Multiplications that a variant's matrices add for one image, or those of the dense ones."""
    parts = [m.macs for m in network.modules() if isinstance(m, StructuredMatrix)]
    dense = [m.weight.numel() for m in network[:4] if isinstance(m, nn.Linear)]
    return sum(parts or [n for n in dense if network[0].weight.requires_grad])


def fit(network: nn.Module, data: Data, rate: float, seed: int, steps: int = STEPS) -> nn.Module:
    """Train what requires gradients with Adam under a cosine of the rate."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stream = batches(data, BATCH, torch.Generator().manual_seed(seed))
    for _ in range(steps):
        x, y = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        schedule.step()
    return network


def digits(data: Data, first: int) -> Data:
    """The images of five digits from the first on, with labels 0 to 4."""
    images, labels = data
    inside = (labels >= first) & (labels < first + 5)
    return images[inside], labels[inside] - first


def known(data: Data, seed: int, steps: int = STEPS) -> nn.Sequential:
    """A dense perceptron that has been trained on the digits 0 to 4."""
    torch.manual_seed(seed)
    return fit(perceptron(nn.Linear, 5), digits(data, 0), BASE_RATE, seed, steps)


def chosen(train: Callable[[float, int], nn.Sequential], held_out: Data, test: Data) -> dict:
    """The entry of a variant: a rate by the held-out images, and what the test says of it.

    Args:
        train: A trained network for a rate and a seed.
        held_out: Images and labels to choose by.
        test: Images and labels that are seen after the choice.
    """
    held = {str(rate): accuracy(train(rate, CHOICE_SEED), held_out) for rate in RATES}
    rate = best_rate(RATES, held)
    networks = [train(rate, seed) for seed in SEEDS]
    return {
        "parameters": trainable(networks[0]),
        "macs": macs(networks[0]),
        "held out": held,
        "rate": rate,
        "test": [accuracy(network, test) for network in networks],
    }


def main() -> None:
    """Run what the record lacks, and store it after every variant."""
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    data = prepared(splits("mnist", TRAIN, HELD_OUT))
    new = {part: digits(found, 5) for part, found in data.items()}
    bases = {seed: known(data["train"], seed) for seed in (CHOICE_SEED, *SEEDS)}

    def layered(name: str) -> Callable[[float, int], nn.Sequential]:
        def train(rate: float, seed: int) -> nn.Sequential:
            torch.manual_seed(seed)
            return fit(structured(name), data["train"], rate, seed)

        return train

    def tuned(name: str) -> Callable[[float, int], nn.Sequential]:
        def train(rate: float, seed: int) -> nn.Sequential:
            torch.manual_seed(seed)
            return fit(adapted(bases[seed], name), new["train"], rate, seed)

        return train

    for group, names, train, parts in (
        ("adapters", ADAPTERS, tuned, new),
        ("layers", LAYERS, layered, data),
    ):
        entries = record.setdefault(group, {})
        for name in names:
            if name not in entries:
                entries[name] = chosen(train(name), parts["held out"], parts["test"])
                print(group, name, entries[name], flush=True)
                write_json(RECORD, record)


if __name__ == "__main__":
    main()
