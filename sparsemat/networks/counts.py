"""What the matrix of one part of a network is for one input, counted and not built."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from ..convert.record import Call, one_shape
from ..convert.sizes import PerSize
from ..kronecker import kron
from ..layers.attention import SelfAttention
from ..layers.recurrence import RNN
from ..layers.simple import BATCH_NORM, DROPOUT, ELEMENTWISE
from ..pattern import Pattern
from ..patterns.simple import dense_pattern, diagonal_pattern, identity_pattern, zero_one
from ..rules import find, like, spatial_dims

INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, *INSTANCE_NORM)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
MAXIMA += (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class Count(NamedTuple):
    """The matrix of a part for one input.

    Attributes:
        shape: Rows and columns; None where several matrices act, as in a recurrence.
        nnz: Nonzeros, of all the matrices.
        operations: Multiplications and additions of a product with it, as it is multiplied.
        pattern: Its pattern, None where that depends on the data or was not built.
        depends: What of it depends on the data; empty if nothing.
    """

    shape: tuple[int, int] | None
    nnz: int
    operations: int
    pattern: Pattern | None
    depends: str


def count(part: nn.Module, call: Call, batch: int) -> Count | None:
    """The matrix of one call, for one of ``batch`` inputs.

    None for a part of no known kind, one called with packed sequences or with nothing, and tokens
    of which the shape does not tell how many are those of one input.

    Raises:
        ValueError: As the rule of its kind.
    """
    packed = any(isinstance(x, PackedSequence) for x in (*call.args, *call.kwargs.values()))
    if packed or not call.tensors or not call.tensors[0].numel():
        return None
    if isinstance(part, PerSize):
        part = part.chosen(call.tensors[0])
    by_rule = isinstance(part, INSTANCE_NORM) and not part.training and part.track_running_stats
    for kinds, counted in COUNTS:
        if isinstance(part, kinds) and not by_rule:
            return counted(part, call, batch)
    try:
        rule = find(part)
    except TypeError:
        return None
    if rule is None or rule.matrix is None:
        return None
    if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
        return _embedding(part, call, batch)
    by_batch = isinstance(part, BATCH_NORM) and part.running_mean is None
    if by_batch or (isinstance(part, (*BATCH_NORM, *DROPOUT)) and part.training):
        return _diagonal(part, call, batch)
    shape = one_shape(part, call)
    pattern = rule.matrix(part, shape, like(part, None, None)).pattern
    copies = max(1, call.tensors[0].numel() // (prod(shape) * batch))
    if copies > 1:
        pattern = kron(identity_pattern(copies), pattern)
    return Count(pattern.shape, pattern.nnz, 2 * pattern.nnz, pattern, "")


def _linear(part: nn.Linear, call: Call, batch: int) -> Count:
    rows = call.tensors[0].numel() // part.in_features // batch
    pattern = find(part).matrix(part, (rows, part.in_features), like(part, None, None)).pattern
    return Count(pattern.shape, pattern.nnz, 2 * pattern.nnz, pattern, "")


def _embedding(part: nn.Embedding | nn.EmbeddingBag, call: Call, batch: int) -> Count | None:
    """Of one-hot rows; None for bags whose sums depend on the tokens, and as :func:`_own`."""
    ids, pattern = call.tensors[0], dense_pattern(part.num_embeddings, part.embedding_dim).T
    if isinstance(part, nn.Embedding):
        rows = _own(ids.shape, batch)
    else:
        weighted = len(call.tensors) > 1
        if ids.ndim != 2 or weighted or part.mode == "max" or part.padding_idx is not None:
            return None
        rows, length = _own(ids.shape[:1], batch), ids.shape[1]
        every = zero_one((1, length), np.zeros(length, dtype=np.int64), np.arange(length))
        pattern = kron(every, pattern)
    if rows is None:
        return None
    pattern = kron(identity_pattern(rows), pattern)
    return Count(pattern.shape, pattern.nnz, 2 * pattern.nnz, pattern, "")


def _own(shape: tuple[int, ...], batch: int) -> int | None:
    """How many tokens of such a shape are those of one input; None where it does not tell.

    Positions are those of every input, without a batch axis or with one of length 1.
    """
    tokens = prod(shape)
    if batch == 1 or tokens % batch or (shape[0] == 1 and batch not in shape):
        return tokens
    return tokens // batch if batch in shape and shape[0] != 1 else None


def _diagonal(part: nn.Module, call: Call, batch: int) -> Count:
    x = call.tensors[0]
    n, one = x.numel() // batch, tuple(x.shape[1:])
    sides = (max(1, n // max(1, prod(one))), *one)  # as a product, so that its size is no matter
    depends = {BATCH_NORM: "statistics", DROPOUT: "chance"}
    why = next((why for kinds, why in depends.items() if isinstance(part, kinds)), "gates")
    return Count((n, n), n, n, kron(*map(diagonal_pattern, sides)), why)


def _maximum(part: nn.Module, call: Call, batch: int) -> Count:
    output = call.output[0] if isinstance(call.output, tuple) else call.output
    rows, cols = output.numel() // batch, call.tensors[0].numel() // batch
    return Count((rows, cols), rows, rows, None, "selection")


def _norm(part: nn.Module, call: Call, batch: int) -> Count:
    x = call.tensors[0]
    n = x.numel() // batch
    if isinstance(part, nn.GroupNorm):
        together = prod(x.shape[1:]) // part.num_groups
    elif isinstance(part, (nn.LayerNorm, nn.RMSNorm)):
        together = prod(part.normalized_shape)
    else:
        together = prod(x.shape[-spatial_dims(part) :])
    if isinstance(part, nn.RMSNorm):
        return _diagonal(part, call, batch)._replace(depends="statistics")
    # diag (I - 1 1^T / g): dense blocks, multiplied as a mean, a difference and a scale
    return Count((n, n), n * together, 6 * n, None, "statistics")


def _attention(part: nn.MultiheadAttention, call: Call, batch: int) -> Count:
    names = "query", "key", "value"
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    query = given["query"]
    key, value = given.get("key", query), given.get("value", query)
    d = part.embed_dim
    queries, keys = query.numel() // d // batch, key.numel() // key.shape[-1] // batch
    dim, width = key.shape[-1], value.shape[-1]
    entries = 2 * queries * d * d + keys * d * (dim + width)  # the projections
    more = bool(getattr(part, "bias_k", None) is not None) + getattr(part, "add_zero_attn", False)
    entries += 2 * queries * (keys + more) * d  # the scores, and their product with the values
    shape = queries * d, keys * width
    return Count(shape, prod(shape), 2 * entries, None, "attention")


def _recurrence(part: nn.RNNBase, call: Call, batch: int) -> Count:
    x = call.tensors[0]
    own = isinstance(part, RNN)
    gates = 1 if own else GATES[part.mode]
    sides = 1 if own else 1 + part.bidirectional
    h, state = part.hidden_size, getattr(part, "proj_size", 0) or part.hidden_size
    steps = x.numel() // x.shape[-1] // (batch if x.ndim == 3 else 1)
    nnz = operations = 0
    for layer in range(part.num_layers):
        width = sides * state if layer else part.input_size
        inside = steps * gates * h * width + (steps * h * state if state != h else 0)
        nnz += sides * (inside + (steps - 1) * gates * h * state)
        operations += 2 * sides * (inside + steps * gates * h * state)  # h0 is multiplied, too
    return Count(None, nnz, operations, None, "gates")


def _cell(part: nn.RNNCellBase, call: Call, batch: int) -> Count:
    rows = call.tensors[0].numel() // part.input_size // batch
    nnz = rows * (part.weight_ih.numel() + part.weight_hh.numel())
    return Count(None, nnz, 2 * nnz, None, "gates")


COUNTS: list[tuple[tuple, Callable[[nn.Module, Call, int], Count]]] = [
    ((nn.Linear,), _linear),
    (ELEMENTWISE, _diagonal),
    (MAXIMA, _maximum),
    (NORMS, _norm),
    ((nn.MultiheadAttention, SelfAttention), _attention),
    ((nn.RNNBase, RNN), _recurrence),
    ((nn.RNNCellBase,), _cell),
]


def bytes_of(pattern: Pattern) -> int:
    """Bytes of what a pattern is held as: the index arrays of its factors."""
    factors = getattr(pattern, "factors", None)
    if factors is None:
        return sum(side.nbytes for side in (pattern.row, pattern.col, pattern.index))
    return sum(map(bytes_of, factors))
