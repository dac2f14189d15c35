"""What the convolution layers of both directions must do; inherited by their tests."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from contract import Case, LayerContract, assert_near
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn


def pair(matrix, native, arguments, options, dtype, tied=True):
    """Our layer and torch's, drawn from the same seed.

    Args:
        matrix: Our layers by their dimension.
        native: Torch's.
        arguments: Channels, kernel and size of the images.
    """
    in_channels, out_channels, kernel, size = arguments
    dims = 1 if isinstance(size, int) else len(size)
    torch.manual_seed(0)
    ours = matrix[dims](*arguments[:3], **options, input_size=size, tied=tied, dtype=dtype)
    torch.manual_seed(0)
    theirs = native[dims](in_channels, out_channels, kernel, **options, dtype=dtype)
    return ours, theirs


def builders(matrix, native, layers, tied=True) -> dict[str, Callable[[torch.dtype], Case]]:
    """The cases of a contract, by the names of the layers."""

    def builder(arguments, options):
        def build(dtype):
            ours, theirs = pair(matrix, native, arguments, options, dtype, tied)
            return Case(ours, theirs, (ours.in_channels, *ours.input_size))

        return build

    return {name: builder(*layer) for name, layer in layers.items()}


class TiedContract(LayerContract):
    takes_complex = True

    def test_initial_parameters_are_those_of_torch(self, build):
        case = build(torch.float64)
        theirs = case.reference.state_dict()
        assert case.layer.state_dict().keys() == theirs.keys()
        for name, value in case.layer.state_dict().items():
            assert torch.equal(value, theirs[name])
        assert type(case.layer).__bases__[-1] is type(case.reference)
        assert repr(case.layer).startswith(repr(case.reference)[:-1])

    def test_untie_keeps_the_matrix(self, build):
        case = build(torch.float64)
        untied = case.layer.untie()
        assert untied.weight.shape == (untied.pattern.nnz,)
        assert not untied.tied and case.layer.tied
        assert_near(untied.matrix().to_dense(), case.layer.matrix().to_dense())

    def test_a_computed_weight_is_not_untied(self, build):
        case = build(torch.float64)
        nn.utils.parametrizations.weight_norm(case.layer)
        with pytest.raises(ValueError, match="to untie must own its weight, got one that a param"):
            case.layer.untie()


class UntiedContract(LayerContract):
    takes_complex = True
    same_parameters = False

    def tied_pattern(self, layer):
        """The pattern of the same layer, tied."""
        raise NotImplementedError

    def assert_parameter_gradients(self, case):
        """Tied gradients are sums of untied ones."""
        index = torch.tensor(self.tied_pattern(case.layer).index)
        theirs = case.reference.weight.grad
        summed = torch.zeros(theirs.numel(), dtype=theirs.dtype)
        summed.index_add_(0, index, case.layer.weight.grad)
        assert_near(summed.view_as(theirs), theirs)
        if case.layer.bias is not None:
            assert_near(case.layer.bias.grad, case.reference.bias.grad)

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
        case = build(torch.float64)
        layer, x = case.layer, self.inputs(case)
        with torch.no_grad():
            layer.weight.copy_(torch.randn_like(layer.weight))
        p = layer.pattern
        dense = np.zeros(p.shape)
        np.add.at(dense, (p.row, p.col), layer.weight.detach().numpy())
        dense = torch.from_numpy(dense)
        assert_near(layer.matrix().to_dense(), dense)
        expected = x.flatten(1) @ dense.T
        if layer.bias is not None:
            expected = expected + layer.bias.repeat_interleave(int(np.prod(layer.output_size)))
        assert_near(layer(x).flatten(1), expected)

    def test_reset_draws_a_tied_start(self, build):
        layer = build(torch.float64).layer
        start = {name: value.clone() for name, value in layer.state_dict().items()}
        with torch.no_grad():
            layer.weight.zero_()
        torch.manual_seed(0)
        layer.reset_parameters()
        assert all(torch.equal(value, start[name]) for name, value in layer.state_dict().items())
        nn.utils.parametrizations.weight_norm(layer, dim=None)
        with pytest.raises(ValueError, match="must own its weight, got one that a parametrization"):
            layer.reset_parameters()


def drawn_channels(draw, most_groups):
    """Number of axes, what draws a number for each of them, groups, and channels."""
    dims = draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.integers(1, most_groups))
    return dims, each, groups, [groups * draw(st.integers(1, 2)) for _ in range(2)]


@st.composite
def transposed_convolutions(draw):
    """Arguments, options and input shape of a transposed convolution whose output is not empty."""
    _, each, groups, channels = drawn_channels(draw, 2)
    size, kernel, stride, padding = each(1, 3), each(1, 3), each(1, 3), each(0, 1)
    dilation = each(1, 2)
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    sizes = zip(size, stride, padding, dilation, kernel, extra, strict=True)
    assume(min((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in sizes) >= 1)
    options = {"stride": stride, "padding": padding, "output_padding": extra}
    options |= {"groups": groups, "dilation": dilation}
    return (*channels, kernel), options, (channels[0], *size)
