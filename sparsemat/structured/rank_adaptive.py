"""Training at low rank with a rank that adapts: the KLS integrator of dynamical low rank (DLRT)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .low_rank import Usv

ORTHONORMAL = 1e-5  # of the entries of U^T U; single precision reaches it


def kls_step(
    network: nn.Module, loss: Callable[[], Tensor], lr: float, tolerance: float | None = None
) -> Tensor:
    r"""One step of gradient descent on all :class:`Usv` matrices of a network.

    With G the gradient at $W=USV^T$: $K=US-\eta GV$ and $L=VS^T-\eta G^TU$ span new orthonormal
    bases $U_1=\mathrm{orth}[K|U]$ and $V_1=\mathrm{orth}[L|V]$, in which S takes a step, and is
    then cut. Nothing is divided by S, so small singular values do not slow it.

    Gradients of all other parameters are accumulated in ``.grad``, at the point where the step
    starts; step them with an optimizer of their own. A matrix that is frozen, or that the loss does
    not use, stays as it is.

    Args:
        network: Holds the matrices; U and V must have orthonormal columns.
        loss: Computes the loss, the same function each time it is called; it is called twice.
        lr: Learning rate η.
        tolerance: Singular values are cut whose norm is at most this part of the norm of all; at
            least two are kept. None keeps the rank.

    Returns:
        The loss at the start of the step.

    Raises:
        TypeError: A matrix is complex.
        ValueError: There is no matrix to train, or one is frozen in part, shares a parameter with
            another part, or has a U or V whose columns are not orthonormal.

    Whatever is raised, by the loss too: matrices and gradients are then what they were.

    Source: arXiv 2205.13571.
    """
    before = {matrix: matrix.thetas() for matrix in _trained(network)}
    grads = {p: None if p.grad is None else p.grad.clone() for p in network.parameters()}
    try:
        return _step(before, loss, lr, tolerance)
    except BaseException:
        for matrix, old in before.items():
            _set(matrix, *old)
        for parameter, grad in grads.items():
            parameter.grad = grad
        raise


def _step(
    before: dict[Usv, tuple[Tensor, ...]],
    loss: Callable[[], Tensor],
    lr: float,
    tolerance: float | None,
) -> Tensor:
    olds = {matrix: tuple(t.detach() for t in old) for matrix, old in before.items()}
    for matrix, (u, s, v) in olds.items():
        # W + A V^T + U B^T at A = B = 0: the gradients there are G V and G^T U
        eye, none = torch.eye(len(s)).to(s), torch.zeros_like(s)
        core = torch.cat([torch.cat([s, eye], 1), torch.cat([eye, none], 1)])
        _set(matrix, torch.cat([u, 0 * u], 1), core, torch.cat([v, 0 * v], 1))
    value = loss()
    value.backward()
    for matrix, (u, s, v) in list(olds.items()):
        if matrix.left.grad is None:  # the loss does not use it
            _set(matrix, *before[matrix])
            del olds[matrix]
            continue
        rank = len(s)
        k = u @ s - lr * matrix.left.grad[:, rank:]
        l = v @ s.mT - lr * matrix.right.grad[:, rank:]  # noqa: E741
        left, right = (_orthonormal(torch.cat(pair, 1)) for pair in ((k, u), (l, v)))
        _set(matrix, left, (left.mT @ u) @ s @ (v.mT @ right), right)
    if not olds:
        return value.detach()
    slopes = torch.autograd.grad(loss(), [matrix.core for matrix in olds])
    for (matrix, (_, s, _)), slope in zip(olds.items(), slopes, strict=True):
        p, sigma, q = torch.linalg.svd(matrix.core.detach() - lr * slope)
        rank = len(s)
        if tolerance is not None:
            shares = sigma.double() / sigma[0].double().clamp_min(torch.finfo(torch.double).tiny)
            tail = shares.square().flip(0).cumsum(0).flip(0).sqrt()
            rank = max(2, int((tail > tolerance * shares.norm()).sum()))
        rank = min(rank, len(sigma))
        left, right = matrix.left.detach() @ p[:, :rank], matrix.right.detach() @ q[:rank].mT
        _set(matrix, left, sigma[:rank].diag(), right)
    return value.detach()


def _trained(network: nn.Module) -> list[Usv]:
    """The matrices that are not frozen, after each is found fit for a step."""
    owners = Counter(p for part in network.modules() for p in part._parameters.values())
    found = []
    for path, matrix in network.named_modules():
        if not isinstance(matrix, Usv):
            continue
        where, parts = path or "matrix", dict(matrix.named_parameters(recurse=False))
        frozen = sorted(name for name, p in parts.items() if not p.requires_grad)
        if len(frozen) == 3:
            continue
        if frozen:
            raise ValueError(f"{where} must be trained as a whole or frozen, got {frozen} frozen")
        if matrix.dtype.is_complex:
            raise TypeError(f"{where} must be real, got {matrix.dtype}")
        shared = sorted(name for name, p in parts.items() if owners[p] > 1)
        if shared:
            raise ValueError(f"{where} must have parameters of its own, got {shared} shared")
        for name in ("left", "right"):
            columns = parts[name].detach()
            gram = columns.mT @ columns
            error = float((gram - torch.eye(len(gram)).to(gram)).abs().max())
            if not error <= ORTHONORMAL:
                raise ValueError(
                    f"{where}.{name} must have orthonormal columns to {ORTHONORMAL:g}, got an "
                    f"error of {error:.1g}; see Usv.project"
                )
        found.append(matrix)
    if not found:
        raise ValueError(f"network must hold a Usv to train, got none in {type(network).__name__}")
    return found


def _orthonormal(columns: Tensor) -> Tensor:
    return torch.linalg.qr(columns)[0]


def _set(matrix: Usv, left: Tensor, core: Tensor, right: Tensor) -> None:
    matrix.left, matrix.core, matrix.right = (
        t if isinstance(t, nn.Parameter) else nn.Parameter(t) for t in (left, core, right)
    )
    matrix.structure = {"rank": matrix.rank}
