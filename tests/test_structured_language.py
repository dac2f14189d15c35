"""The causal language model of tiles: what sees what, and what its losses mean."""

import math

import pytest
import torch

from sparsemat.experiments import tile_language as language
from sparsemat.experiments.tile_networks import Block

WIDTH = 32


def seen(kind, samples, tokens):
    """Which inputs an output depends on: ``(samples, tokens, samples, tokens)``."""
    torch.manual_seed(0)
    block = Block(WIDTH, language.LAYERS[kind], causal=True).double()
    return language.dependence(block, WIDTH, samples, tokens) > 1e-12


def expected(kind, samples, tokens):
    token, sample = torch.arange(tokens), torch.arange(samples)
    last = token // 4 * 4 + 3 if kind == "tiles over tokens" else token
    before = token[None] <= last[:, None]
    same = sample[:, None] == sample
    if kind == "tiles over the batch":
        same = sample[:, None] // 4 == sample // 4
    return same[:, None, :, None] & before[None, :, None, :]


@pytest.mark.parametrize("kind", language.LAYERS)
@pytest.mark.parametrize("samples, tokens", [(5, 8), (1, 6)])
def test_what_an_output_depends_on(kind, samples, tokens):
    assert torch.equal(seen(kind, samples, tokens), expected(kind, samples, tokens))


def test_a_layer_over_features_is_one_matrix_for_every_token():
    torch.manual_seed(0)
    layer = language.over_features(32, 48).double()
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    by_token = torch.stack([layer(x[:, k]) for k in range(7)], 1)
    torch.testing.assert_close(layer(x), by_token)
    dense = layer.weight.to_dense()
    assert dense.shape == (48, 32)
    torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)
    assert layer.weight.weight.numel() == language.RANK * 32 * 48 // 4**4


def test_losses_at_once_and_in_use_agree_where_nothing_leaks_and_only_there():
    inputs, targets = torch.randint(9, (2, 5, 12), generator=torch.Generator().manual_seed(0))
    for kind, layer in language.LAYERS.items():
        torch.manual_seed(0)
        network = language.CharacterModel(9, 16, WIDTH, layer)
        at_once = language.losses(network, (inputs, targets))
        in_use = language.losses_in_use(network, (inputs, targets))
        difference = (at_once - in_use).abs().max()
        assert (difference < 1e-4) == (kind in ("dense", "tiles over features"))
        logits = network(inputs[2:3, :6])[0, :, -1]  # one text, alone
        alone = language.losses_in_use(network, (inputs[2:3], targets[2:3]))[5]
        expected = -logits.log_softmax(0)[targets[2, 5]] / math.log(2)
        torch.testing.assert_close(alone, expected)


def test_the_text_is_characters_of_the_sample():
    parts = language.text(1000, 500)
    assert {name: len(x) for name, (x, _) in parts.items()} == {"train": 15, "test": 7}
