"""The study of tile products: what it counts is what torch counts, and its record is whole."""

import json
from copy import deepcopy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsemat.experiments import tile_networks, tiles
from sparsemat.experiments.tile_networks import DEPTH, TOKENS, VARIANTS, RowLinear, TwoOfFour
from sparsemat.structured import TileBases

PUBLISHED = "tiles 48, rational"
NEW = "2:4 mask", "tiles 24, fitted with a ridge", "tiles 49, Strassen twice", PUBLISHED
CONVERTED = "naive products, 24", "fitted with a ridge, 24"
NOT_COUNTED = "dense, a matrix a row", "2:4 mask"


@pytest.fixture
def offline(monkeypatch):
    """Products of Strassen's scheme in place of the published scheme, which is not at hand."""
    monkeypatch.setattr(tile_networks, "published", lambda name: TileBases.pruned(48))


@pytest.fixture
def small(monkeypatch, tmp_path, offline):
    """The study on 64 random images a part, for an epoch; where its record is written."""
    record = tmp_path / "tiles.json"
    data = {
        part: (torch.randn(64, 3, 32, 32), torch.randint(10, (64,)))
        for part in ("train", "held out", "test")
    }
    for name, value in {"splits": lambda: data, "RECORD": record, "TRAIN": 64, "EPOCHS": 1,
                        "FINE_TUNING_STEPS": 1, "SAMPLE": 4, "SEEDS": (0, 1), "RATES": (1e-3, 2e-3),
                        "CONVERSIONS": {name: tiles.CONVERSIONS[name] for name in CONVERTED},
                        }.items():  # fmt: skip
        monkeypatch.setattr(tiles, name, value)
    return record


def test_variants_and_conversions_run_and_go_on_where_they_stopped(small, capsys):
    tiles.main(["dense", *NEW])
    record = json.loads(small.read_text())
    assert list(record["variants"]) == ["dense", *NEW]
    for entry in record["variants"].values():
        assert set(entry["held out"]) == set(map(str, tiles.RATES))
        assert set(entry["test"]) == set(map(str, tiles.SEEDS))
    parameters = {name: entry["parameters"] for name, entry in record["variants"].items()}
    for rank, name in ((24, NEW[1]), (49, NEW[2]), (48, NEW[3])):
        assert 0.95 < parameters[name] / (rank / 16 * parameters["dense"]) < 1.1
    assert 0.5 < parameters["2:4 mask"] / parameters["dense"] < 0.51
    before = deepcopy(record["variants"])
    del record["variants"]["2:4 mask"]["test"]["1"]
    record["conversion"] = {"1": {"dense": {}, "naive products, 24": {}}}
    small.write_text(json.dumps(record))
    capsys.readouterr()
    tiles.main(["2:4 mask", "conversion"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" 0.")[0].split(" {")[0] for line in said] == [
        "2:4 mask seed 1", "conversion 0", "conversion 1",
    ]  # fmt: skip
    again = json.loads(small.read_text())
    assert again["variants"] == before
    for rows in again["conversion"].values():
        assert set(rows) == {"dense", "low rank", *CONVERTED}
    assert again["conversion"]["1"]["naive products, 24"] == {}
    with pytest.raises(SystemExit):
        tiles.main(["tiles 50"])


def test_two_of_every_four_weights_are_kept():
    layer = TwoOfFour(16, 12)
    dense = layer(torch.eye(16)).T - layer.bias[:, None]
    assert ((dense != 0).unflatten(1, (4, 4)).sum(2) == 2).all()
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, dense, layer.bias))
    assert layer.weight.numel() == 16 * 12 // 2


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in NOT_COUNTED])
def test_multiplications_are_those_that_torch_counts(variant, offline):
    width, linear = VARIANTS[variant]
    block = tile_networks.Block(width, linear)
    with FlopCounterMode(display=False) as counter:
        block(torch.randn(2, TOKENS, width))
    counts = counter.get_flop_counts()
    names = ("queries", "out", "up", "down")
    total = sum(sum(counts[f"Block.{name}"].values()) for name in names)
    assert total == 2 * 2 * TOKENS * tiles.macs(variant) // DEPTH


def test_a_matrix_a_row_is_a_dense_layer_for_each_row():
    layer = RowLinear(6, 5)
    x = torch.randn(2, 8, 6)
    for token in range(8):
        expected = x[:, token] @ layer.weight[token % 4].T
        torch.testing.assert_close(layer(x)[:, token], expected)


def test_low_rank_of_outputs_is_the_best_on_its_inputs():
    dense = torch.nn.Linear(128, 128)
    x = torch.randn(40, 16, 128) @ torch.randn(128, 128)
    with torch.no_grad():
        layer = tiles.low_rank_of_outputs(dense, x)
        outputs = (dense(x) - dense.bias).flatten(0, 1)
        error = ((layer(x) - dense(x)).flatten(0, 1)).norm()
    tail = torch.linalg.svdvals(outputs)[layer.weight.rank :].norm()
    torch.testing.assert_close(error, tail, rtol=1e-3, atol=0)


def test_the_record_chose_by_the_held_out_images():
    record = json.loads(tiles.RECORD.read_text())
    for name, entry in record["variants"].items():
        assert name in VARIANTS
        assert set(map(float, entry["held out"])) == set(tiles.RATES)
        best = max(entry["held out"], key=entry["held out"].__getitem__)
        assert entry["rate"] == float(best)
        assert set(entry["test"]) == set(map(str, tiles.SEEDS))
        assert entry["macs"] == tiles.macs(name)
