"""Modules to matrices, and networks to networks of matrix layers."""

from .matrices import to_matrix
from .swap import from_module

__all__ = ["from_module", "to_matrix"]
