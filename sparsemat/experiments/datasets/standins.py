"""Seeded synthetic stand-ins, for quick runs on data sets whose licence lets nobody ship a sample.

Each has the shape of its data set and is learnable in seconds; a result on one says nothing about
the data set.
"""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .series import windows
from .text import LENGTH, PAD, UNKNOWN, blocks

SUBSET = "synthetic stand-in"


def _gratings(name: str, size: int, labels: np.ndarray, train: int, test: int) -> Dataset:
    """Images of a coloured grating in noise: the class gives direction, period and colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size

    def part(count: int) -> tuple[Tensor, Tensor]:
        kind = rng.permutation(np.arange(count) % len(labels))
        turn = (kind * 0.618034) % 1  # golden ratio: classes lie far from each other
        angle, waves = np.pi * turn, 3 + kind % 4
        across = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
        phase = rng.uniform(0, 1, count)[:, None, None]
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * (waves[:, None, None] * across + phase))
        hues = (kind * 0.754878) % 1
        colour = np.array([colorsys.hsv_to_rgb(hue, 0.8, 0.8) for hue in hues])
        images = colour[:, :, None, None] * wave[:, None]
        images += rng.normal(0, 0.15, images.shape)
        pixels = (255 * images.clip(0, 1)).astype(np.uint8)
        return torch.from_numpy(pixels), torch.from_numpy(labels[kind])

    return Dataset(name, part(train), part(test), subset=SUBSET)


@cache
def cifar10_standin() -> Dataset:
    """600 and 200 images, uint8 ``(N, 3, 32, 32)``, 10 classes: coloured gratings in noise."""
    return _gratings("cifar10-standin", 32, np.arange(10), 600, 200)


@cache
def cifar100_standin() -> Dataset:
    """2,000 and 500 images, uint8 ``(N, 3, 32, 32)``, 100 classes: coloured gratings in noise."""
    return _gratings("cifar100-standin", 32, np.arange(100), 2000, 500)


@cache
def tiny_imagenet_standin() -> Dataset:
    """600 and 200 images, uint8 ``(N, 3, 64, 64)``, of the classes 0, 20, ..., 180 of 200."""
    return _gratings("tiny-imagenet-standin", 64, np.arange(0, 200, 20), 600, 200)


@cache
def etth1_standin() -> Dataset:
    """1,500 rows of 7 variables, as windows of 24: days and weeks plus coupled AR(1) noise."""
    rng = np.random.default_rng(0)
    rows, variables = 1500, 7
    hours = np.arange(rows)[:, None]
    day, week = (
        rng.uniform(0.5, 1.5, variables)
        * np.sin(2 * np.pi * (hours / period + rng.uniform(0, 1, variables)))
        for period in (24, 168)
    )
    coupling = rng.normal(size=(variables, variables))
    coupling *= 0.9 / np.abs(np.linalg.eigvals(coupling)).max()  # below 1: it does not grow
    noise = np.zeros((rows, variables))
    for t in range(1, rows):
        noise[t] = coupling @ noise[t - 1] + rng.normal(0, 0.2, variables)
    return windows(
        "etth1-standin",
        day + week / 2 + noise,
        window=24,
        train=900,
        valid=300,
        test=300,
        subset=SUBSET,
    )


@cache
def ag_news_standin() -> Dataset:
    """800 and 400 texts, int64 ``(N, 64)``, of 2,000 words; 4 classes with words of their own.

    Words follow Zipf's law; each word is three times as frequent in one of the classes. Ids 0 and 1
    are padding and the unknown word, as in "ag-news".
    """
    rng = np.random.default_rng(0)
    words, classes = 2000, 4
    frequency = np.tile(1 / np.arange(1, words + 1), (classes, 1))
    frequency[rng.integers(classes, size=words), np.arange(words)] *= 3
    frequency /= frequency.sum(axis=1, keepdims=True)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = rng.permutation(np.arange(count) % classes)
        ids = np.zeros((count, LENGTH), np.int64)
        for row, label in zip(ids, labels, strict=True):
            length = rng.integers(20, LENGTH + 1)
            row[:length] = 2 + rng.choice(words, length, p=frequency[label])
        return torch.from_numpy(ids), torch.from_numpy(labels)

    return Dataset(
        "ag-news-standin",
        part(800),
        part(400),
        subset=SUBSET,
        vocabulary=(PAD, UNKNOWN, *(f"w{word}" for word in range(words))),
    )


def markov_chain(words: int = 200, successors: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """A seeded Markov chain in which few words may follow a word.

    Returns:
        Transition probabilities ``(words, words)``, row: the word before; and the stationary
        distribution ``(words,)``, which descends.
    """
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, words + 1)
    transition = np.zeros((words, words))
    for word, row in enumerate(transition):
        followers = rng.choice(words, successors, replace=False, p=popularity / popularity.sum())
        row[followers] = rng.dirichlet(np.ones(successors))
        row[(word + 1) % words] += 0.1  # a cycle through all words: each can be reached
        row /= row.sum()
    balance = np.vstack([transition.T - np.eye(words), np.ones(words)])
    stationary = np.linalg.lstsq(balance, np.append(np.zeros(words), 1.0), rcond=None)[0]
    order = np.argsort(-stationary, kind="stable")
    return transition[np.ix_(order, order)], stationary[order]


def entropy_rate(transition: np.ndarray, stationary: np.ndarray) -> float:
    """Entropy of the next word given all before, in nats: what no model can go below."""
    logs = np.log(transition, where=transition > 0, out=np.zeros_like(transition))
    return float(-stationary @ (transition * logs).sum(axis=1))


@cache
def ptb_standin() -> Dataset:
    """40,000 tokens of a Markov chain over 200 words, in blocks, int64 ``(N, 64)``.

    The next word depends on the one before alone, so ``floor``, the chain's entropy rate, is the
    best mean cross entropy that a model can have. 32,000 tokens train, 4,000 valid, 4,000 test.
    """
    transition, stationary = markov_chain()
    rng = np.random.default_rng(1)
    draws = rng.uniform(size=40_000)
    cumulative = transition.cumsum(axis=1)
    cumulative[:, -1] = 1.0
    tokens = np.empty(len(draws), np.int64)
    word = rng.choice(len(stationary), p=stationary)
    for t, draw in enumerate(draws):
        tokens[t] = word = np.searchsorted(cumulative[word], draw, side="right")
    train, valid, test = np.split(tokens, (32_000, 36_000))
    return Dataset(
        "ptb-standin",
        train=blocks(train),
        valid=blocks(valid),
        test=blocks(test),
        subset=SUBSET,
        vocabulary=tuple(f"w{word}" for word in range(len(stationary))),
        floor=entropy_rate(transition, stationary),
    )
