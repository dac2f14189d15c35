"""Sums of Kronecker products: two-core tensor trains, hypercomplex layers (PHM), quaternions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from .base import StructuredMatrix, as_pair, divide
from .patterns import einsum_pattern


class KroneckerSum(StructuredMatrix):
    r"""$W=\sum_i A_i\otimes B_i$, a sum of ``terms`` Kronecker products of equal shapes.

    Args:
        shape: ``(rows, columns)``.
        grid: Shape of each A; B has the shape of a block.
        terms: How many products are summed, at most the entries of A and of B.

    Raises:
        ValueError: The grid does not divide the shape, or there are too many terms.

    Source: Van Loan and Pitsianis 1993; arXiv 2102.08597.
    """

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], terms: int) -> None:
        grid, terms = as_pair("grid", grid), as_size("terms", terms, None)
        super().__init__(shape, grid=grid, terms=terms)
        self.grid, self.terms = grid, terms
        self.block = divide("rows", shape[0], grid[0]), divide("columns", shape[1], grid[1])
        most = min(grid[0] * grid[1], self.block[0] * self.block[1])
        if not 1 <= terms <= most:
            raise ValueError(f"terms must be between 1 and {most}, got {terms}")
        self.left = nn.Parameter(torch.empty(terms, *self.grid))
        self.right = nn.Parameter(torch.empty(terms, *self.block))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gaussian, such that a product has the variance of a dense layer."""
        nn.init.normal_(self.left, std=(self.terms * self.grid[1]) ** -0.5)
        nn.init.normal_(self.right, std=self.block[1] ** -0.5)

    @property
    def _right_first(self) -> bool:
        (a, c), (b, d) = self.grid, self.block
        return c * b * (d + a) <= a * d * (c + b)

    def product(self, x: Tensor) -> Tensor:
        """Each factor along its own axis, the cheaper order first."""
        (a, c), (b, d) = self.grid, self.block
        t, n = self.terms, len(x)
        x = x.reshape(n, c, d)
        if self._right_first:
            z = x.reshape(n * c, d) @ self.right.reshape(t * b, d).mT
            z = z.reshape(n, c, t, b).permute(0, 3, 2, 1).reshape(n * b, t * c)
            y = z @ self.left.transpose(0, 1).reshape(a, t * c).mT
            return y.reshape(n, b, a).transpose(1, 2).reshape(n, a * b)
        z = x.transpose(1, 2).reshape(n * d, c) @ self.left.reshape(t * a, c).mT
        z = z.reshape(n, d, t, a).permute(0, 3, 2, 1).reshape(n * a, t * d)
        return (z @ self.right.transpose(0, 1).reshape(b, t * d).mT).reshape(n, a * b)

    def patterns(self) -> tuple[Pattern, ...]:
        """All A_i x I beside each other, and all I x B_i below each other."""
        (a, c), (b, d) = self.grid, self.block
        sizes = {"a": a, "b": b, "c": c, "d": d, "t": self.terms}
        left = einsum_pattern("tac -> ab, tcb", **sizes)
        return left, einsum_pattern("tbd -> tcb, cd", **sizes)

    @property
    def einsum(self) -> str:
        """A, B, x."""
        return "tac,tbd,Bcd->Bab"

    @property
    def dof(self) -> int:
        """``t (entries of A + entries of B - t)``, as W rearranged is a matrix of rank t."""
        return self.num_parameters - self.terms**2

    @property
    def macs(self) -> int:
        """``t b c (a + d)`` or ``t a d (b + c)``, whichever is less."""
        (a, c), (b, d) = self.grid, self.block
        return self.terms * (c * b * (d + a) if self._right_first else a * d * (c + b))

    def _fit(self, dense: Tensor) -> None:
        (a, c), (b, d) = self.grid, self.block
        rearranged = dense.reshape(a, b, c, d).transpose(1, 2).reshape(a * c, b * d)
        u, s, v = torch.linalg.svd(rearranged, full_matrices=False)
        root = s[: self.terms].sqrt()
        self.left.copy_((u[:, : self.terms] * root).mT.reshape(self.left.shape))
        self.right.copy_((v[: self.terms] * root[:, None]).reshape(self.right.shape))


def phm(shape: tuple[int, int], order: int) -> KroneckerSum:
    """A parameterized hypercomplex matrix: ``order`` products with A of ``order x order``.

    Args:
        shape: ``(rows, columns)``, both multiples of the order.
        order: n; about 1/n of the parameters of a dense matrix, and no fewer operations.

    Source: arXiv 2102.08597.
    """
    return KroneckerSum(shape, (order, order), order)


def hamilton() -> Tensor:
    r"""The rule of quaternions as left factors, shape ``(4, 4, 4)``, entries 0 and ±1.

    With them $\sum_i A_i\,p_i$ is the matrix of $x\mapsto p\,x$ for quaternions written
    ``(real, i, j, k)``.
    """
    rule = torch.zeros(4, 4, 4)
    product = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))  # of units, up to sign
    sign = ((1, 1, 1, 1), (1, -1, 1, -1), (1, -1, -1, 1), (1, 1, -1, -1))
    for p in range(4):
        for x in range(4):
            rule[p, product[p][x], x] = sign[p][x]
    return rule
