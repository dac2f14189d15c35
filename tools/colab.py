"""Run notebooks as Colab would: a lone file, `google.colab` loaded, the book cloned by a cell.

NAME...   which notebooks; all of them without a name

The clone is one of this repository, and packages go to a folder that is thrown away; the rest is
the cell that readers run. Its first cell runs twice, as readers run it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from publish import ROOT, address

LOADED = "import google.colab  # as in Colab, before the first cell\n"
ASK = "import os, sparsemat; print(os.getcwd()); print(sparsemat.__file__)"


def environment(folder: Path) -> dict[str, str]:
    """Variables under which a kernel takes itself for Colab, and git the clone from here."""
    modules = folder / "modules"
    (modules / "google" / "colab").mkdir(parents=True)
    for package in ("google", "google/colab"):
        (modules / package / "__init__.py").write_text("")
    (modules / "sitecustomize.py").write_text(LOADED)
    packages = folder / "packages"
    packages.mkdir()  # a folder that is missing when Python starts is never looked into
    return {
        "PYTHONPATH": os.pathsep.join([str(packages), str(modules)]),
        "PIP_TARGET": str(packages),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address(),
    }


def run(name: str) -> None:
    """Run one notebook.

    Raises:
        RuntimeError: A cell failed, or the library or the folder is not that of the clone.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        (folder / "content").mkdir()
        os.environ.update(environment(folder))
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        notebook.cells = [code[0], *code, nbformat.v4.new_code_cell(ASK)]
        client = NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder / "content")}},
        )
        client.execute()
        here, library = notebook.cells[-1].outputs[0].text.split()
        if here != str(folder / "content" / "matrix-book" / "notebooks"):
            raise RuntimeError(f"{name} ended in {here}")
        if not library.startswith(str(folder / "packages")):
            raise RuntimeError(f"{name} imported {library}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names
    names = names or sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    failed = []
    for name in names:
        try:
            run(name)
        except RuntimeError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print(f"{name}: ran", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
