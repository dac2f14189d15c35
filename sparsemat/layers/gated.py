"""Gated recurrences, and those in both directions: the matrix layers and their rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from ..matrix import SparseMatrix, following
from ..patterns.recurrence import recurrence_patterns
from ..products.recurrence import recurrence
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


class _Recurrence(MatrixLayer):
    """What the layers share; stands before torch's layer, whose arguments and call they have."""

    def forward(
        self,
        input: torch.Tensor,
        hx: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """Run the recurrence over whole sequences; arguments and results are torch's.

        Args:
            input: Shape ``(n, T, d)``, or ``(T, n, d)`` if not ``batch_first``, or ``(T, d)``.
            hx: States before the first step, a pair for an LSTM; zeros if None.

        Raises:
            TypeError: ``input`` is a packed sequence, or a state no tensor.
            ValueError: A shape or type does not fit.
        """
        require_tensor(input, "input")
        axis = 1 if input.ndim == 3 and self.batch_first else 0
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size or input.shape[axis] == 0:
            raise ValueError(
                f"input must have 2 or 3 axes, at least one step and end in {self.input_size} "
                f"features, got {tuple(input.shape)}"
            )
        require_type(input, self.weight_hh_l0, "input")
        single = input.ndim == 2
        states = input[:, None] if single else input.transpose(0, 1) if self.batch_first else input
        before = self._initial(hx, states.shape[1], single)
        last = []
        sides = 1 + self.bidirectional
        for layer in range(self.num_layers):
            made = []
            for side in range(sides):
                inputs = states.flip(0) if side else states
                given = [None if b is None else b[layer * sides + side] for b in before]
                out, *ends = self._run(inputs, f"l{layer}" + ("_reverse" if side else ""), given)
                made.append(out.flip(0) if side else out)
                last.append(ends)
            states = torch.cat(made, -1) if sides > 1 else made[0]
            if self.dropout and self.training and layer < self.num_layers - 1:
                states = drop(states, self.dropout)
        ends = [torch.stack(side) for side in zip(*last, strict=True)]
        if single:
            states, ends = states[:, 0], [end[:, 0] for end in ends]
        elif self.batch_first:
            states = states.transpose(0, 1)
        return states, ends[0] if len(ends) == 1 else tuple(ends)

    def _initial(self, hx: Any, n: int, single: bool) -> list[torch.Tensor | None]:
        widths = [getattr(self, "proj_size", 0) or self.hidden_size]
        if self.mode == "LSTM":
            widths.append(self.hidden_size)
        if hx is None:
            return [None] * len(widths)
        given = list(hx) if isinstance(hx, (tuple, list)) else [hx]
        for part in given:
            require_type(part, self.weight_hh_l0, "hx")
        many = self.num_layers * (1 + self.bidirectional)
        expected = [(many, width) if single else (many, n, width) for width in widths]
        if [tuple(part.shape) for part in given] != expected:
            shapes = [tuple(part.shape) for part in given]
            raise ValueError(f"hx must have shapes {expected}, got {shapes}")
        return [part[:, None] if single else part for part in given]

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        """States ``(T, n, h)`` of one layer in one direction, and the states after the last."""
        raise NotImplementedError

    def _weights(self, name: str) -> Weights:
        names = "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"
        return Weights(*(getattr(self, f"{kind}_{name}", None) for kind in names))

    def _direction(self, layer: int, reverse: bool) -> Weights:
        if reverse and not self.bidirectional:
            raise ValueError("reverse needs a bidirectional layer, got bidirectional=False")
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must lie in 0..{self.num_layers - 1}, got {layer}")
        return self._weights(f"l{layer}" + ("_reverse" if reverse else ""))

    def _sequence(
        self, x: torch.Tensor, hx: Any, layer: int, reverse: bool
    ) -> tuple[Weights, list[torch.Tensor | None]]:
        """The weights of one layer and direction, and what is before its first step."""
        require_tensor(x)
        weights = self._direction(layer, reverse)
        width = weights.ih.shape[1]
        if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
            raise ValueError(f"x must be one sequence (T, {width}), got {tuple(x.shape)}")
        require_type(x, weights.hh)
        at = layer * (1 + self.bidirectional) + reverse
        before = self._initial(hx, 1, True)
        return weights, [None if part is None else part[at, 0] for part in before]


class LSTM(_Recurrence, nn.LSTM):
    r"""A long short-term memory: at its input one triangular system, $z = M z + E x + c$.

    Arguments, parameters, initial values and the call are those of ``torch.nn.LSTM``; packed
    sequences are not taken.

    Source: chapter "Gated recurrence".
    """

    def system(
        self,
        x: torch.Tensor,
        hx: tuple[torch.Tensor, torch.Tensor] | None = None,
        *,
        layer: int = 0,
        reverse: bool = False,
    ) -> GatedSystem:
        """The system of one layer in one direction at the input x.

        Args:
            x: That layer's input, one sequence ``(T, d)``; for ``reverse`` the last step first.
            hx: States and cells before the first step, of all layers as in a call with ``(T, d)``;
                zeros if None.
            layer: Which layer.
            reverse: Whether of the backward direction.

        Raises:
            ValueError: There is no such layer or direction, or a shape does not fit.
        """
        weights, before = self._sequence(x, hx, layer, reverse)
        return lstm_system(x, weights, *before)

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        _, cells, states = lstm_states(inputs, self._weights(name), *before)
        return states, states[-1], cells[-1]


class GRU(_Recurrence, nn.GRU):
    r"""A gated recurrent unit: at its input one triangular system, $z = M z + E x + c$.

    Arguments, parameters, initial values and the call are those of ``torch.nn.GRU``; packed
    sequences are not taken.

    Source: chapter "Gated recurrence".
    """

    def system(
        self,
        x: torch.Tensor,
        hx: torch.Tensor | None = None,
        *,
        layer: int = 0,
        reverse: bool = False,
    ) -> GatedSystem:
        """The system of one layer in one direction at the input x.

        Args:
            x: That layer's input, one sequence ``(T, d)``; for ``reverse`` the last step first.
            hx: States before the first step, of all layers as in a call with ``(T, d)``; zeros if
                None.
            layer: Which layer.
            reverse: Whether of the backward direction.

        Raises:
            ValueError: There is no such layer or direction, or a shape does not fit.
        """
        weights, before = self._sequence(x, hx, layer, reverse)
        return gru_system(x, weights, *before)

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        states = gru_states(inputs, self._weights(name), *before)[-1]
        return states, states[-1]


class BidirectionalRNN(_Recurrence, nn.RNN):
    """An RNN in one or both directions.

    Arguments, parameters, initial values and the call are those of ``torch.nn.RNN``; packed
    sequences are not taken.

    Source: chapter "Recurrence".
    """

    def operators(
        self, steps: int, layer: int = 0, *, reverse: bool = False
    ) -> tuple[SparseMatrix, SparseMatrix]:
        """The matrices N and B of one layer in one direction, for which ``h = f(N h + B x + c)``.

        Args:
            steps: Length T of the sequence.
            layer: Which layer.
            reverse: Whether of the backward direction, whose x and h have the last step first.

        Returns:
            As :meth:`sparsemat.RNN.operators`.

        Raises:
            ValueError: ``steps`` is below 1, or there is no such layer or direction.
        """
        weights = self._direction(layer, reverse)
        width, height = weights.ih.shape[1], self.hidden_size
        n, b = recurrence_patterns(steps, width, height)
        return (
            following(n, lambda: self._direction(layer, reverse).hh),
            following(b, lambda: self._direction(layer, reverse).ih),
        )

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        weights = self._weights(name)
        bias = weights.bias_ih + weights.bias_hh if self.bias else None
        entering = linear(inputs, weights.ih, bias)
        states = recurrence(entering, weights.hh, before[0], self.nonlinearity, None)
        return states, states[-1]


def gated_layer(kind: type[_Recurrence], module: nn.RNNBase, shape: tuple[int, ...]) -> nn.Module:
    """The matrix layer of one of torch's, with its parameters.

    Raises:
        ValueError: The shape does not fit.
    """
    if len(shape) != 2 or shape[1] != module.input_size:
        raise ValueError(
            f"input_shape must be (T, d) with d={module.input_size}, got input_shape={shape}"
        )
    options = {"proj_size": module.proj_size} if module.proj_size else {}
    if kind is BidirectionalRNN:
        options = {"nonlinearity": module.nonlinearity}
    layer = kind(
        *(module.input_size, module.hidden_size, module.num_layers),
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
        device="meta",
        **options,
    )
    layer = taking_over(layer, module)
    for name, parameter in layer.named_parameters():
        setattr(layer, name, parameter)  # torch keeps a list of them beside
    return layer


HINT = "its gates depend on the data: its matrix layer has a system(x) at an input"
register(Rule((nn.LSTM,), layer=lambda m, shape, _: gated_layer(LSTM, m, shape), hint=HINT))
register(Rule((nn.GRU,), layer=lambda m, shape, _: gated_layer(GRU, m, shape), hint=HINT))
register(Rule((LSTM, GRU, BidirectionalRNN), layer=as_it_is, hint=HINT))
