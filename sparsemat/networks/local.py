"""A network around one input: its Jacobian, and where it is piecewise linear its local map."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .fixed import OneSlope
from .inputs import flat, is_floating
from .paths import (
    Unhooked,
    own_buffers,
    require_gradients,
    require_values,
    running,
    same_draws,
)
from .piecewise import Gate, Watch
from .real import ByColumns
from .region import Region, region


class Jacobian(ByColumns):
    r"""The Jacobian J of a network at one input, not formed.

    Made by :func:`sparsemat.jacobian`.

    ``J.T @ u`` and ``row(i)`` are one backward pass; ``J @ v`` runs the network again in forward
    mode and is refused with a ``ValueError`` where its output is another one by then.

    Attributes:
        y: The output at x, ``(rows,)``.
        offset: The vector $y - J x$, zero where the network is homogeneous of degree one.
    """

    def __init__(
        self,
        x: torch.Tensor,
        output: torch.Tensor,
        function: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self._x, self._output, self._function = x, output.reshape(-1), function
        self.shape = self._output.numel(), x.numel()
        self.dtype, self.device = x.dtype, x.device
        self.y = self._output.detach()
        self._first: torch.Tensor | None = None  # what it gives forwards, with other roundings
        self.offset = self.y - self._multiply(x.detach().reshape(-1, 1))[:, 0]

    def _pushed(self, v: torch.Tensor) -> torch.Tensor:
        # fused attention has no forward mode; torch warns of its own use of a deprecated name
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
            again, along = torch.func.jvp(self._function, (self._x.detach(),), (v,))
        self._require_same(again.detach().reshape(-1))
        return along.detach().reshape(-1)

    def _require_same(self, y: torch.Tensor) -> None:
        first = self._first = y if self._first is None else self._first
        largest = float(first[first.isfinite()].abs().max()) if first.isfinite().any() else 0.0
        got = f"{len(y)} numbers"
        if len(y) == len(first):
            off = torch.finfo(y.dtype).eps ** 0.5 * largest
            if torch.allclose(y, first, rtol=0, atol=off, equal_nan=True):
                return
            got = f"ones that differ by {float((y - first).abs().max()):.3g}"
        raise ValueError(
            f"the network must still return what it did, {len(first)} numbers of at most "
            f"{largest:.3g}, got {got}; make the Jacobian anew"
        )

    def _pulled(self, u: torch.Tensor) -> torch.Tensor:
        gradient = _gradient(self._output, self._x, u)
        return u.new_zeros(self.shape[1]) if gradient is None else gradient

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}x{self.shape[1]})"


class LocalMap(Jacobian):
    r"""The matrix A(x) of a piecewise linear network, not formed.

    Made by :func:`sparsemat.local_map`.

    ``A @ v`` runs the network's gates and matrices over v, ``A.T @ u`` backwards; ``row(i)`` is one
    backward pass. It is constant as long as no gate changes.

    Attributes:
        y: The output at x, ``(rows,)``.
        offset: The vector $b(x) = y - A x$.
        gates: Which piece every gate and selection is on, in the order in which they ran.
    """

    def __init__(
        self,
        x: torch.Tensor,
        output: torch.Tensor,
        gates: tuple[Gate, ...],
        walls: Sequence[Callable | None],
    ) -> None:
        self._unit = torch.zeros_like(output).reshape(-1).requires_grad_()
        # linear in the unit, so that its own gradient is the product with A
        self._back = _gradient(output.reshape(-1), x, self._unit, create_graph=True)
        super().__init__(x, output, None)
        self.gates, self._walls = gates, walls

    def _pushed(self, v: torch.Tensor) -> torch.Tensor:
        if self._back is None:  # no path from the input to the output
            return v.new_zeros(self.shape[0])
        return _gradient(self._back, self._unit, v)

    def region(self) -> Region:
        r"""The inequalities $G x' \le h$ of the inputs x' at which all gates are as at x.

        Returns:
            A :class:`sparsemat.networks.Region`, whose rows are products with what the map holds.

        Raises:
            TypeError: The network chooses in a way that has no known linear inequalities, by
                rounding numbers say, or by detached numbers that it changed; the message names the
                choice and the part.

        Source: chapter "A CNN as one matrix".
        """
        with torch.enable_grad():
            return region(self._x, self.gates, self._walls)

    def same_piece(self, other: LocalMap) -> bool:
        """Whether all gates agree, so that both matrices and offsets are one."""
        return len(self.gates) == len(other.gates) and all(
            torch.equal(mine.choice, theirs.choice)
            for mine, theirs in zip(self.gates, other.gates, strict=True)
        )

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"LocalMap({rows}x{cols}, {len(self.gates)} gates and selections)"


def local_map(model: nn.Module, *inputs: torch.Tensor) -> LocalMap:
    r"""The matrix A(x) and the offset b(x) of a piecewise linear network around one input.

    $f(x') = A x' + b$ for every x' for which all gates stay as they are; A is the Jacobian there.
    Only such networks have one: convolutions, linear layers, averages, maxima, ReLU and its kin,
    batch normalisation in eval mode, sums, concatenations, reshapes.

    Args:
        model: The network; its buffers and the random state stay as they are.
        inputs: Its arguments, each one input without the batch axis, of the type of the parameters;
            the columns of A are the entries of those of floating-point numbers, one after the
            other.

    Returns:
        A :class:`sparsemat.networks.LocalMap` of shape ``(y.numel(), x.numel())``; it holds the
        intermediate results of the run.

    Raises:
        TypeError: There is no tensor of floating-point numbers, the output is none, an operation
            is not piecewise linear in x, random numbers are drawn, or a part or a tensor has
            backward hooks; the message names the operation and the part.
        ValueError: A parameter has no values, torch refuses x, or derivatives are off in
            ``torch.inference_mode()``; with the path.

    Source: chapter "A CNN as one matrix".
    """
    require_values(model)
    require_gradients(model)
    x, arguments = flat(model, inputs)
    drawing = same_draws()
    with torch.enable_grad():
        watch = Watch(x.requires_grad_(), model)
        with watch.watching(), drawing(), own_buffers(model):
            output = model(*arguments(x))
            watch.check(output)
        return LocalMap(x, _output(output), tuple(watch.gates), watch.walls)


def jacobian(model: nn.Module, *inputs: torch.Tensor) -> Jacobian:
    r"""The Jacobian of any differentiable network at one input, by autograd, not formed.

    It tells how the output changes with the input: $f(x + v) = f(x) + J v + o(v)$. Where the
    network is piecewise linear it is the matrix of :func:`sparsemat.local_map`; elsewhere it
    differs from :func:`sparsemat.secant_map`, which tells how the output is made of the input.

    Args:
        model: The network; its buffers and the random state stay as they are, and what it draws, in
            dropout say, is drawn once for all products.
        inputs: As for :func:`sparsemat.local_map`.

    Returns:
        A :class:`sparsemat.networks.Jacobian` of shape ``(y.numel(), x.numel())``.

    Raises:
        TypeError: There is no tensor of floating-point numbers, the output is none, or a part or a
            tensor has backward hooks.
        ValueError: A parameter has no values, torch refuses x, or derivatives are off in
            ``torch.inference_mode()``; with the path.

    Source: chapter "A CNN as one matrix".
    """
    drawing = same_draws()

    def run(x: torch.Tensor) -> torch.Tensor:
        with drawing(), own_buffers(model), OneSlope():
            return _output(model(*arguments(x)))

    require_values(model)
    require_gradients(model)
    x, arguments = flat(model, inputs)
    with torch.enable_grad():
        with running(model), Unhooked():
            output = run(x.requires_grad_())
        return Jacobian(x, output, run)


def _gradient(
    output: torch.Tensor, source: torch.Tensor, v: torch.Tensor, create_graph: bool = False
) -> torch.Tensor | None:
    if not output.requires_grad:
        return None
    options = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
    return torch.autograd.grad(output, source, v, **options)[0]


def _output(output: torch.Tensor) -> torch.Tensor:
    if not is_floating(output):
        kind = output.dtype if torch.is_tensor(output) else type(output).__name__
        raise TypeError(f"the network must return a tensor of floating-point numbers, got {kind}")
    return output
