"""Every page of the built book by the rules of axe, light and dark."""

import pytest
from browsing import PAGES, ROOT, needs_book, needs_browser

pytestmark = [needs_book, needs_browser]


SETTLE = """async theme => {
    document.documentElement.dataset.theme = theme;
    await document.fonts.ready;
    for (let frame = 0; frame < 4; frame++) await new Promise(requestAnimationFrame);
}"""
# A formula has thousands of spans. All have the colour of the text around, so one is left for each.
FORMULAS_OF_ANOTHER_COLOUR = """() => {
    const colour = node => getComputedStyle(node).color;
    const differs = span => colour(span) !== colour(span.closest('.katex').parentElement);
    return [...document.querySelectorAll('.katex-html *')].filter(differs).length;
}"""
SHORTEN_FORMULAS = """() => {
    for (const formula of document.querySelectorAll('.katex-html')) formula.textContent = 'x';
}"""
AXE = """async rules => (await axe.run(
    document, {resultTypes: ['violations'], ...rules})).violations.map(
    found => [found.id, found.nodes.map(node => node.target.join(' '))])"""
# The themes differ in their colours alone.
RULES = {"light": {}, "dark": {"runOnly": ["color-contrast", "link-in-text-block"]}}


@pytest.mark.parametrize("name", PAGES or ["none"])
def test_page_is_accessible_in_both_themes(browser, site, name):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{site}/{name}", wait_until="load")
    page.add_script_tag(path=ROOT / "tests" / "axe" / "axe.min.js")
    page.add_style_tag(content="* { transition: none !important; }")
    found = {}
    try:
        for theme in RULES:
            page.evaluate(SETTLE, theme)
            assert page.evaluate(FORMULAS_OF_ANOTHER_COLOUR) == 0
        page.evaluate(SHORTEN_FORMULAS)
        for theme, rules in RULES.items():
            page.evaluate(SETTLE, theme)
            violations = page.evaluate(AXE, rules)
            found[theme] = [(rule, len(nodes), nodes[:3]) for rule, nodes in violations]
    finally:
        page.close()
    assert found == {"light": [], "dark": []}
