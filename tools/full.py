"""Run training chapters with FULL = True on the real data, as a reader would.

python tools/full.py PAGE ...                        on what SPARSEMAT_DATA names
python tools/full.py mnist --set SEEDS=[3] EPOCHS=1  with other choices in the first cell

A run that FOLDER already holds is not repeated. Prints what the chapter prints; at the end one line
a page: the seconds it took, or the cell that failed.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import sys
import time
import traceback
from pathlib import Path

import jupytext

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "mnist": "mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "tiny_imagenet": "tiny-imagenet",
    "etth1": "etth1",
    "electricity": "electricity",
    "ag_news": "ag-news",
    "wikitext2": "wikitext-2",
    "ptb": "ptb",
}
FIRST = "FULL = False"  # begins the cell of the choices


def cells(page: str, **choices: object) -> list[str]:
    """The code of a chapter, with other choices in its first cell.

    Args:
        page: Name of the page.
        choices: Values by the name of the choice, such as ``FULL=True``.

    Raises:
        ValueError: The page has no such choice.
    """
    found = []
    for cell in jupytext.read(ROOT / f"book/{page}.md").cells:
        if cell.cell_type == "code" and "colab-setup" not in cell.metadata.get("tags", []):
            source = cell.source
            if source.startswith(FIRST):
                source = _chosen(page, source, choices)
            found.append(source)
    return found


def _chosen(page: str, source: str, choices: dict[str, object]) -> str:
    known = set(re.findall(r"\b[A-Z]+\b(?=[, A-Z]*=)", re.sub(r"#.*", "", source)))
    if unknown := sorted(choices.keys() - known):
        raise ValueError(f"the choices of {page} are {sorted(known)}, got {unknown}")
    changed = "\n".join(f"{name} = {value!r}" for name, value in choices.items())
    return f"{source}\n{changed}"


def run(page: str, choices: dict[str, object]) -> str:
    """Run a chapter to its end; what failed, or an empty string."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    os.chdir(ROOT / "notebooks")
    plt.show = lambda: plt.close("all")
    space: dict = {"display": print, "__name__": "page"}
    for number, source in enumerate(cells(page, **choices), 1):
        try:
            tree = ast.parse(source)
            shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, f"{page}, cell {number}", "exec"), space)
            if shown is not None:
                value = eval(compile(ast.Expression(shown.value), page, "eval"), space)
                if value is not None:
                    print(value)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            return f"cell {number}: {source.splitlines()[0]}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", choices=list(PAGES), metavar="PAGE")
    parser.add_argument("--set", nargs="*", default=[], metavar="CHOICE=VALUE")
    options = parser.parse_args(arguments)
    choices = {"FULL": True}
    for text in options.set:
        name, _, value = text.partition("=")
        choices[name] = ast.literal_eval(value)
    ends = {}
    for page in options.pages:
        start = time.monotonic()
        failed = run(page, choices)
        ends[page] = failed, time.monotonic() - start
    for page, (failed, seconds) in ends.items():
        end = f"stopped at {failed}" if failed else "ran to its end"
        print(f"{page}: {end}, {seconds / 60:.1f} min")
    return 1 if any(failed for failed, _ in ends.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
