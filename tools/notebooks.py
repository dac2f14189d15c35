"""Keep book/NAME.md and notebooks/NAME.ipynb honest.

check            compare both halves and the stored outputs; writes nothing, exit 1 with a list
execute [NAME]   run book/NAME.md (all pages without NAME) into notebooks/NAME.ipynb, reproducibly,
                 inserting or refreshing the Colab setup cell in the text;
                 with --record, how long it took goes to results/chapters.json
export           write the prose of all notebooks again: numbers and titles of other pages that
                 they refer to may have changed; runs nothing
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import run_times
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from pictures import shrink
from publish import address, site, write
from readable import Book
from stored_outputs import with_outputs

ROOT = Path(__file__).resolve().parent.parent
BOOK, NOTEBOOKS = ROOT / "book", ROOT / "notebooks"
MAX_BYTES = 300_000
HERO = BOOK / "_static" / "hero.png"  # the front page's picture, for the README
KEPT = ("tags", "mystnb")  # cell metadata that both halves carry
METADATA = {
    "jupytext": {"text_representation": {"extension": ".md", "format_name": "myst"}},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    # jupytext writes `{code-cell} ipython3` only where this lexer is named
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
SETUP = """```{{code-cell}} ipython3
:tags: [colab-setup, remove-cell]

# In Colab: fetch the book and install its library; torch stays as it is.
import sys
from pathlib import Path

if "google.colab" in sys.modules and not Path("../sparsemat").is_dir():
    !test -d matrix-book || git clone -q --depth 1 {address} matrix-book
    %pip install -q --no-deps ./matrix-book z3-solver lightning-fabric lightning-utilities pooch
    %cd -q matrix-book/notebooks
```
"""
SETUP_BLOCK = re.compile(r"```\{code-cell\} ipython3\n:tags: \[colab-setup.*?\n```\n", re.DOTALL)
UNSTABLE = re.compile(r"0x[0-9a-f]{6,}|/(?:tmp|home|root|Users)/\S+")


def book() -> Book:
    return Book(ROOT, site(address(ROOT)))


def setup_block() -> str:
    return SETUP.format(address=address(ROOT))


def with_setup_cell(text: str) -> str:
    """The page with the setup cell refreshed, or inserted before its first code cell."""
    block = setup_block()
    if SETUP_BLOCK.search(text):
        return SETUP_BLOCK.sub(lambda _: block, text, count=1)
    first = re.search(r"^```\{code-cell\}", text, re.MULTILINE)
    return text if first is None else f"{text[: first.start()]}{block}\n{text[first.start() :]}"


def is_page(path: Path) -> bool:
    """Whether a Markdown file is the text half of a notebook."""
    return path.read_text().startswith("---\njupytext:")


def names() -> list[str]:
    texts = {path.stem for path in BOOK.glob("*.md") if is_page(path)}
    return sorted(texts | {path.stem for path in NOTEBOOKS.glob("*.ipynb")})


def read_text(text: str) -> nbformat.NotebookNode:
    return jupytext.reads(text, fmt="md:myst")


def form(cell: nbformat.NotebookNode) -> tuple:
    """What both halves of a pair must agree on."""
    kept = {key: cell.metadata[key] for key in KEPT if cell.metadata.get(key)}
    return cell.cell_type, cell.source, kept


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def plain(outputs: list) -> str:
    """All text in the outputs of a cell."""
    parts = []
    for output in outputs:
        data = output.get("data", {})
        parts += [output.get("text", "")] + [v for k, v in data.items() if k.startswith("text/")]
    return "\n".join(parts)


def output_problems(cell: nbformat.NotebookNode) -> list[str]:
    found = []
    for output in cell.outputs:
        if output.output_type == "error" and "raises-exception" not in tags(cell):
            found.append(f"stores the error {output.ename}: {output.evalue}")
        if output.get("name") == "stderr" and "remove-stderr" not in tags(cell):
            found.append(f"wrote to stderr: {output.text.strip()[:200]}")
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
            found.append("stores a widget; use `from tqdm import tqdm`")
    if unstable := UNSTABLE.search(plain(cell.outputs)):
        found.append(f"prints an address or a path of this machine: {unstable.group()}")
    return found


def notebook_problems(name: str, notebook: nbformat.NotebookNode) -> list[str]:
    found = []
    if notebook.metadata != METADATA:
        found.append("has stray notebook metadata")
    count = 0
    for number, cell in enumerate(notebook.cells):
        where = (
            f"cell {number} ({cell.source.strip().splitlines()[0][:60]!r})"
            if (cell.source.strip())
            else f"cell {number}"
        )
        if not cell.source.strip():
            found.append(f"{where} is empty")
        if cell.id != f"{name}-{number:02d}":
            found.append(f"{where} has the id {cell.id}, not {name}-{number:02d}")
        if stray := set(cell.metadata) - set(KEPT):
            found.append(f"{where} has stray metadata: {', '.join(sorted(stray))}")
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count is None:
            found.append(f"{where} was never executed")
        elif cell.execution_count != count:
            found.append(f"{where} ran as number {cell.execution_count}, not as {count}")
        found += [f"{where} {problem}" for problem in output_problems(cell)]
    return found


def pair_problems(name: str, pages: Book) -> list[str]:
    """Everything wrong with one pair, in words."""
    text_path, notebook_path = BOOK / f"{name}.md", NOTEBOOKS / f"{name}.ipynb"
    if not text_path.exists():
        return [f"book/{name}.md is missing"]
    if not is_page(text_path):
        return [f"book/{name}.md lacks the jupytext header"]
    if not notebook_path.exists():
        return [f"notebooks/{name}.ipynb is missing: execute it"]
    text = text_path.read_text()
    found = []
    if with_setup_cell(text) != text:
        found.append("the Colab setup cell is missing or stale: execute it")
    if (size := notebook_path.stat().st_size) > MAX_BYTES:
        found.append(f"the notebook has {size} bytes, more than {MAX_BYTES}")
    notebook = nbformat.read(notebook_path, as_version=4)
    found += notebook_problems(name, notebook)
    found += differences(pages.cells(read_text(text).cells), notebook.cells)
    return found


def differences(ours: list, theirs: list) -> list[str]:
    """The first cell in which a notebook is not what its text says."""
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if form(a) != form(b):
            same = [x == y for x, y in zip(form(a), form(b), strict=True)]
            part = ("type", "source", "metadata")[same.index(False)]
            remedy = "export" if a.cell_type == b.cell_type == "markdown" else "execute it"
            return [f"cell {number} differs between text and notebook in its {part}: {remedy}"]
    if len(ours) != len(theirs):
        return [f"the text has {len(ours)} cells, the notebook {len(theirs)}: execute it"]
    return []


def hero() -> bytes:
    """The first picture of the front page."""
    notebook = nbformat.read(NOTEBOOKS / "index.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    images = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    return base64.b64decode(images[0])


def check() -> int:
    pages = book()
    problems = [f"{name}: {problem}" for name in names() for problem in pair_problems(name, pages)]
    if "index" in names() and not (HERO.exists() and HERO.read_bytes() == hero()):
        problems.append("book/_static/hero.png is not the front page's picture: execute index")
    print("\n".join(problems) or f"{len(names())} pairs agree and were run in order", flush=True)
    return 1 if problems else 0


def clean_outputs(outputs: list) -> list:
    """Outputs without what differs from run to run, their pictures small."""
    for output in outputs:
        shrink(output)
        if output.output_type == "error":
            output.traceback = [f"{output.ename}: {output.evalue}"]
        if "metadata" in output:
            kept = {key: value for key, value in output.metadata.items() if "/" in key}
            output.metadata = nbformat.from_dict(kept)
    return outputs


def assemble(name: str, cells: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """A notebook of these cells, with nothing in it that differs from run to run."""
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict(
            {k: cell.metadata[k] for k in KEPT if k in cell.metadata}
        )
        cell.id = f"{name}-{number:02d}"
    return notebook


def run(name: str, text: str) -> nbformat.NotebookNode:
    """The page executed in notebooks/, where nbval runs it too.

    Raises:
        ValueError: if a cell fails or writes to stderr; nothing has been written then.
    """
    notebook = assemble(name, book().cells(read_text(text).cells))
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise ValueError(f"{name}: a cell failed\n{error}") from None
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = clean_outputs(cell.outputs)
    if problems := notebook_problems(name, notebook):
        raise ValueError("\n".join(f"{name}: {problem}" for problem in problems))
    return notebook


def execute(chosen: list[str], record: bool = False) -> int:
    failed = 0
    for name in chosen or names():
        path = BOOK / f"{name}.md"
        if not path.exists() or not is_page(path):
            print(
                f"{name}: book/{name}.md is missing or lacks the jupytext header", file=sys.stderr
            )
            failed = 1
            continue
        before = path.read_text()
        text = with_setup_cell(before)
        began = time.monotonic()
        try:
            notebook = run(name, text)
        except ValueError as error:
            print(error, file=sys.stderr)
            failed = 1
            continue
        seconds = time.monotonic() - began
        if path.read_text() != before:
            print(f"{name}: book/{name}.md was edited while it ran: run again", file=sys.stderr)
            failed = 1
            continue
        write(path, text)
        store(name, notebook)
        if name == "index":
            HERO.write_bytes(hero())
        if record:
            run_times.record(ROOT, name, seconds)
        print(f"{name}: executed", flush=True)
    return failed


def export() -> int:
    """Write the prose of every notebook again; what its cells printed stays."""
    pages, failed = book(), 0
    for name in names():
        text_path, path = BOOK / f"{name}.md", NOTEBOOKS / f"{name}.ipynb"
        if not (text_path.exists() and path.exists()):
            continue
        text = with_setup_cell(text_path.read_text())
        stored = nbformat.read(path, as_version=4)
        for cell in stored.cells:  # the setup cell does nothing outside Colab, and prints nothing
            if "colab-setup" in tags(cell):
                cell.source = read_text(setup_block()).cells[0].source
        try:
            page = with_outputs(text, stored)
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
            continue
        write(text_path, text)
        store(name, assemble(name, pages.cells(page.cells)))
    return failed


def store(name: str, notebook: nbformat.NotebookNode) -> None:
    write(NOTEBOOKS / f"{name}.ipynb", nbformat.writes(notebook).rstrip("\n") + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    executing = commands.add_parser("execute")
    executing.add_argument("names", nargs="*", metavar="NAME")
    executing.add_argument("--record", action="store_true")
    commands.add_parser("export")
    options = parser.parse_args(arguments)
    if options.command == "check":
        return check()
    if options.command == "execute":
        return execute(options.names, options.record)
    return export()


if __name__ == "__main__":
    sys.exit(main())
