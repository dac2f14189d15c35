"""Attention of third order against its definition, and the study of triples."""

import itertools
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsemat.experiments import triples
from sparsemat.products.triples import attend_triples


def sides(tokens=5, dim=3, width=4, batch=(2, 2)):
    generator = torch.Generator().manual_seed(0)
    shapes = [(*batch, tokens, size) for size in (dim, dim, dim, width, width)]
    q, k, other_k, v, other_v = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    )
    return q, (k, other_k), (v, other_v)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_attention_on_pairs_is_its_definition(softmax, batch):
    q, keys, values = sides(batch=batch)
    scores = torch.einsum("...tc,...ic,...jc->...tij", q, *keys)
    weights = scores.flatten(-2).softmax(-1).view(scores.shape) if softmax else scores
    expected = torch.einsum("...tij,...ie,...je->...te", weights, *values)
    found = attend_triples(q, keys, values, softmax=softmax)
    torch.testing.assert_close(found, expected)
    inputs = [q, *keys, *values]
    for ours, theirs in zip(
        torch.autograd.grad(found.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("softmax", [True, False])
def test_derivatives_of_second_order(softmax):
    q, keys, values = sides(3, 2, 2, ())
    torch.autograd.gradgradcheck(
        lambda q, a, b, c, d: attend_triples(q, (a, b), (c, d), softmax=softmax),
        (q, *keys, *values),
    )


def test_keys_and_values_must_fit():
    q, keys, values = sides()
    with pytest.raises(ValueError, match=r"keys must fit q \(2, 2, 5, 3\).*\(2, 2, 4, 3\)"):
        attend_triples(q, (keys[0], keys[1][..., 1:, :]), values)
    with pytest.raises(ValueError, match="values must fit q"):
        attend_triples(q, keys, (values[0], values[1][..., 1:]))
    with pytest.raises(ValueError, match="values must fit q"):
        attend_triples(q, keys, tuple(v[..., 1:, :] for v in values))


def test_labels_are_those_of_brute_force():
    x, y = triples.draw(20, torch.Generator().manual_seed(0))
    for numbers, labels in zip(x.tolist(), y.tolist(), strict=True):
        for a, label in zip(numbers, labels, strict=True):
            pairs = itertools.product(numbers, repeat=2)
            assert label == any((a + b + c) % triples.MODULUS == 0 for b, c in pairs)


@pytest.mark.parametrize("variant", triples.VARIANTS)
def test_no_variant_is_smaller_than_the_reference(variant):
    network, reference = triples.build(variant), triples.build(triples.REFERENCE)
    assert triples.count_parameters(network) >= triples.count_parameters(reference)
    assert triples.macs(network) >= triples.macs(reference)
    assert triples.count_parameters(network) < 1.1 * triples.count_parameters(reference)


@pytest.mark.parametrize("variant", triples.VARIANTS)
def test_multiplications_of_matrices_are_those_that_torch_counts(variant):
    network = triples.build(variant)
    x, _ = triples.draw(1, torch.Generator())
    with FlopCounterMode(display=False) as counter:
        network(x)
    counted = counter.get_total_flops() / 2
    if "third" in variant:  # the products that are no matrix products: of queries, of values
        heads = network.layers[0].heads
        elementwise = 2 * triples.TOKENS**2 if network.layers[0].softmax else 0
        counted += heads * triples.HEAD * elementwise
    assert counted == triples.macs(network)


def test_a_short_study_runs_and_chooses_by_the_held_out_sequences(tmp_path, monkeypatch):
    monkeypatch.setattr(triples, "STEPS", 2)
    monkeypatch.setattr(triples, "TEST", 50)
    monkeypatch.setattr(triples, "RECORD", tmp_path / "triples.json")
    monkeypatch.setattr("sys.argv", ["triples", "second order"])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    triples.main()
    record = json.loads((tmp_path / "triples.json").read_text())
    assert list(record) == ["second order"]
    triples.main()
    assert json.loads((tmp_path / "triples.json").read_text()) == record


def test_the_record_is_whole():
    record = json.loads(triples.RECORD.read_text())
    assert set(record) == set(triples.VARIANTS)
    for variant, entry in record.items():
        assert list(map(float, entry["held out"])) == list(triples.RATES)
        best = max(entry["held out"], key=entry["held out"].__getitem__)
        assert entry["rate"] == float(best)
        assert len(entry["test"]) == len(triples.SEEDS)
        network = triples.build(variant)
        assert (entry["parameters"], entry["macs"]) == (
            triples.count_parameters(network),
            triples.macs(network),
        )
