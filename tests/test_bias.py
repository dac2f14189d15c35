"""Attention with a bias of low rank, in every form, against the bias written out."""

import pytest
import torch

from sparsemat.patterns import tokens
from sparsemat.products.attention import attend

T, D, R = 70, 4, 2
RULES = {
    "all": {},
    "causal": {"causal": True},
    "window": {"window": 3},
    "causal window": {"causal": True, "window": 3},
    "mask": {"mask": lambda n, head, i, j: (i + j + head) % 3 != 1},
    "pattern": {"pattern": tokens.window(T, 2) | tokens.seen(T, [0])},
}


def sides(batch=(2, 3)):
    generator = torch.Generator().manual_seed(0)
    shapes = [(*batch, T, D)] * 3 + [(batch[-1], T, R), (T, R)]
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def seen(rules, heads):
    i, j = torch.arange(T)[:, None], torch.arange(T)
    allowed = torch.ones(T, T, dtype=torch.bool)
    if rules.get("causal"):
        allowed = allowed & (j <= i)
    if "window" in rules:
        allowed = allowed & ((i - j).abs() <= rules["window"])
    if "mask" in rules:
        allowed = allowed & rules["mask"](0, torch.arange(heads)[:, None, None], i, j)
    if "pattern" in rules:
        allowed = torch.zeros(T, T, dtype=torch.bool)
        allowed[rules["pattern"].row.copy(), rules["pattern"].col.copy()] = True
    return allowed


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_bias_is_added_to_the_scores(rules, softmax):
    q, k, v, left, right = inputs = sides()
    found = attend(q, k, v, bias=(left, right), softmax=softmax, **rules)
    scores = q @ k.mT / D**0.5 + left @ right.mT
    allowed = seen(rules, 3)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1) if softmax else scores * allowed
    expected = weights @ v
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("form", ["square", "fused"])
def test_a_form_may_be_asked_for(form):
    q, k, v, left, right = sides()
    expected = (q @ k.mT / D**0.5 + left @ right.mT).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v, bias=(left, right), form=form), expected)


@pytest.mark.parametrize(
    ("left", "right"), [((T, 2), (T, 3)), ((T - 1, 2), (T - 1, 2)), ((T, 2), (T - 1, 2))]
)
def test_sides_of_a_bias_must_fit(left, right):
    q, k, v, *_ = sides()
    with pytest.raises(ValueError, match=rf"\(\.\.\., {T}, R\).*{left[0]}"):
        attend(q, k, v, bias=(torch.zeros(left), torch.zeros(right)))


def test_keys_are_checked_before():
    q, k, v, left, right = sides()
    with pytest.raises(ValueError, match="k must have the shape of q"):
        attend(q, k[..., 1:, :], v, bias=(left, right))
