"""Data2Matrix against torch's own reshape, permute, unfold and embedding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import embedding, one_hot

import sparsemat as sm

sizes = st.integers(1, 6)


def numbers(*shape: int) -> torch.Tensor:
    """Distinct numbers, so that any two entries exchanged are noticed."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


def filled(pattern: sm.Pattern) -> torch.Tensor:
    return pattern.fill(torch.ones(1, dtype=torch.float64)).to_dense()


@given(st.lists(sizes, min_size=2, max_size=3))
def test_image_round_trip(size):
    image = numbers(*size)
    vector = sm.image_to_vector(image)
    assert torch.equal(sm.vector_to_image(vector, size), image)
    where = torch.tensor([np.random.default_rng(0).integers(n) for n in size])
    assert vector[np.ravel_multi_index(where.tolist(), size)] == image[tuple(where)]


@given(st.integers(1, 5), sizes)
def test_series_round_trip(count, steps):
    series = numbers(count, steps).unbind()
    matrix = sm.series_to_matrix(*series)
    assert torch.equal(matrix, numbers(count, steps).T)
    for found, expected in zip(sm.matrix_to_series(matrix), series, strict=True):
        assert torch.equal(found, expected)


@given(sizes, sizes)
def test_sequence_round_trip(steps, features):
    matrix = numbers(steps, features)
    vector = sm.matrix_to_vector(matrix)
    assert torch.equal(vector, torch.cat(list(matrix)))
    assert torch.equal(sm.vector_to_matrix(vector, features), matrix)


@given(st.lists(st.integers(0, 7), max_size=10), st.sampled_from([torch.float32, torch.float64]))
def test_tokens_are_embedded_and_found_again(tokens, dtype):
    tokens = torch.tensor(tokens, dtype=torch.int64)
    table = numbers(8, 3).to(dtype)
    matrix = sm.tokens_to_matrix(tokens, table)
    assert matrix.dtype == dtype
    assert torch.equal(matrix, embedding(tokens, table))
    assert torch.equal(sm.matrix_to_tokens(matrix, table), tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_many_tokens_are_found_without_comparing_all_with_all(dtype):
    """100,000 tokens of 50,000 vectors: all pairs would take 5 billion comparisons."""
    table = torch.arange(50_000).unsqueeze(1) // torch.tensor([256, 1]) % 256
    tokens = torch.randint(50_000, (100_000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(sm.matrix_to_tokens(table[tokens].to(dtype), table.to(dtype)), tokens)


def test_zero_has_one_vector_whatever_its_sign():
    table = torch.tensor([[0.0], [1.0]])
    assert sm.matrix_to_tokens(torch.tensor([[-0.0]]), table).tolist() == [0]
    with pytest.raises(ValueError, match=r"row 0 .* got 0"):
        sm.matrix_to_tokens(torch.tensor([[float("nan")]]), torch.tensor([[float("nan")]]))


def test_embedding_gradient_is_torchs():
    tokens = torch.tensor([3, 1, 3, 0])
    ours = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    incoming = torch.randn(4, 2, dtype=torch.float64)
    sm.tokens_to_matrix(tokens, ours).backward(incoming)
    embedding(tokens, theirs).backward(incoming)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


@given(st.lists(st.integers(0, 5), max_size=8))
def test_one_hot_is_torchs(tokens):
    pattern = sm.one_hot_pattern(tokens, 6)
    expected = one_hot(torch.tensor(tokens, dtype=torch.int64), 6).to(torch.float64)
    assert torch.equal(filled(pattern), expected)
    assert pattern.nnz == len(tokens)


@given(st.integers(1, 12), st.data())
def test_lag_windows_are_unfold(steps, data):
    window = data.draw(st.integers(1, steps))
    x = numbers(steps)
    found = sm.lag_pattern(steps, window).fill(torch.ones(1, dtype=torch.float64)) @ x
    assert torch.equal(found, x.unfold(0, window, 1).reshape(-1))


@given(sizes, sizes)
def test_commutation_transposes(rows, cols):
    x = numbers(rows, cols)
    order = sm.commutation_order(rows, cols)
    assert order.dtype == np.int64
    assert torch.equal(x.reshape(-1)[order], x.T.reshape(-1))
    assert torch.equal(x.reshape(-1)[order][sm.commutation_order(cols, rows)], x.reshape(-1))
    matrix = filled(sm.permutation_pattern(order))
    assert torch.equal(matrix @ x.reshape(-1), x.T.reshape(-1))
    assert torch.equal(matrix @ matrix.T, torch.eye(rows * cols, dtype=torch.float64))


@given(sizes, sizes, sizes)
def test_channels_last_is_permute(channels, height, width):
    x = numbers(channels, height, width)
    order = sm.channels_last_order(channels, (height, width))
    assert torch.equal(x.reshape(-1)[order], x.permute(1, 2, 0).reshape(-1))


def test_order_permutes_a_pattern():
    pattern = sm.conv_pattern(2, 3, (3, 4), 2)
    theta = torch.randn(pattern.num_parameters, dtype=torch.float64)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    rows, cols = sm.channels_last_order(3, (2, 3)), sm.channels_last_order(2, (3, 4))
    channels_last = pattern.permute(rows, cols).fill(theta)
    found = channels_last @ x.permute(1, 2, 0).reshape(-1)
    expected = torch.nn.functional.conv2d(x[None], theta.view(3, 2, 2, 2))[0]
    expected = expected.permute(1, 2, 0).reshape(-1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_channels_of_a_point_keep_their_order():
    assert sm.channels_last_order(3, ()).tolist() == [0, 1, 2]


ERRORS = {
    "image of rank 4": (
        lambda: sm.image_to_vector(numbers(1, 1, 2, 2)),
        r"2-D or 3-D, got shape \(1, 1, 2, 2\)",
    ),
    "size of length 1": (lambda: sm.vector_to_image(numbers(4), (4,)), r"\(C, H, W\), got \(4,\)"),
    "vector too long": (lambda: sm.vector_to_image(numbers(5), (2, 2)), r"=4 entries, got 5"),
    "vector of rank 2": (lambda: sm.vector_to_image(numbers(2, 2), (2, 2)), "1-D"),
    "no series": (lambda: sm.series_to_matrix(), "got none"),
    "series of rank 2": (lambda: sm.series_to_matrix(numbers(2, 2)), "1-D"),
    "two lengths": (lambda: sm.series_to_matrix(numbers(2), numbers(3)), r"got \[2, 3\]"),
    "columns of a vector": (lambda: sm.matrix_to_series(numbers(2)), "2-D"),
    "sequence of rank 1": (lambda: sm.matrix_to_vector(numbers(2)), "2-D"),
    "features that do not divide": (
        lambda: sm.vector_to_matrix(numbers(5), 2),
        "features=2 and 5 entries",
    ),
    "no features": (lambda: sm.vector_to_matrix(numbers(5), 0), "features=0"),
    "unknown token": (lambda: sm.one_hot_pattern([0, 4], 4), r"0\.\.3, got 0\.\.4"),
    "negative token": (lambda: sm.one_hot_pattern([-1], 4), r"got -1"),
    "fractional token": (lambda: sm.one_hot_pattern([0.5], 4), "integers"),
    "tokens of rank 2": (lambda: sm.one_hot_pattern([[0]], 4), r"shape \(1, 1\)"),
    "embedding of rank 1": (lambda: sm.tokens_to_matrix(torch.tensor([0]), numbers(3)), "2-D"),
    "two widths": (lambda: sm.matrix_to_tokens(numbers(1, 2), numbers(4, 3)), "got 2 and 3"),
    "vector of no token": (
        lambda: sm.matrix_to_tokens(numbers(1, 2) + 0.5, numbers(4, 2)),
        "exactly one token, got 0",
    ),
    "vector of two tokens": (
        lambda: sm.matrix_to_tokens(torch.ones(1, 2), torch.ones(3, 2)),
        "row 0 must be the vector of exactly one token, got 3",
    ),
    "window too long": (lambda: sm.lag_pattern(3, 4), "window=4 and steps=3"),
    "window of nothing": (lambda: sm.lag_pattern(3, 0), "window=0"),
    "negative size": (lambda: sm.commutation_order(-1, 2), "got -1 and 2"),
    "negative sizes": (
        lambda: sm.channels_last_order(3, [-2, -2]),
        r"channels and size must be at least 0, got 3 and \(-2, -2\)",
    ),
    "image of negative sizes": (
        lambda: sm.vector_to_image(numbers(6), (-2, -3)),
        "size must be integers of at least 0, got -2",
    ),
    "image of no integers": (
        lambda: sm.vector_to_image(numbers(6), (2.0, 3)),
        r"size must be integers of at least 0, got 2\.0",
    ),
    "image of one size": (lambda: sm.vector_to_image(numbers(6), 6), r"\(C, H, W\), got \(6,\)"),
    "features that are no integer": (
        lambda: sm.vector_to_matrix(numbers(6), 2.0),
        r"features must be an integer, got 2\.0",
    ),
    "features that are a truth value": (
        lambda: sm.vector_to_matrix(numbers(6), True),
        "features must be an integer, got True",
    ),
    "rows that are no integer": (
        lambda: sm.commutation_order(2.5, 2),
        r"rows must be an integer, got 2\.5",
    ),
    "size of no integers": (
        lambda: sm.channels_last_order(3, [2.0, 2]),
        r"size must be integers, got 2\.0",
    ),
    "order that repeats": (lambda: sm.permutation_pattern([0, 0]), "permutation of 0..1"),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
