"""Claims about integers, decided for all sizes by the SMT solver z3."""

from __future__ import annotations

from collections.abc import Iterable

import z3

TIMEOUT_MS = 60_000


class ProofError(AssertionError):
    """The claim is false, or the solver could not decide it."""


def prove(claim: z3.BoolRef, given: Iterable[z3.BoolRef] = ()) -> None:
    """Prove that ``claim`` follows from ``given`` for all values of its variables.

    The solver is asked for a counterexample; the claim is proved if it shows there is none.

    Args:
        claim: A z3 formula over integer variables.
        given: The hypotheses.

    Raises:
        ProofError: There is a counterexample (it is named), or the solver gave up.
    """
    solver = z3.Solver()
    solver.set(timeout=TIMEOUT_MS, random_seed=0)
    solver.add(*given, z3.Not(claim))
    answer = solver.check()
    if answer == z3.sat:
        raise ProofError(f"false, for example at {_assignment(solver.model())}")
    if answer == z3.unknown:
        raise ProofError(f"undecided: {solver.reason_unknown()}")


def refute(
    claim: z3.BoolRef, given: Iterable[z3.BoolRef] = (), minimize: Iterable[z3.ArithRef] = ()
) -> dict[str, int]:
    """Find values that satisfy ``given`` and break ``claim``.

    Args:
        claim: A z3 formula over integer variables.
        given: The hypotheses.
        minimize: Sizes to make as small as possible, the most important first.

    Returns:
        The counterexample, variable name to value, sorted by name.

    Raises:
        ProofError: The claim holds (no counterexample), or the solver gave up.
    """
    given, best = [*given, z3.Not(claim)], None
    for size in [None, *minimize]:
        while True:
            solver = z3.Solver()
            solver.set(timeout=TIMEOUT_MS, random_seed=0)
            solver.add(*given)
            if size is not None:
                solver.add(size < best.eval(size, model_completion=True))
            answer = solver.check()
            if answer != z3.sat:
                break
            best = solver.model()
            if size is None:
                break
        if best is None and answer == z3.unsat:
            raise ProofError("the claim holds: there is no counterexample")
        if answer == z3.unknown:
            raise ProofError(f"undecided: {solver.reason_unknown()}")
        if size is not None:
            given.append(size == best.eval(size, model_completion=True))
    return _assignment(best)


def _assignment(model: z3.ModelRef) -> dict[str, int]:
    constants = [symbol for symbol in model.decls() if symbol.arity() == 0]
    return {s.name(): model[s].as_long() for s in sorted(constants, key=lambda s: s.name())}
