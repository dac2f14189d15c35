"""The examples of CONTRIBUTING.md keep the contracts that they show."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from contract import Case, LayerContract
from matrix_contract import MatrixCase, MatrixContract
from torch import nn

import sparsemat as sm
from sparsemat import rules

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"


example = sys.modules["contributing_example"] = ModuleType("contributing_example")
for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
    exec(compile(block, str(GUIDE), "exec"), vars(example))
# other tests ask for all rules: these are known only while the tests below run
OWN = {kind: rules._rules.pop(kind) for kind in (example.Scale, example.MatrixScale)}


@pytest.fixture(scope="module", autouse=True)
def with_the_rules_of_the_example():
    rules._rules.update(OWN)
    yield
    for kind in OWN:
        del rules._rules[kind]


def scale(features):
    def build(dtype):
        torch.manual_seed(0)
        layer = example.MatrixScale(features, dtype=dtype)
        torch.manual_seed(0)
        return Case(layer, example.Scale(features, dtype=dtype), (features,))

    return build


class TestLayer(LayerContract):
    takes_complex = True
    cases = {"one feature": scale(1), "five features": scale(5)}  # noqa: RUF012

    def test_the_rule_finds_it(self):
        network = nn.Sequential(nn.Linear(3, 5), example.Scale(5))
        layer, x = sm.from_module(network, (3,)), torch.randn(4, 3)
        assert isinstance(layer[1], example.MatrixScale)
        torch.testing.assert_close(layer(x), network(x))
        W, b = sm.to_matrix(network, (3,))
        torch.testing.assert_close(W @ x[0] + b, network(x)[0])
        with pytest.raises(ValueError, match=r"input_shape must be \(5,\), got \(4,\)"):
            sm.to_matrix(network[1], (4,))


class TestMatrix(MatrixContract):
    cases = {  # noqa: RUF012
        "rank one": MatrixCase(((5,), (3,)), example.RankOne, torch.outer),
    }
