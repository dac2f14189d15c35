"""Stock modules to matrices and to matrix layers, against the modules themselves."""

import pytest
import torch
from contract import TOLERANCE, assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_contract import transposed_convolutions
from torch import nn
from torch.nn.utils import prune

import sparsemat as sm

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def batch_norm(kind, features, **options):
    """A batch normalisation in eval mode that has seen something."""
    module = kind(features, **options).eval()
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2)
    return module


AFFINE = {
    "Linear": (lambda: nn.Linear(3, 4), (3,)),
    "Linear, leading axes": (lambda: nn.Linear(3, 2, bias=False), (2, 4, 3)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3, 2, 1), (2, 7)),
    "Conv2d same": (lambda: nn.Conv2d(2, 2, (2, 3), padding="same"), (2, 4, 5)),
    "Conv2d valid": (lambda: nn.Conv2d(2, 2, 2, padding="valid", dilation=2), (2, 4, 5)),
    "Conv2d groups": (lambda: nn.Conv2d(4, 2, 3, groups=2, padding=(1, 0)), (4, 3, 5)),
    **{
        f"Conv2d {mode}": (
            lambda mode=mode: nn.Conv2d(1, 2, 3, 2, 2, padding_mode=mode),
            (1, 4, 5),
        )
        for mode in ("circular", "reflect", "replicate")
    },
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, (1, 2, 1), bias=False), (1, 3, 4, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 3, 2, 1, 1), (2, 4)),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 2, (3, 2), (2, 3), 1, (1, 2), groups=2, dilation=(1, 2)),
        (4, 3, 4),
    ),
    "ConvTranspose2d, output_padding of a stride": (
        lambda: nn.ConvTranspose2d(1, 2, 2, 1, 0, 1, dilation=2, bias=False),
        (1, 3, 3),
    ),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(1, 2, 2), (1, 2, 3, 2)),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, 1), (2, 7)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 6, 5)),
    "AvgPool2d, padding not counted": (
        lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False),
        (1, 4, 5),
    ),
    "AvgPool3d, divisor": (lambda: nn.AvgPool3d(2, divisor_override=3), (2, 2, 4, 3)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), (2, 7)),
    "AdaptiveAvgPool2d, None": (lambda: nn.AdaptiveAvgPool2d((None, 3)), (2, 4, 5)),
    "AdaptiveAvgPool2d, larger": (lambda: nn.AdaptiveAvgPool2d(5), (1, 3, 4)),
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d((2, 1, 3)), (1, 3, 4, 5)),
    "BatchNorm1d": (lambda: batch_norm(nn.BatchNorm1d, 3), (3,)),
    "BatchNorm1d, series": (lambda: batch_norm(nn.BatchNorm1d, 3), (3, 4)),
    "BatchNorm2d, not affine": (lambda: batch_norm(nn.BatchNorm2d, 2, affine=False), (2, 3, 2)),
    "BatchNorm3d": (lambda: batch_norm(nn.BatchNorm3d, 2), (2, 1, 2, 3)),
    "Flatten": (lambda: nn.Flatten(), (2, 3, 2)),
    "Identity": (lambda: nn.Identity(), (2, 3)),
    "Dropout": (lambda: nn.Dropout().eval(), (4,)),
    "empty Sequential": (lambda: nn.Sequential(), (2, 2)),
    "Sequential": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1),
            batch_norm(nn.BatchNorm2d, 2),
            nn.Dropout(),
            nn.AvgPool2d(2),
            nn.Sequential(nn.Flatten(2), nn.Flatten(), nn.Linear(12, 3)),
        ).eval(),
        (1, 4, 6),
    ),
    "sparsemat Conv2d": (lambda: sm.Conv2d(1, 2, 3, input_size=4, padding=1), (1, 4, 4)),
    "sparsemat Conv2d untied": (lambda: sm.Conv2d(1, 2, 3, input_size=4, tied=False), (1, 4, 4)),
    "sparsemat AvgPool2d": (lambda: sm.AvgPool2d(2, input_size=4), (3, 4, 4)),
    "sparsemat linear RNN": (lambda: sm.RNN(2, 3, nonlinearity="linear", batch_first=True), (4, 2)),
    "sparsemat RNN of two layers": (
        lambda: sm.RNN(2, 3, 2, nonlinearity="linear", batch_first=True),
        (4, 2),
    ),
    "sparsemat in Sequential": (
        lambda: nn.Sequential(
            sm.Conv2d(1, 2, 3, input_size=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        (1, 4, 4),
    ),
}
each_affine = pytest.mark.parametrize("module, shape", AFFINE.values(), ids=AFFINE)


@pytest.fixture(autouse=True)
def in_double_precision():
    """Modules without parameters have the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def output(module, x):
    y = module(x)
    return y[0] if isinstance(y, tuple) else y


def check_matrix(module, shape):
    """The matrix and the constant are the Jacobian and the value at zero of the module."""
    w, b = sm.to_matrix(module, shape)
    zero = torch.zeros(1, *shape)
    jacobian = torch.autograd.functional.jacobian(lambda x: output(module, x), zero)
    constant = output(module, zero).reshape(-1)
    assert_near(w.to_dense(), jacobian.reshape(-1, zero.numel()))
    assert_near(b, constant)
    x = torch.randn(shape)
    assert_near(w @ x.reshape(-1) + b, output(module, x[None])[0].reshape(-1))


@each_affine
def test_the_matrix_does_what_the_module_does(module, shape):
    check_matrix(module(), shape)


@each_affine
def test_gradients_reach_the_module(module, shape):
    module, x = module(), torch.randn(shape)
    parameters = list(module.parameters())
    expected = output(module, x[None])[0].reshape(-1)
    weights = torch.randn_like(expected)
    w, b = sm.to_matrix(module, shape)
    if not parameters:
        assert not w.theta.requires_grad and not b.requires_grad
        return
    theirs = torch.autograd.grad(expected @ weights, parameters)
    mine = torch.autograd.grad((w @ x.reshape(-1) + b) @ weights, parameters)
    for actual, gradient in zip(mine, theirs, strict=True):
        assert_near(actual, gradient)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_matrix_has_the_type_of_the_parameters(dtype):
    for first in (nn.Conv2d(1, 1, 2), nn.Identity()):
        module = nn.Sequential(first, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 1)).to(dtype)
        w, b = sm.to_matrix(module, (1, 5, 5))
        assert w.dtype == b.dtype == dtype


@settings(max_examples=60)
@given(transposed_convolutions())
def test_every_transposed_convolution_agrees(layer):
    arguments, options, shape = layer
    kinds = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
    check_matrix(kinds[len(shape) - 2](*arguments, **options), shape)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
def test_every_adaptive_average_agrees(sizes):
    kind = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[len(sizes) - 1]
    module = kind(tuple(m for _, m in sizes) if len(sizes) > 1 else sizes[0][1])
    shape = (2, *(n for n, _ in sizes))
    w, _ = sm.to_matrix(module, shape)
    x = torch.randn(shape)
    assert_near(w @ x.reshape(-1), module(x[None])[0].reshape(-1))


class Scaled(nn.Conv2d):
    """A convolution that is more than its class says."""

    def forward(self, x):
        return 2 * super().forward(x)


NO_MATRIX = {
    "ReLU is not a matrix; it acts entry by entry": (nn.ReLU, (3,)),
    "MaxPool2d is not a matrix; .*MaxPool2d.*matrix.x.": (lambda: nn.MaxPool2d(2), (1, 4, 4)),
    "AdaptiveMaxPool1d is not a matrix; .*AdaptiveMaxPool1d.*matrix.x.": (
        lambda: nn.AdaptiveMaxPool1d(2),
        (1, 4),
    ),
    "MultiheadAttention is not a matrix; .*from_module": (
        lambda: nn.MultiheadAttention(4, 2),
        (3, 4),
    ),
    "SelfAttention is not a matrix; .*matrix.x.": (
        lambda: sm.SelfAttention(4, 2, batch_first=True),
        (3, 4),
    ),
    "LSTM is not a matrix; .*system.x.": (lambda: nn.LSTM(2, 2), (3, 2)),
    "RNN.*tanh acts inside the recurrence": (lambda: sm.RNN(2, 2, batch_first=True), (3, 2)),
    "LayerNorm is not a matrix; .*BatchNorm|eval mode": (lambda: nn.LayerNorm(2), (2,)),
    "Softmax is not a matrix": (lambda: nn.Softmax(-1), (2,)),
    "PairwiseDistance is not a matrix; .*Linear, .*Sequential": (nn.PairwiseDistance, (1,)),
    "Scaled computes something else than Conv2d: its forward was replaced": (
        lambda: Scaled(1, 1, 2),
        (1, 3, 3),
    ),
    "GELU is not a matrix": (lambda: nn.Sequential(nn.Linear(2, 2), nn.GELU()), (2,)),
}


@pytest.mark.parametrize("message", NO_MATRIX)
def test_what_is_no_matrix_is_named(message):
    module, shape = NO_MATRIX[message]
    with pytest.raises(TypeError, match=message):
        sm.to_matrix(module(), shape)


BAD_SHAPES = {
    "in_features=3, got input_shape=.2, 4": (lambda: nn.Linear(3, 2), (2, 4)),
    "Conv2d must be 3 sizes, the first of 2 channels, got .3, 4, 4.": (
        lambda: nn.Conv2d(2, 1, 2),
        (3, 4, 4),
    ),
    "Conv2d must be 3 sizes, .* got .2, 4.": (lambda: nn.Conv2d(2, 1, 2), (2, 4)),
    "AvgPool1d must be 2 sizes, .* got .4,": (lambda: nn.AvgPool1d(2), (4,)),
    "extent 3 and size 2": (lambda: nn.Conv1d(1, 1, 3), (1, 2)),
    "the output must not be empty, got size .-1,": (
        lambda: nn.ConvTranspose1d(1, 1, 1, padding=1),
        (1, 1),
    ),
    "num_features=2, got input_shape=.3,": (lambda: batch_norm(nn.BatchNorm1d, 2), (3,)),
    "after .eval.., got training=True": (lambda: nn.BatchNorm2d(2), (2, 1, 1)),
    "track_running_stats=False": (
        lambda: nn.BatchNorm1d(2, track_running_stats=False).eval(),
        (2,),
    ),
    "Dropout is a matrix only after .eval": (nn.Dropout, (2,)),
    "start_dim must be at least 1, got start_dim=0": (lambda: nn.Flatten(0), (2, 2)),
    "output_size must be integers of at least 1, got 0": (
        lambda: nn.AdaptiveAvgPool2d(0),
        (1, 2, 2),
    ),
    "input_shape must be integers of at least 1, got 0": (nn.Identity, (0,)),
    "input shape is .1, 4, 4., got input_shape=.1, 4, 5": (
        lambda: sm.Conv2d(1, 1, 2, input_size=4),
        (1, 4, 5),
    ),
    "input_size is .4, 4., got input_shape=.1, 4, 5": (
        lambda: sm.AvgPool2d(2, input_size=4),
        (1, 4, 5),
    ),
    "must be .T, d. with d=2, got input_shape=.3, 4": (
        lambda: sm.RNN(2, 2, nonlinearity="linear", batch_first=False),
        (3, 4),
    ),
}


@pytest.mark.parametrize("message", BAD_SHAPES)
def test_what_does_not_fit_is_named(message):
    module, shape = BAD_SHAPES[message]
    with pytest.raises(ValueError, match=message):
        sm.to_matrix(module(), shape)


LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 6), sm.Conv1d),
    "Conv2d": (
        lambda: nn.Conv2d(2, 4, 3, 2, 1, groups=2, padding_mode="circular"),
        (2, 5, 6),
        sm.Conv2d,
    ),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 3, 3, 2), sm.Conv3d),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 6), sm.AvgPool1d),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, True, False, 5), (2, 6, 5), sm.AvgPool2d),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), (2, 2, 4, 4), sm.AvgPool3d),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True), (2, 6, 6), sm.MaxPool2d),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2, 1), (2, 7), sm.MaxPool1d),
    "MaxPool3d": (lambda: nn.MaxPool3d((1, 2, 2)), (2, 3, 4, 4), sm.MaxPool3d),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(3), (2, 7), sm.AdaptiveMaxPool1d),
    "AdaptiveMaxPool2d": (
        lambda: nn.AdaptiveMaxPool2d((2, None)),
        (2, 5, 4),
        sm.AdaptiveMaxPool2d,
    ),
    "AdaptiveMaxPool3d": (lambda: nn.AdaptiveMaxPool3d(2), (1, 3, 4, 5), sm.AdaptiveMaxPool3d),
    "Linear": (lambda: nn.Linear(3, 2), (3,), nn.Linear),
    "ReLU": (nn.ReLU, (3,), nn.ReLU),
    "Flatten": (nn.Flatten, (2, 3), nn.Flatten),
    "RNN": (lambda: nn.RNN(2, 3, 2, batch_first=True), (4, 2), sm.RNN),
    "RNN relu": (
        lambda: nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=True),
        (4, 2),
        sm.RNN,
    ),
    "Sequential": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 2, 2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2, 2),
        ),
        (1, 6, 6),
        nn.Sequential,
    ),
}
each_layer = pytest.mark.parametrize("native, shape, kind", LAYERS.values(), ids=LAYERS)


@each_layer
def test_the_layer_is_the_module(native, shape, kind):
    module = native()
    state = torch.get_rng_state()
    layer = sm.from_module(module, shape)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(layer) is kind and layer is not module
    x = torch.randn(3, *shape)
    assert_near(output(layer, x), output(module, x))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)  # the parameters are the layer's own
    module.load_state_dict(layer.state_dict())
    assert_near(output(layer.eval(), x), output(module.eval(), x))


def test_names_in_a_sequence_and_its_mode_are_kept():
    named = nn.Sequential()
    named.add_module("first", nn.Conv2d(1, 1, 2))
    named.add_module("then", nn.Dropout())
    named.first.weight.requires_grad_(False)
    layer = sm.from_module(named.eval(), (1, 4, 4))
    assert list(layer.state_dict()) == list(named.state_dict())
    assert not layer.training and not layer.then.training
    assert not layer.first.weight.requires_grad and layer.first.bias.requires_grad
    assert not sm.from_module(named, (1, 4, 4), tied=False).first.weight.requires_grad


def test_making_a_layer_leaves_running_statistics_alone():
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    layer = sm.from_module(module, (2,))
    assert layer[0].num_batches_tracked == module[0].num_batches_tracked == 0


def test_a_part_that_stands_twice_is_made_once_and_kept_twice():
    part = nn.Tanh()
    module = nn.Sequential(nn.Linear(4, 4), part, nn.Linear(4, 4), part)
    layer = sm.from_module(module, (4,))
    x = torch.randn(3, 4)
    assert len(layer) == 4 and layer[1] is layer[3]
    assert_near(layer(x), module(x))
    conv = nn.Conv2d(1, 1, 3, padding=1)
    layer = sm.from_module(nn.Sequential(conv, nn.MaxPool2d(2), conv, conv), (1, 8, 8))
    assert layer[0] is layer[2] is layer[3]
    assert list(layer[0].by_size) == [(8, 8), (4, 4)]


def test_parts_keep_their_own_mode():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    module[1].eval()
    layer = sm.from_module(module, (1, 6, 6))
    assert layer.training and layer[0].training and not layer[1].training


def test_a_part_may_have_buffers_only():
    module = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)).double().eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    assert_near(sm.from_module(module, (4,))(x), module(x))


def test_a_layer_of_this_library_is_copied_or_untied():
    module = sm.Conv2d(1, 2, 3, input_size=6)
    assert sm.from_module(module, (1, 6, 6)).tied
    untied, x = sm.from_module(module, (1, 6, 6), tied=False), torch.randn(2, 1, 6, 6)
    assert not untied.tied
    assert_near(untied(x), module(x))
    with pytest.raises(ValueError, match=r"shape is \(1, 6, 6\), got input_shape=\(1, 9, 9\)"):
        sm.from_module(module, (1, 9, 9))
    with pytest.raises(ValueError, match=r"shape is \(1, 6, 6\), got input_shape=\(5, 6, 6\)"):
        sm.from_module(module, (5, 6, 6))


def test_a_subclass_of_a_sequence_has_a_matrix():
    class Block(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(3, 4), nn.Linear(4, 2))

    W, b = sm.to_matrix(Block(), (3,))
    assert W.shape == (2, 3) and b.shape == (2,)


@pytest.mark.parametrize("change", [sm.to_matrix, sm.from_module], ids=lambda f: f.__name__)
def test_a_weight_that_a_hook_computes_is_refused(change):
    module = prune.l1_unstructured(nn.Conv2d(1, 2, 3), "weight", 0.5)
    with pytest.raises(ValueError, match=r"weight of Conv2d must be a parameter.*prune\.remove"):
        change(module, (1, 6, 6))
    change(prune.remove(module, "weight"), (1, 6, 6))


@pytest.mark.parametrize(
    ("module", "name"),
    [(nn.Linear(4, 2), "weight"), (nn.RNN(4, 3, batch_first=True), "weight_hh_l0")],
    ids=["Linear", "RNN"],
)
def test_a_pruned_weight_of_any_layer_is_refused(module, name):
    module = prune.l1_unstructured(module, name, 0.5)
    with pytest.raises(ValueError, match=f"{name} of .* must be a parameter"):
        sm.from_module(module, (5, 4))


def test_a_parametrized_weight_has_a_matrix_and_no_layer():
    module = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    x = torch.randn(1, 6, 6)
    W, b = sm.to_matrix(module, (1, 6, 6))
    assert_near(W @ x.reshape(-1) + b, module(x[None]).reshape(-1))
    with pytest.raises(ValueError, match="needs parameters of its own, got parametrized ones"):
        sm.from_module(module, (1, 6, 6))


def test_a_spectral_norm_is_asked_in_eval_mode_and_keeps_its_vectors():
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    kept = {name: value.clone() for name, value in module.named_buffers()}
    with pytest.raises(ValueError, match="changes its buffers whenever it is asked in training"):
        sm.to_matrix(module, (4,))
    W, _ = sm.to_matrix(module.eval(), (4,))
    assert_near(W.to_dense(), module.weight)
    assert kept and all(torch.equal(kept[name], value) for name, value in module.named_buffers())


def test_an_untied_sequence_computes_the_same_and_trains_more():
    module = LAYERS["Sequential"][0]()
    layer = sm.from_module(module, (1, 6, 6), tied=False)
    x = torch.randn(4, 1, 6, 6)
    assert_near(layer(x), module(x))
    assert layer[0].weight.shape == (layer[0].pattern.nnz,)


@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"window": 1}, {"causal": True, "window": 2}], ids=str
)
def test_attention_is_that_of_torch(options):
    native = nn.MultiheadAttention(6, 2, batch_first=True)
    layer = sm.from_module(native, (5, 6), **options)
    at = torch.arange(5)
    distance = at[:, None] - at
    hidden = distance.abs() > options.get("window", 5)
    if options.get("causal"):
        hidden |= distance < 0
    x = torch.randn(3, 5, 6)
    assert_near(layer(x), native(x, x, x, attn_mask=hidden, need_weights=False)[0])
    native.load_state_dict(layer.state_dict())


ENCODERS = {
    "an encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2
    ),
    "inside a Transformer": lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True).encoder,
    "inside a sequence": lambda: nn.Sequential(ENCODERS["an encoder"]()),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("gradients", [False, True], ids=["no gradients", "gradients"])
@pytest.mark.parametrize("example", ["shape", "call"])
@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_in_eval_mode_takes_a_padding_mask_as_torchs(make, example, gradients):
    native, x = make().eval(), torch.randn(3, 5, 8)
    padded = torch.arange(5).expand(3, 5) >= torch.tensor([[3], [5], [1]])
    inside = isinstance(native, nn.Sequential)
    call = {"src": x, "src_key_padding_mask": padded}
    network = sm.from_module(native, call if example == "call" and not inside else (5, 8))
    theirs, mine = (net[0] if inside else net for net in (native, network))
    with torch.set_grad_enabled(gradients):
        assert_near(mine(**call)[~padded], theirs(**call)[~padded])
    assert theirs.use_nested_tensor


NO_LAYER = {
    "must be .T, d. with d=2, got input_shape=.3, 4": (
        lambda: nn.RNN(2, 2, batch_first=True),
        (3, 4),
        {},
    ),
    "MultiheadAttention needs kdim=4, got 3": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, batch_first=True),
        (3, 4),
        {},
    ),
    "MultiheadAttention needs add_zero_attn=False": (
        lambda: nn.MultiheadAttention(4, 2, add_zero_attn=True, batch_first=True),
        (3, 4),
        {},
    ),
    "MultiheadAttention needs bias_k=None": (
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True),
        (3, 4),
        {},
    ),
    "must be .T, d. with d=4": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), (4,), {}),
    "MaxPool2d needs return_indices=False, got True": (
        lambda: nn.MaxPool2d(2, return_indices=True),
        (1, 4, 4),
        {},
    ),
    "tied needs one of Conv1d, .*, got tied=False": (
        lambda: nn.Linear(2, 2),
        (2,),
        {"tied": False},
    ),
    "causal needs one of MultiheadAttention, got causal=True": (
        lambda: nn.Linear(2, 2),
        (2,),
        {"causal": True},
    ),
    "window needs one of MultiheadAttention, got window=3": (
        lambda: nn.Linear(2, 2),
        (2,),
        {"window": 3},
    ),
    "Conv2d must be 3 sizes": (lambda: nn.Conv2d(1, 1, 2), (4, 4), {}),
}


@pytest.mark.parametrize("message", NO_LAYER)
def test_what_has_no_layer_is_named(message):
    module, shape, options = NO_LAYER[message]
    with pytest.raises(ValueError, match=message):
        sm.from_module(module(), shape, **options)


@pytest.mark.parametrize("module", [nn.Embedding(2, 2), nn.PairwiseDistance()], ids=repr)
def test_a_module_without_a_layer_is_named(module):
    with pytest.raises(TypeError, match=f"no matrix layer for {type(module).__name__}; .*Conv2d"):
        sm.from_module(module, (1, 3, 3))
