"""What the studies of the structured chapters share: images, batches, rates and accuracies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import datasets


def splits(name: str, train: int, held_out: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels to train on, to choose by, and the test set, as they are stored.

    Args:
        name: The data set.
        train: Number of images to train on, drawn from its training images with a fixed seed.
        held_out: Number of others to choose by.

    Returns:
        By ``"train"``, ``"held out"`` and ``"test"``.
    """
    found = datasets.load(name)
    images, labels = found.train
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:train], "held out": order[train : train + held_out]}
    return {part: (images[at], labels[at]) for part, at in parts.items()} | {"test": found.test}


def prepared(parts: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of pixels, mean 0 and variance 1 on the images to train on."""
    pixels = parts["train"][0].float()
    mean, deviation = pixels.mean(), pixels.std()
    return {part: ((x.float().flatten(1) - mean) / deviation, y) for part, (x, y) in parts.items()}


def batches(
    data: tuple[Tensor, Tensor], size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for ever, in a new order each epoch; the last of an epoch may be smaller."""
    images, labels = data
    while True:
        for at in torch.randperm(len(images), generator=generator).split(size):
            yield images[at], labels[at]


@torch.no_grad()
def accuracy(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Share of images whose largest logit is the label's."""
    images, labels = data
    return float((network(images).argmax(1) == labels).double().mean())


def best_rate(rates: Sequence[float], held_out: Mapping[str, float]) -> float:
    """The first of the rates with the highest accuracy on held-out examples, kept by its text."""
    return max(rates, key=lambda rate: held_out[str(rate)])
