"""The local map of piecewise linear networks, against autograd and the networks themselves."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torchvision
from scipy.sparse.linalg import svds
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.models import densenet
from whole import Branching, made

import sparsemat as sm


class Own(Branching):
    """Functional calls, in-place gates, a residual sum, a concatenation, a maximum."""

    def forward(self, x):
        y = self.act(self.norm(self.conv(x)))
        y = F.leaky_relu(y + F.pad(x, (0, 0, 0, 0, 0, 2)), 0.1) / 2
        y = torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(y, 2)], 1).clamp(-0.3, 0.4)
        return self.head(y.mean(-1).flatten(1))


NETWORKS = {
    "own code": (Own, (2, 8, 8)),
    "MLP": (lambda: nn.Sequential(nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 3)), (6,)),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None, num_classes=4), (3, 32, 32)),
    "mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4),
        (3, 32, 32),
    ),
    "DenseNet": (lambda: densenet.DenseNet(4, (2, 2), 8, num_classes=4), (3, 32, 32)),
    "matrix layers": (
        lambda: sm.from_module(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), (2, 8, 8)
        ),
        (2, 8, 8),
    ),
}
each = pytest.mark.parametrize("make, shape", NETWORKS.values(), ids=NETWORKS)


@each
def test_rows_and_products_are_those_of_the_jacobian(make, shape):
    module, x = made(make, shape)
    a = sm.local_map(module, x)
    assert torch.equal(a.y, module(x[None]).detach().reshape(-1))
    v = torch.randn(x.numel(), 2, dtype=torch.float64)
    _, along = torch.func.jvp(lambda x: module(x[None]).reshape(-1), (x,), (v[:, 0].view(shape),))
    scale = along.abs().max()
    assert (a @ v - (a @ v)).abs().max() == 0
    assert ((a @ v)[:, 0] - along).abs().max() <= 1e-12 * scale
    source = x.clone().requires_grad_()
    y = module(source[None]).reshape(-1)
    for i in (0, len(y) - 1):
        (row,) = torch.autograd.grad(y[i], source, retain_graph=True)
        assert (a.row(i) - row.reshape(-1)).abs().max() <= 1e-12 * row.abs().max()
    u = torch.randn(len(y), dtype=torch.float64)
    torch.testing.assert_close(u @ (a @ v), (a.T @ u) @ v)
    assert (a @ x.reshape(-1) + a.offset - a.y).abs().max() <= 1e-12 * a.y.abs().max()


@each
def test_it_is_the_network_as_long_as_no_gate_changes(make, shape):
    module, x = made(make, shape)
    a = sm.local_map(module, x)
    inside = outside = 0
    for power in range(1, 12):
        step = 10.0**-power * torch.randn(shape, dtype=torch.float64)
        b = sm.local_map(module, x + step)
        if not a.same_piece(b):
            outside += 1
            continue
        inside += 1
        expected = module((x + step)[None]).detach().reshape(-1)
        difference = a @ (x + step).reshape(-1) + a.offset - expected
        assert difference.abs().max() <= 1e-12 * expected.abs().max()
        assert (a.offset - b.offset).abs().max() <= 1e-11 * expected.abs().max()
    assert inside >= 2
    assert not a.same_piece(sm.local_map(module, -x))


def test_the_gates_are_those_of_the_parts():
    module, x = made(Own, (2, 8, 8))
    gates = sm.local_map(module, x).gates
    assert [(g.path, g.kind) for g in gates] == [
        ("act", "relu"),
        *(("", kind) for kind in ("leaky_relu", "max_pool2d_with_indices", "clamp")),
    ]
    assert torch.equal(gates[0].choice, module.norm(module.conv(x[None])) > 0)


def test_singular_values_by_scipy():
    module, x = made(Own, (2, 8, 8))
    a = sm.local_map(module, x)
    expected = np.linalg.svd(a.to_dense().numpy(), compute_uv=False)[:2]
    found = svds(a.linear_operator(), 2, return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(found)[::-1], expected, rtol=1e-8)


class Chosen(nn.Module):
    """A gate by comparison and one by a detached maximum."""

    def forward(self, x):
        x = torch.where(x > 0.1, x, 0.3 * x)
        return x.gather(1, x.detach().topk(2).indices)


def test_choices_by_comparison_and_by_index_are_gates():
    x = torch.tensor([0.5, -1.0, 0.2, 0.4])
    a = sm.local_map(Chosen(), x)
    assert torch.equal(a.to_dense(), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    assert [gate.kind for gate in a.gates] == ["gt", "topk"]
    assert a.same_piece(sm.local_map(Chosen(), x + 0.01))
    assert not a.same_piece(sm.local_map(Chosen(), x.flip(0)))


class Written(nn.Module):
    """A comparison that is overwritten by what follows from it."""

    def forward(self, x):
        mask = x > 0
        mask &= x.flip(-1) > 0
        return x * mask


def test_a_choice_stays_what_it_was():
    x = torch.tensor([1.0, -1.0, 2.0, 3.0])
    a = sm.local_map(Written(), x)
    assert [gate.choice.tolist() for gate in a.gates] == [
        [[True, False, True, True]],
        [[True, True, False, True]],
    ]
    assert not a.same_piece(sm.local_map(Written(), x * torch.tensor([1, -1, -1, 1])))


class Squared(nn.Module):
    def forward(self, x):
        return x * x


class Detached(nn.Module):
    def forward(self, x):
        return x + x.detach()


class Hidden(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return x.relu()


class Divided(nn.Module):
    def forward(self, x):
        return 1 / x


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def of(function):
    return nn.Sequential(Of(function))


def hooked(x):
    y = 2 * x
    y.register_hook(lambda gradient: 3 * gradient)
    return y


def hooked_at_its_node(x):
    y = 2 * x
    y.grad_fn.register_prehook(lambda gradients: (3 * gradients[0],))
    return y


REFUSED = {
    r"0: gelu of the input": lambda: nn.Sequential(nn.GELU()),
    r"1: mul of the input": lambda: nn.Sequential(nn.ReLU(), Squared()),
    r"0: detach of the input": lambda: nn.Sequential(Detached()),
    r"0: relu of the input is not piecewise linear, or is hidden": lambda: nn.Sequential(Hidden()),
    r"0: (div|reciprocal) of the input": lambda: nn.Sequential(Divided()),
    r"0: native_layer_norm of": lambda: nn.Sequential(nn.LayerNorm(4)),
    r"_softmax of the input": lambda: nn.Sequential(nn.Softmax(-1)),
    r"native_batch_norm of": lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).train(),
    r"0: bernoulli draws random numbers": lambda: nn.Sequential(nn.Dropout()).train(),
    r"0: randn_like draws random": lambda: of(lambda x: x + torch.randn_like(x)),
    r"0: randperm draws random": lambda: of(lambda x: x[:, torch.randperm(4)]),
    r"0: max of the input": lambda: of(lambda x: x / 2 - x.max()),
    r"0: detach of the input is not": lambda: of(lambda x: x + (2 * x).detach_()),
    r"0: item of": lambda: of(lambda x: x * x.sum().item()),
    r"0: tolist of": lambda: of(lambda x: x * x.tolist()[0][1]),
    r"0: numpy of": lambda: of(lambda x: x * float(x.detach().numpy().sum())),
    r"0: __array__ of": lambda: of(lambda x: x * np.asarray(x.detach()).sum()),
    r"0: _prelu_kernel of": lambda: of(lambda x: F.prelu(x, x[0, :1])),
    r"0: native_batch.norm of": lambda: of(
        lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), x[0] * 1)
    ),
    r"0: div of": lambda: of(lambda x: torch.div(x, 0.3, rounding_mode="floor")),
    r"0: complex of": lambda: of(lambda x: torch.complex(x, x).abs()),
    r"0: register_hook of": lambda: of(hooked),
    r"0: grad_fn of": lambda: of(hooked_at_its_node),
    r"numbers, got torch\.int64": lambda: of(torch.Tensor.long),
    r"must return a tensor of .*, got tuple": lambda: nn.RNN(4, 2, nonlinearity="relu"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_piecewise_linear_is_named(message):
    module = REFUSED[message]()
    x = torch.randn(4) if "RNN" not in repr(module) else torch.randn(3, 4)
    if "batch_norm" in message:
        x = torch.randn(3, 4)
        module = nn.Sequential(nn.Flatten(0, 1), *module)
    with pytest.raises(TypeError, match=message):
        sm.local_map(module, x)
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("kind", [sm.local_map, sm.jacobian])
@pytest.mark.parametrize("register", ["backward_hook", "backward_pre_hook"])
def test_gradients_that_hooks_may_change_are_refused(kind, register):
    def thrice(module, gradients, *_):
        return tuple(3 * gradient for gradient in gradients)

    module, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(3)
    of_one = getattr(module[0], f"register_full_{register}")
    of_all = getattr(torch.nn.modules.module, f"register_module_full_{register}")
    for hook, message in (of_one, "^0 must have no backward hooks"), (of_all, "of all modules"):
        with hook(thrice), pytest.raises(TypeError, match=message):
            kind(module, x)
        assert torch.equal(kind(module, x).to_dense(), module[0].weight)


def marked(x):
    y = 2 * x
    y.retain_grad()
    return y


@pytest.mark.parametrize("function", [hooked, hooked_at_its_node, marked])
def test_a_jacobian_whose_gradients_a_hook_on_a_tensor_may_change_is_refused(function):
    with pytest.raises(TypeError, match=r"^0 \(Of\): .* no hooks on its gradients, got "):
        sm.jacobian(of(function), torch.randn(4))
    if function is marked:
        assert torch.equal(sm.local_map(of(marked), torch.randn(4)).to_dense(), 2 * torch.eye(4))


def hooks_of_the_user(module, x):
    x.requires_grad_().register_hook(lambda gradient: 3 * gradient)
    x.register_post_accumulate_grad_hook(lambda x: x.grad.mul_(3))
    for parameter in module.parameters():
        parameter.register_hook(lambda gradient: 3 * gradient)
        parameter.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(3))


@pytest.mark.parametrize("kind", [sm.local_map, sm.jacobian])
def test_hooks_that_reach_no_gradient_of_the_input_change_nothing(kind):
    module, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(4)
    hooks_of_the_user(module, x)
    found = kind(module, x)
    expected = module[0].weight.detach()
    torch.testing.assert_close(found.to_dense(), expected)
    torch.testing.assert_close(found.T.to_dense(), expected.T)
    assert x.grad is None and module[0].weight.grad is None


@pytest.mark.parametrize("kind", [sm.local_map, sm.jacobian])
def test_without_derivatives_the_reason_is_named(kind):
    module, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(4)
    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"^derivatives must be on, got torch\.inference_mode"):
            kind(module, x)
        made_there, x_there = nn.Sequential(nn.Linear(4, 3)), torch.randn(4)
    with pytest.raises(ValueError, match=r"^0\.weight must have derivatives, got one of"):
        kind(made_there, x)
    with torch.no_grad():
        found = kind(module, x)
    v, u = torch.randn(4), torch.randn(3)
    expected = found @ v, found.T @ u
    with torch.inference_mode():  # the products need none
        torch.testing.assert_close((found @ v, found.T @ u), expected)
        torch.testing.assert_close(found @ (1 * v), expected[0])
    assert kind(module, x_there).shape == (3, 4)


DROPOUTS = {
    "Dropout": (nn.Dropout, (6,)),
    "Dropout1d": (nn.Dropout1d, (6, 3)),
    "Dropout2d": (nn.Dropout2d, (6, 2, 3)),
    "Dropout3d": (nn.Dropout3d, (6, 1, 2, 3)),
    "AlphaDropout": (nn.AlphaDropout, (6,)),
    "FeatureAlphaDropout": (nn.FeatureAlphaDropout, (6, 2, 3)),
}


@pytest.mark.parametrize("make, shape", DROPOUTS.values(), ids=DROPOUTS)
def test_dropout_draws_a_map_of_its_own(make, shape):
    torch.manual_seed(0)
    module, x = nn.Sequential(make(0.5)).double(), torch.randn(shape, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"^0: bernoulli draws random numbers, so the"):
        sm.local_map(module, x)
    torch.manual_seed(1)
    system, jacobian = sm.block_system(module, x), sm.jacobian(module, x)
    y = module(x[None]).reshape(-1)
    assert not torch.equal(y, x.reshape(-1))
    # both of the draw that the network then makes
    torch.testing.assert_close(system.output(system.solve(system.right_hand_side())), y)
    torch.testing.assert_close(jacobian.y, y)
    A = jacobian.to_dense()
    torch.testing.assert_close(jacobian.T.to_dense(), A.T)
    torch.testing.assert_close(A @ x.reshape(-1) + jacobian.offset, y)
    identity = torch.eye(x.numel(), dtype=torch.float64)
    for kind in (sm.secant_map, sm.local_map):
        torch.testing.assert_close(kind(module.eval(), x).to_dense(), identity)


def matrices_are_those_of_torch(module, shape):
    torch.manual_seed(0)
    module, x = module.double(), torch.randn(shape, dtype=torch.float64)
    expected = torch.func.jacrev(lambda x: module(x[None]).reshape(-1))(x).detach()
    expected = expected.reshape(-1, x.numel())
    a = sm.local_map(module, x)
    torch.testing.assert_close(a.to_dense(), expected)
    torch.testing.assert_close(a.T.to_dense(), expected.T)
    torch.testing.assert_close(a.y, module(x[None]).detach().reshape(-1))
    torch.testing.assert_close(sm.secant_map(module, x).to_dense(), expected)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_every_padding_of_a_convolution_has_its_map(layer, mode):
    torch.manual_seed(0)
    size = {nn.Conv1d: (6,), nn.Conv2d: (4, 5), nn.Conv3d: (3, 3, 4)}[layer]
    module = layer(2, 2, 3, padding=2 if mode != "reflect" else 1, padding_mode=mode)
    matrices_are_those_of_torch(nn.Sequential(module, nn.ReLU()), (2, *size))


@pytest.mark.parametrize("mode", ["constant", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("size", [(5,), (4, 5), (3, 3, 4)])
def test_every_padding_has_its_map(size, mode):
    pads = (1, 2, 0, 1, 2, 1)[: 2 * len(size)]
    value = {"value": 0.5} if mode == "constant" else {}
    module = Of(lambda x: 2 * F.pad(x, pads, mode, **value) + 1)
    matrices_are_those_of_torch(module, (2, *size))


def written(x):
    y = x.new_empty(x.shape)
    y[..., :2], y[..., 2:] = 2 * x[..., 1:3], x[..., :2]
    z = torch.empty_like(y)
    z.copy_(y)
    z[:, x.new_zeros(2, 4).bool()[:, 0]] = 1
    return z


def picked(x):
    y = x.clone()
    y[:, torch.tensor([1, 0])] = 3 * x[:, :2]
    y[y.new_ones(y.shape) > 2] = 1
    return y.index_copy(1, torch.tensor([0]), x[:, 1:2]).index_fill(2, torch.tensor([3]), 0.5)


def turned(x):
    y = 2 * x
    return y.unsqueeze_(1).transpose_(2, 3).squeeze_(1)


LINEAR = {
    "slices of an empty tensor": written,
    "indices": picked,
    "views in place": turned,
    "masked_scatter": lambda x: x.masked_scatter(torch.eye(2, 4).bool(), 2 * x[..., 2:]),
    "triangles": lambda x: x.tril() + 2 * x.triu(1),
    "sums so far": lambda x: x.cumsum(-1) - x.cumsum(1),
    "parts": lambda x: x.split([1, 3], 2)[1] - x.chunk(2, 1)[0][..., :3],
    "scatters": lambda x: torch.slice_scatter(
        torch.select_scatter(x, 2 * x[:, 0], 1, 1), x[..., :1], 2, 3, 4
    ),
    "nearest, exact": lambda x: F.interpolate(x, 7, mode="nearest-exact"),
    "bicubic": lambda x: F.interpolate(x[:, None], (3, 5), mode="bicubic"),
    "trilinear": lambda x: F.interpolate(x[:, None, None], (2, 3, 5), mode="trilinear"),
    "nearest, 3-D": lambda x: F.interpolate(x[:, None, None], (2, 3, 5)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_only_moves_and_adds_numbers_has_its_map(name):
    module, x = Of(LINEAR[name]), torch.randn(2, 4, dtype=torch.float64)
    expected = torch.func.jacrev(lambda x: module(x[None]).reshape(-1))(x).reshape(-1, 8)
    a = sm.local_map(module, x)
    torch.testing.assert_close(a.to_dense(), expected)
    torch.testing.assert_close(a.T.to_dense(), expected.T)
    torch.testing.assert_close(a.y, module(x[None]).reshape(-1))
    assert a.gates == ()


LOW, HIGH = torch.tensor(-0.5), torch.tensor(0.5)
# an operation, and where two of its pieces meet
BENT = {
    "relu": (F.relu, 0),
    "abs": (torch.abs, 0),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), 0),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.25])), 0),
    "PReLU": (lambda x: nn.PReLU(4)(x), 0),
    "prelu as a method": (lambda x: x.prelu(torch.tensor(0.25)), 0),
    "threshold": (lambda x: F.threshold(x, 0.5, 0.5), 0.5),
    "hardtanh, below": (lambda x: F.hardtanh(x, -0.5, 0.5), -0.5),
    "hardtanh, above": (lambda x: F.hardtanh(x, -0.5, 0.5), 0.5),
    "relu6": (F.relu6, 6),
    "clamp, below": (lambda x: x.clamp(-0.5, 0.5), -0.5),
    "clamp, above": (lambda x: x.clamp(-0.5, 0.5), 0.5),
    "clamp by tensors, below": (lambda x: x.clamp(LOW, HIGH), -0.5),
    "clamp by tensors, above": (lambda x: x.clamp(LOW, HIGH), 0.5),
    "clamp_min": (lambda x: x.clamp_min(0.5), 0.5),
    "clamp_min by a tensor": (lambda x: x.clamp_min(HIGH), 0.5),
    "where": (lambda x: torch.where(x >= 0, x, -x), 0),
    "clamp_max": (lambda x: x.clamp_max(0.5), 0.5),
    "entrywise maximum": (lambda x: torch.maximum(x, -x), 0),
    "entrywise minimum": (lambda x: torch.minimum(x, torch.tensor(0.5)), 0.5),
    "maximum along an axis": (lambda x: x[:, :2].max(1).values, 0),
    "sorted": (lambda x: x[:, :2].sort(1).values, 0),
    "maximum": (lambda x: F.max_pool1d(x[:, None], 2), 0),
}


@pytest.mark.parametrize("function, at", BENT.values(), ids=BENT)
def test_where_pieces_meet_a_is_one_matrix_and_holds_on_its_piece(function, at):
    x = torch.tensor([at, at, at - 1.0, at + 1.0])
    module = Of(function)
    a = sm.local_map(module, x)
    torch.testing.assert_close(a.to_dense(), a.T.to_dense().T)
    for steps in ([0.25, 0], [-0.25, 0], [0, 0.25], [0, -0.25], [0.25, 0.25], [-0.25, -0.25]):
        z = x + torch.tensor([*steps, 0, 0])
        b = sm.local_map(module, z)
        if a.same_piece(b):
            torch.testing.assert_close(a @ z + a.offset, module(z[None]).detach().flatten())


class Two(nn.Module):
    """Two images, which of them counts how often, and a gate of both."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

    def forward(self, x, times, y):
        times += 1
        return (self.first(x) * times[0] + self.second(y)).relu()


def test_a_network_of_several_inputs():
    torch.manual_seed(0)
    module = Two().double()
    x, y = torch.randn(1, 4, 4, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)
    times = torch.tensor(2)
    a, b = sm.local_map(module, x, times, y), sm.jacobian(module, x, times, y)
    assert times == 2
    expected = module(x[None], torch.tensor([2]), y[None]).detach().reshape(-1)
    both = torch.cat([x.reshape(-1), y.reshape(-1)])
    assert a.shape == b.shape == (8, 48)
    torch.testing.assert_close(a @ both + a.offset, expected)
    torch.testing.assert_close(a.to_dense(), b.to_dense())
    torch.testing.assert_close(a.T.to_dense(), a.to_dense().T)


def test_an_input_of_integers_is_refused():
    with pytest.raises(TypeError, match=r"floating-point numbers, got torch\.int64"):
        sm.local_map(nn.Identity(), torch.arange(3))


def test_weights_that_were_written_to_are_refused():
    module, x = made(Own, (2, 8, 8))
    a = sm.local_map(module, x)
    with torch.no_grad():
        module.conv.weight.add_(1)
    for product in (lambda: a @ x.reshape(-1), lambda: a.row(0)):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product()


def doubled(module):
    with torch.no_grad():
        module[0].weight.mul_(2)


def elsewhere(module):
    module[2] = nn.Linear(4, 3).double()


CHANGES = {
    "a weight": doubled,
    "the mode": nn.Module.train,
    "a part": elsewhere,
    "to NaN": lambda module: nn.init.constant_(module[2].weight, torch.nan),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_product_with_the_jacobian_of_a_network_that_changed_is_refused(change):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.InstanceNorm1d(4, track_running_stats=True))
    module = module.append(nn.Linear(4, 2)).double().eval()
    x = torch.randn(4, 4, dtype=torch.float64)
    jacobian = sm.jacobian(module, x)
    before = jacobian.to_dense()
    torch.testing.assert_close(before, jacobian.to_dense())
    change(module)
    with pytest.raises(ValueError, match=r"^the network must still return what it did, 8 numbers"):
        jacobian @ torch.ones(16, dtype=torch.float64)


def test_a_jacobian_where_the_output_is_not_finite_is_that_of_torch():
    found = sm.jacobian(Of(lambda x: torch.stack([x[0].log(), 1 / x[0], 2 * x[0]])), torch.zeros(1))
    assert found.to_dense().flatten().tolist() == [torch.inf, -torch.inf, 2]


def test_a_jacobian_takes_one_slope_of_prelu_at_zero():
    x = torch.tensor([[0.0, 1.0, -1.0], [0.0, 0.0, 2.0]])
    module = nn.PReLU(2)
    nn.init.constant_(module.weight, 0.25)
    for part in (module, Of(lambda x: x.prelu(module.weight))):
        found = sm.jacobian(part, x)
        torch.testing.assert_close(found.to_dense(), found.T.to_dense().T)
        torch.testing.assert_close(found.to_dense(), sm.local_map(part, x).to_dense())


WITH_BUFFERS = {
    "batch norm": (lambda: nn.BatchNorm1d(3), True),
    "instance norm": (lambda: nn.InstanceNorm1d(3, track_running_stats=True), True),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(5, 2)), False),
    "dropout": (lambda: nn.Dropout(0.5), True),
}


@pytest.mark.parametrize("kind", [sm.local_map, sm.jacobian])
@pytest.mark.parametrize("make, refused", WITH_BUFFERS.values(), ids=WITH_BUFFERS)
def test_a_network_in_training_mode_stays_as_it_is(make, refused, kind):
    module, x = nn.Sequential(make()), torch.randn(3, 5)
    held, before = dict(module.named_buffers()), deepcopy(module.state_dict())
    state = torch.get_rng_state()
    if refused and kind is sm.local_map:
        with pytest.raises(TypeError, match=r"^0: "):
            kind(module, x)
    else:
        found = kind(module, x)
        torch.testing.assert_close(found.to_dense(), found.T.to_dense().T)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert all(buffer is held[name] for name, buffer in module.named_buffers())


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


WRAPPED = {
    "traced": lambda module, x: torch.jit.trace(module, x[None]),
    "on several devices": lambda module, x: nn.DataParallel(module),
    "compiled": lambda module, x: torch.compile(module, backend="eager"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("kind", [sm.local_map, sm.jacobian, sm.secant_map])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_network_in_a_wrapper_is_the_network(wrap, kind):
    module, x = made(Plain, (4,))
    found = kind(wrap(module, x), x)
    torch.testing.assert_close(found.to_dense(), kind(module, x).to_dense())


KINDS = {
    "local map": sm.local_map,
    "Jacobian": sm.jacobian,
    "secant map": sm.secant_map,
    "system": sm.block_system,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_matrices_of_a_network_have_the_vocabulary_of_lazy_ones(kind):
    module, x = made(Own, (2, 8, 8))
    matrix = kind(module, x)
    for one in (matrix, matrix.T, matrix.to(torch.float32), matrix.to(torch.complex128).T):
        names = {name for name in dir(sm.Sum) if name[0] != "_"} - {"terms"}
        assert not {name for name in names if not hasattr(one, name)} - {"parts"}
        assert one.detach() is one and not one.requires_grad and one.num_parameters == 0
        assert deepcopy(one) is one
    v = torch.randn(matrix.shape[1], 2, dtype=torch.float64)
    expected = matrix @ v
    single = matrix.to(torch.float32)
    assert single.dtype == (single @ v.float()).dtype == torch.float32
    torch.testing.assert_close(single @ v.float(), expected.float())
    with pytest.raises(ValueError, match=r"float32 and torch\.float64"):
        single @ v
    assert single.to(torch.float64) is matrix
    wide = matrix.to(torch.complex128)
    torch.testing.assert_close(wide @ (v + 2j * v), expected + 2j * expected)
    u = torch.randn(matrix.shape[0], dtype=torch.float64)
    torch.testing.assert_close(wide.H @ (1j * u), 1j * (matrix.T @ u))
    torch.testing.assert_close(
        ((2 * matrix).to(torch.float32) - single) @ v.float(), single @ v.float()
    )
    torch.testing.assert_close((matrix + matrix).detach() @ v, 2 * expected)
