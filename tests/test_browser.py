"""Every page of the built book in a real browser, on a desk and on a phone, light and dark."""

import pytest
from browsing import PAGES, needs_book, needs_browser

SCREENS = {"desk": 1280, "phone": 390}
# The theme declares this name twice on every page; it does no harm.
ALLOWED = ("Identifier 'THEBE_JS_URL' has already been declared",)
pytestmark = [needs_book, needs_browser]


LOOK = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    const images = [...document.querySelectorAll('article img')];
    for (const image of images) image.loading = 'eager';
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    return {
        math: document.querySelectorAll('.math').length,
        typeset: document.querySelectorAll('mjx-container').length,
        wrong: document.querySelectorAll('mjx-merror').length,
        lost: images.filter(image => !image.naturalWidth).map(image => image.src),
        width: document.scrollingElement.scrollWidth,
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
    assert [error for error in errors if not error.endswith(ALLOWED)] == []
    assert seen["typeset"] == seen["math"]
    assert seen["wrong"] == 0
    assert seen["lost"] == []
    assert seen["width"] <= SCREENS[screen], "the page scrolls sideways"
    # Pictures are transparent; a box behind them would glare on the dark page.
    for colours in behind_pictures.values():
        assert colours <= {"rgba(0, 0, 0, 0)"}
