"""Recurrence: linear, diagonal and tanh layers against nn.RNN, and against the same in plain torch.

``torch.nn.RNN`` has no recurrence without a nonlinearity, so what a user would write instead of the
linear and the diagonal layer is a loop over the steps, compiled or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

import sparsemat as sm
from sparsemat.products.recurrence import recurrence

from .paired import Case

STEPS = (168, 1024)
COMPILED = 168  # steps up to which a loop is compiled: torch unrolls it, which takes minutes
HIDDEN, INPUT, BATCH = 64, 8, 32


def cases() -> Iterator[Case]:
    """A forward and a backward pass over a batch of sequences, gradients to the parameters."""
    for steps in STEPS:
        x = torch.randn(BATCH, steps, INPUT)
        grad = torch.randn(BATCH, steps, HIDDEN)
        project, bias, decay = torch.randn(HIDDEN, INPUT), torch.randn(HIDDEN), torch.rand(HIDDEN)
        hidden = torch.randn(HIDDEN, HIDDEN) / HIDDEN

        def layer(module: torch.nn.Module, x=x, grad=grad) -> Callable[[], None]:
            def run() -> None:
                module(x)[0].backward(grad)
                module.zero_grad()

            return run

        def function(states: Callable, *weights: Tensor, x=x, grad=grad) -> Callable[[], None]:
            weights = [weight.clone().requires_grad_() for weight in weights]

            def run() -> None:
                states(x, *weights).backward(grad)
                for weight in weights:
                    weight.grad = None

            return run

        def matrix(kind: str) -> tuple[str, Callable[[], None]]:
            module = sm.RNN(INPUT, HIDDEN, nonlinearity=kind, batch_first=True)
            return f"sm.RNN {kind}", layer(module)

        name = f"{{}} recurrence, T {steps}, hidden {HIDDEN}, batch {BATCH}"
        native = "nn.RNN", layer(torch.nn.RNN(INPUT, HIDDEN, batch_first=True))
        diagonal = "recurrence", function(_diagonal, project, decay)
        yield Case(name.format("linear"), native, matrix("linear"), 0.7, 0.45)
        yield Case(name.format("tanh"), native, matrix("tanh"), 1.0, 0.8)
        yield Case(name.format("diagonal"), native, diagonal, 0.3, 0.16)
        compile_too = (False, True) if steps <= COMPILED else (False,)
        for kind, loop, weights, ours in (
            ("linear", _linear_loop, (project, hidden, bias), matrix("linear")),
            ("diagonal", _diagonal_loop, (project, decay), diagonal),
        ):
            for compiled in compile_too:
                states = torch.compile(loop, fullgraph=True) if compiled else loop
                plain = f"a loop in torch{', compiled' * compiled}", function(states, *weights)
                yield Case(name.format(kind), plain, ours)


def _diagonal(x: Tensor, project: Tensor, decay: Tensor) -> Tensor:
    return recurrence(linear(x.transpose(0, 1), project), decay).transpose(0, 1)


def _linear_loop(x: Tensor, project: Tensor, hidden: Tensor, bias: Tensor) -> Tensor:
    inputs = linear(x, project, bias)
    state, states = torch.zeros_like(inputs[:, 0]), []
    for step in inputs.unbind(1):
        state = torch.addmm(step, state, hidden.mT)
        states.append(state)
    return torch.stack(states, 1)


def _diagonal_loop(x: Tensor, project: Tensor, decay: Tensor) -> Tensor:
    inputs = linear(x, project)
    state, states = torch.zeros_like(inputs[:, 0]), []
    for step in inputs.unbind(1):
        state = torch.addcmul(step, state, decay)
        states.append(state)
    return torch.stack(states, 1)
