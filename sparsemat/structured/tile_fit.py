"""Least squares for the tile product: its decoder, all its factors, and encoded weights."""

from __future__ import annotations

import torch
from torch import Tensor

from .tile_tensor import matmul_tensor


def best_decode(encode: Tensor, encode_weight: Tensor) -> Tensor:
    """The decoder with the smallest error, given both encoders of shape ``(r, t²)``.

    Returns:
        Shape ``(t², r)``, in the encoders' type; of all best ones the smallest.
    """
    rank, size = encode.shape
    pairs = (encode.double()[:, :, None] * encode_weight.double()[:, None, :]).reshape(rank, -1)
    target = torch.as_tensor(matmul_tensor(round(size**0.5))).to(pairs).reshape(-1, size)
    return (target.T @ torch.linalg.pinv(pairs)).to(encode)


def alternating_least_squares(
    encode: Tensor, encode_weight: Tensor, decode: Tensor, *, ridge: float, sweeps: int
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Minimise $|T'-T|^2+\lambda(|E|^2+|F|^2+|D|^2)$, one factor at a time.

    Each step solves its factor exactly, so that the objective never rises. Before every sweep the
    three norms of each product are made equal, which lowers the penalty and keeps the product.

    Args:
        encode: E, shape ``(r, t²)``.
        encode_weight: F, likewise.
        decode: D, shape ``(t², r)``.
        ridge: The weight of the penalty, above 0.
        sweeps: How often each factor is solved.

    Returns:
        The three factors.

    Raises:
        ValueError: ``ridge`` is not above 0, or ``sweeps`` is negative.
    """
    if not ridge > 0 or sweeps < 0:
        raise ValueError(f"ridge must be above 0 and sweeps at least 0, got {ridge} and {sweeps}")
    like = encode
    factors = [encode.double(), encode_weight.double(), decode.T.double()]
    rank, size = encode.shape
    target = torch.as_tensor(matmul_tensor(round(size**0.5))).to(factors[0])
    unfolded = [target.movedim(axis, 0).reshape(size, -1) for axis in range(3)]
    eye = ridge * torch.eye(rank).to(target)
    for _ in range(sweeps):
        norms = [f.norm(dim=1).clamp_min(1e-30) for f in factors]
        mean = torch.stack(norms).log().mean(0).exp()
        factors = [f * (mean / n)[:, None] for f, n in zip(factors, norms, strict=True)]
        for axis in range(3):
            a, b = (factors[k] for k in range(3) if k != axis)
            pairs = (a[:, :, None] * b[:, None, :]).reshape(rank, -1)
            gram = (a @ a.T) * (b @ b.T) + eye
            factors[axis] = torch.linalg.solve(gram, pairs @ unfolded[axis].T)
    encode, encode_weight, decode = (f.to(like) for f in factors)
    return encode, encode_weight, decode.T


def fit_to_slabs(dense: Tensor, encode: Tensor, decode: Tensor) -> Tensor:
    r"""Encoded weights whose tile product is nearest to a matrix on slabs of t rows.

    For white inputs the mean squared error of the outputs is the squared distance of the matrices.
    Tiles decouple: with B the block of two tiles, t² by t², each solves
    $(D^TD\odot EE^T)\,\hat w=\mathrm{diag}(D^TBE^T)$.

    Args:
        dense: Shape ``(t * t J, t * t K)``; $I_t\otimes W^T$ for a dense layer.
        encode: E, shape ``(r, t²)``.
        decode: D, shape ``(t², r)``.

    Returns:
        Shape ``(r, K, J)``; of all nearest ones the smallest.
    """
    rank, size = encode.shape
    t = round(size**0.5)
    e, d = encode.double(), decode.double()
    blocks = dense.double().reshape(t, -1, t, t, dense.shape[1] // size, t)  # c J d, a K b
    aims = torch.einsum("cdq,cJdaKb->qJaKb", d.reshape(t, t, rank), blocks)
    aims = torch.einsum("qJaKb,qab->qKJ", aims, e.reshape(rank, t, t))
    inverse = torch.linalg.pinv((d.T @ d) * (e @ e.T), hermitian=True)
    return torch.einsum("pq,qKJ->pKJ", inverse, aims).to(dense)


def fit_to_outputs(
    coordinates: Tensor, outputs: Tensor, decode: Tensor, ridge: float = 1e-6
) -> Tensor:
    r"""Encoded weights that best reproduce given output tiles from given encoded inputs.

    Args:
        coordinates: Encoded inputs, shape ``(r, n, K)``, n tiles of rows.
        outputs: Entries of the output tiles, shape ``(t², n, J)``.
        decode: D, shape ``(t², r)``.
        ridge: Added to the diagonal of the normal equations, relative to its mean.

    Returns:
        Shape ``(r, K, J)``.

    Raises:
        ValueError: All encoded inputs are zero, or there are none: then every weight fits alike.
    """
    rank, _, inner = coordinates.shape
    if not coordinates.any():
        raise ValueError(
            "inputs must not all be zero, or they say nothing about the weights; got encoded "
            f"inputs of shape {tuple(coordinates.shape)} with 0 nonzeros"
        )
    z, y, d = coordinates.double(), outputs.double(), decode.double()
    gram = torch.einsum("qnk,pnl->qkpl", z, z) * (d.T @ d)[:, None, :, None]
    gram = gram.reshape(rank * inner, rank * inner)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    right = torch.einsum("qnk,qnj->qkj", z, torch.einsum("eq,enj->qnj", d, y))
    return torch.linalg.solve(gram, right.reshape(rank * inner, -1)).view_as(right).to(outputs)
