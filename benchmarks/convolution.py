"""Convolution: tied and untied matrix layers against F.conv2d, sparse CSR and a dense matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.nn.functional import conv2d

import sparsemat as sm
from sparsemat.products import choose

from .paired import Case, measure

BATCH = 64
# in channels, out channels, size, kernel, padding; goal and stretch tied; goal and stretch untied
SHAPES = [
    (1, 16, 28, 5, 0, (0.8, 0.6), (1.0, 0.6)),
    (3, 32, 32, 3, 1, (0.8, 0.6), (1.0, 0.6)),
    (32, 64, 16, 3, 1, (1.5, 1.2), (2.3, 1.8)),
    (64, 64, 16, 3, 1, (1.5, 1.2), (2.3, 1.8)),
]


class Layer(NamedTuple):
    """A layer of the table, and what it is measured against.

    Attributes:
        name: Its sizes.
        weight: The kernel.
        image: A batch of inputs.
        patterns: Of its matrix, by kind.
        is_first: Whether it is a network's first, which needs no gradient of its input.
        baseline: Name and program of F.conv2d.
    """

    name: str
    weight: torch.Tensor
    image: torch.Tensor
    patterns: dict[str, sm.Pattern]
    is_first: bool
    baseline: tuple[str, Callable[[], object]]


def layers() -> Iterator[Layer]:
    """The layers of ``SHAPES``, batch 64."""
    for in_channels, out_channels, size, kernel, padding, *_ in SHAPES:
        pattern = sm.conv_pattern(in_channels, out_channels, (size, size), kernel, padding=padding)
        weight = torch.randn(out_channels, in_channels, kernel, kernel, requires_grad=True)
        image = torch.randn(BATCH, in_channels, size, size)
        is_first = in_channels <= 3
        yield Layer(
            f"conv {in_channels}->{out_channels}, {size}x{size}, k{kernel}",
            weight,
            image,
            {"tied": pattern, "untied": pattern.untied()},
            is_first,
            fastest_conv2d(image, weight, padding, is_first),
        )


def cases() -> Iterator[Case]:
    """Forward and backward pass of a layer; the first one needs no input gradient."""
    for layer, (*_, tied_goal, untied_goal) in zip(layers(), SHAPES, strict=True):
        vectors = layer.image.reshape(BATCH, -1).t().contiguous()
        vectors.requires_grad_(not layer.is_first)
        grad = torch.randn(layer.patterns["tied"].shape[0], BATCH)
        for kind, theta, goal in (
            ("tied", layer.weight.detach().reshape(-1), tied_goal),
            ("untied", torch.randn(layer.patterns["untied"].nnz), untied_goal),
        ):
            product, theta = choose(layer.patterns[kind]), theta.clone().requires_grad_()
            yield Case(
                f"{layer.name}, {kind}",
                layer.baseline,
                (type(product).__name__, step(product, theta, vectors, grad)),
                *goal,
            )
    yield sparse_csr_case()


def fastest_conv2d(
    image: torch.Tensor, weight: torch.Tensor, padding: int, first_layer: bool
) -> tuple[str, Callable[[], object]]:
    """F.conv2d, forward and backward, in the faster of torch's two layouts, and its name."""
    programs = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        x = image.to(memory_format=layout).clone().requires_grad_(not first_layer)
        w = weight.detach().to(memory_format=layout).clone().requires_grad_()
        grad = torch.randn_like(conv2d(x, w, padding=padding))

        def program(x=x, w=w, grad=grad) -> None:
            conv2d(x, w, padding=padding).backward(grad)
            x.grad = w.grad = None

        programs[f"F.conv2d, {str(layout).removeprefix('torch.')}"] = program
    first, second = programs.items()
    return second if measure(Case("layouts", first, second), rounds=9).ratio < 1 else first


def sparse_csr_case() -> Case:
    """The same matrix in torch.sparse CSR with torch's own autograd, on the smallest shape."""
    pattern = sm.conv_pattern(1, 16, (28, 28), 5)
    theta = torch.randn(pattern.num_parameters)
    vectors, grad = torch.randn(pattern.shape[1], BATCH), torch.randn(pattern.shape[0], BATCH)
    matrix = pattern.fill(theta).to_csr().requires_grad_()

    def with_csr() -> None:
        (matrix @ vectors).backward(grad)
        matrix.grad = None

    ours = step(choose(pattern), theta.requires_grad_(), vectors, grad)
    return Case(
        "conv 1->16, 28x28, k5, tied", ("torch.sparse CSR", with_csr), ("tied", ours), 0.1, 0.03
    )


def step(
    product: Callable, theta: torch.Tensor, vectors: torch.Tensor, grad: torch.Tensor
) -> Callable[[], object]:
    """A forward and backward pass of a product."""

    def program() -> None:
        product(theta, vectors).backward(grad)
        theta.grad = vectors.grad = None

    return program
