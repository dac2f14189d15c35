"""Matrices of low rank, with two factors and with a small core between orthonormal ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from .base import StructuredMatrix, core_std
from .patterns import einsum_pattern


class LowRank(StructuredMatrix):
    r"""$W=UV^T$ with U of shape ``(rows, rank)`` and V of shape ``(columns, rank)``.

    Args:
        shape: ``(rows, columns)``.
        rank: At most the smaller of the two.

    Raises:
        ValueError: The rank is not between 1 and the smaller size.

    Source: Eckart and Young 1936; chapter "Low rank".
    """

    def __init__(self, shape: tuple[int, int], rank: int) -> None:
        super().__init__(shape, rank=rank)
        self.rank = check_rank(shape, rank)
        rows, cols = self.shape
        self.left, self.right = (nn.Parameter(torch.empty(size, rank)) for size in (rows, cols))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gaussian, each factor by the spectral rule."""
        rows, cols = self.shape
        nn.init.normal_(self.right, std=core_std(cols, self.rank))
        nn.init.normal_(self.left, std=core_std(self.rank, rows))

    def product(self, x: Tensor) -> Tensor:
        """Two dense products, through ``rank`` numbers."""
        return (x @ self.right) @ self.left.mT

    def patterns(self) -> tuple[Pattern, ...]:
        """Two full patterns, rows x rank and rank x columns."""
        rows, cols = self.shape
        left = einsum_pattern("mr -> m, r", m=rows, r=self.rank)
        return left, einsum_pattern("nr -> r, n", n=cols, r=self.rank)

    @property
    def einsum(self) -> str:
        """Left, right, x."""
        return "mr,nr,Bn->Bm"

    @property
    def dof(self) -> int:
        """``r (rows + columns - r)``, as an invertible matrix between the factors is free."""
        return self.rank * (sum(self.shape) - self.rank)

    @property
    def macs(self) -> int:
        """``r (rows + columns)``."""
        return self.rank * sum(self.shape)

    def lr_multipliers(self) -> dict[str, float]:
        """``columns / (fan-in * 2)`` for each of the two factors."""
        cols = self.shape[1]
        return {"left": cols / (2 * self.rank), "right": 0.5}

    def _fit(self, dense: Tensor) -> None:
        u, s, v = torch.linalg.svd(dense, full_matrices=False)
        root = s[: self.rank].sqrt()
        self.left.copy_(u[:, : self.rank] * root)
        self.right.copy_(v[: self.rank].mT * root)


class Usv(StructuredMatrix):
    r"""$W=USV^T$ with a small core S; U and V are orthonormal where :func:`kls_step` trains them.

    Args:
        shape: ``(rows, columns)``.
        rank: At most the smaller of the two.

    Raises:
        ValueError: The rank is not between 1 and the smaller size.

    Source: arXiv 2205.13571; chapter "Low rank".
    """

    def __init__(self, shape: tuple[int, int], rank: int) -> None:
        super().__init__(shape, rank=rank)
        rows, cols = self.shape
        rank = check_rank(shape, rank)
        self.left, self.right = (nn.Parameter(torch.empty(size, rank)) for size in (rows, cols))
        self.core = nn.Parameter(torch.empty(rank, rank))
        self.reset_parameters()

    @property
    def rank(self) -> int:
        """Rows and columns of the core; it may change while training."""
        return self.core.shape[0]

    def reset_parameters(self) -> None:
        """Orthonormal U and V, and a core whose product has the variance of a dense layer."""
        nn.init.orthogonal_(self.left)
        nn.init.orthogonal_(self.right)
        nn.init.normal_(self.core, std=(self.shape[0] ** 0.5) / self.rank)

    def product(self, x: Tensor) -> Tensor:
        """Three dense products."""
        return ((x @ self.right) @ self.core.mT) @ self.left.mT

    def patterns(self) -> tuple[Pattern, ...]:
        """Three full patterns."""
        rows, cols = self.shape
        r = self.rank
        return (
            einsum_pattern("mr -> m, r", m=rows, r=r),
            einsum_pattern("rs -> r, s", r=r, s=r),
            einsum_pattern("ns -> s, n", n=cols, s=r),
        )

    def factors(self):
        """U, S and V^T; their patterns are made anew where the rank has changed."""
        if self._patterns[1].shape != self.core.shape:
            del self._patterns
        return super().factors()

    def thetas(self) -> tuple[Tensor, ...]:
        """U, S and V."""
        return self.left, self.core, self.right

    @property
    def einsum(self) -> str:
        """U, S, V, x."""
        return "mr,rs,ns,Bn->Bm"

    def operands(self) -> tuple[Tensor, ...]:
        """U, S and V."""
        return self.thetas()

    @property
    def dof(self) -> int:
        """``r (rows + columns - r)``."""
        return self.rank * (sum(self.shape) - self.rank)

    @property
    def macs(self) -> int:
        """``r (rows + columns + r)``."""
        return self.rank * (sum(self.shape) + self.rank)

    def _fit(self, dense: Tensor) -> None:
        u, s, v = torch.linalg.svd(dense, full_matrices=False)
        self.left.copy_(u[:, : self.rank])
        self.core.copy_(s[: self.rank].diag())
        self.right.copy_(v[: self.rank].mT)


def check_rank(shape: tuple[int, int], rank: int) -> int:
    """The rank, if a matrix of this shape can have it.

    Raises:
        ValueError: It cannot; both are named.
    """
    rank = as_size("rank", rank, None)
    if not 1 <= rank <= min(shape):
        raise ValueError(f"rank must be between 1 and min(shape)={min(shape)}, got {rank}")
    return rank
