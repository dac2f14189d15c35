"""The transposed convolution layers against torch."""

import pytest
import torch
from contract import assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_contract import TiedContract, UntiedContract, builders, transposed_convolutions

import sparsemat as sm

NATIVE = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}
MATRIX = {1: sm.ConvTranspose1d, 2: sm.ConvTranspose2d, 3: sm.ConvTranspose3d}

# in_channels, out_channels, kernel_size, input_size and the options
LAYERS = {
    "one pixel": ((1, 1, 1, (1, 1)), {}),
    "stride of the kernel": ((2, 3, 2, (3, 4)), {"stride": 2}),
    "1-D": ((2, 3, 3, 5), {"stride": 2, "padding": 1, "output_padding": 1}),
    "3-D": ((2, 1, 2, (2, 3, 2)), {"stride": (1, 2, 1)}),
    "groups": ((4, 6, 3, (3, 4)), {"groups": 2, "padding": 1}),
    "dilation, output padding of a stride": (
        (1, 2, (2, 3), (3, 3)),
        {"dilation": 2, "output_padding": 1, "bias": False},
    ),
    "outputs that nothing reaches": ((1, 2, 1, (2, 3)), {"stride": 3, "output_padding": 2}),
}


class TestTied(TiedContract):
    cases = builders(MATRIX, NATIVE, LAYERS)


class TestUntied(UntiedContract):
    cases = builders(MATRIX, NATIVE, LAYERS, tied=False)

    def tied_pattern(self, layer):
        options = "stride", "padding", "output_padding", "dilation", "groups"
        return type(layer)(
            *(layer.in_channels, layer.out_channels, layer.kernel_size),
            **{name: getattr(layer, name) for name in options},
            input_size=layer.input_size,
        ).pattern


@settings(max_examples=80)
@given(transposed_convolutions(), st.sampled_from([None, "native", "general"]))
def test_every_geometry_agrees_with_torch(layer, form):
    arguments, options, shape = layer
    native = NATIVE[len(shape) - 1](*arguments, **options, dtype=torch.float64)
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    try:
        layer = sm.from_module(native, shape, form=form)
    except ValueError as error:
        assert form == "native" and "needs a tied convolution" in str(error)
        return
    y, expected = layer(x), native(x)
    assert_near(y, expected)
    weights = torch.randn_like(expected)
    leaves = [[x, *module.parameters()] for module in (layer, native)]
    mine = torch.autograd.grad((y * weights).sum(), leaves[0])
    theirs = torch.autograd.grad((expected * weights).sum(), leaves[1])
    for actual, gradient in zip(mine, theirs, strict=True):
        assert_near(actual, gradient)


class Decoder(torch.nn.Module):
    """Asks its part for sizes that are no multiples of the stride."""

    def __init__(self, *sizes):
        super().__init__()
        self.up, self.sizes = torch.nn.ConvTranspose2d(1, 2, 3, 2, padding=1), sizes

    def forward(self, x):
        return sum(self.up(x, output_size=size).sum((2, 3)) for size in self.sizes)


@pytest.mark.parametrize("size", [(5, 5), (6, 5), (6, 6)], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_caller_may_ask_for_an_output_size(size, tied):
    network, x = Decoder(size).double(), torch.randn(2, 1, 3, 3, dtype=torch.float64)
    layer = sm.from_module(network, (1, 3, 3), tied=tied)
    assert layer.up.output_size == size
    assert_near(layer(x), network(x))


def test_two_output_sizes_of_one_input_size_are_refused():
    with pytest.raises(ValueError, match=r"up .*one output size, got \[\(5, 5\), \(6, 6\)\]"):
        sm.from_module(Decoder((5, 5), (6, 6)), (1, 3, 3))


def test_another_output_size_than_the_layers_is_refused():
    layer = sm.ConvTranspose2d(1, 1, 3, 2, input_size=3)
    with pytest.raises(ValueError, match=r"must be that of the layer, \(7, 7\), got \(8, 8\)"):
        layer(torch.zeros(1, 1, 3, 3), output_size=(8, 8))


def test_parts_that_meet_two_sizes_share_their_kernel():
    up = torch.nn.ConvTranspose2d(1, 1, 2, 2)
    network = torch.nn.Sequential(up, up).double()
    layer, x = sm.from_module(network, (1, 2, 2)), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    assert list(layer[0].by_size) == [(2, 2), (4, 4)]
    assert_near(layer(x), network(x))


ERRORS = {
    "groups must divide in_channels, got groups=3 and in_channels=4": {"groups": 3},
    "stride must be integers of at least 1, got 0": {"stride": 0},
    "padding must be integers of at least 0, got 'same'": {"padding": "same"},
    "padding_mode must be 'zeros', got 'circular'": {"padding_mode": "circular"},
    "got 2 with stride 2 and dilation 1": {"output_padding": 2, "stride": 2},
    "the output must not be empty, got size (-4, -4) for input (5, 5)": {"padding": 6},
    "form must be one of": {"form": "dense"},
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_arguments_are_named(message):
    with pytest.raises(ValueError) as error:
        sm.ConvTranspose2d(4, 6, 4, input_size=5, **ERRORS[message])
    assert message in str(error.value)
