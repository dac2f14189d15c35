"""Recurrence: linear, diagonal and tanh layers against nn.RNN."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import linear

import sparsemat as sm
from sparsemat.products.recurrence import recurrence

from .paired import Case

STEPS = (168, 1024)
HIDDEN, INPUT, BATCH = 64, 8, 32


def cases() -> Iterator[Case]:
    """A forward and a backward pass over a batch of sequences, gradients to the parameters."""
    for steps in STEPS:
        x = torch.randn(BATCH, steps, INPUT)
        grad = torch.randn(BATCH, steps, HIDDEN)
        native = torch.nn.RNN(INPUT, HIDDEN, batch_first=True)

        def run(layer: torch.nn.Module, x=x, grad=grad) -> None:
            layer(x)[0].backward(grad)
            layer.zero_grad()

        layers = {
            kind: sm.RNN(INPUT, HIDDEN, nonlinearity=kind, batch_first=True)
            for kind in ("linear", "tanh")
        }
        project = torch.randn(HIDDEN, INPUT, requires_grad=True)
        decay = torch.rand(HIDDEN, requires_grad=True)

        def diagonal(x=x, grad=grad, project=project, decay=decay) -> None:
            states = recurrence(linear(x.transpose(0, 1), project), decay)
            states.backward(grad.transpose(0, 1))
            project.grad = decay.grad = None

        name = f"{{}} recurrence, T {steps}, hidden {HIDDEN}, batch {BATCH}"
        baseline = ("nn.RNN", lambda run=run, native=native: run(native))
        for kind, goal, stretch in (("linear", 0.7, 0.45), ("tanh", 1.0, 0.8)):
            ours = (f"sm.RNN {kind}", lambda run=run, layer=layers[kind]: run(layer))
            yield Case(name.format(kind), baseline, ours, goal, stretch)
        yield Case(name.format("diagonal"), baseline, ("recurrence", diagonal), 0.3, 0.16)
