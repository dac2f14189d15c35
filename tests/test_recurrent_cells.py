"""The cells of recurrences, against torch's."""

import numpy as np
import pytest
import torch
from contract import assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsemat as sm
from sparsemat.patterns.gated import cell_pattern

KINDS = {
    "RNN": (nn.RNNCell, sm.RNNCell, {}),
    "RNN, relu": (nn.RNNCell, sm.RNNCell, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTMCell, sm.LSTMCell, {}),
    "GRU": (nn.GRUCell, sm.GRUCell, {}),
}
each_kind = pytest.mark.parametrize("native, kind, options", KINDS.values(), ids=KINDS)
GATED = {"LSTM": (nn.LSTMCell, sm.LSTMCell), "GRU": (nn.GRUCell, sm.GRUCell)}
each_gated = pytest.mark.parametrize("native, kind", GATED.values(), ids=GATED)


def pair(native, kind, options=None, bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    module = native(3, 4, bias=bias, dtype=dtype, **(options or {}))
    layer = sm.from_module(module, (3,))
    assert type(layer) is kind
    return module, layer


def states(kind, shape):
    torch.manual_seed(1)
    h, c = torch.randn(2, *shape, 4, dtype=torch.float64)
    return (h, c) if kind is sm.LSTMCell else h


def flat(result):
    return list(result) if isinstance(result, tuple) else [result]


@each_kind
@settings(max_examples=10)
@given(batch=st.sampled_from([None, 1, 3]), bias=st.booleans(), start=st.booleans())
def test_results_and_gradients_are_those_of_torch(native, kind, options, batch, bias, start):
    module, layer = pair(native, kind, options, bias)
    assert list(layer.state_dict()) == list(module.state_dict())
    shape = () if batch is None else (batch,)
    x = torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)
    hx = states(kind, shape) if start else None
    results = []
    for net in (module, layer):
        made = flat(net(x, hx))
        loss = sum(part.sin().sum() for part in made)
        results.append([*made, *torch.autograd.grad(loss, [x, *net.parameters()])])
    for expected, actual in zip(*results, strict=True):
        assert_near(actual, expected)


@each_kind
def test_a_loop_over_cells_is_converted(native, kind, options):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = native(3, 4, **options), nn.Linear(4, 2)

        def forward(self, x):
            hx = None
            for step in x.unbind(1):
                hx = self.cell(step, hx)
            return self.head(flat(hx)[0])

    torch.manual_seed(0)
    module, x = Reader().double(), torch.randn(2, 5, 3, dtype=torch.float64)
    network = sm.from_module(module, (5, 3))
    assert type(network.cell) is kind
    assert network.cell.weight_hh is not module.cell.weight_hh
    assert_near(network(x), module(x))
    module.load_state_dict(network.state_dict())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_follows_the_dtype(native, kind, options, dtype):
    _, exact = pair(native, kind, options)
    _, layer = pair(native, kind, options)
    x = torch.randn(5, 3).to(dtype)
    right, made = (flat(net(x_))[0] for net, x_ in ((exact, x.double()), (layer.to(dtype), x)))
    assert made.dtype == dtype
    assert (made.double() - right).abs().max() <= 8 * torch.finfo(dtype).eps


@each_kind
def test_the_matrix_acts_on_input_and_state(native, kind, options):
    module, layer = pair(native, kind, options)
    x, h = torch.randn(3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    made = layer.matrix() @ torch.cat((x, h))
    sides = module.weight_ih @ x, module.weight_hh @ h
    assert_near(made, torch.cat(sides) if kind is sm.GRUCell else sides[0] + sides[1])
    assert layer.matrix().pattern is layer.pattern
    (made.sum()).backward()
    assert layer.weight_ih.grad is not None and layer.weight_hh.grad is not None


@pytest.mark.parametrize("together", [True, False])
def test_the_pattern_is_one_row_or_a_diagonal_of_blocks(together):
    pattern = cell_pattern(3, 2, 4, together=together)
    numbers = np.arange(1.0, pattern.num_parameters + 1)
    left, right = numbers[:12].reshape(4, 3), numbers[12:].reshape(4, 2)
    zeros = np.zeros((4, 3)), np.zeros((4, 2))
    expected = [[left, right]] if together else [[left, zeros[1]], [zeros[0], right]]
    dense = pattern.fill(torch.from_numpy(numbers)).to_dense().numpy()
    np.testing.assert_array_equal(dense, np.block(expected))
    with pytest.raises(ValueError, match="rows must be an integer of at least 1, got 0"):
        cell_pattern(3, 2, 0)


@each_gated
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("start", [False, True], ids=["from zero", "from a state"])
def test_the_system_is_triangular_and_its_solution_the_states(native, kind, bias, start):
    module, layer = pair(native, kind, bias=bias)
    x, hx = torch.randn(3, dtype=torch.float64), states(kind, ()) if start else None
    system = layer.system(x, hx)
    assert (system.M.pattern.row > system.M.pattern.col).all()
    z = system.solve(x)
    for name, expected in zip("hc", flat(module(x, hx)), strict=False):
        assert_near(z[torch.from_numpy(system.parts[name])], expected.detach())


@pytest.mark.parametrize("traced", ["export", "vmap"])
@each_kind
def test_cells_are_traced_and_batched(native, kind, options, traced):
    module, layer = pair(native, kind, options)
    x, hx = torch.randn(5, 3, dtype=torch.float64), states(kind, (5,))
    if traced == "export":
        made = torch.export.export(layer, (x, hx)).module()(x, hx)
    else:
        made = torch.vmap(layer)(x, hx)
    for actual, expected in zip(flat(made), flat(module(x, hx)), strict=True):
        assert_near(actual, expected)


BAD = {
    r"\(n, d\) or \(d,\) with d=3, got \(5, 4\)": lambda cell: cell(torch.ones(5, 4)),
    r"got \(2, 5, 3\)": lambda cell: cell(torch.ones(2, 5, 3)),
    "parameters' type torch.float32": lambda cell: cell(torch.ones(5, 3).double()),
    r"one input \(3,\), got \(5, 3\)": lambda cell: cell.system(torch.ones(5, 3)),
    r"input_shape must be \(d,\) with d=3, got input_shape=\(4,\)": lambda cell: sm.from_module(
        next(native for native, kind in GATED.values() if isinstance(cell, kind))(3, 4), (4,)
    ),
}


@pytest.mark.parametrize("message", BAD)
@each_gated
def test_what_does_not_fit_is_named(native, kind, message):
    with pytest.raises(ValueError, match=message):
        BAD[message](kind(3, 4))


@each_kind
def test_a_state_of_another_shape_is_named(native, kind, options):
    wrong = torch.ones(5, 3)
    hx = (wrong, wrong) if kind is sm.LSTMCell else wrong
    with pytest.raises(ValueError, match=r"state must have shape \(5, 4\).*got \(5, 3\)"):
        kind(3, 4, **options)(torch.ones(5, 3), hx)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
@each_kind
def test_a_state_of_another_type_is_refused(native, kind, options, dtype, autocast):
    right = torch.ones(5, 4)
    wrong = right.to(dtype)
    given = [(right, wrong), (wrong, right)] if kind is sm.LSTMCell else [wrong]
    message = f"parameters' type torch.float32, got {dtype}"
    for hx in given:
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=autocast),
            pytest.raises(ValueError, match=message),
        ):
            kind(3, 4, **options)(torch.ones(5, 3), hx)


@each_kind
def test_autocast_takes_a_state_it_casts(native, kind, options):
    module, layer = pair(native, kind, options, dtype=torch.float32)
    x, half = torch.randn(5, 3), torch.randn(5, 4).bfloat16()
    low, exact = ((h, h) if kind is sm.LSTMCell else h for h in (half, half.float()))
    with torch.autocast("cpu", torch.bfloat16):
        y = flat(layer(x, low))[0]
    expected = flat(module(x, exact))[0]
    assert (y - expected).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps


def test_an_lstm_cell_needs_a_pair():
    with pytest.raises(ValueError, match="hx must be a pair of a state and a cell, got Tensor"):
        sm.LSTMCell(3, 4)(torch.ones(5, 3), torch.ones(5, 4))


def test_a_list_is_refused():
    with pytest.raises(TypeError, match=r"input must be a torch.Tensor, got list"):
        sm.GRUCell(3, 4)([1.0, 2, 3])


@each_kind
def test_a_cell_is_no_matrix_of_one_input(native, kind, options):
    with pytest.raises(TypeError, match=r"takes an input and a state: .* matrix\(\) of both"):
        sm.to_matrix(native(3, 4), (3,))
