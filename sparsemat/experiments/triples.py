"""The study of the chapter "Attention of other kinds": is there a pair that completes a token?

Tokens are numbers modulo 31, six to a sequence; the label of a token says whether two of the six
numbers (the same one twice is allowed) add with it to zero. ``python -m
sparsemat.experiments.triples`` trains every variant at three rates, chooses the rate on held-out
sequences, trains three more seeds at that rate, and tests those once on 10,000 others. It goes on
where it was stopped, and writes ``results/structured/triples.json``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..products.attention import attend
from ..products.triples import attend_triples
from .files import write_json
from .models import count_parameters
from .studies import best_rate

TOKENS, MODULUS = 6, 31
WIDTH, HEAD = 32, 16
BATCH, STEPS, TEST = 256, 3000, 10_000
RATES = (1e-3, 3e-3, 9e-3)
CHOICE_SEED, SEEDS = 100, (0, 1, 2)
HELD_OUT_SEED, TEST_SEED = 1000, 1001
RECORD = Path(__file__).parents[2] / "results" / "structured" / "triples.json"


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences ``(count, TOKENS)`` and the label of every token."""
    x = torch.randint(MODULUS, (count, TOKENS), generator=generator)
    sums = x[:, :, None, None] + x[:, None, :, None] + x[:, None, None, :]
    return x, (sums % MODULUS == 0).flatten(2).any(-1)


class Heads(nn.Module):
    """Heads of attention of one order, side by side.

    Args:
        order: 2 looks at tokens, 3 at pairs of tokens.
        heads: Their number, each of ``HEAD`` features.
        softmax: Whether weights are normalised by softmax, or taken as they are.
    """

    def __init__(self, order: int, heads: int, softmax: bool = True) -> None:
        super().__init__()
        self.order, self.heads, self.softmax = order, heads, softmax
        self.maps = nn.Linear(WIDTH, (2 * order - 1) * heads * HEAD, bias=False)
        self.out = nn.Linear(heads * HEAD, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., TOKENS, WIDTH)`` to the same shape."""
        parts = self.maps(x).unflatten(-1, (-1, self.heads, HEAD)).movedim(-3, 0)
        q, *rest = parts.transpose(-3, -2)
        if self.order == 2:
            y = attend(q, *rest, softmax=self.softmax, form="square")
        else:
            k, other_k, v, other_v = rest
            y = attend_triples(q * HEAD**-0.5, (k, other_k), (v, other_v), softmax=self.softmax)
        return self.out(y.transpose(-3, -2).flatten(-2))


class Network(nn.Module):
    """An embedding, layers of heads with shortcuts, and a perceptron that reads each token."""

    def __init__(self, layers: list[Heads], hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MODULUS, WIDTH)
        self.layers = nn.ModuleList(layers)
        self.read = nn.Sequential(
            nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``(count, TOKENS)`` to a logit for each token."""
        x = self.embedding(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.read(x)[..., 0]


def macs(network: Network) -> int:
    """Multiplications of one sequence, those of matrices and of sums over pairs and triples."""
    maps = [m for m in network.modules() if isinstance(m, nn.Linear)]
    total = TOKENS * sum(m.weight.numel() for m in maps)
    for layer in network.layers:
        if layer.softmax:
            products = TOKENS**layer.order + (layer.order == 3) * TOKENS**2
            total += layer.heads * 2 * HEAD * products
        else:
            total += layer.heads * HEAD**2 * TOKENS * layer.order
    return total


REFERENCE = "third order"
VARIANTS = {
    REFERENCE: lambda: [Heads(3, 2)],
    "third order, no softmax": lambda: [Heads(3, 2, softmax=False)],
    "second order": lambda: [Heads(2, 4)],
    "second order, two layers": lambda: [Heads(2, 2), Heads(2, 2)],
}


def build(variant: str) -> Network:
    """A network of at least the parameters and the multiplications of the reference.

    The width of the perceptron, 128 in the reference, is the least that gives both.
    """
    network = Network(VARIANTS[REFERENCE](), 128)
    if variant == REFERENCE:
        return network
    least = count_parameters(network), macs(network)
    for hidden in range(64, 1024):
        with torch.device("meta"):
            network = Network(VARIANTS[variant](), hidden)
        if count_parameters(network) >= least[0] and macs(network) >= least[1]:
            return Network(VARIANTS[variant](), hidden)
    raise AssertionError("no width up to 1024 is enough")


def fit(network: Network, rate: float, seed: int, steps: int | None = None) -> Network:
    """Train with Adam under a cosine of the rate, on new sequences at every step."""
    steps = steps or STEPS
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, y = draw(BATCH, generator)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(x), y.to(torch.float32)).backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def accuracy(network: Network, seed: int) -> float:
    """Share of the tokens of ``TEST`` sequences whose label is right."""
    x, y = draw(TEST, torch.Generator().manual_seed(seed))
    return float(((network(x) > 0) == y).double().mean())


def run(variant: str, rate: float, seed: int) -> tuple[Network, float]:
    """A trained network, and the seconds that training took."""
    torch.manual_seed(seed)
    network = build(variant)
    start = time.perf_counter()
    return fit(network, rate, seed), time.perf_counter() - start


def main() -> None:
    """Run what the record lacks, and store it after every variant."""
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for variant in sys.argv[1:] or VARIANTS:
        if variant in record:
            continue
        held = {}
        for rate in RATES:
            network, _ = run(variant, rate, CHOICE_SEED)
            held[str(rate)] = accuracy(network, HELD_OUT_SEED)
        rate = best_rate(RATES, held)
        trained = [run(variant, rate, seed) for seed in SEEDS]
        record[variant] = {
            "parameters": count_parameters(network),
            "macs": macs(network),
            "held out": held,
            "rate": rate,
            "test": [accuracy(network, TEST_SEED) for network, _ in trained],
            "seconds": [round(seconds, 1) for _, seconds in trained],
        }
        print(variant, record[variant], flush=True)
        write_json(RECORD, record)


if __name__ == "__main__":
    main()
