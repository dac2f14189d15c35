"""How far back a language model looks: by a mask over its input, and by its matrices."""

import json

import pytest
import torch
from short_runs import short_runs

from sparsemat.experiments import datasets, models, reach, records, weights
from sparsemat.experiments.__main__ import main

NAMES = {v: f"ptb-{v}-0-1-epochs" for v in ("native", "tied", "windowed")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of short runs, one a variant."""
    return short_runs(tmp_path_factory.mktemp("runs"), "ptb", NAMES)


def files(folder, variant):
    """The record and the checkpoint of a variant."""
    return folder / f"{NAMES[variant]}.json", folder / f"{NAMES[variant]}-quick.ckpt"


@pytest.fixture(scope="module")
def net(trained):
    record, checkpoint = files(trained, "tied")
    return weights.restored(records.read(record), checkpoint).eval()


@pytest.fixture(scope="module")
def kept(trained, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    arguments = ["--runs", str(trained), "--results", str(results)]
    assert main(["reach", str(trained / f"{NAMES['tied']}.json"), *arguments]) == 0
    return reach.read(results, NAMES["tied"])


def test_all_words_give_the_perplexity_of_the_record(trained, kept):
    assert kept.record == json.loads((trained / f"{NAMES['tied']}.json").read_text())
    assert list(kept.perplexity) == [0, 1, 2, 4, 8, 16, 32, 63]
    assert kept.perplexity[63] == pytest.approx(kept.record["last"]["perplexity"], rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("band", [0, 2, 16])
def test_a_band_is_softmax_over_so_many_words_back(net, kept, band):
    x, y = datasets.load("ptb-standin").test
    block = net.blocks[0]
    layer, states = block.attention, net.embedding(x)
    heads = layer.num_heads
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in torch.nn.functional.linear(
            block.norm1(states), layer.in_proj_weight, layer.in_proj_bias
        ).chunk(3, dim=-1)
    )
    i = torch.arange(x.shape[1])
    back = i[:, None] - i
    seen = (back >= 0) & (back <= band)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    states = states + layer.out_proj(mixed.transpose(1, 2).flatten(2))
    states = net.norm(states + block.feedforward(block.norm2(states)))
    nats = net.softmax(states.flatten(0, 1), y.flatten(), net.embedding.word.weight)
    assert kept.perplexity[band] == pytest.approx(nats.double().mean().exp().item(), rel=1e-5)


@torch.no_grad()
def test_the_shares_are_those_of_the_matrices(net, kept):
    x, _ = datasets.load("ptb-standin").test
    A = models.text.attention_matrices(net, x).double()
    assert kept.attention.shape == (A.shape[1], 64)
    torch.testing.assert_close(kept.attention.sum(1), torch.ones(A.shape[1]).double())
    for distance in (0, 1, 40, 63):
        rows = torch.arange(max(32, distance), 64)
        expected = A[:, :, rows, rows - distance].sum(-1).mean(0) / 32
        torch.testing.assert_close(kept.attention[:, distance], expected)


def test_a_window_that_was_trained_bounds_the_band(trained, tmp_path):
    reach.collect(*files(trained, "windowed"), tmp_path)
    found = reach.read(tmp_path, NAMES["windowed"])
    assert found.perplexity[8] == found.perplexity[63] != found.perplexity[4]
    assert not found.attention[:, 9:].any()


def test_what_has_no_reach_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="language model, tied or windowed, got ptb, native"):
        reach.collect(*files(trained, "native"), tmp_path)
    for path in trained.glob(f"{NAMES['tied']}*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads((tmp_path / f"{NAMES['tied']}.json").read_text())
    (epoch,) = record["curve"]
    epoch["perplexity"] *= 1.01
    record |= {"best": epoch, "last": epoch, "selected": epoch}
    (tmp_path / f"{NAMES['tied']}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="must reach its record's perplexity"):
        reach.collect(*files(tmp_path, "tied"), tmp_path)
    assert not list(tmp_path.rglob("*reach*"))
