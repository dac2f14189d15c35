"""Patterns of who sees whom: what they hold, how they join, and attention on them."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path
from torch.nn.functional import scaled_dot_product_attention

from sparsemat import Pattern, dense_pattern
from sparsemat.patterns import tokens as tk
from sparsemat.products.attention import attend
from sparsemat.products.pieces import pieces


def square(pattern):
    dense = np.zeros(pattern.shape, dtype=bool)
    dense[pattern.row, pattern.col] = True
    return dense


def from_rule(tokens, rule):
    pairs = [(i, j) for i, j in product(range(tokens), repeat=2) if rule(i, j)]
    dense = np.zeros((tokens, tokens), dtype=bool)
    dense[tuple(np.array(pairs).reshape(-1, 2).T)] = True
    return dense


RULES = {
    "causal": (lambda n: tk.causal(n), lambda i, j: j <= i),
    "window": (lambda n: tk.window(n, 2), lambda i, j: abs(i - j) <= 2),
    "window of itself": (lambda n: tk.window(n, 0), lambda i, j: i == j),
    "dilated": (lambda n: tk.window(n, 2, 3), lambda i, j: (i - j) in (-6, -3, 0, 3, 6)),
    "strided": (lambda n: tk.strided(n, 4), lambda i, j: (i - j) % 4 == 0),
    "blocks": (lambda n: tk.blocks(n, 3), lambda i, j: i // 3 == j // 3),
    "seen": (lambda n: tk.seen(n, [0, 0]), lambda i, j: j == 0),
    "global": (
        lambda n: tk.seen(n, [0]) | tk.seen(n, [0]).T,
        lambda i, j: i == 0 or j == 0,
    ),
    "cut": (lambda n: tk.strided(n, 4) & tk.causal(n), lambda i, j: j <= i and (i - j) % 4 == 0),
}


@pytest.mark.parametrize("build, rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("tokens", [1, 2, 5, 12, 13])
def test_a_pattern_is_its_rule(build, rule, tokens):
    pattern = build(tokens)
    assert np.array_equal(square(pattern), from_rule(tokens, rule))
    assert not pattern.has_duplicates and pattern.num_parameters == pattern.nnz


@pytest.mark.parametrize("among", [None, "causal"])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_largest_scores_are_those_of_topk(count, among):
    scores = np.random.default_rng(0).standard_normal((9, 9))
    pattern = tk.largest(scores, count, among and tk.causal(9))
    if among:
        scores = np.where(np.tri(9, dtype=bool), scores, -np.inf)
    kept = torch.from_numpy(scores).topk(count, -1).indices
    expected = torch.zeros(9, 9, dtype=torch.bool).scatter_(1, kept, True)
    assert np.array_equal(square(pattern), expected.numpy() & np.isfinite(scores))
    assert pattern.num_parameters == pattern.nnz


def test_of_equal_scores_the_first_tokens_are_seen():
    pattern = tk.largest(np.array([[0, 1, 1], [2, 2, 2], [0, 0, 1]], dtype=np.uint8), 2)
    assert pattern.col.tolist() == [1, 2, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (np.zeros((2, 3)), {}, r"T x T, got shape \(2, 3\)"),
        (np.full((2, 2), np.nan), {}, "got NaN"),
        (np.zeros((2, 2)), {"count": 0}, "count"),
        (np.zeros((2, 2)), {"among": tk.causal(3)}, r"2x2, got shape \(3, 3\)"),
    ],
)
def test_scores_that_choose_nothing_are_refused(scores, options, message):
    with pytest.raises(ValueError, match=message):
        tk.largest(scores, **{"count": 1, **options})


def test_drawn_tokens_are_distinct_and_repeatable():
    first, again = (tk.drawn(20, 4, np.random.default_rng(3)) for _ in range(2))
    assert (first.row_counts == 4).all() and first.equals(again)


def test_a_tree_joins_siblings_parents_and_children():
    dense = square(tk.tree(2, 3))  # 8 tokens, 4 summaries, 2 above
    assert dense.shape == (14, 14) and (dense == dense.T).all()
    assert set(np.flatnonzero(dense[5])) == {4, 5, 10}
    assert set(np.flatnonzero(dense[10])) == {10, 11, 4, 5, 13}
    assert set(np.flatnonzero(dense[13])) == {12, 13, 10, 11}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_union_and_intersection_are_those_of_sets(rows, cols, seed):
    rng = np.random.default_rng(seed)

    def drawn():
        count = rng.integers(0, 12)
        row, col = rng.integers(rows, size=count), rng.integers(cols, size=count)
        return Pattern((rows, cols), row, col, rng.integers(3, size=count), 3)

    a, b = drawn(), drawn()
    for joined, expected in (
        (a | b, square(a) | square(b)),
        (a & b, square(a) & square(b)),
    ):
        assert np.array_equal(square(joined), expected)
        assert joined.equals(joined.distinct())


def test_cells_of_more_than_64_bits_are_told_apart():
    """Numbered row by row, the two would have one number modulo 2**64."""
    first, second = (Pattern((2**32, 2**33), [row], [0], [0], 1) for row in (0, 2**31))
    assert (first & second).nnz == 0 and (first | second).nnz == 2
    assert (second & second).row.tolist() == [2**31]


@pytest.mark.parametrize("operation", [Pattern.__or__, Pattern.__and__])
def test_other_shapes_are_not_joined(operation):
    with pytest.raises(ValueError, match=r"\(3, 3\) and \(4, 4\)"):
        operation(tk.causal(3), tk.causal(4))


NAMED = {
    "other must be a Pattern, got int": (TypeError, lambda p: p | 3),
    "other must be a Pattern, got ndarray": (TypeError, lambda p: p & np.ones((3, 3), bool)),
    "at must be one-dimensional, got 3": (ValueError, lambda p: tk.seen(5, 3)),
    "count must be an integer, got 2.0": (
        ValueError,
        lambda p: tk.drawn(5, 2.0, np.random.default_rng(0)),
    ),
    "labels must be integers, got dtype float64": (
        ValueError,
        lambda p: dense_pattern(2, 2).labelled([0.5, 0, 1, 1]),
    ),
}


@pytest.mark.parametrize("message", NAMED)
def test_what_does_not_fit_is_named(message):
    error, act = NAMED[message]
    with pytest.raises(error, match=message):
        act(tk.causal(3))


def test_the_closure_is_what_paths_reach_and_its_exponent_their_length():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pattern = tk.drawn(12, 2, rng) | tk.window(12, 0)
        lengths = shortest_path(square(pattern), unweighted=True)
        reach, layers = tk.closure(pattern)
        assert np.array_equal(square(reach), np.isfinite(lengths))
        assert layers == lengths[np.isfinite(lengths)].max()
    reach, layers = tk.closure(tk.window(1, 0))
    assert (reach.nnz, layers) == (1, 1)


REFUSED = {
    "no tokens": (lambda: tk.window(0, 1), "tokens"),
    "negative reach": (lambda: tk.window(3, -1), "reach"),
    "no dilation": (lambda: tk.window(3, 1, 0), "dilation"),
    "no stride": (lambda: tk.strided(3, 0), "stride"),
    "no block": (lambda: tk.blocks(3, 0), "block"),
    "a token that is not there": (lambda: tk.seen(3, [3]), "0..2, got 3..3"),
    "too many drawn": (lambda: tk.drawn(3, 4, np.random.default_rng(0)), "0..tokens=3, got 4"),
    "no branching": (lambda: tk.tree(1, 2), "branching"),
    "not square": (lambda: tk.closure(Pattern((2, 3), [0], [0], [0], 1)), r"\(2, 3\)"),
    "a token that does not see itself": (lambda: tk.closure(tk.seen(3, [0])), "does not: 1"),
}


@pytest.mark.parametrize("build, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def hubs(tokens, count):
    return tk.seen(tokens, range(count)) | tk.seen(tokens, range(count)).T


SEEN = {
    "short": lambda: tk.causal(5),
    "window": lambda: tk.window(700, 20),
    "window and global": lambda: tk.window(700, 20) | hubs(700, 3),
    "sparse transformer": lambda: (tk.window(900, 29) | tk.strided(900, 30)) & tk.causal(900),
    "fixed": lambda: (tk.blocks(800, 20) | tk.seen(800, range(19, 800, 20))) & tk.causal(800),
    "dilated": lambda: tk.window(800, 3, 90),
    "drawn": lambda: tk.window(800, 9) | tk.drawn(800, 5, np.random.default_rng(0)),
    "tree": lambda: tk.tree(3, 6),
    "causal": lambda: tk.causal(200),
}
SQUARE = {"short", "causal"}


@pytest.fixture(scope="module", params=SEEN)
def case(request):
    return request.param, SEEN[request.param]()


class TestAttentionOnAPattern:
    def test_pieces_hold_every_pair_once_and_no_square(self, case):
        name, pattern = case
        tokens, found = pattern.shape[0], pieces(pattern)
        times = np.zeros((tokens + 1, tokens), dtype=int)
        for piece in found:
            group, row, col = piece.seen.nonzero()
            np.add.at(times, (piece.queries[group, row], piece.keys[group, col]), 1)
        assert np.array_equal(times[:tokens], square(pattern).astype(int))
        assert not times[tokens].any()
        area = sum(piece.seen.size for piece in found)
        assert (area == tokens**2) if name in SQUARE else (area <= tokens**2 / 2)

    @pytest.mark.parametrize("softmax", [True, False])
    def test_values_and_gradients_are_those_of_the_masked_square(self, case, softmax):
        _, pattern = case
        torch.manual_seed(0)
        tokens = pattern.shape[0]
        inputs = [torch.randn(2, tokens, 4, dtype=torch.float64) * 3 for _ in range(3)]
        mask = torch.from_numpy(square(pattern))
        found = []

        def masked(q, k, v):
            if softmax:
                return scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return (q @ k.mT / 2 * mask) @ v

        for multiply in (partial(attend, softmax=softmax, pattern=pattern), masked):
            sides = [side.clone().requires_grad_() for side in inputs]
            y = multiply(*sides)
            found.append((y, *torch.autograd.grad(y.sin().sum(), sides)))
        for ours, expected in zip(*found, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)

    def test_large_scores_overflow_nowhere(self, case):
        _, pattern = case
        torch.manual_seed(0)
        q, k, v = torch.randn(3, 1, pattern.shape[0], 4)
        sides = [side.requires_grad_() for side in (300 * q, 300 * k, v)]
        y = attend(*sides, pattern=pattern)
        assert y.isfinite().all() and y.abs().max() <= v.abs().max() + 1e-5
        assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), sides))


def test_second_derivatives_on_a_pattern():
    pattern = tk.window(300, 4) | hubs(300, 2)
    assert len(pieces(pattern)) == 2
    torch.manual_seed(0)
    values = [torch.randn(300, 3, dtype=torch.float64) for _ in range(6)]
    mask, found = torch.from_numpy(square(pattern)), []
    for rules in (dict(pattern=pattern), dict(mask=lambda n, head, i, j: mask, form="square")):
        sides = [side[None, None].clone().requires_grad_() for side in values[:3]]
        slopes = torch.autograd.grad(attend(*sides, **rules).sin().sum(), sides, create_graph=True)
        slope = sum((a * b).sum() for a, b in zip(slopes, values[3:], strict=True))
        found.append(torch.autograd.grad(slope, sides))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


ATTENTION_REFUSED = {
    "another size": (dict(pattern=tk.causal(4)), r"5x5, got shape \(4, 4\)"),
    "two rules": (dict(pattern=tk.causal(5), causal=True), "must not be given, got causal=True"),
    "a form": (dict(pattern=tk.causal(5), form="band"), "form=band"),
    "a blind token": (dict(pattern=Pattern(
        (5, 5), [0], [0], [0], 1)), "got none for token 1"),
}  # fmt: skip


@pytest.mark.parametrize("rules, message", ATTENTION_REFUSED.values(), ids=ATTENTION_REFUSED)
def test_a_pattern_that_does_not_fit_is_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        attend(*torch.randn(3, 5, 2), **rules)
