"""Gated recurrences, and those in both directions: the matrix layers and their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from ..matrix import SparseMatrix
from ..patterns.gated import GatedPattern, gru_pattern, lstm_pattern
from ..products.indices import constant
from ..products.recurrence import recurrence
from ..rules import Rule, as_it_is, register, taking_over
from .base import MatrixLayer, require_tensor, require_type


@dataclass(frozen=True)
class GatedSystem:
    r"""The system $z = M z + E x + c$ of one layer at one input.

    Attributes:
        M: Strictly lower triangular, so that forward substitution is the forward pass.
        E: Where the input enters.
        c: What the biases and the states before the first step add, ``(rows,)``.
        parts: Where in z each vector stands: name to rows; ``"h"`` are the states.
    """

    M: SparseMatrix
    E: SparseMatrix
    c: torch.Tensor
    parts: dict[str, np.ndarray]

    def solve(self, x: torch.Tensor) -> torch.Tensor:
        """Give z at an input ``(T, d)`` by one triangular solve on the CPU, without gradients."""
        import scipy.sparse
        from scipy.sparse.linalg import spsolve_triangular

        with torch.no_grad():
            right = (self.E @ x.reshape(-1) + self.c).cpu().numpy()
            left = scipy.sparse.identity(len(right), format="csr") - self.M.to_scipy()
        return torch.from_numpy(spsolve_triangular(left.tocsr(), right, unit_diagonal=True))


class _Recurrence(MatrixLayer):
    """What the layers share; stands before torch's layer, whose arguments and call they have."""

    def forward(
        self, x: torch.Tensor, hx: torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, Any]:
        """Run the recurrence over whole sequences; arguments and results are torch's.

        Args:
            x: Shape ``(n, T, d)``, or ``(T, n, d)`` if not ``batch_first``, or ``(T, d)``.
            hx: States before the first step, a pair for an LSTM; zeros if None.

        Raises:
            TypeError: ``x`` is a packed sequence.
            ValueError: A shape or type does not fit.
        """
        require_tensor(x)
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size or 0 in x.shape[:-1]:
            raise ValueError(
                f"x must have 2 or 3 axes, at least one step and end in {self.input_size} "
                f"features, got {tuple(x.shape)}"
            )
        require_type(x, self.weight_hh_l0)
        single = x.ndim == 2
        states = x[:, None] if single else x.transpose(0, 1) if self.batch_first else x
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
        many = self.num_layers * (1 + self.bidirectional)
        expected = [(many, width) if single else (many, n, width) for width in widths]
        if [tuple(part.shape) for part in given] != expected:
            shapes = [tuple(part.shape) for part in given]
            raise ValueError(f"hx must have shapes {expected}, got {shapes}")
        return [part[:, None] if single else part for part in given]

    def _named(self, kind: str, name: str) -> torch.Tensor | None:
        return getattr(self, f"{kind}_{name}", None)

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        """States ``(T, n, h)`` of one layer in one direction, and the states after the last."""
        raise NotImplementedError

    def _zeros(self, inputs: torch.Tensor, width: int) -> torch.Tensor:
        return inputs.new_zeros(inputs.shape[1], width)

    def _filled(
        self, pattern: GatedPattern, values: dict[str, torch.Tensor], c: torch.Tensor, name: str
    ) -> GatedSystem:
        theta = torch.cat([values[block].reshape(-1) for block in pattern.blocks])
        e = pattern.e.fill(self._named("weight_ih", name))
        return GatedSystem(pattern.m.fill(theta), e, c, pattern.parts)

    def _constant(self, pattern: GatedPattern, **parts: torch.Tensor) -> torch.Tensor:
        c = self.weight_hh_l0.new_zeros(pattern.m.shape[0])
        for name, value in parts.items():
            at = constant(pattern.parts[name][: value.numel()], c.device)
            c = c.index_add(0, at, value.reshape(-1))
        return c

    def _sequence(self, x: torch.Tensor, layer: int, reverse: bool) -> tuple[str, torch.Tensor]:
        if reverse and not self.bidirectional:
            raise ValueError("reverse needs a bidirectional layer, got bidirectional=False")
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must lie in 0..{self.num_layers - 1}, got {layer}")
        name = f"l{layer}" + ("_reverse" if reverse else "")
        width = self._named("weight_ih", name).shape[1]
        if x.ndim != 2 or x.shape[1] != width:
            raise ValueError(f"x must be one sequence (T, {width}), got {tuple(x.shape)}")
        return name, x[:, None]


class LSTM(_Recurrence, nn.LSTM):
    r"""A long short-term memory: at its input one triangular system, $z = M z + E x + c$.

    Arguments, parameters, initial values and the call are those of ``torch.nn.LSTM``; packed
    sequences are not taken.

    Source: chapter "Gated recurrence".
    """

    def system(self, x: torch.Tensor, layer: int = 0, *, reverse: bool = False) -> GatedSystem:
        """The system of one layer at the input x, states zero before the first step.

        Args:
            x: The layer's input, one sequence ``(T, d)``; for ``reverse`` the last step first.
            layer: Which layer.
            reverse: Whether of the backward direction.

        Raises:
            ValueError: There is no such layer or direction, or x has another shape.
        """
        name, inputs = self._sequence(x, layer, reverse)
        steps, h = len(x), self.hidden_size
        gates, cells, _ = self._trace(inputs, name, [None, None])
        i, f, g, o = gates.chunk(4, -1)
        pattern = lstm_pattern(steps, x.shape[1], h, self.proj_size)
        values = {
            "weight_hh": self._named("weight_hh", name),
            "forget": f.sigmoid(),
            "input": i.sigmoid() * _tanh_ratio(g),
            "output": o.sigmoid() * _tanh_ratio(cells),
            "weight_hr": self._named("weight_hr", name),
        }
        bias = self._bias(name)
        zeros = self.weight_hh_l0.new_zeros(steps, 4 * h)
        c = self._constant(pattern, a=zeros if bias is None else zeros + bias)
        return self._filled(pattern, values, c, name)

    def _bias(self, name: str) -> torch.Tensor | None:
        if not self.bias:
            return None
        return self._named("bias_ih", name) + self._named("bias_hh", name)

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        _, cells, states = self._trace(inputs, name, before)
        return states, states[-1], cells[-1]

    def _trace(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pre-activations, cells and states of every step, each ``(T, n, ...)``."""
        weight, project = self._named("weight_hh", name), self._named("weight_hr", name)
        entering = linear(inputs, self._named("weight_ih", name), self._bias(name))
        h, c = before
        h = self._zeros(inputs, weight.shape[1]) if h is None else h
        c = self._zeros(inputs, self.hidden_size) if c is None else c
        gates, cells, states = [], [], []
        for u in entering.unbind():
            a = u + linear(h, weight)
            i, f, g, o = a.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            h = h if project is None else linear(h, project)
            gates.append(a), cells.append(c), states.append(h)
        return torch.stack(gates), torch.stack(cells), torch.stack(states)


class GRU(_Recurrence, nn.GRU):
    r"""A gated recurrent unit: at its input one triangular system, $z = M z + E x + c$.

    Arguments, parameters, initial values and the call are those of ``torch.nn.GRU``; packed
    sequences are not taken.

    Source: chapter "Gated recurrence".
    """

    def system(self, x: torch.Tensor, layer: int = 0, *, reverse: bool = False) -> GatedSystem:
        """The system of one layer at the input x, states zero before the first step.

        Args:
            x: The layer's input, one sequence ``(T, d)``; for ``reverse`` the last step first.
            layer: Which layer.
            reverse: Whether of the backward direction.

        Raises:
            ValueError: There is no such layer or direction, or x has another shape.
        """
        name, inputs = self._sequence(x, layer, reverse)
        steps, h = len(x), self.hidden_size
        r, z, a, _ = self._trace(inputs, name, None)
        pattern = gru_pattern(steps, x.shape[1], h)
        values = {
            "weight_hh": self._named("weight_hh", name),
            "one": x.new_ones(1),
            "reset": r,
            "new": (1 - z) * _tanh_ratio(a),
            "update": z,
        }
        zeros = x.new_zeros(steps, 3 * h)
        biases = {}
        if self.bias:
            biases = {
                "u": zeros + self._named("bias_ih", name),
                "v": zeros + self._named("bias_hh", name),
            }
        return self._filled(pattern, values, self._constant(pattern, **biases), name)

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        states = self._trace(inputs, name, before[0])[-1]
        return states, states[-1]

    def _trace(
        self, inputs: torch.Tensor, name: str, h: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """The gates r and z, what tanh acts on, and the states, each ``(T, n, h)``."""
        weight, bias = self._named("weight_hh", name), self._named("bias_hh", name)
        entering = linear(inputs, self._named("weight_ih", name), self._named("bias_ih", name))
        h = self._zeros(inputs, self.hidden_size) if h is None else h
        traced = []
        for u in entering.unbind():
            (u_r, u_z, u_n), (v_r, v_z, v_n) = u.chunk(3, -1), linear(h, weight, bias).chunk(3, -1)
            r, z = (u_r + v_r).sigmoid(), (u_z + v_z).sigmoid()
            a = u_n + r * v_n
            h = (1 - z) * a.tanh() + z * h
            traced.append((r, z, a, h))
        return tuple(torch.stack(part) for part in zip(*traced, strict=True))


class BidirectionalRNN(_Recurrence, nn.RNN):
    """An RNN in one or both directions; see :class:`sparsemat.RNN` for the matrices of a direction.

    Arguments, parameters, initial values and the call are those of ``torch.nn.RNN``; packed
    sequences are not taken.
    """

    def _run(
        self, inputs: torch.Tensor, name: str, before: list[torch.Tensor | None]
    ) -> tuple[torch.Tensor, ...]:
        bias = None
        if self.bias:
            bias = self._named("bias_ih", name) + self._named("bias_hh", name)
        entering = linear(inputs, self._named("weight_ih", name), bias)
        weight = self._named("weight_hh", name)
        states = recurrence(entering, weight, before[0], self.nonlinearity, None)
        return states, states[-1]


def _tanh_ratio(a: torch.Tensor) -> torch.Tensor:
    """``tanh(a) / a``, 1 at 0."""
    safe = torch.where(a == 0, torch.ones_like(a), a)
    return torch.where(a == 0, torch.ones_like(a), safe.tanh() / safe)


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
# a cell multiplies by its two dense matrices already
register(Rule((nn.RNNCell, nn.LSTMCell, nn.GRUCell), layer=as_it_is, hint=HINT))
