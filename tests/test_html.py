"""The built book: reads offline, shows no raw markup, and every internal link resolves."""

import importlib
import json
import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont
from sphinx.search.en import SearchEnglish

ROOT = Path(__file__).resolve().parent.parent
HTML, BOOK = ROOT / "_build" / "html", ROOT / "book"
sys.path.append(str(ROOT / "tools"))
import api  # noqa: E402

PAGES = sorted(
    str(path.relative_to(HTML))
    for folder in ("book", "notebooks")
    for path in (HTML / folder).rglob("*.html")
)
pytestmark = pytest.mark.skipif(not PAGES, reason="no built book: run `make book`")
CASES = PAGES or ["none"]
RAW = re.compile(r":::|\{prf:|\{code-cell\}|\{cite\}|\{numref\}|\{eq\}|\$\$|\$[A-Za-z\\]")


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(), "html.parser")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(tag["id"] for tag in soup(page).find_all(id=True))


def test_the_icons_that_styles_name_are_in_the_fonts():
    styles = (HTML / "_static" / "styles" / "pydata-sphinx-theme.css").read_text()
    wanted = {ord(sign) for sign in re.findall("[\ue000-\uf8ff]", styles)}
    drawn = [TTFont(path).getBestCmap() for path in (HTML / "_static").rglob("*.woff")]
    assert len(wanted) > 10 and wanted <= set().union(*drawn)


@pytest.mark.parametrize("page", CASES)
def test_nothing_is_loaded_from_another_host(page):
    loads = [tag.get("src") for tag in soup(HTML / page).find_all(["script", "img", "iframe"])]
    loads += [
        tag.get("href")
        for tag in soup(HTML / page).find_all("link")
        if {"stylesheet", "preload", "icon"} & set(tag.get("rel", []))
    ]
    assert [url for url in loads if url and urlsplit(url).netloc] == []


@pytest.mark.parametrize("page", CASES)
def test_no_raw_markup_is_shown(page):
    article = BeautifulSoup(str(soup(HTML / page).find("article")), "html.parser")
    for code in article.find_all(["pre", "code", "script"]):
        code.decompose()
    assert RAW.findall(article.get_text()) == []


@pytest.mark.parametrize("page", CASES)
def test_every_internal_link_resolves(page):
    broken = []
    here = HTML / page
    for tag in soup(here).find_all("a", href=True):
        url = urlsplit(tag["href"])
        if url.scheme or url.netloc:
            continue
        target = (here.parent / unquote(url.path)).resolve() if url.path else here
        if not target.is_file() or (
            url.fragment
            and target.suffix == ".html"
            and unquote(url.fragment) not in anchors(target)
        ):
            broken.append(tag["href"])
    assert broken == []


@pytest.mark.parametrize("page", CASES)
def test_every_image_exists_and_has_a_description(page):
    for tag in soup(HTML / page).find("article").find_all("img"):
        assert (HTML / page).parent.joinpath(unquote(tag["src"])).is_file(), tag["src"]
        alt = tag.get("alt", "")
        assert alt and not alt.endswith(".png"), f"{tag['src']} lacks alt text"


@pytest.mark.parametrize("page", CASES)
def test_every_table_and_figure_has_a_caption_of_its_own(page):
    article = soup(HTML / page).find("article")
    found = [
        " ".join(tag.caption.get_text().split()) if tag.caption else f"none: {tag.get_text()[:60]}"
        for tag in article.find_all("table")
    ]
    assert [text for text in found if text.startswith("none") or found.count(text) > 1] == []
    figures = [tag.find_parent("figure") for tag in article.select("div.cell_output img")]
    assert all(figure and figure.figcaption.get_text(strip=True) for figure in figures)


@pytest.mark.parametrize("page", CASES)
def test_it_says_how_to_cite_it(page):
    entry = soup(HTML / page).select_one("details.cite pre").get_text()
    assert entry.startswith("@misc{") and f"/{page}}}" in entry


@pytest.mark.parametrize("word", ["im2col", "GRU", "LSTM", "normalization", "Toeplitz"])
def test_the_search_finds(word):
    text = (HTML / "searchindex.js").read_text()
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    stem = SearchEnglish({}).stem(word.lower())
    found = {name: index[name].get(stem, []) for name in ("terms", "titleterms")}
    pages = {n for at in found.values() for n in (at if isinstance(at, list) else [at])}
    names = {index["docnames"][number] for number in pages}
    assert any(name.startswith("notebooks/") and name != "notebooks/claims" for name in names)


def test_every_public_name_has_an_entry_and_each_module_a_page():
    entries = {
        tag["id"]: path.stem
        for path in (HTML / "book" / "api").glob("*.html")
        for tag in soup(path).select("dl.py > dt[id]")
    }
    modules = re.findall(
        r"\{api\} (\S+)", "".join(path.read_text() for path in (BOOK / "api").glob("*.md"))
    )
    assert len(modules) > 8
    for module in modules:
        for name in api.public(importlib.import_module(module)):
            value = getattr(importlib.import_module(module), name)
            assert f"{module}.{name}" in entries, value
    overview = soup(HTML / "book" / "api.html")
    links = {a["href"].partition("#")[0] for a in overview.select("table.autosummary a")}
    assert {f"api/{page}.html" for page in set(entries.values())} >= links
    assert len(links) == len(modules)


def test_the_list_of_statements_has_every_box_with_its_number():
    listed = {
        (a["href"].partition("#")[2], a.get_text())
        for a in soup(HTML / "book" / "statements.html").select("article li a[href*='#']")
    }
    boxes = set()
    for path in (HTML / "notebooks").glob("*.html"):
        for box in soup(path).select("div.proof[id]"):
            number = box.select_one(".caption-number")
            if number:
                boxes.add((box["id"], number.get_text().strip()))
    assert len(boxes) > 250
    assert listed == boxes
