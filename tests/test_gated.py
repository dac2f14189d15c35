"""LSTM, GRU and recurrences in both directions, against torch's."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from contract import assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsemat as sm
from sparsemat.patterns.gated import gru_pattern, lstm_pattern

KINDS = {
    "LSTM": (nn.LSTM, sm.LSTM, {}),
    "LSTM, projected": (nn.LSTM, sm.LSTM, {"proj_size": 2}),
    "GRU": (nn.GRU, sm.GRU, {}),
    "RNN": (nn.RNN, sm.BidirectionalRNN, {"nonlinearity": "tanh"}),
    "RNN, relu": (nn.RNN, sm.BidirectionalRNN, {"nonlinearity": "relu"}),
}
each_kind = pytest.mark.parametrize("native, kind, options", KINDS.values(), ids=KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")


def flat(result):
    states, last = result
    return [states, *(last if isinstance(last, tuple) else (last,))]


def check(module, layer, *args):
    """Results and all gradients are those of torch."""
    theirs, mine = flat(module(*args)), flat(layer(*args))
    for actual, expected in zip(mine, theirs, strict=True):
        assert_near(actual, expected)
    wanted = [
        torch.autograd.grad(sum((y * y).sum() for y in made), list(net.parameters()))
        for net, made in ((module, theirs), (layer, mine))
    ]
    for expected, actual in zip(*wanted, strict=True):
        assert_near(actual, expected)


@each_kind
@settings(max_examples=15)
@given(data=st.data())
def test_results_and_gradients_are_those_of_torch(native, kind, options, data):
    drawn = {name: data.draw(st.booleans(), name) for name in ("bias", "batch_first")}
    both, layers = data.draw(st.booleans(), "both directions"), data.draw(st.integers(1, 3))
    steps, n = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    if native is nn.RNN:
        both = True
    module = native(3, 4, layers, bidirectional=both, dtype=torch.float64, **drawn, **options)
    layer = sm.from_module(module, (steps, 3))
    assert type(layer) is kind
    assert list(layer.state_dict()) == list(module.state_dict())
    shape = (n, steps, 3) if drawn["batch_first"] else (steps, n, 3)
    x = torch.randn(shape, dtype=torch.float64)
    check(module, layer, x)
    rows = layers * (1 + both)
    h = torch.randn(rows, n, options.get("proj_size", 4), dtype=torch.float64)
    c = torch.randn(rows, n, 4, dtype=torch.float64)
    check(module, layer, x, (h, c) if native is nn.LSTM else h)
    one = x[0] if drawn["batch_first"] else x[:, 0]
    check(module, layer, one)
    check(module, layer, one, (h[:, 0], c[:, 0]) if native is nn.LSTM else h[:, 0])


@each_kind
def test_dropout_acts_between_layers_in_training_only(native, kind, options):
    module = native(3, 4, 3, dropout=0.5, bidirectional=True, dtype=torch.float64, **options)
    layer, x = sm.from_module(module, (6, 3)), torch.randn(6, 2, 3, dtype=torch.float64)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert_near(layer(x)[0], module.eval()(x)[0])


@pytest.mark.parametrize("start", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: sm.LSTM(3, 4, 2, bidirectional=True, **o),
        lambda **o: sm.LSTM(3, 4, 2, proj_size=2, **o),
        lambda **o: sm.GRU(3, 4, 2, bidirectional=True, **o),
    ],
    ids=["LSTM", "LSTM, projected", "GRU"],
)
def test_the_system_is_triangular_and_its_solution_the_states(make, bias, start):
    torch.manual_seed(0)
    layer = make(bias=bias, dtype=torch.float64)
    native = {"LSTM": nn.LSTM, "GRU": nn.GRU}[type(layer).__name__]
    options = {"proj_size": layer.proj_size} if layer.proj_size else {}
    x = torch.randn(5, 3, dtype=torch.float64)
    inputs, hx = x, None
    if start:
        rows = 2 * (1 + layer.bidirectional)
        widths = [layer.proj_size or 4] + [4] * isinstance(layer, sm.LSTM)
        hx = [torch.randn(rows, width, dtype=torch.float64) for width in widths]
        hx = tuple(hx) if isinstance(layer, sm.LSTM) else hx[0]
    for depth in range(2):
        outputs = []
        for reverse in (False, True)[: 1 + layer.bidirectional]:
            one = native(inputs.shape[1], 4, bias=bias, dtype=torch.float64, **options)
            side = "_reverse" if reverse else ""
            for name, parameter in one.named_parameters():
                parameter.data = getattr(layer, name.replace("_l0", f"_l{depth}{side}"))
            given = inputs.flip(0) if reverse else inputs
            system = layer.system(given, hx, layer=depth, reverse=reverse)
            row, col = system.M.pattern.row, system.M.pattern.col
            assert (row > col).all()
            z = system.solve(given)
            states = z[torch.from_numpy(system.parts["h"])].view(5, -1)
            before = None
            if start:
                at = depth * (1 + layer.bidirectional) + reverse
                parts = [part[at][None] for part in (hx if isinstance(hx, tuple) else (hx,))]
                before = tuple(parts) if isinstance(hx, tuple) else parts[0]
            expected = one(given, before)[0].detach()
            assert_near(states, expected)
            residual = z - (system.M @ z + system.E @ given.reshape(-1) + system.c).detach()
            assert residual.abs().max() < 1e-12
            outputs.append(expected.flip(0) if reverse else expected)
        inputs = torch.cat(outputs, -1)


def test_the_patterns_are_fixed_and_count_their_parameters():
    for make, gates in ((lstm_pattern, 4), (gru_pattern, 3)):
        pattern = make(6, 3, 2)
        assert pattern.blocks["weight_hh"] == gates * 2 * 2
        assert sum(pattern.blocks.values()) == pattern.m.num_parameters
        assert pattern.m.is_lower_triangular and not pattern.m.has_duplicates
        every = np.concatenate(list(pattern.parts.values()))
        assert np.array_equal(np.sort(every), np.arange(pattern.m.shape[0]))
    assert lstm_pattern(2, 3, 4, 2).blocks["weight_hr"] == 8


def saved(layer, path):
    torch.save(layer, path / "layer.pt")
    return torch.load(path / "layer.pt", weights_only=False)


@pytest.mark.parametrize(
    "copied", [saved, lambda layer, path: deepcopy(layer)], ids=["save", "copy"]
)
@each_kind
def test_a_layer_that_is_saved_or_copied_is_itself(native, kind, options, copied, tmp_path):
    module = native(3, 4, 2, bidirectional=True, dtype=torch.float64, **options)
    layer, x = sm.from_module(module, (5, 3)), torch.randn(5, 2, 3, dtype=torch.float64)
    y = layer(x)
    other = copied(layer, tmp_path)
    check(module, other, x)
    for net in (layer, other):
        own = list(map(id, net.parameters()))
        assert list(map(id, net._flat_weights)) == own
        assert [id(ref()) for ref in net._flat_weight_refs] == own
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(layer(x)[0], y[0]) and not other(x)[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [sm.LSTM, sm.GRU])
def test_a_system_is_solved_in_its_type(kind, dtype):
    torch.manual_seed(0)
    layer, x = kind(3, 4, dtype=dtype), torch.randn(5, 3).to(dtype)
    system = layer.system(x)
    z = system.solve(x)
    assert z.dtype == dtype
    states = z[torch.from_numpy(system.parts["h"])].view(5, -1)
    expected = deepcopy(layer).double()(x.double())[0]
    atol = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(states.double(), expected.detach(), rtol=0, atol=atol)


@each_kind
@pytest.mark.parametrize("batch_first", [False, True], ids=["steps first", "batch first"])
def test_an_empty_batch_gives_an_empty_batch(native, kind, options, batch_first):
    options = options | {"batch_first": batch_first, "bidirectional": True}
    x = torch.randn((0, 5, 3) if batch_first else (5, 0, 3))
    for actual, expected in zip(
        flat(kind(3, 4, **options)(x)), flat(native(3, 4, **options)(x)), strict=True
    ):
        assert actual.shape == expected.shape


def test_the_gate_of_zero_is_one():
    layer = sm.LSTM(2, 3, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    system = layer.system(torch.ones(4, 2, dtype=torch.float64))
    assert not system.solve(torch.ones(4, 2, dtype=torch.float64)).any()
    assert torch.isfinite(system.M.theta).all()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Embedding(11, 3), nn.LSTMCell(8, 4)
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, words):
        x = self.gru(self.lstm(self.embed(words))[0])[0]
        return self.cell(x[:, -1])[0]


def test_a_network_of_gated_layers_is_converted():
    torch.manual_seed(0)
    module, words = Tagger().double(), torch.randint(11, (2, 7))
    network = sm.from_module(module, words)
    assert isinstance(network.lstm, sm.LSTM) and isinstance(network.gru, sm.GRU)
    assert_near(network(words), module(words))
    module.load_state_dict(network.state_dict())


BAD = {
    "end in 3 features": lambda layer: layer(torch.ones(2, 5, 4)),
    "at least one step .*, got .0, 2, 3.": lambda layer: layer(torch.ones(0, 2, 3)),
    "hx must have shapes": lambda layer: layer(torch.ones(2, 5, 3), torch.ones(1, 2, 5)),
    "parameters' type torch.float32": lambda layer: layer(torch.ones(2, 5, 3).double()),
    "reverse needs a bidirectional": lambda layer: layer.system(torch.ones(5, 3), reverse=True),
    "layer must lie in 0..0, got 1": lambda layer: layer.system(torch.ones(5, 3), layer=1),
    "one sequence .T, 3., got .2, 5, 3.": lambda layer: layer.system(torch.ones(2, 5, 3)),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("kind", [sm.LSTM, sm.GRU])
def test_what_does_not_fit_is_named(kind, message):
    with pytest.raises(ValueError, match=message):
        BAD[message](kind(3, 4))


def test_the_states_of_both_directions_solve_their_equations():
    torch.manual_seed(0)
    layer = sm.BidirectionalRNN(3, 4, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64)
    first = nn.RNN(3, 4, bidirectional=True, dtype=torch.float64)
    first.load_state_dict({k: v for k, v in layer.state_dict().items() if "l0" in k})
    for depth, (entering, states) in enumerate(((x, first(x)[0]), (first(x)[0], layer(x)[0]))):
        for reverse in (False, True):
            n, b = layer.operators(6, depth, reverse=reverse)
            order = [5 - t if reverse else t for t in range(6)]
            h = states[order][:, 4 * reverse : 4 * reverse + 4].reshape(-1)
            name = f"l{depth}" + ("_reverse" if reverse else "")
            bias = getattr(layer, f"bias_ih_{name}") + getattr(layer, f"bias_hh_{name}")
            right = (n @ h + b @ entering[order].reshape(-1) + bias.repeat(6)).tanh()
            assert_near(right.detach(), h.detach())
    with pytest.raises(ValueError, match="reverse needs a bidirectional"):
        sm.BidirectionalRNN(3, 4).operators(6, reverse=True)


STATES = {
    "LSTM, its state": (nn.LSTM, sm.LSTM, lambda right, wrong: (wrong, right)),
    "LSTM, its cell": (nn.LSTM, sm.LSTM, lambda right, wrong: (right, wrong)),
    "GRU": (nn.GRU, sm.GRU, lambda right, wrong: wrong),
    "RNN": (nn.RNN, sm.RNN, lambda right, wrong: wrong),
    "RNN of both directions": (nn.RNN, sm.BidirectionalRNN, lambda right, wrong: wrong),
}
each_state = pytest.mark.parametrize("native, kind, hx", STATES.values(), ids=STATES)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
@each_state
def test_a_state_of_another_type_is_refused_as_by_torch(native, kind, hx, dtype, autocast):
    x, right = torch.randn(1, 2, 3), torch.ones(1, 2, 4)
    given = hx(right, right.to(dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with pytest.raises(RuntimeError, match=r"dtype|data type"):
            native(3, 4)(x, given)
        with pytest.raises(ValueError, match=f"parameters' type torch.float32, got {dtype}"):
            kind(3, 4)(x, given)


@each_state
def test_autocast_takes_a_state_it_casts(native, kind, hx):
    module = native(3, 4)
    layer, x = kind(3, 4), torch.randn(5, 2, 3)
    layer.load_state_dict(module.state_dict())
    right = torch.randn(1, 2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, hx(right.float(), right))[0]
    expected = module(x, hx(right.float(), right.float()))[0]
    assert (y - expected).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps


@each_state
def test_a_state_that_is_no_tensor_is_refused(native, kind, hx):
    right = torch.ones(1, 2, 4)
    with pytest.raises(TypeError, match=r"hx must be a torch\.Tensor, got float"):
        kind(3, 4)(torch.ones(1, 2, 3), hx(right, 0.5))


def test_a_packed_sequence_is_refused():
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(4, 2, 3), [4, 2])
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got PackedSequence"):
        sm.GRU(3, 4)(packed)
