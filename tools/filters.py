"""Sphinx extension: tables whose rows a reader can choose, and the page of all records.

The directive ``{table-filter} chapter, verdict`` puts a form above the tables of its section: one
menu for each facet, which is a column or, where no column has the name, the heading above a table.
``{records}`` is the table of all runs in ``results/``, sorted by a click, with curves on demand.
Scripts and style are added to the pages that use them, and to no other.
"""

import json
from html import escape
from pathlib import Path

from docutils import nodes
from scripted import Scripted, add
from sphinx.util.docutils import SphinxDirective
from status import machine


class table_filter(Scripted):  # docutils names nodes so
    """Where the form goes."""


class TableFilter(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return [table_filter(facets=self.arguments[0])]


def visit(translator, node: table_filter) -> None:
    sort = " data-sort" if node.get("sort") else ""
    facets = escape(node["facets"])
    translator.body.append(f'<div class="table-filter" data-facets="{facets}"{sort}></div>\n')


def row(record: dict) -> dict:
    """What the page says of a run, under the names that ``display`` knows."""
    from sparsemat.experiments.records import result

    return {
        "experiment": record["experiment"],
        "variant": record["variant"],
        "profile": record["profile"],
        "seed": record["seed"],
        "device": machine(record["device"]),
        "metric": result(record)[record["metric"]],
        "name": record["metric"],
        "epochs": len(record["curve"]),
        "minutes": round(record["seconds"] / 60, 1),
    }


def curve(record: dict) -> dict:
    """What can be drawn of a run: its name, and numbers by epoch."""
    drawn = ("train_loss", "test_loss", "valid_loss", record["metric"])
    series = {
        name: [float(f"{epoch[name]:.4g}") for epoch in record["curve"]]
        for name in drawn
        if all(isinstance(epoch.get(name), int | float) for epoch in record["curve"])
    }
    return {"epochs": [epoch["epoch"] for epoch in record["curve"]], "series": series}


class Records(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        import pandas as pd

        from sparsemat.experiments.display import EXPERIMENTS, show
        from sparsemat.experiments.records import read_all

        folder = Path(self.env.srcdir) / "results"
        for path in sorted(folder.glob("*.json")):
            self.env.note_dependency(str(path))
        order = list(EXPERIMENTS)
        found = read_all(folder)
        keys = ("profile", "variant", "seed")
        found.sort(key=lambda r: (order.index(r["experiment"]), *(r[key] for key in keys)))
        rows = pd.DataFrame(map(row, found)).set_index("experiment")
        table = show(rows, "Every run that has a record, one a row.", minutes="{:.1f}")
        curves = json.dumps(list(map(curve, found)), separators=(",", ":")).replace("<", "\\u003c")
        html = (
            f"{table._repr_html_()}\n"
            f'<script type="application/json" class="record-curves">{curves}</script>\n'
        )
        form = table_filter(facets="data set, variant, profile, device", sort=True)
        return [form, nodes.raw("", html, format="html")]


def files(found: list[table_filter]) -> list[str]:
    curves = ["tables/curves.js"] if any(node.get("sort") for node in found) else []
    return ["tables/filter.css", "tables/filter.js", *curves]


def setup(app) -> dict:
    add(app, table_filter, visit, files)
    app.add_directive("table-filter", TableFilter)
    app.add_directive("records", Records)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
