"""Places in a page that a script fills: their nodes, and the files of the pages that have them."""

from __future__ import annotations

from collections.abc import Callable

from docutils import nodes


class Scripted(nodes.General, nodes.Element):
    """Where the script draws; nothing in a format without scripts."""


def add(app, kind: type[Scripted], visit: Callable, files: Callable) -> None:
    """Make a kind of place known.

    Args:
        app: Sphinx.
        kind: The class of its nodes.
        visit: Writes a node as HTML.
        files: From the nodes of a page to the paths of its scripts and styles, in their order.
    """

    def add_files(app, pagename, templatename, context, doctree) -> None:
        found = [] if doctree is None else list(doctree.findall(kind))
        for path in ["controls.css", "controls.js", *files(found)] if found else []:
            if path.endswith(".css"):
                app.add_css_file(path)
            else:
                app.add_js_file(path, loading_method="defer")

    app.add_node(kind, html=(visit, lambda *_: None), latex=(skip, None), text=(skip, None))
    app.connect("html-page-context", add_files)


def skip(translator, node: Scripted) -> None:
    raise nodes.SkipNode
