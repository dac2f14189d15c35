"""Chapters as plain Markdown, for readers in Colab, GitHub and Jupyter, which know no MyST.

Boxes become quotations with their numbers, references links to the published pages, equations
plain numbered equations. Numbers are counted as Sphinx counts them; a test compares the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import nbformat
import yaml

FENCE = re.compile(
    r"^(?P<fence>:{3,})\{(?P<kind>[\w:-]+)\}[ ]*(?P<title>.*)\n"
    r"(?P<options>(?::[\w-]+:.*\n)*)"
    r"(?P<body>(?:.*\n)*?)(?P=fence)[ ]*$",
    re.MULTILINE,
)
EQUATION = re.compile(r"^\$\$[ ]*\((?P<label>[\w-]+)\)[ ]*$", re.MULTILINE)
DISPLAY = re.compile(r"^\$\$\n(?P<body>.*?)\n\$\$(?:[ ]*\((?P<label>[\w-]+)\))?[ ]*$", re.M | re.S)
TARGET = re.compile(r"^\((?P<label>[\w-]+)\)=\n+#+ (?P<title>.*)$", re.MULTILINE)
ROLE = re.compile(r"\{(?P<name>[a-z:]+)\}`(?P<text>[^`]+)`")
LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
FIGURE = re.compile(r"^    name: (?P<label>[\w-]+)$", re.MULTILINE)
CODE = re.compile(r"^```\{code-cell\}.*?^```$", re.MULTILINE | re.DOTALL)
MYST = "text/x-myst"  # what the book shows of an output in place of its plain Markdown
MARKUP = re.compile(r":::|\{[a-z:]+\}`|```\{|\[\]\(|^\([\w-]+\)=|^\$\$ *\(", re.MULTILINE)


class Place(NamedTuple):
    """Where a label stands, and what a reference to it says."""

    page: str
    anchor: str
    text: str


def chapter_numbers(toc: dict) -> dict[str, int]:
    """The number of every page in a numbered part, by document name."""
    numbers = {}
    for part in toc["parts"]:
        for chapter in part["chapters"] if part.get("numbered") else []:
            numbers[chapter["file"]] = len(numbers) + 1
    return numbers


@dataclass(frozen=True)
class Book:
    """What references need to know: every label, title and source of the book.

    Args:
        root: The folder that holds ``_toc.yml`` and ``book/``.
        site: Address of the published pages, without a slash at its end.
    """

    root: Path
    site: str

    @cached_property
    def texts(self) -> dict[str, str]:
        """Text of each page by document name; chapters are named after their notebooks."""
        found = {}
        for path in sorted((self.root / "book").glob("*.md")):
            text = path.read_text()
            folder = "notebooks" if text.startswith("---\njupytext:") else "book"
            found[f"{folder}/{path.stem}"] = text
        return found

    @cached_property
    def places(self) -> dict[str, Place]:
        toc = self.root / "_toc.yml"
        numbers = chapter_numbers(yaml.safe_load(toc.read_text())) if toc.exists() else {}
        found = {}
        for page, text in self.texts.items():
            prefix = f"{numbers[page]}." if page in numbers else ""
            boxes = [
                (m["kind"][4:], dict(options(m["options"])))
                for m in FENCE.finditer(text)
                if m["kind"].startswith("prf:") and m["kind"] != "prf:proof"
            ]
            for count, (kind, given) in enumerate(boxes, start=1):
                if "label" in given:
                    name = f"{kind.capitalize()} {prefix}{count}"
                    found[given["label"]] = Place(page, given["label"], name)
            prose = CODE.sub("", text)
            for count, match in enumerate(EQUATION.finditer(prose), start=1):
                label = match["label"]
                found[label] = Place(page, f"equation-{label}", f"({prefix}{count})")
            for count, match in enumerate(FIGURE.finditer(text), start=1):
                label = match["label"]
                found[label] = Place(page, label, f"Fig. {prefix}{count}")
            for match in TARGET.finditer(prose):
                found[match["label"]] = Place(page, match["label"], match["title"])
        return found

    @cached_property
    def sources(self) -> dict[str, str]:
        """Author and year of each entry of the bibliography."""
        from pybtex.database import parse_file  # Colab has none, and the ledger cites nobody

        path = self.root / "book" / "references.bib"
        if not path.exists():
            return {}
        found = {}
        for key, entry in parse_file(str(path)).entries.items():
            who = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons["author"]]
            names = " and ".join(who) if len(who) < 3 else f"{who[0]} et al."
            found[key] = re.sub(r"[{}]", "", f"{names}, {entry.fields.get('year', 'n.d.')}")
        return found

    def url(self, page: str, anchor: str = "") -> str:
        return f"{self.site}/{page}.html" + (f"#{anchor}" if anchor else "")

    def reference(self, label: str, text: str = "") -> str:
        """A link to what carries the label.

        Raises:
            ValueError: Nothing does.
        """
        if label not in self.places:
            raise ValueError(f"nothing carries the label {label!r}")
        place = self.places[label]
        return f"[{text or place.text}]({self.url(place.page, place.anchor)})"

    def cells(self, text_cells: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
        """A chapter's cells as readers of the notebook meet them: captions follow their figures."""
        shown = []
        for cell in text_cells:
            if cell.cell_type == "markdown":
                shown.append(nbformat.v4.new_markdown_cell(self.markdown(cell.source)))
                continue
            shown.append(cell)
            figure = cell.metadata.get("mystnb", {}).get("figure", {})
            if "caption" in figure:
                caption = self.inline(figure["caption"].strip())
                number = self.places[figure["name"]].text if "name" in figure else "Figure"
                shown.append(nbformat.v4.new_markdown_cell(f"*{number}.* {caption}"))
        return shown

    def markdown(self, text: str) -> str:
        """Plain Markdown that says what a MyST text says."""
        text = TARGET.sub(lambda m: m[0][m[0].index("#") :], text)
        text = FENCE.sub(self.box, text + "\n").rstrip("\n")
        return self.inline(DISPLAY.sub(self.equation, text))

    def output(self, text: str) -> dict[str, str]:
        """MyST that a cell shows: plain Markdown in the notebook, itself in the book."""
        return {"text/markdown": self.markdown(text), MYST: text}

    def equation(self, match: re.Match) -> str:
        label = match["label"]
        tag = "" if label is None else f" \\tag{{{self.places[label].text.strip('()')}}}"
        return f"$$\n{match['body']}{tag}\n$$"

    def box(self, match: re.Match) -> str:
        kind, title = match["kind"], match["title"].strip()
        given = dict(options(match["options"]))
        body = FENCE.sub(self.box, match["body"]).strip()
        # A quotation mark inside a formula would be read as "greater than": one line each.
        body = DISPLAY.sub(lambda m: " ".join(self.equation(m).split("\n")), body)
        if kind == "prf:proof":
            head = f"*Proof{f' ({title})' if title else ''}.*"
            return f"{head} {body} ∎"
        if kind.startswith("prf:"):
            name = self.places[given["label"]].text
            head = f"**{name}**" + (f" ({title})" if title else "")
        elif kind == "admonition":
            head = f"**{title}**"
        elif kind == "table":
            return f"*{title}*\n\n{body}"
        elif kind == "table-filter":  # needs the page's script
            return ""
        elif kind == "motion":
            return f"*Here a figure moves in the [published book]({self.site}).*"
        elif kind in ("explorer", "explorer-page"):
            return f"[Open this case in the pattern explorer]({self.case(title)})"
        elif kind in ("note", "tip", "warning", "important", "seealso"):
            head = f"**{kind.capitalize()}**" + (f" {title}" if title else "")
        else:
            raise ValueError(f"a notebook cannot show the directive {kind!r}")
        lines = [head, "", *body.split("\n")]
        return "\n".join(f"> {line}".rstrip() for line in lines)

    def case(self, state: str) -> str:
        return f"{self.url('book/explorer')}?{urlencode(parse_qsl(state, strict_parsing=True))}"

    def inline(self, text: str) -> str:
        """Roles and links inside a line."""
        return ROLE.sub(self.role, LINK.sub(self.link, text))

    def role(self, match: re.Match) -> str:
        name, text = match["name"], match["text"]
        shown, _, label = text.rstrip(">").rpartition("<") if text.endswith(">") else ("", "", text)
        if name in ("prf:ref", "eq", "numref", "ref"):
            return self.reference(label, shown.strip())
        if name == "explorer":
            return f"[{shown.strip()}]({self.case(label)})"
        if name in ("cite", "cite:p", "cite:t"):
            who = "; ".join(self.sources[key.strip()] for key in text.split(","))
            return f"[[{who}]]({self.url('book/bibliography')})"
        raise ValueError(f"a notebook cannot show the role {name!r}")

    def link(self, match: re.Match) -> str:
        text, target = match["text"], match["target"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path, _, label = target.partition("#")
        if not path:
            return self.reference(label, text)
        if label in self.places:
            return self.reference(label, text)
        name = Path(path).name.removesuffix(".ipynb").removesuffix(".md").removesuffix(".html")
        page = next((page for page in self.texts if page.endswith(f"/{name}")), None)
        if page is None:
            raise ValueError(f"no page is called {target!r}")
        title = re.search(r"^# (.*)$", self.texts[page], re.MULTILINE)[1]
        return f"[{text or title}]({self.url(page, label)})"


def options(block: str) -> list[tuple[str, str]]:
    """Names and values of the options of a directive."""
    return re.findall(r"^:([\w-]+):[ ]*(.*)$", block, re.MULTILINE)


def leftovers(notebook: nbformat.NotebookNode) -> list[str]:
    """Markup in a notebook that only the book can show."""
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    for cell in notebook.cells:
        texts += [o.get("data", {}).get("text/markdown", "") for o in cell.get("outputs", [])]
    found = [match[0] for text in texts for match in MARKUP.finditer(text)]
    for text in texts:
        found += [m[0] for m in LINK.finditer(text) if not re.match(r"https?:", m["target"])]
    return found
