"""Sparse training: an MLP of sparse layers against weights times a mask, and against dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

import sparsemat as sm

from .paired import Case

WIDTHS = (3072, 1024, 512, 10)
BATCH, RATE, MOMENTUM = 100, 0.01, 0.9
# sparsity: goal and stretch against weights times mask
SPARSITIES = {
    0.8: (None, None),
    0.9: (1 / 2.5, 1 / 5),
    0.95: (None, None),
    0.99: (1 / 10, 1 / 17),
    0.995: (None, None),
}


class Masked(nn.Linear):
    """A dense layer whose weight is multiplied by a mask in every forward pass."""

    def __init__(self, source: nn.Linear, mask: torch.Tensor) -> None:
        super().__init__(source.in_features, source.out_features)
        self.load_state_dict(source.state_dict())
        self.register_buffer("mask", mask.to(self.weight.dtype))
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight * self.mask, self.bias)


def cases() -> Iterator[Case]:
    """Whole training steps on one batch: forward, backward, SGD with momentum."""
    images, labels = batch()
    for sparsity, goal in SPARSITIES.items():
        dense, masked, sparse = networks(sparsity)
        assert_same_losses(masked, sparse, images, labels)
        ours = "SparseLinear", training_step(sparse, images, labels)
        for kind, network, limits in (
            ("weights times mask", masked, goal),
            ("dense", dense, (None, None)),
        ):
            yield Case(
                name(sparsity), (kind, training_step(network, images, labels)), ours, *limits
            )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and labels of one training step."""
    return torch.randn(BATCH, WIDTHS[0]), torch.randint(WIDTHS[-1], (BATCH,))


def name(sparsity: float) -> str:
    """Name of the cases of a sparsity."""
    return f"MLP {'-'.join(map(str, WIDTHS))}, {100 * sparsity:g} % sparse, batch {BATCH}"


def networks(sparsity: float) -> list[nn.Sequential]:
    """A dense network, and the masked and the sparse one with what a random mask leaves of it."""
    layers = [nn.Linear(*ends) for ends in pairwise(WIDTHS)]
    masks = [torch.rand(layer.weight.shape) >= sparsity for layer in layers]
    masked, sparse = (
        [make(*pair) for pair in zip(layers, masks, strict=True)]
        for make in (Masked, sm.SparseLinear.from_linear)
    )
    return [with_relu(parts) for parts in (layers, masked, sparse)]


def with_relu(layers: list[nn.Module]) -> nn.Sequential:
    """The layers with a ReLU between neighbours."""
    parts = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*parts[:-1])


def training_step(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """A program that trains the network by one step and gives the loss before it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)

    def program() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return program


def assert_same_losses(
    masked: nn.Module, sparse: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int = 5
) -> None:
    """Train both for a few steps, and stop if their losses differ by more than rounding."""
    programs = [training_step(network, images, labels) for network in (masked, sparse)]
    for _ in range(steps):
        theirs, ours = (program() for program in programs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
