"""Blocks that move while training, and the study of patterns that move."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from sparsemat.experiments import pruning
from sparsemat.structured import BlockSparse


def trained(kept=5, grid=(3, 4)):
    """A matrix whose optimizer has moments, and both."""
    torch.manual_seed(0)
    mask = torch.zeros(12, dtype=torch.bool)
    mask[torch.randperm(12)[:kept]] = True
    matrix = BlockSparse((6, 12), mask.view(grid))
    optimizer = torch.optim.Adam(matrix.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (matrix(torch.randn(8, 12)) - 1).square().mean().backward()
        optimizer.step()
    return matrix, optimizer


def by_place(matrix, values):
    places = (matrix.block_row * matrix.grid[1] + matrix.block_col).tolist()
    return dict(zip(places, values.detach().clone(), strict=True))


@pytest.mark.parametrize("kept, grown", [(5, 0), (5, 2), (3, 1), (7, 2), (7, 7), (2, 0)])
def test_moving_blocks_keeps_what_survives(kept, grown):
    matrix, optimizer = trained()
    parameter, scores = matrix.blocks, torch.randn(6, 12)
    before = by_place(matrix, matrix.blocks)
    state = {k: by_place(matrix, optimizer.state[parameter][k]) for k in ("exp_avg", "exp_avg_sq")}
    matrix.patterns(), matrix.factors()  # what is remembered must be forgotten
    new = matrix.prune_and_grow(kept, grown, scores=scores, optimizer=optimizer)

    assert matrix.blocks is parameter and parameter.grad is None
    after = by_place(matrix, matrix.blocks)
    assert list(after) == sorted(after) and len(after) == kept
    fresh = {list(after)[k] for k in new.tolist()}
    norms = {k: float(v.norm()) for k, v in before.items()}
    assert set(after) - fresh == set(sorted(norms, key=norms.get)[len(norms) - kept + grown :])
    absent = {
        k: float(scores.view(3, 2, 4, 3)[k // 4, :, k % 4].norm())
        for k in set(range(12)) - set(before)
    }
    assert fresh == set(sorted(absent, key=absent.get)[len(absent) - grown :] if grown else [])
    for k, block in after.items():
        assert torch.equal(block, torch.zeros(2, 3) if k in fresh else before[k])
    for name, old in state.items():
        for k, value in by_place(matrix, optimizer.state[parameter][name]).items():
            assert torch.equal(value, torch.zeros(2, 3) if k in fresh else old[k])


OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "AMSGrad": lambda p, lr: torch.optim.Adam(p, lr, amsgrad=True),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, 0.9),
    "Adafactor": torch.optim.Adafactor,  # a number a row and a column of every block
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("shape", [(6, 12), (3, 4)], ids=str)
def test_all_state_of_an_optimizer_moves_along(make, shape):
    matrix = BlockSparse(shape, trained()[0].structure["mask"])
    optimizer = make(matrix.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        (matrix.to_dense() - torch.arange(shape[1])).square().sum().backward()
        optimizer.step()

    step()
    held = optimizer.state[matrix.blocks]
    before = {k: by_place(matrix, v) for k, v in held.items() if v.ndim}
    new = matrix.prune_and_grow(4, 2, scores=torch.randn(shape), optimizer=optimizer).tolist()
    assert before
    for name, old in before.items():
        for k, (place, value) in enumerate(by_place(matrix, held[name]).items()):
            assert torch.equal(value, torch.zeros_like(value) if k in new else old[place])
    step()
    assert matrix.blocks.isfinite().all()


def test_state_that_is_not_held_by_block_is_refused():
    matrix, _ = trained()
    optimizer = torch.optim.LBFGS(matrix.parameters(), max_iter=2)

    def loss():
        optimizer.zero_grad()
        value = (matrix.to_dense() - 1).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    before = matrix.to_dense()
    with pytest.raises(ValueError, match="for each parameter, got a list 'old_dirs'"):
        matrix.prune_and_grow(4, optimizer=optimizer)
    assert torch.equal(matrix.to_dense(), before)


def test_moved_blocks_are_the_matrix_they_say_and_train():
    matrix, optimizer = trained()
    matrix.factors()
    matrix.prune_and_grow(6, 2, scores=torch.randn(6, 12), optimizer=optimizer)
    x = torch.randn(4, 12)
    torch.testing.assert_close(matrix(x), x @ matrix.factors()[0].to_dense().T)
    again = BlockSparse(matrix.shape, **matrix.structure)
    again.load_state_dict(matrix.state_dict())
    torch.testing.assert_close(again(x), matrix(x))
    optimizer.zero_grad()
    (matrix(x) - 1).square().sum().backward()
    optimizer.step()
    assert matrix.blocks.abs().amin((1, 2)).min() > 0


def test_a_matrix_of_blocks_that_have_moved_is_refused():
    sparse, _ = trained()
    matrix = sparse.matrix()
    sparse.prune_and_grow(len(sparse.blocks), 0)  # nothing moves
    sparse.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(matrix.to_dense(), sparse.to_dense())
    sparse.prune_and_grow(5, 2, scores=torch.randn(6, 12))  # as many, elsewhere
    with pytest.raises(ValueError, match=r"BlockSparse had the pattern .* and has others"):
        matrix.to_dense()
    torch.testing.assert_close(sparse.matrix().to_dense(), sparse.to_dense())


def test_a_loaded_mask_replaces_all_that_was_derived():
    matrix, _ = trained()
    other = BlockSparse((6, 12), ~matrix.structure["mask"])
    other.prune_and_grow(5)
    fresh = copy.deepcopy(matrix)
    fresh.factors()
    fresh.load_state_dict(other.state_dict())
    torch.testing.assert_close(fresh.factors()[0].to_dense(), other.to_dense())
    assert torch.equal(fresh.structure["mask"], other.structure["mask"])


REFUSED = {
    "no scores": ((5, 1, None), "got None"),
    "scores of another shape": ((5, 1, torch.zeros(12, 6)), r"\(6, 12\), got \(12, 6\)"),
    "more than there are": ((6, 0, None), "5 are stored, so 6 cannot be kept with 0 new"),
    "nothing kept": ((0, 0, None), "so 0 cannot"),
    "more new than absent": ((8, 8, torch.zeros(6, 12)), "with 8 new"),
}


@pytest.mark.parametrize("arguments, message", REFUSED.values(), ids=REFUSED)
def test_a_change_that_cannot_be_is_refused(arguments, message):
    kept, grown, scores = arguments
    matrix, _ = trained()
    before = matrix.to_dense()
    with pytest.raises(ValueError, match=message):
        matrix.prune_and_grow(kept, grown, scores=scores)
    assert torch.equal(matrix.to_dense(), before)


SCALES = {
    "half, large": (torch.float16, 6e4),
    "half, small": (torch.float16, 1e-5),
    "single, large": (torch.float32, 1e38),
    "single, small": (torch.float32, 1e-30),
    "double, large": (torch.float64, 1e300),
    "double, small": (torch.float64, 1e-300),
    "complex": (torch.complex64, 1e30),
}


@pytest.mark.parametrize("dtype, scale", SCALES.values(), ids=SCALES)
def test_blocks_are_compared_at_every_scale(dtype, scale):
    """Block k has k entries that are not zero, and one that is larger in block 0."""
    filled = torch.arange(6) < torch.arange(6)[:, None]
    filled[0, 0] = True
    values = filled * torch.tensor([0.9] + 5 * [0.3])[:, None].double() * scale
    dense = values.view(2, 3, 2, 3).transpose(1, 2).reshape(4, 9).to(dtype)
    largest = BlockSparse.largest(dense, (2, 3), 3)  # norms 0.9, 0.3, 0.42, 0.52, 0.6, 0.67
    assert largest.flatten().tolist() == [True, False, False, False, True, True]
    matrix = BlockSparse.project(dense, mask=torch.ones(2, 3, dtype=torch.bool)).matrix
    matrix.prune_and_grow(3)
    assert torch.equal(matrix.structure["mask"], largest)
    matrix = BlockSparse.project(dense, mask=~largest).matrix
    matrix.prune_and_grow(5, 2, scores=dense)
    grown = [True, True, True, True, False, True]
    assert matrix.structure["mask"].flatten().tolist() == grown


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_blocks_that_cannot_be_compared_are_refused(wrong):
    dense = torch.ones(6, 12)
    dense[0, 0] = wrong
    with pytest.raises(ValueError, match="finite, got 1 of 72"):
        BlockSparse.largest(dense, (2, 3), 3)
    matrix, _ = trained()
    dense[0] = wrong
    before = matrix.structure["mask"]
    with pytest.raises(ValueError, match="finite, got 12 of 72"):
        matrix.prune_and_grow(5, 1, scores=dense)
    assert matrix.structure["mask"] is before
    with torch.no_grad():
        matrix.blocks[1, 0, 0] = wrong
    with pytest.raises(ValueError, match="finite, got 1 of 30"):
        matrix.prune_and_grow(3)


PERCEPTRON = pruning.perceptron, {"inputs": 64, "width": 64}
TRANSFORMER = pruning.character_transformer, {"characters": 9, "length": 16, "width": 32}
NETWORKS = {"perceptron": PERCEPTRON, "character Transformer": TRANSFORMER}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def build(request):
    torch.manual_seed(0)
    function, sizes = request.param
    return lambda kind, sparsity: function(kind, sparsity, **sizes)


def examples(network, number=200):
    """Random inputs and targets of a network."""
    if isinstance(network, torch.nn.Sequential):
        return torch.randn(number, 64), torch.randint(10, (number,))
    return torch.randint(9, (number, 16)), torch.randint(9, (number, 16))


def dense_twin(network):
    """The same network with dense layers, and their weights."""
    twin = copy.deepcopy(network)
    weights = []
    for name, layer in network.named_modules():
        if layer in pruning.movable(network):
            dense = torch.nn.Linear(layer.in_features, layer.out_features)
            dense.weight.data, dense.bias.data = layer.matrix().to_dense().detach(), layer.bias.data
            twin.set_submodule(name, dense)
            weights.append(dense.weight)
    return twin, weights


@pytest.mark.parametrize("kind", ["static", "static blocks"])
def test_dense_gradients_are_those_of_a_dense_network(build, kind):
    network = build(kind, 0.8)
    x, y = examples(network, 20)
    twin, weights = dense_twin(network)
    loss = F.cross_entropy(twin(x).movedim(-1, 1), y)
    expected = torch.autograd.grad(loss, weights)
    for ours, theirs in zip(pruning.dense_gradients(network, x, y), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(layer._forward_hooks for layer in pruning.movable(network))


@pytest.mark.parametrize("kind", pruning.KINDS)
def test_a_run_ends_at_its_sparsity(build, kind):
    network, dense = build(kind, 0.9), build("dense", 0)
    weights = sum(
        layer.weight.numel()
        for name, layer in dense.named_modules()
        if isinstance(layer, torch.nn.Linear) and not name.endswith(("4", "head"))
    )
    others = pruning.count_parameters(dense) - weights
    pruning.fit(network, kind, 0.9, examples(network), 1e-3, 0, steps=100, batch=20)
    if kind == "narrow dense":
        budget = pruning.count_parameters(build("static", 0.9))
        assert 0.8 * budget < pruning.count_parameters(network) <= budget
    else:
        kept = (pruning.count_parameters(network) - others) / weights
        assert kept == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("kind", ["dense", "narrow dense", *pruning.KINDS[1:]])
def test_no_character_sees_those_after_it(kind):
    torch.manual_seed(0)
    network = pruning.character_transformer(kind, 0.8, characters=9, length=16, width=32)
    ids = torch.randint(9, (4, 16))
    changed = ids.clone()
    changed[:, 10:] = (ids[:, 10:] + 1) % 9
    before, after = network(ids), network(changed)
    torch.testing.assert_close(after[:, :10], before[:, :10])
    assert (after[:, 10:] - before[:, 10:]).abs().amax((0, 2)).min() > 1e-4


def test_the_ramp_is_that_of_the_schedule():
    values = [pruning.ramp(k / 4, 0.95) for k in range(5)]
    assert values == pytest.approx([0, 0.549, 0.831, 0.935, 0.95], abs=1e-3)


def test_a_study_chooses_by_the_held_out_part_and_tests_once(monkeypatch):
    """The best rate is the one that the held-out part names, though the test names another."""
    seen = []

    def run(study, kind, sparsity, data, rate, seed):
        seen.append((rate, seed))
        return torch.nn.Linear(1, int(1000 * rate)), 0.5

    monkeypatch.setattr(pruning, "run", run)
    tables = {"held out": {1: 3.0, 3: 1.0, 9: 2.0}, "test": {1: 0.0, 3: 5.0, 9: 9.0}}
    for best, rate in ((min, 3e-3), (max, 1e-3)):
        study = pruning.Study(
            None, None, 1, 1, lambda network, part: tables[part][network.out_features], best
        )
        parts = {"train": None, "held out": "held out", "test": "test"}
        entry = pruning.entry_of(study, "static", 0.8, parts)
        assert entry["rate"] == rate
        assert entry["test"] == [tables["test"][int(1000 * rate)]] * len(pruning.SEEDS)
        assert entry["held out"] == {"0.001": 3.0, "0.003": 1.0, "0.009": 2.0}
    chosen = [seed for _, seed in seen[3:6]]
    assert chosen == list(pruning.SEEDS) and pruning.CHOICE_SEED not in pruning.SEEDS


def test_the_record_chose_by_the_held_out_examples():
    record = json.loads(pruning.RECORD.read_text())
    for name, entries in record.items():
        best = pruning.STUDIES[name].best
        assert [(e["kind"], e["sparsity"]) for e in entries] == pruning.variants()
        for entry in entries:
            assert set(map(float, entry["held out"])) == set(pruning.RATES)
            assert entry["rate"] == float(best(entry["held out"], key=entry["held out"].get))
            assert len(entry["test"]) == len(entry["seconds"]) == len(pruning.SEEDS)


def test_the_sizes_of_the_record_are_those_of_the_networks():
    record = json.loads(pruning.RECORD.read_text())
    for name, entries in record.items():
        for entry in entries:
            if entry["kind"] != "block prune-and-grow":  # as large as it is after the ramp
                network = pruning.STUDIES[name].network(entry["kind"], entry["sparsity"])
                assert pruning.count_parameters(network) == entry["parameters"]
