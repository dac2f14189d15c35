"""Patterns of normalisations: the mean of every group, and the matrix of all groups. NumPy only."""

from __future__ import annotations

import numpy as np

from ..arguments import as_flag, as_size
from ..kronecker import kron
from ..pattern import Pattern
from .simple import dense_pattern, diagonal_pattern, identity_pattern, zero_one


def mean_pattern(groups: int, size: int, positions: int = 1) -> Pattern:
    r"""The matrix $I \otimes \mathbf 1^\top \otimes I$ that sums every group; of means with $1/n$.

    The entries stand in an array ``(groups, size, positions)``; a group is along its middle axis.

    Args:
        groups: Number of groups that stand one after the other.
        size: Entries n of a group.
        positions: Number of groups that stand side by side.

    Returns:
        Pattern of shape ``(groups * positions, groups * size * positions)`` with one parameter.

    Raises:
        ValueError: A size is below 1.

    Source: chapter "A Transformer block as matrices".
    """
    groups, size, positions = _sizes(groups, size, positions)
    row = zero_one((1, size), np.zeros(size, dtype=np.int64), np.arange(size))
    return kron(identity_pattern(groups), row, identity_pattern(positions))


def norm_pattern(groups: int, size: int, positions: int = 1, *, centred: bool = True) -> Pattern:
    r"""The pattern of $S\,(I \otimes \Gamma C \otimes I)$: a block a group, or a diagonal.

    Args:
        groups: Number of groups that stand one after the other, as tokens do.
        size: Entries of a group.
        positions: Number of groups that stand side by side, as pixels do in channels.
        centred: Whether a mean is subtracted, as all but RMS normalisation do.

    Returns:
        Square pattern of ``groups * size * positions`` rows with a parameter for every nonzero,
        held as a Kronecker product.

    Raises:
        ValueError: A size is below 1, or ``centred`` is no flag.

    Source: chapter "A Transformer block as matrices".
    """
    groups, size, positions = _sizes(groups, size, positions)
    block = dense_pattern(size, size) if as_flag("centred", centred) else diagonal_pattern(size)
    return kron(diagonal_pattern(groups), block, diagonal_pattern(positions))


def _sizes(groups: int, size: int, positions: int) -> tuple[int, int, int]:
    return as_size("groups", groups), as_size("size", size), as_size("positions", positions)
