"""Networks for series: recurrences, native, as sparse systems, and as matrices over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsemat as sm
from sparsemat.products.recurrence import recurrence


@dataclass(frozen=True)
class SeriesNetwork:
    """A forecast of the next step: the last observation plus a linear read-out of the last state.

    Variants: "native" (``torch.nn.RNN``, tanh); "tied" (``sm.RNN``, tanh, with its parameters);
    "native-linear" (the recurrence without tanh, a loop over the steps); "tied-linear" (the same
    as a sparse triangular system, ``sm.RNN``); "scalar" (section 4.3 of the paper: a lower
    triangular T x T matrix for each variable, with entries ``b a**(t - s)``); "free" (one lower
    triangular T x T matrix for all variables, every entry a parameter).

    Args:
        variables: Variables of the series.
        window: Steps T that the network sees.
        hidden: Hidden size of the recurrences.
    """

    variables: int
    window: int
    hidden: int

    variants: ClassVar[tuple[str, ...]] = (
        *("native", "tied", "native-linear", "tied-linear", "scalar", "free"),
    )

    def module(self, variant: str) -> nn.Module:
        """The network of a variant: from windows ``(N, T, variables)`` to ``(N, variables)``."""
        return Forecast(self._states(variant), self.variables)

    def nonzeros(self, variant: str) -> int:
        """Nonzeros of the matrices that one window meets: N and B, or T x T, and the read-out."""
        steps, d, h = self.window, self.variables, self.hidden
        if variant in ("scalar", "free"):
            return steps * (steps + 1) // 2 * (d if variant == "scalar" else 1) + d * d
        n, b = sm.recurrence_patterns(steps, d, h)
        return n.nnz + b.nnz + h * d

    def _states(self, variant: str) -> nn.Module:
        d, h = self.variables, self.hidden
        match variant:
            case "native":
                return nn.RNN(d, h, batch_first=True)
            case "tied":
                return sm.RNN(d, h, batch_first=True)
            case "native-linear":
                return LinearRecurrence(d, h, batch_first=True)
            case "tied-linear":
                return sm.RNN(d, h, nonlinearity="linear", batch_first=True)
            case "scalar":
                return ScalarMatrix(d)
            case "free":
                return FreeMatrix(self.window, d)


class Forecast(nn.Module):
    """The last observation plus a read-out of the last state."""

    def __init__(self, recurrence: nn.Module, variables: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.linear = nn.Linear(recurrence.hidden_size, variables)

    def forward(self, x: Tensor) -> Tensor:
        """Windows ``(N, T, variables)`` to forecasts ``(N, variables)``."""
        x = x.to(self.linear.weight.dtype)
        states, _ = self.recurrence(x)
        return x[:, -1] + self.linear(states[:, -1])


class LinearRecurrence(nn.RNN):
    """``nn.RNN`` without its nonlinearity, step by step: what torch's own kernel does not offer."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(N, T, h)`` and the last of them ``(1, N, h)``, from ``(N, T, d)``."""
        bias = self.bias_ih_l0 + self.bias_hh_l0
        inputs = F.linear(x, self.weight_ih_l0, bias)
        state, states = torch.zeros_like(inputs[:, 0]), []
        for step in inputs.unbind(1):
            state = torch.addmm(step, state, self.weight_hh_l0.mT)
            states.append(state)
        return torch.stack(states, 1), state[None]


class ScalarMatrix(nn.Module):
    """Section 4.3: for each variable a T x T matrix ``M[t, s] = b a**(t - s)`` below the diagonal.

    It is applied as the recurrence that it unrolls, with a diagonal hidden matrix.
    """

    def __init__(self, variables: int) -> None:
        super().__init__()
        self.hidden_size = variables
        self.decay = nn.Parameter(torch.full((variables,), 0.5))
        self.gain = nn.Parameter(torch.full((variables,), 0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(N, T, variables)`` and the last of them, from ``(N, T, variables)``."""
        states = recurrence(x.transpose(0, 1) * self.gain, self.decay)
        return states.transpose(0, 1), states[-1:]


class FreeMatrix(nn.Module):
    """One lower-triangular T x T matrix over the steps, every entry a parameter."""

    def __init__(self, window: int, variables: int) -> None:
        super().__init__()
        self.hidden_size = variables
        row, col = np.tril_indices(window)
        self.pattern = sm.Pattern((window, window), row, col, np.arange(len(row)), len(row))
        bound = torch.tensor(row + 1.0).rsqrt()
        self.weight = nn.Parameter((torch.rand(len(row)) * 2 - 1) * bound.float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(N, T, variables)`` and the last of them, from ``(N, T, variables)``."""
        n, steps, variables = x.shape
        states = self.pattern.fill(self.weight) @ x.transpose(0, 1).reshape(steps, -1)
        states = states.view(steps, n, variables)
        return states.transpose(0, 1), states[-1:]
