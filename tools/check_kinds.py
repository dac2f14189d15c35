"""What kinds of checks a box has, read from the cells of its chapter.

As a Sphinx extension it adds a line to every box: "Checked for all sizes, with numbers."
"""

from __future__ import annotations

import re
from pathlib import Path

BOOK = Path(__file__).resolve().parent.parent / "book"
CHECK = re.compile(r"^# check: ([\w-]+)(?: \((.+)\))?$", re.MULTILINE)
NUMBERS = "with numbers"
KINDS = {
    "all sizes": "for all sizes",
    "symbols": "with symbols",
    "counterexample": "by counterexample",
}
ORDER = ["for all sizes", "with symbols", NUMBERS, "by counterexample"]


def kinds(chapter: str) -> dict[str, list[str]]:
    """Label of a box to the kinds of its checks, the strongest first.

    Args:
        chapter: Name of the page, such as ``"convolution"``.
    """
    found: dict[str, set[str]] = {}
    path = BOOK / f"{chapter}.md"
    for label, detail in CHECK.findall(path.read_text() if path.exists() else ""):
        found.setdefault(label, set()).add(KINDS.get(detail, NUMBERS))
    return {label: sorted(seen, key=ORDER.index) for label, seen in found.items()}


def sentence(found: list[str]) -> str:
    """The kinds in words."""
    *most, last = found
    return f"Checked {', '.join(most)} and {last}." if most else f"Checked {last}."


def add_line(app, doctree) -> None:
    from docutils import nodes

    checked = kinds(Path(app.env.docname).name)
    for box in doctree.findall(lambda node: isinstance(node, nodes.Element) and "label" in node):
        if box["label"] in checked and "realtype" in box:
            line = nodes.emphasis(text=sentence(checked[box["label"]]))
            box.children[-1] += nodes.paragraph("", "", line, classes=["checked"])


def setup(app) -> dict:
    app.connect("doctree-read", add_line)
    return {"parallel_read_safe": True}
