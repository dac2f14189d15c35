"""What a data set is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

_CHUNK = 1 << 26  # bytes that the fingerprint copies at a time


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples for training, for choosing and for testing.

    Args:
        name: Name in ``DATASETS``.
        train: Inputs and targets, whose first axis counts examples. Inputs may be a strided view,
            whose windows share their rows.
        test: The same for examples that training never sees.
        valid: The same for examples to choose by; None where the release sets none apart.
        subset: What part of the published set this is; None for the whole.
        labels: Name of every class, where the release has names.
        vocabulary: The word of every token id; text only.
        scale: Mean and standard deviation of every variable over the training rows, float32
            ``(variables,)``, by which a series was standardised; series only.
        floor: Smallest mean cross entropy in nats that any model can reach, where it is known.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor] | None = None
    subset: str | None = None
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    scale: tuple[Tensor, Tensor] | None = None
    floor: float | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the tensors of train, test and valid: their dtypes, shapes and values."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.test, *(self.valid or ())):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            example = tensor[:1].numel() * tensor.element_size()
            for part in tensor.split(max(1, _CHUNK // max(1, example))):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def subset_of(parts: dict[str, tuple[int, int]]) -> str | None:
    """What part of a release was found.

    Args:
        parts: How many examples of a kind there are, and how many the release has.

    Returns:
        Such as "20,000 of 50,000 training images"; None if nothing is missing.
    """
    short = [
        f"{found:,} of {whole:,} {kind}" for kind, (found, whole) in parts.items() if found != whole
    ]
    return " and ".join(short) or None
