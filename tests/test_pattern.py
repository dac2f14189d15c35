"""Patterns against brute force over their triples and against scipy.sparse."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from sparsemat import Pattern, conv_pattern


@st.composite
def patterns(draw, rows=None, cols=None):
    rows = draw(st.integers(1, 7)) if rows is None else rows
    cols = draw(st.integers(1, 7)) if cols is None else cols
    parameters = draw(st.integers(1, 5))
    triple = st.tuples(
        st.integers(0, rows - 1), st.integers(0, cols - 1), st.integers(0, parameters - 1)
    )
    triples = draw(st.lists(triple, max_size=30))
    row, col, index = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    return Pattern((rows, cols), row, col, index, parameters)


def dense(pattern, theta=None):
    """The filled matrix, triple by triple."""
    theta = np.arange(1.0, 1 + pattern.num_parameters) if theta is None else theta
    matrix = np.zeros(pattern.shape)
    for row, col, index in zip(pattern.row, pattern.col, pattern.index, strict=True):
        matrix[row, col] += theta[index]
    return matrix


def cells(pattern):
    return set(zip(pattern.row.tolist(), pattern.col.tolist(), strict=True))


@given(patterns())
def test_bandwidths_are_the_farthest_triples(pattern):
    below = [row - col for row, col in cells(pattern)]
    assert pattern.lower_bandwidth == max([0, *below])
    assert pattern.upper_bandwidth == max([0, *(-offset for offset in below)])


@given(patterns())
def test_triangularity_agrees_with_numpy(pattern):
    matrix = dense(pattern)
    assert pattern.is_upper_triangular == np.array_equal(matrix, np.triu(matrix))
    assert pattern.is_lower_triangular == np.array_equal(matrix, np.tril(matrix))


@given(patterns())
def test_transpose(pattern):
    np.testing.assert_array_equal(dense(pattern.T), dense(pattern).T)
    assert pattern.T.T.equals(pattern)
    assert pattern.T.nnz == pattern.nnz


@given(patterns())
def test_untied_has_a_parameter_a_triple(pattern):
    untied = pattern.untied()
    assert (untied.num_parameters, untied.nnz) == (pattern.nnz, pattern.nnz)
    theta = np.arange(1.0, 1 + pattern.num_parameters)
    np.testing.assert_array_equal(dense(untied, theta[pattern.index]), dense(pattern, theta))


@given(patterns())
def test_distinct_is_the_set_of_cells(pattern):
    distinct = pattern.distinct()
    assert cells(distinct) == cells(pattern)
    assert distinct.nnz == distinct.num_parameters == len(cells(pattern))
    assert list(zip(distinct.row, distinct.col, strict=True)) == sorted(cells(pattern))
    assert not distinct.has_duplicates
    cell = pattern.cells()[1]
    np.testing.assert_array_equal(distinct.row[cell], pattern.row)
    np.testing.assert_array_equal(distinct.col[cell], pattern.col)
    assert pattern.has_duplicates == (pattern.nnz > distinct.nnz)
    assert distinct.nnz == scipy.sparse.csr_array(dense(pattern)).nnz


@given(patterns(), st.randoms(use_true_random=False))
def test_permute_is_dense_indexing(pattern, random):
    rows, cols = (random.sample(range(size), size) for size in pattern.shape)
    expected = dense(pattern)
    np.testing.assert_array_equal(dense(pattern.permute(rows)), expected[rows])
    np.testing.assert_array_equal(dense(pattern.permute(cols=cols)), expected[:, cols])
    np.testing.assert_array_equal(dense(pattern.permute(rows, cols)), expected[rows][:, cols])


@given(st.data())
def test_product_is_the_boolean_product(data):
    inner = data.draw(st.integers(1, 6))
    left, right = data.draw(patterns(cols=inner)), data.draw(patterns(rows=inner))
    product = left @ right
    expected = scipy.sparse.csr_array(dense(left)) @ scipy.sparse.csr_array(dense(right))
    assert cells(product) == set(zip(*expected.nonzero(), strict=True))
    assert not product.has_duplicates
    assert product.shape == (left.shape[0], right.shape[1])


@given(st.data())
def test_pairs_are_all_triples_that_meet_once(data):
    inner = data.draw(st.integers(1, 6))
    left, right = data.draw(patterns(cols=inner)), data.draw(patterns(rows=inner))
    brute = [
        (a, b) for a in range(left.nnz) for b in range(right.nnz) if left.col[a] == right.row[b]
    ]
    found = list(zip(*(side.tolist() for side in left.pairs(right)), strict=True))
    assert sorted(found) == brute


@given(patterns(), st.randoms(use_true_random=False))
def test_equals_ignores_the_order_of_triples(pattern, random):
    order = random.sample(range(pattern.nnz), pattern.nnz)
    order = np.array(order, dtype=np.int64)
    shuffled = Pattern(
        pattern.shape,
        pattern.row[order],
        pattern.col[order],
        pattern.index[order],
        pattern.num_parameters,
    )
    assert pattern.equals(shuffled)


@given(patterns(rows=3, cols=3), patterns(rows=3, cols=3))
def test_equals_is_equality_of_the_filled_matrices(left, right):
    # parameters that are powers of a large base: equal matrices mean equal multisets of triples
    same = left.num_parameters == right.num_parameters and np.array_equal(
        dense(left, 1000.0 ** np.arange(left.num_parameters)),
        dense(right, 1000.0 ** np.arange(right.num_parameters)),
    )
    assert left.equals(right) == same


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Pattern((2, 3), [0], [0], [0], 1), id="shape"),
        pytest.param(Pattern((2, 2), [0, 0], [0, 0], [0, 0], 1), id="nnz"),
        pytest.param(Pattern((2, 2), [0], [0], [0], 2), id="num_parameters"),
        pytest.param(Pattern((2, 2), [1], [0], [0], 1), id="row"),
        pytest.param(Pattern((2, 2), [0], [1], [0], 1), id="col"),
    ],
)
def test_equals_sees_every_difference(other):
    assert not Pattern((2, 2), [0], [0], [0], 1).equals(other)


def test_arrays_are_copied_and_read_only():
    row = np.array([0, 1])
    pattern = Pattern((2, 2), row, [0, 1], [0, 0], 1)
    row[0] = 1
    assert pattern.row.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        pattern.row[0] = 1


def test_a_pattern_from_a_file_is_read_only_too():
    pattern = conv_pattern(1, 1, 5, 3, padding=1)
    size = len(pickle.dumps(pattern))
    assert pattern.T.nnz == pattern.nnz
    assert len(pickle.dumps(pattern)) == size  # what was cached is not stored
    again = pickle.loads(pickle.dumps(pattern))
    assert again.equals(pattern)
    with pytest.raises(ValueError, match="read-only"):
        again.row[0] = 1


def test_indices_are_int64_and_do_not_overflow():
    big = 3_000_000_000
    pattern = Pattern((big, big), np.array([0]), np.array([big - 1]), [0], 1)
    assert pattern.col.dtype == np.int64
    assert pattern.upper_bandwidth == big - 1
    assert Pattern((2, 2), np.array([0], dtype=np.int8), [1], [0], 1).row.dtype == np.int64


@pytest.mark.parametrize(
    ("shape", "nnz"), [((0, 3), 0), ((3, 0), 0), ((0, 0), 0), ((3, 4), 0)], ids=str
)
def test_empty_patterns(shape, nnz):
    pattern = Pattern(shape, [], [], [], 0)
    assert pattern.nnz == nnz
    assert (pattern.lower_bandwidth, pattern.upper_bandwidth) == (0, 0)
    assert not pattern.has_duplicates
    assert pattern.T.shape == shape[::-1]
    assert (pattern @ pattern.T).shape == (shape[0], shape[0])
    assert pattern.permute(range(shape[0]), range(shape[1])).equals(pattern)


def test_repr_names_the_sizes():
    pattern = conv_pattern(1, 1, 4, 2)
    assert repr(pattern) == "Pattern(3x4, nnz=6, num_parameters=2)"


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        pytest.param(((2,), [], [], [], 0), "shape must be two", id="one size"),
        pytest.param(((2, -1), [], [], [], 0), "shape must be two", id="negative size"),
        pytest.param(((2, 2), [[0]], [0], [0], 1), "row must be one-dim", id="rank"),
        pytest.param(((2, 2), [0.0], [0], [0], 1), "row must hold integers", id="float"),
        pytest.param(((2, 2), [True], [0], [0], 1), "row must hold integers", id="bool"),
        pytest.param(((2, 2), [2], [0], [0], 1), r"row must lie in 0\.\.1, got 2\.\.2", id="row"),
        pytest.param(((2, 2), [0], [-1], [0], 1), r"col must lie in 0\.\.1", id="col"),
        pytest.param(((2, 2), [0], [0], [1], 1), r"index must lie in 0\.\.0", id="index"),
        pytest.param(((2, 2), [0], [0], [0], 0), "num_parameters|index must lie", id="no theta"),
        pytest.param(((2, 2), [], [], [], -1), "num_parameters", id="negative parameters"),
        pytest.param(((2, 2), [0, 1], [0], [0], 1), r"one length, got \(2, 1, 1\)", id="lengths"),
    ],
)
def test_bad_triples_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        Pattern(*arguments)


@pytest.mark.parametrize("order", [[0, 0], [0], [0, 2], [-1, 0], [[0, 1]], [0.5, 1]], ids=repr)
@pytest.mark.parametrize("side", ["rows", "cols"])
def test_bad_permutations_are_refused(side, order):
    pattern = Pattern((2, 2), [0], [1], [0], 1)
    with pytest.raises(
        ValueError, match=rf"{side} must be (a permutation of 0\.\.1|one-dimensional)"
    ):
        pattern.permute(**{side: order})


def test_products_of_unequal_inner_sizes_are_refused():
    pattern = Pattern((2, 3), [0], [0], [0], 1)
    with pytest.raises(ValueError, match="got 3 columns and 2 rows"):
        pattern @ pattern
    with pytest.raises(ValueError, match="got 3 columns and 2 rows"):
        pattern.pairs(pattern)
