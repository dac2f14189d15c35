"""Layer, group and RMS normalisation as matrices at an input, against torch's and formulas."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from contract import TOLERANCE, assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.convnext import LayerNorm2d

import sparsemat as sm
from sparsemat.patterns import mean_pattern, norm_pattern

DOUBLE = {"dtype": torch.float64}
NORMS = {
    "LayerNorm": (lambda **o: nn.LayerNorm(5, **o), (3, 5), sm.LayerNorm),
    "LayerNorm, one token": (lambda **o: nn.LayerNorm(5, **o), (5,), sm.LayerNorm),
    "LayerNorm, two axes": (
        lambda **o: nn.LayerNorm((3, 4), eps=0.1, **o),
        (2, 3, 4),
        sm.LayerNorm,
    ),
    "LayerNorm, no bias": (lambda **o: nn.LayerNorm(4, bias=False, **o), (3, 4), sm.LayerNorm),
    "LayerNorm, no parameters": (
        lambda **o: nn.LayerNorm(4, elementwise_affine=False, **o),
        (3, 4),
        sm.LayerNorm,
    ),
    "RMSNorm": (lambda **o: nn.RMSNorm(5, **o), (3, 5), sm.RMSNorm),
    "RMSNorm, eps": (
        lambda **o: nn.RMSNorm((2, 3), eps=0.1, elementwise_affine=False, **o),
        (4, 2, 3),
        sm.RMSNorm,
    ),
    "GroupNorm": (lambda **o: nn.GroupNorm(3, 6, **o), (6, 2, 3), sm.GroupNorm),
    "GroupNorm, vectors": (lambda **o: nn.GroupNorm(2, 6, eps=0.1, **o), (6,), sm.GroupNorm),
    "GroupNorm, no parameters": (
        lambda **o: nn.GroupNorm(1, 4, affine=False, **o),
        (4, 3),
        sm.GroupNorm,
    ),
    "LayerNorm2d of torchvision": (lambda **o: LayerNorm2d(4, **o), (4, 3, 2), sm.LayerNorm2d),
}
each = pytest.mark.parametrize("make, shape, kind", NORMS.values(), ids=NORMS)


def pair(make, shape, dtype=torch.float64):
    torch.manual_seed(0)
    module = make(dtype=dtype)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module, sm.from_module(module, shape), 1 + torch.randn(3, *shape, dtype=dtype)


def bias(module, x):
    """The bias where it stands in the output of one input."""
    plain = deepcopy(module)
    if getattr(plain, "weight", None) is not None:
        nn.init.zeros_(plain.weight)
    return plain(x[None])[0].detach().reshape(-1)


@each
def test_the_matrix_and_the_bias_are_the_output(make, shape, kind):
    module, layer, x = pair(make, shape)
    assert type(layer) is kind
    for one in x:
        expected = module(one[None])[0].detach().reshape(-1)
        constant = bias(module, one) if module.weight is not None else 0
        assert_near(layer.matrix(one).detach() @ one.reshape(-1) + constant, expected)


@each
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_layer_is_the_module(make, shape, kind, dtype):
    module, layer, x = pair(make, shape, dtype)
    module.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), module(x))
    weights = torch.linspace(-1, 1, x.numel()).view_as(x).to(dtype)
    results = []
    for net in (module, layer):
        source = x.clone().requires_grad_()
        leaves = [source, *net.parameters()]
        results.append(torch.autograd.grad((net(source) * weights).sum(), leaves))
    for actual, expected in zip(*results, strict=True):
        assert torch.equal(actual, expected)
    one = x[0].reshape(-1)
    expected = module(x[:1])[0].detach().reshape(-1)
    constant = bias(module, x[0]) if module.weight is not None else 0
    error = (layer.matrix(x[0]).detach() @ one + constant - expected).abs().max()
    assert error <= 4 * TOLERANCE[dtype] * expected.abs().max()


@each
def test_the_pattern_holds_the_matrix_and_no_more(make, shape, kind):
    _, layer, x = pair(make, shape)
    pattern, dense = layer.pattern(shape), layer.matrix(x[0]).detach().to_dense()
    found = np.zeros(pattern.shape, bool)
    found[pattern.row, pattern.col] = True
    assert np.array_equal(found, (dense != 0).numpy())
    assert pattern.nnz == found.sum() == pattern.num_parameters
    theta = dense.new_empty(pattern.num_parameters)
    row, col, index = (torch.tensor(s) for s in (pattern.row, pattern.col, pattern.index))
    theta[index] = dense[row, col]
    assert torch.equal(pattern.fill(theta).to_dense(), dense)


@each
def test_it_is_the_matrix_of_the_system(make, shape, kind):
    """Frozen statistics, and not the Jacobian."""
    module, layer, x = pair(make, shape)
    made = layer.matrix(x[0]).detach().to_dense()
    assert_near(made, sm.secant_map(module, x[0]).to_dense())
    assert_near(made, sm.secant_map(layer, x[0]).to_dense())
    jacobian = sm.jacobian(module, x[0]).to_dense()
    assert (made - jacobian).norm() > 0.05 * jacobian.norm()


@each
def test_gradients_of_the_matrix_reach_input_and_weight(make, shape, kind):
    module, layer, x = pair(make, shape)
    source, weights = x[0].clone().requires_grad_(), torch.randn(x[0].numel(), **DOUBLE)
    leaves = [source] if module.weight is None else [source, layer.weight]
    y = layer.matrix(source) @ source.reshape(-1)
    mine = torch.autograd.grad(y @ weights, leaves)
    leaves = [source] if module.weight is None else [source, module.weight]
    theirs = torch.autograd.grad(module(source[None]).reshape(-1) @ weights, leaves)
    for actual, expected in zip(mine, theirs, strict=True):
        assert_near(actual, expected)


@settings(max_examples=40)
@given(*(st.integers(1, 4) for _ in range(3)), st.booleans())
def test_the_patterns_are_means_and_blocks(groups, size, positions, centred):
    sums = mean_pattern(groups, size, positions).fill(torch.ones(1, **DOUBLE)).to_dense()
    x = torch.randn(groups, size, positions, **DOUBLE)
    assert_near(sums @ x.reshape(-1), x.sum(1).reshape(-1))
    pattern = norm_pattern(groups, size, positions, centred=centred)
    eye = [torch.eye(n) for n in (groups, size, positions)]
    block = torch.ones(size, size) if centred else eye[1]
    expected = torch.kron(torch.kron(eye[0], block), eye[2])
    dense = pattern.fill(torch.arange(1.0, pattern.num_parameters + 1)).to_dense()
    assert torch.equal(dense != 0, expected != 0)
    assert len(dense.unique()) == pattern.nnz + bool((dense == 0).any())


def test_a_large_matrix_is_not_formed():
    layer = sm.GroupNorm(32, 256)
    pattern = layer.pattern((256, 56, 56))
    assert pattern.nnz == 32 * (8 * 56 * 56) ** 2
    x = torch.randn(256, 56, 56)
    y = layer.matrix(x).detach() @ x.reshape(-1)
    torch.testing.assert_close(y.view_as(x), layer(x[None])[0].detach(), atol=1e-4, rtol=1e-4)


def test_norms_in_a_network_become_layers_and_train():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.RMSNorm(6)).double()
    network = sm.from_module(module, (5, 4))
    kinds = [type(part) for part in network]
    assert kinds == [nn.Linear, sm.LayerNorm, nn.GELU, sm.RMSNorm]
    assert network[1].weight is not module[1].weight
    x = torch.randn(2, 5, 4, **DOUBLE)
    assert torch.equal(network(x), module(x))
    module.load_state_dict(network.state_dict())
    assert torch.equal(torch.export.export(network, (x,)).module()(x), module(x))
    copy = deepcopy(network).float()
    assert copy[1].matrix(torch.ones(1, 6)).dtype == torch.float32


def test_numbers_may_be_complex_where_torch_takes_them():
    module = nn.RMSNorm(4, elementwise_affine=False)
    x = torch.randn(3, 4, dtype=torch.complex128)
    matrix = sm.RMSNorm(4, elementwise_affine=False).matrix(x)
    assert_near((matrix @ x.reshape(-1)).view_as(x), module(x))


class Wider(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


BAD = {
    "must end in .5,., got shape .3, 4.": (
        ValueError,
        lambda: sm.LayerNorm(5).matrix(torch.ones(3, 4)),
    ),
    "must begin with 6 channels, got shape .4, 3.": (
        ValueError,
        lambda: sm.from_module(nn.GroupNorm(2, 6), (4, 3)),
    ),
    "must begin with 4 channels, got shape .4, 3.": (
        ValueError,
        lambda: sm.LayerNorm2d(4).pattern((4, 3)),
    ),
    "parameters' type torch.float32, got torch.float64": (
        ValueError,
        lambda: sm.RMSNorm(4).matrix(torch.ones(4, **DOUBLE)),
    ),
    "x must be a torch.Tensor, got list": (TypeError, lambda: sm.LayerNorm(2).matrix([1.0, 2])),
    "size must be an integer of at least 1, got 0": (ValueError, lambda: norm_pattern(1, 0)),
    "groups must be an integer of at least 1, got 0": (ValueError, lambda: mean_pattern(0, 1)),
    "centred must be True or False, got 1": (ValueError, lambda: norm_pattern(1, 1, centred=1)),
    "x must be floating-point, as the layer takes it, got torch.int64": (
        ValueError,
        lambda: sm.LayerNorm(2, elementwise_affine=False).matrix(torch.tensor([1, 2])),
    ),
    "x must be floating-point, as the layer takes it, got torch.complex64": (
        ValueError,
        lambda: sm.GroupNorm(1, 2, affine=False).matrix(torch.ones(2, dtype=torch.complex64)),
    ),
    "x must be floating-point or complex, as the layer takes it, got torch.int32": (
        ValueError,
        lambda: sm.RMSNorm(2, elementwise_affine=False).matrix(torch.ones(2, dtype=torch.int32)),
    ),
    r"LayerNorm is not a matrix; .*matrix\(x\)": (
        TypeError,
        lambda: sm.to_matrix(sm.LayerNorm(2), (2,)),
    ),
    "0: Wider computes something else than LayerNorm: its forward was .*leave it out with only": (
        TypeError,
        lambda: sm.from_module(nn.Sequential(Wider(4)), (4,)),
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_named(message):
    error, act = BAD[message]
    with pytest.raises(error, match=message):
        act()
