"""Tables for readers: names with units, formatted numbers, a dash for what is not there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..tables import Table

if TYPE_CHECKING:
    import pandas as pd

_INDEX = ""  # key of the column of row names
EXPERIMENTS = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "Tiny ImageNet",
    "etth1": "ETTh1",
    "electricity": "Electricity",
    "ag-news": "AG News",
    "wikitext-2": "WikiText-2",
    "ptb": "Penn Treebank",
}
METRICS = {"accuracy": "accuracy in %", "mse": "mean squared error", "perplexity": "perplexity"}
_WORDS = EXPERIMENTS | METRICS
_WORDS |= {"native-linear": "native, linear", "tied-linear": "tied, linear"}
_WORDS |= {"tied-linear - native-linear": "tied - native, both linear"}
_COLUMNS = METRICS | {
    "experiment": "data set",
    "name": "measure",
    "metric": "result",
    "spread": "deviation over seeds",
    "paper": "the paper's",
    "epochs": "epochs run",
    "epoch": "epoch of the result",
    "best epoch": "epoch best on test",
    "paper epoch": "the paper's epoch",
    "seconds an epoch": "seconds an epoch",
    "peak MiB": "peak memory in MiB",
    "train_loss": "training loss",
    "test_loss": "test loss",
    "valid_loss": "validation loss",
    "valid_accuracy": "validation accuracy in %",
    "valid_mse": "validation error",
    "valid_perplexity": "validation perplexity",
    "seconds": "seconds",
    "difference": "tied minus native",
    "low": "90 % interval from",
    "high": "to",
    "p": "p of the test",
    "needed": "seeds needed",
    "budget": "cut after epochs",
}
_FORMATS = {
    **{"accuracy": "{:.2f}", "accuracy in %": "{:.2f}", "valid_accuracy": "{:.2f}"},
    **{"mse": "{:.4f}", "perplexity": "{:,.2f}", "valid_perplexity": "{:,.2f}", "paper": "{:.2f}"},
    **{"seconds": "{:.1f}", "seconds an epoch": "{:.1f}", "peak MiB": "{:,.0f}"},
    **{"spread": "{:.2g}", "difference": "{:+.3g}", "low": "{:+.3g}", "high": "{:+.3g}"},
    **{"margin": "{:.3g}", "p": "{:.2g}", "power": "{:.2f}", "epoch": "{:.3g}"},
    **{"epochs": "{:.3g}", "best epoch": "{:.3g}", "density": "{:.4f}"},
}


def show(frame: pd.DataFrame | pd.Series, caption: str, **formats: str) -> Table:
    """A table as a reader should see it.

    Args:
        frame: Numbers and words; a series is a table of one column. The name of its index heads
            the first column, which is left out where rows are only numbered.
        caption: What the table shows, one sentence.
        formats: Format of a column, by its name, such as ``mse="{:.2f}"``.

    Returns:
        The table, whose columns and rows have display names.
    """
    import pandas as pd

    frame = frame if frame.ndim == 2 else frame.to_frame()
    chosen = {column: formats.get(str(column), _FORMATS.get(column)) for column in frame.columns}
    written = {str(column): pattern for column, pattern in chosen.items() if pattern}
    rows = []
    for label, row in zip(frame.index, frame.to_dict("records"), strict=True):
        shown = {str(column): _value(value, chosen[column]) for column, value in row.items()}
        if row.get("p") == 0:  # smaller than a float can say
            shown["p"] = "< 10⁻¹⁶"
        if "name" in row and "metric" in row:  # each in the form of its measure
            shown["metric"] = _FORMATS[row["name"]].format(row["metric"])
        rows.append({_INDEX: word(label)} | shown)
    headings = {str(column): _heading(column) for column in frame.columns}
    if frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex):
        headings = {_INDEX: _heading(frame.index.name or "")} | headings
    return Table(rows, headings, caption=caption, formats=written)


def _heading(column: object) -> str:
    return str(_COLUMNS.get(column, word(column)))


def word(value: object) -> object:
    """The display name of a data set, a measure or a variant; anything else as it is."""
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _value(value: object, pattern: str | None) -> object:
    if isinstance(value, str):
        return word(value)
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if value is None or math.isnan(value):
        return None
    return int(value) if float(value).is_integer() and "3g" in (pattern or "3g") else value
