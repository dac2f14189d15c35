"""Tables show names, units and aligned numbers, never a raw key, NaN or repr."""

import math

import numpy as np
import pytest
from bs4 import BeautifulSoup

from sparsemat.tables import Table, mean_and_spread, number

ROWS = [
    {"n": "plain", "time": 12.34567, "size": 786432, "note": "a < b"},
    {"n": "tied", "time": float("nan"), "size": np.int64(68719476736), "note": "c"},
]
COLUMNS = {"n": "network", "time": "time, ms", "size": "parameters", "note": "note"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\u2013"),
        (math.nan, "\u2013"),
        (-0.00001, "\u22121\u00b710⁻⁵"),
        (-0.0, "0"),
        (0.12345, "0.1235"),
        (0.9999999, "1.000"),  # rounded; one is one
        (1.0, "1"),
        (1.35002, "1.350"),
        (999.96, "1000"),
        (4.3901e-6, "4.390\u00b710⁻⁶"),
        (1234567, "1\u202f234\u202f567"),
        (-5, "\u22125"),
        (2500.0, "2\u202f500"),
        (1.5e12, "1.5\u00b710¹²"),
        (math.inf, "\u221e"),
        (np.float32(2.5), "2.5"),
        (True, "True"),
        ("tied", "tied"),
    ],
    ids=repr,
)
def test_numbers(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        pytest.param(1000.04, 5, "1\u202f000.0", id="rounded to a whole number"),
        pytest.param(-1234.5004, 6, "\u22121\u202f234.50", id="rounded to a tenth"),
        pytest.param(1234567.891234, 12, "1\u202f234\u202f567.89123", id="more than ten digits"),
        pytest.param(1234.5, 6, "1\u202f234.5", id="exact"),
        pytest.param(98765.4, 5, "98\u202f765", id="no digit after the point"),
    ],
)
def test_large_numbers_show_all_their_digits(value, digits, shown):
    assert number(value, digits) == shown


def test_a_table_has_caption_scopes_headings_and_alignment():
    soup = BeautifulSoup(Table(ROWS, COLUMNS, caption="Runs.")._repr_html_(), "html.parser")
    assert soup.caption.text == "Runs."
    heads = soup.thead.find_all("th")
    assert [h.text for h in heads] == list(COLUMNS.values())
    assert {h["scope"] for h in heads} == {"col"}
    assert [h.get("class") for h in heads] == [None, ["number"], ["number"], None]
    assert [h.text for h in soup.tbody.find_all("th", scope="row")] == ["plain", "tied"]
    cells = [c.text for c in soup.tbody.find_all("td")]
    assert cells[:3] == ["12.35", "786\u202f432", "a < b"]
    assert cells[3] == "\u2013"
    assert soup.tbody.td["data-label"] == "time, ms"


def test_a_terminal_shows_text():
    lines = repr(Table(ROWS, COLUMNS, caption="Runs.", digits={"time": 2})).split("\n")
    assert lines[0] == "Runs."
    assert lines[1].split("  ")[0] == "network"
    assert "12 " in lines[2]


def test_a_format_replaces_the_digits_of_floats():
    table = Table(ROWS, COLUMNS, caption="Runs.", formats={"time": "{:+.1f}", "size": "{:.1f}"})
    assert [cells[1:3] for cells in table.cells()] == [
        ["+12.3", "786\u202f432"],
        ["\u2013", "68\u202f719\u202f476\u202f736"],
    ]
    small = Table([{"gap": -1.5e-7}, {"gap": -1e-9}], {"gap": "gap"}, caption="Gaps.")
    small.formats["gap"] = "{:+.2g}"
    assert small.cells() == [["\u22121.5\u00b710⁻⁷"], ["\u22121\u00b710⁻⁹"]]


def test_only_the_heading_of_the_first_column_may_be_empty():
    soup = BeautifulSoup(
        Table(ROWS, COLUMNS | {"n": ""}, caption="Runs.")._repr_html_(), "html.parser"
    )
    assert soup.thead.td.text == "" and len(soup.thead.find_all("th")) == 3
    with pytest.raises(ValueError, match="every column needs a heading"):
        Table(ROWS, COLUMNS | {"time": " "}, caption="Runs.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": " "}, "needs a caption"),
        ({"columns": {"x": "x"}}, "must have all columns"),
    ],
)
def test_what_readers_would_miss_is_refused(change, message):
    given = {"rows": ROWS, "columns": COLUMNS, "caption": "c"} | change
    with pytest.raises(ValueError, match=message):
        Table(**given)


def test_mean_and_spread():
    assert mean_and_spread([1.0, 3.0]) == "2 \u00b1 1.4"
    assert mean_and_spread([1.25]) == "1.25"
    assert mean_and_spread([]) == "\u2013"
