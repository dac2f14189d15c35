"""What all matrix layers have in common: one vocabulary.

``pattern``: where the matrix may be nonzero; a method where it depends on the input's size.
``matrix(...)``: the matrix, a :class:`~sparsemat.Matrix`, given what it depends on: nothing, the
number of channels or steps, or the input itself. ``product``: what multiplies by it; its repr says
which form it has and why. ``form``: the form that was asked for, None where the pattern decides.
``untie()``: the same layer with a parameter for every entry, where positions share theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import nn

from ..arguments import as_flag, as_size
from ..products.casting import is_on
from ..products.product import is_traced, is_transformed


class MatrixLayer:
    """Mixin of all matrix layers; stands before ``torch.nn.Module`` or a layer of torch's."""

    form: str | None = None

    def remembered(self, name: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives for this key, made anew when the key changes.

        The key holds the attributes that the result follows from, so that one set after
        construction is honoured.
        """
        kept = self.__dict__.setdefault("_remembered", {})
        if name not in kept or kept[name][0] != key:
            kept[name] = key, make()
        return kept[name][1]

    def own_repr(self) -> str:
        """The form that was asked for, for ``repr``."""
        return "" if self.form is None else f", form={self.form!r}"

    def prepare(self) -> None:
        """Make what a call needs beforehand, since a compiler cannot trace how it is made."""

    def __getstate__(self) -> dict:
        # torch's recurrences leave out what cannot be saved
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_remembered"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.prepare()


def added(y: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``y + bias``, in place where nobody records or transforms what is done."""
    if is_traced(y, bias) or is_transformed():
        return y + bias
    return y.add_(bias)  # a product keeps no output for its backward


def as_images(x: torch.Tensor, channels: int | None, size: tuple[int, ...]) -> torch.Tensor:
    """``x`` with a batch axis, after its shape is found right.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: ``x`` has another shape than ``(N, channels, *size)`` or ``(channels, *size)``.
    """
    require_tensor(x, "images")
    dims = len(size)
    fits = x.ndim in (dims + 1, dims + 2) and x.shape[x.ndim - dims :] == size
    if not fits or channels not in (None, x.shape[x.ndim - dims - 1]):
        one = f"({'C' if channels is None else channels}, {', '.join(map(str, size))})"
        raise ValueError(f"images must have shape (N, {one[1:]} or {one}, got {tuple(x.shape)}")
    return x if x.ndim == dims + 2 else x[None]


def require_tensor(x: object, name: str = "x") -> None:
    """Refuse what is no tensor of one shape: a packed sequence, a list or a nested tensor, say.

    Raises:
        TypeError: With what it is and what to use.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if x.is_nested:
        raise TypeError(
            f"{name} must be a torch.Tensor of one shape, padded say, got a nested one of "
            f"{x.size(0)} tensors"
        )


def require_type(x: torch.Tensor, weight: torch.Tensor, name: str = "x") -> None:
    """Refuse an input of another type than the parameters, unless autocast will cast both.

    Raises:
        TypeError: ``x`` is no tensor.
        ValueError: With both types.
    """
    require_tensor(x, name)
    if x.dtype == weight.dtype:
        return
    # autocast leaves alone what is double precision or not floating
    cast = all(side.is_floating_point() and side.dtype != torch.float64 for side in (x, weight))
    if not (cast and is_on(x.device.type)):
        raise ValueError(f"{name} must have the parameters' type {weight.dtype}, got {x.dtype}")


def require_own_weight(layer: nn.Module, what: str) -> None:
    """Refuse a weight whose source would not follow when the layer gets another one.

    Raises:
        ValueError: A parametrization or a hook computes the weight; ``what`` says what it is for.
    """
    if "weight" not in layer._parameters:
        raise ValueError(
            f"a layer {what} must own its weight, got one that a parametrization or a hook "
            "computes: its source would stay as it is"
        )


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1 and what is no integer.

    Raises:
        ValueError: With the name and the value.
    """
    for name, size in sizes.items():
        as_size(name, size)


def check_flags(**flags: bool) -> None:
    """Refuse what is neither True nor False.

    Raises:
        ValueError: With the name and the value.
    """
    for name, flag in flags.items():
        as_flag(name, flag)


def check_dropout(p: float) -> None:
    """Refuse a probability outside 0 to 1.

    Raises:
        ValueError: With the value.
    """
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"dropout must lie in 0..1, got {p!r}")
