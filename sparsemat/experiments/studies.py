"""What the studies of the structured chapters share: their images, the order of their batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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


def batches(
    data: tuple[Tensor, Tensor], size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for ever, in a new order each epoch; the last of an epoch may be smaller."""
    images, labels = data
    while True:
        for at in torch.randperm(len(images), generator=generator).split(size):
            yield images[at], labels[at]
