"""Whole networks of structured layers."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from sparsemat.structured import (
    AdaptedLinear,
    BlockLowRank,
    LowRank,
    StrassenTileLinear,
    StructuredLinear,
    TileBases,
    from_module,
)


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
    biased = network()
    biased.append(nn.Linear(3, 3))
    biased[6].bias = biased[5].bias
    with pytest.raises(ValueError, match=r"5: its bias must be its own.*\['5', '6'\]"):
        from_module(biased, LowRank, {"rank": 1})


def ran(part, *values):
    """A hook that changes nothing."""


MORE_THAN_DENSE = {
    "forward hook": (lambda layer: layer.register_forward_hook(ran), "its forward_hooks"),
    "forward hook before": (
        lambda layer: layer.register_forward_pre_hook(ran),
        "its forward_pre_hooks",
    ),
    "backward hook": (lambda layer: layer.register_full_backward_hook(ran), "its backward_hooks"),
    "backward hook before": (
        lambda layer: layer.register_full_backward_pre_hook(ran),
        "its backward_pre_hooks",
    ),
    "other forward": (lambda layer: setattr(layer, "forward", ran), "its forward was replaced"),
    "pruned weight": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        "its weight must be a parameter.*'weight_orig'",
    ),
    "pruned bias": (
        lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
        "its bias must be a parameter.*'bias_orig'",
    ),
    "old weight norm": (nn.utils.weight_norm, "its weight must be .*'weight_g', 'weight_v'"),
    "parametrized weight": (
        parametrizations.spectral_norm,
        "its weight must be .*'parametrizations.weight.original'",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("change, message", MORE_THAN_DENSE.values(), ids=MORE_THAN_DENSE)
def test_a_layer_that_does_more_than_its_parameters_say_is_refused(change, message):
    dense = network()
    change(dense[5])
    for part, begin in ((dense, "^5"), (dense[5], "^linear")):
        with pytest.raises(ValueError, match=begin + ".*" + message):
            from_module(part, LowRank, {"rank": 1})
    with pytest.raises(ValueError, match=message):
        StructuredLinear.from_linear(dense[5], LowRank, rank=1)
    with pytest.raises(ValueError, match=message):
        AdaptedLinear.lora(dense[5], 1).merged()
    with pytest.raises(ValueError, match=message):
        StrassenTileLinear.from_linear(dense[5], TileBases.strassen())


def test_what_is_frozen_stays_frozen_and_what_is_in_eval_mode_stays_there():
    dense = network().eval()
    dense[0].requires_grad_(False)
    dense[5].train().bias.requires_grad_(False)
    structured = from_module(dense, LowRank, {"rank": 1})
    trained = {name for name, p in structured.named_parameters() if p.requires_grad}
    assert trained == {"2.weight.left", "2.weight.right", "2.bias", "5.weight.left",
                       "5.weight.right"}  # fmt: skip
    modes = {path: part.training for path, part in structured.named_modules()}
    assert {path for path, training in modes.items() if training} == {"5", "5.weight"}
    tiled = StrassenTileLinear.from_linear(
        nn.Linear(4, 4).requires_grad_(False).eval(), TileBases.strassen()
    )
    assert not tiled.training and not tiled.slab.weight.requires_grad
    assert not tiled.bias.requires_grad and tiled.bases.encode.requires_grad


def test_a_layer_that_is_refused_is_not_frozen():
    dense = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"\(3, 4\), got \[\]"):
        AdaptedLinear(dense, [])
    assert dense.weight.requires_grad


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)


def by_hand(layer):
    layer.linear1 = StructuredLinear.from_linear(layer.linear1, LowRank, rank=8)
    return layer


ENCODERS = {
    "layer": encoder_layer,
    "layer, normed first": lambda: encoder_layer(norm_first=True),
    "layer, gelu": lambda: encoder_layer(activation="gelu"),
    "encoder": lambda: nn.TransformerEncoder(encoder_layer(), 2),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_the_fast_paths_of_torch_do_not_go_round_it(make, padded):
    dense, x = make().eval(), torch.randn(2, 5, 8)
    mask = torch.arange(5).expand(2, 5) >= torch.tensor([[3], [5]]) if padded else None
    seen = torch.ones(2, 5, dtype=torch.bool) if mask is None else ~mask
    networks = [from_module(dense, LowRank, lambda shape: {"rank": min(shape)})]
    if isinstance(dense, nn.TransformerEncoderLayer):
        networks.append(by_hand(deepcopy(dense)))
    for network in networks:
        assert any(isinstance(part, StructuredLinear) for part in network.modules())
        with torch.no_grad():
            expected = dense(x, src_key_padding_mask=mask)[seen]
            torch.testing.assert_close(network(x, src_key_padding_mask=mask)[seen], expected)
        network.requires_grad_(False)
        torch.testing.assert_close(network(x, src_key_padding_mask=mask)[seen], expected)


def test_a_matrix_is_no_tensor():
    with pytest.raises(TypeError, match="LowRank"):
        nn.functional.linear(torch.randn(2, 4), LowRank((3, 4), 2))
