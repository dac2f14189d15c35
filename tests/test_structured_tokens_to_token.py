"""The transformer of the shape of T2T-ViT-7: its sizes, its attention, and its study."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsemat.experiments import tiles
from sparsemat.experiments import tokens_to_token as t2t
from sparsemat.experiments.models import count_parameters


def test_sizes_are_those_of_the_published_network():
    with torch.device("meta"):
        network = t2t.TokensToToken(224, t2t.IMAGENET, 1000, torch.nn.Linear)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.randn(1, 3, 224, 224))
    assert network.place.shape == (1 + 14 * 14, 256)
    assert round(count_parameters(network) / 1e6, 1) == 4.3  # its paper and code: 4.2 to 4.3
    assert round(counter.get_total_flops() / 2e9, 1) == 1.1


def test_attention_is_the_quotient_of_sums_over_all_pairs():
    layer = t2t.Performer(27).double()
    x = torch.randn(2, 5, 27, dtype=torch.float64)
    k, q, v = layer.mixed(layer.norms[0](x)).chunk(3, 2)

    def features(z):
        powers = [z @ w - z.square().sum(-1) / 2 for w in layer.directions]
        return torch.stack(powers, -1).exp()

    attended = torch.zeros_like(v)
    for i in range(5):
        shares = torch.stack([(features(q[:, i]) * features(k[:, j])).sum(-1) for j in range(5)])
        for j in range(5):
            attended[:, i] += (shares[j] / shares.sum(0))[:, None] * v[:, j]
    y = v + layer.out(attended)
    y = y + layer.down(torch.nn.functional.gelu(layer.up(layer.norms[1](y))))
    torch.testing.assert_close(layer(x), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("pixels", "splits"), [(32, t2t.CIFAR), (30, ((3, 2, 1),))])
def test_all_pixels_reach_the_logits(pixels, splits):
    network = t2t.TokensToToken(pixels, splits, 10, torch.nn.Linear)
    images = torch.randn(2, 3, pixels, pixels, requires_grad=True)
    logits = network(images)
    (slope,) = torch.autograd.grad(logits[0].square().sum(), images)
    assert logits.shape == (2, 10)
    assert (slope[0] != 0).all() and not slope[1].any()


def test_the_study_goes_on_where_it_stopped(monkeypatch, tmp_path, capsys):
    record = tmp_path / "tokens_to_token.json"
    data = {p: (torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for p in ("train", "test")}
    monkeypatch.setattr(tiles, "splits", lambda: data)
    monkeypatch.setattr(t2t, "RECORD", record)
    monkeypatch.setattr(t2t, "STEPS", 2)
    t2t.main()
    first = json.loads(record.read_text())
    assert list(first["variants"]) == list(t2t.NAMES) and first["steps"] == 2
    del first["variants"]["dense"]
    record.write_text(json.dumps(first))
    capsys.readouterr()
    t2t.main()
    assert capsys.readouterr().out.startswith("dense ")
    assert set(json.loads(record.read_text())["variants"]) == set(t2t.NAMES)
