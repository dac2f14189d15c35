"""Tensors that are computed from others at each use, so that they follow an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Live:
    """A tensor computed anew at each use; it may stand wherever torch takes a tensor.

    Nothing is kept between uses: no record of its sources could tell that ``.data`` was written.

    Args:
        compute: Function without arguments that returns the tensor.
        dtype: Type of the tensor.
        device: Where it will live.
    """

    def __init__(
        self, compute: Callable[[], torch.Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.value, self.dtype, self.device = compute, dtype, device

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = {name: _now(value) for name, value in (kwargs or {}).items()}
        return function(*map(_now, args), **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return getattr(self.value(), name)

    def __len__(self) -> int:
        return len(self.value())

    def __getitem__(self, at: Any) -> torch.Tensor:
        return self.value()[at]

    def __repr__(self) -> str:
        return repr(self.value())

    def __reduce__(self) -> tuple:
        return torch.clone, (self.value().detach(),)

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        return self.value().detach().clone()


def _now(value: Any) -> Any:
    if isinstance(value, Live):
        return value.value()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_now, value))
    return value


def _operator(name: str) -> Callable:
    def apply(self: Live, *others: Any) -> torch.Tensor:
        return getattr(self.value(), name)(*map(_now, others))

    return apply


OPERATORS = """
add radd sub rsub mul rmul truediv rtruediv neg pow matmul eq ne lt le gt ge
"""
for _name in OPERATORS.split():
    setattr(Live, f"__{_name}__", _operator(f"__{_name}__"))
Live.__hash__ = object.__hash__
