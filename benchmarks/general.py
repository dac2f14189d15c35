"""The product with any pattern against the same matrix in SciPy, torch.sparse and dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import sparsemat as sm
from sparsemat.products import choose

from .convolution import BATCH, step
from .paired import Case

SPARSITY = 0.99


def cases() -> Iterator[Case]:
    """A convolution and a random matrix; SciPy has no backward pass, so there both run forward."""
    convolution = sm.conv_pattern(1, 16, (28, 28), 5)
    scattered = sm.mask_pattern(torch.rand(1024, 3072) > SPARSITY)
    for name, pattern in (
        ("conv 1->16, 28x28, k5, tied", convolution),
        (f"1024x3072, {100 * SPARSITY:g} % sparse", scattered),
    ):
        product = choose(pattern)
        theta = torch.randn(pattern.num_parameters)
        vectors, grad = (torch.randn(size, BATCH) for size in reversed(pattern.shape))
        matrix, own = pattern.fill(theta), type(product).__name__
        scipy, numbers = matrix.to_scipy(), vectors.numpy()
        csr, dense = matrix.to_csr(), matrix.to_dense()
        expected = dense @ vectors
        for found in (product(theta, vectors), torch.from_numpy(scipy @ numbers)):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        yield Case(
            f"{name}, forward",
            ("scipy.sparse CSR", lambda scipy=scipy, numbers=numbers: scipy @ numbers),
            (own, lambda p=product, theta=theta, vectors=vectors: p(theta, vectors)),
        )
        ours = own, step(product, theta.clone().requires_grad_(), vectors, grad)
        yield Case(name, ("dense", _with(dense, vectors, grad)), ours)
        if pattern is scattered:  # the convolution has this row already
            yield Case(name, ("torch.sparse CSR", _with(csr, vectors, grad)), ours)


def _with(matrix: torch.Tensor, vectors: torch.Tensor, grad: torch.Tensor) -> Callable[[], object]:
    """A forward and backward pass of torch's own product, gradient to the matrix."""
    matrix = matrix.requires_grad_()

    def program() -> None:
        (matrix @ vectors).backward(grad)
        matrix.grad = None

    return program
