"""Tables for readers: names, formats and dashes."""

import numpy as np
import pandas as pd
import pytest

from sparsemat.experiments.configurations import EXPERIMENTS
from sparsemat.experiments.display import EXPERIMENTS as NAMES
from sparsemat.experiments.display import show


def test_every_experiment_has_a_name_in_the_order_of_the_book():
    assert list(NAMES) == list(EXPERIMENTS)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("accuracy", 99.456, "99.46"),
        ("mse", 0.12345, "0.1235"),
        ("difference", 0.00123, "+0.00123"),
        ("parameters", 29178, "29\u202f178"),
        ("parameters", 29178.0, "29\u202f178"),
        ("epochs", 12.0, "12"),
        ("epochs", 12.333, "12.3"),
        ("paper", np.nan, "\N{EN DASH}"),
        ("needed", None, "\N{EN DASH}"),
        ("noticed", True, "yes"),
        ("noticed", np.False_, "no"),
        ("variant", "tied-linear", "tied, linear"),
    ],
)
def test_a_cell_is_formatted(column, value, expected):
    frame = pd.DataFrame({column: pd.Series([value], dtype=object)})
    assert show(frame, "c").cells() == [[expected]]


def test_rows_and_columns_have_display_names():
    frame = pd.DataFrame({"accuracy": [1.0], "peak MiB": [2.0]}, index=["native-linear"])
    shown = show(frame, "What runs cost.")
    assert list(shown.columns.values()) == ["", "accuracy in %", "peak memory in MiB"]
    assert shown.cells() == [["native, linear", "1.00", "2"]]
    assert shown.caption == "What runs cost."
    assert frame.columns[0] == "accuracy"  # the table itself is as it was


def test_a_format_may_be_chosen_and_a_series_is_a_table():
    assert show(pd.Series([0.5], name="mse"), "c", mse="{:.1f}").cells() == [["0.5"]]


def test_the_name_of_the_index_heads_the_rows_and_a_result_has_the_form_of_its_measure():
    frame = pd.DataFrame({"name": ["accuracy", "mse"], "metric": [99.456, 0.12345]})
    frame.index = pd.Index(["mnist", "etth1"], name="experiment")
    shown = show(frame, "c")
    assert list(shown.columns.values()) == ["data set", "measure", "result"]
    assert shown.cells() == [
        ["MNIST", "accuracy in %", "99.46"],
        ["ETTh1", "mean squared error", "0.1235"],
    ]
