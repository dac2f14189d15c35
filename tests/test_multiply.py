"""The product of two sparse matrices, and its derivatives, against dense torch."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from contract import assert_near
from hypothesis import given
from hypothesis import strategies as st
from test_pattern import patterns
from torch.autograd import functional
from torch.func import hessian, jacfwd, jacrev, jvp, vjp, vmap

import sparsemat as sm
from sparsemat.multiply import _places

KINDS = torch.float64, torch.complex128


def at(shape, *cells):
    row, col = zip(*cells, strict=True)
    return sm.Pattern(shape, row, col, range(len(cells)), len(cells))


FULL = at((3, 3), *((r, c) for r in range(3) for c in range(3)))
# pairs of factors, each with cells that meet no partner
PAIRS = {
    "the middle row is empty": (
        at((1, 3), (0, 0), (0, 1), (0, 2)),
        at((3, 2), (0, 0), (0, 1), (2, 0), (2, 1)),
    ),
    "the first row is empty": (FULL, at((3, 2), (1, 0), (1, 1), (2, 1))),
    "the last row is empty": (FULL, at((3, 2), (0, 0), (0, 1), (1, 1))),
    "the first column is empty": (at((2, 3), (0, 1), (0, 2), (1, 1)), FULL),
    "the middle column is empty": (at((2, 3), (0, 0), (0, 2), (1, 0)), FULL),
    "the last column is empty": (at((2, 3), (0, 0), (0, 1), (1, 1)), FULL),
    "both have gaps": (
        at((3, 4), (0, 0), (0, 1), (0, 2), (2, 0), (2, 3), (1, 3)),
        at((4, 3), (0, 0), (0, 2), (2, 1), (2, 0), (3, 2), (3, 1)),
    ),
    "nothing meets": (at((2, 4), (0, 0), (0, 1), (1, 1)), at((4, 2), (2, 0), (2, 1), (3, 1))),
    "columns come unsorted": (
        at((2, 3), (0, 0), (0, 1), (0, 2), (1, 0)),
        at((3, 9), (0, 8), (0, 1), (1, 5), (1, 0), (2, 8), (2, 3)),
    ),
    "there is nothing to meet": (sm.dense_pattern(2, 0), sm.Pattern((0, 3), [], [], [], 2)),
    "cells named twice": (
        sm.Pattern((2, 2), [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 1], 2),
        sm.Pattern((2, 3), [0, 0, 0], [1, 1, 2], [0, 1, 1], 2),
    ),
}
each_pair = pytest.mark.parametrize(("left", "right"), PAIRS.values(), ids=PAIRS)
each_kind = pytest.mark.parametrize("dtype", KINDS, ids=str)


def dense(pattern, theta):
    cell = torch.as_tensor(pattern.row * pattern.shape[1] + pattern.col)
    zeros = theta.new_zeros(pattern.shape[0] * pattern.shape[1])
    values = theta.index_select(0, torch.as_tensor(pattern.index.copy()))
    return zeros.index_add(0, cell, values).view(pattern.shape)


def drawn(*sizes, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, dtype=dtype, generator=generator, **options) for n in sizes]


def both(left, right, form):
    """A form of the product as a function of the parameters: ours, and with dense factors."""

    def mine(a, b):
        return form(left.fill(a) @ right.fill(b))

    def theirs(a, b):
        return form(dense(left, a) @ dense(right, b))

    return mine, theirs


def written_out(product):
    return product if isinstance(product, torch.Tensor) else product.to_dense()


def to_vector(product):
    x = torch.arange(1.0, product.shape[0] + 1).to(product.dtype)
    return product.mH @ x if isinstance(product, torch.Tensor) else product.H @ x


FORMS = {"written out": written_out, "times a vector": to_vector}


def same(actual, expected):
    if isinstance(expected, torch.Tensor):
        return assert_near(actual, expected)
    for a, e in zip(actual, expected, strict=True):
        same(a, e)


def test_a_cell_that_meets_no_partner_has_no_gradient():
    left, right = PAIRS["the middle row is empty"]
    a, b = torch.tensor([1.0, 2, 3], requires_grad=True), torch.tensor([1.0, 10, 100, 1000])
    total = (left.fill(a) @ right.fill(b)).to_dense().sum()
    assert torch.autograd.grad(total, a)[0].tolist() == [11, 0, 1100]


@each_pair
@each_kind
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_derivatives_of_two_orders(left, right, dtype, form):
    sizes = left.num_parameters, right.num_parameters
    leaves = drawn(*sizes, dtype=dtype, requires_grad=True)
    results = []
    for function in both(left, right, form):
        value = function(*leaves)
        number = (value.abs().square() + value.real.pow(3)).sum()
        first = torch.autograd.grad(number, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.abs().square().sum() for g in first), leaves)
        results.append((value, *first, *second))
    same(*results)


@each_kind
def test_forward_mode_and_batched_gradients(dtype):
    left, right = PAIRS["the middle row is empty"]
    leaves = drawn(left.num_parameters, right.num_parameters, dtype=dtype, requires_grad=True)
    mine, _ = both(left, right, written_out)
    batched = {"check_batched_grad": True}
    assert torch.autograd.gradcheck(
        mine, leaves, check_forward_ad=True, check_batched_forward_grad=True, **batched
    )
    assert torch.autograd.gradgradcheck(mine, leaves, check_fwd_over_rev=True, **batched)


def nested(outer, inner):
    return lambda f: outer(inner(f, (0, 1)), (0, 1))


def over_batches(f):
    return lambda a, b: vmap(f, (0, None))(torch.stack([a, 2 * a, -a]), b)


def over_both(f):
    return lambda a, b: vmap(f, (1, 0))(torch.stack([a, -a], 1), torch.stack([b, 3 * b]))


def pulled_back(f):
    def result(a, b):
        value, pull = vjp(f, a, b)
        return value, *pull(value.sin())

    return result


TRANSFORMS = {
    "jvp": lambda f: lambda a, b: jvp(f, (a, b), (a.sin(), b.cos())),
    "vjp": pulled_back,
    "vmap": over_batches,
    "vmap of both": over_both,
    "vmap of jvp": lambda f: over_batches(TRANSFORMS["jvp"](f)),
    "vmap of vjp": lambda f: over_both(pulled_back(f)),
}
# torch takes these of real functions only
JACOBIANS = {
    "jacrev": lambda f: jacrev(f, (0, 1)),
    "jacfwd": lambda f: jacfwd(f, (0, 1)),
    "hessian": lambda f: hessian(f, (0, 1)),
    "jacrev of jacrev": nested(jacrev, jacrev),
    "jacrev of jacfwd": nested(jacrev, jacfwd),
    "jacfwd of jacfwd": nested(jacfwd, jacfwd),
    "vmap of jacrev": lambda f: over_batches(JACOBIANS["jacrev"](f)),
    "batched backward": lambda f: lambda a, b: functional.jacobian(f, (a, b), vectorize=True),
}
CASES = {
    f"{name}, {str(dtype)[6:]}": (transform, dtype)
    for dtype in KINDS
    for name, transform in (TRANSFORMS | ({} if dtype.is_complex else JACOBIANS)).items()
}


@each_pair
@pytest.mark.parametrize(("transform", "dtype"), CASES.values(), ids=CASES)
def test_transforms(left, right, transform, dtype):
    leaves = drawn(left.num_parameters, right.num_parameters, dtype=dtype)
    mine, theirs = both(left, right, written_out)
    same(transform(mine)(*leaves), transform(theirs)(*leaves))


@pytest.mark.parametrize("transform", [hessian, jacrev, jacfwd])
def test_transforms_of_a_product_that_is_used(transform):
    left, right = PAIRS["both have gaps"]
    a, b = drawn(left.num_parameters, right.num_parameters)
    mine, theirs = both(left, right, to_vector)
    same(transform(partial(mine, b=b))(a), transform(partial(theirs, b=b))(a))


def test_a_product_keeps_its_numbers_after_a_transform():
    left, right = PAIRS["columns come unsorted"]
    a, b = drawn(left.num_parameters, right.num_parameters, requires_grad=True)
    product, expected = left.fill(a) @ right.fill(b), dense(left, a) @ dense(right, b)
    mine, theirs = (
        vmap(lambda g, y=y: torch.autograd.grad(y, (a, b), g, retain_graph=True))
        for y in (product.to_dense(), expected)
    )
    each = torch.eye(expected.numel(), dtype=a.dtype).view(-1, *expected.shape)
    same(mine(each), theirs(each))
    same(product.to_dense(), expected)
    weight = each.sum(0) + each[0]
    results = [
        torch.autograd.grad((y * weight).sum(), (a, b)) for y in (product.to_dense(), expected)
    ]
    same(*results)


@given(st.data())
def test_gradients_agree_with_dense(data):
    inner = data.draw(st.integers(1, 5))
    left, right = data.draw(patterns(cols=inner)), data.draw(patterns(rows=inner))
    leaves = drawn(left.num_parameters, right.num_parameters, requires_grad=True)
    (weight,) = drawn(left.shape[0] * right.shape[1])
    results = []
    for function in both(left, right, written_out):
        value = function(*leaves)
        total = (value.reshape(-1) * weight).sum() + 0 * sum(leaf.sum() for leaf in leaves)
        results.append((value, *torch.autograd.grad(total, leaves)))
    same(*results)


@given(patterns(), patterns())
def test_places_of_cells(cells, others):
    cells = cells.distinct()
    listed = list(zip(cells.row.tolist(), cells.col.tolist(), strict=True))
    wanted = zip(others.row.tolist(), others.col.tolist(), strict=True)
    expected = [listed.index(cell) if cell in listed else len(listed) for cell in wanted]
    assert _places(cells, others.row, others.col).tolist() == expected


@each_pair
def test_autocast_leaves_the_product_in_its_type(left, right):
    a, b = drawn(left.num_parameters, right.num_parameters, dtype=torch.float32, requires_grad=True)
    before = left.fill(a) @ right.fill(b)
    expected = dense(left, a) @ dense(right, b)
    slopes = torch.autograd.grad(expected.square().sum(), (a, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for product in (before, left.fill(a) @ right.fill(b)):
            value = product.to_dense()
            assert value.dtype == torch.float32
            same(value, expected)
            same(torch.autograd.grad(value.square().sum(), (a, b)), slopes)


@each_pair
@each_kind
def test_without_torch_products_of_rows(left, right, dtype, monkeypatch):
    monkeypatch.setattr(torch.backends, "mkl", SimpleNamespace(is_available=lambda: False))
    test_derivatives_of_two_orders(left, right, dtype, written_out)


def test_half_types_are_summed_wide():
    ones = torch.ones(1000, dtype=torch.bfloat16)
    row, column = sm.dense_pattern(1, 1000), sm.dense_pattern(1000, 1)
    expected = torch.tensor([[1000.0]], dtype=torch.bfloat16)

    def product(a):
        return (row.fill(a) @ column.fill(ones)).to_dense()

    same(product(ones), expected)
    same(vmap(product)(ones[None]), expected[None])
