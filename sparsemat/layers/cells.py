"""One step of a recurrence: the matrix layers of torch's cells, and their rules."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from ..matrix import SparseMatrix, following
from ..pattern import Pattern
from ..patterns.gated import cell_pattern
from ..rules import Rule, as_it_is, register, taking_over
from .base import MatrixLayer, require_tensor, require_type
from .systems import (
    GatedSystem,
    Weights,
    gru_states,
    gru_system,
    lstm_states,
    lstm_system,
)


class _Cell(MatrixLayer):
    """What the cells share; stands before torch's cell, whose arguments and call they have."""

    together = True  # whether input and state meet in one sum

    @property
    def pattern(self) -> Pattern:
        """The pattern of :meth:`matrix`."""
        sizes = self.input_size, self.hidden_size, self.weight_hh.shape[0]
        make = partial(cell_pattern, *sizes, together=self.together)
        return self.remembered("pattern", sizes, make)

    def matrix(self) -> SparseMatrix:
        r"""The matrix that acts on an input and, below it, a state: all of the cell that is fixed.

        It is $(W_x \; W_h)$, and for a GRU, whose reset gate stands between the two, block
        diagonal. Biases are added and gates applied to what it gives.

        Returns:
            Matrix with ``input_size + hidden_size`` columns and a row, of a GRU two, for every unit
            of every gate; it reads the parameters at each use.
        """

        def theta() -> torch.Tensor:
            return torch.cat((self.weight_ih.reshape(-1), self.weight_hh.reshape(-1)))

        return following(self.pattern, theta)

    def _weights(self) -> Weights:
        return Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def _batched(self, x: torch.Tensor, *states: torch.Tensor | None) -> list[torch.Tensor]:
        """Input and states with a batch axis; states that are None as zeros."""
        require_tensor(x, "input")
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"input must have shape (n, d) or (d,) with d={self.input_size}, "
                f"got {tuple(x.shape)}"
            )
        require_type(x, self.weight_hh, "input")
        shape = (*x.shape[:-1], self.hidden_size)
        for state in states:
            if state is None:
                continue
            require_type(state, self.weight_hh, "a state")
            if tuple(state.shape) != shape:
                raise ValueError(
                    f"a state must have shape {shape} for the input {tuple(x.shape)}, "
                    f"got {tuple(state.shape)}"
                )
        states = [x.new_zeros(shape) if state is None else state for state in states]
        return [part[None] if x.ndim == 1 else part for part in (x, *states)]

    def _one(self, x: torch.Tensor, *states: torch.Tensor | None) -> list[torch.Tensor]:
        if x.ndim != 1:
            raise ValueError(f"x must be one input ({self.input_size},), got {tuple(x.shape)}")
        return [part[0] for part in self._batched(x, *states)]


class RNNCell(_Cell, nn.RNNCell):
    """One step of a recurrence, its matrix followed by tanh or ReLU.

    Arguments, parameters, initial values and the call are those of ``torch.nn.RNNCell``.

    Source: chapter "Gated recurrence".
    """

    def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None) -> torch.Tensor:
        """The next state.

        Args:
            input: Shape ``(n, d)`` or ``(d,)``.
            hx: The state before, ``(n, h)`` or ``(h,)``; zeros if None.

        Raises:
            ValueError: A shape or type does not fit.
        """
        inputs, h = self._batched(input, hx)
        a = linear(inputs, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        h = a.tanh() if self.nonlinearity == "tanh" else a.relu()
        return h if input.ndim == 2 else h[0]


class LSTMCell(_Cell, nn.LSTMCell):
    """One step of an LSTM; see :class:`sparsemat.LSTM`.

    Arguments, parameters, initial values and the call are those of ``torch.nn.LSTMCell``.

    Source: chapter "Gated recurrence".
    """

    def forward(
        self, input: torch.Tensor, hx: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next state and the next cell.

        Args:
            input: Shape ``(n, d)`` or ``(d,)``.
            hx: The state and the cell before, each ``(n, h)`` or ``(h,)``; zeros if None.

        Raises:
            ValueError: A shape or type does not fit.
        """
        inputs, *before = self._batched(input, *_pair(hx))
        _, (c,), (h,) = lstm_states(inputs[None], self._weights(), *before)
        return (h, c) if input.ndim == 2 else (h[0], c[0])

    def system(
        self, x: torch.Tensor, hx: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> GatedSystem:
        """The system $z = M z + E x + c$ of the step at one input, for z = (a, c, h).

        Args:
            x: One input ``(d,)``.
            hx: The state and the cell before, each ``(h,)``; zeros if None.

        Raises:
            ValueError: A shape or type does not fit.
        """
        x, *before = self._one(x, *_pair(hx))
        return lstm_system(x[None], self._weights(), *before)


class GRUCell(_Cell, nn.GRUCell):
    """One step of a GRU; see :class:`sparsemat.GRU`.

    Arguments, parameters, initial values and the call are those of ``torch.nn.GRUCell``.

    Source: chapter "Gated recurrence".
    """

    together = False

    def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None) -> torch.Tensor:
        """The next state.

        Args:
            input: Shape ``(n, d)`` or ``(d,)``.
            hx: The state before, ``(n, h)`` or ``(h,)``; zeros if None.

        Raises:
            ValueError: A shape or type does not fit.
        """
        inputs, before = self._batched(input, hx)
        (h,) = gru_states(inputs[None], self._weights(), before)[-1]
        return h if input.ndim == 2 else h[0]

    def system(self, x: torch.Tensor, hx: torch.Tensor | None = None) -> GatedSystem:
        """The system $z = M z + E x + c$ of the step at one input, for z = (u, v, a, h).

        Args:
            x: One input ``(d,)``.
            hx: The state before, ``(h,)``; zeros if None.

        Raises:
            ValueError: A shape or type does not fit.
        """
        x, before = self._one(x, hx)
        return gru_system(x[None], self._weights(), before)


def _pair(hx: Any) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if hx is None:
        return None, None
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise ValueError(f"hx must be a pair of a state and a cell, got {type(hx).__name__}")
    return tuple(hx)


def _layer(kind: type[_Cell], module: nn.RNNCellBase, shape: tuple[int, ...]) -> nn.Module:
    # a call without a batch axis has no axis left
    if shape not in ((), (module.input_size,)):
        raise ValueError(
            f"input_shape must be (d,) with d={module.input_size}, got input_shape={shape}"
        )
    options = {"nonlinearity": module.nonlinearity} if kind is RNNCell else {}
    layer = kind(module.input_size, module.hidden_size, module.bias, device="meta", **options)
    return taking_over(layer, module)


HINT = "it takes an input and a state: its matrix layer has the matrix() of both"
for _native, _kind in ((nn.RNNCell, RNNCell), (nn.LSTMCell, LSTMCell), (nn.GRUCell, GRUCell)):
    register(
        Rule((_native,), layer=lambda m, shape, _, kind=_kind: _layer(kind, m, shape), hint=HINT)
    )
register(Rule((RNNCell, LSTMCell, GRUCell), layer=as_it_is, hint=HINT))
