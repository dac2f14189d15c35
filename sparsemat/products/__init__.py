"""The products behind the layers: a filled pattern times a block of vectors, and its gradient.

Every product is linear in the parameters and in the vectors, features first: ``x`` has shape
``(cols, n)``, one column a vector, and the result ``(rows, n)``. Which product serves a pattern is
chosen from the pattern's structure alone; :func:`choose` says which and why. Gradients are first
derivatives: they cannot be differentiated again.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from ..pattern import Pattern
from .gather import GatherProduct
from .general import GeneralProduct

__all__ = ["GatherProduct", "GeneralProduct", "choose", "matmul"]

FORMS = ("gather", "general")

_chosen: WeakKeyDictionary[Pattern, dict[str | None, GatherProduct | GeneralProduct]]
_chosen = WeakKeyDictionary()


def choose(pattern: Pattern, form: str | None = None) -> GatherProduct | GeneralProduct:
    """The product that serves this pattern; made once a pattern.

    Args:
        pattern: Any pattern.
        form: ``"gather"`` or ``"general"``, to have that product instead of the one that suits.

    Returns:
        A callable ``product(theta, x) -> y`` with theta ``(num_parameters,)``, x ``(cols, n)`` and
        y ``(rows, n)``; its ``repr`` says what it is and why.

    Raises:
        ValueError: There is no such form, or ``"gather"`` is asked for a pattern that is irregular.
    """
    if form is not None:
        check_form(form)
    made = _chosen.setdefault(pattern, {})
    if form not in made:
        if form == "general":
            product = GeneralProduct(pattern)
        elif form == "gather":
            product = choose(pattern)
            if not isinstance(product, GatherProduct):
                raise ValueError(f"form 'gather' needs a regular pattern, got {product!r}")
        else:
            product = GatherProduct.detect(pattern) or choose(pattern, "general")
        made[form] = product
    return made[form]


def check_form(form: str) -> None:
    """Refuse a form that no pattern has.

    Raises:
        ValueError: With the forms there are and this one.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS} or None, got {form!r}")


def matmul(pattern: Pattern, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``W(theta) @ x`` by the product that suits the pattern.

    Args:
        pattern: The pattern of W.
        theta: Parameters, shape ``(num_parameters,)``.
        x: Vectors as columns, shape ``(cols, n)``, same dtype and device.

    Returns:
        Tensor of shape ``(rows, n)``.

    Raises:
        ValueError: A shape or type does not fit.
    """
    return choose(pattern)(theta, x)
