"""What a mutation is, and three ways to write one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One edit, and where it has to be noticed.

    Attributes:
        name: What is wrong after the edit.
        file: The file edited.
        new: The code appended to the file, or what replaces ``old``.
        target: The page whose cells must fail, or the test file.
        old: The text replaced; it occurs exactly once. Empty: ``new`` is appended.
        label: Cells after the last check of this box are not run; empty for the whole page.
        fast: Whether the mutation belongs to the part that runs with the tests.
    """

    name: str
    file: str
    new: str
    target: str
    label: str = ""
    old: str = ""
    fast: bool = False


REBUILT = """
import numpy as _np
def _rebuilt(P, row=None, col=None, index=None, keep=slice(None)):
    row = P.row if row is None else row
    col = P.col if col is None else col
    index = P.index if index is None else index
    return Pattern(P.shape, row[keep], col[keep], index[keep], P.num_parameters)
"""


def builder(name, module, function, body, page, label="", fast=False):
    """A builder whose result or arguments are changed by ``body``; ``build`` is the true one."""
    lines = "\n".join("    " + line for line in body.splitlines())
    new = f"{REBUILT}\n_true_{function} = {function}\ndef {function}(*args, **options):\n"
    new += f"    build = _true_{function}\n{lines}\n"
    return Mutation(name, f"sparsemat/{module}.py", new, page, label, fast=fast)


def method(name, module, owner, attribute, body, page, label="", fast=False, kind=""):
    """A method or property of a class replaced; ``true`` is the old one."""
    lines = "\n".join("    " + line for line in body.splitlines())
    new = f"{REBUILT}\n_true_{attribute} = {owner}.{attribute}\n"
    new += (
        f"def _wrong_{attribute}(self, *args, **options):\n    true = _true_{attribute}\n{lines}\n"
    )
    value = f"property(_wrong_{attribute})" if kind == "property" else f"_wrong_{attribute}"
    new += f"{owner}.{attribute} = {value}\n"
    return Mutation(name, f"sparsemat/{module}.py", new, page, label, fast=fast)


def claim(name, page, label, old, new, fast=False):
    """A claim changed in the cell that checks it."""
    return Mutation(name, f"book/{page}.md", new, page, label, old, fast)
