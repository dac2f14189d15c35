"""Tensors that are computed from others at each use, so that they follow an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from .products.casting import without_autocast

_WRITES = ("__setitem__", "__set__")


class Live(torch.Tensor):
    """A vector computed anew at each use; it stands wherever torch takes a tensor.

    Nothing is kept between uses: no record of its sources could tell that ``.data`` was written.
    ``detach()`` gives an ordinary tensor, the vector of now.

    Args:
        compute: Function without arguments that returns the vector.
        length: Its entries.
        dtype: Their type.
        device: Where they live.
    """

    compute: Callable[[], torch.Tensor]
    length: int
    kind: tuple[torch.dtype, torch.device]

    @staticmethod
    def __new__(
        cls,
        compute: Callable[[], torch.Tensor],
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Self:
        """A tensor without storage of its own."""
        self = torch.Tensor._make_wrapper_subclass(cls, (length,), dtype=dtype, device=device)
        self.compute, self.length, self.kind = compute, length, (dtype, device)
        return self

    def __init__(self, *args: Any) -> None:
        """All is done when it is made."""

    def value(self) -> torch.Tensor:
        """The vector as it is now, connected to its sources, in their type.

        Raises:
            TypeError: Its sources have another type than when it was made.
            ValueError: They have another number of entries.
        """
        with without_autocast(self.kind[1].type):
            value = self.compute().reshape(-1)
        if value.dtype != self.kind[0]:
            raise TypeError(
                f"the parameters were {self.kind[0]} when the matrix was made and are "
                f"{value.dtype} now: make it anew"
            )
        if len(value) != self.length:
            raise ValueError(
                f"the parameters were {self.length} numbers when the matrix was made and are "
                f"{len(value)} now: make it anew"
            )
        return value

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """The operation on the values of now.

        Raises:
            RuntimeError: It would write into them.
        """
        return _on_values(function, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """The operation on the values of now, for calls that come from within torch."""
        return _on_values(function, args, kwargs or {})

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        value = self.value()
        return value.detach().clone().requires_grad_(value.requires_grad)


def _on_values(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    name = getattr(function, "__name__", "")
    plain = name.partition(".")[0]  # of an operator, its overload stands behind a point
    writes = name in _WRITES or (plain.endswith("_") and not plain.endswith("__"))
    written = args[:1] if writes or kwargs.get("inplace") else ()
    if any(isinstance(t, Live) for t in tree_leaves((written, kwargs.get("out")))):
        raise RuntimeError(
            f"{name} would write into a vector that is computed at each use; "
            "write to what it is computed from, or to its detach()"
        )
    args, kwargs = tree_map_only(Live, Live.value, (args, kwargs))
    return function(*args, **kwargs)
