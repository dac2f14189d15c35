"""The matrix layers, each kind in one file with the rule that turns torch's module into it."""

from . import embedding, normalisation, padding, resampling, reshaping, simple
from .adaptive import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
)
from .attention import SelfAttention, third_order
from .cells import GRUCell, LSTMCell, RNNCell
from .convolution import Conv1d, Conv2d, Conv3d
from .gated import GRU, LSTM, BidirectionalRNN
from .linear import SparseLinear
from .maxima import MaxPool1d, MaxPool2d, MaxPool3d
from .multihead import MultiheadAttention
from .norms import GroupNorm, LayerNorm, LayerNorm2d, RMSNorm
from .pooling import AvgPool1d, AvgPool2d, AvgPool3d, avg_pool_pattern
from .recurrence import RNN
from .transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "GRU",
    "GRUCell",
    "GroupNorm",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "LayerNorm2d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BidirectionalRNN",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MultiheadAttention",
    "RNN",
    "RNNCell",
    "RMSNorm",
    "SelfAttention",
    "SparseLinear",
    "avg_pool_pattern",
    "embedding",
    "normalisation",
    "padding",
    "resampling",
    "reshaping",
    "simple",
    "third_order",
]
