"""The matrix layers, each kind in one file with the rule that turns torch's module into it."""

from . import normalisation, padding, resampling, reshaping, simple, transposed
from .attention import SelfAttention, third_order
from .convolution import Conv1d, Conv2d, Conv3d
from .linear import SparseLinear
from .pooling import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool2d, avg_pool_pattern
from .recurrence import RNN

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "MaxPool2d",
    "RNN",
    "SelfAttention",
    "SparseLinear",
    "avg_pool_pattern",
    "normalisation",
    "padding",
    "resampling",
    "reshaping",
    "simple",
    "third_order",
    "transposed",
]
