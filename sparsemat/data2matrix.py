"""Data2Matrix: images, series and tokens as the vectors and matrices that layers act on, and back.

Flattening is row-major in torch's own layout: channels first for images, time-major for sequences.
An *order* is a permutation as indices: ``x[order]`` reorders a vector and
``pattern.permute(rows=order)`` the outputs of a pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from .arguments import as_size, as_tuple
from .patterns.simple import one_hot_pattern


def image_to_vector(image: torch.Tensor) -> torch.Tensor:
    """An image as one vector.

    Args:
        image: Shape ``(H, W)`` or ``(C, H, W)``.

    Returns:
        Shape ``(H * W,)`` or ``(C * H * W,)``; pixel ``(c, i, j)`` is entry
        ``(c * H + i) * W + j``.

    Raises:
        ValueError: ``image`` has another rank.

    Source: paper 4.1.2, chapter "Data2Matrix".
    """
    _check_rank("image", image, 2, 3)
    return image.reshape(-1)


def vector_to_image(vector: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The inverse of :func:`image_to_vector`.

    Args:
        vector: Shape ``(prod(size),)``.
        size: ``(H, W)`` or ``(C, H, W)``.

    Returns:
        The image, of shape ``size``.

    Raises:
        ValueError: ``size`` has another length or other entries than integers from 0 on, or the
            vector another number of entries.
    """
    size = as_tuple("size", size, least=0)
    if len(size) not in (2, 3):
        raise ValueError(f"size must be (H, W) or (C, H, W), got {size}")
    _check_rank("vector", vector, 1)
    if len(vector) != prod(size):
        raise ValueError(f"vector must have prod(size)={prod(size)} entries, got {len(vector)}")
    return vector.reshape(size)


def series_to_matrix(*series: torch.Tensor) -> torch.Tensor:
    """Series as the columns of a matrix: one row a step, one column a series.

    Args:
        series: One or more tensors of shape ``(T,)``.

    Returns:
        Shape ``(T, d)`` for d series; entry ``[t, c]`` is value t of series c.

    Raises:
        ValueError: There is no series, one is not one-dimensional, or the lengths differ.

    Source: paper 4.1.1, chapter "Data2Matrix".
    """
    if not series:
        raise ValueError("series must be at least one tensor, got none")
    for one in series:
        _check_rank("series", one, 1)
    lengths = sorted({len(one) for one in series})
    if len(lengths) > 1:
        raise ValueError(f"series must have one length, got {lengths}")
    return torch.stack(series, dim=1)


def matrix_to_series(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The inverse of :func:`series_to_matrix`: the columns of ``(T, d)``, each of shape ``(T,)``.

    Raises:
        ValueError: ``matrix`` is not two-dimensional.
    """
    _check_rank("matrix", matrix, 2)
    return matrix.unbind(dim=1)


def matrix_to_vector(matrix: torch.Tensor) -> torch.Tensor:
    """A sequence as one time-major vector.

    Args:
        matrix: Shape ``(T, d)``: one row a step or token, one column a feature.

    Returns:
        Shape ``(T * d,)``; feature c of step t is entry ``t * d + c``.

    Raises:
        ValueError: ``matrix`` is not two-dimensional.
    """
    _check_rank("matrix", matrix, 2)
    return matrix.reshape(-1)


def vector_to_matrix(vector: torch.Tensor, features: int) -> torch.Tensor:
    """The inverse of :func:`matrix_to_vector`.

    Args:
        vector: Shape ``(T * features,)``.
        features: Columns d of the matrix.

    Returns:
        Shape ``(T, features)``.

    Raises:
        ValueError: ``vector`` has another rank, or ``features`` does not divide its length.
    """
    _check_rank("vector", vector, 1)
    features = as_size("features", features, None)
    if features < 1 or len(vector) % features:
        raise ValueError(
            f"features must divide the length of the vector, got features={features} "
            f"and {len(vector)} entries"
        )
    return vector.reshape(-1, features)


def tokens_to_matrix(tokens: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Tokens as the matrix of their vectors: the product of a one-hot matrix and the embedding.

    Args:
        tokens: Integers of shape ``(T,)``, below V.
        embedding: Shape ``(V, d)``; row v is the vector of token v. Gradients reach it.

    Returns:
        Shape ``(T, d)``; row t is ``embedding[tokens[t]]``.

    Raises:
        ValueError: A token lies outside the vocabulary, or a rank is wrong.

    Source: paper 4.1.1, chapter "Data2Matrix".
    """
    _check_rank("embedding", embedding, 2)
    return one_hot_pattern(tokens, len(embedding)).fill(embedding.new_ones(1)) @ embedding


def matrix_to_tokens(matrix: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`tokens_to_matrix`: which token has each row's vector.

    Args:
        matrix: Shape ``(T, d)``, every row a row of ``embedding``.
        embedding: Shape ``(V, d)`` with distinct rows.

    Returns:
        int64 tensor ``(T,)``.

    Raises:
        ValueError: The widths differ, a row is no token's vector, or two tokens share it.
    """
    _check_rank("matrix", matrix, 2)
    _check_rank("embedding", embedding, 2)
    if matrix.shape[1] != embedding.shape[1] or matrix.shape[1] == 0:
        raise ValueError(
            f"matrix and embedding must have one width of at least 1, got {matrix.shape[1]} "
            f"and {embedding.shape[1]}"
        )
    # equal vectors get one number, without a comparison of every row with every token
    vectors, number = torch.cat([embedding, matrix]).unique(dim=0, return_inverse=True)
    known, asked = number.split([len(embedding), len(matrix)])
    holders = torch.bincount(known, minlength=len(vectors))[asked]
    for step, count in enumerate(holders.tolist()):
        if count != 1:
            raise ValueError(f"row {step} must be the vector of exactly one token, got {count}")
    token = torch.zeros_like(number)
    token[known] = torch.arange(len(known), device=number.device)
    return token[asked]


def commutation_order(rows: int, cols: int) -> np.ndarray:
    r"""The order that turns the vector of a matrix into the vector of its transpose.

    As a matrix, :func:`~sparsemat.permutation_pattern` of it, it is the commutation matrix K with
    $\mathrm{vec}(X^T) = K\,\mathrm{vec}(X)$.

    Args:
        rows: Rows of X.
        cols: Columns of X.

    Returns:
        int64 array ``(rows * cols,)``; entry ``c * rows + r`` is ``r * cols + c``, so that
        ``X.reshape(-1)[order]`` equals ``X.T.reshape(-1)``. The inverse has the sizes exchanged.

    Raises:
        ValueError: A size is negative or no integer.
    """
    rows, cols = as_size("rows", rows, None), as_size("cols", cols, None)
    if min(rows, cols) < 0:
        raise ValueError(f"rows and cols must be at least 0, got {rows} and {cols}")
    return np.arange(rows * cols).reshape(rows, cols).T.reshape(-1)


def channels_last_order(channels: int, size: Sequence[int]) -> np.ndarray:
    """The order that turns a channels-first vector (CHW) into the channels-last one (HWC).

    It transposes the matrix with one row a channel and one column a pixel.

    Args:
        channels: Number of channels.
        size: Spatial size, one number a dimension.

    Returns:
        int64 array; entry ``pixel * channels + c`` is ``c * prod(size) + pixel``. The inverse is
        ``commutation_order(prod(size), channels)``.

    Raises:
        ValueError: A size is negative or no integer.
    """
    channels = as_size("channels", channels, None)
    size = tuple(as_size("size", n, None, "integers") for n in size)
    if min((channels, *size)) < 0:
        raise ValueError(f"channels and size must be at least 0, got {channels} and {size}")
    return commutation_order(channels, prod(size))


def _check_rank(name: str, tensor: torch.Tensor, *ranks: int) -> None:
    if tensor.ndim not in ranks:
        wanted = " or ".join(f"{rank}-D" for rank in ranks)
        raise ValueError(f"{name} must be {wanted}, got shape {tuple(tensor.shape)}")
