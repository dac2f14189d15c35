"""Patterns filled with symbols, compared exactly."""

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from test_pattern import dense, patterns

from sparsemat import Pattern, conv_pattern
from sparsemat.symbolic import array, column, equal, fill

x, y = sympy.symbols("x y")


@pytest.mark.parametrize(
    ("shape", "position", "name"),
    [
        pytest.param(3, 2, "k_2", id="one index"),
        pytest.param(12, 11, "k_{11}", id="one long index"),
        pytest.param((3, 10), (2, 9), "k_{29}", id="short indices run together"),
        pytest.param((3, 11), (2, 9), "k_{2,9}", id="long indices are separated"),
        pytest.param((2, 2, 2), (1, 0, 1), "k_{101}", id="three indices"),
    ],
)
def test_names_of_symbols(shape, position, name):
    symbols = array("k", shape)
    assert symbols[position] == sympy.Symbol(name)
    assert len(set(symbols.flat)) == symbols.size


def test_symbols_accumulate_where_triples_share_a_cell():
    circular = conv_pattern(1, 1, 2, 3, padding=1, padding_mode="circular")
    a, b, c = array("k", 3)
    assert circular.symbols("k") == sympy.Matrix([[b, a + c], [a + c, b]])


@settings(max_examples=30)
@given(patterns())
def test_symbols_and_numbers_fill_the_same_cells(pattern):
    symbols = array("k", pattern.num_parameters)
    theta = np.arange(1, 1 + pattern.num_parameters)
    values = dict(zip(symbols, theta.tolist(), strict=True))
    found = fill(pattern, symbols).subs(values)
    np.testing.assert_array_equal(np.array(found, dtype=float), dense(pattern, theta))


def test_parameters_may_be_expressions_and_numbers_of_any_shape():
    pattern = Pattern((1, 2), [0, 0], [0, 1], [0, 3], 4)
    assert pattern.to_sympy([[x + y, 0], [0, 2]]) == sympy.Matrix([[x + y, 2]])


def test_an_empty_pattern_is_a_zero_matrix():
    assert Pattern((2, 3), [], [], [], 0).symbols("k") == sympy.zeros(2, 3)


@pytest.mark.parametrize("length", [1, 3])
def test_parameters_of_the_wrong_length_are_refused(length):
    pattern = Pattern((1, 1), [0], [0], [0], 2)
    with pytest.raises(ValueError, match=f"num_parameters=2 values, got {length}"):
        pattern.to_sympy(array("k", length))


def test_column_reads_row_major():
    values = array("x", (2, 2))
    assert list(column(values)) == [values[0, 0], values[0, 1], values[1, 0], values[1, 1]]
    assert column(values).shape == (4, 1)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        pytest.param([(x + y) ** 2], [x**2 + 2 * x * y + y**2], True, id="equal on expansion"),
        pytest.param([x * y], [y * x], True, id="order"),
        pytest.param([x], [x + sympy.Rational(1, 10**12)], False, id="a tiny difference"),
        pytest.param([0.5], [sympy.Rational(1, 2)], True, id="numbers"),
        pytest.param([[x, y]], sympy.Matrix([[x, y]]), True, id="list and matrix"),
        pytest.param([x, y], [x, x], False, id="one entry differs"),
    ],
)
def test_equal(left, right, same):
    assert equal(left, right) == same


def test_equal_takes_sparse_matrices():
    matrix = sympy.SparseMatrix(2, 2, {(0, 1): x})
    assert equal(matrix, [[0, x], [0, 0]])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1, 2\)"):
        equal([x, y], [[x, y]])
