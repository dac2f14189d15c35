"""Neural-network layers as sparsity patterns filled with parameters."""

from .attention import SelfAttention, attention_pattern, third_order
from .convert import from_module, to_matrix
from .convolution import Conv1d, Conv2d, Conv3d, conv_pattern
from .data2matrix import (
    channels_last_order,
    commutation_order,
    image_to_vector,
    lag_pattern,
    matrix_to_series,
    matrix_to_tokens,
    matrix_to_vector,
    one_hot_pattern,
    permutation_pattern,
    series_to_matrix,
    tokens_to_matrix,
    vector_to_image,
    vector_to_matrix,
)
from .linear import SparseLinear, mask_pattern
from .matrix import SparseMatrix
from .pattern import Pattern
from .pooling import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool2d, avg_pool_pattern
from .recurrence import RNN, recurrence_patterns

__version__ = "0.1.0"

__all__ = [
    "from_module",
    "to_matrix",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "RNN",
    "Pattern",
    "SelfAttention",
    "SparseLinear",
    "SparseMatrix",
    "attention_pattern",
    "avg_pool_pattern",
    "channels_last_order",
    "commutation_order",
    "conv_pattern",
    "image_to_vector",
    "lag_pattern",
    "mask_pattern",
    "matrix_to_series",
    "matrix_to_tokens",
    "matrix_to_vector",
    "one_hot_pattern",
    "permutation_pattern",
    "recurrence_patterns",
    "series_to_matrix",
    "third_order",
    "tokens_to_matrix",
    "vector_to_image",
    "vector_to_matrix",
]
