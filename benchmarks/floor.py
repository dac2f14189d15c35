"""The products alone: what is left of a matrix form when everything around its products is free.

Where this already takes longer than a goal allows, no form built on these products reaches the
goal. A case has the name and the baseline of the case that it bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import sparsemat as sm
from sparsemat.products import GatherProduct, choose

from . import convolution, sparse
from .paired import Case


def cases() -> Iterator[Case]:
    """Convolutions without gathering and copies; sparse networks without the rest of a step."""
    for layer in convolution.layers():
        for kind, pattern in layer.patterns.items():
            program = small_dense_products(choose(pattern), layer.is_first)
            yield Case(f"{layer.name}, {kind}", layer.baseline, ("bmm alone", program))
    images, labels = sparse.batch()
    for sparsity in sparse.SPARSITIES:
        _, masked, network = sparse.networks(sparsity)
        baseline = "weights times mask", sparse.training_step(masked, images, labels)
        layers = [layer for layer in network if isinstance(layer, sm.SparseLinear)]
        yield Case(
            sparse.name(sparsity), baseline, ("products of the layers alone", sums_of_rows(layers))
        )


def small_dense_products(product: GatherProduct, is_first: bool) -> Callable[[], None]:
    """The dense products of a forward and a backward pass, block by block, on rows at hand."""
    blocks, outputs = product.blocks, product.sizes[1]
    vectors = torch.randn(product.shape[1], convolution.BATCH)
    layout = blocks.layout(vectors)
    x, runs = blocks.padded(vectors, layout), blocks.runs(vectors, layout)
    all_blocks = [block for run in runs for block in run.blocks]
    buffer = x.new_empty(max(blocks.copied(block, convolution.BATCH) for block in all_blocks))
    gathered = [blocks.gather(x, block, buffer) for block in all_blocks]
    sides = [
        (torch.randn(len(rows), outputs, rows.shape[1]), rows, torch.randn(len(rows), outputs, n))
        for rows in gathered
        for n in rows.shape[2:]
    ]

    def program() -> None:
        for weights, gathered, y in sides:
            torch.bmm(weights, gathered, out=y)
        for weights, gathered, y in sides:
            torch.bmm(y, gathered.mT)
            if not is_first:
                torch.bmm(weights.mT, y)

    return program


def sums_of_rows(layers: list[sm.SparseLinear]) -> Callable[[], None]:
    """Forward and backward products of the layers; the first needs no gradient of its input."""
    arguments = [
        (
            layer.product,
            layer.weight.detach().clone().requires_grad_(),
            torch.randn(layer.in_features, sparse.BATCH, requires_grad=k > 0),
            torch.randn(layer.out_features, sparse.BATCH),
        )
        for k, layer in enumerate(layers)
    ]

    def program() -> None:
        for product, theta, x, grad in arguments:
            wanted = [side for side in (theta, x) if side.requires_grad]
            torch.autograd.grad(product(theta, x), wanted, grad)

    return program
