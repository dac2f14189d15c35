"""Attention between two sequences, called as torch's: self- and cross-attention in any network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear, scaled_dot_product_attention

from ..kronecker import kron
from ..lazy import Kronecker, Sum
from ..matrix import Matrix
from ..pattern import Pattern
from ..patterns.simple import dense_pattern, mask_pattern
from ..products.fused import fused
from ..rules import Rule, as_it_is, register
from .base import MatrixLayer, check_sizes, require_tensor, require_type


class _Sides(NamedTuple):
    """Queries ``(n, heads, L, d_k)``, keys and values ``(n, heads, S, d_k)``, added mask."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None


class MultiheadAttention(MatrixLayer, nn.MultiheadAttention):
    r"""Multi-head attention, $Y = \sum_h A_h(Q, K) V W_{v,h} W_{o,h}$ plus biases.

    Arguments, parameters and the call are those of ``torch.nn.MultiheadAttention``, with every
    option (``kdim``, ``vdim``, ``add_bias_kv``, ``add_zero_attn``, masks). For self-attention with
    one argument, bands and a third-order core see :class:`sparsemat.SelfAttention`.

    Source: paper 4.4, chapter "Attention"; the matrix of cross-attention has a row a query and a
    column a key.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # torch's fast path asks for this before it goes round a layer; nothing here does
        self._qkv_same_embed_dim = False

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from every query to the keys; arguments and results are torch's.

        Args:
            query: Shape ``(n, L, d)``, or ``(L, n, d)`` if not ``batch_first``, or ``(L, d)``.
            key: The same with S tokens of ``kdim`` features.
            value: The same with S tokens of ``vdim`` features.
            key_padding_mask: Shape ``(n, S)`` or ``(S,)``: True, or minus infinity, hides a key.
            need_weights: Whether to return the matrices A.
            attn_mask: Shape ``(L, S)`` or ``(n * heads, L, S)``: True hides, a float is added.
            average_attn_weights: Whether to return the mean over the heads.
            is_causal: A hint that ``attn_mask`` is causal; the mask says so itself.

        Raises:
            TypeError: An input or a mask is no tensor.
            ValueError: A shape or type does not fit.
        """
        if is_causal and attn_mask is None:
            raise ValueError("is_causal needs an attn_mask, got None")
        sides = self._sides(query, key, value, key_padding_mask, attn_mask)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = drop(_weights(sides), rate)
            y = weights @ sides.v
        else:
            y = scaled_dot_product_attention(*sides, dropout_p=rate) if rate else fused(*sides)
        # in torch's order, token by token, in which a dropout that follows draws
        y = self.out_proj(y.permute(2, 0, 1, 3).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if query.ndim == 2:
            return y[:, 0], None if weights is None else weights[0]
        return y.transpose(0, 1) if self.batch_first else y, weights

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The matrices A(Q, K), shape ``(n, heads, L, S)`` or ``(heads, L, S)``; see ``forward``.

        ``add_bias_kv`` and ``add_zero_attn`` add a column each.
        """
        value = key.new_zeros(*key.shape[:-1], self.vdim)
        weights = _weights(self._sides(query, key, value, key_padding_mask, attn_mask))
        return weights[0] if query.ndim == 2 else weights

    def matrix(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        attn_mask: torch.Tensor | None = None,
    ) -> Matrix:
        r"""The matrix $\sum_h A_h(Q, K) \otimes (W_{v,h} W_{o,h})^T$ of one pair of sequences.

        Times ``value.reshape(-1)`` it is the output, but for the constant that the biases add.

        Args:
            query: One sequence, shape ``(L, d)``.
            key: One sequence, shape ``(S, kdim)``.
            key_padding_mask: As for a call.
            attn_mask: As for a call.

        Returns:
            Matrix of shape ``(L d, S vdim)``, a sum of Kronecker products that is not formed.

        Raises:
            ValueError: There is more than one sequence, or a shape does not fit.
        """
        if query.ndim != 2 or key.ndim != 2:
            shapes = tuple(query.shape), tuple(key.shape)
            raise ValueError(f"query and key must be one sequence each, got shapes {shapes}")
        tokens = key.shape[0]
        weights = self.attention(query, key, key_padding_mask, attn_mask)[..., :tokens]
        out = self.out_proj.weight.view(self.embed_dim, self.num_heads, self.head_dim)
        maps = torch.einsum("ohk,hkc->hoc", out, self._projections()[2].view(*self._split(-1)))
        return Sum(
            *(
                Kronecker(_dense(weight), _dense(change))
                for weight, change in zip(weights, maps, strict=True)
            )
        )

    def pattern(self, queries: int, keys: int, hidden: torch.Tensor | None = None) -> Pattern:
        """Where the matrix of so many queries and keys may be nonzero.

        Args:
            queries: Number L of queries.
            keys: Number S of keys.
            hidden: Booleans ``(L, S)``, True for the pairs that masks hide; None for none.

        Returns:
            Pattern of shape ``(L d, S vdim)``, who sees whom times a dense block, held as a
            Kronecker product.

        Raises:
            ValueError: A number is below 1, or ``hidden`` has another shape or type.
        """
        check_sizes(queries=queries, keys=keys)
        seen = dense_pattern(queries, keys)
        if hidden is not None:
            require_tensor(hidden, "hidden")
            if tuple(hidden.shape) != (queries, keys) or hidden.dtype != torch.bool:
                raise ValueError(
                    f"hidden must be booleans of shape {(queries, keys)}, got {hidden.dtype} of "
                    f"shape {tuple(hidden.shape)}"
                )
            seen = mask_pattern(~hidden)
        return kron(seen, dense_pattern(self.embed_dim, self.vdim))

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{self.embed_dim}, {self.num_heads}, kdim={self.kdim}, vdim={self.vdim}"

    def _split(self, last: int) -> tuple[int, int, int]:
        return self.num_heads, self.head_dim, last

    def _projections(self) -> tuple[torch.Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _sides(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None,
        attn_mask: torch.Tensor | None,
    ) -> _Sides:
        self._check(query, key, value)
        for name, mask in (("key_padding_mask", key_padding_mask), ("attn_mask", attn_mask)):
            if mask is not None:
                _check_mask(mask, name)
        inputs = query, key, value
        if query.ndim == 2:
            inputs = [x[None] for x in inputs]
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask[None]
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        made = zip(inputs, self._projections(), biases, strict=True)
        q, k, v = (linear(x, weight, bias) for x, weight, bias in made)
        n, extra = len(q), 0
        if self.bias_k is not None:
            k, v = (
                torch.cat([x, more.expand(n, 1, -1)], 1)
                for x, more in ((k, self.bias_k), (v, self.bias_v))
            )
            extra += 1
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(n, 1, x.shape[-1])], 1) for x in (k, v))
            extra += 1
        mask = self._mask(q, k, key_padding_mask, attn_mask, extra)
        heads = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        return _Sides(*heads, mask)

    def _mask(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        padding: torch.Tensor | None,
        mask: torch.Tensor | None,
        extra: int,
    ) -> torch.Tensor | None:
        """What is added to the scores: shape that broadcasts to ``(n, heads, L, S + extra)``."""
        n, queries, keys = len(q), q.shape[1], k.shape[1] - extra
        total = None
        if mask is not None:
            shapes = (queries, keys), (n * self.num_heads, queries, keys)
            if tuple(mask.shape) not in shapes:
                raise ValueError(
                    f"attn_mask must have shape {shapes[0]} or {shapes[1]}, got {tuple(mask.shape)}"
                )
            total = _added(mask, q)
            total = total if mask.ndim == 2 else total.unflatten(0, (n, self.num_heads))
        if padding is not None:
            if tuple(padding.shape) != (n, keys):
                raise ValueError(
                    f"key_padding_mask must have shape {(n, keys)}, got {tuple(padding.shape)}"
                )
            hidden = _added(padding, q)[:, None, None]
            total = hidden if total is None else total + hidden
        return total if total is None or not extra else nn.functional.pad(total, (0, extra))

    def _check(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        weights = self._projections()
        sizes = self.embed_dim, self.kdim, self.vdim
        sides = zip(("query", "key", "value"), (query, key, value), sizes, weights, strict=True)
        for name, x, size, weight in sides:
            require_tensor(x, name)
            if x.ndim not in (2, 3) or x.ndim != query.ndim or x.shape[-1] != size:
                raise ValueError(
                    f"{name} must have the axes of query {tuple(query.shape)} and end in {size} "
                    f"features, got {tuple(x.shape)}"
                )
            require_type(x, weight, name)
        axis = 0 if self.batch_first else 1
        if query.ndim == 3 and query.shape[axis] != key.shape[axis]:
            raise ValueError(
                "query and key must have one number of sequences, got "
                f"{query.shape[axis]} and {key.shape[axis]}"
            )
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(
                "key and value must have one number of tokens and sequences, got "
                f"{tuple(key.shape)} and {tuple(value.shape)}"
            )


def _weights(sides: _Sides) -> torch.Tensor:
    scores = sides.q * sides.q.shape[-1] ** -0.5 @ sides.k.mT
    return (scores if sides.mask is None else scores + sides.mask).softmax(-1)


def _check_mask(mask: torch.Tensor, name: str) -> None:
    require_tensor(mask, name)
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"{name} must be boolean or floating, got {mask.dtype}")


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


def _dense(entries: torch.Tensor) -> Matrix:
    return dense_pattern(*entries.shape).fill(entries)


register(Rule((MultiheadAttention,), layer=as_it_is))
