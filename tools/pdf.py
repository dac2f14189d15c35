"""The book as one PDF, for a release: the single page, printed by the browser (minutes).

python tools/pdf.py [PATH]   builds the single page and prints it to PATH (default _build/book.pdf)

Jupyter Book's own ``pdfhtml`` needs a browser of its own and prints what is folded as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
SETTLE = """async () => {
    for (const image of document.images) image.loading = 'eager';
    for (const folded of document.querySelectorAll('details')) folded.open = true;
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
    document.body.getBoundingClientRect(); // a layout asks for the fonts
    await document.fonts.ready;
}"""
MARGINS = dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
FOOTER = (
    '<div style="width: 100%; font: 8pt sans-serif; text-align: center">'
    '<span class="pageNumber"></span></div>'
)
LIMIT = 900_000  # milliseconds; the whole book takes minutes


@cache
def browser_path() -> str | None:
    """A Chromium on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """That Chromium, running."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # no sandbox: CI runs as root; the pages are our own
        browser = playwright.chromium.launch(
            executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def printed(page: Path, pdf: Path) -> Path:
    """Print one HTML file, with its fonts and pictures there and everything folded open.

    Args:
        page: The file.
        pdf: Where the PDF goes; its folder must exist.

    Raises:
        FileNotFoundError: There is no Chromium.
    """
    if browser_path() is None:
        raise FileNotFoundError("printing needs Chromium, and none is installed")
    with chromium() as browser:
        opened = browser.new_page()
        opened.set_default_timeout(LIMIT)
        opened.goto(page.resolve().as_uri(), wait_until="load")
        opened.evaluate(SETTLE)
        opened.emulate_media(media="print")
        opened.pdf(
            path=pdf,
            format="A4",
            margin=MARGINS,
            print_background=True,
            tagged=True,
            outline=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
        )
    return pdf


def main(arguments: list[str]) -> int:
    pdf = Path(arguments[0]) if arguments else ROOT / "_build" / "book.pdf"
    pdf.parent.mkdir(parents=True, exist_ok=True)
    built = ROOT / "_build" / "singlehtml"
    page = built / "book.html"
    page.unlink(missing_ok=True)
    command = ["jupyter-book", "build", str(ROOT), "--builder", "singlehtml", "-q"]
    subprocess.run([str(Path(sys.executable).with_name(command[0])), *command[1:]], check=True)
    # the addresses in it are those of the top folder, wherever the builder puts it
    shutil.copy(max(built.rglob("*.html"), key=lambda path: path.stat().st_size), page)
    print(f"{printed(page, pdf)}: {pdf.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
