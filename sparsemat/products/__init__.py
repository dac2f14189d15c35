"""The products behind the layers: a filled pattern times a block of vectors, and its gradient.

Every product is linear in the parameters and in the vectors, features first: ``x`` has shape
``(cols, n)``, one column a vector, and the result ``(rows, n)``. Which product serves a pattern is
chosen from the pattern's structure alone; :func:`choose` says which and why.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from ..pattern import Pattern
from .gather import GatherProduct
from .general import GeneralProduct

__all__ = ["GatherProduct", "GeneralProduct", "choose", "matmul"]

_chosen: WeakKeyDictionary[Pattern, GatherProduct | GeneralProduct] = WeakKeyDictionary()


def choose(pattern: Pattern) -> GatherProduct | GeneralProduct:
    """The product that serves this pattern; made once a pattern.

    Args:
        pattern: Any pattern.

    Returns:
        A callable ``product(theta, x) -> y`` with theta ``(num_parameters,)``, x ``(cols, n)`` and
        y ``(rows, n)``; its ``repr`` says what it is and why.
    """
    if pattern not in _chosen:
        _chosen[pattern] = GatherProduct.detect(pattern) or GeneralProduct(pattern)
    return _chosen[pattern]


def matmul(pattern: Pattern, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``W(theta) @ x`` by the product that suits the pattern.

    Args:
        pattern: The pattern of W.
        theta: Parameters, shape ``(num_parameters,)``.
        x: Vectors as columns, shape ``(cols, n)``, same dtype and device.

    Returns:
        Tensor of shape ``(rows, n)``.
    """
    return choose(pattern)(theta, x)
