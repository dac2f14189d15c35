"""Whole networks: what they are as matrices, and what they do to one input."""

from .local import LocalMap, local_map
from .piecewise import Gate
from .table import Row, Summary, summary

__all__ = ["Gate", "LocalMap", "Row", "Summary", "local_map", "summary"]
