"""Stock PyTorch modules to matrices, and to layers that multiply by them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from . import layers  # noqa: F401 (registers the rules)
from .arguments import as_flag, as_size
from .live import Live
from .matrix import SparseMatrix
from .products import check_form
from .rules import (
    Affine,
    Rule,
    as_it_is,
    checked_shape,
    find,
    refuse_computed,
    register,
    rules,
)
from .rules import like as like_of


def to_matrix(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[SparseMatrix, Live]:
    """The sparse matrix and the constant of an affine module.

    ``W @ x.reshape(-1) + b == module(x[None])[0].reshape(-1)`` for every x of ``input_shape``.
    Both read the module's parameters and buffers at each use, so the pair stays the module's while
    it trains, and gradients of both reach its parameters; ``W.detach()`` and ``b.detach()`` are
    those of now. The module itself is not changed.

    Args:
        module: An affine module: linear and convolution layers, also transposed, averages, padding,
            linear interpolation and reshaping, batch normalisation and dropout in eval mode, a
            ``Sequential`` of these, or one of this library's linear layers.
        input_shape: Shape of one input, without the batch axis.
        dtype: Type of the matrix, for a module without parameters; torch's default if None.
        device: Where it will live, for a module without parameters.

    Returns:
        W of shape ``(prod(output_shape), prod(input_shape))`` and b of shape
        ``(prod(output_shape),)``, which stands wherever torch takes a tensor; in the type and on
        the device of the module's parameters.

    Raises:
        TypeError: The module is not affine, of no known kind, computes something else than its
            kind, or has hooks; the message says what to use.
        ValueError: The module is in a mode in which it is not affine, does not take the shape, or
            has a weight that a hook computes.
    """
    _check_module(module)
    shape = checked_shape(input_shape)
    like = like_of(module, dtype, device)
    affine = _affine(module, shape, like)
    return affine.matrix(like), affine.constant(like)


def from_module(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    tied: bool = True,
    causal: bool = False,
    window: int | None = None,
    form: str | None = None,
) -> nn.Module:
    """The matrix layer with the parameters of a stock module, under the same names.

    Args:
        module: A convolution, an average or maximum pooling, ``RNN``, ``MultiheadAttention`` (as
            self-attention: called with one argument), a ``Sequential`` of these, or a module that
            is its own matrix layer (``Linear``, activations, ...), which is copied. Parameters that
            parts share stay shared, and so does a part that a ``Sequential`` holds twice; where
            such a part meets inputs of two shapes it becomes two layers with the same parameters.
        input_shape: Shape of one input, without the batch axis.
        tied: Whether the positions of a convolution share its kernel.
        causal: Whether token i of an attention sees only tokens ``j <= i``.
        window: Distance up to which tokens of an attention see one another; None for no limit.
        form: Form of the products of convolutions; ``"native"`` costs what torch's own does.

    Returns:
        A module of its own, whose state dict loads into ``module`` and back (a convolution that is
        not tied has a longer weight).

    Raises:
        TypeError: There is no matrix layer for the module, it computes something else than its
            kind, or has hooks.
        ValueError: The module has an option that the matrix layer does not take or a weight that a
            hook or a parametrization computes, an argument has no module to act on, or a weight to
            untie is shared.
    """
    _check_module(module)
    shape = checked_shape(input_shape)
    as_flag("tied", tied)
    as_flag("causal", causal)
    if window is not None:
        as_size("window", window, 0)
    if form is not None:
        check_form(form)
    options = {"tied": tied, "causal": causal, "window": window, "form": form}
    _refuse_idle_options(module, options)
    if not tied:
        _refuse_shared(module)
    return _layer(deepcopy(module), shape, options)


def _check_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    for name, parameter in module.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"{name} must have a shape, got a parameter of a lazy module; call the module once"
            )
    refuse_computed(module)


def _affine(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    rule = find(module)
    if rule is None or rule.matrix is None:
        names = {kind.__name__ for r in rules() if r.matrix for kind in r.kinds}
        known = f"the kinds that to_matrix takes are {', '.join(sorted(names))}"
        hint = known if rule is None else rule.hint
        raise TypeError(f"{type(module).__name__} is not a matrix; {hint}")
    return rule.matrix(module, shape, like)


def _sequence(module: nn.Sequential, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    affine = _affine(nn.Identity(), shape, like)
    for part in module:
        affine = _composed(_affine(part, affine.shape, like), affine, like)
    return affine


def _composed(left: Affine, right: Affine, like: torch.Tensor) -> Affine:
    outer, inner = left.matrix(like), right.matrix(like)
    matrix = outer @ inner

    def bias() -> torch.Tensor:
        return outer @ right.constant(like).value() + left.constant(like).value()

    has_bias = left.bias is not None or right.bias is not None
    return Affine(matrix.pattern, lambda: matrix.theta, bias if has_bias else None, left.shape)


def _layer(module: nn.Module, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    rule = find(module)
    if rule is None or rule.layer is None:
        names = {k.__name__ for r in rules() if r.layer not in (None, as_it_is) for k in r.kinds}
        raise TypeError(
            f"there is no matrix layer for {type(module).__name__}; from_module takes "
            f"{', '.join(sorted(names))}, layers without a matrix of their own, and to_matrix "
            "every affine module"
        )
    return rule.layer(module, shape, options)


def _sequence_layer(
    module: nn.Sequential, shape: tuple[int, ...], options: dict[str, Any]
) -> nn.Module:
    made, parts = {}, OrderedDict()
    for name, part in module._modules.items():  # named_children leaves a part out the second time
        if (part, shape) not in made:
            made[part, shape] = _layer(part, shape, options)
        parts[name] = made[part, shape]
        with torch.no_grad():
            output = deepcopy(parts[name]).eval()(_zeros(part, shape))
        shape = tuple((output[0] if isinstance(output, tuple) else output).shape[1:])
    result = nn.Sequential(parts)
    result.training = module.training  # its parts keep their own modes
    return result


def _zeros(part: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    batch_second = getattr(part, "batch_first", True) is False
    size = (shape[0], 1, *shape[1:]) if batch_second else (1, *shape)
    return like_of(part, None, None).new_zeros(size)


def _refuse_idle_options(module: nn.Module, options: dict[str, Any]) -> None:
    defaults = {"tied": True, "causal": False, "window": None, "form": None}
    for name, value in options.items():
        if value == defaults[name]:
            continue
        kinds = tuple(kind for rule in rules() if name in rule.options for kind in rule.kinds)
        if not any(isinstance(part, kinds) for part in module.modules()):
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(f"{name} needs one of {names}, got {name}={value} for {module!r}")


def _refuse_shared(module: nn.Module) -> None:
    untied = tuple(kind for rule in rules() if "tied" in rule.options for kind in rule.kinds)
    owners = Counter(id(p) for part in module.modules() for p in part._parameters.values())
    for path, part in module.named_modules():
        if isinstance(part, untied) and owners[id(part.weight)] > 1:
            raise ValueError(
                f"tied=False needs a weight that no other part shares, got a shared one at {path!r}"
            )


register(Rule((nn.Sequential,), _sequence, _sequence_layer))
