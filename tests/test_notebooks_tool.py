"""tools/notebooks.py on pages made for the purpose, and the repository's address."""

import json
import sys
from pathlib import Path

import pytest
import yaml

import sparsemat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import publish  # noqa: E402

import notebooks as tool  # noqa: E402  tools/ is no package

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Page

"""
CELL = "```{{code-cell}} ipython3\n{}\n```\n\n"
PAGE = HEADER + CELL.format("x = 1\nprint(x)") + "Text.\n\n" + CELL.format("x + 1")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A repository with one page, and the tool looking at it."""
    for name in ("book", "notebooks", "sparsemat"):
        (tmp_path / name).mkdir()
    for name in ("pyproject.toml", "sparsemat/__init__.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "book" / "page.md").write_text(PAGE)
    for name, path in {"ROOT": "", "BOOK": "book", "NOTEBOOKS": "notebooks"}.items():
        monkeypatch.setattr(tool, name, tmp_path / path)
    return tmp_path


def change(path, edit):
    notebook = json.loads(path.read_text())
    edit(notebook)
    path.write_text(json.dumps(notebook))


def test_executing_twice_gives_the_same_bytes(book, capsys):
    notebook = book / "notebooks" / "page.ipynb"
    assert tool.main(["execute", "page"]) == 0
    first = notebook.read_bytes()
    assert tool.main(["execute"]) == 0
    assert notebook.read_bytes() == first
    assert tool.main(["check"]) == 0
    assert "colab-setup" in (book / "book" / "page.md").read_text()

    def problem(edit):
        change(notebook, edit)
        assert tool.main(["check"]) == 1
        notebook.write_bytes(first)
        return capsys.readouterr().out

    def never_ran(nb):
        nb["cells"][2]["execution_count"] = None

    def out_of_order(nb):
        nb["cells"][2]["execution_count"] = 7

    def other_source(nb):
        nb["cells"][2]["source"] = ["x = 2"]

    def other_tags(nb):
        nb["cells"][2]["metadata"] = {"tags": ["hide-input"]}

    def stray(nb):
        nb["cells"][2]["metadata"] = {"scrolled": True}

    def failed(nb):
        error = {"output_type": "error", "ename": "E", "evalue": "v", "traceback": []}
        nb["cells"][2]["outputs"] = [error]

    def no_cell(nb):
        del nb["cells"][-1]

    capsys.readouterr()
    assert "never executed" in problem(never_ran)
    assert "ran as number 7" in problem(out_of_order)
    assert "differs between text and notebook in its source" in problem(other_source)
    assert "differs between text and notebook in its metadata" in problem(other_tags)
    assert "stray metadata: scrolled" in problem(stray)
    assert "stores the error E: v" in problem(failed)
    assert "cells" in problem(no_cell)
    notebook.unlink()
    assert tool.main(["check"]) == 1
    assert "page.ipynb is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("1 / 0", "ZeroDivisionError", id="a cell fails"),
        pytest.param("import warnings; warnings.warn('old')", "stderr", id="a cell warns"),
        pytest.param("object()", "prints an address", id="an output is not reproducible"),
    ],
)
def test_a_page_that_cannot_be_stored_leaves_nothing(book, capsys, code, message):
    text = HEADER + CELL.format(code)
    (book / "book" / "page.md").write_text(text)
    assert tool.main(["execute", "page"]) == 1
    assert message in capsys.readouterr().err
    assert list((book / "notebooks").iterdir()) == []
    assert (book / "book" / "page.md").read_text() == text


def test_running_the_first_cell_twice_clones_once(tmp_path):
    """The setup cell does nothing where the library already lies beside the notebook."""
    code = tool.read_text(tool.setup_block()).cells[0].source
    assert 'not Path("../sparsemat").is_dir()' in code
    assert code.index("is_dir()") < code.index("git clone")


def test_export_refreshes_prose_and_keeps_outputs(book, capsys):
    assert tool.main(["execute", "page"]) == 0
    notebook = book / "notebooks" / "page.ipynb"
    before = json.loads(notebook.read_text())
    path = book / "book" / "page.md"
    path.write_text(path.read_text().replace("Text.", "Other text."))
    assert tool.main(["check"]) == 1
    assert "in its source: export" in capsys.readouterr().out
    assert tool.main(["export"]) == 0
    assert tool.main(["check"]) == 0
    after = json.loads(notebook.read_text())
    outputs = [[c.get("outputs") for c in nb["cells"]] for nb in (before, after)]
    assert outputs[0] == outputs[1]
    assert "Other text." in notebook.read_text()
    path.write_text(path.read_text().replace("x + 1", "x + 2"))
    assert tool.main(["export"]) == 1
    assert "execute it" in capsys.readouterr().err


def test_every_place_states_the_same_address_and_version():
    address = publish.address()
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert config["repository"]["url"] == address
    assert citation["repository-code"] == address
    assert citation["version"] == sparsemat.__version__
    assert address in (ROOT / "README.md").read_text()
    assert f"## {sparsemat.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    pages = [path for path in (ROOT / "book").glob("*.md") if tool.is_page(path)]
    assert pages
    for path in pages:
        text = path.read_text()
        assert tool.with_setup_cell(text) == text, path.name
