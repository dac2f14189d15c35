"""What the tests of pages in a browser share."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
from pdf import browser_path, chromium  # noqa: E402, F401

HTML = ROOT / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(HTML))
    for folder in ("book", "notebooks")
    for path in (HTML / folder).rglob("*.html")
)


needs_book = pytest.mark.skipif(not PAGES, reason="no built book: run `make book`")
needs_browser = pytest.mark.skipif(browser_path() is None, reason="chromium is not installed")
