"""Products of Kronecker patterns, factor by factor, against dense products."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsemat as sm
from sparsemat.factored import factored
from sparsemat.kronecker import aligned, kron

MODES = "zeros", "circular", "reflect", "replicate"


@st.composite
def convolutions(draw, dims):
    """The patterns of two convolutions, the second after the first."""
    groups, middle = draw(st.sampled_from([1, 2])), 2 * draw(st.integers(1, 2))
    size, outer = (draw(st.integers(3, 5)),) * dims, [2 * draw(st.integers(1, 2)) for _ in range(2)]
    first, second = (
        {
            "stride": draw(st.integers(1, 2)),
            "padding": draw(st.integers(0, 2)),
            "padding_mode": draw(st.sampled_from(MODES)),
        }
        for _ in range(2)
    )
    right = sm.conv_pattern(outer[0], middle, size, 2, groups=groups, **first)
    positions = right.shape[0] // middle
    middle_size = (round(positions ** (1 / dims)),) * dims
    left = sm.conv_pattern(middle, outer[1], middle_size, 2, **second)
    return left, right


def filled(pattern, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return pattern.fill(torch.randn(pattern.num_parameters, dtype=dtype, generator=generator))


def agrees(left, right):
    product = factored(left, right)
    assert product is not None
    assert product.pattern.equals(sm.Pattern.__matmul__(left.pattern, right.pattern))
    torch.testing.assert_close(product.to_dense(), left.to_dense() @ right.to_dense())
    return product


@pytest.mark.parametrize("dims", [1, 2])
@given(data=st.data())
def test_two_convolutions(dims, data):
    try:
        left, right = data.draw(convolutions(dims))
    except ValueError:  # a padding larger than the image allows, or no output
        return
    if aligned(left, right) is None:  # one channel and one axis
        return
    product = filled(left, 0) @ filled(right, 1)
    expected = filled(left, 0).to_dense() @ filled(right, 1).to_dense()
    torch.testing.assert_close(product.to_dense(), expected)
    support = left @ right
    assert support.equals(sm.Pattern.__matmul__(left, right))
    assert (support.row.tolist(), support.col.tolist()) == (
        product.pattern.row.tolist(),
        product.pattern.col.tolist(),
    )


def image(channels=2, size=4, **options):
    return sm.conv_pattern(channels, 3, (size, size), 3, padding=1, **options)


LEFT, RIGHT = sm.conv_pattern(3, 2, (4, 4), 3, padding=1), image()
CASES = {
    "convolutions": (LEFT, RIGHT),
    "with the transpose": (RIGHT.T, RIGHT),
    "transposed both": (RIGHT.T, LEFT.T),
    "average of windows": (
        sm.conv_pattern(1, 1, (4, 4), 2, stride=2),
        sm.conv_pattern(1, 1, (4, 4), 3, padding=1),
    ),
    "parameters tied further": (LEFT.labelled(torch.arange(54).numpy() % 7), RIGHT),
    "three axes": (
        sm.conv_pattern(2, 1, (3, 3, 3), 2),
        sm.conv_pattern(1, 2, (3, 3, 3), 3, padding=1),
    ),
    "a column of channels last": (
        kron(sm.dense_pattern(2, 3), sm.dense_pattern(2, 1)),
        kron(sm.dense_pattern(3, 1), sm.dense_pattern(1, 4)),
    ),
}


@pytest.mark.parametrize("left, right", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_values_and_places(left, right, dtype):
    agrees(filled(left, 0, dtype), filled(right, 1, dtype))


@pytest.mark.parametrize("left, right", CASES.values(), ids=CASES)
def test_derivatives_of_two_orders(left, right):
    leaves = [filled(p, k).theta.requires_grad_() for k, p in enumerate((left, right))]

    def product(a, b):
        return factored(left.fill(a), right.fill(b)).theta[:40]

    assert torch.autograd.gradcheck(product, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(product, leaves, fast_mode=True)


def test_sixteen_bits_are_rounded_once():
    size, copies = 600, 400
    left = kron(sm.dense_pattern(1, size), sm.identity_pattern(copies))
    right = kron(sm.dense_pattern(size, 1), sm.identity_pattern(copies))
    ones = [p.fill(torch.ones(p.num_parameters, dtype=torch.bfloat16)) for p in (left, right)]
    assert factored(*ones).theta.tolist() == [size] * copies  # sums in 16 bits stop at 256


def test_it_follows_its_sources():
    left, right = filled(LEFT, 0), filled(RIGHT, 1)
    product = factored(left, right)
    with torch.no_grad():
        left.theta.mul_(2)
    torch.testing.assert_close(product.to_dense(), left.to_dense() @ right.to_dense())


NOT_FACTORED = {
    "no Kronecker product": (sm.dense_pattern(3, 4), sm.dense_pattern(4, 2)),
    "an untied one": (LEFT.untied(), RIGHT),
    "sizes that never meet": (
        kron(sm.dense_pattern(2, 2), sm.dense_pattern(2, 3)),
        kron(sm.dense_pattern(3, 2), sm.dense_pattern(2, 2)),
    ),
}


@pytest.mark.parametrize("left, right", NOT_FACTORED.values(), ids=NOT_FACTORED)
def test_all_others_are_multiplied_row_by_row(left, right):
    left, right = filled(left, 0), filled(right, 1)
    assert factored(left, right) is None
    expected = left.to_dense() @ right.to_dense()
    torch.testing.assert_close((left @ right).to_dense(), expected)
    assert (left.pattern @ right.pattern).equals(sm.Pattern.__matmul__(left.pattern, right.pattern))


def test_a_product_that_memory_cannot_hold_is_refused_at_once():
    huge = sm.conv_pattern(512, 512, (1024, 1024), 3, padding=1)
    with pytest.raises(MemoryError, match=r"the product .* cells"):
        huge.fill(torch.zeros(huge.num_parameters)) @ huge.fill(torch.zeros(huge.num_parameters))
