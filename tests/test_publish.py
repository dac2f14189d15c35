"""tools/publish.py: address and authors are carried everywhere, and what is missing is named."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import publish  # noqa: E402  tools/ is no package

COPIED = (
    "pyproject.toml",
    "_config.yml",
    "CITATION.cff",
    "README.md",
    "CONTRIBUTING.md",
    "LICENSE",
)
URL = "https://github.com/Someone/else"


@pytest.fixture
def copy(tmp_path):
    for name in COPIED:
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("book", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("_static"))
    return tmp_path


def test_an_address_is_carried_everywhere(copy):
    old = "/".join(publish.slug(publish.address(copy)))
    publish.change_address(URL, copy)
    assert publish.address(copy) == URL
    files = [path for path in copy.rglob("*") if path.suffix in (".md", ".ipynb", ".yml", ".toml")]
    left = [path.name for path in files if old in path.read_text()]
    assert left == []
    assert [
        p.name for p in files if publish.site(f"https://github.com/{old}") in p.read_text()
    ] == []
    notebook = (copy / "notebooks" / "index.ipynb").read_text()
    assert "https://someone.github.io/else/notebooks/" in notebook
    assert f"git clone -q --depth 1 {URL} matrix-book" in notebook


def test_authors_are_carried_into_three_files(copy):
    publish.change_authors(["Ada Lovelace", "Emmy Noether"], copy)
    citation = yaml.safe_load((copy / "CITATION.cff").read_text())
    assert citation["authors"][1] == {"given-names": "Emmy", "family-names": "Noether"}
    assert citation["references"][0]["authors"][0]["family-names"] == "Zhu"
    assert yaml.safe_load((copy / "_config.yml").read_text())["author"] == (
        "Ada Lovelace, Emmy Noether"
    )
    assert "2026, Ada Lovelace, Emmy Noether\n" in (copy / "LICENSE").read_text()


def test_what_is_missing_is_named_until_it_is_there(copy):
    publish.change_address("https://github.com/OWNER/name", copy)
    (copy / "LICENSE").write_text("Copyright (c) 2026, the sparsemat authors\n")
    missing = "\n".join(publish.placeholders(copy))
    assert "the repository's address" in missing
    assert "the authors' names in LICENSE" in missing
    publish.change_address(URL, copy)
    publish.change_authors(["Ada Lovelace"], copy)
    citation = copy / "CITATION.cff"
    citation.write_text(citation.read_text() + "doi: 10.1000/1\n")
    assert publish.placeholders(copy) == []


def test_other_addresses_are_refused():
    with pytest.raises(ValueError, match=r"must be https://github\.com/OWNER/NAME, got somewhere"):
        publish.slug("somewhere")
