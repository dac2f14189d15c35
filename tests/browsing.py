"""What the tests of pages in a browser share."""

import shutil
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(HTML))
    for folder in ("book", "notebooks")
    for path in (HTML / folder).rglob("*.html")
)


@cache
def browser_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


needs_book = pytest.mark.skipif(not PAGES, reason="no built book: run `make book`")
needs_browser = pytest.mark.skipif(browser_path() is None, reason="chromium is not installed")
