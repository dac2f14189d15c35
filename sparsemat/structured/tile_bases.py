"""Bases of the tile product: how tiles are encoded and decoded, and how well that multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from ..arguments import as_size
from .sms import read_sms
from .tile_fit import alternating_least_squares, best_decode
from .tile_tensor import matmul_tensor

# rows 00, 01, 10, 11 of a tile; Strassen 1969
STRASSEN_ENCODE = ((1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0),
                   (-1, 0, 1, 0), (0, 1, 0, -1))  # fmt: skip
STRASSEN_WEIGHT = ((1, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, -1), (-1, 0, 1, 0), (0, 0, 0, 1),
                   (1, 1, 0, 0), (0, 0, 1, 1))  # fmt: skip
STRASSEN_DECODE = ((1, 0, 0, 1, -1, 0, 1), (0, 0, 1, 0, 1, 0, 0), (0, 1, 0, 1, 0, 0, 0),
                   (1, -1, 1, 0, 0, 1, 0))  # fmt: skip


class TileBases(nn.Module):
    r"""Encoders and decoder of a bilinear product of t by t tiles with r multiplications.

    The product of tiles X and W is $D\,(E\,\mathrm{vec}X\odot F\,\mathrm{vec}W)$. Layers that
    share bases share one such module. ``encode`` and ``decode`` are parameters; ``encode_weight``
    is a buffer, since layers store weights encoded and train those.

    Args:
        encode: E, shape ``(r, t²)``.
        encode_weight: F, shape ``(r, t²)``.
        decode: D, shape ``(t², r)``.

    Raises:
        ValueError: The shapes do not belong together, or the types.

    Source: arXiv 2503.12211; chapter "Strassen-Tile".
    """

    def __init__(self, encode: Tensor, encode_weight: Tensor, decode: Tensor) -> None:
        super().__init__()
        encode, encode_weight, decode = (
            torch.as_tensor(a, dtype=None if torch.is_tensor(a) else torch.get_default_dtype())
            for a in (encode, encode_weight, decode)
        )
        kinds = [a.dtype for a in (encode, encode_weight, decode)]
        if len(set(kinds)) > 1 or not (kinds[0].is_floating_point or kinds[0].is_complex):
            raise ValueError(f"all three must have one floating-point or complex type, got {kinds}")
        if encode.ndim != 2:
            raise ValueError(f"encode must have shape (r, t * t), got {tuple(encode.shape)}")
        rank, size = encode.shape
        if encode_weight.shape != (rank, size) or decode.shape != (size, rank):
            raise ValueError(
                "encode and encode_weight must have shape (r, t * t) and decode (t * t, r), got "
                f"{tuple(encode.shape)}, {tuple(encode_weight.shape)} and {tuple(decode.shape)}"
            )
        if round(size**0.5) ** 2 != size:
            raise ValueError(f"encode must have a square number t * t of columns, got {size}")
        self.encode = nn.Parameter(encode.clone())
        self.decode = nn.Parameter(decode.clone())
        self.register_buffer("encode_weight", encode_weight.clone())

    @property
    def rank(self) -> int:
        """Multiplications a pair of tiles, r."""
        return self.encode.shape[0]

    @property
    def tile(self) -> int:
        """Rows and columns of a tile, t."""
        return round(self.encode.shape[1] ** 0.5)

    def extra_repr(self) -> str:
        """Tile and rank, for ``repr``."""
        return f"tile={self.tile}, rank={self.rank}"

    @classmethod
    def naive(cls, tile: int, rank: int | None = None) -> Self:
        """The products ``x[i, k] w[k, j]`` of the definition, all t³ or the first ``rank``.

        They come by entries of the weight tile, t at a time, in the order of its diagonals: with
        ``rank = t s`` the scheme is a dense product whose weight tiles keep s of t² entries.

        Raises:
            ValueError: ``rank`` is not between 1 and t³.
        """
        tile = as_size("tile", tile)
        rank = _check_rank(tile**3 if rank is None else rank, tile**3)
        entries = [(k, (k + d) % tile) for d in range(tile) for k in range(tile)]
        triples = [(i, k, j) for k, j in entries for i in range(tile)][:rank]
        i, k, j = torch.tensor(triples).T
        one_hot = nn.functional.one_hot
        codes = (one_hot(n, tile * tile) for n in (i * tile + k, k * tile + j, i * tile + j))
        encode, encode_weight, decode = (c.to(torch.get_default_dtype()) for c in codes)
        return cls(encode, encode_weight, decode.T)

    @classmethod
    def strassen(cls, levels: int = 1) -> Self:
        """Strassen's seven products, applied to itself: t = 2^levels, r = 7^levels, exact."""
        levels = as_size("levels", levels)
        once = cls(STRASSEN_ENCODE, STRASSEN_WEIGHT, STRASSEN_DECODE)
        bases = once
        for _ in range(levels - 1):
            bases = bases.nested(once)
        return bases

    @classmethod
    def from_sms(cls, left: str | Path, right: str | Path, post: str | Path) -> Self:
        """A published scheme from its three files, for instance the rational one of 48 products.

        Args:
            left: File of E, r by t², as :func:`read_sms` reads it.
            right: File of F, r by t².
            post: File of D, t² by r.

        Raises:
            ValueError: A file has another form, or the shapes do not belong together.
        """
        dtype = torch.get_default_dtype()
        maps = (read_sms(path).astype(float) for path in (left, right, post))
        return cls(*(torch.as_tensor(matrix, dtype=dtype) for matrix in maps))

    @torch.no_grad()
    def nested(self, inner: TileBases) -> TileBases:
        """The scheme on tiles of tiles: this one outside, ``inner`` for each of its products."""

        def combine(outer: Tensor, small: Tensor) -> Tensor:
            s, t = self.tile, inner.tile
            both = torch.einsum("rab,scd->rsacbd", outer.reshape(-1, s, s), small.reshape(-1, t, t))
            return both.reshape(len(outer) * len(small), (s * t) ** 2)

        return type(self)(
            combine(self.encode, inner.encode),
            combine(self.encode_weight, inner.encode_weight),
            combine(self.decode.T, inner.decode.T).T,
        )

    @torch.no_grad()
    def select(self, products: Sequence[int] | Tensor) -> TileBases:
        """The scheme of some of the products, with the decoder that then misses least."""
        products = torch.as_tensor(products)
        encode, encode_weight = self.encode[products], self.encode_weight[products]
        decode = best_decode(encode, encode_weight)
        return type(self)(encode, encode_weight, decode).normalized()

    @classmethod
    def pruned(cls, rank: int, levels: int = 2, generator: torch.Generator | None = None) -> Self:
        """A random ``rank`` of the products of Strassen's scheme, the decoder fitted anew.

        Raises:
            ValueError: ``rank`` is not between 1 and 7^levels.
        """
        rank = _check_rank(rank, 7 ** as_size("levels", levels))
        return cls.strassen(levels).select(torch.randperm(7**levels, generator=generator)[:rank])

    @classmethod
    def random(cls, rank: int, tile: int = 4, generator: torch.Generator | None = None) -> Self:
        """Gaussian encoders, the decoder fitted by least squares."""
        rank, tile = _check_rank(rank, None), as_size("tile", tile)
        encode, encode_weight = torch.randn(2, rank, tile * tile, generator=generator)
        return cls(encode, encode_weight, best_decode(encode, encode_weight)).normalized()

    @classmethod
    def fit(
        cls,
        rank: int,
        tile: int = 4,
        *,
        ridge: float = 1e-3,
        sweeps: int = 500,
        start: TileBases | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        """A scheme fitted to the matrix product by alternating least squares with a ridge.

        Without a ridge the factors diverge: the best approximation need not exist.

        Args:
            rank: r.
            tile: t.
            ridge: Weight of the squared factors beside the squared error.
            sweeps: Updates of all three factors.
            start: Where to start; :meth:`random` if None.
            generator: Of the random start.
        """
        start = cls.random(rank, tile, generator) if start is None else start
        if (start.rank, start.tile) != (rank, tile):
            raise ValueError(
                f"start must have rank={rank} and tile={tile}, got {start.rank} and {start.tile}"
            )
        factors = start.encode.detach(), start.encode_weight, start.decode.detach()
        return cls(*alternating_least_squares(*factors, ridge=ridge, sweeps=sweeps)).normalized()

    @torch.no_grad()
    def normalized(self) -> TileBases:
        """The same product with encoders of unit rows: their scale moves to the decoder.

        A product one of whose encoders is zero is left as it is.
        """
        scales = []
        for rows in (self.encode, self.encode_weight):
            norm = rows.norm(dim=1)
            scales.append(torch.where(norm > 0, norm, torch.ones_like(norm)))
        return type(self)(
            self.encode / scales[0][:, None],
            self.encode_weight / scales[1][:, None],
            self.decode * (scales[0] * scales[1]),
        )

    def tensor(self) -> Tensor:
        """The tensor of the product, shape ``(t², t², t²)``: left tile, right tile, output."""
        return torch.einsum("qx,qw,yq->xwy", self.encode, self.encode_weight, self.decode)

    def error(self) -> float:
        """Mean squared error for white tiles, relative to the exact product: ``|T' - T|² / t³``."""
        exact = torch.as_tensor(matmul_tensor(self.tile)).to(self.encode)
        return ((self.tensor() - exact).square().sum() / self.tile**3).item()

    def energy(self) -> float:
        """Mean squared output for white tiles, relative to the exact product: ``|T'|² / t³``."""
        return (self.tensor().square().sum() / self.tile**3).item()

    def cancellation(self) -> float:
        r"""$\kappa=\sum_q|E_q|^2|F_q|^2|D_q|^2/|T|^2$.

        Independent relative noise of variance v on the encoded weights adds v times this to the
        relative squared error of the output.
        """
        norms = (self.encode, self.encode_weight, self.decode.T)
        product = torch.stack([n.square().sum(1) for n in norms]).prod(0)
        return (product.sum() / self.tile**3).item()

    def row_leak(self) -> float:
        """Share of the output's energy that comes from other rows of the tile, for white tiles.

        A product that is always zero leaks nothing.
        """
        t = self.tile
        energy = self.tensor().square().sum(1).reshape(t, t, t, t).sum((1, 3))
        if not energy.any():
            return 0.0
        return (1 - energy.diagonal().sum() / energy.sum()).item()


def _check_rank(rank: int, most: int | None) -> int:
    rank = as_size("rank", rank, None)
    if rank < 1 or (most is not None and rank > most):
        limit = "" if most is None else f" and at most {most}"
        raise ValueError(f"rank must be at least 1{limit}, got {rank}")
    return rank
