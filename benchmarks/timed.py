"""A process that times the cases of an area when asked: the other side of ``against``.

It imports ``benchmarks`` from ``PYTHONPATH``, so that it can measure a checkout older than itself.
Every line of input is a question, every line of output an answer: ``next`` and ``seek TITLE``
(the title of the next case, or of the next with that title; an empty line where there is none),
``ours`` and ``baseline`` (the seconds that program of the case took).
"""

from __future__ import annotations

import sys
import time

import torch

from benchmarks.__main__ import AREAS

SEPARATOR = "\t"  # between a case and its baseline: together they are its title


def main(area: str, threads: str) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    cases, case = AREAS[area](), None
    for line in sys.stdin:
        question, _, title = line.strip().partition(" ")
        if question in ("next", "seek"):
            case = None  # before the next one is made: it may be large
            case = next((it for it in cases if question == "next" or title_of(it) == title), None)
            if case is None and question == "seek":
                cases = AREAS[area]()  # a case that is not there must not hide those after it
            print("" if case is None else title_of(case))
        else:
            start = time.perf_counter()
            getattr(case, question)[1]()
            print(time.perf_counter() - start)
        sys.stdout.flush()


def title_of(case: object) -> str:
    """What tells a case from the others of its area."""
    return f"{case.name}{SEPARATOR}{case.baseline[0]}"


if __name__ == "__main__":
    main(*sys.argv[1:])
