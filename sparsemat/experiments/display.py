"""Tables for readers: names with units, formatted numbers, a dash for what is not there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MISSING = "\N{EN DASH}"
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
    **{"mse": "{:.4f}", "perplexity": "{:.2f}", "valid_perplexity": "{:.2f}", "paper": "{:.2f}"},
    **{"seconds": "{:.1f}", "seconds an epoch": "{:.1f}", "peak MiB": "{:,.0f}"},
    **{"spread": "{:.2g}", "difference": "{:+.3g}", "low": "{:+.3g}", "high": "{:+.3g}"},
    **{"margin": "{:.3g}", "p": "{:.2g}", "power": "{:.2f}", "epoch": "{:.3g}"},
    **{"epochs": "{:.3g}", "best epoch": "{:.3g}", "density": "{:.4f}"},
}


def show(frame: pd.DataFrame | pd.Series, **formats: str) -> pd.DataFrame:
    """A table as a reader should see it.

    Args:
        frame: Numbers and words; a series is a table of one column.
        formats: Format of a column, by its name, such as ``mse="{:.2f}"``.

    Returns:
        A frame of strings, whose columns and rows have display names; rows that are only numbered
        have none.
    """
    import pandas as pd

    frame = frame if frame.ndim == 2 else frame.to_frame()
    shown = frame.astype(object).copy()
    for column in frame.columns:
        patterns = [formats.get(str(column), _FORMATS.get(column))] * len(frame)
        if column == "metric" and "name" in frame:  # each in the form of its measure
            patterns = [_FORMATS.get(name) for name in frame["name"]]
        shown[column] = [_cell(*pair) for pair in zip(frame[column], patterns, strict=True)]
    numbered = isinstance(frame.index, pd.RangeIndex)
    shown.index = [""] * len(frame) if numbered else [_word(label) for label in frame.index]
    return shown.rename(columns=lambda name: _COLUMNS.get(name, _word(name)))


def _word(value: object) -> object:
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _cell(value: object, pattern: str | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if float(value).is_integer() and (pattern is None or "3g" in pattern):
        return f"{int(value):,}"
    return (pattern or "{:.4g}").format(value)
