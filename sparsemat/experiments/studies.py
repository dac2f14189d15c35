"""What the studies of the structured chapters share: examples, batches, rates and scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import datasets
from .datasets.text import END, blocks


def splits(name: str, train: int, held_out: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels to train on, to choose by, and the test set, as they are stored.

    Args:
        name: The data set.
        train: Number of images to train on, drawn from its training images with a fixed seed.
        held_out: Number of others to choose by.

    Returns:
        By ``"train"``, ``"held out"`` and ``"test"``.

    Raises:
        ValueError: There are not so many training images.
    """
    found = datasets.load(name)
    images, labels = found.train
    if train + held_out > len(images):
        raise ValueError(
            f"train and held_out must be at most the {len(images)} training images of {name}, "
            f"got {train} and {held_out}"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:train], "held out": order[train : train + held_out]}
    return {part: (images[at], labels[at]) for part, at in parts.items()} | {"test": found.test}


def characters(name: str, train: int, others: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The beginnings of a text as characters, in blocks, and the same one character later.

    Words are separated by spaces and lines by line feeds; an unknown word has the characters of
    its name. The characters are those of the vocabulary, in the order of their code points.

    Args:
        name: A data set with a vocabulary.
        train: Number of characters to train on.
        others: Number of characters to choose by, from the validation part, and of the test part.

    Returns:
        By ``"train"``, ``"held out"`` (where there is a validation part) and ``"test"``: int64
        ``(N, 64)`` and ``(N, 64)``.

    Raises:
        ValueError: A part does not have so many characters.
    """
    found = datasets.load(name)
    spelled = ["\n" if word == END else f" {word}" for word in found.vocabulary]
    ids = {character: k for k, character in enumerate(sorted(set("".join(spelled))))}

    def part(words: Tensor, number: int) -> tuple[Tensor, Tensor]:
        text = "".join(spelled[word] for word in words.flatten()[:number].tolist())
        if len(text) < number:
            raise ValueError(f"{name} must have {number} characters in a part, got {len(text)}")
        return blocks(np.array([ids[character] for character in text[:number]]))

    parts = {"train": part(found.train[0], train), "test": part(found.test[0], others)}
    if found.valid is not None:
        parts["held out"] = part(found.valid[0], others)
    return parts


def prepared(parts: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of pixels of the default dtype, mean 0 and variance 1 on the images to train on."""
    dtype = torch.get_default_dtype()
    pixels = parts["train"][0].to(dtype)
    mean, deviation = pixels.mean(), pixels.std()
    return {
        part: ((x.to(dtype).flatten(1) - mean) / deviation, y) for part, (x, y) in parts.items()
    }


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


@torch.no_grad()
def bits(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Mean cross entropy of the next token, in bits."""
    inputs, targets = data
    nats = sum(
        F.cross_entropy(network(x).flatten(0, 1), y.flatten(), reduction="sum").double()
        for x, y in zip(inputs.split(100), targets.split(100), strict=True)
    )
    return float(nats) / targets.numel() / math.log(2)


def best_rate(rates: Sequence[float], held_out: Mapping[str, float], best: Callable = max) -> float:
    """The first of the rates with the best score on held-out examples, kept by its text.

    A score that is no number is worst.
    """
    known = [rate for rate in rates if not math.isnan(held_out[str(rate)])]
    return best(known or rates, key=lambda rate: held_out[str(rate)])
