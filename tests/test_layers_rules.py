"""Modules without a matrix layer of their own, as matrices, against torch in float64."""

import inspect
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsemat as sm


def columns(function, *shape):
    """The matrix of a linear function, from unit vectors."""
    size = torch.Size(shape).numel()
    return function(torch.eye(size).view(size, *shape)).flatten(1).T


# a layer, its matrix, the name of the parameter in it, and the matrix from that parameter
READ = {
    "convolution": (
        lambda: sm.Conv1d(2, 3, 2, input_size=4),
        lambda layer: layer.matrix(),
        "weight",
        lambda w: columns(lambda x: F.conv1d(x, w), 2, 4),
    ),
    "transposed convolution": (
        lambda: sm.ConvTranspose1d(2, 3, 2, input_size=4),
        lambda layer: layer.matrix(),
        "weight",
        lambda w: columns(lambda x: F.conv_transpose1d(x, w), 2, 4),
    ),
    "sparse linear layer": (
        lambda: sm.SparseLinear(sm.dense_pattern(3, 4)),
        lambda layer: layer.matrix(),
        "weight",
        lambda w: w.view(3, 4),
    ),
    "recurrence": (
        lambda: sm.RNN(2, 3),
        lambda layer: layer.operators(4)[0],
        "weight_hh_l0",
        lambda w: torch.kron(torch.eye(4).roll(1, 0).tril(-1), w),
    ),
    "recurrence in both directions": (
        lambda: sm.BidirectionalRNN(2, 3, bidirectional=True),
        lambda layer: layer.operators(4, reverse=True)[1],
        "weight_ih_l0_reverse",
        lambda w: torch.kron(torch.eye(4), w),
    ),
    "cell": (
        lambda: sm.GRUCell(2, 3),
        lambda layer: layer.matrix(),
        "weight_hh",
        lambda w: w,
    ),
}


def other_data(layer, name):
    getattr(layer, name).data = torch.ones_like(getattr(layer, name))


def other_parameter(layer, name):
    setattr(layer, name, nn.Parameter(torch.ones_like(getattr(layer, name))))


def loaded(layer, name):
    state = {key: value.clone() for key, value in layer.state_dict().items() if key == name}
    state[name].mul_(2)
    layer.load_state_dict(state, strict=False, assign=True)


def normed(layer, name):
    with torch.no_grad():
        layer.get_submodule(f"parametrizations.{name}").original1.mul_(2)


CHANGES = {"data": other_data, "parameter": other_parameter, "loaded": loaded, "normed": normed}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("build, made, name, expected", READ.values(), ids=READ)
def test_the_matrix_of_a_layer_reads_its_parameter(build, made, name, expected, change):
    torch.manual_seed(0)
    layer = build()
    if change is normed:
        nn.utils.parametrizations.weight_norm(layer, name, dim=None)
    matrix = made(layer)
    change(layer, name)
    w = getattr(layer, name)
    actual, expected = matrix.to_dense(), expected(w)
    if isinstance(layer, sm.GRUCell):  # the state's block stands below the input's
        actual = actual[len(w) :, layer.input_size :]
    torch.testing.assert_close(actual, expected)
    actual.sum().backward()
    leaf = next(p for key, p in layer.named_parameters() if name in key and p.grad is not None)
    assert leaf.grad.any()


MODES = {1: ("linear",), 2: ("bilinear", "bicubic"), 3: ("trilinear",)}


def image(rng, dims, least=1, most=6):
    return (rng.randint(1, 3), *(rng.randint(least, most) for _ in range(dims)))


def padding(rng):
    dims = rng.randint(1, 3)
    name = rng.choice(["ConstantPad", "ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad"])
    pads = tuple(rng.randint(-1, 2) for _ in range(2 * dims))
    more = (rng.choice([0, 1.5]),) if name == "ConstantPad" else ()
    return getattr(nn, f"{name}{dims}d")(pads, *more), image(rng, dims, 4)


def resampling(rng):
    dims = rng.randint(1, 3)
    mode = rng.choice(["nearest", "nearest-exact", "area", *MODES[dims]])
    options = {"align_corners": rng.choice([None, True, False])} if mode in MODES[dims] else {}
    if rng.random() < 0.5:
        options["size"] = tuple(rng.randint(1, 9) for _ in range(dims))
    else:
        options["scale_factor"] = tuple(rng.choice([0.5, 0.7, 1.3, 2, 3]) for _ in range(dims))
        options["recompute_scale_factor"] = rng.choice([None, True])
    return nn.Upsample(mode=mode, **options), image(rng, dims, 2)


def reshaping(rng):
    r, c, h, w = (rng.randint(1, 3) for _ in range(4))
    taps = {"kernel_size": (r, rng.randint(1, 3)), "dilation": rng.randint(1, 2)}
    taps |= {"padding": rng.randint(0, 2), "stride": rng.randint(1, 2)}
    size = 5 + h, 5 + w
    patches = nn.Unfold(**taps)(torch.empty(1, c, *size)).shape[1:]
    return rng.choice(
        [
            (nn.PixelShuffle(r), (c * r * r, h, w)),
            (nn.PixelUnshuffle(r), (c, h * r, w * r)),
            (nn.ChannelShuffle(r), (c * r, h, w)),
            (nn.Unflatten(1, (c, r)), (c * r, h)),
            (nn.Unfold(**taps), (c, *size)),
            (nn.Fold(size, **taps), tuple(patches)),
        ]
    )


def normalisation(rng):
    dims = rng.randint(1, 3)
    shape = image(rng, dims, 2)
    kind = getattr(nn, f"InstanceNorm{dims}d")
    norm = kind(shape[0], affine=rng.random() < 0.5, track_running_stats=True).double()
    norm(torch.randn(4, *shape, dtype=torch.float64))
    return norm.eval(), shape


@pytest.mark.parametrize("make", [padding, resampling, reshaping, normalisation])
def test_equals_torch(make):
    rng, checked = random.Random(0), 0
    torch.manual_seed(0)
    while checked < 120:
        module, shape = make(rng)
        x = torch.randn(1, *shape, dtype=torch.float64)
        try:
            y = module(x)
        except (RuntimeError, ValueError):  # what torch refuses, so do we
            with pytest.raises(ValueError, match=r"must|only"):
                sm.to_matrix(module, shape, dtype=torch.float64)
            continue
        W, b = sm.to_matrix(module, shape, dtype=torch.float64)
        got = W @ x.reshape(-1) + b
        torch.testing.assert_close(got, y.reshape(-1), atol=1e-12, rtol=1e-12, msg=f"{module}")
        checked += 1


def test_average_pool_takes_a_type():
    module, x = nn.AvgPool2d(2), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    W, b = sm.to_matrix(module, (2, 4, 4), dtype=torch.float64)
    torch.testing.assert_close(W @ x.reshape(-1) + b, module(x).reshape(-1))


def test_instance_norm_follows_its_parameters():
    module, x = nn.InstanceNorm2d(2, affine=True, track_running_stats=True), torch.randn(1, 2, 3, 3)
    W, b = sm.to_matrix(module.eval(), (2, 3, 3))
    with torch.no_grad():
        module.weight.fill_(3)
        module.bias.fill_(-1)
    torch.testing.assert_close(W @ x.reshape(-1) + b, module(x).reshape(-1))


def test_frozen_batch_norm_equals_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    module, x = ops.FrozenBatchNorm2d(2).double(), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    for buffer in module.buffers():
        buffer.uniform_(0.5, 2)
    W, b = sm.to_matrix(module, (2, 3, 3))
    torch.testing.assert_close(W @ x.reshape(-1) + b, module(x).reshape(-1))


@pytest.mark.parametrize("kind", ["Embedding", "sum", "mean"])
def test_embedding_of_one_hot_tokens(kind):
    tokens = torch.tensor([[3, 0, 3, 1]])
    x = nn.functional.one_hot(tokens, 5).double()
    bag = kind != "Embedding"
    module = nn.EmbeddingBag(5, 3, mode=kind) if bag else nn.Embedding(5, 3)
    W, b = sm.to_matrix(module.double(), (4, 5))
    torch.testing.assert_close(W @ x.reshape(-1) + b, module(tokens).reshape(-1))


@pytest.mark.parametrize("options", [{"padding_idx": 0}, {"max_norm": 1.0}])
def test_embedding_refuses_what_is_no_matrix(options):
    with pytest.raises(ValueError, match="must be None"):
        sm.to_matrix(nn.Embedding(5, 3, **options), (4, 5))


def test_bilinear_names_the_matrix_at_a_fixed_side():
    with pytest.raises(TypeError, match="one side fixed"):
        sm.to_matrix(nn.Bilinear(2, 3, 4), (2,))


def test_adaptive_average_layer_equals_torch():
    rng, torch_64 = random.Random(0), torch.float64
    for _ in range(100):
        dims = rng.randint(1, 3)
        shape = image(rng, dims)
        output = tuple(rng.choice([1, 2, 3, *([None] if dims > 1 else [])]) for _ in range(dims))
        module = getattr(nn, f"AdaptiveAvgPool{dims}d")(output)
        layer = sm.from_module(module, shape)
        x = torch.randn(2, *shape, dtype=torch_64)
        torch.testing.assert_close(layer(x), module(x))
        W, b = sm.to_matrix(layer, shape, dtype=torch_64)
        torch.testing.assert_close(W @ x[0].reshape(-1) + b, module(x[:1]).reshape(-1))


ONE_SHAPE = {
    "Conv1d": lambda: sm.Conv1d(4, 2, 2, input_size=3),
    "MaxPool1d": lambda: sm.MaxPool1d(2, input_size=4),
    "SelfAttention": lambda: sm.SelfAttention(4, 2),
    "RNN": lambda: sm.RNN(4, 2),
    "LSTM": lambda: sm.LSTM(4, 2),
    "GRUCell": lambda: sm.GRUCell(4, 2),
}


@pytest.mark.parametrize("name", [name for name in sm.__all__ if hasattr(nn, name)])
def test_a_layer_is_called_by_the_names_of_torch(name):
    ours, theirs = (inspect.signature(getattr(kinds, name).forward) for kinds in (sm, nn))
    assert list(ours.parameters) == list(theirs.parameters)


def test_a_network_that_names_its_arguments_is_converted():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 3, 3), nn.GroupNorm(1, 3)
            self.pool, self.rnn = nn.AvgPool1d(2), nn.RNN(3, 4, batch_first=True)
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            x = self.pool(input=self.norm(input=self.conv(input=x))).mT
            x, _ = self.rnn(input=x, hx=torch.ones(1, len(x), 4))
            return self.linear(input=x)

    torch.manual_seed(0)
    network, x = Named(), torch.randn(5, 2, 8)
    torch.testing.assert_close(sm.from_module(network, (2, 8))(x), network(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("make", ONE_SHAPE.values(), ids=ONE_SHAPE)
def test_a_nested_tensor_is_refused(make, layout):
    x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=layout)
    with pytest.raises(TypeError, match=r"must be .* of one shape.*got a nested one of 2"):
        make()(x)
