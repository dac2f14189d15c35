"""Neural-network layers as sparsity patterns filled with parameters."""

from .attention import attention_pattern
from .convolution import conv_pattern
from .matrix import SparseMatrix
from .pattern import Pattern
from .pooling import avg_pool_pattern
from .recurrence import recurrence_patterns

__version__ = "0.1.0"

__all__ = [
    "Pattern",
    "SparseMatrix",
    "attention_pattern",
    "avg_pool_pattern",
    "conv_pattern",
    "recurrence_patterns",
]
