"""The sparse linear layer against dense masked ones, and what rewiring keeps."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from contract import Case, LayerContract, assert_near
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

import sparsemat as sm
from sparsemat import Pattern, SparseLinear, mask_pattern
from sparsemat.products import GatherProduct, GeneralProduct


def random_mask(rows, cols, density=0.3, seed=0):
    return torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed)) < density


class Dense(torch.nn.Module):
    """The same parameters scattered into a dense matrix."""

    def __init__(self, layer):
        super().__init__()
        self.pattern = layer.pattern
        self.weight, self.bias = (
            None if side is None else torch.nn.Parameter(side.detach().clone())
            for side in (layer.weight, layer.bias)
        )

    def forward(self, x):
        row, col, index = (
            torch.tensor(side) for side in (self.pattern.row, self.pattern.col, self.pattern.index)
        )
        dense = self.weight.new_zeros(self.pattern.shape)
        return linear(
            x, dense.index_put((row, col), self.weight[index], accumulate=True), self.bias
        )

    get_extra_state = SparseLinear.get_extra_state

    def set_extra_state(self, state):
        for name, side in state.items():
            np.testing.assert_array_equal(side, getattr(self.pattern, name))


def contract_case(pattern, shape=None, **options):
    def build(dtype):
        torch.manual_seed(0)
        layer = SparseLinear(pattern, dtype=dtype, **options)
        return Case(layer, Dense(layer), (pattern.shape[1],))

    return build


TIED = Pattern((4, 5), [0, 0, 1, 2, 2, 3], [1, 4, 0, 1, 2, 2], [0, 1, 0, 2, 2, 1], 3)


CONTRACT = {
    "random": contract_case(mask_pattern(random_mask(6, 9))),
    "random, no bias": contract_case(mask_pattern(random_mask(6, 9)), bias=False),
    "regular": contract_case(sm.conv_pattern(2, 3, (5,), 3)),
    "regular, as general": contract_case(sm.conv_pattern(2, 3, (5,), 3), form="general"),
    "dense": contract_case(mask_pattern(np.ones((3, 4), dtype=bool))),
    "tied": contract_case(TIED),
    "empty rows and columns": contract_case(Pattern((4, 6), [1, 3], [2, 5], [1, 0], 2)),
    "cells named twice": contract_case(Pattern((2, 3), [0, 0, 1], [1, 1, 2], [0, 1, 2], 3)),
}


class TestContract(LayerContract):
    takes_complex = True
    cases = CONTRACT


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_masked_linear_layer_is_copied(rows, cols, seed):
    torch.manual_seed(seed)
    dense = torch.nn.Linear(cols, rows, bias=bool(seed % 2), dtype=torch.float64)
    mask = random_mask(rows, cols, 0.5, seed)
    layer = SparseLinear.from_linear(dense, mask)
    assert torch.equal(layer.matrix().to_dense(), dense.weight.detach() * mask)
    x = torch.randn(2, 3, cols, dtype=torch.float64)
    assert_near(layer(x), linear(x, dense.weight * mask, dense.bias))
    layer.weight.data.zero_()
    assert dense.weight.any()  # a copy


def test_the_pattern_of_a_mask():
    mask = random_mask(5, 7)
    pattern = mask_pattern(mask)
    assert pattern.nnz == pattern.num_parameters == int(mask.sum())
    assert torch.equal(pattern.fill(torch.ones(pattern.nnz)).to_dense(), mask.float())
    assert pattern.equals(mask_pattern(mask.numpy()))


@pytest.mark.parametrize("mask", [torch.ones(2, 2), torch.ones(2, dtype=torch.bool)], ids=str)
def test_masks_that_cannot_be_are_refused(mask):
    with pytest.raises(ValueError, match=r"booleans of shape \(rows, cols\), got"):
        mask_pattern(mask)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"the weight \(3, 4\), got \(4, 3\)"):
        SparseLinear.from_linear(torch.nn.Linear(4, 3), random_mask(4, 3))
    with pytest.raises(ValueError, match="or None, got 'csr'"):
        SparseLinear(TIED, form="csr")
    with pytest.raises(ValueError, match=r"in_features=5, got \(2, 4\)"):
        SparseLinear(TIED)(torch.zeros(2, 4))


def test_the_product_says_which_it_is():
    general = SparseLinear(mask_pattern(random_mask(20, 30, 0.1)))
    assert isinstance(general.product, GeneralProduct)
    assert "serves any pattern" in repr(general.product)
    pattern = sm.conv_pattern(2, 3, (5,), 3)
    assert isinstance(SparseLinear(pattern).product, GatherProduct)
    forced = SparseLinear(pattern, form="general")
    assert isinstance(forced.product, GeneralProduct) and "form='general'" in repr(forced)
    assert forced.product is deepcopy(forced).product  # made once


def test_initial_values_follow_the_entries_of_a_row():
    torch.manual_seed(0)
    mask = torch.zeros(4, 4000, dtype=torch.bool)
    for row, entries in enumerate((0, 4, 100, 4000)):
        mask[row, :entries] = True
    layer = SparseLinear(mask_pattern(mask))
    for row, entries in enumerate((0, 4, 100, 4000)):
        values = layer.weight.detach()[layer.pattern.row == row]
        bound = entries**-0.5 if entries else 0.0
        assert layer.bias[row].abs() <= bound
        assert len(values) == entries and (values.abs() <= bound).all()
        if entries == 4000:  # uniform, as torch's layer of as many inputs
            dense = torch.nn.Linear(4000, 1).weight.std()
            torch.testing.assert_close(values.std(), dense, rtol=0.05, atol=0)
    tied = SparseLinear(TIED)  # every parameter stands in a row of two
    assert (tied.weight.abs() <= 2**-0.5).all()


def test_activations_stay_features_first():
    first = SparseLinear(mask_pattern(random_mask(6, 9)))
    second = SparseLinear(mask_pattern(random_mask(4, 6, seed=1)))
    hidden = first(torch.randn(5, 9)).relu()
    assert hidden.t().is_contiguous()
    incoming = []
    hidden.register_hook(lambda grad: incoming.append(grad.t().is_contiguous()))
    y = second(hidden)
    assert y.t().is_contiguous()
    y.square().sum().backward()
    assert incoming == [True]


def test_autocast_casts_as_torch_does():
    layer = SparseLinear(mask_pattern(random_mask(6, 9)))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(3, 9))
        wide = deepcopy(layer).double()(torch.randn(3, 9, dtype=torch.float64))
    assert y.dtype == torch.bfloat16 and wide.dtype == torch.float64
    y.float().sum().backward()
    assert layer.weight.grad.dtype == layer.bias.grad.dtype == torch.float32


def test_gradcheck():
    layer = SparseLinear(mask_pattern(random_mask(4, 5)), dtype=torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: torch.func.functional_call(
            layer, {"weight": weight, "bias": bias}, x
        ),
        (x, layer.weight, layer.bias),
    )


def test_it_converts_to_a_matrix():
    layer = SparseLinear(mask_pattern(random_mask(4, 5)))
    matrix, bias = sm.to_matrix(layer, (2, 5))
    x = torch.randn(2, 5)
    assert_near((matrix @ x.reshape(-1) + bias).view(2, 4), layer(x))
    copy = sm.from_module(torch.nn.Sequential(layer, torch.nn.ReLU()), (5,))
    assert torch.equal(copy(x), layer(x).relu())


def test_training_is_that_of_a_masked_layer():
    torch.manual_seed(0)
    dense = torch.nn.Linear(9, 6, dtype=torch.float64)
    mask = random_mask(6, 9)
    layer = SparseLinear.from_linear(dense, mask)
    optimizers = [
        torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9) for module in (dense, layer)
    ]
    for _ in range(5):
        x, losses = torch.randn(4, 9, dtype=torch.float64), []
        outputs = linear(x, dense.weight * mask, dense.bias), layer(x)
        for y, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            losses.append(y.square().sum())
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert_near(layer.weight.detach(), dense.weight.detach()[mask])


# rewiring


def trained(optimizer=torch.optim.Adam, rows=6, cols=9, density=0.3):
    torch.manual_seed(0)
    layer = SparseLinear(mask_pattern(random_mask(rows, cols, density)))
    optimizer = optimizer(layer.parameters())
    for _ in range(3):
        layer(torch.randn(4, cols)).square().sum().backward()
        optimizer.step()
    return layer, optimizer


def by_cell(layer, values):
    """What is stored for each cell, by its number."""
    rows, cols, index = layer.pattern.row, layer.pattern.col, layer.pattern.index
    cell = (rows * layer.in_features + cols).tolist()
    return dict(zip(cell, values.numpy()[index].tolist(), strict=True))


def cells(pattern):
    return set((pattern.row * pattern.shape[1] + pattern.col).tolist())


@pytest.mark.parametrize("by", ["draw", "scores"])
@pytest.mark.parametrize("fraction", [0, 0.3, 1])
def test_rewiring_keeps_what_survives(fraction, by):
    layer, optimizer = trained()
    old, before = layer.pattern, by_cell(layer, layer.weight.detach())
    state = {name: by_cell(layer, optimizer.state[layer.weight][name]) for name in MOMENTS}
    parameter, count = layer.weight, int(fraction * layer.pattern.nnz)
    scores = torch.randn(6, 9) if by == "scores" else None
    new = layer.prune_and_regrow(fraction, scores=scores, optimizer=optimizer)

    assert layer.weight is parameter and parameter.grad is None
    assert layer.pattern.nnz == layer.pattern.num_parameters == old.nnz
    assert not layer.pattern.has_duplicates
    grown = cells(layer.pattern) - cells(old)
    assert len(grown) == len(new) == count
    after = by_cell(layer, layer.weight.detach())
    assert {cell for cell in after if cell in grown} == grown
    at = layer.pattern.row[new] * 9 + layer.pattern.col[new]
    assert set(at.tolist()) == grown
    dropped = cells(old) - cells(layer.pattern)
    assert dropped == set(sorted(before, key=lambda cell: abs(before[cell]))[:count])
    for cell, value in after.items():
        assert value == (0 if cell in grown else before[cell])
    for name in MOMENTS:
        for cell, value in by_cell(layer, optimizer.state[layer.weight][name]).items():
            assert value == (0 if cell in grown else state[name][cell])
    if by == "scores":
        best = [
            (scores[divmod(cell, 9)].abs().item(), cell) for cell in set(range(54)) - cells(old)
        ]
        assert grown == {cell for _, cell in sorted(best, reverse=True)[:count]}


MOMENTS = ("exp_avg", "exp_avg_sq")


def test_a_rewired_layer_trains_and_is_the_matrix_it_says():
    layer, optimizer = trained()
    layer.prune_and_regrow(0.4, optimizer=optimizer)
    x = torch.randn(4, 9)
    assert_near(layer(x), linear(x, layer.matrix().to_dense(), layer.bias))
    new = layer.weight == 0
    layer(x).square().sum().backward()
    optimizer.step()
    assert new.any() and layer.weight[new].all()


def loaded(layer):
    other = mask_pattern(torch.eye(6, 9, dtype=torch.bool).flip(0))
    layer.load_state_dict(SparseLinear(other, dtype=torch.float64).state_dict())


CHANGES = {"rewired": lambda layer: layer.prune_and_regrow(0.5), "loaded": loaded}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_matrix_of_the_pattern_before_is_refused(change):
    """Its weights stand in the order of another pattern now."""
    layer = SparseLinear(mask_pattern(torch.eye(6, 9, dtype=torch.bool)), dtype=torch.float64)
    made = layer.matrix(), sm.to_matrix(layer, (9,))[0], 2 * layer.matrix()
    kept = made[0].detach(), made[0].to_dense().detach().clone()
    change(layer)
    for matrix in made:
        with pytest.raises(ValueError, match=r"when the matrix was made and has another.*anew"):
            matrix @ torch.ones(9, dtype=torch.float64)
    assert torch.equal(kept[0].to_dense(), kept[1])
    x = torch.randn(2, 9, dtype=torch.float64)
    assert_near(layer(x), linear(x, layer.matrix().to_dense(), layer.bias))


def test_rewiring_is_repeatable():
    patterns = []
    for seed in (0, 0, 1):
        layer, _ = trained(rows=20, cols=20)
        layer.prune_and_regrow(0.5, generator=torch.Generator().manual_seed(seed))
        patterns.append(layer.pattern)
    assert patterns[0].equals(patterns[1]) and not patterns[0].equals(patterns[2])


def test_rewiring_and_states_do_not_follow_the_default_device():
    layer, _ = trained(rows=20, cols=20)
    copy, generators = deepcopy(layer), [torch.Generator().manual_seed(0) for _ in range(2)]
    layer.prune_and_regrow(0.5, generator=generators[0])
    with torch.device("meta"):
        copy.prune_and_regrow(0.5, generator=generators[1])
        state = copy.state_dict()
    layer.load_state_dict(state)
    assert copy.pattern.equals(layer.pattern)


def test_every_empty_cell_may_grow():
    counts = np.zeros(12)
    for seed in range(300):
        layer = SparseLinear(Pattern((3, 4), [0, 1, 1, 2], [1, 0, 3, 3], range(4), 4))
        layer.prune_and_regrow(0.5, generator=torch.Generator().manual_seed(seed))
        grown = cells(layer.pattern) - {1, 4, 7, 11}
        counts[list(grown)] += 1
    assert not counts[[1, 4, 7, 11]].any()
    empty = counts[[0, 2, 3, 5, 6, 8, 9, 10]]
    assert empty.sum() == 600 and empty.min() > 40 and empty.max() < 115  # 75 each, 5 sigma


def test_the_state_dict_holds_the_rewired_pattern():
    layer, _ = trained()
    fresh = deepcopy(layer)
    layer.prune_and_regrow(0.5)
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9)
    assert fresh.pattern.equals(layer.pattern)
    assert torch.equal(fresh(x), layer(x))


def test_a_state_that_does_not_fit_leaves_the_matrix_alone():
    layer = SparseLinear(mask_pattern(random_mask(6, 9)))
    before = layer.matrix().to_dense().clone()
    full = torch.ones(6, 9, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict(SparseLinear(mask_pattern(full)).state_dict())
    assert torch.equal(layer.matrix().to_dense(), before)
    wider = torch.zeros(6, 12, dtype=torch.bool)
    wider[:, :9] = random_mask(6, 9)  # as many entries
    with pytest.raises(ValueError, match=r"shape \(6, 9\), got \(6, 12\)"):
        layer.load_state_dict(SparseLinear(mask_pattern(wider)).state_dict())
    assert torch.equal(layer.matrix().to_dense(), before)


def test_a_share_of_the_entries_is_what_it_says():
    layer = SparseLinear(mask_pattern(torch.eye(100, dtype=torch.bool)))
    assert len(layer.prune_and_regrow(0.29)) == 29  # though 0.29 * 100 is less in floating point


def test_a_form_that_rewiring_would_break_is_refused():
    layer = SparseLinear(sm.conv_pattern(2, 3, 5, 2).untied(), form="gather")
    with pytest.raises(ValueError, match="free in its form, got form='gather'"):
        layer.prune_and_regrow(0.5)


def test_a_layer_without_inputs_gives_its_bias():
    layer = SparseLinear(mask_pattern(torch.ones(3, 0, dtype=torch.bool)))
    assert torch.equal(layer(torch.zeros(2, 4, 0)), layer.bias.expand(2, 4, 3))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW], ids=str)
def test_an_optimizer_without_state_is_left_alone(optimizer):
    layer = SparseLinear(mask_pattern(random_mask(6, 9)))
    layer.prune_and_regrow(0.5, optimizer=optimizer(layer.parameters(), lr=0.1))
    assert (layer.weight == 0).sum() == layer.pattern.nnz // 2


@pytest.mark.parametrize(
    ("pattern", "options", "rule"),
    [
        pytest.param(TIED, {}, "a cell of its own for every entry, got Pattern", id="tied"),
        pytest.param(
            Pattern((2, 3), [0, 0], [1, 1], [0, 1], 2), {}, "a cell of its own", id="duplicates"
        ),
        pytest.param(
            Pattern((2, 3), [0, 1], [1, 1], [0, 0], 2), {}, "a parameter .* of its own", id="unused"
        ),
        pytest.param(TIED.untied(), {"fraction": 1.5}, r"0\.\.1, got 1\.5", id="fraction"),
        pytest.param(
            TIED.untied(),
            {"scores": torch.zeros(5, 4)},
            r"shape \(4, 5\), got \(5, 4\)",
            id="scores",
        ),
        pytest.param(
            mask_pattern(torch.ones(2, 3, dtype=torch.bool)), {}, "got 3 and 0", id="full"
        ),
    ],
)
def test_rewirings_that_cannot_be_are_refused(pattern, options, rule):
    with pytest.raises(ValueError, match=rule):
        SparseLinear(pattern).prune_and_regrow(**{"fraction": 0.5} | options)


def test_state_that_is_not_held_by_entry_is_refused():
    layer = SparseLinear(mask_pattern(random_mask(6, 9, 0.3)), bias=True)
    # its state stands under the first parameter, for all of them
    optimizer = torch.optim.LBFGS([layer.bias, layer.weight], max_iter=2)

    def loss():
        optimizer.zero_grad()
        value = (layer(torch.eye(9)) - 1).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    old = layer.pattern
    with pytest.raises(ValueError, match="for each parameter, got a list 'old_dirs'"):
        layer.prune_and_regrow(0.5, optimizer=optimizer)
    assert layer.pattern is old


def test_an_optimizer_that_is_none_leaves_the_layer_alone():
    layer, _ = trained()
    pattern, weight = layer.pattern, layer.weight.detach().clone()
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer, got str"):
        layer.prune_and_regrow(0.5, optimizer="adam")
    assert layer.pattern is pattern and torch.equal(layer.weight, weight)
