"""Block sparse matrices: a grid of small dense blocks, most of them absent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from ..rewiring import state_by_entry
from .base import StructuredMatrix, as_pair, divide, norms
from .patterns import einsum_pattern


class BlockSparse(StructuredMatrix):
    r"""The blocks of a grid that a mask keeps: $W=\sum_kE_{I_kJ_k}\otimes\theta_k$.

    Args:
        shape: ``(rows, columns)``.
        mask: Which blocks are kept: booleans, one a block, at least one True. Its shape divides
            ``shape``.

    Raises:
        ValueError: The mask is not boolean with two axes, keeps nothing, or does not divide.

    Source: arXiv 2507.03117 (BLaST).
    """

    def __init__(self, shape: tuple[int, int], mask: Tensor) -> None:
        super().__init__(shape, mask=mask)
        if not torch.is_tensor(mask):
            raise ValueError(f"mask must be a tensor of booleans, got {type(mask).__name__}")
        if mask.ndim != 2 or mask.dtype != torch.bool or not mask.any():
            raise ValueError(
                "mask must be booleans with two axes that keep a block, "
                f"got {mask.dtype} of shape {tuple(mask.shape)} with {int(mask.sum())} kept"
            )
        self.structure = {"mask": mask.clone()}  # the caller may go on to change theirs
        self.grid = tuple(mask.shape)
        self.block = (
            divide("rows", shape[0], mask.shape[0]),
            divide("columns", shape[1], mask.shape[1]),
        )
        for name, at in zip(("block_row", "block_col"), mask.nonzero(as_tuple=True), strict=True):
            self.register_buffer(name, at)
        self.blocks = nn.Parameter(torch.empty(len(self.block_row), *self.block))
        self.reset_parameters()

    def extra_repr(self) -> str:
        """Shape, block and the number kept, for ``repr``."""
        (rows, cols), (b, d) = self.shape, self.block
        kept, every = len(self.block_row), self.grid[0] * self.grid[1]
        return f"{rows}x{cols}, {kept} of {every} blocks of {b}x{d}"

    @staticmethod
    def largest(dense: Tensor, block: tuple[int, int], kept: int) -> Tensor:
        """The mask of the ``kept`` blocks of largest norm: no other mask loses less.

        Args:
            dense: A matrix.
            block: Rows and columns of a block.
            kept: Number of blocks.

        Raises:
            ValueError: The matrix has not two axes, the blocks do not divide it, there are not so
                many, or an entry is not finite.
        """
        if dense.ndim != 2:
            raise ValueError(f"a matrix must have two axes, got shape {tuple(dense.shape)}")
        (rows, cols), block = dense.shape, as_pair("block", block)
        kept = as_size("kept", kept, None)
        a, c = rows // block[0], cols // block[1]
        if a * block[0] != rows or c * block[1] != cols or not 1 <= kept <= a * c:
            raise ValueError(
                f"{kept} blocks of {tuple(block)} cannot be kept of a {rows}x{cols} matrix"
            )
        sizes = _block_norms(dense, (a, c))
        mask = torch.zeros(a * c, dtype=torch.bool, device=dense.device)
        mask[sizes.topk(kept).indices] = True
        return mask.view(a, c)

    @torch.no_grad()
    def prune_and_grow(
        self,
        kept: int,
        grown: int = 0,
        *,
        scores: Tensor | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Tensor:
        """Keep the blocks of largest norm, and let others grow where there were none.

        Surviving blocks stay as they are, to the bit, and new ones are zero. ``blocks`` remains the
        same parameter, in row-major order of the new mask, and its gradient is dropped.

        Args:
            kept: Number of blocks afterwards.
            grown: How many of them are new: the absent blocks of largest norm in ``scores``.
            scores: Of the shape of the matrix, most often the gradient of the loss with respect to
                the dense matrix; needed if blocks are to grow.
            optimizer: Its state of every surviving block moves along, that of a new one is zero.

        Returns:
            int64 positions of the new blocks in ``blocks``, ascending.

        Raises:
            TypeError: ``optimizer`` is no optimizer.
            ValueError: ``scores`` are missing or of another shape, there are not so many blocks to
                keep or to grow, an entry of a block or a score is not finite, or the optimizer has
                state that is not held block by block, as that of LBFGS.

        Source: arXiv 2507.03117 (BLaST).
        """
        kept, grown = as_size("kept", kept, None), as_size("grown", grown, None)
        every, old = self.grid[0] * self.grid[1], len(self.block_row)
        if not (0 <= grown <= min(kept, every - old) and 1 <= kept <= old + grown):
            raise ValueError(
                f"of {every} blocks {old} are stored, so {kept} cannot be kept with {grown} new"
            )
        if grown and (scores is None or scores.shape != self.shape):
            got = None if scores is None else tuple(scores.shape)
            raise ValueError(f"scores must have the shape of the matrix {self.shape}, got {got}")
        held = state_by_entry(optimizer, self.blocks)
        place = self.block_row * self.grid[1] + self.block_col
        survivors = norms(self.blocks).argsort(descending=True, stable=True)[: kept - grown]
        new = place[:0]
        if grown:
            sizes = _block_norms(scores, self.grid).index_fill(0, place, -1)
            new = sizes.topk(grown).indices
        places, order = torch.cat([place[survivors], new]).sort()
        source = torch.cat([survivors, torch.full_like(new, -1)])[order]
        fresh = (source < 0).nonzero()[:, 0]
        for name, state in held.items():
            optimizer.state[self.blocks][name] = state[source].index_fill(0, fresh, 0)
        self.blocks.data = self.blocks.data[source].index_fill(0, fresh, 0)
        self.blocks.grad = None
        self.block_row, self.block_col = places // self.grid[1], places % self.grid[1]
        self._moved()
        return fresh

    def _moved(self) -> None:
        """Forget what was derived from where the blocks stood."""
        mask = torch.zeros(self.grid, dtype=torch.bool, device=self.block_row.device)
        mask[self.block_row, self.block_col] = True
        if not torch.equal(mask, self.structure["mask"].to(mask.device)):
            self.structure = {"mask": mask}
            self.__dict__.pop("_patterns", None)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._moved()

    def reset_parameters(self) -> None:
        """Gaussian, by the number of stored entries in a row, so that the variance is kept."""
        stored = self.block_row.bincount(minlength=self.grid[0])[self.block_row] * self.block[1]
        with torch.no_grad():
            self.blocks.normal_().mul_(stored.to(self.blocks)[:, None, None] ** -0.5)

    def product(self, x: Tensor) -> Tensor:
        """Gather blocks of x, one small product each, add up by block row."""
        (a, c), (b, d) = self.grid, self.block
        gathered = x.mT.contiguous().view(c, d, len(x)).index_select(0, self.block_col)
        products = self.blocks @ gathered
        y = products.new_zeros(a, b, len(x)).index_add(0, self.block_row, products)
        return y.reshape(a * b, len(x)).mT

    def patterns(self) -> tuple[Pattern, ...]:
        """One pattern: a parameter of its own for every stored entry."""
        (b, d), kept = self.block, len(self.block_row)
        inside = einsum_pattern("kij -> ki, kj", k=kept, i=b, j=d)
        at, within = inside.row // b, inside.row % b
        row = self.block_row.cpu().numpy()[at] * b + within
        col = self.block_col.cpu().numpy()[at] * d + inside.col % d
        return (Pattern(self.shape, row, col, inside.index, inside.num_parameters),)

    @property
    def einsum(self) -> str:
        """Blocks, one-hot block rows, one-hot block columns, x."""
        return "kij,kI,kJ,BJj->BIi"

    def operands(self) -> tuple[Tensor, ...]:
        """The blocks, and constants that place them."""
        a, c = self.grid
        hot = (torch.eye(n).to(self.blocks)[at]
               for n, at in ((a, self.block_row), (c, self.block_col)))  # fmt: skip
        return self.blocks, *hot

    @property
    def dof(self) -> int:
        """All parameters."""
        return self.num_parameters

    @property
    def macs(self) -> int:
        """As many as there are parameters."""
        return self.num_parameters

    def _fit(self, dense: Tensor) -> None:
        (a, c), (b, d) = self.grid, self.block
        blocks = dense.reshape(a, b, c, d).transpose(1, 2)
        self.blocks.copy_(blocks[self.block_row, self.block_col])


def _block_norms(dense: Tensor, grid: tuple[int, int]) -> Tensor:
    """Norm of every block, row by row."""
    (a, c), (rows, cols) = grid, dense.shape
    return norms(dense.reshape(a, rows // a, c, cols // c).transpose(1, 2).flatten(0, 1))
