"""The study of Kronecker layers and adapters: its counts are torch's, its record is whole."""

import json

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sparsemat.experiments import kronecker as study
from sparsemat.structured import AdaptedLinear, hamilton


def counted(network, batch=3):
    """Multiplications of the two hidden matrices for one image, as torch counts them."""
    x = torch.randn(batch, 784)
    with FlopCounterMode(display=False) as counter:
        network[:4](x)
    return counter.get_total_flops() // (2 * batch)


@pytest.mark.parametrize("name", study.LAYERS)
def test_layers_cost_what_the_study_says(name):
    network = study.structured(name)
    assert study.macs(network) == counted(network)
    entry = json.loads(study.RECORD.read_text())["layers"][name]
    assert (entry["parameters"], entry["macs"]) == (study.trainable(network), counted(network))


@pytest.mark.parametrize("name", study.ADAPTERS)
def test_adapters_start_at_the_frozen_network_and_cost_what_the_study_says(name):
    base = study.perceptron(torch.nn.Linear, 5)
    network = study.adapted(base, name)
    x = torch.randn(7, 784)
    torch.testing.assert_close(network[:4](x), base[:4](x))
    added = counted(network) - (0 if name == "all weights" else counted(base))
    entry = json.loads(study.RECORD.read_text())["adapters"][name]
    assert (entry["parameters"], entry["macs"]) == (study.trainable(network), added)


@pytest.mark.parametrize("name", ["head alone", "LoRA, rank 2", "MoKA, s = 4, 16"])
def test_adapting_moves_nothing_frozen(name):
    torch.manual_seed(0)
    base = study.perceptron(torch.nn.Linear, 5)
    before = [p.detach().clone() for p in base.parameters()]
    data = torch.randn(20, 784), torch.arange(20) % 5
    network = study.fit(study.adapted(base, name), data, 1e-2, 0, steps=3)
    for layer, old in zip((network[0], network[2]), (base[0], base[2]), strict=True):
        inner = layer.linear if isinstance(layer, AdaptedLinear) else layer
        assert torch.equal(inner.weight, old.weight) and torch.equal(inner.bias, old.bias)
    assert all(torch.equal(p, q) for p, q in zip(base.parameters(), before, strict=True))
    loss = F.cross_entropy(network(data[0]), data[1])
    assert loss < F.cross_entropy(study.adapted(base, name)(data[0]), data[1])


@pytest.mark.parametrize("rule", [hamilton() / 2, None], ids=["Hamilton", "random"])
def test_a_fixed_rule_stays(rule):
    matrix = study.ruled((8, 12), rule)
    if rule is not None:
        assert torch.equal(matrix.left, rule)
    before = matrix.left.clone()
    assert [name for name, p in matrix.named_parameters() if p.requires_grad] == ["right"]
    matrix(torch.randn(5, 12)).square().sum().backward()
    assert matrix.left.grad is None and matrix.right.grad.abs().min() > 0
    assert torch.equal(matrix.left, before)


def test_low_rank_rivals_are_as_near_below_as_can_be():
    shape = 256, 784
    for name in ("PHM, order 4", "four Kronecker products"):
        kind = study.LAYERS[name]
        for rival, count in ((study.as_large, "num_parameters"), (study.as_costly, "macs")):
            gap = getattr(kind(shape), count) - getattr(rival(kind)(shape), count)
            assert 0 <= gap < sum(shape)


def test_five_digits_are_taken_and_counted_from_zero():
    labels = torch.arange(10).repeat(3)
    images, found = study.digits((labels[:, None].float(), labels), 5)
    assert torch.equal(images[:, 0].long() - 5, found)
    assert found.unique().tolist() == [0, 1, 2, 3, 4] and len(found) == 15


def test_the_record_is_whole_and_chose_by_the_held_out_images():
    record = json.loads(study.RECORD.read_text())
    assert list(record["layers"]) == list(study.LAYERS)
    assert list(record["adapters"]) == list(study.ADAPTERS)
    for entry in [*record["layers"].values(), *record["adapters"].values()]:
        assert set(map(float, entry["held out"])) == set(study.RATES)
        best = max(entry["held out"], key=entry["held out"].__getitem__)
        assert entry["rate"] == float(best)
        assert len(entry["test"]) == len(study.SEEDS)
        assert all(0 <= accuracy <= 1 for accuracy in entry["test"])


@pytest.mark.parametrize("rank", [1, 16])
def test_lora_passes_numbers_of_unit_variance_on_at_any_rank(rank):
    torch.manual_seed(0)
    layer = AdaptedLinear.lora(torch.nn.Linear(4096, 64), rank)
    inner = torch.randn(200, 4096) @ layer.matrices[0].right
    assert abs(inner.square().mean() - 1) < 0.25
