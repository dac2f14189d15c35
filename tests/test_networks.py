"""Whole networks to networks of matrix layers, against the networks themselves."""

import io
import warnings
from copy import deepcopy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves
from torchvision.models import densenet, swin_transformer, vision_transformer

import sparsemat as sm
from sparsemat.convert.sizes import PerSize


@pytest.fixture(autouse=True)
def in_double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def check_equal(module, network, *args, tolerance=1e-10, **kwargs):
    """Output and parameter gradients agree to a part of the largest."""
    seed = torch.get_rng_state()
    results = []
    for net in (module, network):
        torch.set_rng_state(seed)
        y = net(*deepcopy(args), **kwargs)  # a network may write to its input
        y = y if torch.is_tensor(y) else y[0] if isinstance(y, tuple) else y["out"]
        weight = torch.linspace(-1, 1, y.numel()).view_as(y)
        named = dict(net.named_parameters())
        grads = torch.autograd.grad((weight * y).sum(), list(named.values()), allow_unused=True)
        results.append((y, dict(zip(named, grads, strict=True))))
    (y, grads), (actual, mine) = results
    assert (y - actual).abs().max() <= tolerance * y.abs().max()
    assert set(grads) == set(mine)
    largest = max(grad.abs().max() for grad in grads.values() if grad is not None)
    for name, grad in grads.items():
        assert (grad is None) == (mine[name] is None), name
        if grad is not None:
            assert (grad - mine[name]).abs().max() <= tolerance * largest, name


class Shared(nn.Module):
    """Own Python code: residual sums, a pool at two sizes, tied weights, a branch."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.third.weight = self.second.weight
        self.pool, self.norm = nn.AvgPool2d(2), nn.BatchNorm2d(4)
        self.maximum = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 3)

    def forward(self, x, scale=1.0):
        x = self.norm(F.relu(self.first(x)))
        x = self.maximum(x + self.second(x)) * scale
        x = self.pool(x)
        x = torch.cat([self.second(x), self.third(x)], 1)[:, 2:6]
        return self.head(self.maximum(x).flatten(1) if x.shape[-1] > 2 else x.flatten(1))


def torchvision_model(name, **options):
    return getattr(torchvision.models, name)(weights=None, **options)


NETWORKS = {
    "own code": (Shared, (1, 16, 16)),
    "resnet18": (lambda: torchvision_model("resnet18"), (3, 32, 32)),
    "squeezenet1_1": (lambda: torchvision_model("squeezenet1_1"), (3, 32, 32)),
    "shufflenet_v2_x0_5": (lambda: torchvision_model("shufflenet_v2_x0_5"), (3, 32, 32)),
    "mobilenet_v3_small": (lambda: torchvision_model("mobilenet_v3_small"), (3, 32, 32)),
    "a small DenseNet": (lambda: densenet.DenseNet(8, (2, 2), 8, num_classes=5), (3, 32, 32)),
    "a small ViT": (
        lambda: vision_transformer.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5),
        (3, 16, 16),
    ),
    "a small Swin": (
        lambda: swin_transformer.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4]),
        (3, 32, 32),
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True), 2
        ),
        (5, 8),
    ),
    "TransformerDecoder": (
        lambda: Decoding(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2)),
        (2, 8),
    ),
    "Transformer": (lambda: Decoding(nn.Transformer(8, 2, 1, 1, 16, norm_first=True)), (2, 8)),
    "RNN inside": (lambda: Recurrent(nn.RNN(3, 4, 2, batch_first=True)), (6, 3)),
    "LSTM inside": (
        lambda: Recurrent(nn.LSTM(3, 4, 3, batch_first=True, dropout=0.4)),
        (6, 3),
    ),
    "projected LSTM inside": (
        lambda: Recurrent(nn.LSTM(3, 5, 2, dropout=0.4, bidirectional=True, proj_size=2)),
        (2, 3),
    ),
    "GRU inside": (
        lambda: Recurrent(nn.GRU(3, 2, 3, dropout=0.4, bidirectional=True)),
        (2, 3),
    ),
    "RNN of both directions inside": (
        lambda: Recurrent(nn.RNN(3, 2, 2, dropout=0.4, bidirectional=True, batch_first=True)),
        (6, 3),
    ),
}


class Decoding(nn.Module):
    """From one batch, ``(T, n, d)``, to another."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x, x.roll(1, -1)[:1])


class Recurrent(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def converted(module, *args, **options):
    """A conversion that may report parts that never ran (Swin reads weights)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return sm.from_module(module, *args, **options)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make, shape", NETWORKS.values(), ids=NETWORKS)
def test_output_and_gradients_are_those_of_the_network(make, shape, training):
    module = make().train(training)
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    network = converted(module, shape)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert list(network.state_dict()) == list(before)
    assert network.training == training
    check_equal(module, network, torch.randn(2, *shape))
    module.load_state_dict(network.state_dict())


@pytest.mark.parametrize("make, shape", NETWORKS.values(), ids=NETWORKS)
def test_in_single_precision_they_agree_to_a_ten_thousandth(make, shape):
    module = make().float().eval()
    network = converted(module, shape)
    check_equal(module, network, torch.randn(2, *shape).float(), tolerance=1e-4)


class Inplace(nn.Module):
    """Writes to what its parts are given and return."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.pool, self.maximum = nn.AvgPool2d(2), nn.MaxPool2d(2)

    def forward(self, x):
        y = self.first(x)
        y[:, 0].mul_(2)
        z = self.pool(self.second(F.relu_(y))).add_(1)
        z = self.maximum(z)
        z.view(-1)[0] = 1
        return z.as_strided((len(z), 4), (z.stride(0), 1))


class Nested(nn.Module):
    """A dictionary goes in, a part returns lists in a dictionary."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x, other=None, *, scale=1):
            return {"all": [scale * self.conv(x), (self.conv(other),)]}

    def __init__(self):
        super().__init__()
        self.part = self.Part()

    def forward(self, batch):
        first, (second,) = self.part(batch["image"], other=batch["other"], scale=2)["all"]
        return first + second, "more"


class Trying(nn.Module):
    """A part fails, and the network goes another way."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            raise RuntimeError(f"no such image: {self.conv(x).shape}")

    def __init__(self):
        super().__init__()
        self.part, self.conv = self.Part(), nn.Conv2d(1, 2, 3)

    def forward(self, x):
        try:
            return self.part(x)
        except RuntimeError:
            return self.conv(x)


class Random(nn.Sequential):
    """Dropout draws in the order in which its input lies in memory."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.Dropout(), nn.BatchNorm2d(2))


class Dynamic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        while x.shape[-1] > 2:
            x = F.max_pool2d(self.conv(x), 2)
        return x


class Writing(nn.Module):
    """Writes to its input before a part reads it; returns a tuple."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        x.mul_(2)
        return self.conv(x), x


class Several(nn.Module):
    """Two tensors and a number; a part of it returns a tuple."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x, y):
            return self.conv(x), self.conv(y)

    def __init__(self):
        super().__init__()
        self.part, self.pool = self.Part(), nn.AdaptiveAvgPool2d(3)

    def forward(self, x, y, scale):
        first, second = self.part(x, y)
        return self.pool(first - scale * second)


ODD = {
    "writes to its input": (Writing, lambda: torch.randn(2, 1, 8, 8)),
    "several tensors": (Several, lambda: (torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), 3)),
    "in place": (Inplace, lambda: torch.randn(3, 1, 8, 8)),
    "nested": (
        Nested,
        lambda: ({"image": torch.randn(2, 1, 8, 8), "other": torch.randn(2, 1, 8, 8)},),
    ),
    "an error that is caught": (Trying, lambda: torch.randn(2, 1, 8, 8)),
    "dropout": (Random, lambda: torch.randn(3, 1, 8, 8)),
    "dynamic": (Dynamic, lambda: torch.randn(2, 1, 8, 8)),
}


@pytest.mark.parametrize("make, example", ODD.values(), ids=ODD)
def test_odd_networks_are_what_they_were(make, example):
    module, x = make(), example()
    before = deepcopy(x)
    network = sm.from_module(module, x)
    sm.summary(module, x)
    for mine, theirs in zip(tree_leaves(x), tree_leaves(before), strict=True):
        assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))
    assert any(isinstance(part, (sm.Conv2d, PerSize)) for part in network.modules())
    check_equal(module, network, *(x if isinstance(x, tuple) else (x,)))


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        with torch.no_grad():
            self.conv.weight.mul_(0.5)
        return self.conv(x)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 2, batch_first=True)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x[:, 0], [8, 3], batch_first=True)
        return self.rnn(packed)[0].data


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.conv(image=x)


HALVES = {
    "types": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3).float()),
    "devices": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3).to("meta")),
}
REFUSED = {
    r"conv\.weight must stay as it is": (ValueError, Written),
    r"rnn \(LSTM\): the part must be called with a tensor": (ValueError, Packed),
    r"conv \(Conv2d\): .*unexpected keyword argument 'image'": (TypeError, Named),
    r"^0 \(Part\): no such image": (ValueError, lambda: nn.Sequential(Trying().part)),
    r"^1 \(Conv2d\): Input type": (ValueError, HALVES["types"]),
    r"^1 \(Conv2d\): .*meta": (ValueError, HALVES["devices"]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_network_cannot_do_is_told_with_the_part(message):
    error, make = REFUSED[message]
    with pytest.raises(error, match=message):
        sm.from_module(make(), torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize("make", [sm.local_map, sm.jacobian, sm.block_system])
def test_a_network_half_elsewhere_is_told_with_the_part(make):
    x = torch.randn(1, 8, 8)
    with pytest.raises(ValueError, match=r"1\.weight must have values, got a tensor on the meta"):
        make(HALVES["devices"](), x)
    with pytest.raises(ValueError, match=r"^1 \(Conv2d\): Input type"):
        make(HALVES["types"](), x)


def hooked():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    module[0].register_forward_pre_hook(lambda _, args: (args[0] - 1,))
    module[1].register_forward_hook(lambda *args: 2 * args[-1])
    return module


def patched():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    module[1].forward = lambda x: x.clamp(-0.5, 0.5)
    return module


@pytest.mark.parametrize("make", [sm.local_map, sm.jacobian, sm.secant_map])
@pytest.mark.parametrize("kind", [hooked, patched, Dynamic, Inplace])
def test_maps_follow_hooks_patches_and_what_is_written(make, kind):
    module, x = kind(), torch.randn(1, 8, 8)
    a, expected = make(module, x), module(x[None].clone()).detach().reshape(-1)
    assert (a.y - expected).abs().max() <= 1e-12 * expected.abs().max()
    found = a @ x.reshape(-1) + a.offset
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    jacobian = torch.autograd.functional.jacobian(lambda x: module(x[None].clone()).reshape(-1), x)
    torch.testing.assert_close(a.to_dense(), jacobian.reshape(a.shape))


class Overwriting(nn.Sequential):
    def forward(self, x):
        x.mul_(2)
        return super().forward(x)


@pytest.mark.parametrize("make", [sm.local_map, sm.jacobian, sm.secant_map])
def test_maps_of_a_network_that_writes_to_its_input(make):
    module, x = Overwriting(nn.Linear(3, 4), nn.ReLU()), torch.randn(3)
    before = x.clone()
    a = make(module, x)
    assert torch.equal(x, before)
    torch.testing.assert_close(a @ x + a.offset, module(x[None].clone())[0].detach())


def test_every_convolution_and_pooling_is_a_matrix_layer():
    network = sm.from_module(torchvision_model("resnet18").eval(), (3, 32, 32))
    stock = [p for p in network.modules() if type(p) in (nn.Conv2d, nn.MaxPool2d)]
    own = [p for p in network.modules() if isinstance(p, (sm.Conv2d, sm.MaxPool2d))]
    assert not stock and len(own) == 21
    assert network.layer1[0].conv1.matrix().shape == (64 * 64, 64 * 64)


class Seq2Seq(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "batch_first": batch_first}
        layers = {"num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0.0}
        self.transformer = nn.Transformer(**sizes, **layers)

    def forward(self, source, target, padding=None):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.transformer(source, target, tgt_mask=mask, src_key_padding_mask=padding)


ALONE = {
    "convolution": (lambda: nn.Conv2d(1, 2, 3), lambda: (torch.randn(2, 1, 8, 8),), sm.Conv2d),
    "transposed convolution": (
        lambda: nn.ConvTranspose2d(1, 2, 3, 2),
        lambda: (torch.randn(2, 1, 4, 4), [10, 9]),
        sm.ConvTranspose2d,
    ),
    "self-attention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda: (torch.randn(2, 5, 4),) * 3,
        sm.MultiheadAttention,
    ),
    "cross-attention": (
        lambda: nn.MultiheadAttention(8, 2, kdim=3, vdim=5, add_bias_kv=True, add_zero_attn=True),
        lambda: (torch.randn(4, 2, 8), torch.randn(7, 2, 3), torch.randn(7, 2, 5)),
        sm.MultiheadAttention,
    ),
    "LSTM from a state": (
        lambda: nn.LSTM(3, 4),
        lambda: (torch.randn(5, 2, 3), (torch.randn(1, 2, 4), torch.randn(1, 2, 4))),
        sm.LSTM,
    ),
    "RNN from a state": (
        lambda: nn.RNN(3, 4, 2, batch_first=True),
        lambda: (torch.randn(2, 5, 3), torch.randn(2, 2, 4)),
        sm.RNN,
    ),
    "cell from a state": (
        lambda: nn.GRUCell(3, 4),
        lambda: (torch.randn(2, 3), torch.randn(2, 4)),
        sm.GRUCell,
    ),
}


@pytest.mark.parametrize("make, example, kind", ALONE.values(), ids=ALONE)
def test_one_layer_takes_an_example_of_several_tensors(make, example, kind):
    module, args = make(), example()
    layer = sm.from_module(module, args)
    assert type(layer) is kind
    check_equal(module, layer, *args)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_transformer_with_masks_and_named_arguments(dtype, tolerance):
    module = Seq2Seq(batch_first=True)
    example = {"source": torch.randn(2, 5, 8), "target": torch.randn(2, 4, 8)}
    example["padding"] = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    network = sm.from_module(module, example)
    assert sum(isinstance(p, sm.MultiheadAttention) for p in network.modules()) == 3
    assert sum(isinstance(p, sm.LayerNorm) for p in network.modules()) == 7
    module.to(dtype), network.to(dtype)
    example = {n: x.to(dtype) if x.is_floating_point() else x for n, x in example.items()}
    check_equal(module, network, tolerance=tolerance, **example)
    check_equal(module.eval(), network.eval(), tolerance=tolerance, **example)


def test_a_transformer_decoder_with_a_tuple_of_inputs():
    module = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, dropout=0), 2)
    target, memory = torch.randn(4, 2, 8), torch.randn(6, 2, 8)
    network = sm.from_module(module, (target, memory))
    check_equal(module, network, target, memory)


def test_what_is_shared_stays_shared():
    module = Shared()
    network = sm.from_module(module, (1, 16, 16))
    assert network.third.weight is network.second.weight
    assert network.second.weight is not module.second.weight
    assert isinstance(network.second, PerSize) and isinstance(network.first, sm.Conv2d)
    copy = deepcopy(network).to(torch.float32).double()
    assert copy.third.weight is copy.second.weight
    for layer in copy.second.by_size.values():
        assert layer.weight is copy.second.weight
    network.eval()
    assert not any(layer.training for layer in network.second.by_size.values())


COMPUTED = {
    "pruned": lambda part: prune.l1_unstructured(part, "weight", 0.5),
    "weight norm": nn.utils.parametrizations.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.parametrize("change", COMPUTED.values(), ids=COMPUTED)
def test_a_part_for_several_sizes_may_have_a_computed_weight(change):
    module = Shared()
    network = sm.from_module(module, (1, 16, 16))
    for net in (module, network):
        torch.manual_seed(0)
        change(net.second)
    assert isinstance(network.second, PerSize)
    check_equal(module.eval(), network.eval(), torch.randn(2, 1, 16, 16))
    with torch.no_grad():
        for net in (module, network):
            for parameter in net.second.parameters():
                parameter.mul_(2)
    check_equal(module, network, torch.randn(2, 1, 16, 16))


def test_a_network_trains_saves_and_loads():
    network = sm.from_module(Shared(), (1, 16, 16))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    x = torch.randn(4, 1, 16, 16)
    losses = []
    for _ in range(4):
        loss = network(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    stored = io.BytesIO()
    torch.save(network.eval(), stored)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=False)
    torch.testing.assert_close(loaded(x), network(x))


def test_a_filter_chooses_the_parts():
    network = sm.from_module(
        torchvision_model("resnet18").eval(), (3, 32, 32), only=lambda path, _: "layer1" in path
    )
    own = {path for path, p in network.named_modules() if isinstance(p, sm.Conv2d)}
    assert own == {f"layer1.{i}.conv{k}" for i in (0, 1) for k in (1, 2)}


def test_untied_networks_compute_the_same():
    module = densenet.DenseNet(4, (2,), 4, bn_size=1, num_classes=2).eval()
    network = sm.from_module(module, (3, 16, 16), tied=False)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network(x), module(x))
    conv = network.features.conv0
    assert conv.weight.shape == (conv.pattern.nnz,)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.never = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)
        self.used = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return F.conv2d(self.used(x), self.conv.weight)


class Hidden(nn.Module):
    """A part that is called through a list, which torch does not see."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)
        self.parts = [self.conv]

    def forward(self, x):
        return self.parts[0](x)


@pytest.mark.parametrize("kind, names", [(Functional, "conv, never$"), (Hidden, "conv$")])
def test_a_part_that_no_matrix_layer_multiplies_for_is_reported(kind, names):
    module = kind()
    with pytest.warns(UserWarning, match=f"did not run as parts.*: {names}"):
        network = sm.from_module(module, (1, 8, 8))
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(network(x), module(x))


def with_hook():
    module = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(1, 1, 3)))
    module[1][0].register_forward_hook(lambda *_: None)
    return module


def with_patch():
    module = nn.Sequential(nn.Conv2d(1, 1, 3))
    module[0].forward = lambda x: x
    return module


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


BAD = {
    "1.0: Conv2d computes something else than Conv2d: its forward_hooks .* only": with_hook,
    "0: Conv2d computes something else than Conv2d: its forward was": with_patch,
    "0: Doubled computes something else than Conv2d: .*leave it out with only": lambda: (
        nn.Sequential(Doubled(1, 1, 3))
    ),
    "there is no matrix layer for Sequential": lambda: nn.Sequential(nn.Bilinear(1, 1, 1)),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_exchanged_is_named_with_its_path(message):
    module = BAD[message]()
    example = torch.randn(1, 1, 8, 8)
    if "Bilinear" in repr(module):
        module[0].forward = lambda x: x
    with pytest.raises(TypeError, match=message):
        sm.from_module(module, example)


BAD_VALUES = {
    "1 .MaxPool2d.: .*return_indices=False, got True": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, return_indices=True)),
        {},
    ),
    "pool .*tied=False needs images of one size|got .*16.* and .*4": (Shared, {"tied": False}),
    "causal needs one of MultiheadAttention": (Shared, {"causal": True}),
    "0 .ParametrizedConv2d.: .*needs parameters of its own": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3))),
        {},
    ),
}


@pytest.mark.parametrize("message", BAD_VALUES)
def test_what_does_not_fit_is_named_with_its_path(message):
    make, options = BAD_VALUES[message]
    module = make()
    if options == {"tied": False}:
        module.third.weight = nn.Parameter(module.third.weight.detach().clone())
    with pytest.raises(ValueError, match=message):
        sm.from_module(module, (1, 16, 16), **options)


def test_a_size_that_no_layer_was_made_for_is_an_error_with_both():
    network = sm.from_module(Shared(), (1, 16, 16))
    with pytest.raises(ValueError, match=r"\(N, 1, 16, 16\).*got \(2, 1, 12, 12\)"):
        network(torch.randn(2, 1, 12, 12))
    with pytest.raises(ValueError, match=r"one of the sizes \(16, 16\), \(4, 4\), got \(5, 5\)"):
        network.second(torch.randn(2, 4, 5, 5))


def test_self_attention_called_with_one_input_in_a_sequence():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    module = nn.Sequential(nn.Linear(3, 4), attention, nn.ReLU())
    network = sm.from_module(module, (5, 3), causal=True)
    assert isinstance(network[1], sm.SelfAttention) and network[1].causal
    x = torch.randn(2, 5, 3)
    hidden = torch.ones(5, 5).triu(1).bool()
    y = module[0](x)
    expected = attention(y, y, y, attn_mask=hidden, need_weights=False)[0].relu()
    torch.testing.assert_close(network(x), expected)
