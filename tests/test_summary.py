"""The table of a network against torch's flop counter, autograd and direct counts."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sparsemat as sm


def jacobian(module, x):
    matrix = torch.autograd.functional.jacobian(lambda x: module(x[None])[0], x)
    return matrix.reshape(-1, x.numel())


FIXED = {
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, 2, 1), (2, 7, 6)),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 2, 3, groups=2, dilation=2), (4, 8, 7)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1), (2, 4, 3)),
    "Linear, tokens": (lambda: nn.Linear(3, 4), (5, 3)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), (2, 7, 6)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2).eval(), (2, 3, 3)),
    "ReLU": (nn.ReLU, (2, 5)),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), (2, 7, 6)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 3, 2)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2), (2, 5)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(2), (2, 2, 1, 3)),
    "InstanceNorm2d, running": (
        lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True).eval(),
        (2, 3, 3),
    ),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(2), (2, 5)),
}


@pytest.mark.parametrize("make, shape", FIXED.values(), ids=FIXED)
def test_shape_nonzeros_and_bands_are_those_of_the_jacobian(make, shape):
    torch.manual_seed(0)
    module = make().double()
    (row,) = sm.summary(module, shape).rows
    # positive inputs open every gate
    matrix = jacobian(module, torch.rand(shape, dtype=torch.float64) + 0.1)
    at = matrix.nonzero()
    assert row.shape == tuple(matrix.shape)
    assert row.nnz == len(at)
    assert row.density == len(at) / matrix.numel()
    size = 8 if row.parameters else 4  # without parameters the input has the default type
    assert row.dense_bytes == size * matrix.numel()
    assert row.parameters == sum(p.numel() for p in module.parameters())
    if row.lower is not None:
        distance = at[:, 0] - at[:, 1]
        assert (row.lower, row.upper) == (max(0, distance.max()), max(0, -distance.min()))


class Thousands(nn.Module):
    """Some four thousand neurons."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.scale = nn.GroupNorm(2, 4)
        self.mean, self.head = nn.AvgPool2d(3, 2, 1), nn.Linear(64, 10)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.conv(x))))
        return self.head(self.mean(x + self.scale(self.inner(x))).flatten(1))


def test_every_row_of_a_network_is_that_of_brute_force():
    torch.manual_seed(0)
    module = Thousands().double().eval()
    table = sm.summary(module, (3, 16, 16))
    assert sum(row.shape[0] for row in table.rows) > 3000
    for row in table.rows:
        part = module.get_submodule(row.name)
        x = torch.rand(row.input[1:], dtype=torch.float64) + 0.1  # positive: all gates are open
        at = torch.autograd.functional.jacobian(lambda x, p=part: p(x[None])[0], x, vectorize=True)
        at = at.reshape(-1, x.numel()).nonzero()
        assert (row.shape[1], row.nnz) == (x.numel(), len(at)), row.name
        if row.lower is not None:
            distance = at[:, 0] - at[:, 1]
            assert (row.lower, row.upper) == (max(0, distance.max()), max(0, -distance.min()))
    assert table.total("nnz") == sum(row.nnz for row in table.rows)
    assert table.parameters == table.total("parameters")


def test_an_input_inside_a_dictionary():
    class Batch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, batch):
            return self.linear(batch["x"])

    (row,) = sm.summary(Batch(), ({"x": torch.randn(2, 3)},)).rows
    assert (row.shape, row.nnz) == ((4, 3), 12)


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


class WithoutPadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.down = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 2, 2, groups=2)
        self.up, self.head = nn.ConvTranspose2d(6, 2, 3, bias=False), nn.Linear(2 * 8 * 8, 5)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head(self.up(self.down(x)).flatten(1))


def test_operations_are_those_of_torch_where_nothing_is_padded():
    module = WithoutPadding()
    x = torch.randn(1, 3, 14, 14)
    table = sm.summary(module, (3, 14, 14))
    assert table.total("operations") == table.torch_operations == counted(lambda: module(x))
    assert table.outside == 0
    assert [row.name for row in table.rows] == ["conv", "down", "up", "head"]


@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}, {"add_bias_kv": True}], ids=str)
def test_operations_of_attention_are_those_of_its_products(options):
    module = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    q = torch.randn(2, 4, 8)
    k, v = torch.randn(2, 6, module.kdim), torch.randn(2, 6, module.vdim)
    (row,) = sm.summary(module, (q, k, v)).rows
    assert row.operations == counted(lambda: module(q, k, v)) // 2
    assert row.shape == (4 * 8, 6 * module.vdim) and row.depends == "attention"


def by_hand(module, x):
    """The products of a recurrence, step by step."""
    lines = []
    for layer in range(module.num_layers):
        for side in ("", "_reverse")[: 1 + module.bidirectional]:
            w_ih, w_hh = (getattr(module, f"weight_{kind}_l{layer}{side}") for kind in ("ih", "hh"))
            lines.append((w_ih, w_hh, getattr(module, f"weight_hr_l{layer}{side}", None)))
    for w_ih, w_hh, w_hr in lines:
        for _ in range(x.shape[1]):
            torch.zeros(1, w_ih.shape[1]) @ w_ih.t()
            torch.zeros(1, w_hh.shape[1]) @ w_hh.t()
            if w_hr is not None:
                torch.zeros(1, w_hr.shape[1]) @ w_hr.t()


RECURRENT = {
    "RNN": lambda: nn.RNN(3, 4, 2, batch_first=True),
    "GRU": lambda: nn.GRU(3, 4, batch_first=True, bidirectional=True),
    "LSTM": lambda: nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
    "LSTM, projected": lambda: nn.LSTM(3, 4, 2, batch_first=True, proj_size=2),
}


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_operations_of_recurrences_are_those_of_their_steps(make):
    module, x = make(), torch.randn(1, 6, 3)
    (row,) = sm.summary(module, (6, 3)).rows
    assert row.operations == counted(lambda: by_hand(module, x))
    assert row.parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_a_model_on_meta_has_the_same_table_and_allocates_nothing(name):
    size = 224 if name.startswith("vit") else 64
    with torch.device("meta"):
        module = getattr(torchvision.models, name)(weights=None).eval()
    table = sm.summary(module, (3, size, size))
    assert all(p.is_meta for p in module.parameters())
    assert table.parameters == sum(p.numel() for p in module.parameters())
    # convolutions and linear layers, where the counter counts taps of padding, too
    assert table.total("operations") > 0 and table.rows[0].kind == "Conv2d"
    if name == "resnet18":
        real = torchvision.models.resnet18(weights=None).eval()
        assert sm.summary(real, (3, size, size)) == table
    if name.startswith("vit"):
        tokens, d = 197, 768
        layer = 2 * (4 * tokens * d * d + 2 * tokens**2 * d)
        attention = [row.operations for row in table.rows if row.kind == "MultiheadAttention"]
        assert attention == [layer] * 12


class Tokens(nn.Module):
    """Tokens with their positions, and their bag."""

    def __init__(self, **options):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, 3, **options), nn.Embedding(9, 3)
        self.bag, self.head = nn.EmbeddingBag(7, 3), nn.Linear(3, 2)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.head(x) + self.head(self.bag(ids))[:, None]


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_are_one_hot_rows(batch, options):
    module, ids = Tokens(**options).double(), torch.randint(7, (batch, 5))
    table = sm.summary(module, ids)
    found = {row.name: (row.shape, row.nnz) for row in table.rows[:3]}
    one = {"tokens": (7, 5), "positions": (9, 5)}
    for name, (vocabulary, tokens) in one.items():
        weight = module.get_submodule(name).weight
        hot = torch.rand(tokens, vocabulary, dtype=torch.float64)
        matrix = torch.autograd.functional.jacobian(lambda x, w=weight: x @ w.abs().add(1), hot)
        assert found[name] == ((3 * tokens, tokens * vocabulary), matrix.count_nonzero())
    (bag,) = (row for row in table.rows if row.name == "bag")
    assert (bag.shape, bag.nnz, bag.dense_bytes) == ((3, 35), 3 * 35, 8 * 3 * 35)
    assert table.rows[-1].shape == (2, 3) and table.total("parameters") == table.parameters


class Run(nn.Module):
    def __init__(self, part, function):
        super().__init__()
        self.part, self.function = part, function

    def forward(self, x):
        return self.function(self.part, x)


def packed(part, x):
    lengths = torch.tensor([5, 3])
    return part(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1]


UNKNOWN = {
    "packed GRU": (nn.GRU(3, 4, batch_first=True), packed, torch.zeros(2, 5, 3)),
    "packed LSTM": (nn.LSTM(3, 4, batch_first=True), lambda part, x: packed(part, x)[0],
                    torch.zeros(2, 5, 3)),
    "flat tokens": (
        nn.Embedding(7, 3), lambda part, x: part(x.flatten()), torch.ones(2, 5, dtype=torch.long)
    ),
    "bags with offsets": (
        nn.EmbeddingBag(7, 3),
        lambda part, x: part(x.flatten(), torch.tensor([0, 4])),
        torch.ones(2, 5, dtype=torch.long),
    ),
    "largest of bags": (
        nn.EmbeddingBag(7, 3, mode="max"), lambda part, x: part(x),
        torch.ones(2, 5, dtype=torch.long),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_call_whose_matrix_is_not_known_is_a_row(name):
    part, function, x = UNKNOWN[name]
    (row,) = sm.summary(Run(part, function), x).rows
    assert (row.name, row.depends, row.shape, row.nnz) == ("part", "unknown", None, None)
    assert row.parameters == sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_without_running_statistics_is_a_diagonal_of_the_batch(training):
    module = nn.BatchNorm2d(4, track_running_stats=False).train(training)
    (row,) = sm.summary(module, (4, 3, 2)).rows
    assert (row.shape, row.nnz, row.depends) == ((24, 24), 24, "statistics")


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.never = nn.Linear(4, 4), nn.Linear(4, 4)
        self.bilinear = nn.Bilinear(4, 4, 2)

    def forward(self, x):
        x = self.linear(self.linear(x)) @ torch.ones(4, 4)
        return self.bilinear(x, x)


def test_what_runs_twice_never_or_elsewhere_is_told():
    table = sm.summary(Calls(), (4,))
    assert [row.name for row in table.rows] == ["linear", "linear", "bilinear"]
    assert [row.parameters for row in table.rows] == [20, 0, 34]
    assert table.idle == ("never",) and table.rows[2].depends == "unknown"
    assert table.parameters == 74 and table.outside == 2 * 16
    text = str(table)
    assert "did not run as parts: never" in text and "no rule for: bilinear" in text


def test_the_table_as_text_markdown_and_a_frame():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    table = sm.summary(module.eval(), (1, 4, 4))
    frame = table.to_pandas()
    assert list(frame["nnz"]) == [72, 8, 8, 24] and frame["parameters"].sum() == 47
    assert frame["shape"][0] == (8, 16)
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("| name | kind | input") and lines[1].startswith("| --- ")
    assert lines[2].startswith("| 0 | Conv2d | 1x1x4x4 | 1x2x2x2 | 8x16 | 72 | 20 |")
    assert str(table).splitlines()[2].split()[:3] == ["0", "Conv2d", "1x1x4x4"]


def test_the_table_of_the_matrix_layers_is_that_of_the_network():
    module = torchvision.models.resnet18(weights=None).eval()
    network = sm.from_module(module, (3, 32, 32))
    mine, theirs = (sm.summary(net, (3, 32, 32)) for net in (network, module))
    for name in ("nnz", "parameters", "operations", "dense_bytes"):
        assert mine.total(name) == theirs.total(name)


def test_a_model_stays_as_it_is():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = torch.get_rng_state()
    table = sm.summary(module, (3,))
    assert [row.depends for row in table.rows] == ["", "statistics", "chance"]
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(part._forward_hooks for part in module.modules())


def test_what_is_no_network_is_named():
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        sm.summary("resnet", (3,))
    for empty in (torch.zeros(0, 3), torch.zeros(2, 0), {"x": 3}):
        with pytest.raises(ValueError, match=r"must begin with a tensor that has entries, got "):
            sm.summary(nn.Linear(3, 2), empty)
    with pytest.raises(ValueError, match=r"^Conv2d: padding=2 .* made to pad by"):
        module = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        module.padding = 2
        sm.summary(module, (1, 4, 4))
    with pytest.raises(ValueError, match=r"0 \(Conv2d\): padding=2 .* made to pad by"):
        module = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
        module[0].padding = 2
        sm.summary(module, (1, 4, 4))
