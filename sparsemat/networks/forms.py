"""What each operation of a network is, as matrices on what it reads."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import nn

from .follow import Follow, Form, Tracked
from .gates import above, alone, gate_rules
from .operators import Convolution, Diagonal, Fixed, Left, Reduction, Right


def _add(sign: int, turned: bool = False) -> Callable:
    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
        alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
        a, b = args[:2]
        factors = (-alpha, 1) if turned else (1, sign * alpha)
        return _sum(out, [(a, factors[0]), (b, factors[1])])

    return rule


def _sum(out: torch.Tensor, parts: list[tuple[Any, Any]], depends: str = "") -> Form:
    """Numbers or tensors, each times a number or a tensor, added."""
    terms, constant = [], None
    for part, factor in parts:
        if isinstance(part, Tracked):
            spread = part.map(lambda t: t.expand(out.shape))
            terms.append((Diagonal(_values(factor, out)), spread))
        else:
            value = _values(part, out) * factor
            constant = value if constant is None else constant + value
    return Form(terms, constant, depends)


def _values(factor: Any, out: torch.Tensor) -> torch.Tensor:
    factor = factor if torch.is_tensor(factor) else out.new_tensor(factor)
    return factor.to(out.dtype).expand(out.shape).clone()


def _factors(run: Follow, a: Any, b: Any, gated: str) -> tuple[Any, Any, bool, str]:
    """The coefficient and what it multiplies, whether it is on the left, what depends on data.

    Of two factors that depend on the input the coefficient is a gate, or what has no rule; the left
    one if both are of one rank.
    """
    if isinstance(a, Tracked) and isinstance(b, Tracked):
        ranks = run.rank(a), run.rank(b)
        depends = gated if max(ranks) else "product"
        if ranks[0] >= ranks[1]:
            return a.value, b, True, depends
        return b.value, a, False, depends
    return (b, a, False, "") if isinstance(a, Tracked) else (a, b, True, "")


def _multiply(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    factor, x, _, depends = _factors(run, *args[:2], "gates")
    return _sum(out, [(x, factor)], depends)


def _divide(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form | None:
    a, b = args[:2]
    if not isinstance(a, Tracked) or kwargs.get("rounding_mode") is not None:
        return None
    value = b.value if isinstance(b, Tracked) else b
    depends = "product" if isinstance(b, Tracked) else ""
    return _sum(out, [(a, 1 / _values(value, out))], depends)


def _product(run: Follow, a: Any, b: Any, factor: Any = 1) -> Form:
    """The product of two batches of matrices; one of them is tracked."""
    matrix, x, left, depends = _factors(run, a, b, "attention")
    matrix = matrix.clone() if factor == 1 else matrix * factor  # it may be a parameter
    matrix = matrix[None] if matrix.ndim == 2 else matrix
    x = x.map(lambda t: t[None]) if x.value.ndim == 2 else x
    operator = Left(matrix, x.value.shape[2]) if left else Right(matrix, x.value.shape[1])
    return Form([(operator, x)], None, depends)


def _matmul(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    return _product(run, *args[:2])


def _vector(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    a, b = args[:2]
    a = _shaped(a, (1, -1)) if _value(a).ndim == 1 else a
    return _product(run, a, _shaped(b, (-1, 1)))


def _shaped(x: Any, shape: tuple[int, ...]) -> Any:
    move = lambda t: t.reshape(shape)  # noqa: E731
    return x.map(move) if isinstance(x, Tracked) else move(x)


def _value(x: Any) -> torch.Tensor:
    return x.value if isinstance(x, Tracked) else x


def _added(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    more, a, b = args[:3]
    alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
    form = _sum(out, [(more, beta)])
    if not (isinstance(a, Tracked) or isinstance(b, Tracked)):
        return _with(form, alpha * (a @ b))
    product = _product(run, a, _shaped(b, (-1, 1)) if _value(b).ndim == 1 else b, alpha)
    return Form([*form.terms, *product.terms], form.constant, product.depends)


def _convolution(
    run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor
) -> Form | None:
    x, weight, bias, *options = args
    if not isinstance(x, Tracked) or isinstance(bias, Tracked):
        return None
    depends = "product" if isinstance(weight, Tracked) else ""
    operator = Convolution(_value(weight).clone(), x.value.shape, out.shape, tuple(options))
    constant = None if bias is None else bias.reshape(-1, *(1,) * (out.ndim - 2))
    return Form([(operator, x)], constant, depends)


def _mean(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    return _reduced(args, kwargs, out, out.numel() / args[0].value.numel())


def _total(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    return _reduced(args, kwargs, out, 1.0)


def _reduced(args: tuple, kwargs: dict[str, Any], out: torch.Tensor, scale: float) -> Form:
    x, axes, keepdim = (*args, None, False)[:3] if len(args) < 3 else args[:3]
    axes = axes if axes is not None else kwargs.get("dim") or ()
    keepdim = kwargs.get("keepdim", keepdim) or False
    axes = axes if isinstance(axes, (list, tuple)) else (axes,)
    return Form([(Reduction(x.value.shape, axes, keepdim, out.new_tensor(scale)), x)])


def _fixed_statistics(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form | None:
    """Batch normalisation; in training mode with the statistics of this batch frozen."""
    name_args = args if len(args) > 7 else (*args[:5], False, *args[5:])
    x, weight, bias, mean, variance, training, _, eps = name_args
    if not alone(x, weight, bias, *(() if training else (mean, variance))):
        return None
    side = (1, -1, *(1,) * (x.value.ndim - 2))
    weight = 1 if weight is None else weight.reshape(side)
    constant = out[0].new_zeros(()) if bias is None else bias.reshape(side)
    if training:
        axes = [a for a in range(x.value.ndim) if a != 1]
        return _normalised(run, x, axes, out[2].reshape(side) * weight, constant)
    scale = weight / (variance.reshape(side) + eps).sqrt()
    form = _sum(out[0], [(x, scale)])
    form.constant = constant - mean.reshape(side) * scale
    return form


def _normalised(
    run: Follow, x: Tracked, axes: list[int], scale: torch.Tensor, constant: torch.Tensor | None
) -> Form:
    """The difference to the mean over some axes, times numbers that depend on the data."""
    shape = x.value.shape
    share = x.value.new_tensor(1 / prod(shape[a] for a in axes))
    mean = Reduction(shape, axes, True, share)
    numbers = run.block("mean", mean.target, Form([(mean, x)]))
    center = Tracked(mean.apply(x.value), numbers)
    return _with(_sum(x.value, [(x, scale), (center, -scale)], "statistics"), constant)


def _with(form: Form, constant: torch.Tensor | None) -> Form:
    form.constant = constant
    return form


def _layer_norm(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form | None:
    x, shape, weight, bias, _ = args
    if not alone(x, weight, bias):
        return None
    axes = list(range(x.value.ndim - len(shape), x.value.ndim))
    return _normalised(run, x, axes, out[2] * (1 if weight is None else weight), bias)


def _group_norm(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form | None:
    x, weight, bias, batch, channels, pixels, groups, _ = args
    if not alone(x, weight, bias):
        return None
    inner = (batch, groups, channels // groups, pixels)
    side = (1, groups, channels // groups, 1)
    scale = out[2].reshape(batch, groups, 1, 1)
    scale = scale if weight is None else scale * weight.reshape(side)
    grouped = x.map(lambda t: t.reshape(inner))
    form = _normalised(run, grouped, [2, 3], scale, None)
    if bias is not None:
        form.constant = bias.reshape(1, channels, *(1,) * (x.value.ndim - 2))
    return form


def _log_softmax(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    r"""$x - 1 (p^T x + H(p))$, with the probabilities p and their entropy H frozen."""
    x, axis = args[:2]
    axis = axis % max(out.ndim, 1)
    p = out.exp()
    weighted = _sum(x.value, [(x, p)], "statistics")
    entries = Tracked(p * x.value, run.block("mul", out.shape, weighted))
    total = Reduction(out.shape, [axis], True, out.new_ones(()))
    numbers = run.block("sum", total.target, Form([(total, entries)]))
    mean = Tracked(total.apply(entries.value), numbers)
    entropy = torch.special.entr(p).sum(axis, keepdim=True)
    return _with(_sum(out, [(x, 1), (mean, -1)], "statistics"), -entropy)


def _glu(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
    x, axis = (*args, -1)[:2]
    gate = x.value.chunk(2, axis)[1].sigmoid()
    return _sum(out, [(x.map(lambda t: t.chunk(2, axis)[0]), gate)], "gates")


def _selected(run: Follow, x: Tracked, index: torch.Tensor, axes: int) -> Form:
    """The entries of the last axes, taken as one, at an index."""
    lead = index.shape[: index.ndim - axes]
    spread = x.map(lambda t: t.flatten(len(lead)).gather(-1, index.flatten(len(lead))))
    chosen = spread.map(lambda t: t.reshape(index.shape))
    return Form([(Diagonal(torch.ones_like(chosen.value)), chosen)], None, "selection")


def _max_pool(axes: int) -> Callable:
    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form:
        return _selected(run, args[0], out[1], axes)

    return rule


def _along(place: int) -> Callable:
    """A maximum, minimum, sort or k largest along an axis, which also tells where."""

    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: Any) -> Form | None:
        if not isinstance(out, (tuple, list)):
            return None
        x, index = args[0], out[1]
        axis = args[place] if len(args) > place else kwargs.get("dim", -1)
        if index.ndim < x.value.ndim:
            index = index.unsqueeze(axis)
        chosen = x.map(lambda t: t.gather(axis, index).reshape(out[0].shape))
        return Form([(Diagonal(torch.ones_like(chosen.value)), chosen)], None, "selection")

    return rule


def _larger(sign: int) -> Callable:
    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form:
        a, b = args[:2]
        first = above(*[_value(x) for x in (a, b)][::sign]).expand(out.shape).to(out)
        return _sum(out, [(a, first), (b, 1 - first)], "selection")

    return rule


def _by_module(name: str, made: Callable[..., nn.Module]) -> Callable:
    function = getattr(torch.ops.aten, name)
    dims = next(int(c) for c in name if c.isdigit())

    def rule(run: Follow, args: tuple, kwargs: dict[str, Any], out: torch.Tensor) -> Form | None:
        x, *rest = args
        given = x
        if x.value.ndim != out.ndim:
            return None
        if x.value.ndim == dims + 1:  # without a batch axis
            given = x.map(lambda t: t[None])
        shape = out.shape if given is x else (1, *out.shape)
        module = made(*(tuple(a) if isinstance(a, list) else a for a in rest), **kwargs)
        operator = Fixed(
            lambda t: function(t, *rest, **kwargs), given.value.shape, shape, module, out
        )
        return Form([(operator, given)])

    return rule


def _resized(mode: str) -> Callable[..., nn.Module]:
    def made(size: Any, *rest: Any) -> nn.Module:
        options = {"align_corners": rest[0]} if mode != "nearest" else {}
        scales = rest[len(options) :]
        scales = scales[0] if scales and isinstance(scales[0], (list, tuple)) else scales
        if scales and all(scale is not None for scale in scales):
            return nn.Upsample(scale_factor=tuple(scales), mode=mode, **options)
        return nn.Upsample(size=tuple(size), mode=mode, **options)

    return made


def _rules() -> dict[str, Callable]:
    rules = gate_rules() | {"add": _add(1), "sub": _add(-1), "rsub": _add(-1, turned=True)}
    rules["neg"] = lambda run, args, kwargs, out: _sum(out, [(args[0], -1)])
    rules |= {"mul": _multiply, "div": _divide}
    rules |= {"mm": _matmul, "bmm": _matmul, "mv": _vector, "dot": _vector}
    rules |= {"addmm": _added, "baddbmm": _added, "addmv": _added}
    rules |= {"convolution": _convolution, "mean": _mean, "sum": _total}
    rules |= {"native_batch_norm": _fixed_statistics, "native_layer_norm": _layer_norm}
    rules["_native_batch_norm_legit_no_training"] = _fixed_statistics
    rules["native_group_norm"] = _group_norm
    rules["_log_softmax"] = _log_softmax
    rules |= {"glu": _glu, "maximum": _larger(1), "minimum": _larger(-1)}
    rules |= {name: _along(1) for name in ("max", "min", "sort")} | {"topk": _along(2)}
    for name, axes in (
        *(("max_pool2d_with_indices", 2), ("max_pool3d_with_indices", 3)),
        *(("adaptive_max_pool2d", 2), ("adaptive_max_pool3d", 3)),
    ):
        rules[name] = _max_pool(axes)
    modules = {
        "avg_pool2d": nn.AvgPool2d,
        "avg_pool3d": nn.AvgPool3d,
        "_adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
        "_adaptive_avg_pool3d": nn.AdaptiveAvgPool3d,
        "upsample_nearest2d": _resized("nearest"),
        "upsample_bilinear2d": _resized("bilinear"),
    }
    rules |= {name: _by_module(name, made) for name, made in modules.items()}
    return rules


RULES = _rules()
MOVING = """
cat stack clone _to_copy copy index index_select gather roll flip repeat reflection_pad1d
reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d im2col
pixel_shuffle pixel_unshuffle _unsafe_view channel_shuffle zero where unsafe_split
unsafe_split_with_sizes slice_scatter select_scatter tril triu take_along_dim index_copy
"""
MOVEMENTS: dict[str, int | None] = dict.fromkeys(MOVING.split())
MOVEMENTS |= {"constant_pad_nd": 2, "masked_fill": 2, "fill": 1, "index_fill": 3}
