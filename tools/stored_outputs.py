"""Sphinx extension: a chapter is read from its text, with the outputs stored in its notebook.

The notebooks are written for readers outside the book (see readable.py), so that their Markdown
has lost the directives from which the book makes boxes, references and numbers.
"""

from pathlib import Path

import jupytext
import nbformat
from readable import MYST


def with_outputs(text: str, stored: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cells of a text with the outputs of a notebook.

    Raises:
        ValueError: Their code cells differ.
    """
    page = jupytext.reads(text, fmt="md:myst")
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    ran = [cell for cell in stored.cells if cell.cell_type == "code"]
    if [cell.source for cell in code] != [cell.source for cell in ran]:
        raise ValueError("the code of text and notebook differs: execute it")
    for cell, other in zip(code, ran, strict=True):
        cell.outputs, cell.execution_count = other.outputs, other.execution_count
    page.metadata = stored.metadata
    return page


def read(app, docname: str, source: list[str]) -> None:
    folder, _, name = docname.rpartition("/")
    if folder != "notebooks":
        return
    text = Path(app.srcdir) / "book" / f"{name}.md"
    app.env.note_dependency(str(text))
    try:
        page = with_outputs(text.read_text(), nbformat.reads(source[0], as_version=4))
    except ValueError as error:
        raise ValueError(f"{docname}: {error}") from None
    for output in [o for cell in page.cells for o in cell.get("outputs", [])]:
        data = output.get("data", {})
        data.update({"text/markdown": data.pop(MYST)} if MYST in data else {})
    source[0] = nbformat.writes(page)


def setup(app) -> dict:
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
