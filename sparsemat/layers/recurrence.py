"""Recurrence: the matrix layer, and what turns torch's into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from ..arguments import as_size
from ..live import Live
from ..matrix import SparseMatrix, following, require_memory
from ..pattern import Pattern
from ..patterns.recurrence import recurrence_patterns
from ..products.indices import constant
from ..products.recurrence import (
    ACTIVATIONS,
    RecurrenceProduct,
    check_form,
    choose,
    recurrence,
)
from ..rules import Affine, Rule, register, taking_over
from .base import (
    MatrixLayer,
    check_dropout,
    check_flags,
    check_sizes,
    require_tensor,
    require_type,
)
from .gated import BidirectionalRNN, gated_layer


class RNN(MatrixLayer, nn.Module):
    r"""A recurrent layer $h_t = f(W_h h_{t-1} + W_x x_t + b)$, solved as one sparse system.

    Parameters, their initial values, the arguments up to ``dtype`` and the call are those of
    ``torch.nn.RNN`` in one direction, and state dicts load across; packed sequences are not taken.
    The linear activation is added.

    Args:
        input_size: Features d of an input.
        hidden_size: Units h of a hidden state.
        num_layers: Layers; each reads the states of the one before.
        nonlinearity: f, one of ``"tanh"``, ``"relu"`` and ``"linear"``.
        bias: Whether the layers have biases.
        batch_first: Whether a batch of sequences is ``(n, T, d)`` rather than ``(T, n, d)``.
        dropout: Probability of dropping what a layer passes to the next, in training.
        device: Where the parameters live.
        dtype: Their floating-point type.
        form: The form of the product for every length, one of
            :class:`~sparsemat.products.recurrence.RecurrenceProduct`; chosen by size if None.

    Raises:
        ValueError: A size is below 1, or the nonlinearity is unknown or has no such form.

    Source: paper 4.3 and A.2, corrected in the chapter "Recurrence".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        form: str | None = None,
    ) -> None:
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_flags(bias=bias, batch_first=batch_first)
        check_dropout(dropout)
        if nonlinearity not in ACTIVATIONS:
            raise ValueError(f"nonlinearity must be one of {ACTIVATIONS}, got {nonlinearity!r}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        if form is not None:
            check_form(form, nonlinearity)
        self.nonlinearity, self.bias, self.batch_first = nonlinearity, bias, batch_first
        self.dropout, self.form = dropout, form
        for layer in range(num_layers):
            width = hidden_size if layer else input_size
            shapes = {"weight_ih": (hidden_size, width), "weight_hh": (hidden_size, hidden_size)}
            if bias:
                shapes |= {"bias_ih": (hidden_size,), "bias_hh": (hidden_size,)}
            for name, shape in shapes.items():
                value = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(f"{name}_l{layer}", value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as ``torch.nn.RNN`` does."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
            f"nonlinearity={self.nonlinearity!r}, bias={self.bias}, batch_first={self.batch_first}"
            + (f", dropout={self.dropout}" if self.dropout else "")
            + self.own_repr()
        )

    def product(self, steps: int, n: int = 1) -> RecurrenceProduct:
        """The product that runs a layer over n sequences of one length; its repr says why.

        Args:
            steps: Length T of the sequences.
            n: Number of sequences.
        """
        device = self.weight_hh_l0.device
        return choose(steps, n, self.hidden_size, self.nonlinearity, device, self.form)

    def forward(
        self, input: torch.Tensor, hx: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the recurrence over whole sequences.

        Args:
            input: Shape ``(n, T, d)``, or ``(T, n, d)`` if not ``batch_first``, or ``(T, d)``.
            hx: States before the first step, shape ``(num_layers, n, h)``, or ``(num_layers, h)``
                for one sequence; zeros if None.

        Returns:
            The states of the last layer, as input but with h features, and the last state of every
            layer, shaped as ``hx``.

        Raises:
            TypeError: ``input`` or ``hx`` is no tensor.
            ValueError: A shape or type is not one of these, or there is no step.
        """
        require_tensor(input, "input")
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            layout = "(n, T, d)" if self.batch_first else "(T, n, d)"
            raise ValueError(
                f"input must have shape {layout} or (T, d) with d={self.input_size}, "
                f"got {tuple(input.shape)}"
            )
        require_type(input, self.weight_hh_l0, "input")
        single = input.ndim == 2
        states = input[:, None] if single else input.transpose(0, 1) if self.batch_first else input
        expected = (self.num_layers, states.shape[1], self.hidden_size)
        if hx is not None:
            require_type(hx, self.weight_hh_l0, "hx")
            if hx.shape != ((expected[0], expected[2]) if single else expected):
                raise ValueError(
                    f"hx must hold a state for num_layers={self.num_layers} layers and every "
                    f"sequence of input {tuple(input.shape)}, got {tuple(hx.shape)}"
                )
            hx = hx.view(expected)
        last = []
        for layer in range(self.num_layers):
            inputs = linear(states, self._weight("ih", layer), self._bias(layer))
            initial = None if hx is None else hx[layer]
            states = recurrence(
                inputs, self._weight("hh", layer), initial, self.nonlinearity, self.form
            )
            last.append(states[-1])
            if self.dropout and self.training and layer < self.num_layers - 1:
                states = drop(states, self.dropout)
        last = torch.stack(last)
        if single:
            return states[:, 0], last[:, 0]
        return states.transpose(0, 1) if self.batch_first else states, last

    def pattern(self, steps: int, layer: int = 0) -> tuple[Pattern, Pattern]:
        """The patterns N and B of a layer over ``steps`` steps; see :func:`recurrence_patterns`."""
        width = self._weight("ih", layer).shape[1]
        return recurrence_patterns(steps, width, self.hidden_size)

    def operators(self, steps: int, layer: int = 0) -> tuple[SparseMatrix, SparseMatrix]:
        """The matrices N and B of a layer, for which ``h = f(N h + B x + c)``.

        Args:
            steps: Length T of the sequence.
            layer: Which layer.

        Returns:
            N of shape ``(T h, T h)`` and B of shape ``(T h, T d)``; they read the parameters at
            each use.

        Raises:
            ValueError: ``steps`` is below 1 or there is no such layer.
        """
        n, b = self.pattern(steps, layer)
        return (
            following(n, lambda: self._weight("hh", layer)),
            following(b, lambda: self._weight("ih", layer)),
        )

    def matrix(self, steps: int) -> SparseMatrix:
        r"""The matrix $(I - N)^{-1} B$ from the inputs to the states of a linear layer.

        Block ``(t, s)`` is $W_h^{t-s} W_x$ for ``s <= t``, and nothing is stored above; several
        layers give the product of theirs. Biases and ``h0`` add a vector.

        Args:
            steps: Length T of the sequence.

        Returns:
            Matrix of shape ``(T h, T d)``, differentiable; it reads the parameters at each use.

        Raises:
            TypeError: The layer is not linear, so no matrix maps its inputs to its states.
            MemoryError: The matrix would not fit.
            ValueError: ``steps`` is below 1.
        """
        self._require_linear()
        as_size("steps", steps)
        weight, height = self.weight_ih_l0, steps * self.hidden_size
        widest = steps * max(self.input_size, self.hidden_size if self.num_layers > 1 else 0)
        require_memory(
            f"a dense {height}x{widest} matrix", height * widest, weight.dtype, weight.device
        )
        width = steps * self.input_size
        row, col = np.indices((height, width)).reshape(2, -1)
        kept = col // self.input_size <= row // self.hidden_size
        row, col = row[kept], col[kept]
        pattern = Pattern((height, width), row, col, np.arange(len(row)), len(row))
        at = constant(row * width + col, weight.device)

        def theta() -> torch.Tensor:
            result = self._explicit(steps, 0)
            for layer in range(1, self.num_layers):
                result = self._explicit(steps, layer) @ result
            return result.reshape(-1).index_select(0, at)

        return SparseMatrix(pattern, Live(theta, len(row), weight.dtype, weight.device))

    def _require_linear(self) -> None:
        if self.nonlinearity != "linear":
            raise TypeError(
                f"{self!r} is not linear: {self.nonlinearity} acts inside the recurrence, so no "
                "matrix maps x to h; its operators(steps) N and B are matrices"
            )

    def _explicit(self, steps: int, layer: int) -> torch.Tensor:
        blocks = [self._weight("ih", layer)]
        for _ in range(steps - 1):
            blocks.append(self._weight("hh", layer) @ blocks[-1])
        blocks.append(torch.zeros_like(blocks[0]))
        at = torch.arange(steps, device=blocks[0].device)
        power = at[:, None] - at
        power = torch.where(power < 0, steps, power)
        return torch.stack(blocks)[power].transpose(1, 2).flatten(2).flatten(0, 1)

    def _weight(self, kind: str, layer: int) -> torch.Tensor:
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must lie in 0..{self.num_layers - 1}, got {layer}")
        return getattr(self, f"weight_{kind}_l{layer}")

    def _bias(self, layer: int) -> torch.Tensor | None:
        if not self.bias:
            return None
        return getattr(self, f"bias_ih_l{layer}") + getattr(self, f"bias_hh_l{layer}")


def _matrix(module: RNN, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    module._require_linear()
    _check_shape(module, shape)
    if module.dropout and module.training and module.num_layers > 1:
        raise ValueError(f"{module!r} has dropout, so it is a matrix only after .eval()")
    matrix = module.matrix(shape[0])

    def bias() -> torch.Tensor:
        zeros = module.weight_hh_l0.new_zeros(shape)
        return module(zeros)[0].reshape(-1)

    return Affine(matrix.pattern, lambda: matrix.theta, bias, (shape[0], module.hidden_size))


def _layer(module: nn.RNN, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    if module.bidirectional:
        return gated_layer(BidirectionalRNN, module, shape)
    _check_shape(module, shape)
    layer = RNN(
        *(module.input_size, module.hidden_size, module.num_layers, module.nonlinearity),
        *(module.bias, module.batch_first, module.dropout),
        device="meta",
    )
    return taking_over(layer, module)


def _own_layer(module: RNN, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    _check_shape(module, shape)
    return module


def _check_shape(module: nn.Module, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] != module.input_size:
        raise ValueError(
            f"input_shape must be (T, d) with d={module.input_size}, got input_shape={shape}"
        )


HINT = (
    "its activation acts inside the recurrence: from_module gives a layer for nn.RNN, whose "
    "operators(steps) are matrices"
)
register(Rule((RNN,), _matrix, _own_layer))
register(Rule((nn.RNN,), layer=_layer, hint=HINT))
