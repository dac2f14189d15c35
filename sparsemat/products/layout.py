"""How vectors lie in memory: one after the other, or entry after entry."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Layout(NamedTuple):
    """How the vectors of a product lie, and how its results shall.

    Attributes:
        vectors: How many there are.
        batch_first: Whether they lie one after the other, as torch's images do; else entry after
            entry, all vectors' first entries first.
    """

    vectors: int
    batch_first: bool

    @classmethod
    def of(cls, x: torch.Tensor) -> Layout:
        """That of vectors ``(cols, n)``."""
        return cls(x.shape[1], x.shape[1] > 1 and x.stride(0) < x.stride(1))

    def strides(self, rows: int) -> tuple[int, int]:
        """Strides of vectors with that many entries."""
        return (1, rows) if self.batch_first else (self.vectors, 1)

    def empty(
        self, like: torch.Tensor, rows: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Vectors with that many entries that lie so, and are no view."""
        return like.new_empty_strided((rows, self.vectors), self.strides(rows), dtype=dtype)

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        """The vectors themselves if they lie so, or a copy."""
        return x.t().contiguous().t() if self.batch_first else x.contiguous()
