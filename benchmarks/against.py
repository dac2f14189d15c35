"""Time this checkout against another one, case by case: ``python -m benchmarks.against FOLDER``.

Both run in processes of their own and take turns, so that what slows the machine slows both; the
ratio of the baselines, the same program on both sides, shows how far the figures can be trusted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .__main__ import AREAS, parsed
from .paired import FEWEST, LONGEST, WARM_UP
from .timed import SEPARATOR

HERE = Path(__file__).resolve().parent
COLUMNS = "{:<54} {:<28} {:>9} {:>9} {:>6} {:>13} {:>8}"


class Timed:
    """A process that times one area of a checkout: see :mod:`benchmarks.timed`."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def ask(self, question: str) -> str:
        """The answer to a question; RuntimeError if the process has ended."""
        print(question, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process ended at {question!r} (exit {self.process.wait()})")
        return answer.strip()


@contextmanager
def timed(checkout: Path, area: str, threads: int) -> Iterator[Timed]:
    """Start such a process, and end it."""
    command = [sys.executable, "-P", str(HERE / "timed.py"), area, str(threads)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=checkout, env=environment, text=True, **pipes) as process:
        yield Timed(process)
        process.stdin.close()


def compare(then: Timed, now: Timed, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds (then, now) of both programs of the present case in every round."""
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "baseline": []}
    once = sum(float(side.ask(program)) for side in (then, now) for program in found)
    for k in range(WARM_UP + min(rounds, max(FEWEST, int(LONGEST / once)))):
        for program, pairs in found.items():
            sides = (then, now)[:: 1 if k % 2 else -1]
            seconds = {id(side): float(side.ask(program)) for side in sides}
            if k >= WARM_UP:
                pairs.append((seconds[id(then)], seconds[id(now)]))
    return found


def main() -> None:
    """Print a line a case: milliseconds then and now, the median ratio and its quartiles."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of the other checkout")
    options = parsed(parser, [*AREAS])
    if not (options.checkout / "benchmarks" / "__main__.py").exists():
        parser.error(f"{options.checkout} is no checkout of this project: it has no benchmarks")
    header = "case", "baseline", "then ms", "now ms", "ratio", "quartiles", "control"
    print(COLUMNS.format(*header))
    for area in options.areas or AREAS:
        with (
            timed(options.checkout.resolve(), area, options.threads) as then,
            timed(HERE.parent, area, options.threads) as now,
        ):
            while title := now.ask("next"):
                if not then.ask(f"seek {title}"):
                    print(f"{title.replace(SEPARATOR, ', ')}: not in {options.checkout}")
                    continue
                print(_line(title, compare(then, now, options.rounds)), flush=True)


def _line(title: str, found: dict[str, list[tuple[float, float]]]) -> str:
    ratios = {program: [b / a for a, b in pairs] for program, pairs in found.items()}
    low, middle, high = statistics.quantiles(ratios["ours"], n=4)
    before, after = (1e3 * statistics.median(side) for side in zip(*found["ours"], strict=True))
    times = f"{before:.2f}", f"{after:.2f}", f"{middle:.2f}", f"{low:.2f}..{high:.2f}"
    return COLUMNS.format(
        *title.split(SEPARATOR), *times, f"{statistics.median(ratios['baseline']):.2f}"
    )


if __name__ == "__main__":
    main()
