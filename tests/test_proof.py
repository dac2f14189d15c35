"""Claims that hold, claims that fail, and claims the solver cannot decide."""

import itertools
import operator

import pytest
import z3

from sparsemat import proof
from sparsemat.proof import ProofError, prove, refute

a, b, n, m = z3.Ints("a b n m")
INSIDE = [n >= 1, m >= 1, a >= 0, a < m, b >= 0, b < n]
# a cube that is the sum of two: outside what the solver decides in a second
UNDECIDABLE = a * a * a + b * b * b != n * n * n


def test_a_true_claim_is_proved():
    # the row-major index of an m x n image lies in range
    prove(z3.And(a * n + b >= 0, a * n + b < m * n), INSIDE)


def test_hypotheses_matter():
    with pytest.raises(ProofError, match="false"):
        prove(a * n + b < m * n, [n >= 1, m >= 1, a >= 0, a < m, b >= 0])


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([a > b, b > a], id="two that contradict each other"),
        pytest.param([a * a == 2], id="one without integers"),
        pytest.param([z3.BoolVal(False)], id="false itself"),
    ],
)
def test_hypotheses_that_nothing_satisfies_prove_nothing(given):
    for claim in (a == b + 1, a != b + 1):  # both would follow
        with pytest.raises(ProofError, match="no values satisfy the hypotheses"):
            prove(claim, given)


@pytest.mark.parametrize("ask", [prove, refute], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("claim", [True, False], ids=["true", "false"])
def test_a_claim_that_python_has_decided_is_no_formula(ask, claim):
    with pytest.raises(ValueError, match=f"the claim must be a z3 formula, got {claim}"):
        ask(claim, INSIDE)


def test_a_false_claim_is_named_with_a_counterexample():
    with pytest.raises(ProofError, match=r"false, for example at a = \d+"):
        prove(a < 10, [a >= 0])


def test_the_smallest_counterexample_is_found():
    # the paper's row rule: rows of a valid convolution start at p instead of their anchor pixel
    r, p = z3.Ints("r p")
    outputs = n - r + 1
    given = [n >= 1, r >= 1, r <= n, p >= 0, p < outputs * outputs]
    found = refute((p / outputs) * n + p % outputs == p, given, minimize=[n, r, p])
    brute = next(
        {"n": size, "p": row, "r": kernel}
        for size in itertools.count(1)
        for kernel in range(1, size + 1)
        for row in range((size - kernel + 1) ** 2)
        if row // (size - kernel + 1) * size + row % (size - kernel + 1) != row
    )
    assert found == brute == {"n": 3, "p": 2, "r": 2}


def test_sizes_are_minimised_in_the_order_given():
    claim, given = a + b < 10, [a >= 0, b >= 0]
    assert refute(claim, given, minimize=[a, b]) == {"a": 0, "b": 10}
    assert refute(claim, given, minimize=[b, a]) == {"a": 10, "b": 0}


def test_a_counterexample_reads_as_assignments():
    assert repr(refute(a + b < 10, [a >= 0, b >= 0], minimize=[a, b])) == "a = 0, b = 10"


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: 3 * z3.Real("x") != 1, "x = 1/3"),
        (lambda: z3.Not(z3.Bool("p")), "p = True"),
        (lambda: z3.Bool("p"), "p = False"),
        (lambda: z3.Or(z3.Real("x") ** 2 != 2, z3.Real("x") < 0), r"x = 1\.414"),
    ],
    ids=["a fraction", "true", "false", "a root"],
)
def test_a_counterexample_need_not_be_integers(make, shown):
    with pytest.raises(ProofError, match=f"false, for example at {shown}"):
        prove(make())


def test_an_expression_can_be_minimised():
    found = refute(a * b < 12, [a >= 1, b >= 1], minimize=[a + b, a])
    assert found == {"a": 3, "b": 4}


@pytest.mark.parametrize(
    ("symbolic", "exact"),
    [
        pytest.param(lambda x, y: x / y, operator.floordiv, id="quotient"),
        pytest.param(operator.mod, operator.mod, id="remainder"),
    ],
)
def test_no_counterexample_divides_by_zero(symbolic, exact):
    with pytest.raises(ProofError, match="no counterexample"):
        refute(symbolic(a, b) <= a, [a >= 0, b >= 0])  # so it is for every divisor but 0
    found = refute(symbolic(a, b) > 0, [a >= 2, b >= 0], minimize=[a, b])
    smallest = next(divisor for divisor in itertools.count(1) if not exact(2, divisor) > 0)
    assert found == {"a": 2, "b": smallest}


def test_without_sizes_any_counterexample_will_do():
    assert refute(a < 10, [a < 12])["a"] in (10, 11)


def test_a_true_claim_cannot_be_refuted():
    with pytest.raises(ProofError, match="the claim holds"):
        refute(a * a >= 0, minimize=[a])


@pytest.mark.parametrize("ask", [prove, refute], ids=lambda ask: ask.__name__)
def test_an_undecided_claim_says_so(ask, monkeypatch):
    monkeypatch.setattr(proof, "TIMEOUT_MS", 200)
    with pytest.raises(ProofError, match="undecided"):
        ask(UNDECIDABLE, [a > 0, b > 0, n > 0])


def test_a_size_without_a_bound_ends(monkeypatch):
    monkeypatch.setattr(proof, "MOST_STEPS", 5)
    with pytest.raises(ProofError, match="a was still shrinking after 5 steps"):
        refute(a > 0, minimize=[a])


def test_a_proof_error_fails_a_test():
    assert issubclass(ProofError, AssertionError)
