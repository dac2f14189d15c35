"""The recurrent layer against torch.nn.RNN, and its operators against dense linear algebra."""

import numpy as np
import pytest
import torch
from contract import Case, LayerContract
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemat import RNN, recurrence_patterns, to_matrix
from sparsemat.products.recurrence import recurrence

LAYERS = {
    "tanh": {"nonlinearity": "tanh"},
    "relu": {"nonlinearity": "relu"},
    "two layers": {"num_layers": 2},
    "three relu layers without bias": {"num_layers": 3, "nonlinearity": "relu", "bias": False},
    "time first": {"batch_first": False},
}
each_layer = pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
sizes = st.integers(1, 5)


def pair(options, input_size=3, hidden_size=4, dtype=torch.float64):
    """torch's layer and ours with the same parameters."""
    torch.manual_seed(0)
    native = torch.nn.RNN(input_size, hidden_size, **{"batch_first": True} | options, dtype=dtype)
    layer = RNN(input_size, hidden_size, **{"batch_first": True} | options, dtype=dtype)
    layer.load_state_dict(native.state_dict())
    return native, layer


def dense_blocks(steps, weight, offset):
    """``weight`` at the blocks ``(t, t - offset)``."""
    shift = np.eye(steps, k=-offset)
    return np.kron(shift, weight)


@settings(max_examples=30)
@given(sizes, sizes, sizes)
def test_the_patterns_are_the_block_matrices(steps, input_size, hidden_size):
    n, b = recurrence_patterns(steps, input_size, hidden_size)
    hidden, into = np.random.default_rng(0).normal(size=(2, 5, 5))
    hidden, into = hidden[:hidden_size, :hidden_size], into[:hidden_size, :input_size]
    for pattern, weight, offset in ((n, hidden, 1), (b, into, 0)):
        filled = pattern.fill(torch.from_numpy(weight.copy())).to_dense().numpy()
        np.testing.assert_array_equal(filled, dense_blocks(steps, weight, offset))
    assert n.nnz == (steps - 1) * hidden_size**2
    assert b.nnz == steps * hidden_size * input_size
    assert n.is_lower_triangular
    assert n.lower_bandwidth == (2 * hidden_size - 1 if steps > 1 else 0)


@pytest.mark.parametrize("zero", ["steps", "input_size", "hidden_size"])
def test_empty_patterns_are_refused(zero):
    arguments = {"steps": 2, "input_size": 2, "hidden_size": 2} | {zero: 0}
    with pytest.raises(ValueError, match=f"{zero} must be an integer of at least 1, got 0"):
        recurrence_patterns(**arguments)


@each_layer
def test_the_initial_parameters_are_those_of_torch(options):
    torch.manual_seed(0)
    native = torch.nn.RNN(3, 4, **{"batch_first": True} | options)
    torch.manual_seed(0)
    layer = RNN(3, 4, **{"batch_first": True} | options)
    assert list(native.state_dict()) == list(layer.state_dict())
    for name, value in native.state_dict().items():
        assert torch.equal(value, layer.state_dict()[name]), name


@each_layer
def test_state_dicts_load_both_ways(options):
    native, layer = pair(options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    native.load_state_dict(layer.state_dict())
    for a, b in zip(native.parameters(), layer.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("start", [False, True], ids=["from zero", "from h0"])
@pytest.mark.parametrize("batch", [None, 1, 3], ids="batch={}".format)
@each_layer
def test_outputs_and_gradients_are_those_of_torch(options, batch, start):
    native, layer = pair(options)
    shape = (7, 3) if batch is None else (batch, 7, 3)
    if batch is not None and not options.get("batch_first", True):
        shape = (7, batch, 3)
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    shape = (layer.num_layers, 4) if batch is None else (layer.num_layers, batch, 4)
    h0 = torch.randn(shape, dtype=torch.float64, requires_grad=True) if start else None
    leaves, results = [x] if h0 is None else [x, h0], []
    for module in (native, layer):
        output, last = module(x) if h0 is None else module(x, h0)
        loss = (output.sin()).sum() + (last * 0.3).exp().sum()
        grads = torch.autograd.grad(loss, [*leaves, *module.parameters()])
        results.append((output, last, *grads))
    for right, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


@settings(max_examples=25)
@given(sizes, sizes, sizes, sizes, st.sampled_from(["tanh", "relu"]), st.booleans())
def test_any_size_agrees_with_torch(batch, steps, input_size, hidden_size, nonlinearity, bias):
    options = {"nonlinearity": nonlinearity, "bias": bias}
    native, layer = pair(options, input_size, hidden_size)
    x = torch.randn(batch, steps, input_size, dtype=torch.float64)
    for ours, right in zip(layer(x), native(x), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradcheck(num_layers):
    torch.manual_seed(0)
    layer = RNN(2, 3, num_layers, "linear", dtype=torch.float64, batch_first=True)
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(num_layers, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *sides: layer(*sides[:2]), (x, h0, *layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_layer
def test_error_follows_the_dtype(options, dtype):
    _, exact = pair(options, 3, 8)
    torch.manual_seed(1)
    x = torch.randn(5, 5, 3).to(dtype)
    right = exact(x.double())[0]
    _, layer = pair(options, 3, 8)
    output, last = layer.to(dtype)(x)
    assert output.dtype == last.dtype == dtype
    error = (output.double() - right).norm() / right.norm()
    assert error <= 8 * torch.finfo(dtype).eps


def test_autocast_trains_float32_parameters():
    _, layer = pair({}, dtype=torch.float32)
    x = torch.randn(2, 5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "relu"])
def test_the_states_solve_the_implicit_equation(nonlinearity, bias):
    torch.manual_seed(0)
    layer = RNN(2, 3, nonlinearity=nonlinearity, bias=bias, dtype=torch.float64, batch_first=True)
    x, h0 = torch.randn(6, 2, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    states = layer(x, h0)[0].reshape(-1)
    n, b = layer.operators(6)
    c = torch.zeros(6, 3, dtype=torch.float64)
    c[0] = layer.weight_hh_l0 @ h0[0]
    if bias:
        c += layer.bias_ih_l0 + layer.bias_hh_l0
    f = {"linear": lambda a: a, "tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
    right = f(n @ states + b @ x.reshape(-1) + c.reshape(-1))
    torch.testing.assert_close(states, right, rtol=1e-12, atol=1e-12)


def test_operators_of_a_layer_are_its_patterns_filled():
    layer = RNN(2, 3, num_layers=2, nonlinearity="linear", batch_first=True)
    for which, input_size in ((0, 2), (1, 3)):
        for pattern, right in zip(
            layer.pattern(4, which), recurrence_patterns(4, input_size, 3), strict=True
        ):
            assert pattern.equals(right)
        n, b = layer.operators(4, which)
        assert torch.equal(n.to_dense()[3:6, :3], getattr(layer, f"weight_hh_l{which}"))
        assert torch.equal(
            b.to_dense()[3:6, input_size:][:, :input_size], getattr(layer, f"weight_ih_l{which}")
        )
    with pytest.raises(ValueError, match=r"layer must lie in 0\.\.1, got 2"):
        layer.operators(4, 2)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_explicit_matrix_solves_the_operators(num_layers, steps):
    torch.manual_seed(0)
    layer = RNN(2, 3, num_layers, "linear", bias=False, dtype=torch.float64, batch_first=True)
    right = torch.eye(2 * steps, dtype=torch.float64)
    for which in range(num_layers):
        n, b = layer.operators(steps, which)
        system = torch.eye(3 * steps, dtype=torch.float64) - n.to_dense()
        right = torch.linalg.solve(system, b.to_dense() @ right)
    matrix = layer.matrix(steps)
    torch.testing.assert_close(matrix.to_dense(), right, rtol=1e-12, atol=1e-12)
    x = torch.randn(steps, 2, dtype=torch.float64)
    torch.testing.assert_close(
        matrix @ x.reshape(-1), layer(x)[0].reshape(-1), rtol=1e-12, atol=1e-12
    )


def test_the_adjoint_of_the_linear_layer_is_its_matrix_transposed():
    torch.manual_seed(0)
    layer = RNN(2, 3, nonlinearity="linear", dtype=torch.float64, batch_first=True)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 3, dtype=torch.float64)
    (adjoint,) = torch.autograd.grad(layer(x)[0], x, g)
    right = layer.matrix(5).T @ g.reshape(-1)
    torch.testing.assert_close(adjoint.reshape(-1), right, rtol=1e-12, atol=1e-12)


def test_gradients_reach_the_parameters_through_the_explicit_matrix():
    torch.manual_seed(0)
    layer = RNN(2, 3, nonlinearity="linear", bias=False, dtype=torch.float64, batch_first=True)
    x = torch.randn(5, 2, dtype=torch.float64)
    both = [
        torch.autograd.grad(y.sin().sum(), list(layer.parameters()))
        for y in (layer.matrix(5) @ x.reshape(-1), layer(x)[0].reshape(-1))
    ]
    for ours, right in zip(*both, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_nonlinear_layer_has_no_explicit_matrix(nonlinearity):
    with pytest.raises(TypeError, match=f"{nonlinearity} acts inside the recurrence"):
        RNN(2, 3, nonlinearity=nonlinearity, batch_first=True).matrix(4)


def test_an_explicit_matrix_beyond_memory_is_refused():
    with pytest.raises(MemoryError, match="40000000x20000000 matrix"):
        RNN(2, 4, nonlinearity="linear", batch_first=True).matrix(10_000_000)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        pytest.param(
            {"input_size": 0}, "input_size must be an integer of at least 1, got 0", id="input"
        ),
        pytest.param(
            {"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0", id="hidden"
        ),
        pytest.param(
            {"num_layers": 0}, "num_layers must be an integer of at least 1, got 0", id="layers"
        ),
        pytest.param({"nonlinearity": "gelu"}, "must be one of .*got 'gelu'", id="nonlinearity"),
    ],
)
def test_layers_that_cannot_be_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        RNN(**{"input_size": 2, "hidden_size": 3} | options, batch_first=True)


@pytest.mark.parametrize(
    ("x", "h0", "rule"),
    [
        pytest.param((4, 3), None, r"d=2, got \(4, 3\)", id="features"),
        pytest.param((4,), None, r"d=2, got \(4,\)", id="one axis"),
        pytest.param((1, 1, 4, 2), None, r"d=2, got", id="four axes"),
        pytest.param((5, 0, 2), None, r"T >= 1", id="no step"),
        pytest.param((5, 4, 2), (1, 4, 3), r"hx .*got \(1, 4, 3\)", id="batch of h0"),
        pytest.param((5, 4, 2), (2, 5, 3), r"num_layers=1.*got \(2, 5, 3\)", id="layers of h0"),
        pytest.param((4, 2), (1, 1, 3), r"hx .*got \(1, 1, 3\)", id="batched h0, one sequence"),
        pytest.param((5, 4, 2), (1, 3), r"hx .*got \(1, 3\)", id="one h0, a batch"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, h0, rule):
    h0 = None if h0 is None else torch.zeros(h0)
    with pytest.raises(ValueError, match=rule):
        RNN(2, 3, batch_first=True)(torch.zeros(x), h0)


@pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
def test_forward_derivatives_of_forward_derivatives(activation):
    torch.manual_seed(0)
    given = torch.randn(6, 1, 2).double(), torch.randn(2, 2).double()
    f = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda a: a}[activation]

    def loop(inputs, weight):
        states = [torch.zeros(1, 2, dtype=torch.float64)]
        for u in inputs.unbind():
            states.append(f(u + states[-1] @ weight.mT))
        return torch.stack(states[1:])

    forward = torch.func.jacfwd
    for outer, inner in ((0, 1), (1, 0), (1, 1)):
        found, truth = (
            forward(forward(states, inner), outer)(*given)
            for states in (lambda u, w: recurrence(u, w, None, activation), loop)
        )
        torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_powers_of_the_weight_that_overflow_reach_no_state(dtype):
    layer = RNN(1, 1, nonlinearity="linear", bias=False, dtype=dtype)
    growth = torch.finfo(dtype).max ** 0.1  # beyond the type after ten steps
    with torch.no_grad():
        layer.weight_hh_l0.fill_(growth)
        layer.weight_ih_l0.fill_(1)
    assert layer.product(4096).form == "chunks"
    x = torch.zeros(4096, 1, 1, dtype=dtype)
    x[-2:] = 1  # padded on the left
    states = layer(x)[0].flatten()
    torch.testing.assert_close(states[-3:], torch.tensor([0, 1, growth + 1], dtype=dtype))
    layer(x)[0][0].sum().backward()
    assert layer.weight_ih_l0.grad == 0  # the first input is zero


def test_the_form_is_chosen_by_size_and_can_be_set():
    layer = RNN(3, 64, nonlinearity="linear", batch_first=True)
    assert [layer.product(168, n).form for n in (1, 64)] == ["chunks", "steps"]
    forced = RNN(3, 64, nonlinearity="linear", form="steps", batch_first=True)
    assert repr(forced.product(168)) == "RecurrenceProduct(T=168, linear): steps, as asked"
    assert "form='steps'" in repr(forced)
    forced.load_state_dict(layer.state_dict())
    x = torch.randn(1, 168, 3)
    torch.testing.assert_close(forced(x), layer(x))
    with pytest.raises(ValueError, match="'chunks' needs the activation 'linear', got 'tanh'"):
        RNN(3, 4, form="chunks", batch_first=True)


def test_autocast_leaves_double_precision_alone():
    native, layer = pair({}, dtype=torch.float64)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)[0]
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, native(x)[0], rtol=1e-12, atol=1e-12)


def test_repr_gives_the_arguments():
    layer = RNN(2, 3, nonlinearity="linear", bias=False, batch_first=True)
    assert repr(layer) == (
        "RNN(2, 3, num_layers=1, nonlinearity='linear', bias=False, batch_first=True)"
    )


class States(RNN):
    """The layer without the last state, as the contract wants one output."""

    def forward(self, x):
        return super().forward(x)[0]


class Loop(torch.nn.Module):
    """A linear recurrence written out, with the parameter names of torch.nn.RNN."""

    def __init__(self, source):
        super().__init__()
        for name, value in source.named_parameters():
            self.register_parameter(name, torch.nn.Parameter(value.detach().clone()))

    def forward(self, x):
        state, states = x.new_zeros(len(x), self.weight_hh_l0.shape[0]), []
        bias = getattr(self, "bias_ih_l0", 0) + getattr(self, "bias_hh_l0", 0)
        for step in x.unbind(1):
            state = step @ self.weight_ih_l0.mT + state @ self.weight_hh_l0.mT + bias
            states.append(state)
        return torch.stack(states, 1)


def linear_case(steps, input_size, hidden_size, **options):
    def build(dtype):
        torch.manual_seed(0)
        layer = States(
            input_size, hidden_size, nonlinearity="linear", batch_first=True, **options, dtype=dtype
        )
        return Case(layer, Loop(layer), (steps, input_size))

    return build


LINEAR = {
    "few steps": linear_case(4, 3, 2),
    "no bias": linear_case(3, 2, 4, bias=False),
    "one step": linear_case(1, 2, 3),
    "in chunks": linear_case(40, 1, 2),
}


class TestLinearContract(LayerContract):
    cases = LINEAR

    def matrix(self, layer, x):
        whole = RNN(
            layer.input_size,
            layer.hidden_size,
            nonlinearity="linear",
            bias=layer.bias,
            batch_first=True,
        )
        whole = whole.to(x.dtype)
        whole.load_state_dict(layer.state_dict())
        return to_matrix(whole, tuple(x.shape))[0]
