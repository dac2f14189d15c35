"""Embeddings as matrices that act on one-hot rows; bilinear maps are refused with a hint."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..kronecker import kron
from ..patterns.simple import dense_pattern, identity_pattern, zero_one
from ..rules import Affine, Rule, register


def _embedding(module: nn.Embedding, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    """One-hot tokens ``(T, V)`` to their vectors ``(T, D)``."""
    _check(module, shape)
    table = dense_pattern(module.num_embeddings, module.embedding_dim).T
    pattern = kron(identity_pattern(shape[0]), table)
    output = shape[0], module.embedding_dim
    return Affine(pattern, lambda: module.weight.reshape(-1), None, output)


def _bag(module: nn.EmbeddingBag, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    """One bag of one-hot tokens ``(T, V)`` to the sum or mean ``(D,)`` of their vectors."""
    if module.mode not in ("sum", "mean"):
        raise ValueError(f"mode must be 'sum' or 'mean' for a matrix, got {module.mode!r}")
    _check(module, shape)
    tokens = shape[0]
    every = zero_one((1, tokens), np.zeros(tokens, dtype=np.int64), np.arange(tokens))
    table = dense_pattern(module.num_embeddings, module.embedding_dim).T
    share = tokens if module.mode == "mean" else 1
    pattern, output = kron(every, table), (module.embedding_dim,)
    return Affine(pattern, lambda: module.weight.reshape(-1) / share, None, output)


def _check(module: nn.Embedding, shape: tuple[int, ...]) -> None:
    name = type(module).__name__
    if len(shape) != 2 or shape[1] != module.num_embeddings:
        raise ValueError(
            f"input_shape of {name} must be (tokens, {module.num_embeddings}), one-hot rows, "
            f"got {shape}"
        )
    needed = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False}
    for option, value in needed.items():  # they change gradients, or the weight at each call
        if getattr(module, option) != value:
            raise ValueError(
                f"{option} of {name} must be {value} for a matrix, got {getattr(module, option)}"
            )


BILINEAR_HINT = (
    "it is a matrix only with one side fixed: at x1 it is nn.Linear with the weight "
    "torch.einsum('i,kij->kj', x1, module.weight)"
)
register(Rule((nn.Embedding,), _embedding))
register(Rule((nn.EmbeddingBag,), _bag))
register(Rule((nn.Bilinear,), hint=BILINEAR_HINT))
