"""Claims about integers, decided for all sizes by the SMT solver z3."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import z3

TIMEOUT_MS = 60_000
MOST_STEPS = 200


Value = int | Fraction | bool | str  # of an integer, a real, a truth; else what z3 writes


class ProofError(AssertionError):
    """The claim is false, or the solver could not decide it."""


class _Assignment(dict[str, Value]):
    """Variable name to value, sorted by name; shown as ``m = 3, n = 3``."""

    def __repr__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.items())


def prove(claim: z3.BoolRef, given: Iterable[z3.BoolRef] = ()) -> None:
    """Prove that ``claim`` follows from ``given`` for all values of its variables.

    The solver is asked for a counterexample; the claim is proved if it shows there is none.

    Args:
        claim: A z3 formula over integer variables.
        given: The hypotheses.

    Raises:
        ProofError: There is a counterexample (it is named), no values satisfy the hypotheses, from
            which anything follows, or the solver gave up.
        ValueError: The claim is no formula, as where its variables have become numbers.
    """
    given = list(given)
    model = _model([*given, _broken(claim)])
    if model is not None:
        raise ProofError(f"false, for example at {_assignment(model)}")
    if given and _model(given) is None:
        raise ProofError("proves nothing: no values satisfy the hypotheses")


def refute(
    claim: z3.BoolRef, given: Iterable[z3.BoolRef] = (), minimize: Iterable[z3.ArithRef] = ()
) -> dict[str, Value]:
    """Find values that satisfy ``given`` and break ``claim``.

    Args:
        claim: A z3 formula over integer variables.
        given: The hypotheses.
        minimize: Sizes to make as small as possible, the most important first; each bounded below.

    Returns:
        The counterexample, variable name to value, sorted by name; it reads ``m = 3, n = 3``.
        Nothing is divided by zero there, which z3 lets have any result.

    Raises:
        ProofError: The claim holds (no counterexample), the solver gave up, or a size has no bound.
        ValueError: The claim is no formula.
    """
    constraints = [*given, _broken(claim)]
    constraints += [divisor != 0 for divisor in _divisors(constraints)]
    found = _model(constraints)
    if found is None:
        raise ProofError("the claim holds: there is no counterexample")
    for size in minimize:
        for _ in range(MOST_STEPS):
            smaller = _model([*constraints, size < found.eval(size, model_completion=True)])
            if smaller is None:
                break
            found = smaller
        else:
            raise ProofError(f"undecided: {size} was still shrinking after {MOST_STEPS} steps")
        constraints.append(size == found.eval(size, model_completion=True))
    return _assignment(found)


def _broken(claim: z3.BoolRef) -> z3.BoolRef:
    """The negation; z3 would take a bool that Python has already decided, too."""
    if not isinstance(claim, z3.BoolRef):
        raise ValueError(f"the claim must be a z3 formula, got {claim!r}")
    return z3.Not(claim)


def _divisors(formulas: Iterable[z3.ExprRef]) -> list[z3.ArithRef]:
    """What is divided by; below quantifiers it has no value of its own."""
    found, seen, left = [], set(), list(formulas)
    while left:
        formula = left.pop()
        if not z3.is_app(formula) or formula.get_id() in seen:
            continue
        seen.add(formula.get_id())
        if formula.decl().kind() in (z3.Z3_OP_IDIV, z3.Z3_OP_MOD, z3.Z3_OP_REM, z3.Z3_OP_DIV):
            found.append(formula.arg(1))
        left += formula.children()
    return found


def _model(constraints: list[z3.BoolRef]) -> z3.ModelRef | None:
    """Values that satisfy all constraints, or None if there are none."""
    solver = z3.Solver()
    solver.set(timeout=TIMEOUT_MS, random_seed=0)
    solver.add(*constraints)
    answer = solver.check()
    if answer == z3.unknown:
        raise ProofError(f"undecided: {solver.reason_unknown()}")
    return solver.model() if answer == z3.sat else None


def _assignment(model: z3.ModelRef) -> dict[str, Value]:
    constants = [symbol for symbol in model.decls() if symbol.arity() == 0]
    names = sorted(constants, key=lambda symbol: symbol.name())
    return _Assignment({s.name(): _value(model[s]) for s in names})


def _value(found: z3.ExprRef) -> Value:
    if z3.is_int_value(found):
        return found.as_long()
    if z3.is_rational_value(found):
        return found.as_fraction()
    return z3.is_true(found) if z3.is_bool(found) else str(found)
