"""A network as one sparse unit lower triangular system over all its intermediate vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .. import memory
from ..algebra import as_array
from ..matrix import Matrix
from .follow import Block
from .operators import Operator
from .real import RealMatrix, Transposed

if TYPE_CHECKING:
    import scipy.sparse
    from matplotlib.axes import Axes


class Node(NamedTuple):
    """One block of unknowns: the result of one operation.

    Attributes:
        path: The part of the network that was running; empty for the network's own code.
        kind: The operation, by its name in torch; ``"input"`` for an input.
        shape: Shape of the result, with the batch axis.
        start: Its first unknown.
        stop: One past its last unknown.
        reads: The nodes that its rows read, by number.
        nnz: Nonzeros of the matrices in its rows.
        depends: What of them depends on the data: ``"gates"``, ``"selection"``, ``"attention"``,
            ``"statistics"``, ``"product"``; empty if they are fixed.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int
    reads: tuple[int, ...]
    nnz: int
    depends: str


class BlockSystem(RealMatrix):
    r"""The matrix $L = I - N$ of a network's unknowns, square and unit lower triangular.

    Made by :func:`sparsemat.block_system`. All intermediate vectors of a run stand one below the
    other, the inputs first: row i of $N$ says how unknown i is made of earlier ones, so that
    $L z = r$ with $r = (x, c)$: the input, then the constants that biases and gates add. One
    forward substitution is the forward pass.

    Attributes:
        nodes: The blocks, in the order in which they ran; see :class:`Node`.
        inputs: Number of entries of the inputs, the first unknowns.
        constant: The vector $(0, c)$, ``(n,)``.
        y: What the network returned, ``(rows,)``.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        inputs: Sequence[torch.Tensor],
        output: torch.Tensor,
        numbers: torch.Tensor,
    ) -> None:
        n = blocks[-1].start + blocks[-1].size
        self.shape, self.dtype, self.device = (n, n), output.dtype, output.device
        self.y, self.constant = output.reshape(-1).clone(), output.new_zeros(n)
        self.inputs = sum(x.numel() for x in inputs)
        self._terms: list[list[tuple[Operator, slice | torch.Tensor]]] = []
        nodes = []
        for block in blocks:
            here, terms, reads = slice(block.start, block.start + block.size), [], set()
            if block.constant is not None:
                self.constant[here] += block.constant
            for operator, at, known, sources in block.terms:
                reads |= sources
                if known is not None and known.any():
                    made = operator.apply(known.reshape(operator.source))
                    self.constant[here] += made.reshape(-1)
                terms.append((operator, at))
            self._terms.append(terms)
            nnz = sum(operator.nnz for operator, _ in terms)
            sides = here.start, here.stop, tuple(sorted(reads)), nnz
            nodes.append(Node(block.path, block.kind, block.shape, *sides, block.depends))
        self.nodes = tuple(nodes)
        self._output = numbers.reshape(-1).long()
        self._known = torch.where(self._output == 0, self.y, 0)
        self._x = torch.cat([x.reshape(-1) for x in inputs])

    @property
    def T(self) -> Matrix:
        """The transposed matrix, upper triangular; ``.T.solve`` is backward substitution."""
        return _Transposed(self)

    def right_hand_side(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The vector $r = (x, c)$ for other inputs, gates kept; the recorded ones by default.

        Raises:
            ValueError: The inputs do not have as many entries as the recorded ones.
        """
        x = torch.cat([x.reshape(-1) for x in inputs]) if inputs else self._x
        if x.numel() != self.inputs:
            raise ValueError(f"the inputs must have {self.inputs} entries, got {x.numel()}")
        r = self.constant.clone()
        r[: self.inputs] = x
        return r

    def solve(self, r: torch.Tensor) -> torch.Tensor:
        """The unknowns z of ``L z = r``, block by block in the order of the nodes.

        Args:
            r: Shape ``(n,)``, or ``(n, k)`` for k right-hand sides.

        Raises:
            ValueError: ``r`` has another shape or type.
        """
        return self._columns(self._checked(r), self._solve)

    def output(self, z: torch.Tensor) -> torch.Tensor:
        """The network's output, flat, from the unknowns ``(n,)``."""
        return self.select(z) + self._known

    def select(self, z: torch.Tensor) -> torch.Tensor:
        """The unknowns that are entries of the output, ``(rows,)``; zeros for those that are none.

        Args:
            z: Shape ``(n,)`` or ``(n, k)``.
        """
        return _padded(z)[self._output]

    def place(self, u: torch.Tensor) -> torch.Tensor:
        """The transpose of :meth:`select`: a vector of the output where its unknowns stand.

        Args:
            u: Shape ``(rows,)`` or ``(rows, k)``.
        """
        placed = u.new_zeros(self.shape[0] + 1, *u.shape[1:])
        return placed.index_add_(0, self._output, u)[1:]

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The whole matrix as a ``scipy.sparse.csr_array``, unit lower triangular. Needs SciPy.

        SciPy has no types of 16 bits: they become float32.

        Raises:
            MemoryError: It takes more than there is.
        """
        from scipy.sparse import csr_array

        count = sum(node.nnz for node in self.nodes) + self.shape[0]
        memory.require("the system", 2 * count * (self._x.element_size() + 4))
        kind = np.int32 if max(count, self.shape[0]) < 2**31 else np.int64
        parts = [self._rows(k, csr_array, kind) for k in range(len(self.nodes))]
        lengths = np.concatenate([np.diff(starts) for _, _, starts in parts])
        values, columns = (np.concatenate([part[i] for part in parts]) for i in range(2))
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(kind)
        return csr_array((values, columns, starts), shape=self.shape)

    def picture(self, ax: Axes | None = None) -> Axes:
        """Which node reads which, a square a block, coloured by what of it depends on the data."""
        from .picture import draw

        return draw(self, ax)

    def _rows(self, k: int, csr_array: Any, kind: type) -> tuple[np.ndarray, ...]:
        """Values, columns and starts of the rows of a node: minus its matrices, then ones."""
        node = self.nodes[k]
        rows, total = node.stop - node.start, None
        for operator, at in self._terms[k]:
            block = operator.csr()
            if isinstance(at, slice):
                entries = block.data, block.indices + kind(at.start - 1), block.indptr
            else:
                columns = at.numpy().astype(kind)[block.indices] - 1
                kept = columns >= 0  # the others are constants
                ends = np.concatenate([[0], np.cumsum(kept)])[block.indptr]
                entries = block.data[kept], columns[kept], ends.astype(kind)
            term = csr_array(entries, shape=(rows, self.shape[1]))
            term.sum_duplicates()
            total = term if total is None else total + term
        if total is None:
            total = csr_array((rows, self.shape[1]), dtype=as_array(self._x).dtype)
        starts = total.indptr + np.arange(rows + 1, dtype=kind)
        diagonal = np.zeros(total.nnz + rows, dtype=bool)
        diagonal[starts[1:] - 1] = True
        values, columns = np.ones(len(diagonal), total.dtype), np.empty(len(diagonal), kind)
        values[~diagonal], columns[~diagonal] = -total.data, total.indices
        columns[diagonal] = np.arange(node.start, node.stop)
        return values, columns, starts

    def _multiply(self, z: torch.Tensor) -> torch.Tensor:
        return self._columns(z, lambda v: v - self._forward(v, substitute=False))

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        return self._columns(u, lambda v: v - self._backward(v, substitute=False))

    def _solve(self, r: torch.Tensor) -> torch.Tensor:
        return self._forward(r, substitute=True)

    def _forward(self, r: torch.Tensor, substitute: bool) -> torch.Tensor:
        """The z of ``L z = r``, or ``N r``."""
        read = _padded(r)
        result = read if substitute else torch.zeros_like(read)
        for node, terms in zip(self.nodes, self._terms, strict=True):
            here = slice(node.start + 1, node.stop + 1)
            for operator, at in terms:
                result[here] += operator.apply(read[at].reshape(operator.source)).reshape(-1)
        return result[1:]

    def _backward(self, g: torch.Tensor, substitute: bool) -> torch.Tensor:
        """The v of ``L.T v = g``, or ``N.T g``."""
        read = _padded(g)
        result = read if substitute else torch.zeros_like(read)
        for node, terms in zip(self.nodes[::-1], self._terms[::-1], strict=True):
            here = read[node.start + 1 : node.stop + 1]
            for operator, at in terms:
                back = operator.adjoint(here.reshape(operator.target)).reshape(-1)
                if isinstance(at, slice):
                    result[at] += back
                else:
                    result.index_add_(0, at, back)
                    result[0] = 0
        return result[1:]

    def _columns(self, x: torch.Tensor, function: Any) -> torch.Tensor:
        with torch.no_grad():
            if x.ndim == 1:
                return function(x)
            columns = [function(column) for column in x.unbind(1)]
            return torch.stack(columns, 1) if columns else x.new_zeros(self.shape[0], 0)

    def _checked(self, r: torch.Tensor) -> torch.Tensor:
        if not torch.is_tensor(r) or r.ndim not in (1, 2) or r.shape[0] != self.shape[0]:
            shape = tuple(r.shape) if torch.is_tensor(r) else type(r).__name__
            raise ValueError(
                f"r must have shape (n,) or (n, k) with n={self.shape[0]}, got {shape}"
            )
        if r.dtype != self.dtype:
            raise ValueError(f"L and r must have one type, got {self.dtype} and {r.dtype}")
        return r

    def __repr__(self) -> str:
        return f"BlockSystem({self.shape[0]}x{self.shape[0]}, {len(self.nodes)} nodes)"


class _Transposed(Transposed):
    def solve(self, g: torch.Tensor) -> torch.Tensor:
        """The vector v of ``L.T v = g``: backward substitution, the backward pass."""
        system = self.matrix
        return system._columns(system._checked(g), lambda v: system._backward(v, substitute=True))


def _padded(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([z.new_zeros(1, *z.shape[1:]), z])
