r"""What every product with a sparse pattern has in common, and the one place for autograd.

A pattern is the trilinear form $t(\theta, x, g) = \sum_k \theta_{i_k} x_{c_k} g_{r_k}$. Leaving out
one argument gives three bilinear maps: ``apply`` (leave out g: $W x$), ``adjoint`` (leave out x:
$W^T g$) and ``outer`` (leave out theta: $g x^T$ at the pattern). Each is the derivative of the
others, so derivatives of every order are made of the same three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import count
from weakref import WeakValueDictionary

import numpy as np
import torch

# private, but there is no public way to ask whether a transform is at work
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    is_legacy_batchedtensor,
    peek_interpreter_stack,
)
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .casting import as_given, without_autocast
from .indices import constant

_numbers, _by_number = count(), WeakValueDictionary()
_NUMBERS = (torch.Tensor, torch.nn.Parameter)
APPLY, ADJOINT, OUTER = "apply", "adjoint", "outer"


class Product(ABC):
    """``W(theta) @ x`` for one pattern.

    A subclass writes the three maps twice: with buffers and blocks, for numbers, and as plain
    operations of torch, for whatever traces or batches them.

    Attributes:
        shape: ``(rows, cols)`` of W.
        num_parameters: Length of theta.
        nnz: Triples of the pattern.
    """

    shape: tuple[int, int]
    num_parameters: int
    nnz: int
    _number: int
    _tables: dict[tuple[str, torch.device], torch.Tensor]

    def __new__(cls, *args: object, **kwargs: object) -> Product:
        """A product without tables yet, and with a number by which a compiler may find it."""
        self = super().__new__(cls)
        self._number, self._tables = next(_numbers), {}
        _by_number[self._number] = self
        return self

    def __deepcopy__(self, memo: dict) -> Product:
        return self  # nothing in it can change

    def __call__(self, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``W(theta) @ x``.

        Args:
            theta: Parameters, shape ``(num_parameters,)``.
            x: Vectors as columns, shape ``(cols, n)``, same dtype and device.

        Returns:
            Tensor of shape ``(rows, n)``.

        Raises:
            ValueError: A shape or type does not fit.
        """
        self._check("x", x, self.shape[1], "cols")
        self._check_theta(theta, x)
        return self._map(APPLY, theta, x)

    def adjoint(self, theta: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """``W(theta)^H @ g`` for g ``(rows, n)``; a tensor of shape ``(cols, n)``.

        Raises:
            ValueError: A shape or type does not fit.
        """
        self._check("g", g, self.shape[0], "rows")
        self._check_theta(theta, g)
        return self._map(ADJOINT, _conj(theta), g)

    def outer(self, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``g @ x^H`` summed at the pattern: the gradient of theta; shape ``(num_parameters,)``.

        Raises:
            ValueError: A shape or type does not fit.
        """
        self._check("g", g, self.shape[0], "rows")
        self._check("x", x, self.shape[1], "cols")
        if g.dtype != x.dtype or g.shape[1] != x.shape[1]:
            raise ValueError(
                "g and x must have one type and number of columns, got "
                f"{g.dtype} {tuple(g.shape)} and {x.dtype} {tuple(x.shape)}"
            )
        return self._map(OUTER, g, _conj(x))

    def laid(self, x: torch.Tensor) -> torch.Tensor:
        """The vectors as they are read, so that both passes share one copy; here themselves."""
        return x

    @abstractmethod
    def numbers(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three bilinear maps, without autograd."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """The index arrays that :meth:`plain` reads, by name."""

    def table(self, name: str, device: torch.device) -> torch.Tensor:
        """One of :meth:`arrays` on a device; only real tensors are kept."""
        if torch.compiler.is_dynamo_compiling():
            _are_made(self._number, name, str(device))
            return self._tables[name, device]
        if is_traced():
            return torch.tensor(self.arrays()[name], device=device)
        return self._table(name, device)

    def _table(self, name: str, device: torch.device) -> torch.Tensor:
        if (name, device) not in self._tables:
            arrays = self.arrays().items()
            self._tables |= {(name, device): constant(array, device) for name, array in arrays}
        return self._tables[name, device]

    @abstractmethod
    def plain(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The same by plain operations, which torch can differentiate, batch and trace."""

    def gradients(
        self, theta: torch.Tensor, x: torch.Tensor, grad: torch.Tensor, wants: tuple[bool, bool]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of theta and x, without autograd; a subclass may share work."""
        return (
            self.numbers(OUTER, grad, _conj(x)) if wants[0] else None,
            self.numbers(ADJOINT, _conj(theta), grad) if wants[1] else None,
        )

    def _map(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if is_traced(left, right):
            return self.plain(kind, left, right)
        if kind == APPLY and not right.requires_grad:
            right = self.laid(right)
        return _bilinear(left, right, self, kind)

    def _check(self, name: str, side: torch.Tensor, size: int, what: str) -> None:
        if side.ndim != 2 or side.shape[0] != size:
            raise ValueError(
                f"{name} must have shape ({what}, n) with {what}={size}, got {tuple(side.shape)}"
            )

    def _check_theta(self, theta: torch.Tensor, other: torch.Tensor) -> None:
        if theta.shape != (self.num_parameters,):
            raise ValueError(
                f"theta must have shape (num_parameters,)={(self.num_parameters,)}, "
                f"got {tuple(theta.shape)}"
            )
        if theta.dtype != other.dtype:
            raise ValueError(f"theta and x must have one type, got {theta.dtype} and {other.dtype}")


def is_traced(*tensors: torch.Tensor) -> bool:
    """Whether somebody records operations rather than numbers, so that only plain ones will do."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    if _get_current_dispatch_mode() is not None:
        return True
    for tensor in tensors:  # a generator would cost as much as the rest
        if type(tensor) not in _NUMBERS or is_legacy_batchedtensor(tensor):
            return True
    return False


def _are_made(number: int, name: str, device: str) -> bool:
    # a function of constants, which a compiler calls while it traces: then the tables are there
    return _by_number[number]._table(name, torch.device(device)) is not None


# what torch.compiler.assume_constant_result does, without importing the compiler (a second)
_are_made._dynamo_marked_constant = True


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is at work."""
    return peek_interpreter_stack() is not None


def is_twice_forward() -> bool:
    """Whether a forward derivative is taken of a forward derivative.

    There torch loses the outer one in a function with a ``jvp`` of its own, so only plain
    operations will do.
    """
    stack = get_interpreter_stack() or ()
    return sum(interpreter.key() == TransformType.Jvp for interpreter in stack) > 1


class _Bilinear(torch.autograd.Function):
    """One of the three maps; its derivatives are the other two."""

    @staticmethod
    @as_given
    def forward(left, right, product, kind):
        return product.numbers(kind, left, right)

    @staticmethod
    def setup_context(ctx, inputs, output):
        left, right, ctx.product, ctx.kind = inputs
        ctx.save_for_backward(left, right)
        ctx.save_for_forward(left, right)

    @staticmethod
    @as_given
    def backward(ctx, grad):
        left, right = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        ordinary = not torch.is_grad_enabled() and not is_transformed()
        if ordinary and ctx.kind == APPLY and not is_traced(grad):
            return *ctx.product.gradients(left, right, grad, wants), None, None
        return (
            _derivative(ctx.product, ctx.kind, 0, right, grad) if wants[0] else None,
            _derivative(ctx.product, ctx.kind, 1, left, grad) if wants[1] else None,
            *(None, None),
        )

    @staticmethod
    def jvp(ctx, d_left, d_right, *_):
        left, right = ctx.saved_tensors
        parts = []
        if d_left is not None:
            parts.append(ctx.product._map(ctx.kind, d_left, right))
        if d_right is not None:
            parts.append(ctx.product._map(ctx.kind, left, d_right))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info, in_dims, left, right, product, kind):
        def one(left, right):
            return product.plain(kind, left, right)

        with without_autocast(left.device.type):
            return torch.vmap(one, in_dims[:2])(left, right), 0


class _Ordinary(_Bilinear):
    """The same in the older form, which torch calls in half the time; transforms refuse it."""

    @staticmethod
    def forward(ctx, left, right, product, kind):
        _Bilinear.setup_context(ctx, (left, right, product, kind), None)
        return _Bilinear.forward(left, right, product, kind)

    setup_context = torch.autograd.Function.setup_context


def _bilinear(left: torch.Tensor, right: torch.Tensor, product: Product, kind: str) -> torch.Tensor:
    if is_twice_forward():
        return product.plain(kind, left, right)
    function = _Bilinear if is_transformed() else _Ordinary
    return function.apply(left, right, product, kind)


# (map, argument): the map that is its derivative, and the order of (other argument, gradient)
_DERIVATIVES = {
    (APPLY, 0): (OUTER, False),
    (APPLY, 1): (ADJOINT, True),
    (ADJOINT, 0): (OUTER, True),
    (ADJOINT, 1): (APPLY, True),
    (OUTER, 0): (APPLY, False),
    (OUTER, 1): (ADJOINT, False),
}


def _derivative(
    product: Product, kind: str, argument: int, other: torch.Tensor, grad: torch.Tensor
) -> torch.Tensor:
    derivative, other_first = _DERIVATIVES[kind, argument]
    other = _conj(other)
    sides = (other, grad) if other_first else (grad, other)
    return product._map(derivative, *sides)


def _conj(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.conj() if tensor.is_complex() else tensor
