"""LSTM and GRU as loops over steps, and at one input as one triangular system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import linear

from ..algebra import as_array
from ..matrix import SparseMatrix
from ..patterns.gated import GatedPattern, gru_pattern, lstm_pattern
from ..products.indices import constant


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
        """Give z at an input ``(T, d)`` by one triangular solve on the CPU, without gradients.

        SciPy solves in float64; z has the type of the system.
        """
        import scipy.sparse
        from scipy.sparse.linalg import spsolve_triangular

        with torch.no_grad():
            right = as_array(self.E @ x.reshape(-1) + self.c)
            left = scipy.sparse.identity(len(right), format="csr") - self.M.to_scipy()
        z = spsolve_triangular(left.tocsr(), right, unit_diagonal=True)
        return torch.from_numpy(z).to(self.c.dtype)


class Weights(NamedTuple):
    """The parameters of one layer in one direction, in torch's layout; None where there is none."""

    ih: torch.Tensor
    hh: torch.Tensor
    bias_ih: torch.Tensor | None
    bias_hh: torch.Tensor | None
    hr: torch.Tensor | None = None


def lstm_states(
    inputs: torch.Tensor,
    weights: Weights,
    h: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pre-activations, cells and states of every step, each ``(T, n, ...)``.

    Args:
        inputs: Shape ``(T, n, d)``.
        weights: The layer's.
        h: States before the first step, ``(n, out)``; zeros if None.
        c: Cells before it, ``(n, h)``; zeros if None.
    """
    size = weights.hh.shape[0] // 4
    entering = linear(inputs, weights.ih, _sum(weights.bias_ih, weights.bias_hh))
    h = inputs.new_zeros(inputs.shape[1], weights.hh.shape[1]) if h is None else h
    c = inputs.new_zeros(inputs.shape[1], size) if c is None else c
    gates, cells, states = [], [], []
    for u in entering.unbind():
        a = u + linear(h, weights.hh)
        i, f, g, o = a.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        h = h if weights.hr is None else linear(h, weights.hr)
        gates.append(a), cells.append(c), states.append(h)
    return torch.stack(gates), torch.stack(cells), torch.stack(states)


def gru_states(
    inputs: torch.Tensor, weights: Weights, h: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """The gates r and z, what tanh acts on, and the states of every step, each ``(T, n, h)``.

    Args:
        inputs: Shape ``(T, n, d)``.
        weights: The layer's.
        h: States before the first step, ``(n, h)``; zeros if None.
    """
    entering = linear(inputs, weights.ih, weights.bias_ih)
    h = inputs.new_zeros(inputs.shape[1], weights.hh.shape[1]) if h is None else h
    traced = []
    for u in entering.unbind():
        u_r, u_z, u_n = u.chunk(3, -1)
        v_r, v_z, v_n = linear(h, weights.hh, weights.bias_hh).chunk(3, -1)
        r, z = (u_r + v_r).sigmoid(), (u_z + v_z).sigmoid()
        a = u_n + r * v_n
        h = (1 - z) * a.tanh() + z * h
        traced.append((r, z, a, h))
    return tuple(torch.stack(part) for part in zip(*traced, strict=True))


def lstm_system(
    x: torch.Tensor,
    weights: Weights,
    h: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
) -> GatedSystem:
    """The system of an LSTM at one sequence; see :func:`sparsemat.patterns.lstm_pattern`.

    Args:
        x: One sequence ``(T, d)``.
        weights: The layer's.
        h: State before the first step, ``(out,)``; zeros if None.
        c: Cell before it, ``(h,)``; zeros if None.
    """
    before = [None if part is None else part[None] for part in (h, c)]
    a, cells, _ = (part[:, 0] for part in lstm_states(x[:, None], weights, *before))
    i, f, g, o = a.chunk(4, -1)
    size = cells.shape[1]
    projected = 0 if weights.hr is None else weights.hr.shape[0]
    pattern = lstm_pattern(*x.shape, size, projected)
    values = {
        "weight_hh": weights.hh,
        "forget": f.sigmoid(),
        "input": i.sigmoid() * tanh_ratio(g),
        "output": o.sigmoid() * tanh_ratio(cells),
        "weight_hr": weights.hr,
    }
    bias = _sum(weights.bias_ih, weights.bias_hh)
    parts = {"a": None if bias is None else bias.expand(len(x), -1)}
    first = {}
    if h is not None:
        first["a"] = linear(h, weights.hh)
    if c is not None:
        first["c"] = f[0].sigmoid() * c
    return _filled(pattern, values, weights.ih, parts, first)


def gru_system(x: torch.Tensor, weights: Weights, h: torch.Tensor | None = None) -> GatedSystem:
    """The system of a GRU at one sequence; see :func:`sparsemat.patterns.gru_pattern`.

    Args:
        x: One sequence ``(T, d)``.
        weights: The layer's.
        h: State before the first step, ``(h,)``; zeros if None.
    """
    before = None if h is None else h[None]
    r, z, a, _ = (part[:, 0] for part in gru_states(x[:, None], weights, before))
    pattern = gru_pattern(*x.shape, weights.hh.shape[1])
    values = {
        "weight_hh": weights.hh,
        "one": x.new_ones(1),
        "reset": r,
        "new": (1 - z) * tanh_ratio(a),
        "update": z,
    }
    biases = {"u": weights.bias_ih, "v": weights.bias_hh}
    parts = {
        name: None if bias is None else bias.expand(len(x), -1) for name, bias in biases.items()
    }
    first = {} if h is None else {"v": linear(h, weights.hh), "h": z[0] * h}
    return _filled(pattern, values, weights.ih, parts, first)


def tanh_ratio(a: torch.Tensor) -> torch.Tensor:
    """``tanh(a) / a``, 1 at 0."""
    safe = torch.where(a == 0, torch.ones_like(a), a)
    return torch.where(a == 0, torch.ones_like(a), safe.tanh() / safe)


def _filled(
    pattern: GatedPattern,
    values: dict[str, torch.Tensor | None],
    entering: torch.Tensor,
    parts: dict[str, torch.Tensor | None],
    first: dict[str, torch.Tensor],
) -> GatedSystem:
    """The filled system; ``parts`` and ``first`` are added at all steps and at the first."""
    theta = torch.cat([values[block].reshape(-1) for block in pattern.blocks])
    c = theta.new_zeros(pattern.m.shape[0])
    for name, value in (*parts.items(), *first.items()):
        if value is not None:
            at = constant(pattern.parts[name][: value.numel()], c.device)
            c = c.index_add(0, at, value.reshape(-1))
    return GatedSystem(pattern.m.fill(theta), pattern.e.fill(entering), c, pattern.parts)


def _sum(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    return None if left is None else left + right
