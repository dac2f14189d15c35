"""How the output of any network is made of its input, with gates and attention frozen."""

from __future__ import annotations

import torch
from torch import nn

from .build import block_system
from .real import RealMatrix
from .system import BlockSystem


class SecantMap(RealMatrix):
    r"""The matrix M(x) with $f(x) = M(x) x + b(x)$, not formed.

    Made by :func:`sparsemat.secant_map`. It is the block of $L^{-1}$ from the inputs to the output.

    ``M @ v`` is one forward substitution, ``M.T @ u`` and ``row(i)`` one backward substitution.

    Attributes:
        system: The triangular system that it solves.
        y: The output at x, ``(rows,)``.
        offset: The vector $b(x)$: what the constants alone give.
    """

    def __init__(self, system: BlockSystem) -> None:
        self.system, self.y = system, system.y
        self.shape = len(system.y), system.inputs
        self.dtype, self.device = system.dtype, system.device
        self.offset = system.output(system.solve(system.constant))

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        system = self.system
        r = x.new_zeros(system.shape[0], x.shape[1])
        r[: system.inputs] = x
        return system.select(system.solve(r))

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        system = self.system
        return system.T.solve(system.place(u))[: system.inputs]

    def __repr__(self) -> str:
        return f"SecantMap({self.shape[0]}x{self.shape[1]}, {self.system!r})"


def secant_map(model: nn.Module, *inputs: torch.Tensor) -> SecantMap:
    r"""The matrix M(x) and the offset b(x) with $f(x) = M(x) x + b(x)$, for any network.

    Gates, selections, softmax attention and the statistics of norms are frozen at x, as
    :func:`sparsemat.block_system` says. For a piecewise linear network it is the local map and the
    Jacobian; with smooth gates, attention or norms it is neither: **it does not tell how the output
    changes with the input** (see :func:`sparsemat.jacobian`). That such a matrix exists says
    nothing: any f with $f(0) = 0$ has $f(x) = \bigl(f(x) x^\top / |x|^2\bigr) x$. What says
    something is how this one is made, as a product of sparse matrices.

    Args:
        model: The network, in the mode in which it shall run; it stays as it is.
        inputs: Its arguments, each one input without the batch axis; the columns of M are the
            entries of those of floating-point numbers, one after the other.

    Returns:
        A :class:`sparsemat.networks.SecantMap` of shape ``(y.numel(), x.numel())``.

    Raises:
        TypeError: As :func:`sparsemat.block_system`.

    Source: chapter "A CNN as one matrix".
    """
    return SecantMap(block_system(model, *inputs))
