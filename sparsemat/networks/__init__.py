"""Whole networks: what they are as matrices, and what they do to one input."""

from .build import block_system
from .local import Jacobian, LocalMap, jacobian, local_map
from .piecewise import Gate
from .region import Region
from .secant import SecantMap, secant_map
from .system import BlockSystem, Node
from .table import Row, Summary, summary

__all__ = [
    "BlockSystem",
    "Gate",
    "Jacobian",
    "LocalMap",
    "Node",
    "Region",
    "Row",
    "SecantMap",
    "Summary",
    "block_system",
    "jacobian",
    "local_map",
    "secant_map",
    "summary",
]
