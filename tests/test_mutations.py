"""Broken builders and claims are noticed: the fast part of tools/mutations.py, and the tool."""

import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import mutations  # noqa: E402
from mutant_kinds import Mutation  # noqa: E402
from mutants import MUTATIONS  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(mutations.os, "fork"), reason="needs fork")
HARMLESS = Mutation(
    "nothing changes", "sparsemat/data2matrix.py", "", "data2matrix", "data-flatten"
)


def test_the_fast_mutations_are_caught_and_a_harmless_one_is_not():
    fast = [mutation for mutation in MUTATIONS if mutation.fast]
    *results, harmless = mutations.examine([*fast, HARMLESS])
    assert [result for result in results if not result.caught] == []
    assert (harmless.caught, harmless.by) == (False, "survived")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_an_edit_fits_its_file(mutation):
    text = (ROOT / mutation.file).read_text()
    assert mutations.edited(text, mutation) != text
    if mutation.file.endswith(".py"):
        compile(mutations.edited(text, mutation), mutation.file, "exec")
    if mutation.target.endswith(".py"):
        assert (ROOT / mutation.target).exists()
    else:
        page = (ROOT / "book" / f"{mutation.target}.md").read_text()
        assert mutations.cells(page, mutation.label)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "killed by SIGKILL"),
        ("import os\nos._exit(3)\n", "exit code 3"),
        ("while True:\n    pass\n", "stopped after 1 s"),
    ],
    ids=["killed", "exit", "endless"],
)
def test_a_death_without_an_answer_is_not_caught(monkeypatch, code, why):
    monkeypatch.setattr(mutations, "LIMIT", 1 if "while" in code else mutations.LIMIT)
    monkeypatch.setattr(mutations, "run_page", lambda *_: exec(code))
    with pytest.raises(RuntimeError, match=f"no answer, {why}"):
        mutations.attempt(None, "data2matrix", "data-flatten")


def test_names_are_unique():
    assert [name for name, n in Counter(m.name for m in MUTATIONS).items() if n > 1] == []


def test_text_to_replace_must_occur_once():
    twice = Mutation("twice", "book/x.md", "b", "x", old="a")
    with pytest.raises(ValueError, match="must occur once, found 2"):
        mutations.edited("a a", twice)


def test_a_box_without_a_check_is_refused():
    with pytest.raises(ValueError, match="no cell checks no-such-box"):
        mutations.cells("# A page\n", "no-such-box")
