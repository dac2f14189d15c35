"""A network as one triangular system, against the network, SciPy, autograd and formulas."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torchvision
from scipy.sparse.linalg import spsolve_triangular
from torch import nn
from torch.nn import functional as F
from torchvision.models import densenet, mobilenetv2
from whole import Branching, with_statistics

import sparsemat as sm
from sparsemat.networks.build import _verify
from sparsemat.networks.gates import SLOPES
from sparsemat.networks.piecewise import GATES

DOUBLE = {"dtype": torch.float64}


class Residual(Branching):
    """A residual sum, a concatenation, padding, functional and in-place gates, writes to slices."""

    def forward(self, x):
        y = self.act(self.norm(self.conv(x)))
        y = F.leaky_relu(y + F.pad(x, (0, 0, 0, 0, 0, 2), value=0.5), 0.1) / 2
        y = torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(y, 2, padding=1)[..., 1:, 1:]], 1)
        y = y.clamp(-0.3, 0.4).roll(1, -1)
        z = torch.ones_like(y)
        z[..., :2] = y[..., 2:] - 0.5 * y[..., :2]
        z[:, 0] += 1
        return self.head(z.mean(-1).flatten(1)).abs()


class Shared(nn.Module):
    """One part called twice, at two places."""

    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(4, 4), nn.Hardtanh(-0.5, 0.5)

    def forward(self, x):
        return torch.maximum(self.act(self.layer(self.act(self.layer(x)))), 0.3 * x)


class Resampled(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Upsample(scale_factor=2),
            nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2),
            nn.Upsample(size=(7, 9), mode="bilinear"),
            nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="reflect"),
            nn.PReLU(6),
            nn.PixelUnshuffle(1),
            nn.AdaptiveAvgPool2d(3),
            nn.AdaptiveMaxPool2d(2),
        )


class Sorted(nn.Module):
    def forward(self, x):
        top, _ = x.topk(3, -1)
        return top + x.sort(-1).values[..., :3] * x.max(-1, keepdim=True).values.detach().sign()


class Written(nn.Module):
    """Writes in place to what the same operation reads."""

    def forward(self, x):
        p = F.pad(x, (1, 1), value=3.0)
        p.add_(p)
        p[:, 1:].sub_(p[:, :-1].clone())
        return p.div_(4)


LINEAR = {  # piecewise linear
    "writes": (Written, (4,)),
    "upsampling to a size": (
        lambda: nn.Sequential(nn.Upsample(size=(7, 9)), nn.Upsample(size=11, mode="bilinear")),
        (2, 3, 4),
    ),
    "upsampling by a factor computed anew": (
        lambda: nn.Upsample(scale_factor=1.7, recompute_scale_factor=True),
        (2, 3, 4),
    ),
    "MLP": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 3)), (6,)),
    "CNN with sums and concatenations": (Residual, (2, 8, 8)),
    "shared parts": (Shared, (4,)),
    "resampling": (Resampled, (2, 3, 4)),
    "selections": (Sorted, (7,)),
    "1-D": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.AvgPool1d(2)),
        (2, 14),
    ),
    "3-D": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.ReLU(), nn.MaxPool3d(2), nn.AvgPool3d(2)),
        (1, 5, 5, 5),
    ),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None, num_classes=4), (3, 32, 32)),
    "MobileNet block": (lambda: mobilenetv2.InvertedResidual(3, 3, 1, 2), (3, 6, 6)),
    "DenseNet": (lambda: densenet.DenseNet(4, (2, 2), 8, num_classes=4), (3, 32, 32)),
    "matrix layers": (
        lambda: sm.from_module(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            (2, 8, 8),
            form="native",
        ),
        (2, 8, 8),
    ),
}


class Squeezed(nn.Module):
    """A gate on the right, a product with itself, a quotient, a complex detour for a gate."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x):
        turned = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2).contiguous()).abs()
        y = x * torch.sigmoid(self.gate(x)) + x * x / (1 + turned.sum(-1, keepdim=True))
        return F.glu(torch.cat([y, x], -1)) @ (x.mT @ y)


CURVED = {
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 8)),
    "encoder layer, norm first, GELU": (
        lambda: nn.TransformerEncoderLayer(
            8, 2, 16, activation="gelu", norm_first=True, batch_first=True
        ),
        (3, 8),
    ),
    "vision transformer": (
        lambda: torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=3),
        (3, 16, 16),
    ),
    "norms": (
        lambda: nn.Sequential(
            nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(5), nn.RMSNorm(5)
        ),
        (4, 5, 5),
    ),
    "batch norm in training mode": (lambda: nn.Sequential(nn.BatchNorm1d(3)).train(), (3, 4)),
    "smooth gates": (
        lambda: nn.Sequential(
            nn.Linear(5, 5), nn.SiLU(), nn.Linear(5, 5), nn.GELU(), nn.Hardswish(), nn.Softplus()
        ),
        (5,),
    ),
    "products": (Squeezed, (3, 4)),
    "softmax": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Softmax(-1), nn.Linear(5, 2)), (4,)),
    "log softmax": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LogSoftmax(-1)), (4,)),
    "norms without scales": (
        lambda: nn.Sequential(nn.InstanceNorm2d(4), nn.BatchNorm2d(4, affine=False)),
        (4, 3, 5),
    ),
    "1-D norm without scales": (lambda: nn.Sequential(nn.InstanceNorm1d(4)), (4, 7)),
    "batch norm without scales in training mode": (
        lambda: nn.Sequential(nn.BatchNorm1d(3, affine=False)).train(),
        (3, 4),
    ),
    "LSTM": (lambda: nn.LSTM(3, 4, 2, bidirectional=True), (5, 3)),
    "GRU": (lambda: nn.GRU(3, 4, 2, batch_first=True), (5, 3)),
    "mobilenet_v3": (
        lambda: torchvision.models.mobilenet_v3_small(weights=None, num_classes=3),
        (3, 32, 32),
    ),
}
CASES = LINEAR | CURVED


def made(name):
    make, shape = CASES[name]
    torch.manual_seed(0)
    model = make().double()
    if "training" not in name:
        model.eval()
    with_statistics(model)
    if hasattr(model, "heads"):
        nn.init.normal_(model.heads.head.weight)  # torchvision's starts at zero
    return model, torch.randn(shape, **DOUBLE)


def called(model, x):
    with torch.no_grad():
        output = model(x[:, None] if getattr(model, "batch_first", True) is False else x[None])
    return (output[0] if isinstance(output, tuple) else output).reshape(-1)


@pytest.mark.parametrize("name", CASES)
def test_one_triangular_solve_is_the_network(name):
    model, x = made(name)
    system = sm.block_system(model, x)
    expected = called(model, x)
    scale = expected.abs().max()
    assert torch.equal(system.y, expected) or (system.y - expected).abs().max() <= 1e-12 * scale

    matrix, r = system.to_scipy(), system.right_hand_side()
    assert (matrix.diagonal() == 1).all()
    rows = np.repeat(np.arange(len(r)), np.diff(matrix.indptr))
    assert (matrix.indices <= rows).all()
    assert ((rows - matrix.indices == 0).sum()) == len(r)

    z = torch.from_numpy(spsolve_triangular(matrix, r.numpy(), lower=True, unit_diagonal=True))
    assert (system.output(z) - expected).abs().max() <= 1e-12 * scale
    assert (system.solve(r) - z).abs().max() <= 1e-12 * z.abs().max()
    v = torch.randn(len(r), **DOUBLE)
    assert np.abs((system @ v).numpy() - matrix @ v.numpy()).max() <= 1e-12 * abs(matrix).max()
    back = (system.T @ v).numpy() - matrix.T @ v.numpy()
    assert np.abs(back).max() <= 1e-11 * abs(matrix).max()
    torch.testing.assert_close(system.T @ system.T.solve(v), v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_blocks_stand_in_the_order_of_the_run(name):
    model, x = made(name)
    system = sm.block_system(model, x)
    matrix, stop = system.to_scipy(), 0
    starts = [node.start for node in system.nodes]
    for k, node in enumerate(system.nodes):
        assert node.start == stop
        stop = node.stop
        block = matrix[node.start : node.stop]
        columns = block.indices[block.indices < node.start]
        found = np.unique(np.searchsorted(starts, columns, "right") - 1)
        assert set(found) <= set(node.reads) <= set(range(k))
        assert len(columns) <= node.nnz
    assert stop == system.shape[0]
    assert {node.depends for node in system.nodes} <= {
        "", "gates", "selection", "attention", "statistics", "product",
    }  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_of_a_piecewise_linear_network_it_solves_the_jacobian(name):
    model, x = made(name)
    secant, jacobian = sm.secant_map(model, x), sm.jacobian(model, x)
    for i in (0, len(secant.y) - 1):
        row = jacobian.row(i)
        assert (secant.row(i) - row).abs().max() <= 1e-12 * row.abs().max()
    v = torch.randn(x.numel(), **DOUBLE)
    along = jacobian @ v
    assert (secant @ v - along).abs().max() <= 1e-12 * along.abs().max()
    assert (secant.offset - jacobian.offset).abs().max() <= 1e-11 * secant.y.abs().max()
    assert {node.depends for node in secant.system.nodes} <= {"", "gates", "selection"}


@pytest.mark.parametrize("name", CURVED)
def test_of_another_network_it_is_the_output_and_not_the_jacobian(name):
    model, x = made(name)
    secant = sm.secant_map(model, x)
    expected = called(model, x)
    error = secant @ x.reshape(-1) + secant.offset - expected
    assert error.abs().max() <= 1e-12 * expected.abs().max()
    u = torch.randn(len(expected), **DOUBLE)
    torch.testing.assert_close(secant.T @ u @ x.reshape(-1), u @ (secant @ x.reshape(-1)))
    if name != "log softmax" and not isinstance(model, nn.RNNBase):
        jacobian = sm.jacobian(model, x)
        difference = jacobian.row(0) - secant.row(0)
        assert difference.norm() > 1e-3 * jacobian.row(0).norm()


def test_the_jacobian_is_that_of_torch():
    model, x = made("encoder layer, norm first, GELU")
    expected = torch.func.jacrev(lambda x: model(x[None]).reshape(-1))(x).reshape(24, 24)
    torch.testing.assert_close(sm.jacobian(model, x).to_dense(), expected.detach())


def test_the_matrix_of_attention_is_that_of_the_book():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True).double().eval()

    class Itself(nn.Module):
        def forward(self, x):
            return attention(x, x, x)[0]

    x = torch.randn(4, 6, **DOUBLE)
    layer = sm.from_module(attention, (4, 6))
    expected = layer.matrix(x).to_dense().detach()
    torch.testing.assert_close(sm.secant_map(Itself(), x).to_dense(), expected)


def test_the_matrices_of_norms_and_gates_are_their_formulas():
    torch.manual_seed(0)
    x, weight = torch.randn(5, **DOUBLE), torch.randn(5, **DOUBLE)
    center = torch.eye(5, **DOUBLE) - 1 / 5
    deviation = (x.var(correction=0) + 1e-5).sqrt()
    norm, scale = nn.LayerNorm(5).double(), nn.RMSNorm(5, eps=1e-5).double()
    for layer in (norm, scale):
        layer.weight.data.copy_(weight)
    root = (x.square().mean() + 1e-5).sqrt()
    formulas = [
        (norm, torch.diag(weight / deviation) @ center),
        (scale, torch.diag(weight / root)),
        (nn.GELU(), torch.diag((1 + torch.erf(x / 2**0.5)) / 2)),
        (nn.SiLU(), torch.diag(x.sigmoid())),
        (nn.Tanh(), torch.diag(x.tanh() / x)),
    ]
    for layer, expected in formulas:
        torch.testing.assert_close(sm.secant_map(layer, x).to_dense(), expected)


def test_a_gate_at_zero_has_the_slope_there():
    x = torch.tensor([0.0, 1e-12, -1e-12], **DOUBLE)
    for function, slope in ((torch.tanh, 1.0), (F.silu, 0.5), (torch.relu, 0.0)):
        system = sm.secant_map(Function(function), x)
        found = system.to_dense().diagonal()
        torch.testing.assert_close(found[:1], torch.tensor([slope], **DOUBLE), atol=1e-7, rtol=0)
        torch.testing.assert_close(system @ x, function(x), atol=1e-19, rtol=0)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


ROOTS = {
    "square root": lambda x: x**0.5,
    "power of a tensor": lambda x: x ** torch.tensor([0.9, 0.3, 0.5, 0.1]).to(x),
    "root of the absolute value": lambda x: x.abs() ** 0.25,
    "shrunk by little": lambda x: F.hardshrink(x, 1e-13),
    "softplus with a sharp bend": lambda x: F.softplus(x, beta=1e6),
}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ROOTS)
def test_near_zero_every_entry_is_the_function(name, kind):
    x = torch.tensor([1e-16, 1e-8, 1e-5, 4.0], dtype=kind)
    secant, expected = sm.secant_map(Function(ROOTS[name]), x), ROOTS[name](x)
    rounding = 4 * torch.finfo(kind).eps
    torch.testing.assert_close(secant @ x + secant.offset, expected, rtol=rounding, atol=0)
    slopes = (expected - secant.offset) / x
    if not secant.offset.any():
        torch.testing.assert_close(secant.to_dense(), slopes.diag(), rtol=rounding, atol=0)


def test_at_zero_a_power_has_a_slope_or_is_refused():
    x = torch.tensor([0.0, 2.0], **DOUBLE)
    for power, slope in ((1, 1.0), (1.5, 0.0), (2, 0.0)):
        found = sm.secant_map(Function(lambda x, p=power: x**p), x).to_dense()[0, 0]
        assert abs(found - slope) <= 2e-4
    for power in (0.1, 0.5, 0.9):
        with pytest.raises(TypeError, match="pow of the input has no form as matrices"):
            sm.block_system(Function(lambda x, p=power: x**p), x)


def test_a_softmax_that_rounding_would_hide_is_refused():
    low, high = torch.tensor([-30.0, -31.0]), torch.tensor([30.0, -31.0])
    softmax = Function(lambda x: x.softmax(-1))
    with pytest.raises(TypeError, match="_softmax of the input has no form as matrices"):
        sm.secant_map(softmax, low)
    secant = sm.secant_map(softmax, high)
    torch.testing.assert_close(secant @ high + secant.offset, high.softmax(-1))


def test_every_entry_of_the_output_is_compared():
    system = sm.block_system(Function(lambda x: x * 1), torch.tensor([1e-9, 1.0], **DOUBLE))
    system.y[0] *= 2
    with pytest.raises(RuntimeError, match="2e-09 at entry 0, got an error of 1e-09"):
        _verify(system)


def test_what_honest_rounding_leaves_of_a_sum_passes():
    torch.manual_seed(0)
    x, weight = torch.randn(1000), torch.randn(2, 1000)
    weight[0] *= 1e-3
    weight[1] -= (weight[1] @ x) / (x @ x) * x  # the sum is nothing but rounding
    system = sm.block_system(Function(lambda x: x @ weight.T), x)
    system.y[1] += 1e-5
    _verify(system)
    system.y[1] += 0.1
    with pytest.raises(RuntimeError, match="at entry 1"):
        _verify(system)


def test_the_unknowns_are_the_outputs_of_the_parts():
    model, x = made("resnet18")
    seen = {}
    for path, part in model.named_modules():
        if isinstance(part, (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear)):
            part.register_forward_hook(
                lambda _, args, output, path=path: seen.update({path: output.clone()})
            )
    system = sm.block_system(model, x)
    z = system.solve(system.right_hand_side())
    nodes = {node.path: node for node in system.nodes}
    assert len(seen) == 42
    assert len(system.nodes) == 69  # and the input, 17 gates, 8 sums, an average
    for path, expected in seen.items():
        found = z[nodes[path].start : nodes[path].stop].view(nodes[path].shape)
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_what_only_decides_coefficients_is_no_unknown():
    model, x = made("encoder layer")
    kinds = [(node.path, node.kind, node.depends) for node in sm.block_system(model, x).nodes]
    assert kinds[:4] == [
        ("", "input", ""),
        ("self_attn", "addmm", ""),
        ("self_attn", "bmm", "attention"),  # no scores, no softmax
        ("self_attn", "addmm", ""),
    ]


def test_other_inputs_meet_the_frozen_gates():
    model, x = made("CNN with sums and concatenations")
    system, local = sm.block_system(model, x), sm.local_map(model, x)
    other = torch.randn_like(x)
    found = system.output(system.solve(system.right_hand_side(other)))
    torch.testing.assert_close(found, local @ other.reshape(-1) + local.offset)
    with pytest.raises(ValueError, match="inputs must have 128 entries, got 6"):
        system.right_hand_side(torch.zeros(6, **DOUBLE))


def test_it_is_a_snapshot_and_leaves_the_network_alone():
    model, x = made("batch norm in training mode")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    system = sm.block_system(model, x)
    r = system.right_hand_side()
    z = system.solve(r)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(part._forward_hooks for part in model.modules())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert torch.equal(system.solve(r), z)


def test_a_local_map_outlives_other_runs_of_the_network():
    model, x = made("CNN with sums and concatenations")
    local = sm.local_map(model, x)
    before = local @ x.reshape(-1)
    sm.block_system(model, x)
    sm.summary(model, x[None])
    assert torch.equal(local @ x.reshape(-1), before)


def test_several_inputs():
    torch.manual_seed(0)
    model = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True).double().eval()
    x, memory = torch.randn(3, 8, **DOUBLE), torch.randn(5, 8, **DOUBLE)
    secant = sm.secant_map(model, x, memory)
    assert secant.shape == (24, 64)
    expected = model(x[None], memory[None]).detach().reshape(-1)
    both = torch.cat([x.reshape(-1), memory.reshape(-1)])
    torch.testing.assert_close(secant @ both + secant.offset, expected)
    sides = torch.autograd.functional.jacobian(
        lambda x, memory: model(x[None], memory[None]).reshape(-1), (x, memory)
    )
    jacobian = sm.jacobian(model, x, memory)
    torch.testing.assert_close(
        jacobian.to_dense(), torch.cat([side.reshape(24, -1) for side in sides], 1)
    )
    torch.testing.assert_close(jacobian.row(3), jacobian.to_dense()[3])


def test_sequences_may_have_their_steps_first():
    torch.manual_seed(0)
    attention, x = sm.SelfAttention(4, 2).double(), torch.randn(5, 4, **DOUBLE)
    expected = torch.autograd.functional.jacobian(lambda x: attention(x[:, None])[:, 0], x)
    found = sm.jacobian(attention, x).to_dense()
    torch.testing.assert_close(found, expected.reshape(20, 20))
    assert not torch.allclose(
        found, torch.block_diag(*(found[i : i + 4, i : i + 4] for i in range(0, 20, 4)))
    )


def test_in_single_precision():
    model, x = made("MLP")
    system = sm.block_system(model.float(), x.float())
    assert system.to_scipy().dtype == np.float32
    torch.testing.assert_close(system.output(system.solve(system.right_hand_side())), system.y)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_scipy_has_the_same_numbers(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)).to(kind)
    system = sm.block_system(model, torch.randn(1, 4).to(kind))
    matrix = system.to_scipy()
    assert matrix.dtype == np.float32
    dense = system.to_dense().float().numpy()
    assert np.abs(matrix.toarray() - dense).max() == 0


def test_what_only_decides_coefficients_may_have_another_type():
    x = torch.randn(4, **DOUBLE)
    soft = Function(lambda x: x * x.float().softmax(-1).double())
    expected = x.float().softmax(-1).double().diag()
    assert torch.equal(sm.secant_map(soft, x).to_dense(), expected)


def test_a_matrix_of_a_run_is_copied_and_not_pickled():
    model, x = made("MLP")
    secant, local = sm.secant_map(model, x), sm.local_map(model, x)
    for matrix in (secant, secant.system, secant.T, local, sm.jacobian(model, x), local.region().G):
        assert copy.copy(matrix) is copy.deepcopy(matrix) is matrix
        with pytest.raises(TypeError, match="must stay in the process that made it, got pickled"):
            pickle.dumps(matrix)


ZERO, ONE = torch.zeros((), **DOUBLE), torch.ones((), **DOUBLE)
MET = {  # where pieces meet
    "relu": F.relu,
    "abs": torch.abs,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda x: F.prelu(x, ONE[None] / 4),
    "threshold": lambda x: F.threshold(x, 1, 1),
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(0, 1),
    "clamp by tensors": lambda x: x.clamp(ZERO, ONE),
    "clamp_min by a tensor": lambda x: x.clamp_min(ZERO),
    "clamp_max by a tensor": lambda x: x.clamp_max(ONE),
    "maximum": lambda x: torch.maximum(x, ONE),
    "minimum": lambda x: torch.minimum(3 * x, x),
    "both of one input": lambda x: torch.maximum(x, x) - torch.minimum(x, 2 * x.flip(1)),
    "maximum along an axis": lambda x: x.max(1).values,
    "pool": lambda x: F.max_pool1d(x, 2),
}


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("function", MET.values(), ids=MET)
def test_where_pieces_meet_it_takes_the_slopes_of_torch(function):
    x = torch.tensor([-1, 0, 0, 1, 1, 2], **DOUBLE)
    secant, y = sm.secant_map(Of(function), x), function(x[None])[0]
    expected = torch.func.jacrev(lambda x: function(x[None]).reshape(-1))(x)
    torch.testing.assert_close(secant.to_dense(), expected)
    torch.testing.assert_close((secant @ x + secant.offset).reshape(y.shape), y)


def test_the_slopes_are_those_of_the_gates_of_the_local_map():
    assert set(GATES) <= set(SLOPES)


def test_the_picture_shows_who_reads_whom():
    plt = pytest.importorskip("matplotlib.pyplot")
    model, x = made("encoder layer")
    system = sm.block_system(model, x)
    ax = system.picture()
    image = ax.images[0].get_array()
    shown = {(i, j) for i, j in zip(*np.nonzero(~np.isnan(image.filled(np.nan))), strict=True)}
    reads = {(k, j) for k, node in enumerate(system.nodes) for j in node.reads}
    assert shown == reads | {(k, k) for k in range(len(system.nodes))}
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["fixed", "gates", "attention", "statistics", "identity"]
    plt.close(ax.figure)


def fourier(x):
    return torch.fft.rfft(x).real


def test_what_is_written_to_an_out_is_followed():
    def network(x):  # autograd has no such operations
        y = torch.cat([x, 2 * x], 1, out=x.new_empty(0))
        torch.add(y.new_ones(1, 1), y.new_ones(1), out=y[:, :1])  # no longer of the input
        return torch.mul(y, 2, out=y)

    x = torch.randn(4, **DOUBLE)
    secant = sm.secant_map(Function(network), x)
    expected = torch.cat([2 * torch.eye(4, **DOUBLE), 4 * torch.eye(4, **DOUBLE)])
    expected[0] = 0
    assert torch.equal(secant.to_dense(), expected)
    assert torch.equal(secant.offset, torch.tensor([4.0] + 7 * [0.0], **DOUBLE))


REFUSED = {
    r"1: log of the input has no form as matrices; its Jacobian, from sparsemat.jacobian": (
        lambda: nn.Sequential(nn.Linear(4, 4), Function(lambda x: x.abs().log())),
        TypeError,
    ),
    r"0: cumsum of the input": (lambda: nn.Sequential(Function(lambda x: x.cumsum(-1))), TypeError),
    r"_fft_r2c of the input": (lambda: Function(fourier), TypeError),
    r"reciprocal of the input": (lambda: Function(lambda x: 1 / x), TypeError),
    r"must return a tensor, got dict": (lambda: Function(lambda x: {"y": x}), TypeError),
    r"must return at least one number": (lambda: Function(lambda x: x[:, :0]), ValueError),
    r"0: native_layer_norm of the input": (
        lambda: nn.Sequential(Function(lambda x: F.layer_norm(x, (4,), weight=x[0]))),
        TypeError,
    ),
    r"native_group_norm of the input": (
        lambda: Function(lambda x: F.group_norm(x, 2, bias=x[0])),
        TypeError,
    ),
    r"native_batch_norm of the input": (
        lambda: Function(lambda x: F.batch_norm(x, x[0], x[0] ** 2)),
        TypeError,
    ),
    r"_foreach_add of the input": (
        lambda: Function(lambda x: (torch._foreach_add_([x], 1.0), x)[1]),
        TypeError,
    ),
    r"1: _to_copy from torch.float32 to torch.float64 of the input .* one type": (
        lambda: nn.Sequential(Function(lambda x: x.float()), Function(lambda x: x.double())),
        TypeError,
    ),
    r"0: _to_copy from torch.float64 to torch.bfloat16 of the input": (
        lambda: nn.Sequential(Function(lambda x: x.bfloat16())),
        TypeError,
    ),
    r"mul from torch.float32 to torch.float64 of the input": (
        lambda: Function(lambda x: x.float() * torch.ones(4, **DOUBLE)),
        TypeError,
    ),
    r"must return finite numbers": (lambda: Function(lambda x: x * float("inf")), ValueError),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_form_is_named(message):
    make, kind = REFUSED[message]
    with pytest.raises(kind, match=message):
        sm.block_system(make().double(), torch.randn(4, **DOUBLE))


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"floating-point numbers, got torch\.int64"):
        sm.block_system(nn.Identity(), torch.arange(3))
    with pytest.raises(TypeError, match="floating-point numbers, got None"):
        sm.block_system(nn.Identity())
    with pytest.raises(TypeError, match="floating-point numbers, got list"):
        sm.jacobian(nn.Identity(), [1.0])
    system = sm.block_system(nn.Linear(2, 2), torch.randn(2))
    with pytest.raises(ValueError, match=r"shape \(n,\) or \(n, k\) with n=4, got \(3,\)"):
        system.solve(torch.zeros(3))
    with pytest.raises(ValueError, match=r"one type, got torch\.float32 and torch\.float64"):
        system.solve(torch.zeros(4, **DOUBLE))
