"""The patterns of average pooling, and the windows of maxima. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arguments import as_flag, as_size
from ..kronecker import kron
from ..pattern import Pattern
from ..windows import Windows
from .simple import identity_pattern


def avg_pool_of_windows(
    channels: int,
    windows: Windows,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> tuple[Pattern, np.ndarray]:
    """The pattern of average pooling and the divisor of each of its parameters.

    Args:
        channels: Number of channels; each is pooled alone.
        windows: Where the windows lie.
        count_include_pad: Whether padded zeros count in the divisor.
        divisor_override: The divisor to use instead.

    Returns:
        Pattern of shape ``(channels * prod(output), channels * prod(size))`` and the distinct
        divisors in ascending order, int64, whose inverses are its parameters.

    Raises:
        ValueError: ``channels`` or ``divisor_override`` is below 1.
    """
    as_size("channels", channels)
    as_flag("count_include_pad", count_include_pad)
    if divisor_override is not None:
        as_size("divisor_override", divisor_override)
    counts = []
    for position, read, size, (_, after) in zip(
        windows.positions, windows.reads, windows.size, windows.pads, strict=True
    ):
        inside = position < size + after if count_include_pad else read >= 0
        counts.append(inside.sum(1))
    return _averages(channels, windows.reads, windows.size, counts, divisor_override)


def adaptive_avg_pool_pattern(
    channels: int, input_size: Sequence[int], output_size: Sequence[int]
) -> tuple[Pattern, np.ndarray]:
    """The pattern of ``torch.nn.AdaptiveAvgPool1d`` to ``3d``, and its divisors.

    Output a of an axis averages the inputs from ``floor(a n / m)`` up to ``ceil((a + 1) n / m)``.

    Args:
        channels: Number of channels.
        input_size: Size n of every axis.
        output_size: Size m of every axis.

    Returns:
        Pattern of shape ``(channels * prod(output_size), channels * prod(input_size))`` and the
        distinct divisors, int64, whose inverses are its parameters.

    Raises:
        ValueError: A size is below 1.
    """
    as_size("channels", channels)
    reads = []
    for n, m in zip(input_size, output_size, strict=True):
        as_size("output_size", m)
        start, stop = np.arange(m) * n // m, -(-np.arange(1, m + 1) * n // m)
        read = start[:, None] + np.arange((stop - start).max())
        reads.append(np.where(read < stop[:, None], read, -1))
    counts = [(read >= 0).sum(1) for read in reads]
    return _averages(channels, reads, input_size, counts, None)


def _averages(
    channels: int,
    reads: Sequence[np.ndarray],
    size: Sequence[int],
    counts: Sequence[np.ndarray],
    override: int | None,
) -> tuple[Pattern, np.ndarray]:
    """Each axis ties its outputs by their count; products of counts that agree are tied again."""
    axes, products = [], np.ones(1, dtype=np.int64)
    for read, count, n in zip(reads, counts, size, strict=True):
        distinct, which = np.unique(count, return_inverse=True)
        row, tap = np.nonzero(read >= 0)
        axes.append(Pattern((len(read), n), row, read[row, tap], which[row], len(distinct)))
        products = np.multiply.outer(products, distinct).reshape(-1)
    if override is not None:
        products = np.full_like(products, override)
    divisors, labels = np.unique(products, return_inverse=True)
    pattern = kron(identity_pattern(channels), *axes)
    if not np.array_equal(labels, np.arange(len(labels))):
        pattern = pattern.labelled(labels)
    return pattern, divisors
