"""Structured matrices: products of patterns filled with parameters, and layers that train them."""

from .adapter import AdaptedLinear
from .base import Projection, StructuredLinear, StructuredMatrix, parameter_groups
from .blast import Blast
from .block_low_rank import BlockLowRank, Monarch
from .block_sparse import BlockSparse
from .butterfly import Butterfly, bit_reversal
from .kronecker import KroneckerSum, hamilton, phm
from .low_rank import LowRank, Usv
from .network import from_module
from .rank_adaptive import kls_step
from .sms import read_sms
from .sparse_product import SparseProduct, butterfly_patterns
from .state_space import DiagonalStateSpace, diagonal_init, hippo_legs
from .strassen_tile import StrassenTile, StrassenTileLinear
from .tied import Circulant, Equivariant, Toeplitz
from .tile_bases import TileBases
from .tile_product import tile_product
from .tile_sequential import TileSequential
from .tile_tensor import (
    brent_residuals,
    flattening_bound,
    koszul_bound,
    koszul_flattening,
    matmul_tensor,
    multiply_adds,
)

__all__ = [
    "AdaptedLinear",
    "Blast",
    "BlockLowRank",
    "BlockSparse",
    "Butterfly",
    "Circulant",
    "DiagonalStateSpace",
    "Equivariant",
    "KroneckerSum",
    "LowRank",
    "Monarch",
    "Projection",
    "SparseProduct",
    "StrassenTile",
    "StrassenTileLinear",
    "StructuredLinear",
    "StructuredMatrix",
    "TileBases",
    "TileSequential",
    "Toeplitz",
    "Usv",
    "brent_residuals",
    "bit_reversal",
    "butterfly_patterns",
    "diagonal_init",
    "flattening_bound",
    "from_module",
    "hamilton",
    "hippo_legs",
    "kls_step",
    "koszul_bound",
    "koszul_flattening",
    "matmul_tensor",
    "multiply_adds",
    "parameter_groups",
    "phm",
    "read_sms",
    "tile_product",
]
