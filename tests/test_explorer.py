"""The pattern explorer: its builders agree with the library's, and its page does what it says."""

import random
import re
from urllib.parse import parse_qsl

import pytest
from browsing import ROOT, needs_book, needs_browser

import sparsemat as sm

pytestmark = needs_browser
SETTINGS = 100  # of each kind


def sizes(draw, low, high, dims):
    """One number for all axes, or one an axis, as a reader would type it."""
    count = draw.choice([1, dims])
    return "x".join(str(draw.randint(low, high)) for _ in range(count))


def conv(draw, dims):
    padding = ["same", "valid", "0:1", sizes(draw, 0, 3, dims), sizes(draw, 0, 3, dims)]
    return {
        "size": sizes(draw, 1, 7 if dims == 2 else 14, dims),
        "kernel": sizes(draw, 1, 3 if dims == 2 else 5, dims),
        "in_channels": str(draw.choice([1, 1, 2, 4])),
        "out_channels": str(draw.choice([1, 1, 2, 4])),
        "groups": str(draw.choice([1, 1, 1, 2])),
        "stride": sizes(draw, 1, 3, dims),
        "padding": draw.choice(padding),
        "padding_mode": draw.choice(["zeros", "zeros", "circular", "reflect", "replicate"]),
        "dilation": sizes(draw, 1, 2, dims),
    }


def pool(draw):
    return {
        "channels": str(draw.randint(1, 3)),
        "size": sizes(draw, 1, 8, 2),
        "kernel": sizes(draw, 1, 4, 2),
        "stride": sizes(draw, 1, 4, 2),
        "padding": sizes(draw, 0, 2, 2),
        "ceil_mode": draw.choice(["no", "yes"]),
        "count_include_pad": draw.choice(["no", "yes"]),
    }


def recurrence(draw):
    return {name: str(draw.randint(0, 5)) for name in ("steps", "input_size", "hidden_size")}


def attention(draw):
    return {
        "tokens": str(draw.randint(0, 5)),
        "dim": str(draw.randint(1, 3)),
        "out_dim": str(draw.randint(0, 2)),
        "causal": draw.choice(["no", "yes"]),
        "window": draw.choice(["none", "0", "1", "2", "-1"]),
    }


DRAW = {
    "conv1d": lambda draw: conv(draw, 1),
    "conv2d": lambda draw: conv(draw, 2),
    "avgpool": pool,
    "recurrence_n": recurrence,
    "recurrence_b": recurrence,
    "attention": attention,
}


def numbers(text, dims):
    values = [int(part) for part in text.split("x")]
    return values * dims if len(values) == 1 else values


def by_library(state):
    """The pattern and the parameters that the library makes of a state, or its refusal."""
    kind, dims = state["kind"], 1 if state["kind"] == "conv1d" else 2
    theta = None
    if kind.startswith("conv"):
        padding = state["padding"]
        if ":" in padding:
            padding = [tuple(map(int, padding.split(":")))] * dims
        elif padding not in ("same", "valid"):
            padding = numbers(padding, dims)
        pattern = sm.conv_pattern(
            int(state["in_channels"]),
            int(state["out_channels"]),
            numbers(state["size"], dims),
            numbers(state["kernel"], dims),
            stride=numbers(state["stride"], dims),
            padding=padding,
            dilation=numbers(state["dilation"], dims),
            groups=int(state["groups"]),
            padding_mode=state["padding_mode"],
        )
    elif kind == "avgpool":
        pattern, theta = sm.avg_pool_pattern(
            int(state["channels"]),
            numbers(state["size"], 2),
            numbers(state["kernel"], 2),
            stride=numbers(state["stride"], 2),
            padding=numbers(state["padding"], 2),
            ceil_mode=state["ceil_mode"] == "yes",
            count_include_pad=state["count_include_pad"] == "yes",
        )
    elif kind == "attention":
        pattern = sm.attention_pattern(
            *(int(state[name]) for name in ("tokens", "dim", "out_dim")),
            causal=state["causal"] == "yes",
            window=None if state["window"] == "none" else int(state["window"]),
        )
    else:
        pair = sm.recurrence_patterns(
            *(int(state[name]) for name in ("steps", "input_size", "hidden_size"))
        )
        pattern = pair[0] if kind == "recurrence_n" else pair[1]
    return (pattern.untied() if state["untied"] == "yes" else pattern), theta


BUILD = """states => states.map(state => {
    try {
        const made = SparsePatterns.build(state);
        const {shape, row, col, index, count, theta} = made;
        return {shape, row, col, index, count, theta, facts: SparsePatterns.facts(made)};
    } catch (problem) {
        if (!(problem instanceof RangeError)) throw problem;
        return {refused: problem.message};
    }
})"""


@pytest.mark.parametrize("kind", DRAW)
def test_the_builders_agree_with_the_library(browser, kind):
    draw = random.Random(kind)
    states = [
        {"kind": kind, **DRAW[kind](draw), "untied": draw.choice(["no", "no", "yes"])}
        for _ in range(SETTINGS)
    ]
    page = browser.new_page()
    page.add_script_tag(path=ROOT / "book" / "_static" / "explorer" / "patterns.js")
    answers = page.evaluate(BUILD, states)
    page.close()
    built = 0
    for state, answer in zip(states, answers, strict=True):
        try:
            pattern, theta = by_library(state)
        except ValueError as error:
            assert "refused" in answer, f"{state}: the library says {error}"
            continue
        assert "refused" not in answer, f"{state}: {answer['refused']}"
        built += 1
        made = sm.Pattern(*(answer[name] for name in ("shape", "row", "col", "index", "count")))
        assert pattern.equals(made), state
        if theta is not None:
            assert answer["theta"] == pytest.approx(theta.tolist(), rel=1e-6), state
        facts = answer["facts"]
        assert facts["lower"] == pattern.lower_bandwidth, state
        assert facts["upper"] == pattern.upper_bandwidth, state
        assert facts["upperTriangular"] == pattern.is_upper_triangular, state
        assert facts["lowerTriangular"] == pattern.is_lower_triangular, state
        assert facts["cells"] == pattern.distinct().nnz, state
    assert built >= SETTINGS // 4, "nearly all settings were refused"


def test_every_case_that_a_page_links_to_can_be_built(browser):
    texts = "".join(path.read_text() for path in sorted((ROOT / "book").glob("*.md")))
    cases = re.findall(r"\{explorer\}`[^`<]*<([^>`]+)>`|:::\{explorer(?:-page)?\} (\S+)", texts)
    states = [dict(parse_qsl(a or b, strict_parsing=True)) for a, b in cases]
    page = browser.new_page()
    page.add_script_tag(path=ROOT / "book" / "_static" / "explorer" / "patterns.js")
    answers = page.evaluate(BUILD, states)
    known = page.evaluate(
        "kinds => kinds.map(SparsePatterns.defaults)", [s["kind"] for s in states]
    )
    page.close()
    assert len(states) > 25
    for state, answer, names in zip(states, answers, known, strict=True):
        assert "refused" not in answer, state
        assert answer["row"] and set(state) <= set(names), state


@pytest.fixture
def page(browser, site):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{site}/book/explorer.html?kind=conv1d&size=5&kernel=2", wait_until="load")
    yield page
    page.close()


@needs_book
def test_the_keyboard_reaches_neighbours_and_tied_entries(page):
    entry = page.locator(".explorer-entry strong")
    page.locator(".explorer-matrix").focus()
    for key, place in [
        ("Home", "Row 0, column 0"),
        ("ArrowRight", "Row 0, column 1"),
        ("ArrowDown", "Row 1, column 1"),
        ("t", "Row 2, column 2"),
        ("End", "Row 3, column 4"),
        ("ArrowRight", "Row 3, column 4"),
        ("ArrowLeft", "Row 3, column 3"),
        ("ArrowUp", "Row 2, column 3"),
    ]:
        page.keyboard.press(key)
        assert entry.inner_text() == place, key


@needs_book
def test_the_pointer_chooses_an_entry(page):
    box = page.locator(".explorer-matrix").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 2.5 / 5, box["y"] + box["height"] * 1.5 / 4)
    assert page.locator(".explorer-entry strong").inner_text() == "Row 1, column 2"


@needs_book
def test_a_typed_image_gives_the_product_and_the_address_holds_the_case(page):
    page.locator("summary", has_text="Type an input").click()
    page.get_by_label("Input, row by row").fill("1 2 3 4 5")
    page.get_by_label("Parameters, row by row").fill("10 -1")
    page.locator(".explorer-matrix").focus()
    page.keyboard.press("Home")
    assert page.locator(".explorer-sum").inner_text() == "output[0] = 10·1 + \u22121·2 = 8"
    page.reload()
    product = page.evaluate("document.querySelector('.pattern-explorer').explorer.y")
    assert product == [8, 17, 26, 35]


@needs_book
def test_a_refusal_says_why_and_a_change_takes_it_back(page):
    page.get_by_label("kernel size").fill("9")
    assert "must fit the padded input" in page.locator(".explorer-error").inner_text()
    assert not page.locator(".explorer-matrix").is_visible()
    page.get_by_label("padding", exact=True).fill("2")
    assert page.locator(".explorer-error").inner_text() == ""
    assert page.locator(".explorer-matrix").is_visible()
    page.get_by_label("kind").select_option("attention")
    assert page.url.endswith("?kind=attention")
    assert "6 \u00d7 216" in page.locator(".explorer-facts").inner_text()


@needs_book
def test_it_follows_the_theme_and_reads_from_a_folder(browser):
    page = browser.new_page()
    page.goto((ROOT / "_build/html/book/explorer.html").as_uri() + "?kind=conv1d&size=6&kernel=2")
    corner = """() => { const c = document.querySelector('.explorer-matrix');
        return [...c.getContext('2d').getImageData(2, c.height - 3, 1, 1).data]; }"""
    seen = {}
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        page.wait_for_timeout(100)
        seen[theme] = page.evaluate(corner)
    page.close()
    assert sum(seen["light"][:3]) > 600 > 250 > sum(seen["dark"][:3])
