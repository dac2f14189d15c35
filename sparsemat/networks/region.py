"""The inputs at which all gates of a network are the same: linear inequalities, not written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch

from ..algebra import Matrix
from .bends import Faces
from .piecewise import Gate
from .real import ByColumns


class Region:
    r"""The inputs $x'$ with $G x' \le h$: those at which every gate and selection is as at x.

    Made by :meth:`sparsemat.networks.LocalMap.region`. It is convex, and on it the network is one
    matrix and one constant. A gate has a row for each entry that it reads, two if it has a bend on
    either side; a maximum one for each candidate that it did not select; a comparison one for each
    entry. The rows stand in the order of the gates, those of a gate in row-major order.

    Attributes:
        G: Matrix ``(rows, x.numel())``, not formed: ``G @ v`` is one product, ``G.row(i)`` one
            backward pass.
        h: The bounds, ``(rows,)``.
        rows: For each of the map's gates the slice of its rows.
    """

    def __init__(
        self, x: torch.Tensor, G: Matrix, slack: torch.Tensor, rows: tuple[slice, ...]
    ) -> None:
        self.G, self.rows, self._slack = G, rows, slack
        self.h = slack + G @ x.detach()

    def contains(self, *inputs: torch.Tensor) -> bool:
        """Whether the network has the same gates at other inputs, but for rounding at the border.

        Args:
            inputs: Those of floating-point numbers among its arguments, as the map was given them.

        Raises:
            ValueError: They have another number of entries or another type.
        """
        x = torch.cat([x.detach().reshape(-1) for x in inputs])
        return bool((self.G @ x <= self.h).all())

    def distances(self) -> torch.Tensor:
        """How far x is from where each inequality becomes an equation, ``(rows,)``.

        The smallest is the distance from x to the border of the region; infinite where no input
        makes it an equation. Takes as many products as G has rows or columns, whichever are fewer.
        """
        rows, cols = self.G.shape
        if rows <= cols:
            norms = [self.G.row(i).norm() for i in range(rows)]
            norms = torch.stack(norms) if norms else self._slack
        else:
            norms, unit = torch.zeros_like(self._slack), self._slack.new_zeros(cols)
            for j in range(cols):
                unit[j] = 1
                norms += (self.G @ unit).square()
                unit[j] = 0
            norms.sqrt_()
        return torch.where(norms > 0, self._slack / norms, torch.inf)

    def __repr__(self) -> str:
        rows, cols = self.G.shape
        return f"Region({rows} inequalities in {cols} dimensions)"


class _Walls(ByColumns):
    """The left sides of inequalities, as autograd knows them."""

    def __init__(self, x: torch.Tensor, faces: Sequence[Faces]) -> None:
        self._x, self._faces = x, faces
        self._sizes = [len(face.slack) for face in faces]
        self.shape = sum(self._sizes), x.numel()
        self.dtype, self.device = x.dtype, x.device
        self._unit = x.detach().new_zeros(self.shape[0]).requires_grad_()
        # linear in the unit, so that its own gradient is the product with G
        self._back = self._gradient(self._unit, create_graph=True)

    def _pushed(self, v: torch.Tensor) -> torch.Tensor:
        if self._back is None:
            return v.new_zeros(self.shape[0])
        return torch.autograd.grad(self._back, self._unit, v, retain_graph=True)[0]

    def _pulled(self, u: torch.Tensor) -> torch.Tensor:
        gradient = self._gradient(u)
        return u.new_zeros(self.shape[1]) if gradient is None else gradient

    def _gradient(self, u: torch.Tensor, create_graph: bool = False) -> torch.Tensor | None:
        edges, gradients = [], []
        for face, own in zip(self._faces, u.split(self._sizes), strict=True):
            if not (create_graph or own.any()):
                continue  # nothing to go back for
            for read, at, sign in face.terms:
                zero = sign.new_zeros(read.value.numel())
                gradient = zero.index_add(0, at, sign * own.to(sign.dtype))
                edges.append(read.edge())
                gradients.append(gradient.reshape(read.value.shape))
        if not edges:
            return None
        options = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
        return torch.autograd.grad(edges, self._x, gradients, **options)[0]


def region(
    x: torch.Tensor, gates: Sequence[Gate], walls: Sequence[Callable[[], Faces | None] | None]
) -> Region:
    """The region of a run.

    Args:
        x: Its input.
        gates: What was chosen.
        walls: For each of them what tells its inequalities, None where nothing does.

    Raises:
        TypeError: The inequalities of a gate are not known; with its name and part.
    """
    found = []
    for gate, wall in zip(gates, walls, strict=True):
        made = wall and wall()
        if made is None:
            raise TypeError(
                f"{gate.path or 'the network itself'}: {gate.kind} must be a gate, a comparison, a "
                "maximum or a sorting of numbers that autograd follows for the region to have "
                "linear inequalities, got another choice or numbers that were detached and changed"
            )
        found.append(made)
    ends = accumulate((len(face.slack) for face in found), initial=0)
    slack = [x.detach().new_zeros(0), *(face.slack.to(x.dtype) for face in found)]
    rows = tuple(slice(*pair) for pair in pairwise(ends))
    return Region(x, _Walls(x, found), torch.cat(slack), rows)
