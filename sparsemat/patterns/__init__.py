"""Builders: the pattern of every kind of layer. NumPy only."""

from .attention import allowed_pairs, attention_pattern
from .convolution import conv_pattern, conv_transpose_pattern
from .gated import gru_pattern, lstm_pattern
from .normalisation import mean_pattern, norm_pattern
from .pooling import adaptive_avg_pool_pattern
from .recurrence import recurrence_patterns
from .simple import (
    dense_pattern,
    diagonal_pattern,
    identity_pattern,
    lag_pattern,
    mask_pattern,
    one_hot_pattern,
    permutation_pattern,
    selection_pattern,
    shift_pattern,
)

__all__ = [
    "adaptive_avg_pool_pattern",
    "allowed_pairs",
    "attention_pattern",
    "conv_pattern",
    "conv_transpose_pattern",
    "dense_pattern",
    "diagonal_pattern",
    "gru_pattern",
    "identity_pattern",
    "lag_pattern",
    "lstm_pattern",
    "mask_pattern",
    "mean_pattern",
    "norm_pattern",
    "one_hot_pattern",
    "permutation_pattern",
    "recurrence_patterns",
    "selection_pattern",
    "shift_pattern",
]
