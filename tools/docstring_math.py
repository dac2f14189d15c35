"""Sphinx extension: docstrings write formulas as $x$ and $$x$$, as the chapters do."""

import re


def to_rst(app, what, name, obj, options, lines: list[str]) -> None:
    text = "\n".join(lines)
    text = re.sub(r"\$\$(.+?)\$\$", r".. math:: \1", text, flags=re.DOTALL)
    text = re.sub(r"\$([^$]+)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    lines[:] = text.split("\n")


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", to_rst)
    return {"parallel_read_safe": True}
