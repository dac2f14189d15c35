"""Sphinx extension: ``{statements}`` lists every numbered box of the book with its title.

sphinx-proof has an index of its own, by labels, which are names for authors.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from readable import FENCE, options
from sphinx.util.docutils import SphinxDirective
from status import titles

BOOK = Path(__file__).resolve().parent.parent / "book"


def boxes(chapter: str) -> list[tuple[str, str]]:
    """Label and title of every box of a chapter that has a number, in their order."""
    text = (BOOK / f"{chapter}.md").read_text()
    found = [m for m in FENCE.finditer(text) if re.fullmatch(r"prf:(?!proof)\w+", m["kind"])]
    return [(dict(options(m["options"]))["label"], m["title"].strip()) for m in found]


def listing() -> str:
    """The boxes as MyST, chapter by chapter."""
    lines = []
    for chapter in titles():
        if not (found := boxes(chapter)):
            continue
        lines += ["", f"[](../notebooks/{chapter}.ipynb)", ""]
        for label, title in found:
            lines.append(f"- {{prf:ref}}`{label}`" + (f": {title}" if title else ""))
    return "\n".join(lines)


class Statements(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # it follows from the texts of all chapters
        return self.parse_text_to_nodes(listing())


def setup(app) -> dict:
    app.add_directive("statements", Statements)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
