"""Every page of the built book by the rules of axe, light and dark."""

import pytest
from browsing import PAGES, ROOT, needs_book, needs_browser

pytestmark = [needs_book, needs_browser]


SETTLE = """async theme => {
    document.documentElement.dataset.theme = theme;
    await document.fonts.ready;
    for (let frame = 0; frame < 4; frame++) await new Promise(requestAnimationFrame);
}"""
AXE = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations.map(
    found => [found.id, found.nodes.map(node => node.target.join(' '))])"""


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page_is_accessible_in_both_themes(browser, site, name):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{site}/{name}", wait_until="load")
    page.add_script_tag(path=ROOT / "tests" / "axe" / "axe.min.js")
    page.add_style_tag(content="* { transition: none !important; }")
    found = {}
    try:
        for theme in ("light", "dark"):
            page.evaluate(SETTLE, theme)
            found[theme] = [(rule, len(nodes), nodes[:3]) for rule, nodes in page.evaluate(AXE)]
    finally:
        page.close()
    assert found == {"light": [], "dark": []}
