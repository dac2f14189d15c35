"""Tile layers one after another that stay in the layout of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .strassen_tile import StrassenTileLinear, fill_tiles
from .tile_product import BLOCK_ROWS, from_tiles, is_differentiated, to_tiles

ENTRYWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid),
    *(nn.Softplus, nn.Identity, nn.Dropout),
)


class TileSequential(nn.Sequential):
    """Tile layers, and maps of single entries between them, without leaving the layout of tiles.

    What one layer decodes are tiles, and tiles are what the next one encodes: rows are laid out as
    tiles once at the beginning and back once at the end. The result is that of
    ``torch.nn.Sequential``, and for one state of torch's generator dropout drops the same entries.

    Args:
        layers: Modules of :class:`StrassenTileLinear` with tiles of one size, and of torch's
            activations and dropout.

    Raises:
        TypeError: A layer is of another type.
        ValueError: There is no tile layer, tiles have different sizes, or one layer does not have
            the features of the one before.

    Source: chapter "Strassen-Tile".
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self._tile_layers()

    def _tile_layers(self) -> list[StrassenTileLinear]:
        """The tile layers; modules can be exchanged at any time, so every call checks them."""
        for name, layer in self.named_children():
            if type(layer) is not StrassenTileLinear and type(layer) not in ENTRYWISE:
                raise TypeError(
                    "layers must be StrassenTileLinear or maps of single entries, got "
                    f"{type(layer).__name__} as layer {name}"
                )
        own = [layer for layer in self if isinstance(layer, StrassenTileLinear)]
        if not own:
            raise ValueError(f"there must be a tile layer, got {len(self)} layers without one")
        for a, b in pairwise(own):
            if a.bases.tile != b.bases.tile or a.out_features != b.in_features:
                raise ValueError(
                    "a layer must have the tile and the features of the one before, got "
                    f"tile={b.bases.tile} and in_features={b.in_features} after "
                    f"tile={a.bases.tile} and out_features={a.out_features}"
                )
        return own

    def forward(self, input: Tensor) -> Tensor:
        """Apply all layers to every t consecutive rows.

        Args:
            input: Shape ``(..., tokens, in_features)``.

        Returns:
            Tensor of shape ``(..., tokens, out_features)``.

        Raises:
            ValueError: input has one axis, or another last axis.
        """
        first = self._tile_layers()[0]
        first.check(input, "input")
        tokens, tile = input.shape[-2], first.bases.tile
        filled = fill_tiles(input, tile)
        real = None
        if filled.shape[-2] != tokens:
            real = torch.arange(filled.shape[-2], device=input.device) < tokens
            real = real.expand(filled.shape[:-1]).reshape(-1, 1)
        rows = filled.reshape(-1, input.shape[-1])
        if is_differentiated(rows, *self.parameters()) or any(map(_drops, self)):
            y = self._through(rows, real, tile, input.shape[:-1])
        else:  # blocks of rows do not meet, and small ones stay in cache
            step = BLOCK_ROWS // tile * tile
            parts = rows.split(step)
            reals = [None] * len(parts) if real is None else real.split(step)
            y = torch.cat([self._through(*part, tile) for part in zip(parts, reals, strict=True)])
        return y.reshape(*filled.shape[:-1], y.shape[-1])[..., :tokens, :]

    def _through(
        self, rows: Tensor, real: Tensor | None, tile: int, tokens: Sequence[int] = ()
    ) -> Tensor:
        """All layers; what fills a tile up is zero for each of them.

        ``tokens`` are the axes before the features, of which dropout draws its masks.
        """
        tiles = to_tiles(rows, tile)
        real = None if real is None else to_tiles(real.expand(-1, tile), tile)
        for layer in self:
            if isinstance(layer, StrassenTileLinear):
                tiles = layer.on_tiles(tiles if real is None else tiles * real)
            elif _drops(layer):  # in the order of torch.nn.Sequential
                mask = layer(tiles.new_ones(*tokens, tile * tiles.shape[2]))
                tiles = tiles * to_tiles(fill_tiles(mask, tile).flatten(0, -2), tile)
            else:
                tiles = layer(tiles)
        return from_tiles(tiles)


def _drops(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Dropout) and layer.training
