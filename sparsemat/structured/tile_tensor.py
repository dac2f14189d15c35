"""The tensor of the product of two tiles, what a scheme of rank r misses of it, and bounds below.

Arrays only. A tile is read row by row: entry ``(i, k)`` is number ``i t + k``.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

from ..arguments import as_size


def matmul_tensor(tile: int) -> np.ndarray:
    r"""The tensor T of the product of t by t tiles, ``T[x, w, y]`` of shape ``(t²,) * 3``.

    Entry 1 where entry x of the left tile times entry w of the right tile is a term of entry y:
    ``T[i t + k, k t + j, i t + j] = 1``, else 0. Integers.
    """
    tile = as_size("tile", tile)
    i, k, j = np.meshgrid(*[np.arange(tile)] * 3, indexing="ij")
    tensor = np.zeros((tile * tile,) * 3, dtype=np.int64)
    tensor[i * tile + k, k * tile + j, i * tile + j] = 1
    return tensor


def brent_residuals(
    encode: np.ndarray, encode_weight: np.ndarray, decode: np.ndarray
) -> np.ndarray:
    r"""What is left of the Brent equations: $\sum_q E_q\otimes F_q\otimes D_q-T$.

    All zero if and only if the scheme multiplies every two tiles exactly. The arithmetic is that
    of the arrays: integers, or objects such as ``fractions.Fraction``, give an exact answer.

    Args:
        encode: E, shape ``(r, t²)``.
        encode_weight: F, shape ``(r, t²)``.
        decode: D, shape ``(t², r)``.

    Returns:
        Array of shape ``(t², t², t²)``: the left sides minus the right, t^6 equations.

    Raises:
        ValueError: The shapes do not belong together.
    """
    encode, encode_weight, decode = (np.asarray(a) for a in (encode, encode_weight, decode))
    rank, size = encode.shape
    tile = round(size**0.5)
    if encode_weight.shape != (rank, size) or decode.shape != (size, rank) or tile**2 != size:
        raise ValueError(
            "encode and encode_weight must have shape (r, t * t) and decode (t * t, r), got "
            f"{encode.shape}, {encode_weight.shape} and {decode.shape}"
        )
    pairs = (encode[:, :, None] * encode_weight[:, None, :]).reshape(rank, -1)
    return (pairs.T @ decode.T).reshape(size, size, size) - matmul_tensor(tile)


def multiply_adds(rows: int, cols: int, outputs: int, rank: int, tile: int) -> int:
    r"""Multiplications of the tile product of ``rows x cols`` and ``cols x outputs``.

    With weights stored encoded: $r\,n K M/t^3$ products, $r\,nK$ to encode, $r\,nM$ to decode.

    Raises:
        ValueError: The tile does not divide a size, or a number is no integer or too small.
    """
    rank, tile = as_size("rank", rank), as_size("tile", tile)
    for name, size in (("rows", rows), ("cols", cols), ("outputs", outputs)):
        if as_size(name, size, 0) % tile:
            raise ValueError(f"tile must divide {name}, got tile={tile} and {name}={size}")
    products = rank * (rows // tile) * (cols // tile) * (outputs // tile)
    return products + rank * rows * (cols + outputs)


def flattening_bound(tile: int, rank: int) -> float:
    r"""No scheme of this rank has a smaller relative error: $\max(0, 1-r/t^2)$.

    A flattening of T has $t^2$ singular values $\sqrt t$; one of rank r misses all but r of them.
    """
    return max(0.0, 1 - as_size("rank", rank, 0) / as_size("tile", tile) ** 2)


def koszul_bound(tile: int, rank: int, order: int = 3, seed: int = 0) -> float:
    r"""A floor of the relative error of every scheme of this rank, from Koszul flattenings.

    On a subspace A' of 2p+1 dimensions of the tile entries, the map
    $\Lambda^pA'\otimes B^*\to\Lambda^{p+1}A'\otimes C$ of a tensor of rank one has rank
    $\binom{2p}p$, and its squared norm is $\binom{2p}p$ times the tensor's. By Eckart and Young
    the squared error on A' is at least the tail of its squared singular values, divided by
    $\binom{2p}p$; orthogonal subspaces add.

    Args:
        tile: t.
        rank: r.
        order: p; as many subspaces of 2p+1 dimensions are taken as fit into t².
        seed: Of the random orthogonal subspaces; the bound holds for each.

    Returns:
        A number from 0 on; 0 says nothing.

    Raises:
        ValueError: No subspace of 2p+1 dimensions fits.
    """
    tile, rank, order = as_size("tile", tile), as_size("rank", rank, 0), as_size("order", order, 0)
    size, width = tile * tile, 2 * order + 1
    if width > size:
        raise ValueError(f"2 * order + 1 must be at most tile**2={size}, got order={order}")
    terms = comb(2 * order, order)
    spectra = _koszul_spectra(tile, order, seed)
    return float(sum((sigma[rank * terms :] ** 2).sum() for sigma in spectra) / terms / tile**3)


@lru_cache(maxsize=4)
def _koszul_spectra(tile: int, order: int, seed: int) -> list[np.ndarray]:
    """Singular values on each of the subspaces, which are the same for every rank."""
    size, width = tile * tile, 2 * order + 1
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    parts = (basis[:, k : k + width] for k in range(0, size - width + 1, width))
    flats = (np.tensordot(part, matmul_tensor(tile), (0, 0)) for part in parts)
    return [np.linalg.svd(koszul_flattening(flat, order), compute_uv=False) for flat in flats]


def koszul_flattening(tensor: np.ndarray, order: int) -> np.ndarray:
    r"""The matrix of $\Lambda^pA\otimes B^*\to\Lambda^{p+1}A\otimes C$.

    Args:
        tensor: Shape ``(a, b, c)``.
        order: p, below a.

    Returns:
        Matrix of shape ``(C(a, p+1) c, C(a, p) b)``: wedging with the first factor.
    """
    width, b, c = tensor.shape
    sources = {s: n for n, s in enumerate(combinations(range(width), order))}
    targets = list(combinations(range(width), order + 1))
    out = np.zeros((len(targets), c, len(sources), b))
    for row, target in enumerate(targets):
        for place, new in enumerate(target):
            column = sources[target[:place] + target[place + 1 :]]
            out[row, :, column, :] = (-1) ** place * tensor[new].T
    return out.reshape(len(targets) * c, len(sources) * b)
