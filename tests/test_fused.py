"""Torch's fused attention with derivatives that torch's kernel lacks, against plain operations."""

import pytest
import torch

from sparsemat.products.fused import fused

TOKENS, KEYS, DIM = 5, 7, 4
SEEN = torch.rand(TOKENS, KEYS, generator=torch.Generator().manual_seed(3)) > 0.4
SEEN[:, 0] = True
CASES = {
    "all pairs": ((), {}),
    "a mask": ((), {"mask": SEEN}),
    "a mask a head": ((2, 3), {"mask": torch.stack([SEEN, ~SEEN | SEEN, SEEN])}),
    "causal": ((1, 2), {"causal": True}),
}


def plain(q, k, v, mask=None, causal=False):
    weights = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(weights.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return weights.softmax(-1) @ v


def drawn(leading):
    torch.manual_seed(0)
    sizes = (TOKENS, DIM), (KEYS, DIM), (KEYS, DIM)
    return [torch.randn(*leading, *size, dtype=torch.float64) for size in sizes]


@pytest.fixture(params=CASES, name="case")
def _case(request):
    leading, options = CASES[request.param]
    return drawn(leading), options


def test_values_and_derivatives_of_two_orders(case):
    inputs, options = case
    directions, found = drawn(inputs[0].shape[:-2]), []
    for function in (fused, plain):
        sides = [side.clone().requires_grad_() for side in inputs]
        y = function(*sides, **options)
        first = torch.autograd.grad(y.sin().sum(), sides, create_graph=True)
        slope = sum((a * b.cos()).sum() for a, b in zip(first, directions, strict=True))
        found.append((y, *first, *torch.autograd.grad(slope, sides)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", range(3))
def test_a_gradient_of_one_side_alone(case, wanted):
    inputs, options = case
    found = []
    for function in (fused, plain):
        sides = [side.clone().requires_grad_(k == wanted) for k, side in enumerate(inputs)]
        y = function(*sides, **options)
        found.append(torch.autograd.grad(y.sin().sum(), sides[wanted])[0])
    torch.testing.assert_close(*found)


def test_transforms(case):
    inputs, options = case
    found = []
    for function in (fused, plain):

        def energy(q, function=function):
            return function(q, *inputs[1:], **options).square().sum()

        direction = torch.ones_like(inputs[0])
        found.append(
            (
                torch.func.jvp(energy, (inputs[0],), (direction,))[1],
                torch.func.hessian(energy)(inputs[0]),
                torch.func.vmap(energy)(torch.stack([inputs[0], direction])),
            )
        )
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_forward_mode():
    q, k, v = drawn(())
    tangents = []
    for function in (fused, plain):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
            y = function(dual, k, v)
            tangents.append(torch.autograd.forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(*tangents)


def test_backward_twice_through_one_graph():
    sides = [side.requires_grad_() for side in drawn(())]
    y = fused(*sides)
    first = torch.autograd.grad(y.sum(), sides, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y.sum(), sides)))


def test_it_compiles_and_exports():
    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return fused(q, k, v)

    sides = drawn((2, 3))
    program = torch.export.export(Attention(), tuple(sides))
    torch.testing.assert_close(program.module()(*sides), plain(*sides))
