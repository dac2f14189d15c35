"""What stands before and around the products: building, first calls, W2 @ W1, higher orders."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse
import torch
from torch import nn

import sparsemat as sm
from sparsemat import kronecker
from sparsemat.products import choose

from .convolution import BATCH, SHAPES
from .paired import Case

SETUP_MS = 1000.0


def cases() -> Iterator[Case]:
    """Building and first calls, products of two matrices, torch's own convolution, Hessians."""
    yield building()
    yield from first_calls()
    yield product_of_two()
    yield from native()
    yield from hessians()


def building() -> Case:
    """The first convolution of a ResNet, 116 million nonzeros."""
    kernel = torch.randn(64, 3, 7, 7)

    def ours() -> object:
        return choose(sm.conv_pattern(3, 64, (224, 224), 7, stride=2, padding=3))

    return Case(
        "pattern and product, conv 3->64, 224x224, k7, stride 2",
        ("scipy.sparse CSR", lambda: scipy_convolution(kernel.numpy(), 224, 2, 3)),
        ("Pattern", ours),
        goal=0.0,
        allowance_ms=SETUP_MS,
    )


def first_calls() -> Iterator[Case]:
    """A new layer, forward and backward, beside a call of a layer that was called before."""
    for in_channels, out_channels, size, kernel, padding, *_ in SHAPES:
        x = torch.randn(BATCH, in_channels, size, size)
        for tied in (True, False):

            def new(sizes=(in_channels, out_channels, kernel), p=padding, size=size, tied=tied):
                kronecker._known.clear()  # or it would share what an equal pattern has found
                return sm.Conv2d(*sizes, padding=p, input_size=size, tied=tied)

            old = new()
            yield Case(
                f"new layer, conv {in_channels}->{out_channels}, {size}x{size}, k{kernel}, "
                f"{'tied' if tied else 'untied'}",
                ("a later call", lambda old=old, x=x: old(x).sum().backward()),
                ("first call", lambda new=new, x=x: new()(x).sum().backward()),
                goal=3.0,
                allowance_ms=SETUP_MS,
            )


def product_of_two() -> Case:
    """Two 3x3 convolutions of 32x32 pixels as one matrix."""
    first = sm.Conv2d(3, 16, 3, padding=1, input_size=32)
    second = sm.Conv2d(16, 16, 3, padding=1, input_size=32)
    one, two = (
        scipy_convolution(layer.weight.detach().numpy(), 32, 1, 1) for layer in (first, second)
    )

    def ours() -> torch.Tensor:
        with torch.no_grad():
            return (second.matrix() @ first.matrix()).theta

    assert len(ours()) == (two @ one).nnz
    return Case(
        "W2 @ W1, conv 3->16->16, 32x32, k3",
        ("scipy.sparse CSR", lambda: two @ one),
        ("SparseMatrix", ours),
        goal=3.0,
        memory_goal=3.0,
    )


def native() -> Iterator[Case]:
    """torch's own convolution on the pattern's geometry, in a layer."""
    for in_channels, out_channels, size, kernel, padding, *_ in SHAPES:
        theirs = nn.Conv2d(in_channels, out_channels, kernel, padding=padding)
        ours = sm.from_module(theirs, (in_channels, size, size), form="native")
        x = torch.randn(BATCH, in_channels, size, size)
        yield Case(
            f"layer, conv {in_channels}->{out_channels}, {size}x{size}, k{kernel}, native form",
            ("nn.Conv2d", _training(theirs, x)),
            ("form='native'", _training(ours, x)),
            goal=1.05,
        )


def hessians() -> Iterator[Case]:
    """A Hessian times a vector: two gradients, with respect to the parameters."""
    convolution = nn.Conv2d(3, 32, 3, padding=1)
    yield _hessian("conv 3->32, 32x32, k3", convolution, (3, 32, 32))
    yield _hessian("conv 32->64, 16x16, k3", nn.Conv2d(32, 64, 3, padding=1), (32, 16, 16))
    yield _hessian("linear 512->512", nn.Linear(512, 512), (512,))


def _hessian(name: str, theirs: nn.Module, shape: tuple[int, ...]) -> Case:
    ours, x = sm.from_module(theirs, shape), torch.randn(BATCH, *shape)
    direction = [torch.randn_like(p) for p in theirs.parameters()]

    def program(module: nn.Module) -> Callable[[], object]:
        parameters = list(module.parameters())
        vector = [d.reshape(p.shape) for d, p in zip(direction, parameters, strict=True)]

        def run() -> object:
            loss = module(x).tanh().square().sum()
            gradients = torch.autograd.grad(loss, parameters, create_graph=True)
            return torch.autograd.grad(gradients, parameters, vector)

        return run

    for a, b in zip(program(theirs)(), program(ours)(), strict=True):
        torch.testing.assert_close(
            b.reshape(a.shape), a, rtol=1e-3, atol=1e-3 * float(a.abs().max())
        )
    return Case(
        f"Hessian times a vector, {name}",
        ("torch's layer", program(theirs)),
        ("matrix layer", program(ours)),
        goal=2.0,
    )


def _training(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    parameters = list(module.parameters())
    gradient = torch.randn_like(module(x).detach())
    return lambda: torch.autograd.grad(module(x), parameters, gradient)


def scipy_convolution(
    kernel: np.ndarray, size: int, stride: int, padding: int
) -> scipy.sparse.csr_array:
    """The matrix of a convolution of square images, as one writes it with NumPy and SciPy."""
    out_channels, in_channels, taps, _ = kernel.shape
    pixels = np.full((in_channels, size + 2 * padding, size + 2 * padding), -1, dtype=np.int32)
    inside = slice(padding, padding + size)
    pixels[:, inside, inside] = np.arange(in_channels * size**2).reshape(in_channels, size, size)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (taps, taps), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(1, 2, 0, 3, 4)
    columns = windows.reshape(-1, in_channels * taps**2)
    kept = columns >= 0
    weights = kernel.reshape(out_channels, 1, -1)
    data = np.concatenate([np.broadcast_to(row, columns.shape)[kept] for row in weights])
    counts = np.tile(kept.sum(1), out_channels)
    starts = np.concatenate([[0], np.cumsum(counts)])
    shape = len(columns) * out_channels, in_channels * size**2
    return scipy.sparse.csr_array((data, np.tile(columns[kept], out_channels), starts), shape)
