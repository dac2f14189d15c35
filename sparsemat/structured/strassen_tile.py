"""Strassen-Tile: a linear layer whose matrix product is a learned product of tiles."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..lazy import Chain
from ..matrix import SparseMatrix
from ..pattern import Pattern
from .base import Projection, StructuredMatrix, require_plain, require_real
from .patterns import einsum_pattern
from .tile_bases import TileBases
from .tile_fit import fit_to_outputs, fit_to_slabs
from .tile_product import encode_tiles, tile_product, to_tiles
from .tile_tensor import multiply_adds


class StrassenTile(StructuredMatrix):
    r"""The tile product with encoded weights, as a matrix on slabs of t rows.

    Applied to a slab of t rows and K columns, read row by row, it gives a slab of t rows and M
    columns: encode, multiply, decode, three patterns of which the outer two are tied. It equals
    $I_t\otimes W^T$, a dense layer applied to each row, only where the tile product is exact for
    W; otherwise the rows of a slab mix.

    Args:
        shape: ``(t M, t K)``, M and K multiples of t.
        bases: The encoder and the decoder; other matrices may share them.

    Raises:
        ValueError: t² does not divide the shape.

    Source: arXiv 2503.12211; chapter "Strassen-Tile".
    """

    def __init__(self, shape: tuple[int, int], bases: TileBases) -> None:
        super().__init__(shape, bases=bases)
        square = bases.tile**2
        if shape[0] % square or shape[1] % square:
            raise ValueError(f"t * t = {square} must divide both sizes of shape {tuple(shape)}")
        self.bases = bases
        inner, outer = shape[1] // square, shape[0] // square
        like = {"dtype": bases.encode.dtype, "device": bases.encode.device}
        self.weight = nn.Parameter(torch.empty(bases.rank, inner, outer, **like))
        self.reset_parameters()

    def extra_repr(self) -> str:
        """Shape, for ``repr``; the bases follow."""
        return f"{self.shape[0]}x{self.shape[1]}"

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A dense layer's start, encoded, and scaled so that outputs keep its variance."""
        t, (rank, inner, outer) = self.bases.tile, self.weight.shape
        dense = torch.empty(t * t, inner * outer).to(self.weight)
        dense.uniform_(-1, 1).mul_((t * inner) ** -0.5)
        scale = max(self.bases.energy(), 1e-12) ** -0.5
        encoded = self.bases.encode_weight.to(dense) @ dense * scale
        self.weight.copy_(encoded.reshape(rank, inner, outer))

    def product(self, x: Tensor) -> Tensor:
        """The tile product of each slab."""
        t = self.bases.tile
        rows = x.reshape(len(x), t, self.shape[1] // t)
        return tile_product(rows, self.weight, self.bases.encode, self.bases.decode).flatten(1)

    def patterns(self) -> tuple[Pattern, ...]:
        """Decode (tied), multiply (a grid of diagonals), encode (tied)."""
        (rank, inner, outer), t = self.weight.shape, self.bases.tile
        sizes = dict(zip("abcdqKJ", (t, t, t, t, rank, inner, outer), strict=True))
        return (
            einsum_pattern("cdq -> cJd, Jq", **sizes),
            einsum_pattern("qKJ -> Jq, Kq", **sizes),
            einsum_pattern("qab -> Kq, aKb", **sizes),
        )

    def thetas(self) -> tuple[Tensor, ...]:
        """Decoder, encoded weights, encoder."""
        return self.bases.decode, self.weight, self.bases.encode

    @property
    def einsum(self) -> str:
        """Decoder, encoded weights, encoder, x."""
        return "cdq,qKJ,qab,BaKb->BcJd"

    def operands(self) -> tuple[Tensor, ...]:
        """Decoder, encoded weights and encoder, tiles with two axes."""
        t = self.bases.tile
        decode, encode = self.bases.decode, self.bases.encode
        return decode.unflatten(0, (t, t)), self.weight, encode.unflatten(1, (t, t))

    @property
    def dof(self) -> int:
        """Parameters minus 2 r, for generic bases and enough tiles (a product has two scales)."""
        return self.num_parameters - 2 * self.bases.rank

    @property
    def macs(self) -> int:
        """Of one slab of t rows, with r K M / t² products and r t (K + M) to encode and decode."""
        t = self.bases.tile
        return multiply_adds(t, self.shape[1] // t, self.shape[0] // t, self.bases.rank, t)

    @classmethod
    def project(cls, dense: Tensor, *, bases: TileBases) -> Projection:
        """The nearest matrix for these bases, which are used as they are.

        Args:
            dense: The matrix, real.
            bases: Encoder and decoder, of its type.

        Raises:
            TypeError: The matrix is complex.
            ValueError: As of every structured matrix, or the bases have another type.
        """
        require_real(dense)
        _require_type(bases, dense)
        return super().project(dense, bases=bases)

    def _fit(self, dense: Tensor) -> None:
        """One least squares problem a tile."""
        bases = self.bases
        self.weight.copy_(fit_to_slabs(dense, bases.encode.detach(), bases.decode.detach()))


class StrassenTileLinear(nn.Module):
    r"""A layer like ``torch.nn.Linear`` that multiplies by tiles; weights are stored encoded.

    ``t`` consecutive rows share a tile and mix. Rows must be tokens of one sample, never samples of
    a batch, and their order must not be causal. A number of rows that t does not divide is filled
    up with zero rows, sample by sample.

    Args:
        in_features: K, a multiple of t.
        out_features: M, a multiple of t.
        bases: Encoder and decoder; layers that are given the same module share them.
        bias: Whether to add a number to every output.

    Raises:
        ValueError: t does not divide a size.

    Source: arXiv 2503.12211; chapter "Strassen-Tile".
    """

    def __init__(
        self, in_features: int, out_features: int, bases: TileBases, bias: bool = True
    ) -> None:
        super().__init__()
        t = bases.tile
        if in_features % t or out_features % t:
            raise ValueError(
                f"the tile {t} must divide both sizes, got in_features={in_features} and "
                f"out_features={out_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.slab = StrassenTile((t * out_features, t * in_features), bases)
        zeros = torch.zeros(out_features).to(self.slab.weight)
        self.register_parameter("bias", nn.Parameter(zeros) if bias else None)

    @classmethod
    @torch.no_grad()
    def from_linear(cls, linear: nn.Linear, bases: TileBases, inputs: Tensor | None = None) -> Self:
        """The layer nearest to a dense one for these bases; the bias is copied.

        Args:
            linear: The dense layer.
            bases: Encoder and decoder, of the layer's type; they are used as they are.
            inputs: What the dense layer sees, shape ``(..., tokens, in_features)``: the squared
                error of the outputs on these is minimised. None stands for white inputs.

        Raises:
            ValueError: t does not divide a size, the inputs have another last axis or are all
                zero, the bases have another type, or the dense layer is none that its weight and
                bias alone describe.
        """
        require_plain(linear)
        _require_type(bases, linear.weight)
        layer = cls(linear.in_features, linear.out_features, bases, linear.bias is not None)
        layer.to(linear.weight)
        encode, decode = bases.encode.detach(), bases.decode.detach()
        if inputs is None:
            eye = torch.eye(bases.tile).to(linear.weight)
            fitted = fit_to_slabs(torch.kron(eye, linear.weight), encode, decode)
        else:
            layer.check(inputs, "inputs")
            x = fill_tiles(inputs, bases.tile).reshape(-1, linear.in_features).to(linear.weight)
            outputs = to_tiles(x @ linear.weight.mT, bases.tile)
            fitted = fit_to_outputs(encode_tiles(x, encode), outputs, decode)
        layer.slab.weight.copy_(fitted)
        if linear.bias is not None:
            layer.bias.copy_(linear.bias)
            layer.bias.requires_grad_(linear.bias.requires_grad)
        layer.slab.weight.requires_grad_(linear.weight.requires_grad)
        layer.training = layer.slab.training = linear.training  # the bases may be others' too
        return layer

    @property
    def bases(self) -> TileBases:
        """Encoder and decoder."""
        return self.slab.bases

    def matrix(self) -> SparseMatrix | Chain:
        """The lazy matrix of a slab of t rows; see :class:`StrassenTile`. The bias is no part."""
        return self.slab.matrix()

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to every t consecutive rows.

        Args:
            input: Shape ``(..., tokens, in_features)``.

        Returns:
            Tensor of shape ``(..., tokens, out_features)``.

        Raises:
            ValueError: input has one axis, or another last axis.
        """
        self.check(input, "input")
        tokens, bases = input.shape[-2], self.bases
        input = fill_tiles(input, bases.tile)
        y = tile_product(input, self.slab.weight, bases.encode, bases.decode)[..., :tokens, :]
        return y if self.bias is None else y + self.bias

    def on_tiles(self, tiles: Tensor) -> Tensor:
        """Apply the layer to tiles; see :class:`TileSequential`.

        Args:
            tiles: Their entries, row by row: shape ``(t * t, rows / t, in_features / t)``.

        Returns:
            Tensor of shape ``(t * t, rows / t, out_features / t)``.
        """
        bases, t = self.bases, self.bases.tile
        encoded = (bases.encode @ tiles.flatten(1)).unflatten(1, tiles.shape[1:])
        summed = torch.bmm(encoded, self.slab.weight)
        y = (bases.decode @ summed.flatten(1)).unflatten(1, summed.shape[1:])
        if self.bias is None:
            return y
        columns = self.bias.unflatten(0, (-1, t)).mT[:, None]  # an entry for every column of a tile
        return (y.unflatten(0, (t, t)) + columns).flatten(0, 1)

    def check(self, x: Tensor, name: str = "x") -> None:
        """Refuse what is not rows of the layer's features.

        Raises:
            ValueError: x has one axis, or another last axis; ``name`` and both sizes are named.
        """
        if x.ndim < 2 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{name} must have shape (..., tokens, in_features) with "
                f"in_features={self.in_features}, got {tuple(x.shape)}"
            )


def _require_type(bases: TileBases, like: Tensor) -> None:
    """Refuse bases that a layer would have to round, since other layers may share them.

    Raises:
        ValueError: Their type is not that of the dense matrix; both are named.
    """
    if bases.encode.dtype != like.dtype:
        raise ValueError(
            "bases and the dense matrix must have one type, since other layers may share the "
            f"bases, got {bases.encode.dtype} and {like.dtype}"
        )


def fill_tiles(x: Tensor, tile: int) -> Tensor:
    """Zero rows after the last one, until the tile divides their number."""
    missing = -x.shape[-2] % tile
    return pad(x, (0, 0, 0, missing)) if missing else x
