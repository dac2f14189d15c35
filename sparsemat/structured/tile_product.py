"""The learned product of tiles: encode, multiply entry by entry, add, decode.

Three maps carry it, and each is a derivative of the others, so derivatives of every order are taken
by the same code: ``encode`` (tiles to coordinates), ``decode`` (coordinates to tiles) and their
common outer product. On strips of few rows a strip's tiles stay in cache. Where no derivative is
asked for, blocks of rows go through all steps at once, in memory that is used again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from ..products.casting import as_given, autocast
from ..products.product import is_traced, is_transformed, is_twice_forward

STRIP_ENTRIES, BLOCK_ROWS = 1 << 17, 1024


def tile_product(x: Tensor, weight: Tensor, encode: Tensor, decode: Tensor) -> Tensor:
    r"""The tile product $Y_{IJ}=D\sum_K (E\,\mathrm{vec}X_{IK})\odot\hat w_{KJ}$.

    ``vec`` reads a tile row by row. Rows of a tile mix: row ``a`` of the output may depend on all
    ``t`` rows of its tile of the input, whatever the encoded weights.

    Args:
        x: Shape ``(..., rows, t K)`` with ``rows`` a multiple of t, t by t tiles.
        weight: Encoded weights, shape ``(r, K, J)``.
        encode: E, shape ``(r, t * t)``: coordinates of a tile of x.
        decode: D, shape ``(t * t, r)``: tile of the output from its coordinates.

    Returns:
        Tensor of shape ``(..., rows, t J)``.

    Raises:
        ValueError: Two sizes do not agree, or tiles do not divide an axis; both are named.

    Source: arXiv 2503.12211; chapter "Strassen-Tile".
    """
    tile = _check(x, weight, encode, decode)
    weight, encode, decode, x = autocast(weight, encode, decode, x)
    rows = x.reshape(-1, x.shape[-1])
    given = rows, weight, encode, decode
    rank, inner, outer = weight.shape
    if torch.compiler.is_compiling() or is_twice_forward():
        coordinates = _encode_plain(rows, encode)
        summed = torch.bmm(coordinates.reshape(rank, -1, inner), weight)
        y = _decode_plain(summed.reshape(rank, -1, outer), decode)
    elif rows.numel() > STRIP_ENTRIES and not (
        is_differentiated(*given) or is_transformed() or is_traced(*given)
    ):
        y = _blockwise(*given)
    else:
        y = _Decode.apply(torch.bmm(_Encode.apply(rows, encode), weight), decode)
    return y.reshape(*x.shape[:-1], tile * outer)


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether a gradient of any of these is recorded, or a derivative taken forward."""
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return recorded or forward_ad._current_level >= 0


@as_given
def _blockwise(x: Tensor, weight: Tensor, encode: Tensor, decode: Tensor) -> Tensor:
    rank, inner, outer = weight.shape
    tile = x.shape[1] // inner
    step = max(1, min(BLOCK_ROWS, len(x)) // tile)
    slots = x.new_empty(rank + 1, step * max(inner, outer))
    out = x.new_empty(len(x), tile * outer)
    for part, target in zip(x.split(step * tile), out.split(step * tile), strict=True):
        tiles = len(part) // tile
        coordinates = slots[1:, : tiles * inner].view(rank, tiles, inner)
        summed = slots[:-1, : tiles * outer].view(rank, tiles, outer)
        _encode_into(coordinates, part, encode)
        for q in range(rank):  # into the slot before, whose coordinates are used up
            torch.mm(coordinates[q], weight[q], out=summed[q])
        _decode_into(target, summed, decode)
    return out


def encode_tiles(x: Tensor, encode: Tensor) -> Tensor:
    """Coordinates of the tiles of x.

    Args:
        x: Shape ``(rows, columns)``, both multiples of t.
        encode: Shape ``(r, t * t)``.

    Returns:
        Tensor of shape ``(r, rows / t, columns / t)``.
    """
    return _Encode.apply(x, encode)


def _check(x: Tensor, weight: Tensor, encode: Tensor, decode: Tensor) -> int:
    if encode.ndim != 2 or decode.shape != encode.shape[::-1]:
        raise ValueError(
            "encode must have shape (r, t * t) and decode (t * t, r), "
            f"got {tuple(encode.shape)} and {tuple(decode.shape)}"
        )
    rank, size = encode.shape
    tile = round(size**0.5)
    if tile * tile != size:
        raise ValueError(f"encode must have a square number t * t of columns, got {size}")
    if weight.ndim != 3 or weight.shape[0] != rank:
        raise ValueError(
            f"weight must have shape (r, K, J) with r={rank}, got {tuple(weight.shape)}"
        )
    if x.ndim < 2 or x.shape[-1] != tile * weight.shape[1] or x.shape[-2] % tile:
        raise ValueError(
            f"x must have shape (..., rows, {tile * weight.shape[1]}) with rows a multiple of the "
            f"tile {tile}, got {tuple(x.shape)}"
        )
    return tile


def to_tiles(x: Tensor, tile: int) -> Tensor:
    """Entries of the tiles, read row by row: ``(..., t I, t K)`` to ``(..., t * t, I, K)``."""
    *lead, rows, cols = x.shape
    x = x.reshape(*lead, rows // tile, tile, cols // tile, tile)
    x = x.movedim((-3, -1), (-4, -3))
    return x.reshape(*lead, tile * tile, rows // tile, cols // tile)


def from_tiles(tiles: Tensor) -> Tensor:
    """The inverse of :func:`to_tiles`."""
    *lead, size, rows, cols = tiles.shape
    tile = round(size**0.5)
    tiles = tiles.reshape(*lead, tile, tile, rows, cols).movedim((-4, -3), (-3, -1))
    return tiles.reshape(*lead, rows * tile, cols * tile)


def _encode_plain(x: Tensor, encode: Tensor) -> Tensor:
    tiles = to_tiles(x, round(encode.shape[-1] ** 0.5))
    coordinates = encode @ tiles.flatten(-2)
    return coordinates.reshape(*coordinates.shape[:-1], *tiles.shape[-2:])


def _decode_plain(z: Tensor, decode: Tensor) -> Tensor:
    tiles = decode @ z.flatten(-2)
    return from_tiles(tiles.reshape(*tiles.shape[:-1], *z.shape[-2:]))


def _outer_plain(x: Tensor, z: Tensor) -> Tensor:
    tiles = to_tiles(x, x.shape[-1] // z.shape[-1])
    return z.flatten(-2) @ tiles.flatten(-2).mT


def _strips(x: Tensor, tile: int):
    """A strip of rows of x, its tiles, and these as a matrix; the tiles' memory is used again."""
    rows, cols = x.shape
    step = max(1, min(STRIP_ENTRIES // max(1, cols), rows) // tile) * tile
    buffer = x.new_empty(step * cols)
    wide = _wide(x, tile)
    for start in range(0, rows, step):
        strip = x[start : start + step]
        held = buffer[: strip.numel()]
        at = slice(start // tile, (start + step) // tile)
        if wide is None:
            strip = strip.unflatten(0, (-1, tile)).unflatten(2, (-1, tile)).permute(1, 3, 0, 2)
            yield at, strip, held.view(strip.shape), held.view(tile * tile, -1)
        else:  # t neighbours are moved as one number, tile after tile
            strip = strip.view(wide).unflatten(0, (-1, tile)).transpose(1, 2)
            yield at, strip, held.view(wide).view(strip.shape), held.view(-1, tile * tile).t()


def _wide(x: Tensor, tile: int) -> torch.dtype | None:
    """A type as wide as the row of a tile, if x can be read as numbers of that type."""
    wide = {8: torch.float64, 16: torch.complex128}.get(tile * x.element_size())
    ahead = x.is_contiguous() and x.storage_offset() % tile == 0 and x.device.type == "cpu"
    return wide if ahead and not x.is_complex() and x.numel() else None


def _encode_into(out: Tensor, x: Tensor, encode: Tensor) -> Tensor:
    for at, strip, tiles, flat in _strips(x, x.shape[1] // out.shape[2]):
        tiles.copy_(strip)
        torch.mm(encode, flat, out=out[:, at].flatten(1))
    return out


def _decode_into(out: Tensor, z: Tensor, decode: Tensor) -> Tensor:
    for at, strip, tiles, flat in _strips(out, out.shape[1] // z.shape[2]):
        torch.mm(decode, z[:, at].flatten(1), out=flat)
        strip.copy_(tiles)
    return out


def _batch(info, in_dims, tensors, plain):
    tensors = [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=True)
    ]
    return plain(*tensors), 0


class _Bilinear(Function):
    """What the three maps share: both arguments are saved, the derivatives are maps again."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)


class _Encode(_Bilinear):
    @staticmethod
    @as_given
    def forward(x: Tensor, encode: Tensor) -> Tensor:
        rank, size = encode.shape
        tile = round(size**0.5)
        out = x.new_empty(rank, x.shape[0] // tile, x.shape[1] // tile)
        return _encode_into(out, x, encode)

    @staticmethod
    def backward(ctx, grad):
        x, encode = ctx.saved_tensors
        needs_x, needs_encode = ctx.needs_input_grad
        return (
            _Decode.apply(grad, encode.t()) if needs_x else None,
            _Outer.apply(x, grad) if needs_encode else None,
        )

    @staticmethod
    def jvp(ctx, dx, dencode):
        x, encode = ctx.saved_tensors
        return _sum(_Encode, (dx, encode), (x, dencode))

    @staticmethod
    def vmap(info, in_dims, *tensors):
        return _batch(info, in_dims, tensors, _encode_plain)


class _Decode(_Bilinear):
    @staticmethod
    @as_given
    def forward(z: Tensor, decode: Tensor) -> Tensor:
        tile = round(decode.shape[0] ** 0.5)
        out = z.new_empty(z.shape[1] * tile, z.shape[2] * tile)
        return _decode_into(out, z, decode)

    @staticmethod
    def backward(ctx, grad):
        z, decode = ctx.saved_tensors
        needs_z, needs_decode = ctx.needs_input_grad
        return (
            _Encode.apply(grad, decode.t()) if needs_z else None,
            _Outer.apply(grad, z).t() if needs_decode else None,
        )

    @staticmethod
    def jvp(ctx, dz, ddecode):
        z, decode = ctx.saved_tensors
        return _sum(_Decode, (dz, decode), (z, ddecode))

    @staticmethod
    def vmap(info, in_dims, *tensors):
        return _batch(info, in_dims, tensors, _decode_plain)


class _Outer(_Bilinear):
    """Coordinates times tiles: entry ``(q, e)`` sums ``z[q]`` times entry ``e`` of all tiles."""

    @staticmethod
    @as_given
    def forward(x: Tensor, z: Tensor) -> Tensor:
        tile = x.shape[1] // z.shape[2]
        out = x.new_zeros(z.shape[0], tile * tile)
        for at, strip, tiles, flat in _strips(x, tile):
            tiles.copy_(strip)
            out.addmm_(z[:, at].flatten(1), flat.t())
        return out

    @staticmethod
    def backward(ctx, grad):
        x, z = ctx.saved_tensors
        needs_x, needs_z = ctx.needs_input_grad
        return (
            _Decode.apply(z, grad.t()) if needs_x else None,
            _Encode.apply(x, grad) if needs_z else None,
        )

    @staticmethod
    def jvp(ctx, dx, dz):
        x, z = ctx.saved_tensors
        return _sum(_Outer, (dx, z), (x, dz))

    @staticmethod
    def vmap(info, in_dims, *tensors):
        return _batch(info, in_dims, tensors, _outer_plain)


def _sum(function, *arguments):
    """The sum over those arguments that are there; a missing tangent is zero."""
    terms = [function.apply(*pair) for pair in arguments if all(t is not None for t in pair)]
    return sum(terms[1:], terms[0])
