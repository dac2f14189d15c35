"""Blocks of low rank: block tensor trains (BTT), and Monarch matrices as their permutation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..pattern import Pattern
from .base import StructuredMatrix, as_pair, core_std, divide
from .low_rank import check_rank
from .patterns import einsum_pattern


class BlockLowRank(StructuredMatrix):
    r"""Every block of a grid has rank at most r: $W_{(a,b),(c,d)}=\sum_s L_{abcs}R_{csad}$.

    The same as a block tensor train (BTT) of rank r. Two block diagonal products with a permutation
    between them.

    Args:
        shape: ``(rows, columns)``.
        grid: Blocks down and blocks across; each divides its size.
        rank: At most the smaller side of a block.

    Raises:
        ValueError: The grid does not divide the shape, or the rank is too large.

    Source: arXiv 2406.06248; chapter "Block low rank".
    """

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], rank: int) -> None:
        grid = as_pair("grid", grid)
        super().__init__(shape, grid=grid, rank=rank)
        self.block = divide("rows", shape[0], grid[0]), divide("columns", shape[1], grid[1])
        self.grid, self.rank = grid, check_rank(self.block, rank)
        (a, c), (b, d) = self.grid, self.block
        self.left = nn.Parameter(torch.empty(a, b, c, rank))
        self.right = nn.Parameter(torch.empty(c, rank, a, d))
        self.reset_parameters()

    @property
    def _fans(self) -> tuple[tuple[int, int], tuple[int, int]]:
        (a, c), (b, d) = self.grid, self.block
        return (self.rank * c, b), (d, a * self.rank)

    def reset_parameters(self) -> None:
        """Gaussian, each core by the spectral rule."""
        for core, fans in zip((self.left, self.right), self._fans, strict=True):
            nn.init.normal_(core, std=core_std(*fans))

    def product(self, x: Tensor) -> Tensor:
        """Two batched products: one a block column, one a block row."""
        (a, c), (b, d) = self.grid, self.block
        r, n = self.rank, len(x)
        z = x.reshape(n, c, d).transpose(0, 1) @ self.right.reshape(c, r * a, d).mT
        z = z.reshape(c, n, r, a).permute(3, 1, 0, 2).reshape(a, n, c * r)
        y = z @ self.left.reshape(a, b, c * r).mT
        return self._join(y)

    def _join(self, y: Tensor) -> Tensor:
        return y.transpose(0, 1).reshape(y.shape[1], self.shape[0])

    def patterns(self) -> tuple[Pattern, ...]:
        """Block rows of L against (c, s, a), and the block diagonal of R."""
        (a, c), (b, d) = self.grid, self.block
        sizes = {"a": a, "b": b, "c": c, "d": d, "s": self.rank}
        left = einsum_pattern("abcs -> ab, csa", **sizes)
        return left, einsum_pattern("csad -> csa, cd", **sizes)

    @property
    def einsum(self) -> str:
        """L, R, x."""
        return "abcs,csad,Bcd->Bab"

    @property
    def dof(self) -> int:
        """``a c r (b + d - r)``, as each block is a matrix of rank r."""
        (a, c), (b, d) = self.grid, self.block
        return a * c * self.rank * (b + d - self.rank)

    @property
    def macs(self) -> int:
        """``a c r (b + d)``, as many as there are parameters."""
        return self.num_parameters

    def lr_multipliers(self) -> dict[str, float]:
        """``columns / (fan-in * 2)`` for each of the two cores."""
        (left, _), (right, _) = self._fans
        cols = self.shape[1]
        return {"left": cols / (2 * left), "right": cols / (2 * right)}

    def _fit(self, dense: Tensor) -> None:
        u, s, v = torch.linalg.svd(self._blocks(dense), full_matrices=False)
        root = s[..., : self.rank].sqrt()
        self.left.copy_((u[..., : self.rank] * root[..., None, :]).movedim(1, 2))
        self.right.copy_((v[..., : self.rank, :] * root[..., None]).permute(1, 2, 0, 3))

    def _blocks(self, dense: Tensor) -> Tensor:
        (a, c), (b, d) = self.grid, self.block
        return dense.reshape(a, b, c, d).transpose(1, 2)


class Monarch(BlockLowRank):
    r"""Every strided block has rank at most r: block (a, c) of A x C holds the rows a, a+A, ....

    It is :class:`BlockLowRank` with the rows in another order. Kronecker products, butterflies and
    (with the columns in digit order) the Fourier matrix are of this kind with r = 1.

    Args:
        shape: ``(rows, columns)``.
        grid: Blocks down and blocks across.
        rank: At most the smaller side of a block.

    Source: arXiv 2204.00595; chapter "Block low rank".
    """

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], rank: int = 1) -> None:
        super().__init__(shape, grid, rank)

    def _join(self, y: Tensor) -> Tensor:
        return y.permute(1, 2, 0).reshape(y.shape[1], self.shape[0])

    def patterns(self) -> tuple[Pattern, ...]:
        """As of block low rank, the rows of L in strided order."""
        (a, c), (b, _) = self.grid, self.block
        left = einsum_pattern("abcs -> ba, csa", a=a, b=b, c=c, s=self.rank)
        return left, super().patterns()[1]

    @property
    def einsum(self) -> str:
        """L, R, x."""
        return "abcs,csad,Bcd->Bba"

    def _blocks(self, dense: Tensor) -> Tensor:
        (a, c), (b, d) = self.grid, self.block
        return dense.reshape(b, a, c, d).permute(1, 2, 0, 3)
