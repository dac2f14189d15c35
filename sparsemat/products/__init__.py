"""Products with a sparse pattern, and nothing else: multiplying ``W(theta) @ x``.

Every product is linear in the parameters and in the vectors, features first: ``x`` has shape
``(cols, n)``, one column a vector, and the result ``(rows, n)``. Which product serves a pattern is
chosen from the pattern's structure alone; :func:`choose` says which and why. Gradients are
themselves such products, so derivatives of any order are.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from ..pattern import Pattern
from .gather import GatherProduct
from .general import GeneralProduct
from .native import NativeProduct
from .product import Product

__all__ = ["GatherProduct", "GeneralProduct", "NativeProduct", "Product", "choose", "matmul"]

FORMS = ("gather", "general", "native")

# the one place where products are kept; equal compact patterns are one object
_chosen: WeakKeyDictionary[Pattern, dict[str | None, Product]] = WeakKeyDictionary()


def choose(pattern: Pattern, form: str | None = None) -> Product:
    """The product that serves this pattern; made once a pattern.

    Args:
        pattern: Any pattern.
        form: ``"gather"``, ``"general"`` or ``"native"``, to have that product instead of the one
            that suits. ``"native"`` is torch's own convolution, and never chosen unasked.

    Returns:
        A :class:`~sparsemat.products.product.Product`, called as ``product(theta, x) -> y`` with
        theta ``(num_parameters,)``, x ``(cols, n)`` and y ``(rows, n)``; its ``repr`` says what it
        is and why.

    Raises:
        TypeError: ``pattern`` is no pattern.
        ValueError: There is no such form, ``"gather"`` is asked for a pattern that is irregular,
            or ``"native"`` for one that is no tied convolution with zero padding.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a Pattern, got {type(pattern).__name__}")
    if form is not None:
        check_form(form)
    made = _chosen.setdefault(pattern, {})
    if form not in made:
        made[form] = _make(pattern, form)
    return made[form]


def _make(pattern: Pattern, form: str | None) -> Product:
    if form == "general":
        return GeneralProduct(pattern)
    if form == "native":
        product = NativeProduct.of(pattern)
        if product is None:
            raise ValueError(
                "form 'native' needs a tied convolution with zero padding, "
                f"channels (x) shifts, got {pattern!r}"
            )
        return product
    if form == "gather":
        product = choose(pattern)
        if not isinstance(product, GatherProduct):
            raise ValueError(f"form 'gather' needs a regular pattern, got {product!r}")
        return product
    return GatherProduct.of(pattern) or choose(pattern, "general")


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
