"""Training at low rank with a rank that adapts: the KLS integrator of dynamical low rank (DLRT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .low_rank import Usv


def kls_step(
    network: nn.Module, loss: Callable[[], Tensor], lr: float, tolerance: float | None = None
) -> Tensor:
    r"""One step of gradient descent on all :class:`Usv` matrices of a network.

    With G the gradient at $W=USV^T$: $K=US-\eta GV$ and $L=VS^T-\eta G^TU$ span new orthonormal
    bases $U_1=\mathrm{orth}[K|U]$ and $V_1=\mathrm{orth}[L|V]$, in which S takes a step, and is
    then cut. Nothing is divided by S, so small singular values do not slow it.

    Gradients of all other parameters are accumulated in ``.grad``, at the point where the step
    starts; step them with an optimizer of their own.

    Args:
        network: Holds the matrices; U and V must have orthonormal columns.
        loss: Computes the loss, the same function each time it is called; it is called twice.
        lr: Learning rate η.
        tolerance: Singular values are cut whose norm is at most this part of the norm of all; at
            least two are kept. None keeps the rank.

    Returns:
        The loss at the start of the step.

    Source: arXiv 2205.13571.
    """
    matrices = [m for m in network.modules() if isinstance(m, Usv)]
    olds = [(m.left.detach(), m.core.detach(), m.right.detach()) for m in matrices]
    for matrix, (u, s, v) in zip(matrices, olds, strict=True):
        # W + A V^T + U B^T at A = B = 0: the gradients there are G V and G^T U
        eye, none = torch.eye(len(s)).to(s), torch.zeros_like(s)
        core = torch.cat([torch.cat([s, eye], 1), torch.cat([eye, none], 1)])
        _set(matrix, torch.cat([u, 0 * u], 1), core, torch.cat([v, 0 * v], 1))
    value = loss()
    value.backward()
    for matrix, (u, s, v) in zip(matrices, olds, strict=True):
        rank = len(s)
        k = u @ s - lr * matrix.left.grad[:, rank:]
        l = v @ s.mT - lr * matrix.right.grad[:, rank:]  # noqa: E741
        left, right = (_orthonormal(torch.cat(pair, 1)) for pair in ((k, u), (l, v)))
        _set(matrix, left, (left.mT @ u) @ s @ (v.mT @ right), right)
    cores = [m.core for m in matrices]
    grads = torch.autograd.grad(loss(), cores)
    for matrix, grad, (_, s, _) in zip(matrices, grads, olds, strict=True):
        p, sigma, q = torch.linalg.svd(matrix.core.detach() - lr * grad)
        rank = len(s)
        if tolerance is not None:
            tail = sigma.square().flip(0).cumsum(0).flip(0).sqrt()
            rank = max(2, int((tail > tolerance * sigma.norm()).sum()))
        rank = min(rank, len(sigma))
        left, right = matrix.left.detach() @ p[:, :rank], matrix.right.detach() @ q[:rank].mT
        _set(matrix, left, sigma[:rank].diag(), right)
    return value.detach()


def _orthonormal(columns: Tensor) -> Tensor:
    return torch.linalg.qr(columns)[0]


def _set(matrix: Usv, left: Tensor, core: Tensor, right: Tensor) -> None:
    matrix.left, matrix.core, matrix.right = (nn.Parameter(t) for t in (left, core, right))
