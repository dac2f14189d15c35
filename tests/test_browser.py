"""Every page of the built book in a real browser, on a desk and on a phone, light and dark."""

import gzip
from urllib.parse import unquote, urlsplit

import pytest
from browsing import HTML, PAGES, needs_book, needs_browser

SCREENS = {"desk": 1280, "phone": 390}
pytestmark = [needs_book, needs_browser]


LOOK = """async () => {
    const images = [...document.querySelectorAll('article img')];
    for (const image of images) image.loading = 'eager';
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    await document.fonts.ready;
    dispatchEvent(new Event('resize')); // a font that came late may have made something wide
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
    return {
        math: document.querySelectorAll('.math').length,
        typeset: document.querySelectorAll('.math .katex > .katex-html').length,
        read: document.querySelectorAll('.math .katex > .katex-mathml math').length,
        wrong: document.querySelectorAll('.katex-error').length,
        fonts: [...document.fonts].filter(font => font.status === 'error').map(font => font.family),
        lost: images.filter(image => !image.naturalWidth).map(image => image.src),
        width: document.scrollingElement.scrollWidth,
        unsaid: [...document.querySelectorAll('article :is(figure, pre, .table-scroll)')]
            .filter(box => box.scrollWidth > box.clientWidth + 1 && !box.matches('.scrolls')
                && getComputedStyle(box).overflowX !== 'visible')
            .map(box => box.textContent.trim().slice(0, 60)),
        cut: [...document.querySelectorAll('article .scrolls')].map(box => box.textContent.trim()),
        cards: [...document.querySelectorAll('article table.cards')]
            .filter(table => table.scrollWidth > table.parentElement.clientWidth + 1)
            .map(table => table.caption?.textContent ?? table.textContent.trim().slice(0, 60)),
    };
}"""
BOXES = """theme => {
    document.documentElement.dataset.theme = theme;
    const paint = element => getComputedStyle(element).backgroundColor;
    return [...document.querySelectorAll('article img')].map(paint);
}"""


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page(browser, site, name, screen):
    page = browser.new_page(viewport={"width": SCREENS[screen], "height": 900})
    errors, foreign = [], []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))

    def route(request):
        local = request.request.url.startswith((site, "data:", "blob:"))
        if local:
            request.continue_()
        else:
            foreign.append(request.request.url)
            request.abort()

    page.route("**/*", route)
    try:
        page.goto(f"{site}/{name}", wait_until="load")
        seen = page.evaluate(LOOK)
        behind_pictures = {theme: set(page.evaluate(BOXES, theme)) for theme in ("light", "dark")}
    finally:
        page.close()
    assert foreign == []
    assert errors == []
    assert seen["typeset"] == seen["read"] == seen["math"]
    assert seen["wrong"] == 0
    assert seen["fonts"] == []
    assert seen["lost"] == []
    assert seen["width"] <= SCREENS[screen], "the page scrolls sideways"
    assert seen["unsaid"] == [], "scrolls, and shows no hint"
    assert seen["cards"] == [], "columns or values that lie outside the screen"
    if screen == "desk":
        assert [text[:60] for text in seen["cut"]] == [], "wider than their boxes"
    # Pictures are transparent; a box behind them would glare on the dark page.
    for colours in behind_pictures.values():
        assert colours <= {"rgba(0, 0, 0, 0)"}


WEIGHT = 600_000  # bytes of a page with all that it loads, compressed as GitHub Pages does


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page_is_light(browser, site, name):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    loaded = set()
    page.on("request", lambda request: loaded.add(urlsplit(request.url).path))
    page.goto(f"{site}/{name}", wait_until="networkidle")
    page.close()
    files = [HTML / unquote(path).lstrip("/") for path in loaded]
    sizes = {
        path.name: len(gzip.compress(path.read_bytes(), 6)) for path in files if path.is_file()
    }
    assert sum(sizes.values()) <= WEIGHT, sorted(sizes.items(), key=lambda item: -item[1])[:5]
