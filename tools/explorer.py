"""Sphinx extension: the pattern explorer in a page, and links to one of its cases.

The directive ``{explorer} kind=conv2d&size=6x6`` embeds it, ``{explorer-page}`` is its own page,
which keeps its state in the address. The role ``{explorer}`this case <kind=conv1d&size=9>```
links there. Scripts and style are added to the pages that embed it, and to no other.
"""

from html import escape
from urllib.parse import parse_qsl, urlencode

from docutils import nodes
from scripted import Scripted, add
from sphinx.util.docutils import SphinxDirective, SphinxRole

PAGE = "book/explorer"
FILES = "explorer.css", "patterns.js", "explorer.js"
FALLBACK = "This picture can be changed by the reader where JavaScript is on."


class explorer(Scripted):  # docutils names nodes so
    """Where the explorer goes."""


class Explorer(SphinxDirective):
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        state = self.arguments[0] if self.arguments else "kind=conv2d"
        if "kind" not in dict(parse_qsl(state, strict_parsing=True)):
            raise self.error(f"an explorer needs a kind, got {state!r}")
        return [explorer(state=state, page=self.name == "explorer-page")]


class Case(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list]:
        text, _, state = self.text.rstrip(">").rpartition("<")
        query = urlencode(parse_qsl(state, strict_parsing=True))
        here = self.env.docname
        target = self.env.app.builder.get_relative_uri(here, PAGE)
        link = nodes.reference("", text.strip(), refuri=f"{target}?{query}", internal=True)
        return [link], []


def visit(translator, node: explorer) -> None:
    kind = "data-page" if node["page"] else 'data-closed="yes"'
    translator.body.append(
        f'<div class="pattern-explorer" {kind} data-state="{escape(node["state"])}">'
        f"<noscript>{FALLBACK}</noscript></div>\n"
    )


def setup(app) -> dict:
    add(app, explorer, visit, lambda _: [f"explorer/{name}" for name in FILES])
    app.add_directive("explorer", Explorer)
    app.add_directive("explorer-page", Explorer)
    app.add_role("explorer", Case())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
