"""Notebooks are plain Markdown, and number boxes, equations and figures as the book does."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from browsing import HTML, needs_book
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import readable  # noqa: E402
import stored_outputs  # noqa: E402

import notebooks as tool  # noqa: E402  tools/ is no package

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOC = "parts: [{numbered: 1, chapters: [{file: book/other}, {file: notebooks/page}]}]"
PAGE = """---
jupytext:
---

# Page

(here)=
## A section

:::{prf:theorem} A title
:label: thm-a

Let $x$ be, by {cite}`someone2020`,

$$
x
=1 .
$$ (eq-a)

:::

:::{prf:proof}
By {eq}`eq-a` and [that](#here).
:::

:::{prf:lemma}
:label: lem-b

See {prf:ref}`thm-a` and {prf:ref}`this <thm-a>`.
:::
"""
SITE = "https://me.github.io/it"


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "book" / "page.md").write_text(PAGE)
    (tmp_path / "book" / "other.md").write_text("# Another\n")
    (tmp_path / "book" / "references.bib").write_text(
        "@book{someone2020, author={Ann One and Bo Two and Cy Three}, title={T}, year={2020}}"
    )
    return readable.Book(tmp_path, SITE)


def test_boxes_become_quotations_and_references_links(book):
    url = f"{SITE}/notebooks/page.html"
    assert (
        book.markdown(PAGE.split("# Page\n\n")[1])
        == f"""## A section

> **Theorem 2.1** (A title)
>
> Let $x$ be, by [[One et al., 2020]]({SITE}/book/bibliography.html),
>
> $$ x =1 . \\tag{{2.1}} $$

*Proof.* By [(2.1)]({url}#equation-eq-a) and [that]({url}#here). ∎

> **Lemma 2.2**
>
> See [Theorem 2.1]({url}#thm-a) and [this]({url}#thm-a)."""
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("[](other)", f"[Another]({SITE}/book/other.html)", id="title"),
        pytest.param("[it](page.ipynb)", f"[it]({SITE}/notebooks/page.html)", id="notebook"),
        pytest.param("[](#here)", f"[A section]({SITE}/notebooks/page.html#here)", id="section"),
        pytest.param("[x](https://a.b/c)", "[x](https://a.b/c)", id="elsewhere"),
        pytest.param("$$\ny\n$$", "$$\ny\n$$", id="equation without a number"),
        pytest.param(
            "{explorer}`this <kind=conv1d&size=9>`",
            f"[this]({SITE}/book/explorer.html?kind=conv1d&size=9)",
            id="a case of the explorer",
        ),
        pytest.param(":::{note}\nMind.\n:::", "> **Note**\n>\n> Mind.", id="note"),
        pytest.param(
            ":::{table} By [it](page.ipynb).\n\n| a |\n|---|\n| 1 |\n\n:::",
            f"*By [it]({SITE}/notebooks/page.html).*\n\n| a |\n|---|\n| 1 |",
            id="table",
        ),
        pytest.param(
            "::::{note}\nOf sizes.\n\n:::{table} Sizes.\n\n| a |\n|---|\n\n:::\n\n::::",
            "> **Note**\n>\n> Of sizes.\n>\n> *Sizes.*\n>\n> | a |\n> |---|",
            id="table in a box",
        ),
    ],
)
def test_other_markup(book, text, shown):
    assert book.markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{prf:ref}`nobody`", "nothing carries the label 'nobody'"),
        ("[x](nowhere.ipynb)", "no page is called 'nowhere.ipynb'"),
        ("{strange}`x`", "cannot show the role 'strange'"),
        (":::{strange}\nx\n:::", "cannot show the directive 'strange'"),
    ],
)
def test_what_cannot_be_shown_is_refused(book, text, message):
    with pytest.raises(ValueError, match=message):
        book.markdown(text)


PAGES = sorted((ROOT / "book").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_proof_has_one_end(path):
    assert "\\square" not in path.read_text()  # the notebooks' proofs have a mark already


@pytest.mark.parametrize("path", [*PAGES, ROOT / "book" / "claims.yml"], ids=lambda path: path.stem)
def test_sizes_have_no_spaces_and_no_signs(path):
    text = path.read_text()
    prose = readable.CODE.sub("", text) + "".join(re.findall("^ +caption: .*$", text, re.MULTILINE))
    assert re.findall(r"\d ?\u00d7 ?\d|\d x \d", prose) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_table_in_the_text_has_a_caption(path):
    text = readable.CODE.sub("", path.read_text())
    tables = re.findall(r"^\|[-|: ]+\|$", text, re.MULTILINE)
    captioned = re.findall(r"^:{3,}\{table\} \S.*\.\n\n\|", text, re.MULTILINE)
    assert len(captioned) == len(tables)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_markup_of_the_book_is_left_in_a_notebook(path):
    assert readable.leftovers(nbformat.read(path, as_version=4)) == []


def test_the_book_shows_an_output_in_its_own_markup(book):
    text = ":::{table} Of {prf:ref}`thm-a`.\n\n| a |\n|---|\n\n:::"
    assert not readable.MARKUP.search(book.output(text)["text/markdown"])
    (book.root / "notebooks").mkdir()
    page = "```{code-cell}\nshow()\n```\n"
    (book.root / "book" / "page.md").write_text(page)
    cell = nbformat.v4.new_code_cell("show()")
    cell.outputs = [nbformat.v4.new_output("display_data", book.output(text))]
    source = [nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))]
    env = SimpleNamespace(note_dependency=lambda path: None)
    stored_outputs.read(SimpleNamespace(srcdir=book.root, env=env), "notebooks/page", source)
    shown = nbformat.reads(source[0], as_version=4).cells[0].outputs[0]
    assert shown.data == {"text/markdown": text}


def test_leftovers_are_found():
    texts = [":::{note}", "{eq}`a`", "[](x)", "(a)=", "$$ (eq)", "[a](b.ipynb)"]
    cells = [nbformat.v4.new_markdown_cell(text) for text in texts]
    assert len(readable.leftovers(nbformat.v4.new_notebook(cells=cells))) >= len(texts)


@needs_book
def test_numbers_are_those_of_the_built_book():
    built = {}
    for path in HTML.rglob("*.html"):
        soup = BeautifulSoup(path.read_text(), "html.parser")
        for box in soup.select("div.proof[id] > p > .caption-number"):
            built[box.find_parent("div")["id"]] = box.text.strip()
        for box in soup.select("figure[id] .caption-number"):
            built[box.find_parent("figure")["id"]] = box.text.strip()
        for box in soup.select("[id^=equation-]"):
            number = box.select_one(".eqno")
            built[box["id"].removeprefix("equation-")] = number.contents[0].strip()
    counted = {
        label: place.text
        for label, place in tool.book().places.items()
        if label in built or place.text[-1].isdigit()
    }
    assert len(counted) > 200
    assert {label: built.get(label) for label in counted} == counted
