"""Affine modules to sparse matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from .. import layers  # noqa: F401 (registers the rules)
from ..live import Live
from ..matrix import SparseMatrix
from ..rules import Affine, Rule, checked_shape, find, refuse_computed, register, rules
from ..rules import like as like_of


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
    check_module(module)
    shape = checked_shape(input_shape)
    like = like_of(module, dtype, device)
    affine = _affine(module, shape, like)
    return affine.matrix(like), affine.constant(like)


def check_module(module: nn.Module) -> None:
    """Refuse what is no module, or one whose parameters have no shape or no value of their own.

    Raises:
        TypeError: It is no module.
        ValueError: A parameter is of a lazy module, or a hook computes it.
    """
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


register(Rule((nn.Sequential,), _sequence))
