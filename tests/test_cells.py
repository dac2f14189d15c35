"""What a reader sees of a cell fits its box on a laptop, and names things in words."""

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLUMNS = 74  # of a code box on a screen of 1280 pixels
HIDDEN = {"remove-cell", "remove-input"}
RAW = re.compile(r"\bNaN\b|\bnan\b|dtype: |-0\.0+\b(?!\d)|<[\w.]+ object at|\{'[\w-]+': ")


def texts(cell):
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if output.output_type == "stream":
            yield output.text
        elif not any(kind in data for kind in ("image/png", "text/latex", "text/markdown")):
            yield data.get("text/html") or data.get("text/plain", "")


def wide_lines(notebook):
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tags = set(cell.metadata.get("tags", []))
        lines = [] if tags & HIDDEN else cell.source.split("\n")
        if "remove-output" not in tags:
            lines += [line for t in texts(cell) if not t.startswith("<") for line in t.split("\n")]
        found += [line for line in lines if len(line) > COLUMNS]
    return found


def raw_outputs(notebook):
    return [
        match[0]
        for cell in notebook.cells
        if cell.cell_type == "code" and "remove-output" not in cell.metadata.get("tags", [])
        for text in texts(cell)
        for match in RAW.finditer(text)
    ]


def tables_that_do_not_show(notebook):
    """Tables before the last line of a cell: Jupyter shows the value of that line alone."""
    return [
        ast.unparse(line)
        for cell in notebook.cells
        if cell.cell_type == "code" and "colab-setup" not in cell.metadata.get("tags", [])
        for line in ast.parse(cell.source).body[:-1]
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
        if ast.unparse(line.value.func) in ("show", "Table", "Markdown")
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("find", [wide_lines, raw_outputs, tables_that_do_not_show])
def test_cells_are_for_reading(path, find):
    assert find(nbformat.read(path, as_version=4)) == []


def test_half_of_all_cells_are_shorter_than_ten_lines():
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    lengths = [
        len(cell.source.split("\n"))
        for cell in cells
        if cell.cell_type == "code" and "colab-setup" not in cell.metadata.get("tags", [])
    ]
    assert median(lengths) < 10


def test_both_faults_are_found():
    cell = nbformat.v4.new_code_cell("x" * 75)
    cell.outputs = [nbformat.v4.new_output("stream", text="loss    NaN\n")]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert wide_lines(notebook) == ["x" * 75]
    assert raw_outputs(notebook) == ["NaN"]
