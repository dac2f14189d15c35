"""Every page of the built book in a real browser, on a desk and on a phone, light and dark."""

import shutil
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(HTML))
    for folder in ("book", "notebooks")
    for path in (HTML / folder).rglob("*.html")
)
SCREENS = {"desk": 1280, "phone": 390}
# The theme declares this name twice on every page; it does no harm.
ALLOWED = ("Identifier 'THEBE_JS_URL' has already been declared",)


@cache
def browser_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


pytestmark = [
    pytest.mark.skipif(not PAGES, reason="no built book: run `make book`"),
    pytest.mark.skipif(browser_path() is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # no sandbox: CI runs as root; the pages are our own
        chromium = playwright.chromium.launch(
            executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page(browser, name, screen, scheme):
    page = browser.new_page(viewport={"width": SCREENS[screen], "height": 900}, color_scheme=scheme)
    page.add_init_script(f"localStorage.mode = localStorage.theme = '{scheme}'")
    errors, requests = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    page.on("request", lambda request: requests.append(request.url))
    page.route(lambda url: urlsplit(url).scheme.startswith("http"), lambda route: route.abort())
    try:
        page.goto((HTML / name).as_uri(), wait_until="load")
        page.evaluate(
            "window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1"
        )
        seen = page.evaluate(
            """() => ({
                theme: document.documentElement.dataset.theme,
                math: document.querySelectorAll('.math').length,
                typeset: document.querySelectorAll('mjx-container').length,
                broken: document.querySelectorAll('mjx-merror').length,
                lost: [...document.images].filter(i => {
                    i.loading = 'eager'; return i.complete && !i.naturalWidth
                }).map(i => i.src),
                pending: [...document.images].filter(i => !i.complete).length,
                width: document.scrollingElement.scrollWidth,
            })"""
        )
    finally:
        page.close()
    assert seen["theme"] == scheme
    assert seen["typeset"] >= seen["math"]
    assert seen["broken"] == 0
    assert (seen["lost"], seen["pending"]) == ([], 0)
    assert seen["width"] <= SCREENS[screen], "the page scrolls sideways"
    assert [error for error in errors if not error.endswith(ALLOWED)] == []
    assert [url for url in requests if urlsplit(url).scheme not in ("file", "data", "blob")] == []
