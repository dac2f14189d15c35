"""Rivals that count words: naive Bayes for texts with a class, n-grams for running text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .datasets import Dataset

DISCOUNTS = (0.5, 0.6, 0.7, 0.8, 0.9)


def naive_bayes(data: Dataset) -> float:
    """Accuracy in percent of multinomial naive Bayes on the bags of words.

    Every word is counted once more in every class, so that no share is zero; padding, id 0, is no
    word.

    Args:
        data: Texts with a class, and their vocabulary.
    """
    (texts, classes), (tests, answers) = data.train, data.test
    size, kinds = len(data.vocabulary), int(classes.max()) + 1
    seen = torch.stack(
        [torch.bincount(texts[classes == k].flatten(), minlength=size) for k in range(kinds)]
    ).double()
    seen += 1
    seen[:, 0] = 0
    weights = (seen / seen.sum(1, keepdim=True)).log()
    weights[:, 0] = 0
    prior = torch.bincount(classes).double().log()
    scores = torch.cat([weights[:, part].sum(-1).T for part in tests.split(500)])
    return 100 * ((scores + prior).argmax(1) == answers).double().mean().item()


class KneserNey:
    """An interpolated n-gram model of order 1 to 3, with Kneser-Ney counts in the lower orders.

    It sees what the networks see: the words before in the same block of text, at most two.

    Args:
        part: Inputs and targets, token ids ``(N, T)``, the targets one word later.
        vocabulary: Number of token ids.
        order: Words of an n-gram.
    """

    def __init__(self, part: tuple, vocabulary: int, order: int = 3) -> None:
        if not 1 <= order <= 3:
            raise ValueError(f"order must be from 1 to 3, got {order}")
        self.vocabulary, self.order = vocabulary, order
        grams = [np.unique(self._codes(part, n), return_counts=True) for n in range(1, order + 1)]
        self.tables = [_Table(*grams[-1], vocabulary)]
        for n in range(order - 1, 0, -1):  # in how many contexts an n-gram was seen
            shorter = grams[n][0] % vocabulary**n
            if n == 1:
                shorter = np.concatenate([shorter, np.arange(vocabulary)])  # none impossible
            self.tables.insert(0, _Table(*np.unique(shorter, return_counts=True), vocabulary))
        if order == 1:
            codes = np.concatenate([self._codes(part, 1), np.arange(vocabulary)])
            self.tables = [_Table(*np.unique(codes, return_counts=True), vocabulary)]

    def probabilities(self, part: tuple, discount: float) -> np.ndarray:
        """The probability of every target, ``(N * T,)``.

        Args:
            part: As for the class.
            discount: What is taken off every count and given to the shorter n-grams.
        """
        words = self._codes(part, 1)
        found = self.tables[0].share(words)
        for n in range(2, self.order + 1):
            codes, known = self._codes(part, n, every=True), self._has_context(part, n)
            longer = self.tables[n - 1].interpolate(codes, found, discount)
            found = np.where(known, longer, found)
        return found

    def perplexity(self, part: tuple, discount: float) -> float:
        """Perplexity a word."""
        return float(np.exp(-np.log(self.probabilities(part, discount)).mean()))

    def _has_context(self, part: tuple, n: int) -> np.ndarray:
        known = np.ones(part[1].shape, bool)
        known[:, : n - 2] = False
        return known.ravel()

    def _codes(self, part: tuple, n: int, every: bool = False) -> np.ndarray:
        """The n words that end in each target as one number; without context, left out."""
        inputs, targets = (np.asarray(tokens, np.int64) for tokens in part)
        codes = targets.copy()
        for back in range(1, n):
            before = inputs if back == 1 else np.roll(inputs, back - 1, axis=1)
            codes = codes + before * self.vocabulary**back
        return codes.ravel() if every else codes[:, max(0, n - 2) :].ravel()


class _Table:
    """Counts of n-grams, and of the contexts that they share."""

    def __init__(self, codes: np.ndarray, counts: np.ndarray, vocabulary: int) -> None:
        self.codes, self.counts, self.vocabulary = codes, counts, vocabulary
        context = codes // vocabulary
        self.contexts, start = np.unique(context, return_index=True)
        self.totals = np.add.reduceat(counts, start)
        self.followers = np.diff(np.append(start, len(codes)))

    def share(self, codes: np.ndarray) -> np.ndarray:
        return _look_up(self.codes, self.counts, codes) / self.counts.sum()

    def interpolate(self, codes: np.ndarray, lower: np.ndarray, discount: float) -> np.ndarray:
        context = codes // self.vocabulary
        total = _look_up(self.contexts, self.totals, context)
        followers = _look_up(self.contexts, self.followers, context)
        count = _look_up(self.codes, self.counts, codes)
        seen = np.maximum(total, 1)
        mixed = (np.maximum(count - discount, 0) + discount * followers * lower) / seen
        return np.where(total > 0, mixed, lower)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def ngrams(data: Dataset, discounts: Sequence[float] = DISCOUNTS) -> dict[str, float]:
    """Test perplexities of n-gram models, the discount chosen by the validation part.

    Args:
        data: Running text; without a validation part the first discount is taken.
        discounts: Those to choose from.
    """
    found = {}
    for order, name in ((1, "unigram"), (2, "bigram"), (3, "trigram")):
        model = KneserNey(data.train, len(data.vocabulary), order)
        best = discounts[0]
        if order > 1 and data.valid is not None:
            best = min(discounts, key=lambda d: model.perplexity(data.valid, d))
        found[name] = model.perplexity(data.test, best)
    return found
