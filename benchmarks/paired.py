"""Paired timing: two programs side by side, interleaved, compared by the ratios within a round."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

WARM_UP = 3
LONGEST = 60.0  # seconds for the rounds of a case
FEWEST = 5  # rounds, however long they take


@dataclass(frozen=True)
class Case:
    """Two programs that compute the same thing, and the ratio we aim at.

    Attributes:
        name: What is computed, with its sizes.
        baseline: Name and program of what a user would otherwise use.
        ours: Name and program of the matrix form.
        goal: Largest acceptable ``time(ours) / time(baseline)``; None where there is no goal.
        stretch: The ratio we would like.
        memory_goal: Largest acceptable ``memory(ours) / memory(baseline)``; None if there is none.
        allowance_ms: What ours may take beyond ``goal`` times the baseline: set-up.
    """

    name: str
    baseline: tuple[str, Callable[[], object]]
    ours: tuple[str, Callable[[], object]]
    goal: float | None = None
    stretch: float | None = None
    memory_goal: float | None = None
    allowance_ms: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` found; times in milliseconds, memory in MiB.

    Attributes:
        ratio: Median over rounds of ``time(ours) / time(baseline)``.
        low: First quartile of those ratios.
        high: Third quartile.
        baseline_ms: Median time of the baseline.
        ours_ms: Median time of ours.
        baseline_mib: Most memory the baseline had allocated at once, beyond its inputs.
        ours_mib: The same of ours.
    """

    ratio: float
    low: float
    high: float
    baseline_ms: float
    ours_ms: float
    baseline_mib: float
    ours_mib: float


def affordable(case: Case, rounds: int) -> int:
    """The rounds that a minute holds, at most those wanted and at least five."""
    start = time.perf_counter()
    for _, program in (case.baseline, case.ours):
        program()
    once = time.perf_counter() - start
    return min(rounds, max(FEWEST, int(LONGEST / once)))


def measure(case: Case, rounds: int = 21) -> Measurement:
    """Time both programs of a case in every round, in alternating order.

    Args:
        case: The pair.
        rounds: Number of rounds after the warm-up.

    Returns:
        Medians and quartiles over the rounds.
    """
    programs = {"baseline": case.baseline[1], "ours": case.ours[1]}
    for program in programs.values():
        for _ in range(min(WARM_UP, max(1, rounds // FEWEST))):
            program()
    times: dict[str, list[float]] = {name: [] for name in programs}
    for k in range(rounds):
        for name in sorted(programs, reverse=bool(k % 2)):
            times[name].append(_seconds(programs[name]))
    ratios = [b / a for a, b in zip(times["baseline"], times["ours"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Measurement(
        ratio=middle,
        low=low,
        high=high,
        baseline_ms=1e3 * statistics.median(times["baseline"]),
        ours_ms=1e3 * statistics.median(times["ours"]),
        baseline_mib=peak_memory(programs["baseline"]) / 2**20,
        ours_mib=peak_memory(programs["ours"]) / 2**20,
    )


def peak_memory(program: Callable[[], object]) -> int:
    """Most bytes that were allocated at once during a run, beyond what was held before.

    On a GPU those of torch; on the CPU also those of NumPy and SciPy.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        program()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    tracemalloc.start()
    try:
        program()
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        program()
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most + arrays  # the two peaks may lie apart: at most this


def _seconds(program: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    program()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
