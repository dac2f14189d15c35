"""The transposed convolution layers against torch."""

import numpy as np
import pytest
import torch
from contract import Case, LayerContract, assert_near
from hypothesis import assume, given, settings
from hypothesis import strategies as st

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


def pair(arguments, options, dtype, tied=True):
    """Our layer and torch's, drawn from the same seed."""
    in_channels, out_channels, kernel, size = arguments
    dims = 1 if isinstance(size, int) else len(size)
    torch.manual_seed(0)
    layer = MATRIX[dims](*arguments[:3], **options, input_size=size, tied=tied, dtype=dtype)
    torch.manual_seed(0)
    native = NATIVE[dims](in_channels, out_channels, kernel, **options, dtype=dtype)
    return layer, native


def builder(arguments, options, tied=True):
    def build(dtype):
        layer, native = pair(arguments, options, dtype, tied)
        return Case(layer, native, (layer.in_channels, *layer.input_size))

    return build


class TestTied(LayerContract):
    takes_complex = True
    cases = {name: builder(*layer) for name, layer in LAYERS.items()}  # noqa: RUF012

    def test_initial_parameters_are_those_of_torch(self, build):
        case = build(torch.float64)
        theirs = case.reference.state_dict()
        assert case.layer.state_dict().keys() == theirs.keys()
        for name, value in case.layer.state_dict().items():
            assert torch.equal(value, theirs[name])
        assert repr(case.layer).startswith(repr(case.reference)[:-1])

    def test_untie_keeps_the_matrix(self, build):
        case = build(torch.float64)
        untied = case.layer.untie()
        assert untied.weight.shape == (untied.pattern.nnz,)
        assert not untied.tied and case.layer.tied
        assert_near(untied.matrix().to_dense(), case.layer.matrix().to_dense())


class TestUntied(LayerContract):
    takes_complex = True
    cases = {name: builder(*layer, tied=False) for name, layer in LAYERS.items()}  # noqa: RUF012
    same_parameters = False

    def assert_parameter_gradients(self, case):
        """Tied gradients are sums of untied ones."""
        tied, theirs = self.tied(case), case.reference.weight.grad
        summed = torch.zeros(theirs.numel(), dtype=theirs.dtype)
        summed.index_add_(0, torch.tensor(tied.pattern.index), case.layer.weight.grad)
        assert_near(summed.view_as(theirs), theirs)
        if case.layer.bias is not None:
            assert_near(case.layer.bias.grad, case.reference.bias.grad)

    def tied(self, case):
        layer, options = case.layer, ("stride", "padding", "output_padding", "dilation", "groups")
        return type(layer)(
            *(layer.in_channels, layer.out_channels, layer.kernel_size),
            **{name: getattr(layer, name) for name in options},
            input_size=layer.input_size,
        )

    def test_state_loads_across(self, build):
        """Between untied layers; torch has none."""
        case, other = build(torch.float64), build(torch.float64)
        x = self.inputs(case)
        with torch.no_grad():
            for parameter in case.layer.parameters():
                parameter.copy_(torch.randn_like(parameter))
        other.layer.load_state_dict(case.layer.state_dict())
        assert torch.equal(other.layer(x), case.layer(x))

    def test_every_entry_has_its_own_parameter(self, build):
        layer = build(torch.float64).layer
        with torch.no_grad():
            layer.weight.copy_(torch.randn_like(layer.weight))
        p = layer.pattern
        dense = np.zeros(p.shape)
        np.add.at(dense, (p.row, p.col), layer.weight.detach().numpy())
        assert_near(layer.matrix().to_dense(), torch.from_numpy(dense))

    def test_reset_draws_a_tied_start(self, build):
        layer = build(torch.float64).layer
        start = {name: value.clone() for name, value in layer.state_dict().items()}
        with torch.no_grad():
            layer.weight.zero_()
        torch.manual_seed(0)
        layer.reset_parameters()
        assert all(torch.equal(value, start[name]) for name, value in layer.state_dict().items())


@settings(max_examples=80)
@given(st.data(), st.sampled_from([None, "native", "general"]))
def test_every_geometry_agrees_with_torch(data, form):
    dims = data.draw(st.integers(1, 3))
    each = lambda low, high: tuple(data.draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    groups = data.draw(st.integers(1, 2))
    channels = [groups * data.draw(st.integers(1, 2)) for _ in range(2)]
    size, kernel, stride, padding = each(1, 3), each(1, 3), each(1, 3), each(0, 1)
    dilation = each(1, 2)
    extra = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    options = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups}
    native = NATIVE[dims](*channels, kernel, **options, dilation=dilation, dtype=torch.float64)
    x = torch.randn(2, channels[0], *size, dtype=torch.float64, requires_grad=True)
    sizes = zip(size, stride, padding, dilation, kernel, extra, strict=True)
    assume(min((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in sizes) >= 1)
    try:
        layer = sm.from_module(native, (channels[0], *size), form=form)
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
