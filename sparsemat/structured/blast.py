"""BLAST: a grid of blocks that share left and right factors and differ in a diagonal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from .base import StructuredMatrix, as_pair, core_std, divide, require_real
from .patterns import einsum_pattern

SWEEPS = 100


class Blast(StructuredMatrix):
    r"""$W_{ij}=U_i\,\mathrm{diag}(s_{ij})\,V_j^T$ for the blocks of a grid.

    Low rank matrices (all s one), block diagonal ones and Kronecker products are special cases.

    Args:
        shape: ``(rows, columns)``.
        grid: Blocks down and blocks across; each divides its size.
        rank: Length of each diagonal, at least 1; it may exceed the side of a block.

    Raises:
        ValueError: The grid does not divide the shape, or the rank is below 1.

    Source: arXiv 2410.21262; chapter "Block low rank".
    """

    guarantee = "local"

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], rank: int) -> None:
        grid, rank = as_pair("grid", grid), as_size("rank", rank)
        super().__init__(shape, grid=grid, rank=rank)
        self.block = divide("rows", shape[0], grid[0]), divide("columns", shape[1], grid[1])
        self.grid, self.rank = grid, rank
        (b1, b2), (p, q) = self.grid, self.block
        self.left = nn.Parameter(torch.empty(b1, p, rank))
        self.diagonals = nn.Parameter(torch.empty(b1, b2, rank))
        self.right = nn.Parameter(torch.empty(b2, q, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All diagonals one, U and V as those of a low rank matrix."""
        rows, cols = self.shape
        nn.init.ones_(self.diagonals)
        nn.init.normal_(self.right, std=core_std(cols, self.rank))
        nn.init.normal_(self.left, std=core_std(self.rank, rows))

    def product(self, x: Tensor) -> Tensor:
        """Block columns into r numbers each, mixed diagonal by diagonal, and out by block rows."""
        n = len(x)
        (_, b2), (_, q) = self.grid, self.block
        z = x.reshape(n, b2, q).transpose(0, 1) @ self.right  # b2, n, r
        w = self.diagonals.permute(2, 0, 1) @ z.permute(2, 0, 1)  # r, b1, n
        y = w.permute(1, 2, 0) @ self.left.mT  # b1, n, p
        return y.transpose(0, 1).reshape(n, self.shape[0])

    def patterns(self) -> tuple[Pattern, ...]:
        """Block diagonal U, a grid of diagonals, block diagonal V transposed."""
        (b1, b2), (p, q) = self.grid, self.block
        sizes = {"i": b1, "j": b2, "p": p, "q": q, "r": self.rank}
        return (
            einsum_pattern("ipr -> ip, ir", **sizes),
            einsum_pattern("ijr -> ir, jr", **sizes),
            einsum_pattern("jqr -> jr, jq", **sizes),
        )

    @property
    def einsum(self) -> str:
        """U, s, V, x."""
        return "ipr,ijr,jqr,Bjq->Bip"

    @property
    def dof(self) -> int:
        """Parameters minus r (b1 + b2), as the columns of U and V may be scaled into s.

        With a single block row or column the matrix is one of low rank: ``r (rows + columns - r)``.

        Raises:
            ValueError: The formula is not known to hold: the rank exceeds a side of a block.
        """
        if self.rank > min(self.block):
            raise ValueError(
                "dof is known where the rank is at most the smaller side of a block "
                f"{min(self.block)}, got {self.rank}"
            )
        if min(self.grid) == 1:
            return self.rank * (sum(self.shape) - self.rank)
        return self.num_parameters - self.rank * sum(self.grid)

    @property
    def macs(self) -> int:
        """``r (rows + columns + b1 b2)``, as many as there are parameters."""
        return self.num_parameters

    def lr_multipliers(self) -> dict[str, float]:
        """U and V as in a low rank matrix; the diagonals half the rate of a dense layer."""
        return {"left": self.shape[1] / (2 * self.rank), "diagonals": 0.5, "right": 0.5}

    def _fit(self, dense: Tensor) -> None:
        """Alternating least squares from the truncated singular value decomposition (s = 1).

        Each step solves one factor exactly, so the error never rises above that of low rank.
        """
        require_real(dense)
        (b1, b2), (p, q), r = self.grid, self.block, self.rank
        blocks = dense.double().reshape(b1, p, b2, q).transpose(1, 2)
        u, sigma, v = torch.linalg.svd(dense.double(), full_matrices=False)
        known = min(r, len(sigma))
        root = sigma[:known].sqrt()
        left = torch.zeros(b1, p, r).to(u)
        right = torch.zeros(b2, q, r).to(u)
        left[..., :known] = (u[:, :known] * root).reshape(b1, p, known)
        right[..., :known] = (v[:known].mT * root).reshape(b2, q, known)
        if known < r:  # more columns than a decomposition has: start those at random
            generator = torch.Generator().manual_seed(0)
            for part in (left, right):
                noise = torch.randn(*part.shape[:2], r - known, generator=generator)
                part[..., known:] = noise.to(part) * part.abs().mean()
        s = torch.ones(b1, b2, r).to(u)
        for _ in range(SWEEPS):
            left = _solve(torch.einsum("ijr,jqr->ijqr", s, right), blocks)
            right = _solve(torch.einsum("ijr,ipr->jipr", s, left), blocks.permute(1, 0, 3, 2))
            gram = (left.mT @ left)[:, None] * (right.mT @ right)[None]
            aim = torch.einsum("ipr,ijpq,jqr->ijr", left, blocks, right)
            s = _least_squares(gram, aim[..., None])[..., 0]
        for parameter, value in ((self.left, left), (self.diagonals, s), (self.right, right)):
            parameter.copy_(value)


def _solve(basis: Tensor, blocks: Tensor) -> Tensor:
    """For each i the U_i that brings all ``U_i basis[i, j]^T`` nearest to ``blocks[i, j]``."""
    gram = torch.einsum("ijqr,ijqs->irs", basis, basis)
    right = torch.einsum("ijqr,ijpq->irp", basis, blocks)
    return _least_squares(gram, right).mT


def _least_squares(gram: Tensor, right: Tensor) -> Tensor:
    return torch.linalg.pinv(gram, hermitian=True, rtol=1e-13) @ right
