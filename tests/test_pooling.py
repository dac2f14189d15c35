"""The pooling layers against torch and SciPy."""

from math import inf, nan

import numpy as np
import pytest
import scipy.ndimage
import torch
from contract import Case, LayerContract, assert_near
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsemat as sm

NATIVE = {1: torch.nn.AvgPool1d, 2: torch.nn.AvgPool2d, 3: torch.nn.AvgPool3d}
MATRIX = {1: sm.AvgPool1d, 2: sm.AvgPool2d, 3: sm.AvgPool3d}

# shape of an input, kernel_size and the options
AVERAGES = {
    "one cell": ((1, 1, 1), 1, {}),
    "halves": ((3, 4, 6), 2, {}),
    "overlapping": ((2, 5, 6), (3, 2), {"stride": (1, 2)}),
    "padded": ((2, 4, 5), 3, {"stride": 2, "padding": 1}),
    "padding not counted": ((2, 4, 5), 3, {"padding": 1, "count_include_pad": False}),
    "ceiling": ((1, 5, 6), 2, {"stride": 3, "ceil_mode": True}),
    "ceiling, padded": ((1, 6, 6), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    "divisor": ((2, 4, 4), 2, {"divisor_override": 3}),
    "1-D": ((2, 7), 3, {"stride": 2, "padding": 1}),
    "3-D": ((2, 4, 3, 5), 2, {"stride": (2, 1, 2)}),
}
MAXIMA = {
    "one cell": ((1, 1, 1), 1, {}),
    "halves": ((3, 4, 6), 2, {}),
    "overlapping": ((2, 5, 6), (3, 2), {"stride": (1, 2)}),
    "padded": ((2, 4, 5), 3, {"stride": 2, "padding": 1}),
    "dilated": ((2, 6, 6), 2, {"dilation": (2, 3), "stride": 1}),
    "ceiling": ((1, 5, 6), 2, {"stride": 3, "ceil_mode": True}),
    "1-D": ((2, 7), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
    "3-D": ((2, 4, 3, 5), 2, {"stride": (2, 1, 2)}),
}


def average(shape, kernel, options):
    def build(dtype):
        dims = len(shape) - 1
        layer = MATRIX[dims](kernel, input_size=shape[1:], **options)
        return Case(layer, NATIVE[dims](kernel, **options), shape)

    return build


def maximum(shape, kernel, options):
    def build(dtype):
        name = f"MaxPool{len(shape) - 1}d"
        layer = getattr(sm, name)(kernel, input_size=shape[1:], **options)
        return Case(layer, getattr(torch.nn, name)(kernel, **options), shape)

    return build


class TestAverage(LayerContract):
    cases = {name: average(*layer) for name, layer in AVERAGES.items()}  # noqa: RUF012

    def matrix(self, layer, x):
        return layer.matrix(x.shape[0])

    @pytest.fixture(autouse=True)
    def in_double_precision(self):
        """``matrix`` fills with torch's default type."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(before)


ADAPTIVE = {
    "1-D": ((2, 7), 3),
    "2-D": ((2, 4, 5), (3, 2)),
    "kept axis": ((1, 4, 5), (None, 2)),
    "larger than the input": ((2, 2, 3), 4),
    "3-D": ((1, 3, 4, 5), (2, 1, 3)),
}


def adaptive(shape, outputs, what="Avg"):
    def build(dtype):
        name = f"Adaptive{what}Pool{len(shape) - 1}d"
        layer = getattr(sm, name)(outputs, input_size=shape[1:])
        return Case(layer, getattr(torch.nn, name)(outputs), shape)

    return build


class TestAdaptive(TestAverage):
    cases = {name: adaptive(*layer) for name, layer in ADAPTIVE.items()}  # noqa: RUF012


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.complex64], ids=str)
def test_an_averaging_matrix_takes_a_type(dtype):
    for layer in (sm.AvgPool2d(2, input_size=4), sm.AdaptiveAvgPool2d(2, input_size=4)):
        matrix = layer.matrix(2, dtype=dtype)
        x = torch.randn(2, 4, 4, dtype=torch.complex128).to(dtype)
        assert matrix.dtype == dtype
        expected = x.reshape(2, 2, 2, 2, 2).mean((2, 4)).reshape(-1)
        torch.testing.assert_close(matrix @ x.reshape(-1), expected)


@pytest.mark.parametrize("dtype, error", [(torch.int64, ValueError), ("float64", TypeError)])
def test_a_matrix_of_integers_is_refused(dtype, error):
    with pytest.raises(error, match=r"dtype must be .*(int64|float64)"):
        sm.AvgPool2d(2, input_size=4).matrix(dtype=dtype)


class TestMaximum(LayerContract):
    cases = {name: maximum(*layer) for name, layer in MAXIMA.items()}  # noqa: RUF012

    def matrix(self, layer, x):
        return layer.matrix(x)

    def test_the_selection_has_one_one_a_row(self, build):
        case = build(torch.float64)
        selection = self.matrix(case.layer, self.inputs(case)[0])
        assert np.array_equal(selection.pattern.row, np.arange(selection.shape[0]))
        assert torch.equal(selection.values, torch.ones(selection.shape[0], dtype=torch.float64))

    def test_the_selected_are_torchs_indices(self, build):
        case = build(torch.float64)
        x = self.inputs(case)[0].round()  # with ties
        case.reference.return_indices = True
        expected = case.reference(x)[1].flatten(1).numpy()
        pixels = np.prod(x.shape[1:]) * np.arange(x.shape[0])[:, None]
        chosen = case.layer.matrix(x).pattern.col.reshape(expected.shape) - pixels
        assert np.array_equal(chosen, expected)


class TestAdaptiveMaximum(TestMaximum):
    cases = {name: adaptive(*layer, "Max") for name, layer in ADAPTIVE.items()}  # noqa: RUF012


sizes = st.integers(1, 7)
kernels = st.integers(1, 3)


@st.composite
def pools(draw, dims):
    each = lambda values: tuple(draw(values) for _ in range(dims))  # noqa: E731
    kernel = each(kernels)
    return (
        (draw(st.integers(1, 2)), *each(sizes)),
        kernel,
        {
            "stride": draw(st.none() | st.just(each(kernels))),
            "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
            "ceil_mode": draw(st.booleans()),
        },
    )


def compare(mine, native, x):
    """Both refuse, or both give the same; where only one refuses the test fails."""
    try:
        expected = native(x)
    except RuntimeError:
        with pytest.raises(ValueError, match="the window must fit the padded input"):
            mine()
        return False
    assert_near(mine()(x), expected)
    return True


@settings(max_examples=100)
@given(st.integers(1, 2).flatmap(pools), st.booleans())
def test_averages_agree_with_torch(pool, count_include_pad):
    shape, kernel, options = pool
    options = options | {"count_include_pad": count_include_pad}
    dims = len(shape) - 1
    x = torch.randn(2, *shape, dtype=torch.float64)
    native = NATIVE[dims](kernel, **options)
    compare(lambda: MATRIX[dims](kernel, input_size=shape[1:], **options), native, x)


@settings(max_examples=100)
@given(st.integers(1, 3).flatmap(pools), st.integers(0, 4))
def test_maxima_and_their_gradients_agree_with_torch(pool, levels):
    shape, kernel, options = pool
    x = torch.randn(2, *shape, dtype=torch.float64)
    x = (x * levels).round() if levels else x  # ties, or none
    name = f"MaxPool{len(shape) - 1}d"
    kind, native = getattr(sm, name), getattr(torch.nn, name)(kernel, **options)
    if compare(lambda: kind(kernel, input_size=shape[1:], **options), native, x):
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected = native(theirs)
        weights = torch.randn_like(expected)
        expected.backward(weights)
        kind(kernel, input_size=shape[1:], **options)(mine).backward(weights)
        assert_near(mine.grad, theirs.grad)


def test_scipy_filters_the_same():
    image = np.random.default_rng(0).normal(size=(6, 7))
    x = torch.from_numpy(image)[None]
    inner = (slice(1, -1), slice(1, -1))
    for layer, oracle in (
        (sm.AvgPool2d(3, input_size=(6, 7), stride=1), scipy.ndimage.uniform_filter),
        (sm.MaxPool2d(3, input_size=(6, 7), stride=1), scipy.ndimage.maximum_filter),
    ):
        np.testing.assert_allclose(layer(x)[0].numpy(), oracle(image, size=3)[inner], atol=1e-12)
    padded = sm.MaxPool2d(3, input_size=(6, 7), stride=1, padding=1)
    expected = scipy.ndimage.maximum_filter(image, size=3, mode="constant", cval=-inf)
    assert np.array_equal(padded(x)[0].numpy(), expected)


@pytest.mark.parametrize(
    "values",
    [[0.0, 0, 0, 0], [-inf, -inf, -inf, -inf], [1, nan, 2, 3], [nan, 1, nan, 0], [-inf, 2, 2, 1]],
    ids=str,
)
def test_ties_and_nan_select_as_torch_does(values):
    x = torch.tensor(values).view(1, 1, 2, 2)
    gradients = []
    for layer in (sm.MaxPool2d(2, input_size=(2, 2)), torch.nn.MaxPool2d(2)):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.sum().backward()
        gradients.append((y.detach(), leaf.grad))
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.equal(mine.nan_to_num(7), theirs.nan_to_num(7))


def test_a_border_window_has_a_divisor_of_its_own():
    pattern, theta = sm.avg_pool_pattern(1, (3, 3), 3, stride=1, padding=1, count_include_pad=False)
    assert pattern.num_parameters == 3  # corner, edge, middle
    assert_near(theta, torch.tensor([1 / 4, 1 / 6, 1 / 9]))
    counted, theta = sm.avg_pool_pattern(1, (3, 3), 3, stride=1, padding=1)
    assert counted.num_parameters == 1 and theta.numel() == 1


@pytest.mark.parametrize(
    "layer", [sm.AvgPool2d(2, input_size=(4, 5)), sm.MaxPool2d(2, input_size=(4, 5))], ids=str
)
@pytest.mark.parametrize("shape", [(4, 5), (1, 5, 4), (1, 1, 1, 4, 5), (2, 1, 4, 4)], ids=str)
def test_wrong_inputs_are_named(layer, shape):
    with pytest.raises(ValueError) as error:
        layer(torch.zeros(shape))
    assert "C, 4, 5)" in str(error.value) and str(shape) in str(error.value)


def test_a_selection_is_of_one_image():
    with pytest.raises(ValueError, match=r"must be one image .*got \(2, 1, 4, 5\)"):
        sm.MaxPool2d(2, input_size=(4, 5)).matrix(torch.zeros(2, 1, 4, 5))


ERRORS = {
    "padding must be at most half the window, got 2 and window 3": {"padding": 2},
    "kernel_size must be integers of at least 1, got 0": {"kernel_size": 0},
    "stride must be integers of at least 1, got 0": {"stride": 0},
    "input_size must have 2 entries, one a dimension, got (4, 4, 4)": {"input_size": (4, 4, 4)},
    "the window must fit the padded input, got extent 3 and size 2": {"input_size": 2},
}


@pytest.mark.parametrize("kind", [sm.AvgPool2d, sm.MaxPool2d])
@pytest.mark.parametrize("message", ERRORS)
def test_bad_arguments_are_named(kind, message):
    with pytest.raises(ValueError) as error:
        kind(**{"kernel_size": 3, "input_size": 4} | ERRORS[message])
    assert message in str(error.value)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: sm.AvgPool2d(2, input_size=4, divisor_override=0),
            "divisor_override must be an integer of at least 1",
        ),
        (lambda: sm.avg_pool_pattern(0, 4, 2), "channels must be an integer of at least 1, got 0"),
        (
            lambda: sm.MaxPool2d((1, 2), input_size=(3, 1), padding=(0, 1), dilation=(1, 2)),
            "every window must hold a cell of the input",
        ),
        (
            lambda: sm.MaxPool2d(2, input_size=4, dilation=0),
            "dilation must be integers of at least 1",
        ),
    ],
    ids=["divisor", "channels", "empty window", "dilation"],
)
def test_other_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "kind, stock", [(sm.MaxPool2d, torch.nn.MaxPool2d), (sm.AvgPool2d, torch.nn.AvgPool2d)]
)
@pytest.mark.parametrize("images", [1, 3, 70])
def test_images_that_lie_features_first_stay_so(kind, stock, images):
    x = torch.randn(2, 5, 6, images, dtype=torch.float64).round().permute(3, 0, 1, 2)
    x.requires_grad_()
    y, expected = kind(2, input_size=(5, 6))(x), stock(2)(x)
    torch.testing.assert_close(y, expected)
    g = torch.randn_like(expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(result, x, g, retain_graph=True)[0] for result in (y, expected))
    )
    if images > 1:
        assert y.stride(0) == 1


def test_a_trace_of_unequal_divisors_keeps_the_numbers():
    module = torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    layer, x = sm.from_module(module, (2, 7, 7)), torch.randn(3, 2, 7, 7)
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x), module(x))
    torch.testing.assert_close(layer(x), module(x))
