"""What the studies of the structured chapters share."""

import math

import numpy as np
import pytest
import torch

from sparsemat.experiments import studies
from sparsemat.experiments.datasets import Dataset
from sparsemat.experiments.datasets.text import END, LENGTH, blocks, encode

WORDS = (END, "a", "<unk>", "bc")


def text_data(seed):
    words = np.random.default_rng(seed).choice(WORDS, 400).tolist()
    return words, blocks(encode(words, WORDS))


@pytest.fixture
def texts(monkeypatch):
    """Words by part of a data set that has them."""
    parts = {part: text_data(k) for k, part in enumerate(("train", "valid", "test"))}
    found = Dataset("text", **{p: data for p, (_, data) in parts.items()}, vocabulary=WORDS)
    monkeypatch.setattr(studies.datasets, "load", lambda name: found)
    return {part: words for part, (words, _) in parts.items()}


def test_characters_are_the_beginning_of_each_part(texts):
    parts = studies.characters("text", 300, 150)
    alphabet = sorted("\n abc<unk>")
    for part, source, number in (
        ("train", "train", 300),
        ("held out", "valid", 150),
        ("test", "test", 150),
    ):
        text = "".join("\n" if word == END else " " + word for word in texts[source])[:number]
        inputs, targets = parts[part]
        assert inputs.shape == targets.shape == ((number - 1) // LENGTH, LENGTH)
        read = "".join(alphabet[k] for k in inputs.flatten())
        assert read == text[: len(read)]
        assert "".join(alphabet[k] for k in targets.flatten()) == text[1 : len(read) + 1]


@pytest.mark.parametrize("numbers", [(5000, 150), (300, 5000)], ids=["train", "others"])
def test_more_characters_than_there_are_are_refused(texts, numbers):
    with pytest.raises(ValueError, match=r"text must have 5000 characters in a part, got \d+"):
        studies.characters("text", *numbers)


def test_images_are_drawn_once_each_and_no_more_than_there_are(monkeypatch):
    part = torch.arange(10)[:, None], torch.arange(10)
    monkeypatch.setattr(studies.datasets, "load", lambda name: Dataset(name, part, part))
    found = studies.splits("ten", 7, 3)
    drawn = torch.cat([found[name][1] for name in ("train", "held out")])
    assert drawn.sort().values.tolist() == list(range(10))
    with pytest.raises(ValueError, match="at most the 10 training images of ten, got 7 and 4"):
        studies.splits("ten", 7, 4)


def test_bits_are_those_of_the_probabilities():
    torch.manual_seed(0)
    inputs, targets = torch.randint(5, (230, 7)), torch.randint(5, (230, 7))
    network = torch.nn.Embedding(5, 5)
    chances = network(inputs).double().softmax(2).gather(2, targets[..., None])
    expected = -chances.log2().mean().item()
    assert studies.bits(network, (inputs, targets)) == pytest.approx(expected, rel=1e-6)
    torch.nn.init.zeros_(network.weight)
    assert studies.bits(network, (inputs, targets)) == pytest.approx(math.log2(5))


@pytest.mark.parametrize(
    "best, scores, rate",
    [
        *((max, [1, 3, 3], 0.03), (min, [2, 1, 1], 0.03), (min, [0, 1, 0], 0.01)),
        *((min, [math.nan, 2, 1], 0.1), (max, [math.nan, 1, 2], 0.1), (min, [2, math.nan, 1], 0.1)),
    ],
)
def test_the_first_of_the_best_rates_is_chosen(best, scores, rate):
    rates = (0.01, 0.03, 0.1)
    held = {str(r): float(s) for r, s in zip(rates, scores, strict=True)}
    assert studies.best_rate(rates, held, best) == rate
