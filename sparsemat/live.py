"""Tensors that are computed from others at each use, so that they follow an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.utils._pytree import tree_map_only


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
        self.compute, self.kind = compute, (dtype, device)
        return self

    def __init__(self, *args: Any) -> None:
        """All is done when it is made."""

    def value(self) -> torch.Tensor:
        """The vector as it is now, connected to its sources."""
        return self.compute().reshape(-1)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """The operation on the values of now."""
        args, kwargs = tree_map_only(Live, Live.value, (args, kwargs or {}))
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """The operation on the values of now, for calls that come from within torch."""
        args, kwargs = tree_map_only(Live, Live.value, (args, kwargs or {}))
        return function(*args, **kwargs)

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        value = self.value()
        return value.detach().clone().requires_grad_(value.requires_grad)
