"""Self-attention: the matrix layer, and what turns torch's into it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from ..arguments import as_size
from ..matrix import SparseMatrix, require_memory
from ..pattern import Pattern
from ..patterns.attention import allowed_pairs, key_ranges
from ..products.attention import AttentionProduct, check_form, choose, scores
from ..products.indices import constant
from ..products.masks import Mask
from ..rules import Rule, refuse, register, taking_over
from .base import (
    MatrixLayer,
    check_dropout,
    check_flags,
    check_sizes,
    require_type,
)
from .multihead import MultiheadAttention


def third_order(pattern: Pattern, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    r"""``W(theta) @ (x (x) x (x) x)`` without forming the cube.

    Args:
        pattern: A pattern with ``x.numel() ** 3`` columns, as :func:`attention_pattern` makes.
        theta: Its parameters, any shape with ``pattern.num_parameters`` entries.
        x: The input, any shape, read row-major.

    Returns:
        Tensor of shape ``(rows,)``, differentiable in theta and x.

    Raises:
        ValueError: The columns are not ``x.numel() ** 3``, or theta has the wrong length.
    """
    width = x.numel()
    if pattern.shape[1] != width**3:
        raise ValueError(
            f"the pattern must have x.numel()**3 = {width**3} columns, got {pattern.shape[1]}"
        )
    if theta.numel() != pattern.num_parameters:
        raise ValueError(
            f"theta must hold num_parameters={pattern.num_parameters} values, got {theta.numel()}"
        )
    coordinates = np.stack(np.unravel_index(pattern.col, (width, width, width)))
    first, second, third = constant(coordinates, x.device)
    row, index = (constant(side.copy(), x.device) for side in (pattern.row, pattern.index))
    x = x.reshape(-1)
    terms = theta.reshape(-1)[index] * x[first] * x[second] * x[third]
    return terms.new_zeros(pattern.shape[0]).index_add(0, row, terms)


class SelfAttention(MatrixLayer, nn.Module):
    r"""Multi-head self-attention, $Y = \sum_h A_h(X) X W_{v,h} W_{o,h}$ plus biases.

    With softmax it equals ``torch.nn.MultiheadAttention`` of one input, whose parameter names,
    shapes, initial values and first arguments it has; without, $A_h$ is the linear
    $(X W_{q,h})(X W_{k,h})^T / \sqrt{d_k}$. It is called with one tensor and returns one.

    Args:
        embed_dim: Features d of a token.
        num_heads: Heads; each has ``embed_dim / num_heads`` features $d_k$.
        dropout: Probability of dropping an entry of A, in training; needs a softmax.
        bias: Whether the projections have biases.
        batch_first: Whether a batch of sequences is ``(n, T, d)`` rather than ``(T, n, d)``.
        device: Where the parameters live.
        dtype: Their floating-point type.
        softmax: Normalise the rows of A by softmax.
        causal: Token i sees only ``j <= i``.
        window: Token i sees only ``|i - j| <= window``; None for no limit.
        form: The form of the product for every length, one of
            :class:`~sparsemat.products.attention.AttentionProduct`; chosen by length if None.

    Raises:
        ValueError: ``num_heads`` does not divide ``embed_dim``, a size is below 1, ``window`` is
            negative, or the product has no such form.

    Source: paper 4.4 and A.3, corrected in the chapter "Attention".
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        softmax: bool = True,
        causal: bool = False,
        window: int | None = None,
        form: str | None = None,
    ) -> None:
        super().__init__()
        check_sizes(embed_dim=embed_dim, num_heads=num_heads)
        check_flags(bias=bias, batch_first=batch_first, softmax=softmax, causal=causal)
        check_dropout(dropout)
        if dropout and not softmax:
            raise ValueError(f"dropout needs a softmax, got dropout={dropout} and softmax=False")
        if embed_dim % num_heads:
            raise ValueError(
                "num_heads must divide embed_dim, "
                f"got num_heads={num_heads} and embed_dim={embed_dim}"
            )
        if window is not None:
            as_size("window", window, 0)
        if form is not None:
            check_form(form, softmax=softmax, causal=causal, window=window)
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.softmax, self.causal, self.window, self.form = softmax, causal, window, form
        self.dropout, self.batch_first = dropout, batch_first
        like = {"device": device, "dtype": dtype}
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim, **like))
        self.register_parameter(
            "in_proj_bias", nn.Parameter(torch.empty(3 * embed_dim, **like)) if bias else None
        )
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, **like)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.in_proj_bias)
            nn.init.zeros_(self.out_proj.bias)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{self.embed_dim}, {self.num_heads}, bias={self.in_proj_bias is not None}, "
            f"softmax={self.softmax}, causal={self.causal}, window={self.window}, "
            f"batch_first={self.batch_first}"
            + (f", dropout={self.dropout}" if self.dropout else "")
            + self.own_repr()
        )

    def product(self, tokens: int, mask: Mask | None = None) -> AttentionProduct:
        """The product that multiplies by A(X) for sequences of one length; its repr says why.

        Args:
            tokens: Length T of the sequences.
            mask: As for a call of the layer.
        """
        return choose(
            tokens,
            self.head_dim,
            softmax=self.softmax,
            causal=self.causal,
            window=self.window,
            mask=mask,
            device=self.in_proj_weight.device,
            form=self.form,
        )

    def forward(self, x: torch.Tensor, mask: Mask | None = None) -> torch.Tensor:
        """Attend from every token of x to the tokens of x.

        Args:
            x: Shape ``(n, T, d)``, or ``(T, n, d)`` if not ``batch_first``, or ``(T, d)``.
            mask: A function ``(n, head, i, j)`` of index tensors that says whether token i of
                sequence n may see token j, as torch's flex_attention takes it: for what depends on
                the data, such as padding. A token sees what causal, window and mask all allow,
                which must be something.

        Returns:
            Tensor of the same shape.

        Raises:
            ValueError: x has another shape or type, or the layer's form has no mask.
        """
        q, k, v = self._heads(x)
        if self.dropout and self.training:
            y = drop(self._scores(q, k, mask), self.dropout) @ v
        else:
            y = self.product(q.shape[-2], mask)(q, k, v)
        y = self.out_proj(y.transpose(-3, -2).flatten(-2))
        return y.transpose(0, 1) if x.ndim == 3 and not self.batch_first else y

    def attention(self, x: torch.Tensor, mask: Mask | None = None) -> torch.Tensor:
        """The matrices A(X), dense: what each token takes from each, head by head.

        Args:
            x: Shape ``(n, T, d)``, or ``(T, n, d)`` if not ``batch_first``, or ``(T, d)``.
            mask: As for a call of the layer.

        Returns:
            Tensor of shape ``(n, heads, T, T)`` or ``(heads, T, T)``. With softmax every row is
            non-negative and sums to one; entries outside the mask are zero.

        Raises:
            MemoryError: The matrices would not fit.
            ValueError: x has another shape or type.
        """
        self._check(x)
        tokens = x.shape[1 if x.ndim == 3 and self.batch_first else 0]
        entries = x[..., 0].numel() * tokens * self.num_heads
        require_memory("the attention matrices", entries, x.dtype, x.device)
        q, k, _ = self._heads(x)
        return self._scores(q, k, mask)

    def matrix(self, x: torch.Tensor) -> SparseMatrix:
        r"""The data-dependent matrix $\sum_h A_h(X) \otimes (W_{v,h} W_{o,h})^T$ for one sequence.

        Times ``x.reshape(-1)`` it is the layer's output, but for the value and output biases.

        Args:
            x: One sequence, shape ``(T, d)``.

        Returns:
            Matrix of shape ``(T d, T d)`` with a ``d x d`` block for every pair of tokens that the
            mask allows; differentiable in the parameters and in x.

        Raises:
            MemoryError: The blocks would not fit.
            ValueError: x has another shape or type.
        """
        self._check(x)
        if x.ndim != 2:
            raise ValueError(f"x must be one sequence of shape (T, d), got {tuple(x.shape)}")
        tokens, dim = x.shape
        first, stop = key_ranges(tokens, self.causal, self.window)
        entries = 4 * int((stop - first).sum()) * dim**2  # three index arrays and the values
        require_memory("the matrix of the attention", entries, torch.int64, x.device)
        i, j = allowed_pairs(tokens, causal=self.causal, window=self.window)
        values = torch.einsum("hp,hoc->poc", self.attention(x)[:, i, j], self._value_maps())
        o, c = np.indices((dim, dim)).reshape(2, 1, -1)
        row, col = (i[:, None] * dim + o).reshape(-1), (j[:, None] * dim + c).reshape(-1)
        pattern = Pattern((tokens * dim, tokens * dim), row, col, np.arange(len(row)), len(row))
        return pattern.fill(values)

    def core(self) -> torch.Tensor:
        r"""The parameters of :func:`attention_pattern` for which it is this layer without biases.

        Returns:
            Tensor of shape ``(d, d, d, d)``; entry ``[a, b, c, o]`` is
            $\sum_h (W_{q,h} W_{k,h}^T)_{ab} (W_{v,h} W_{o,h})_{co} / \sqrt{d_k}$. Differentiable.

        Raises:
            TypeError: The layer has a softmax, so it is not polynomial in x.
            MemoryError: The core would not fit.
        """
        if self.softmax:
            raise TypeError(
                f"{self!r} has a softmax, so no fixed tensor represents it; matrix(x) gives its "
                "matrix at x, and softmax=False the layer that has a core"
            )
        weight = self.in_proj_weight
        require_memory("the core", self.embed_dim**4, weight.dtype, weight.device)
        query, key, _ = weight.view(3, self.num_heads, self.head_dim, self.embed_dim)
        pair = torch.einsum("hka,hkb->hab", query, key) * self.head_dim**-0.5
        return torch.einsum("hab,hoc->abco", pair, self._value_maps())

    def _scores(self, q: torch.Tensor, k: torch.Tensor, mask: Mask | None) -> torch.Tensor:
        rules = {"softmax": self.softmax, "causal": self.causal, "window": self.window}
        return scores(q, k, **rules, mask=mask)

    def _check(self, x: torch.Tensor) -> None:
        require_type(x, self.in_proj_weight)
        fits = x.ndim in (2, 3) and x.shape[-1] == self.embed_dim
        if not fits or x.shape[1 if x.ndim == 3 and self.batch_first else 0] == 0:
            batch = "(n, T, d)" if self.batch_first else "(T, n, d)"
            raise ValueError(
                f"x must have shape {batch} or (T, d) with T >= 1 and d={self.embed_dim}, "
                f"got {tuple(x.shape)}"
            )

    def _heads(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values, each ``(..., heads, T, head_dim)``."""
        self._check(x)
        if x.ndim == 3 and not self.batch_first:
            x = x.transpose(0, 1)
        projected = linear(x, self.in_proj_weight, self.in_proj_bias)
        heads = projected.unflatten(-1, (3, self.num_heads, self.head_dim))
        return [side.transpose(-3, -2) for side in heads.unbind(-3)]

    def _value_maps(self) -> torch.Tensor:
        """``(W_v W_o)^T`` of every head, shape ``(heads, d, d)``."""
        value = self.in_proj_weight.view(3, self.num_heads, self.head_dim, self.embed_dim)[2]
        out = self.out_proj.weight.view(self.embed_dim, self.num_heads, self.head_dim)
        return torch.einsum("hkc,ohk->hoc", value, out)


def _layer(module: nn.MultiheadAttention, shape: tuple[int, ...], options: dict) -> nn.Module:
    if options.get("as_torch"):
        return _called_as_torch(module, options)
    width = module.embed_dim
    refuse(module, add_zero_attn=False, bias_k=None, bias_v=None, kdim=width, vdim=width)
    _check_shape(module, shape)
    layer = SelfAttention(
        *(width, module.num_heads, module.dropout, module.in_proj_bias is not None),
        module.batch_first,
        device="meta",
        causal=options.get("causal", False),
        window=options.get("window"),
    )
    return taking_over(layer, module)


def _called_as_torch(module: nn.MultiheadAttention, options: dict) -> nn.Module:
    asked = {"causal": options.get("causal"), "window": options.get("window")}
    if any(value not in (None, False) for value in asked.values()):
        raise ValueError(
            "causal and window need an attention that is called with one input, got one that is "
            f"called as torch's and {asked}; its call takes an attn_mask"
        )
    layer = MultiheadAttention(
        *(module.embed_dim, module.num_heads, module.dropout, module.in_proj_bias is not None),
        *(module.bias_k is not None, module.add_zero_attn, module.kdim, module.vdim),
        *(module.batch_first, "meta"),
    )
    return taking_over(layer, module)


def _own_layer(module: SelfAttention, shape: tuple[int, ...], options: dict) -> nn.Module:
    _check_shape(module, shape)
    return module


def _check_shape(module: nn.Module, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] != module.embed_dim:
        raise ValueError(
            f"input_shape must be (T, d) with d={module.embed_dim}, got input_shape={shape}"
        )


HINT = "its matrix depends on the tokens: from_module gives a layer whose matrix(x) is that at x"
register(Rule((nn.MultiheadAttention,), layer=_layer, options=("causal", "window"), hint=HINT))
register(Rule((SelfAttention,), layer=_own_layer, hint=HINT))
