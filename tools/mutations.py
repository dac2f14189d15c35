"""Break builders and claims on purpose, and demand that a check fails.

python tools/mutations.py           all mutations of tools/mutants.py (minutes)
python tools/mutations.py --fast    the part that runs with the tests
python tools/mutations.py NAME ...  those whose name contains a NAME

Each mutation is one source edit in a temporary copy. The cells of the page that must notice are
run there; the run counts only if a cell that checks a claim fails, and if the same cells pass
unchanged.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext

sys.path.append(str(Path(__file__).resolve().parent))
from mutant_kinds import Mutation
from mutants import MUTATIONS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ("results/structured", "results/benchmarks", "results/weights")  # that pages read
COPIED = ("sparsemat", "book", "tests", *RESULTS)
HEAVY = ("matplotlib.pyplot", "pandas", "scipy.linalg", "sympy", "torch", "torch.nn.functional")
LIMIT = 240  # seconds; a mutation may turn a loop endless, which no check has caught


@dataclass(frozen=True)
class Result:
    """What became of one mutation: ``by`` is the check that failed, or why none did."""

    mutation: Mutation
    caught: bool
    by: str
    seconds: float


def edited(text: str, mutation: Mutation) -> str:
    """The file's text after the edit.

    Raises:
        ValueError: The text to replace does not occur exactly once.
    """
    if not mutation.old:
        return f"{text}\n{mutation.new}"
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(f"{mutation.name!r}: {mutation.old!r} must occur once, found {count}")
    return text.replace(mutation.old, mutation.new)


def cells(page: str, label: str) -> list[str]:
    """The code of a page up to the last check of a box."""
    found = []
    for cell in jupytext.reads(page, fmt="md:myst").cells:
        if cell.cell_type == "code" and "colab-setup" not in cell.metadata.get("tags", []):
            found.append(cell.source)
    if label:
        last = [
            k
            for k, code in enumerate(found)
            if code.startswith(f"# check: {label} ") or code.split("\n")[0] == f"# check: {label}"
        ]
        if not last:
            raise ValueError(f"no cell checks {label}")
        found = found[: last[-1] + 1]
    return found


def run_page(root: Path, page: str, label: str) -> str:
    """Run the cells; the first line of the one that failed, or an empty string.

    Raises:
        RuntimeError: A cell that checks nothing failed.
    """
    import matplotlib

    matplotlib.use("Agg")
    os.chdir(root / "notebooks")
    namespace = {"display": lambda *shown: None, "__name__": "page"}
    for code in cells((root / "book" / f"{page}.md").read_text(), label):
        try:
            exec(compile(code, "cell", "exec"), namespace)
        except Exception as error:
            first = code.split("\n")[0]
            if first.startswith("# check: "):
                return first.removeprefix("# check: ")
            raise RuntimeError(f"a cell without a check failed: {first}") from error
    return ""


def run_tests(root: Path, file: str) -> str:
    """Run a test file; its name if a test failed, or an empty string."""
    import pytest

    os.chdir(root)
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", file])
    if code not in (0, 1):
        raise RuntimeError(f"pytest ended with {code}")
    return file if code else ""


def attempt(mutation: Mutation | None, target: str, label: str) -> str:
    """Copy, edit and run in a child process; what failed, empty if nothing did.

    Raises:
        RuntimeError: Something else than a check failed, or the child died without an answer.
    """
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__", "_static")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", root)
        (root / "notebooks").mkdir()
        if mutation is not None:
            path = root / mutation.file
            path.write_text(edited(path.read_text(), mutation))
        child = os.fork()
        if child == 0:
            _child(root, target, label, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        status = os.waitpid(child, 0)[1]
    if not answer:
        raise RuntimeError(f"no answer, {ended(os.waitstatus_to_exitcode(status))}")
    if answer.startswith("error: "):
        raise RuntimeError(answer)
    return answer.removeprefix("ran: ")


def ended(code: int) -> str:
    """Why a child process gave no answer."""
    if code == -signal.SIGALRM:
        return f"stopped after {LIMIT} s"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _child(root: Path, target: str, label: str, write: int) -> None:
    """In the forked process: run the target, write the answer, and end."""
    try:
        signal.alarm(LIMIT)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        sys.path.insert(0, str(root))
        for name in [name for name in sys.modules if name.split(".")[0] == "sparsemat"]:
            del sys.modules[name]
        run = run_tests(root, target) if target.endswith(".py") else run_page(root, target, label)
        answer = f"ran: {run}"
    except BaseException:  # the parent tells what happened
        answer = f"error: {traceback.format_exc()}"
    os.write(write, answer.encode()[:60_000])
    os._exit(0)


def examine(mutations: list[Mutation]) -> Iterator[Result]:
    """Try the mutations one by one, after the unchanged targets have passed.

    Raises:
        RuntimeError: An unchanged target fails, so that its mutations would prove nothing.
    """
    for name in HEAVY:  # once, for all children
        importlib.import_module(name)
    whole: dict[str, set[str]] = {}
    for mutation in mutations:
        whole.setdefault(mutation.target, set()).add(mutation.label)
    for target, labels in whole.items():
        if failed := attempt(None, target, _furthest(target, labels)):
            raise RuntimeError(f"{target} fails without a mutation, at {failed}")
    for mutation in mutations:
        start = time.monotonic()
        try:
            by = attempt(mutation, mutation.target, mutation.label)
            caught, by = bool(by), by or "survived"
        except RuntimeError as error:
            caught, by = False, f"not by a check: {error}"
        yield Result(mutation, caught, by, time.monotonic() - start)


def _furthest(target: str, labels: set[str]) -> str:
    """The label up to which a page must run to have run all of them."""
    if target.endswith(".py"):
        return ""
    page = (ROOT / "book" / f"{target}.md").read_text()
    return max(labels, key=lambda label: len(cells(page, label)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args(arguments)
    chosen = [
        mutation
        for mutation in MUTATIONS
        if (mutation.fast or not options.fast)
        and (not options.names or any(name in mutation.name for name in options.names))
    ]
    caught = 0
    for result in examine(chosen):
        mark = "caught" if result.caught else "SURVIVED"
        print(f"{mark:9}{result.mutation.name}: {result.by} ({result.seconds:.0f} s)", flush=True)
        caught += result.caught
    print(f"{len(chosen)} mutations tried, {caught} caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
