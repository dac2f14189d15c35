"""The ledger names only boxes and checks that exist, and no theorem lacks a row."""

import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = {
    "holds",
    "holds with a condition",
    "corrected",
    "refuted",
    "reproduced",
    "open",
}
FIELDS = {"id", "chapter", "paper", "claim", "verdict", "truth"}
ERRATA = range(1, 21)
NEED_ROW = {"theorem", "lemma", "proposition", "corollary"}
BOX = re.compile(r"^:{3,}\{prf:(\w+)\}[^\n]*\n(?::[^\n]*\n)*?:label: *(\S+)", re.MULTILINE)
OPENED = re.compile(r"^[:`]{3,}\{prf:(theorem|lemma|proposition|corollary)\}", re.MULTILINE)
CHECK = re.compile(r"# check: ([\w-]+)( \(.+\))?$")

sys.path.append(str(ROOT / "tools"))
from check_kinds import kinds, sentence  # noqa: E402

CLAIMS = yaml.safe_load((ROOT / "book" / "claims.yml").read_text()) or []


def boxes(chapter: str) -> dict[str, str]:
    """Label to kind, for every box of a chapter."""
    path = ROOT / "book" / f"{chapter}.md"
    return {label: kind for kind, label in BOX.findall(path.read_text())} if path.exists() else {}


def checks(chapter: str) -> set[str]:
    """The claims that a code cell of a chapter checks by an assertion."""
    path = ROOT / "notebooks" / f"{chapter}.ipynb"
    if not path.exists():
        return set()
    found = set()
    for cell in nbformat.read(path, as_version=4).cells:
        match = CHECK.match(cell.source.split("\n")[0])
        if cell.cell_type == "code" and match and re.search(r"^\s*assert\b", cell.source, re.M):
            found.add(match.group(1))
    return found


CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.md"))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_row_is_well_formed_and_names_what_exists(claim):
    assert FIELDS <= set(claim) <= FIELDS | {"erratum", "system"}
    assert all(str(claim[field]).strip() for field in FIELDS)
    assert claim["verdict"] in VERDICTS
    assert claim["chapter"] in CHAPTERS
    assert claim["id"] in boxes(claim["chapter"]), "no box carries this label"
    if boxes(claim["chapter"])[claim["id"]] in NEED_ROW:
        assert claim["id"] in checks(claim["chapter"]), "no cell with an assert checks it"


@pytest.mark.parametrize(
    "claim",
    [c for c in CLAIMS if c["verdict"] == "refuted"],
    ids=lambda claim: claim["id"],
)
def test_a_refuted_claim_has_its_counterexample(claim):
    assert "by counterexample" in kinds(claim["chapter"])[claim["id"]]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_counterexample_is_shown(chapter):
    path = ROOT / "notebooks" / f"{chapter}.ipynb"
    if not path.exists():
        return
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    for cell, after in pairwise([*code, None]):
        match = CHECK.match(cell.source.split("\n")[0])
        if match and match.group(2) == " (counterexample)":
            # the cell shows it, or the next one draws or tabulates what it found
            assert cell.outputs or after.outputs, match.group(1)


def test_the_kinds_of_checks_are_read_from_the_cells():
    found = kinds("convolution")["conv-forward"]
    assert found == ["for all sizes", "with symbols", "with numbers"]
    assert sentence(found) == "Checked for all sizes, with symbols and with numbers."
    assert sentence(["by counterexample"]) == "Checked by counterexample."
    assert kinds("no-such-chapter") == {}


def test_ids_are_unique():
    assert [key for key, n in Counter(c["id"] for c in CLAIMS).items() if n > 1] == []


def test_labels_are_unique_in_the_book():
    labels = Counter(label for chapter in CHAPTERS for label in boxes(chapter))
    assert [label for label, n in labels.items() if n > 1] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_theorem_has_a_label_a_row_and_a_check(chapter):
    named = {label for label, kind in boxes(chapter).items() if kind in NEED_ROW}
    opened = OPENED.findall((ROOT / "book" / f"{chapter}.md").read_text())
    assert len(opened) == len(named), "a box lacks its label"
    assert named - {claim["id"] for claim in CLAIMS} == set(), "boxes without a row"
    assert named - checks(chapter) == set(), "boxes without a check"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_check_names_a_box(chapter):
    assert checks(chapter) - set(boxes(chapter)) == set()


def test_every_erratum_is_in_the_ledger():
    listed = set()
    for claim in CLAIMS:
        number = claim.get("erratum", [])
        listed |= set(number if isinstance(number, list) else [number])
    assert listed == set(ERRATA)


def test_every_reference_is_cited():
    listed = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.M)
    pages = "".join(path.read_text() for path in (ROOT / "book").glob("*.md"))
    cited = {
        key.strip() for keys in re.findall(r"\{cite\}`([^`]+)`", pages) for key in keys.split(",")
    }
    assert sorted(set(listed) - cited) == []
    assert len(listed) == len(set(listed))
