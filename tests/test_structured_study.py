"""The study of tile products: what it counts is what torch counts, and its record is whole."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsemat.experiments import tiles


@pytest.mark.parametrize("variant", [v for v in tiles.VARIANTS if v != "dense, a matrix a row"])
def test_multiplications_are_those_that_torch_counts(variant):
    width, linear = tiles.VARIANTS[variant]
    block = tiles.Block(width, linear)
    with FlopCounterMode(display=False) as counter:
        block(torch.randn(2, tiles.TOKENS, width))
    counts = counter.get_flop_counts()
    names = ("queries", "out", "up", "down")
    total = sum(sum(counts[f"Block.{name}"].values()) for name in names)
    tokens = 2 * tiles.TOKENS
    assert total == 2 * tokens * tiles.macs(variant) // tiles.DEPTH


def test_a_matrix_a_row_is_a_dense_layer_for_each_row():
    layer = tiles.RowLinear(6, 5)
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
        assert name in tiles.VARIANTS
        assert set(map(float, entry["held out"])) == set(tiles.RATES)
        best = max(entry["held out"], key=entry["held out"].__getitem__)
        assert entry["rate"] == float(best)
        assert set(entry["test"]) == set(map(str, tiles.SEEDS))
        assert entry["macs"] == tiles.macs(name)
