"""The pattern of linear attention on three copies of its input. NumPy only."""

from __future__ import annotations

import numpy as np

from ..arguments import as_flag, as_size
from ..pattern import Pattern


def allowed_pairs(
    tokens: int, *, causal: bool = False, window: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (i, j) in which token i may attend to token j.

    Args:
        tokens: Length T of the sequence.
        causal: Only ``j <= i``.
        window: Only ``|i - j| <= window``; None for no limit.

    Returns:
        Two int64 arrays of one length, in row-major order of (i, j).

    Raises:
        ValueError: ``tokens`` is below 1 or ``window`` is negative.
    """
    first, stop = key_ranges(tokens, causal, window)
    count = stop - first
    i = np.repeat(np.arange(tokens), count)
    return i, np.arange(len(i)) - np.repeat(np.cumsum(count) - count - first, count)


def key_ranges(tokens: int, causal: bool, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """First key and one past the last key that each token may attend to."""
    as_size("tokens", tokens)
    as_flag("causal", causal)
    if window is not None:
        as_size("window", window, 0)
    at, reach = np.arange(tokens), tokens if window is None else min(window, tokens)
    return (at - reach).clip(0), (at + (0 if causal else reach) + 1).clip(max=tokens)


def attention_pattern(
    tokens: int,
    dim: int,
    out_dim: int | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
) -> Pattern:
    r"""The pattern of linear attention as a matrix on $x \otimes x \otimes x$.

    Row ``(i, o)`` holds ``theta[a, b, c, o]`` in column ``((i, a), (j, b), (j, c))`` for every pair
    (i, j) that may attend: query feature a of token i, key feature b and value feature c of token
    j. With $\theta_{abco} = (W_q W_k^T)_{ab} (W_v)_{co} / \sqrt{d_k}$ the product is
    $(X W_q)(X W_k)^T (X W_v) / \sqrt{d_k}$, flattened row-major.

    Args:
        tokens: Length T of the sequence.
        dim: Features d of a token.
        out_dim: Features of an output; ``dim`` if None.
        causal: Only pairs with ``j <= i``.
        window: Only pairs with ``|i - j| <= window``.

    Returns:
        Pattern of shape ``(T out_dim, (T dim)**3)`` with ``dim**3 * out_dim`` parameters, the
        flattened theta.

    Raises:
        ValueError: A size is below 1, or the columns outnumber 64-bit integers.

    Source: paper 4.4 and A.3, corrected in the chapter "Attention".
    """
    dim = as_size("dim", dim)
    out_dim = dim if out_dim is None else as_size("out_dim", out_dim)
    tokens = as_size("tokens", tokens)
    width = tokens * dim
    if width**3 >= 2**63:
        raise ValueError(f"(tokens * dim)**3 must be below 2**63, got tokens * dim = {width}")
    i, j = (side[:, None] for side in allowed_pairs(tokens, causal=causal, window=window))
    a, b, c, o = np.indices((dim, dim, dim, out_dim)).reshape(4, 1, -1)
    row = i * out_dim + o
    col = ((i * dim + a) * width + (j * dim + b)) * width + (j * dim + c)
    index = np.broadcast_to(((a * dim + b) * dim + c) * out_dim + o, row.shape)
    return Pattern(
        (tokens * out_dim, width**3),
        row.reshape(-1),
        col.reshape(-1),
        index.reshape(-1),
        dim**3 * out_dim,
    )
