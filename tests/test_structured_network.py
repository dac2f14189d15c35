"""Whole networks of structured layers."""

import pytest
import torch
from torch import nn

from sparsemat.structured import BlockLowRank, LowRank, StructuredLinear, from_module


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network():
    shared = nn.Linear(12, 12)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(12, 3))


def test_full_rank_is_the_same_network():
    dense, x = network(), torch.randn(5, 8)
    structured = from_module(dense, LowRank, lambda shape: {"rank": min(shape)})
    torch.testing.assert_close(structured(x), dense(x))
    assert structured[2] is structured[4] and isinstance(structured[2], StructuredLinear)
    assert not any(isinstance(part, StructuredLinear) for part in dense.modules())


def test_each_layer_is_the_projection_of_its_own():
    dense = network()
    structured = from_module(dense, BlockLowRank, {"grid": (2, 2), "rank": 1},
                             only=lambda path, layer: path != "5")  # fmt: skip
    assert type(structured[5]) is nn.Linear
    for k in (0, 2):
        best = BlockLowRank.project(dense[k].weight, grid=(2, 2), rank=1).matrix
        torch.testing.assert_close(structured[k].weight.to_dense(), best.to_dense())
        torch.testing.assert_close(structured[k].bias, dense[k].bias)


def test_one_layer_and_a_layer_that_stays_dense():
    assert isinstance(from_module(nn.Linear(4, 4), LowRank, {"rank": 2}), StructuredLinear)
    found = from_module(network(), LowRank, lambda s: None if s[0] == 3 else {"rank": 2})
    assert type(found[5]) is nn.Linear and isinstance(found[0], StructuredLinear)


def test_subclasses_of_linear_are_left_alone():
    attention = nn.MultiheadAttention(4, 2)  # its out_proj is a subclass that others read
    with pytest.raises(TypeError, match="no dense layer is to be exchanged in MultiheadAttention"):
        from_module(attention, LowRank, {"rank": 1})


def test_what_cannot_be_is_refused_with_its_path():
    with pytest.raises(ValueError, match=r"5 \(Linear.*min.*=3, got 4"):
        from_module(network(), LowRank, {"rank": 4})
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match=r"1: its weight must be its own.*\['0', '1'\]"):
        from_module(tied, LowRank, {"rank": 1})
