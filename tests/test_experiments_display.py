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
        ("parameters", 29178, "29,178"),
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
    assert show(frame).iloc[0, 0] == expected


def test_rows_and_columns_have_display_names():
    frame = pd.DataFrame({"accuracy": [1.0], "peak MiB": [2.0]}, index=["native-linear"])
    shown = show(frame)
    assert list(shown.columns) == ["accuracy in %", "peak memory in MiB"]
    assert list(shown.index) == ["native, linear"]
    assert frame.columns[0] == "accuracy"  # the table itself is as it was


def test_a_format_may_be_chosen_and_a_series_is_a_table():
    assert show(pd.Series([0.5], name="mse"), mse="{:.1f}").iloc[0, 0] == "0.5"
