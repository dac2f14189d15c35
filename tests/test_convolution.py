"""The convolution layers against torch and SciPy."""

import numpy as np
import pytest
import scipy.signal
import torch
from contract import assert_near
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_contract import TiedContract, UntiedContract, builders, drawn_channels, pair

import sparsemat as sm

# torch says that its own way costs a copy
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

NATIVE = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
MATRIX = {1: sm.Conv1d, 2: sm.Conv2d, 3: sm.Conv3d}

# in_channels, out_channels, kernel_size, input_size and the options
LAYERS = {
    "one pixel": ((1, 1, 1, (1, 1)), {}),
    "valid": ((1, 2, 3, (5, 6)), {}),
    "1-D": ((2, 3, 3, 7), {"stride": 2, "padding": 1}),
    "3-D": ((2, 2, 2, (3, 4, 3)), {"padding": (1, 0, 1)}),
    "groups": ((4, 6, 3, (4, 5)), {"groups": 2, "padding": 1}),
    "depthwise": ((3, 3, 2, (4, 4)), {"groups": 3}),
    "stride, padding, dilation": (
        (2, 3, (2, 3), (7, 6)),
        {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    ),
    "same, even kernel": ((1, 2, (2, 4), (4, 5)), {"padding": "same"}),
    "no bias": ((2, 2, 3, (4, 4)), {"bias": False, "padding": "valid"}),
    "circular, kernel wraps": ((1, 2, 3, (2, 2)), {"padding": 1, "padding_mode": "circular"}),
    "reflect": ((2, 1, 3, (3, 4)), {"padding": 2, "padding_mode": "reflect"}),
    "replicate": ((1, 2, 3, (2, 3)), {"padding": 3, "padding_mode": "replicate"}),
}


class TestTied(TiedContract):
    cases = builders(MATRIX, NATIVE, LAYERS)


class TestUntied(UntiedContract):
    cases = builders(MATRIX, NATIVE, LAYERS, tied=False)

    def tied_pattern(self, layer):
        return sm.conv_pattern(
            *(layer.in_channels, layer.out_channels, layer.input_size, layer.kernel_size),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            padding_mode=layer.padding_mode,
        )


@st.composite
def convolutions(draw):
    """Arguments and options of a layer whose output is not empty."""
    dims, each, groups, channels = drawn_channels(draw, 3)
    size, kernel, dilation = each(1, 6), each(1, 3), each(1, 2)
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    padding = draw(st.sampled_from(["same", "valid", each(0, 2)]))
    stride = (1,) * dims if padding == "same" else each(1, 3)
    pads = {
        "valid": each(0, 0),
        "same": tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True)),
    }
    wide = pads.get(padding, tuple(2 * p for p in padding) if padding not in pads else None)
    assume(
        all(n + w > d * (k - 1) for n, w, d, k in zip(size, wide, dilation, kernel, strict=True))
    )
    most = {"circular": 0, "reflect": -1}.get(mode)
    assume(most is None or all(-(-w // 2) <= n + most for n, w in zip(size, wide, strict=True)))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return (*channels, kernel, size), options | {"padding_mode": mode, "bias": draw(st.booleans())}


@settings(max_examples=150)
@given(convolutions(), st.booleans())
def test_every_geometry_agrees_with_torch(layer, tied):
    mine, native = pair(MATRIX, NATIVE, *layer, torch.float64, tied)
    x = torch.randn(2, mine.in_channels, *mine.input_size, dtype=torch.float64)
    assert_near(mine(x), native(x))


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (5, 4)], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_scipy_correlates_the_same(kernel, tied):
    layer = sm.Conv2d(1, 1, kernel, input_size=(5, 6), bias=False, tied=tied, dtype=torch.float64)
    weight = np.random.default_rng(0).normal(size=kernel)
    with torch.no_grad():
        spread = torch.from_numpy(weight.reshape(-1))
        index = sm.conv_pattern(1, 1, (5, 6), kernel).index
        layer.weight.copy_(spread.view_as(layer.weight) if tied else spread[torch.tensor(index)])
    image = np.random.default_rng(1).normal(size=(5, 6))
    expected = scipy.signal.correlate2d(image, weight, mode="valid")
    actual = layer(torch.from_numpy(image)[None])[0].detach().numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_scipy_wraps_the_same():
    pattern = sm.conv_pattern(1, 1, (4, 5), (3, 3), padding=1, padding_mode="circular")
    weight, image = np.random.default_rng(0).normal(size=(2, 20))
    matrix = pattern.fill(torch.from_numpy(weight[:9].copy()))
    expected = scipy.signal.correlate2d(
        image.reshape(4, 5), weight[:9].reshape(3, 3), mode="same", boundary="wrap"
    )
    actual = matrix @ torch.from_numpy(image.copy())
    np.testing.assert_allclose(actual.view(4, 5).numpy(), expected, atol=1e-12)


def test_scipy_convolves_with_the_flipped_kernel():
    signal, kernel = np.random.default_rng(0).normal(size=(2, 9))
    matrix = sm.conv_pattern(1, 1, 9, 4, padding=3).fill(torch.from_numpy(kernel[3::-1].copy()))
    expected = scipy.signal.convolve(signal, kernel[:4], mode="full")
    actual = matrix @ torch.from_numpy(signal.copy())
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_autocast_casts_as_torch_does(tied):
    layer, native = pair(MATRIX, NATIVE, (3, 4, 3, (6, 6)), {}, torch.float32, tied)
    x = torch.randn(5, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), native(x)
        assert layer(y[:, :3].new_zeros(1, 3, 6, 6)).dtype == torch.bfloat16
    assert y.dtype == expected.dtype == torch.bfloat16
    assert_near(y, expected)
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_autocast_leaves_double_precision_alone():
    layer, native = pair(MATRIX, NATIVE, (1, 2, 3, (4, 4)), {}, torch.float64)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == native(x).dtype == torch.float64


@pytest.mark.parametrize("features_first", [False, True], ids=["as torch", "features first"])
def test_activations_lie_as_the_images_do(features_first):
    first, second = sm.Conv2d(1, 2, 3, input_size=6), sm.Conv2d(2, 2, 3, input_size=4)
    x = torch.randn(5, 1, 6, 6)
    if features_first:
        x = x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    y = first(x.requires_grad_()).relu()
    for image in (y, second(y)):
        assert image.stride(0) == 1 if features_first else image.is_contiguous()
    (grad,) = torch.autograd.grad(second(y).sum(), x)
    assert grad.stride() == x.stride()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_form_of_the_product_gives_the_same(tied):
    torch.manual_seed(0)
    layer = sm.Conv2d(2, 3, 3, input_size=(5, 6), padding=1, tied=tied).double()
    other = sm.Conv2d(2, 3, 3, input_size=(5, 6), padding=1, tied=tied, form="general").double()
    assert "General" in repr(other.product) and "Gather" in repr(layer.product)
    assert "form='general'" in repr(other) and "form" not in repr(layer)
    other.load_state_dict(layer.state_dict())
    x, gradients = torch.randn(4, 2, 5, 6).double(), []
    for module in (layer, other):
        leaf = x.clone().requires_grad_()
        module(leaf).sin().sum().backward()
        gradients.append((leaf.grad, module.weight.grad, module.bias.grad))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_a_form_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"form must be one of .*got 'dense'"):
        sm.Conv2d(1, 1, 3, input_size=(5, 5), form="dense")


def test_layers_of_one_geometry_share_their_product():
    layer = sm.Conv2d(1, 2, 3, input_size=6, tied=True)
    assert layer.product is sm.Conv2d(1, 2, 3, input_size=6).product
    assert layer.product is not layer.untie().product
    assert "_product" not in layer.__getstate__()


@pytest.mark.parametrize(
    "shape", [(2, 3, 5, 5), (2, 2, 5, 6), (5, 5), (1, 2, 2, 5, 5), (3, 5, 5), ()], ids=str
)
def test_wrong_inputs_are_named(shape):
    layer = sm.Conv2d(2, 1, 3, input_size=5)
    with pytest.raises(ValueError) as error:
        layer(torch.zeros(shape))
    assert "(2, 5, 5)" in str(error.value) and str(shape) in str(error.value)


ERRORS = {
    "groups must divide in_channels, got groups=3 and in_channels=4": ((4, 3, 1, 5), {"groups": 3}),
    "groups must divide out_channels, got groups=2 and out_channels=3": (
        (4, 3, 1, 5),
        {"groups": 2},
    ),
    "in_channels must be an integer of at least 1, got 0": ((0, 1, 1, 5), {}),
    "out_channels must be an integer of at least 1, got 0": ((1, 0, 1, 5), {}),
    "groups must be an integer of at least 1, got 0": ((1, 1, 1, 5), {"groups": 0}),
    "input_size must have 2 entries, one a dimension, got (5, 5, 5)": ((1, 1, 1, (5, 5, 5)), {}),
    "got extent 6 and size 5": ((1, 1, 6, 5), {}),
    "got extent 7 and size 6": ((1, 1, 4, 4), {"dilation": 2, "padding": 1}),
    "kernel_size must be integers of at least 1, got 0": ((1, 1, 0, 5), {}),
    "stride must be integers of at least 1, got 0": ((1, 1, 1, 5), {"stride": 0}),
    "dilation must be integers of at least 1, got 0": ((1, 1, 1, 5), {"dilation": 0}),
    "padding must be integers of at least 0, got -1": ((1, 1, 1, 5), {"padding": -1}),
    "stride must be integers of at least 1, got None": ((1, 1, 1, 5), {"stride": None}),
    "kernel_size must be integers of at least 1, got 2.5": ((1, 1, 2.5, 5), {}),
    "form 'gather' needs a regular pattern, got GeneralProduct": (
        (1, 1, 3, 3),
        {"padding": 1, "stride": 2, "form": "gather"},
    ),
    "kernel_size must have 2 entries, one a dimension, got (1, 1, 1)": ((1, 1, (1, 1, 1), 5), {}),
    "padding='same' needs stride 1, got stride=(2, 2)": (
        (1, 1, 3, 5),
        {"padding": "same", "stride": 2},
    ),
    "padding must be numbers, 'same' or 'valid', got 'half'": ((1, 1, 3, 5), {"padding": "half"}),
    "padding_mode must be one of ('zeros', 'circular', 'reflect', 'replicate'), got 'wrap'": (
        (1, 1, 3, 5),
        {"padding_mode": "wrap"},
    ),
    "circular padding must be at most 2 for size 2, got 3": (
        (1, 1, 3, 2),
        {"padding": 3, "padding_mode": "circular"},
    ),
    "reflect padding must be at most 1 for size 2, got 2": (
        (1, 1, 3, 2),
        {"padding": 2, "padding_mode": "reflect"},
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_arguments_are_named(message):
    arguments, options = ERRORS[message]
    with pytest.raises(ValueError) as error:
        sm.Conv2d(*arguments[:3], **options, input_size=arguments[3])
    assert message in str(error.value)


def test_pairs_of_padding_must_be_one_a_dimension():
    with pytest.raises(ValueError, match="padding must have 2 pairs, got 1"):
        sm.conv_pattern(1, 1, (4, 4), 2, padding=[(0, 1)])


def test_sizes_may_be_numbers_of_numpy_or_torch():
    same = sm.conv_pattern(1, 1, (6, 6), 3, padding=1)
    assert sm.conv_pattern(1, 1, (6, 6), np.int64(3), padding=np.array([1, 1])).equals(same)
    assert sm.conv_pattern(1, 1, torch.tensor([6, 6]), 3, padding=1).equals(same)


def test_padding_may_differ_before_and_after():
    pattern = sm.conv_pattern(1, 1, (3, 4), 2, padding=[(0, 1), (1, 0)])
    weight, x = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 3, 4)
    padded = torch.nn.functional.pad(x, (1, 0, 0, 1))
    expected = torch.nn.functional.conv2d(padded, weight).reshape(-1)
    assert_near(pattern.fill(weight) @ x.reshape(-1), expected)
