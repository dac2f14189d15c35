"""The text networks: what their attention matrices are."""

import pytest
import torch

from sparsemat.experiments import models
from sparsemat.experiments.models.text import WINDOW, attention_matrices

SIZES = {"vocabulary": 30, "length": 12, "dim": 8, "heads": 2, "feedforward": 16, "layers": 1}
NETWORKS = {
    "classifier": models.TextClassifier(**SIZES, classes=3, dropout=0.1),
    "language model": models.LanguageModel(**SIZES, dropout=0.1, cuts=(10,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_matrices_are_those_that_torch_multiplies_by(name):
    network = NETWORKS[name]
    tokens = torch.randint(1, 30, (3, 12), generator=torch.Generator().manual_seed(0))
    found = {}
    for variant in network.variants:
        model = models.build(network, variant, seed=0).double().eval()
        found[variant] = attention_matrices(model, tokens)
        assert found[variant].shape == (3, 2, 12, 12)
        if variant != "linear":
            ones = torch.ones(3, 2, 12, dtype=torch.float64)
            torch.testing.assert_close(found[variant].sum(-1), ones)
    torch.testing.assert_close(found["tied"], found["native"])
    causal = name == "language model"
    at = torch.arange(12)
    distance = at[:, None] - at
    assert all(not causal or not A[..., distance < 0].any() for A in found.values())
    assert not found["windowed"][..., distance.abs() > WINDOW].any()
    assert found["tied"][..., distance > WINDOW].all()
