"""The region of a local map: against the network itself along rays, and against its system."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from whole import Branching, made

import sparsemat as sm

DOUBLE = {"dtype": torch.float64}


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Residual(Branching):
    """An in-place gate, a residual sum, a concatenation, maxima, two bends an entry."""

    def forward(self, x):
        y = self.act(self.norm(self.conv(x)))
        y = y + F.leaky_relu(F.pad(y[:, :2], (0, 0, 0, 0, 0, 2)) - 1, 0.1)
        y = torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(y, 2)], 1).clamp(-0.1, 0.3)
        return self.head(y.mean(-1).flatten(1))


class Unread(nn.Module):
    """A gate whose result nothing reads, and one that is read before its input is overwritten."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x):
        y = self.layer(x)
        self.layer(x.flip(-1)).relu()
        z = y.relu()
        y *= 3
        return y + z


class Chosen(nn.Module):
    """Comparisons with a number, from the left, of two vectors, and of detached numbers."""

    def forward(self, x):
        y = torch.where(x > 0.1, x, 0.3 * x + 0.07)
        y = torch.where(torch.full_like(y, 0.5) <= y, 0.5, y)
        y = torch.where(y < x.roll(1, -1), y, x.roll(1, -1))
        return y.gather(1, x.detach()[:, 1:].topk(2).indices)


POOLS = {
    "1-D": (nn.MaxPool1d(3, 2, 1), (2, 9)),
    "padded and dilated": (nn.MaxPool2d(3, 2, 1, 2), (2, 7, 8)),
    "ceil": (nn.MaxPool2d(2, ceil_mode=True), (2, 5, 7)),
    "3-D": (nn.MaxPool3d(2), (1, 4, 4, 5)),
    "adaptive, 1-D": (nn.AdaptiveMaxPool1d(3), (2, 7)),
    "adaptive": (nn.AdaptiveMaxPool2d((2, 3)), (2, 5, 5)),
    "adaptive, 3-D": (nn.AdaptiveMaxPool3d(2), (1, 3, 4, 5)),
}
NETWORKS = {
    "MLP": (
        lambda: nn.Sequential(
            nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 7), nn.ReLU6(), nn.Linear(7, 3)
        ),
        (6,),
    ),
    "CNN": (Residual, (2, 8, 8)),
    "unread": (Unread, (5,)),
    "comparisons": (Chosen, (6,)),
    "matrix layers": (
        lambda: sm.from_module(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), (2, 8, 8)
        ),
        (2, 8, 8),
    ),
    "entrywise maximum": (
        lambda: Of(lambda x: torch.maximum(x, x.flip(-1) * 2).minimum(torch.ones(5, **DOUBLE))),
        (5,),
    ),
    "maximum along an axis": (lambda: Of(lambda x: x.max(1).values + x.min(-1)[0][:, :1]), (3, 3)),
    "place of a maximum": (lambda: Of(lambda x: x[:, x.argmax(-1)] * 2), (5,)),
    "sorted": (lambda: Of(lambda x: x.sort(-1, descending=True)[0] - x.sort(1)[0]), (5,)),
    "largest": (lambda: Of(lambda x: x.topk(2, -1)[0] - x.topk(3, -1, False)[0][:, :2]), (6,)),
} | {name: (lambda layer=layer: layer, shape) for name, (layer, shape) in POOLS.items()}
each = pytest.mark.parametrize("make, shape", NETWORKS.values(), ids=NETWORKS)


def leaving(region, x, along):
    """How far one can go from x until the first inequality is violated, and which it is."""
    speed = region.G @ along.reshape(-1)
    room = region.h - region.G @ x.reshape(-1)
    times = torch.where(speed > 0, room / speed, torch.inf)
    return times.min().item(), int(times.argmin())


@each
def test_gates_change_just_where_an_inequality_is_violated(make, shape):
    module, x = made(make, shape)
    local = sm.local_map(module, x)
    region = local.region()
    assert region.contains(x)
    # but for maxima of gates that are off, say, which are equal all over the region
    idle = (region.G.to_dense() == 0).all(1)
    assert (region.h - region.G @ x.reshape(-1))[~idle].min() > 0
    assert (region.h[idle] >= 0).all()
    for _ in range(6):
        along = torch.randn(shape, **DOUBLE)
        if not (region.G @ along.reshape(-1) > 0).any():  # it never leaves
            along = -along
        t, row = leaving(region, x, along)
        assert 0 < t < torch.inf
        for inside in (0.3 * t, (1 - 1e-7) * t):
            z = x + inside * along
            there = sm.local_map(module, z)
            assert region.contains(z)
            assert local.same_piece(there)
            error = local @ z.reshape(-1) + local.offset - there.y
            assert error.abs().max() <= 1e-12 * (1 + there.y.abs().max())
        z = x + (1 + 1e-7) * t * along
        there = sm.local_map(module, z)
        assert not region.contains(z)
        changed = [
            k
            for k, (mine, theirs) in enumerate(zip(local.gates, there.gates, strict=True))
            if not torch.equal(mine.choice, theirs.choice)
        ]
        assert changed
        # the same fact may be known to several gates
        assert any(region.rows[k].start <= row < region.rows[k].stop for k in changed)


@each
def test_the_region_is_the_same_from_every_point_of_it(make, shape):
    module, x = made(make, shape)
    region = sm.local_map(module, x).region()
    along = torch.randn(shape, **DOUBLE)
    z = x + min(0.7 * leaving(region, x, along)[0], 1) * along
    other = sm.local_map(module, z).region()
    assert other.rows == region.rows
    v = torch.randn(x.numel(), **DOUBLE)
    torch.testing.assert_close(other.G @ v, region.G @ v)
    torch.testing.assert_close(other.h, region.h)


@each
def test_products_with_g_and_its_transpose_agree(make, shape):
    module, x = made(make, shape)
    G = sm.local_map(module, x).region().G
    dense = G.to_dense()
    torch.testing.assert_close(G.T.to_dense(), dense.T)
    torch.testing.assert_close(G.row(G.shape[0] - 1), dense[-1])
    with torch.no_grad():
        torch.testing.assert_close(G.T @ (G @ x.reshape(-1)), dense.T @ (dense @ x.reshape(-1)))


@pytest.mark.parametrize("name", ["MLP", "CNN", "matrix layers"])
def test_the_smallest_distance_is_that_to_the_border(name):
    module, x = made(*NETWORKS[name])
    local = sm.local_map(module, x)
    region = local.region()
    distances = region.distances()
    assert distances.shape == region.h.shape
    least, row = distances.min(0)
    for _ in range(10):
        step = torch.randn(x.shape, **DOUBLE)
        z = x + (1 - 1e-6) * least * step / step.norm()
        assert local.same_piece(sm.local_map(module, z))
    normal = region.G.row(int(row)).view(x.shape)
    z = x + (1 + 1e-6) * least * normal / normal.norm()
    assert not local.same_piece(sm.local_map(module, z))


def test_the_rows_are_those_of_transposed_solves():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)
    ).double()
    x = torch.randn(1, 6, 6, **DOUBLE)
    region, system = sm.local_map(module, x).region(), sm.block_system(module, x)
    z = system.solve(system.right_hand_side())
    rows, bounds = [], []
    for node in system.nodes:
        if node.depends == "gates":
            read = system.nodes[node.reads[0]]
            at = torch.arange(read.start, read.stop)
            solved = system.T.solve(torch.eye(len(z), **DOUBLE)[:, at])[: x.numel()].T
            sign = torch.where(z[at] > 0, -1.0, 1.0)
            rows.append(sign[:, None] * solved)
            bounds.append(sign * (solved @ x.reshape(-1) - z[at]))
    torch.testing.assert_close(region.G.to_dense(), torch.cat(rows))
    torch.testing.assert_close(region.h, torch.cat(bounds))
    assert region.rows == (slice(0, 48), slice(48, 66))


@pytest.mark.parametrize("name", POOLS)
def test_a_maximum_has_a_row_for_every_other_pixel_of_its_window(name):
    layer, shape = POOLS[name]
    torch.manual_seed(0)
    x = torch.randn(shape, **DOUBLE)
    G = sm.local_map(layer, x).region().G.to_dense()
    assert torch.equal(G.sum(1), torch.zeros(len(G), **DOUBLE))
    assert torch.equal(G.abs().sum(1), torch.full((len(G),), 2.0, **DOUBLE))
    # what a window reads, by what reaches its output when it is the largest
    pixels = x.numel()
    bright = -torch.ones(pixels, **DOUBLE) + 2 * torch.eye(pixels, **DOUBLE)
    read = (layer(bright.view(pixels, *shape)).reshape(pixels, -1) == 1).T
    winner = sm.local_map(layer, x).to_dense().argmax(1)
    expected = {
        (int(w), int(p))
        for w, own in zip(winner, read, strict=True)
        for p in own.nonzero()
        if p != w
    }
    assert {(int(row.argmin()), int(row.argmax())) for row in G} == expected
    assert len(G) == int(read.sum()) - len(read)


def test_an_entry_between_two_bends_has_two_rows():
    x = torch.tensor([-2.0, 0.25, 2.0, 1.0])
    region = sm.local_map(Of(lambda x: F.hardtanh(x, -0.5, 0.5)), x).region()
    assert torch.equal(region.G.to_dense().nonzero()[:, 1], torch.tensor([0, 1, 1, 2, 3]))
    assert torch.equal(region.h, torch.tensor([-0.5, 0.5, 0.5, -0.5, -0.5]))
    assert torch.equal(region.distances(), torch.tensor([1.5, 0.25, 0.75, 1.5, 0.5]))


@pytest.mark.parametrize("bend, rows", {torch.relu: 1, torch.abs: 2}.items())
def test_on_a_bend_the_region_is_that_of_the_choice(bend, rows):
    x = torch.zeros(1)
    region = sm.local_map(Of(bend), x).region()
    assert region.G.shape[0] == rows
    assert region.contains(x)
    assert not region.contains(x + 1)
    assert region.contains(x - 1) == (rows == 1)
    assert region.distances().min() == 0


def test_without_gates_the_region_is_everything():
    region = sm.local_map(nn.Linear(3, 2), torch.randn(3)).region()
    assert region.G.shape == (0, 3)
    assert region.rows == ()
    assert region.contains(1e6 * torch.randn(3))
    assert region.distances().shape == (0,)


def test_several_inputs():
    torch.manual_seed(0)
    layer = nn.Linear(5, 4).double()
    module = Of(lambda x, times, y: layer(torch.cat([x * times[0], y], 1)).relu())
    x, y, times = torch.randn(2, **DOUBLE), torch.randn(3, **DOUBLE), torch.tensor(2)
    local = sm.local_map(module, x, times, y)
    region = local.region()
    for _ in range(20):
        other = x + torch.randn(2, **DOUBLE), y + torch.randn(3, **DOUBLE)
        there = sm.local_map(module, other[0], times, other[1])
        assert region.contains(*other) == local.same_piece(there)
    with pytest.raises(ValueError, match=r"cols=5, got \(2,\)"):
        region.contains(x)


REFUSED = {
    r"^0: gt must be a gate": lambda x: x * (2 * x.detach() > 1),
    r"^0: _to_copy must": lambda x: x * x.long(),
    r"^0: eq must": lambda x: torch.where(x == 0, x, 2 * x),
    r"^0: topk must": lambda x: x.topk(2, sorted=False)[0],
}


@pytest.mark.parametrize("message", REFUSED)
def test_choices_without_known_inequalities_are_named(message):
    local = sm.local_map(nn.Sequential(Of(REFUSED[message])), torch.randn(4))
    with pytest.raises(TypeError, match=message):
        local.region()
