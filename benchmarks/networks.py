"""Whole networks: ResNet-18 at 224 pixels as matrix layers and as a local map, against torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import nn

import sparsemat as sm

from .paired import Case

SHAPE = 3, 224, 224


def cases() -> Iterator[Case]:
    """Conversion and local map, one after the other, so that only one holds its memory."""
    module = torchvision.models.resnet18(weights=None).eval()
    x, many = torch.randn(1, *SHAPE), torch.randn(8, *SHAPE)
    for form, note in ((None, ""), ("native", ", native form")):
        network = sm.from_module(module, SHAPE, form=form)
        yield Case(
            f"ResNet-18 at 224, forward, batch 1{note}",
            ("torch", _forward(module.eval(), x)),
            ("matrix layers", _forward(network.eval(), x)),
            goal=2.0,
        )
        yield Case(
            f"ResNet-18 at 224, training step, batch 8{note}",
            ("torch", _step(module.train(), many)),
            ("matrix layers", _step(network.train(), many)),
            goal=2.5,
        )
    module.eval()
    local = sm.local_map(module, x[0])
    v = torch.randn(x.numel())
    yield Case(
        "ResNet-18 at 224, A(x) v",
        ("torch, forward", _forward(module, x)),
        ("local map", lambda: local @ v),
        goal=3.0,
    )
    yield Case(
        "ResNet-18 at 224, a row of A(x)",
        ("torch, forward and backward", _backward(module, x)),
        ("local map", lambda: local.row(0)),
        goal=3.0,
    )


def _forward(module: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        with torch.no_grad():
            return module(x)

    return run


def _backward(module: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    x = x.clone().requires_grad_()

    def run() -> torch.Tensor:
        return torch.autograd.grad(module(x)[0, 0], x)[0]

    return run


def _step(module: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(module.parameters(), 1e-4)

    def run() -> None:
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()

    return run
