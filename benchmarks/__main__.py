"""Measure everything side by side and print the table against the goals: ``make bench``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the memory profiler is chatty otherwise

import torch

from sparsemat.experiments.files import write_json

from . import (
    attention,
    convolution,
    core,
    floor,
    general,
    growth,
    imports,
    networks,
    recurrence,
    sparse,
    structured,
    training,
)
from .origin import RECORDS, place_of, started
from .paired import Case, Measurement, affordable, measure

AREAS = {
    "core": core.cases,
    "convolution": convolution.cases,
    "recurrence": recurrence.cases,
    "attention": attention.cases,
    "sparse": sparse.cases,
    "general": general.cases,
    "training": training.cases,
    "networks": networks.cases,
    "structured": structured.cases,
    "products alone": floor.cases,
}
GROWTH = "growth"  # the area without goals
COLUMNS = "{:<54} {:<28} {:>6} {:>13} {:>6} {:>8} {:>9} {:>9}  {}"


def main() -> None:
    """Run the chosen areas and print a line a case; a run of all of them writes the record."""
    known = [*AREAS, GROWTH]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--record", action="store_true", help="put these areas into the record")
    options = parsed(parser, known)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    path = RECORDS / f"{'gpu' if torch.cuda.is_available() else 'cpu'}-{options.threads}.json"
    chosen, place = options.areas or known, place_of(options.threads)
    old = json.loads(path.read_text()) if options.areas and path.exists() else dict(place)
    if options.record and (other := {name: old[name] for name in place}) != place:
        parser.error(f"{path.name} is of {other}, not of {place}: measure all areas")

    alone, added = imports.seconds(imports.ALONE), imports.seconds(imports.ADDED)
    print(f"import torch {alone:.2f} s; import sparsemat adds {added:.3f} s", end=" ")
    print(
        f"(goal {imports.GOAL_SECONDS} s: {'met' if added <= imports.GOAL_SECONDS else 'missed'})",
        flush=True,
    )
    measured = started(options.rounds)
    areas = [area for area in chosen if area in AREAS]
    rows = table(areas, options.rounds) if areas else []
    grown = growth.record(max(3, options.rounds // 3)) if GROWTH in chosen else {}
    if options.areas and not options.record:
        return
    measured["load"].append(os.getloadavg()[1])
    kept = [row for row in old.get("rows", []) if row["area"] not in areas]
    order = list(AREAS)
    record = old | {
        "import_seconds": {"torch": alone, "sparsemat": added},
        "measured": old.get("measured", {}) | dict.fromkeys(chosen, measured),
        "rows": sorted(kept + rows, key=lambda row: order.index(row["area"])),
    }
    write_json(path, record | grown)
    print(f"record: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def parsed(parser: argparse.ArgumentParser, known: list[str]) -> argparse.Namespace:
    """The command line, with areas out of the known ones, rounds and threads."""
    parser.add_argument("areas", nargs="*", help=f"any of {', '.join(known)}; all if none")
    parser.add_argument("--rounds", type=int, default=21, help="rounds a case (default 21)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    options = parser.parse_args()
    unknown = sorted(set(options.areas) - set(known))
    if unknown:
        parser.error(f"unknown areas {unknown}; known: {sorted(known)}")
    return options


def table(areas: list[str], rounds: int) -> list[dict]:
    """Measure the cases of the areas, print a line each and give them as plain data."""
    header = "case", "baseline", "ratio", "quartiles", "goal", "base ms", "base MiB", "our MiB", ""
    print(COLUMNS.format(*header), flush=True)
    rows = []
    for area in areas:
        for case in AREAS[area]():
            count = affordable(case, rounds)
            print(f"{case.name}, {count} rounds", end="\r", file=sys.stderr, flush=True)
            found = measure(case, count)
            verdict = _verdict(case, found)
            rows.append(
                {"area": area, "case": case.name, "baseline": case.baseline[0]}
                | {"ours": case.ours[0], "goal": case.goal, "stretch": case.stretch}
                | {"memory_goal": case.memory_goal, "allowance_ms": case.allowance_ms}
                | {"rounds": count}
                | asdict(found)
                | {"verdict": verdict}
            )
            print(
                COLUMNS.format(
                    case.name,
                    case.baseline[0],
                    f"{found.ratio:.2f}",
                    f"{found.low:.2f}..{found.high:.2f}",
                    "-" if case.goal is None else f"{case.goal:.2g}",
                    f"{found.baseline_ms:.2f}",
                    f"{found.baseline_mib:.1f}",
                    f"{found.ours_mib:.1f}",
                    verdict,
                ),
                flush=True,
            )
    return rows


def _verdict(case: Case, found: Measurement) -> str:
    words = []
    if case.goal is not None:
        stretched = case.stretch is not None and found.ratio <= case.stretch
        met = found.ratio <= case.goal or (
            found.ours_ms <= case.goal * found.baseline_ms + case.allowance_ms
        )
        words.append("stretch" if stretched else "goal" if met else "missed")
    if case.memory_goal is not None and found.ours_mib > case.memory_goal * found.baseline_mib:
        words.append("memory missed")
    return ", ".join(words)


if __name__ == "__main__":
    main()
