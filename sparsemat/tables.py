"""Tables for the book: display names, units, aligned numbers and a caption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isclose, isfinite
from numbers import Integral, Real

NOTHING = "\u2013"  # shown for None and NaN
CARDS = 3  # columns from which on a phone shows each row as a card


class Table:
    """A table that notebooks and pages show as HTML and a terminal as text.

    Args:
        rows: One mapping a row, from column key to value; a DataFrame's ``to_dict("records")``.
        columns: Column keys, in their order, to the headings that readers see, with units. That of
            the first column may be empty where the caption says what the rows are.
        caption: What the table shows, one sentence; plain text.
        digits: Significant digits of floating-point numbers, for all columns or by key.
        formats: Format strings by key, such as ``"{:+.2f}"``, for floats in place of digits.

    Numbers are aligned right, with thousands separated and a true minus sign; None and NaN show as
    a dash. The first column heads its row. Wide tables become cards on a phone.

    Raises:
        ValueError: There is no caption, a heading is empty, or a row lacks a column.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, object]],
        columns: Mapping[str, str],
        *,
        caption: str,
        digits: int | Mapping[str, int] = 4,
        formats: Mapping[str, str] | None = None,
    ) -> None:
        self.columns, self.caption = dict(columns), caption.strip()
        if not self.caption:
            raise ValueError("a table needs a caption, got an empty one")
        if empty := [key for key, heading in list(self.columns.items())[1:] if not heading.strip()]:
            raise ValueError(f"every column needs a heading, got none for {empty}")
        self.rows = [dict(row) for row in rows]
        for row in self.rows:
            if missing := [key for key in self.columns if key not in row]:
                raise ValueError(
                    f"a row must have all columns, got {sorted(row)} without {missing}"
                )
        self.digits = dict.fromkeys(self.columns, digits) if isinstance(digits, int) else digits
        self.formats = dict(formats or {})

    def cells(self) -> list[list[str]]:
        """The rows as readers see them, without the headings."""
        return [[self._cell(key, row[key]) for key in self.columns] for row in self.rows]

    def _cell(self, key: str, value: object) -> str:
        fraction = isinstance(value, Real) and not isinstance(value, Integral)
        if key in self.formats and fraction and value == value:
            return _plain(self.formats[key].format(value))
        return number(value, self.digits.get(key, 4))

    def _repr_html_(self) -> str:
        numeric = [all(_is_number(row[key]) for row in self.rows) for key in self.columns]
        classes = [' class="number"' if right else "" for right in numeric]
        headings = list(self.columns.values())
        head = "".join(
            f'<th scope="col"{kind}>{escape(heading)}</th>' if heading.strip() else "<td></td>"
            for heading, kind in zip(headings, classes, strict=True)
        )
        cards = " cards" if len(self.columns) >= CARDS else ""
        lines = [
            f'<div class="table-scroll"><table class="results{cards}">',
            f"<caption>{escape(self.caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
        ]
        for cells in self.cells():
            first = f'<th scope="row"{classes[0]}>{escape(cells[0])}</th>'
            rest = "".join(
                f'<td{kind} data-label="{escape(heading)}">{escape(cell)}</td>'
                for cell, kind, heading in zip(cells[1:], classes[1:], headings[1:], strict=True)
            )
            lines.append(f"<tr>{first}{rest}</tr>")
        return "\n".join([*lines, "</tbody></table></div>"])

    def __repr__(self) -> str:
        grid = [list(self.columns.values()), *self.cells()]
        widths = [max(len(line[k]) for line in grid) for k in range(len(self.columns))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in grid]
        return "\n".join([self.caption, *(line.rstrip() for line in lines)])


def number(value: object, digits: int = 4) -> str:
    """A value as a reader sees it.

    Args:
        value: A number, text, or None.
        digits: Significant digits of a floating-point number.

    Returns:
        Text with thousands separated by thin spaces, exponents as powers of ten, no negative
        zero, and a dash for None and NaN.
    """
    if value is None or (isinstance(value, Real) and value != value):
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}".replace(",", "\u202f").replace("-", "\u2212")
    value = float(value)
    if not isfinite(value):
        return "\u221e" if value > 0 else "\u2212\u221e"
    text = f"{value:.{digits}g}"
    if float(text) == 0:
        return "0"
    if not isclose(float(text), value, rel_tol=1e-12):
        text = f"{value:#.{digits}g}".rstrip(".")  # a rounded number shows all its digits
    if "e" not in text and abs(value) >= 1000:
        whole, point, rest = text.partition(".")
        text = f"{int(whole):,}{point}{rest}"
    return _plain(text)


def _plain(text: str) -> str:
    """A formatted number with a power of ten, thin spaces and a true minus sign."""
    mantissa, exponent, power = text.partition("e")
    if exponent:
        text = f"{mantissa}\u00b710{str(int(power)).translate(SUPERSCRIPT)}"
    elif set(text) <= set("-+0.,"):
        text = text.lstrip("-+")  # no negative zero
    return text.replace(",", "\u202f").replace("-", "\u2212")


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def mean_and_spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean and sample standard deviation of several runs, or the only value."""
    if not values:
        return NOTHING
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean, digits)
    spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return f"{number(mean, digits)} \u00b1 {number(spread, 2)}"
