"""Rivals that count: against brute force, and as probabilities."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsemat.experiments import counting, datasets


def text(seed, blocks=12, length=9, words=6):
    tokens = np.random.default_rng(seed).choice(words, (blocks, length + 1), p=_zipf(words))
    return torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(tokens[:, 1:].copy())


def _zipf(words):
    weights = 1 / np.arange(1, words + 1)
    return weights / weights.sum()


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("place", [0, 1, 5])
def test_the_probabilities_of_all_words_sum_to_one(order, place):
    words = 6
    model = counting.KneserNey(text(0), words, order)
    inputs, targets = text(1, blocks=5)
    total = 0.0
    for word in range(words):
        asked = targets.clone()
        asked[:, place] = word
        found = model.probabilities((inputs, asked), 0.7).reshape(targets.shape)[:, place]
        assert (found > 0).all()
        total = total + found
    assert total == pytest.approx(1)


def test_the_bigram_is_that_of_a_loop():
    words, discount = 6, 0.6
    train, (inputs, targets) = text(0), text(1)
    pairs = Counter(zip(*(t.flatten().tolist() for t in train), strict=True))
    before = defaultdict(set)
    for first, second in pairs:
        before[second].add(first)
    kinds = sum(len(seen) + 1 for seen in (before[word] for word in range(words)))
    expected = []
    for first, second in zip(inputs.flatten().tolist(), targets.flatten().tolist(), strict=True):
        lower = (len(before[second]) + 1) / kinds
        total = sum(n for (a, _), n in pairs.items() if a == first)
        followers = sum(1 for a, _ in pairs if a == first)
        if not total:
            expected.append(lower)
            continue
        kept = max(pairs[first, second] - discount, 0)
        expected.append((kept + discount * followers * lower) / total)
    model = counting.KneserNey(train, words, 2)
    assert model.probabilities((inputs, targets), discount) == pytest.approx(expected)


def test_the_trigram_sees_no_word_of_another_block():
    model = counting.KneserNey(text(0), 6, 3)
    inputs, targets = text(1)
    other = inputs.clone(), targets.clone()
    other[0][0] = other[0][0].roll(3)  # another first block
    changed = model.probabilities(other, 0.7) != model.probabilities((inputs, targets), 0.7)
    assert not changed.reshape(targets.shape)[1:].any()


def test_pairs_come_near_the_floor_of_a_chain():
    data = datasets.load("ptb-standin")
    found = counting.ngrams(data)
    floor = np.exp(data.floor)
    assert 0.97 * floor < found["bigram"] < 1.3 * floor
    assert found["unigram"] > 5 * floor


def test_naive_bayes_is_that_of_a_loop():
    data = datasets.load("ag-news-standin")
    (texts, classes), (tests, answers) = data.train, data.test
    hits = 0
    counts = [Counter(texts[classes == k].flatten().tolist()) for k in range(4)]
    size = len(data.vocabulary)
    sums = [sum(n for w, n in c.items() if w) + size - 1 for c in counts]
    prior = np.log(np.bincount(classes))
    for words, answer in zip(tests[:100].tolist(), answers[:100].tolist(), strict=True):
        scores = [
            prior[k] + sum(np.log((counts[k][w] + 1) / sums[k]) for w in words if w)
            for k in range(4)
        ]
        hits += int(np.argmax(scores)) == answer
    first = replace(data, test=(tests[:100], answers[:100]))
    assert counting.naive_bayes(first) == pytest.approx(hits)


def test_an_order_that_is_not_kept_is_refused():
    with pytest.raises(ValueError, match="order must be from 1 to 3, got 4"):
        counting.KneserNey(text(0), 6, 4)
