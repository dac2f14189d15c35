"""Every kind of matrix against brute force: sparse ones, chains, sums, blocks and the like."""

import pytest
import torch
from contract import assert_near
from matrix_contract import MatrixCase, MatrixContract

import sparsemat as sm
from sparsemat.lazy import Block, Chain, Kronecker, Scaled, Sum

CONV = sm.conv_pattern(1, 2, 4, 2)  # (6, 4), tied
FULL = sm.dense_pattern(4, 3)
TWICE = sm.conv_pattern(1, 1, 3, 3, padding=1, padding_mode="circular")
GAPS = sm.Pattern((5, 4), [0, 2, 2, 4], [1, 0, 1, 3], [0, 1, 0, 2], 3)
PATTERNS = {
    "tied": CONV,
    "dense": FULL,
    "cells named twice": sm.Pattern((2, 3), [0, 1, 0, 0], [2, 1, 2, 0], [0, 1, 1, 0], 2),
    "circular": TWICE,
    "empty rows": GAPS,
    "one cell": sm.dense_pattern(1, 1),
}


def brute(pattern, theta):
    """Triple by triple."""
    dense = theta.new_zeros(pattern.shape)
    for row, col, index in zip(pattern.row, pattern.col, pattern.index, strict=True):
        cell = torch.zeros(pattern.shape, dtype=theta.dtype)
        cell[row, col] = 1
        dense = dense + theta[index] * cell
    return dense


def sparse(pattern):
    return MatrixCase(((pattern.num_parameters,),), pattern.fill, lambda t: brute(pattern, t))


def of(patterns, build, dense):
    """A matrix of filled patterns."""
    return MatrixCase(
        tuple((p.num_parameters,) for p in patterns),
        lambda *t: build(*(p.fill(v) for p, v in zip(patterns, t, strict=True))),
        lambda *t: dense(*(brute(p, v) for p, v in zip(patterns, t, strict=True))),
    )


def blocks(a, b):
    zeros = a.new_zeros
    top = torch.cat([a, zeros(6, 3)], 1)
    return torch.cat([top, torch.cat([zeros(4, 4), b], 1)])


class TestSparse(MatrixContract):
    cases = {name: sparse(pattern) for name, pattern in PATTERNS.items()}  # noqa: RUF012

    def test_stored_entries_are_counted(self, case):
        matrix = case.build(*(torch.ones(shape) for shape in case.shapes))
        assert matrix.nnz == len(matrix.values)
        assert matrix.coalesce().nnz == matrix.to_dense().count_nonzero()


class TestChain(MatrixContract):
    cases = {  # noqa: RUF012
        "of one": of([CONV], Chain, lambda a: a),
        "of two": of([CONV, FULL], Chain, lambda a, b: a @ b),
        "of three": of([FULL.T, CONV.T, CONV], Chain, lambda a, b, c: a @ b @ c),
    }


class TestSum(MatrixContract):
    cases = {  # noqa: RUF012
        "of one": of([CONV], Sum, lambda a: a),
        "of three": of([CONV, sm.dense_pattern(6, 4), CONV], Sum, lambda a, b, c: a + b + c),
        "of chains": of(
            [CONV, CONV.T, CONV, CONV],
            lambda a, b, c, d: Sum(Chain(a, b, c), d),
            lambda a, b, c, d: a @ b @ c + d,
        ),
    }

    def test_many_terms_are_not_lost_in_16_bits(self):
        one = sm.dense_pattern(1, 1).fill(torch.ones(1, dtype=torch.bfloat16))
        assert Sum(*[one] * 4096).to_dense().item() == 4096


class TestScaled(MatrixContract):
    cases = {  # noqa: RUF012
        "by a number": of([CONV], lambda a: Scaled(a, 2.5), lambda a: 2.5 * a),
        "by a parameter": MatrixCase(
            ((CONV.num_parameters,), ()),
            lambda t, s: Scaled(CONV.fill(t), s),
            lambda t, s: s * brute(CONV, t),
        ),
        "by the inverse of a number": of([CONV], lambda a: Chain(a) / 3, lambda a: a / 3),
        "by the inverse of a parameter": MatrixCase(
            ((CONV.num_parameters,), ()),
            lambda t, s: Scaled(CONV.fill(t), s, inverse=True),
            lambda t, s: brute(CONV, t) / s,
        ),
    }

    def test_parameters_are_counted(self, case):
        matrix, _ = self.both(case)
        assert matrix.num_parameters == CONV.num_parameters  # the number is none


class TestBlock(MatrixContract):
    cases = {  # noqa: RUF012
        "of one": of([CONV], lambda a: Block([[a]]), lambda a: a),
        "with gaps": of([CONV, FULL], lambda a, b: Block([[a, None], [None, b]]), blocks),
        "side by side": of(
            [CONV, sm.dense_pattern(6, 2)],
            lambda a, b: Block([[a, b]]),
            lambda a, b: torch.cat([a, b], 1),
        ),
    }

    def test_many_columns_are_not_lost_in_16_bits(self):
        one = sm.dense_pattern(1, 1).fill(torch.ones(1, dtype=torch.bfloat16))
        x = torch.ones(4096, dtype=torch.bfloat16)
        assert (Block([[one] * 4096]) @ x).item() == 4096


class TestKronecker(MatrixContract):
    cases = {  # noqa: RUF012
        "of one": of([CONV], Kronecker, lambda a: a),
        "of two": of([GAPS, FULL], Kronecker, torch.kron),
        "of three": of(
            [sm.dense_pattern(2, 1), sm.dense_pattern(1, 3), sm.dense_pattern(2, 2)],
            Kronecker,
            lambda a, b, c: torch.kron(torch.kron(a, b), c),
        ),
    }


EMPTY = {
    "columns first": ((2, 0), (4, 3)),
    "columns last": ((4, 3), (2, 0)),
    "rows first": ((0, 2), (4, 3)),
    "rows last": ((4, 3), (0, 2)),
}


@pytest.mark.parametrize("shapes", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("n", [0, 5])
def test_a_factor_may_have_no_rows_or_columns(shapes, n):
    sides = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    matrix = Kronecker(*(sm.dense_pattern(*side.shape).fill(side) for side in sides))
    dense = torch.kron(*sides)
    assert torch.equal(matrix.to_dense(), dense)
    x, y = (torch.ones(size, n, dtype=torch.float64) for size in (dense.shape[1], dense.shape[0]))
    assert_near(matrix @ x, dense @ x)
    assert_near(matrix.T @ y, dense.T @ y)


REFUSED = {
    "no factor": (lambda a: Chain(), ValueError, "at least one matrix, got none"),
    "a tensor as factor": (lambda a: Chain(a, torch.ones(4, 4)), TypeError, "got Tensor"),
    "a number as term": (lambda a: Sum(a, 1.0), TypeError, "got float"),
    "terms of two shapes": (lambda a: Sum(a, a.T), ValueError, r"\(6, 4\), \(4, 6\)"),
    "factors that do not meet": (lambda a: Chain(a, a), ValueError, "got 4 columns and 6 rows"),
    "two types": (lambda a: Kronecker(a, a.to(torch.float32)), ValueError, "float32.*float64"),
    "a scalar that is a vector": (lambda a: Scaled(a, torch.ones(2)), TypeError, "got Tensor"),
    "a scalar that is a string": (lambda a: Scaled(a, "2"), TypeError, "got str"),
    "scaled tensor": (lambda a: Scaled(torch.ones(2, 2), 2), TypeError, "got Tensor"),
    "no rows of blocks": (lambda a: Block([]), ValueError, r"one length, got \[\]"),
    "ragged blocks": (lambda a: Block([[a, a], [a]]), ValueError, r"one length, got \[1, 2\]"),
    "a column without blocks": (lambda a: Block([[a, None]]), ValueError, "column 1.*no matrix"),
    "blocks of two heights": (lambda a: Block([[a, a.T]]), ValueError, r"row 0.*\[4, 6\]"),
    "blocks that are no list": (lambda a: Block(a), TypeError, "got SparseMatrix"),
    "rows of blocks that are no lists": (lambda a: Block([a, a]), TypeError, "got SparseMatrix"),
    "a matrix plus a number": (lambda a: a + 1, TypeError, "SparseMatrix.*int"),
    "a chain minus a tensor": (lambda a: Chain(a) - torch.ones(6, 4), TypeError, "Tensor"),
    "a matrix times a string": (lambda a: a * "2", TypeError, "SparseMatrix"),
    "a step of rows": (lambda a: a[::2], TypeError, "without a step"),
    "one row by its number": (lambda a: a[0], TypeError, "takes a slice of rows.*got 0"),
    "a row that is a float": (lambda a: a.row(0.5), ValueError, "got 0.5"),
    "a row that is negative": (lambda a: a.row(-1), ValueError, r"0\.\.5, got -1"),
}


@pytest.mark.parametrize("make, error, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_matrix_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(CONV.fill(torch.ones(CONV.num_parameters, dtype=torch.float64)))
