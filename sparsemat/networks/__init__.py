"""Whole networks: what they are as matrices, and what they do to one input."""

from .local import LocalMap, local_map
from .table import Row, Summary, summary

__all__ = ["LocalMap", "Row", "Summary", "local_map", "summary"]
