"""Sphinx extension: ``{api} MODULE`` documents every public name of a module, a summary first.

``{api-summary} MODULE`` is the summary alone. Public is what ``__all__`` lists, in its order, or
else what the module defines without a leading underscore: a page written by hand would forget
names.
"""

import importlib
import inspect

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


def public(module) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is not None:
        return [name for name in names if callable(getattr(module, name))]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == module.__name__
    ]


def summary(name: str) -> list[str]:
    names = public(importlib.import_module(name))
    return [".. autosummary::", "", *(f"   {found}" for found in names), ""]


def entries(name: str) -> list[str]:
    module = importlib.import_module(name)
    text = []
    for found in public(module):
        value = getattr(module, found)
        if not inspect.isclass(value):
            text.append(f".. autofunction:: {name}.{found}")
        elif issubclass(value, Exception):
            text.append(f".. autoexception:: {name}.{found}")
        else:
            text += [f".. autoclass:: {name}.{found}", "   :members:"]
        text.append("")
    return text


class Api(SphinxDirective):
    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        if self.name == "api-summary":
            text = [f".. currentmodule:: {name}", "", *summary(name)]
        else:
            # the anchor of the module goes to what follows it; a table would lose it
            head = [f".. module:: {name}", "", f"In the module ``{name}``:", ""]
            text = [*head, *summary(name), *entries(name)]
        found = self.parse_text_to_nodes("\n".join(["```{eval-rst}", *text, "```"]))
        for table in [table for node in found for table in node.findall(nodes.table)]:
            table.insert(0, nodes.title("", f"Names in {name}."))
            for text in list(table.findall(nodes.Text)):  # signatures may break between arguments
                text.parent.replace(text, nodes.Text(text.replace("\u00a0", " ")))
        return found


def is_alias(app, what, name, member, skip, options) -> bool | None:
    """Whether a field of a named tuple would be listed with nothing but its number."""
    doc = getattr(member, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def setup(app) -> dict:
    app.connect("autodoc-skip-member", is_alias)
    app.add_directive("api", Api)
    app.add_directive("api-summary", Api)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
