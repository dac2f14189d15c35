"""Sphinx extension: ``{status} PART`` says how the book stands, computed while it is built.

The parts are ``checks`` (boxes by kind of check), ``chapters`` (the same for each chapter),
``times`` (how long chapters take to run), ``runs`` (records by data set, device and version),
``benchmarks`` and ``versions``.
"""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import check_kinds
import run_times
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
FORMATS = {"seconds": "{:.1f}", "hours": "{:.2f}"}
PACKAGES = (
    *("numpy", "torch", "sympy", "z3-solver", "scipy", "matplotlib", "pandas"),
    *("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "sphinx-proof"),
)


def titles() -> dict[str, str]:
    """Name and title of every chapter, in the order of the book."""
    order = re.findall(r"notebooks/(\w+)", (ROOT / "_toc.yml").read_text())
    texts = {name: (ROOT / "book" / f"{name}.md").read_text() for name in order}
    return {n: re.search(r"^# (.+)$", text, re.MULTILINE)[1] for n, text in texts.items()}


def day(date: str | None) -> str | None:
    """A date that keeps to one line."""
    return date[:10].replace("-", "\u2011") if date else None


def machine(device: dict) -> str:
    threads = device.get("threads")
    return device["name"] + (f", {threads} thread{'s'[: threads > 1]}" if threads else "")


def chapters() -> tuple[list[dict], dict[str, str], str]:
    rows = []
    for name, title in titles().items():
        checked = check_kinds.kinds(name)
        found = Counter(kind for kinds in checked.values() for kind in kinds)
        kinds = {kind: found[kind] or None for kind in check_kinds.ORDER}
        rows.append({"chapter": title, "boxes": len(checked) or None, **kinds})
    heads = {"chapter": "chapter", "boxes": "boxes"} | {kind: kind for kind in check_kinds.ORDER}
    return rows, heads, "Boxes of each chapter that have a check, and those of each kind."


def times() -> tuple[list[dict], dict[str, str], str]:
    known, named = run_times.read(ROOT), titles()
    rows = [
        {
            "chapter": title,
            "seconds": known[name]["seconds"],
            "device": machine(known[name]["device"]),
            "torch": known[name]["versions"]["torch"],
            "date": day(known[name]["date"]),
        }
        for name, title in named.items()
        if name in known
    ]
    heads = {"chapter": "chapter", "seconds": "seconds to run", "device": "device"}
    heads |= {"torch": "version of torch", "date": "date"}
    caption = f"How long a chapter takes to run; {len(rows)} of {len(named)} have been timed."
    return rows, heads, caption


def checks() -> tuple[list[dict], dict[str, str], str]:
    boxes = [kinds for name in titles() for kinds in check_kinds.kinds(name).values()]
    rows = [
        {
            "kind": kind,
            "boxes": sum(kind in kinds for kinds in boxes),
            "only": sum(kinds == [kind] for kinds in boxes),
        }
        for kind in check_kinds.ORDER
    ]
    rows.append({"kind": "any", "boxes": len(boxes), "only": None})
    heads = {"kind": "checked", "boxes": "boxes", "only": "in no other way"}
    return rows, heads, "Boxes of the book by kind of check; a box may have several."


def runs() -> tuple[list[dict], dict[str, str], str]:
    from sparsemat.experiments.display import EXPERIMENTS
    from sparsemat.experiments.records import read_all

    groups: dict[tuple, list[dict]] = {}
    for record in read_all(ROOT / "results"):
        key = record["experiment"], machine(record["device"]), record["versions"]["torch"]
        groups.setdefault(key, []).append(record)
    rows = [
        {
            "experiment": EXPERIMENTS[experiment],
            "runs": len(found),
            "hours": sum(record["seconds"] for record in found) / 3600,
            "device": device,
            "torch": torch,
            "date": day(max(record["date"] or "" for record in found)),
        }
        for (experiment, device, torch), found in sorted(
            groups.items(), key=lambda item: list(EXPERIMENTS).index(item[0][0])
        )
    ]
    heads = {"experiment": "data set", "runs": "runs", "hours": "hours of training"}
    heads |= {"device": "device", "torch": "version of torch", "date": "newest"}
    return rows, heads, "Records of training runs; the oldest have no date."


def benchmarks() -> tuple[list[dict], dict[str, str], str]:
    rows = []
    for path in sorted((ROOT / "results" / "benchmarks").glob("cpu-*.json")):
        record = json.loads(path.read_text())
        device = record["machine"]
        for area, how in record["measured"].items():
            cases = sum(case["area"] == area for case in record["rows"])
            rows.append(
                {
                    "area": area,
                    "cases": cases or len(record["growth"]),
                    "device": machine({"name": device["processor"], "threads": device["threads"]}),
                    "torch": record["versions"]["torch"],
                    "commit": how["commit"][:8],
                    "date": day(how["date"]),
                }
            )
    heads = {"area": "area", "cases": "cases", "device": "device", "torch": "version of torch"}
    heads |= {"commit": "commit", "date": "date"}
    return rows, heads, "Benchmarks: when, where and at which commit each area was measured."


def versions() -> tuple[list[dict], dict[str, str], str]:
    rows = [{"package": "Python", "version": platform.python_version()}]
    rows += [{"package": name, "version": version(name)} for name in PACKAGES]
    return rows, {"package": "package", "version": "version"}, "Versions that built these pages."


PARTS = {part.__name__: part for part in (chapters, times, checks, runs, benchmarks, versions)}


class Status(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from sparsemat.tables import Table

        if self.arguments[0] not in PARTS:
            raise self.error(f"a part is one of {', '.join(PARTS)}, got {self.arguments[0]}")
        rows, heads, caption = PARTS[self.arguments[0]]()
        self.env.note_reread()  # it follows from files all over the repository
        html = Table(rows, heads, caption=caption, formats=FORMATS)._repr_html_()
        return [nodes.raw("", html, format="html")]


def setup(app) -> dict:
    app.add_directive("status", Status)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
