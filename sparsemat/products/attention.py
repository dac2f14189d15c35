"""The products of attention, softmax or linear, each in the order that costs least.

Linear attention ``(q k^T) v`` is associative: with more tokens than features ``q (k^T v)`` is
cheaper; causal, the state ``k^T v`` is carried from chunk to chunk. A window needs the band of the
square only, so blocks of queries meet the few keys they may see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from ..pattern import Pattern
from .bias import with_bias
from .fused import fused
from .masks import Mask, allowed
from .pieces import attend_pieces

BAND_BLOCK = 64
FORMS = ("square", "fused", "state", "chunks", "band", "flex")
# where the square, masks and softmax as calls of their own, was not slower than the fused kernel
SQUARE_TOKENS, SQUARE_DIM = (32, 128), 32


@dataclass(frozen=True)
class AttentionProduct:
    """``A v`` with A = ``scores(q, k)`` in one of its forms. Made by ``choose``.

    Attributes:
        form: ``"square"``: A is formed, and multiplied. ``"fused"``: torch's
            scaled_dot_product_attention. ``"state"``: ``q (k^T v)``. ``"chunks"``: the same,
            causal, chunk by chunk. ``"band"``: blocks of queries against the keys of their window.
            ``"flex"``: torch's flex_attention, which skips blocks without a pair; it has gradients
            on a GPU only.
        why: What decided for the form.
        tokens: Length T of the sequences it serves.
        dim: Features of a query.
        softmax: Whether the rows are normalised.
        causal: Whether token i sees only ``j <= i``.
        window: Whether token i sees only ``|i - j| <= window``.
        mask: Which of these pairs are seen; see ``attend``.
    """

    form: str
    why: str
    tokens: int
    dim: int
    softmax: bool
    causal: bool
    window: int | None
    mask: Mask | None = None

    def __repr__(self) -> str:
        sizes = f"T={self.tokens}, d={self.dim}, softmax={self.softmax}"
        mask = f"causal={self.causal}, window={self.window}"
        mask += "" if self.mask is None else f", mask={getattr(self.mask, '__name__', self.mask)}"
        return f"AttentionProduct({sizes}, {mask}): {self.form}, {self.why}"

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values ``(..., T, d_k)`` to a tensor of the shape of ``v``."""
        tokens, dim = self.tokens, self.dim
        if q.shape[-2:] != (tokens, dim):
            raise ValueError(f"q must be (..., {tokens}, {dim}), got {tuple(q.shape)}")
        check_shapes(q, k, v)
        if self.form == "flex":
            from .flex import flex  # its import takes most of a second

            return flex(q, k, v, self.causal, self.window, self.mask)
        if self.form == "fused":
            plain = self.mask is None and (self.window is None or self.window >= tokens - 1)
            seen = None if plain else allowed(q, self.causal, self.window, self.mask)
            return fused(q, k, v, seen, self.causal and plain)
        masks = {"causal": self.causal, "window": self.window}
        if self.form == "band":
            return _band(q, k, v, self.softmax, **masks)
        if self.form == "square":
            return scores(q, k, softmax=self.softmax, **masks, mask=self.mask) @ v
        q = q * dim**-0.5
        return q @ (k.mT @ v) if self.form == "state" else _chunks(q, k, v)


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse keys or values that do not have the shape of the queries.

    Raises:
        ValueError: With both shapes.
    """
    for name, side in (("k", k), ("v", v)):
        if side.shape != q.shape:
            raise ValueError(
                f"{name} must have the shape of q {tuple(q.shape)}, got {tuple(side.shape)}"
            )


def choose(
    tokens: int,
    dim: int,
    *,
    softmax: bool,
    causal: bool = False,
    window: int | None = None,
    mask: Mask | None = None,
    device: torch.device | str = "cpu",
    form: str | None = None,
) -> AttentionProduct:
    """The product that serves a case, from its sizes alone.

    Args:
        tokens: Length T of the sequence.
        dim: Features of a query.
        softmax: Whether the rows are normalised.
        causal: Whether token i sees only ``j <= i``.
        window: Whether token i sees only ``|i - j| <= window``.
        mask: Which of these pairs are seen; see :func:`attend`.
        device: Where the tensors live.
        form: The form to use instead of the one that suits the sizes.

    Returns:
        A callable ``product(q, k, v) -> y``; its ``repr`` says which form it is and why.

    Raises:
        ValueError: There is no such form of this product, or the window is negative.
    """
    if window is not None and window < 0:
        raise ValueError(f"window must be at least 0, got {window}")
    if form is not None:
        check_form(form, softmax=softmax, causal=causal, window=window, mask=mask)
        why = "as asked"
    elif mask is not None:
        form, why = "fused" if softmax else "square", "a mask that only a call can tell"
    else:
        form, why = _choice(tokens, dim, softmax, causal, window, torch.device(device).type)
    return AttentionProduct(form, why, tokens, dim, softmax, causal, window, mask)


def check_form(
    form: str, *, softmax: bool, causal: bool, window: int | None, mask: Mask | None = None
) -> None:
    """Refuse a form that a product does not have, whatever its sizes.

    Raises:
        ValueError: With the rule and the form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS} or None, got {form!r}")
    linear = not softmax and window is None and mask is None
    rules = {
        "fused": (softmax, "a softmax"),
        "flex": (softmax, "a softmax"),
        "state": (linear and not causal, "no softmax and no mask"),
        "chunks": (linear and causal, "a causal mask alone, no softmax"),
        "band": (window is not None and mask is None, "a window and no other mask"),
    }
    holds, rule = rules.get(form, (True, ""))
    if not holds:
        got = f"softmax={softmax}, causal={causal}, window={window}"
        got += "" if mask is None else " and a mask"
        raise ValueError(f"form {form!r} needs {rule}, got {got}")


def _choice(
    tokens: int, dim: int, softmax: bool, causal: bool, window: int | None, device: str
) -> tuple[str, str]:
    """The form that suits the sizes, and why."""
    masked = window is not None and window < tokens - 1
    if masked:
        width = BAND_BLOCK + (window if causal else 2 * window)
        if 2 * width <= tokens:
            return "band", f"a block of {BAND_BLOCK} queries sees {width} of {tokens} keys"
    if softmax:
        first, last = SQUARE_TOKENS
        if device == "cpu" and first <= tokens <= last and dim >= SQUARE_DIM:
            return "square", f"{first} <= T={tokens} <= {last} and d={dim} >= {SQUARE_DIM} on a CPU"
        return "fused", f"T={tokens} and d={dim} on {device}, and softmax needs all pairs"
    if masked:
        return "square", f"a block of {BAND_BLOCK} queries sees more than half of {tokens} keys"
    if causal:
        length = _chunk(dim)
        if tokens > 2 * length:
            return "chunks", f"T={tokens} is more than two chunks of {length}"
        return "square", f"T={tokens} is no more than two chunks of {length}"
    if tokens > dim:
        return "state", f"T={tokens} > d={dim}"
    return "square", f"T={tokens} <= d={dim}"


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    softmax: bool = True,
    causal: bool = False,
    window: int | None = None,
    mask: Mask | None = None,
    pattern: Pattern | None = None,
    bias: tuple[torch.Tensor, torch.Tensor] | None = None,
    form: str | None = None,
) -> torch.Tensor:
    r"""$A v$ with $A$ = ``scores(q, k)``, without forming A where that is dearer.

    Args:
        q: Queries, shape ``(..., T, d_k)``.
        k: Keys, the same shape.
        v: Values, the same shape.
        softmax: Normalise each row of A by softmax.
        causal: Token i sees only ``j <= i``.
        window: Token i sees only ``|i - j| <= window``.
        mask: A function ``(n, head, i, j)`` of index tensors that says whether token i of sequence
            n may see token j, as torch's flex_attention takes it; it may look at data, such as
            lengths. A token sees what causal, window and mask all allow, which must be something.
            The tensors are then ``(n, heads, T, d_k)`` or ``(heads, T, d_k)``.
        pattern: Token i sees token j where this T x T pattern has a cell; instead of causal, window
            and mask. The square is not formed where pieces of it hold all pairs.
        bias: Two sides ``(..., T, R)`` whose product is added to the scores; it is not formed (see
            the chapter "Attention of other kinds").
        form: A form of :class:`AttentionProduct`; the one that suits the sizes if None.

    Returns:
        Tensor of the shape of ``v``.

    Raises:
        ValueError: There is no such form of this product, the shapes differ, the window is
            negative, a pattern comes with another rule, has another size, or lets a token see
            nothing.
    """
    if bias is not None:
        check_shapes(q, k, v)
        wide, same = with_bias(q, k, v, *bias), {"softmax": softmax, "pattern": pattern}
        same |= {"causal": causal, "window": window, "mask": mask, "form": form}
        return attend(*wide, **same)[..., : v.shape[-1]]
    if pattern is not None:
        if causal or window is not None or mask is not None or form is not None:
            raise ValueError(
                "a pattern says all about who sees whom, so causal, window, mask and form must not "
                f"be given, got causal={causal}, window={window}, mask={mask}, form={form}"
            )
        check_shapes(q, k, v)
        return attend_pieces(q, k, v, pattern, softmax)
    rules = {"softmax": softmax, "causal": causal, "window": window, "mask": mask}
    return choose(*q.shape[-2:], **rules, device=q.device, form=form)(q, k, v)


def scores(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    softmax: bool = True,
    causal: bool = False,
    window: int | None = None,
    mask: Mask | None = None,
) -> torch.Tensor:
    r"""The explicit attention matrix $A$: $q k^T / \sqrt{d_k}$, masked, with softmax rows or as is.

    Args:
        q: Queries, shape ``(..., T, d_k)``.
        k: Keys, the same shape.
        softmax: Normalise each row.
        causal: Zero for ``j > i``.
        window: Zero for ``|i - j| > window``.
        mask: Zero where it is False; see :func:`attend`.

    Returns:
        Tensor of shape ``(..., T, T)``; entry ``[i, j]`` is what token i takes from token j.
    """
    tokens, dim = q.shape[-2:]
    masked = causal or window is not None or mask is not None
    if not softmax:
        result = (q * dim**-0.5) @ k.mT
        return result * allowed(q, causal, window, mask) if masked else result
    bias = q.new_zeros(1, 1, 1)
    if masked:
        seen = allowed(q, causal, window, mask)
        bias = q.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))
        bias = bias.expand(*q.shape[:-1], tokens).flatten(0, -3) if bias.ndim > 2 else bias[None]
    flat_q, flat_k = (side.reshape(-1, tokens, dim) for side in (q, k))
    # one pass: mask and scale go into the product
    result = torch.baddbmm(bias, flat_q, flat_k.mT, alpha=dim**-0.5)
    return result.softmax(-1).view(*q.shape[:-1], tokens)


def _chunk(dim: int) -> int:
    """Length of a chunk: as long as a state is high, so that both products cost the same."""
    return max(32, dim)


def _chunks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    tokens, dim = q.shape[-2:]
    q, k, v = (_split(side, _chunk(dim)) for side in (q, k, v))
    sums = k[..., :-1, :, :].mT @ v[..., :-1, :, :]
    wide = torch.promote_types(sums.dtype, torch.float32)
    # what earlier chunks have left
    state = pad(sums.cumsum(-3, dtype=wide).to(sums.dtype), (0, 0, 0, 0, 1, 0))
    result = (q @ k.mT).tril() @ v + q @ state
    return result.flatten(-3, -2)[..., :tokens, :]


def _band(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax: bool,
    causal: bool,
    window: int,
) -> torch.Tensor:
    (tokens, dim), leading = q.shape[-2:], q.shape[:-2]
    window = min(window, tokens - 1)
    q = _split(q, BAND_BLOCK).reshape(-1, -(-tokens // BAND_BLOCK), BAND_BLOCK, dim)
    after = 0 if causal else window
    width = window + BAND_BLOCK + after
    rest = q.shape[1] * BAND_BLOCK - tokens
    k, v = (
        pad(side, (0, 0, window, after + rest)).unfold(-2, width, BAND_BLOCK).mT
        for side in (k.reshape(-1, tokens, dim), v.reshape(-1, tokens, dim))
    )  # (..., blocks, width, dim), views that overlap
    block, i, j = (
        torch.arange(size, device=q.device).view([-1 if axis == a else 1 for a in range(3)])
        for axis, size in enumerate((q.shape[1], BAND_BLOCK, width))
    )
    key = block * BAND_BLOCK + j - window
    seen = (j >= i) & (j - i <= window + after) & (key >= 0) & (key < tokens)
    if softmax:
        filler = block * BAND_BLOCK + i >= tokens  # sees something, so that it gives no NaN
        result = fused(q, k, v, (seen | filler)[None])
    else:
        result = (q * dim**-0.5 @ k.mT).masked_fill(~seen, 0.0) @ v
    return result.flatten(1, 2)[:, :tokens].reshape(*leading, tokens, dim)


def _split(side: torch.Tensor, size: int) -> torch.Tensor:
    """``(..., T, d)`` as ``(..., blocks, size, d)``, zeros after the end."""
    side = pad(side, (0, 0, 0, -side.shape[-2] % size))
    return side.unflatten(-2, (-1, size))
