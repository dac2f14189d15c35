"""Sphinx extension: how to cite a page, at its end, as BibTeX."""

from __future__ import annotations

from html import escape


def entry(title: str, book: str, author: str, year: str, key: str, url: str) -> str:
    """A BibTeX entry for one page of the book."""
    fields = {
        "author": f"{{{author}}}",  # one name, not a list of them
        "title": title,
        "howpublished": f"In: {book}" if title != book else "Executable book",
        "year": year,
        "url": url,
    }
    width = max(map(len, fields))
    lines = [f"  {name:<{width}} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}"])


def add(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    from docutils import nodes

    if doctree is None or not context.get("body"):
        return
    first = next(iter(doctree.findall(nodes.title)), None)
    title = app.config.project if first is None else first.astext()
    key = "sparsemat:" + pagename.partition("/")[2].replace("/", "-")
    url = f"{app.config.html_baseurl}{pagename}.html"
    year = str(app.config.copyright).split(",")[0].split("-")[-1].strip()
    text = entry(title, app.config.project, app.config.author, year, key, url)
    context["body"] += (
        '<details class="cite"><summary>Cite this page</summary>'
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def setup(app) -> dict:
    app.connect("html-page-context", add)
    return {"parallel_read_safe": True}
