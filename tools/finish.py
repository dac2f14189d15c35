"""Sphinx extension: takes from every page what nobody uses, and mends what the theme leaves out."""

import re
import struct
from pathlib import Path
from urllib.parse import unquote

from fontTools import subset
from fontTools.ttLib import TTFont

from sparsemat.tables import CARDS

# Font Awesome comes twice, as a font with its style sheet and as 1.5 MB of script; thebe is for
# running cells in the page, which this book does not offer.
UNUSED = re.compile(
    r"<script[^>]*/fontawesome/[^>]*></script>\s*|<script[^>]*sphinx-thebe[^>]*></script>\s*"
    r"|<script>(?:const THEBE_JS_URL|let THEBE_JS_URL|var THEBE_JS_URL)[^<]*</script>\s*"
    r"|<link[^>]*sphinx-thebe\.css[^>]*>\s*|<link[^>]*preload[^>]*/webfonts/[^>]*>\s*"
)
IMAGE = re.compile(r'<img[^>]* src="(?P<source>[^":]*\.png)"[^>]*>')
ICON = re.compile(r"((?:\.fa-[\w-]+::?before,?)+)\{content:\"\\([0-9a-f]+)\"\}")
ICON_NAME = re.compile(r"fa-([\w-]+)")
GLYPH = re.compile(r"\"\\(f[0-9a-f]{3})\"")  # style sheets name some by code,
LITERAL = re.compile("[\ue000-\uf8ff]")  # and hold others as they are
# A cell that prints Markdown has no captions: a line in italics before a table is one.
ITALICS = re.compile(
    r"<p><em>(?P<caption>[^<]*)</em></p>\s*"
    r'(?P<table>(?:<div class="pst-scrollable-table-container">)?<table class="table"[^>]*>)\s*'
    r"(?!\s*<caption>)"
)
TABLE = re.compile(
    r'<table class="table"[^>]*>\s*(?:<caption>.*?</caption>\s*)?'
    r"<thead>(?P<head>.*?)</thead>\s*<tbody>(?P<body>.*?)</tbody>",
    re.DOTALL,
)
NUMBERED = re.compile(
    r'<thead><tr><th (?=[^>]*class="number")[^>]*>(?P<head>[^<]*)</th>.*?</tbody>', re.DOTALL
)
NUMBER = re.compile(r'<th (?=[^>]*class="number")(?=[^>]*scope="row")')
HEADING = re.compile(r"<th[^>]*>(.*?)</th>", re.DOTALL)
CELL = re.compile(r"<(tr|td)(?=[ >])")
FIRST_NUMBER = re.compile(r"(<tr[^>]*><td)(?=[^>]*><p>[\d.]+</p></td>)")
# What the theme and the extensions write that a reader or a screen reader cannot use.
MENDED = (
    (re.compile(r'(<summary) aria-label="Toggle hidden content"'), r"\1"),
    (
        re.compile(r'<summary>(?=<span class="toctree-toggle")'),
        '<summary aria-label="Pages of this section">',
    ),
    (re.compile(r'(<button[^>]*search-button[^>]*) aria-label="Search"'), r"\1"),
    (re.compile(r'<th(?: class="[^"]*")?>(?:<p></p>)?</th>'), "<td></td>"),
    (re.compile(r' role="doc-(?:biblioentry|backlink)"'), ""),
    (re.compile(r"(?<=\d) %(?=[^<>]*<)"), "\u00a0%"),  # a percent sign begins no line
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    (
        re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand)'),
        '<div class="sidebar-primary-item" role="navigation" aria-label="Front page">',
    ),
)


def finish(app, error) -> None:
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    used = set()
    for path in out.rglob("*.html"):
        text = path.read_text()
        mended = ITALICS.sub(r"\g<table><caption>\g<caption></caption>", UNUSED.sub("", text))
        mended = TABLE.sub(as_cards, mended)
        mended = NUMBERED.sub(name_numbers, mended)
        for wrong, right in MENDED:
            mended = wrong.sub(right, mended)
        mended = IMAGE.sub(lambda match, page=path: sized(match, page), mended)
        used |= set(re.findall(r"fa-([a-z-]+)", mended))
        if mended != text:
            path.write_text(mended)
    for folder in (out / "_static" / "vendor" / "fontawesome").glob("*"):
        keep_icons(folder, used)


def as_cards(match: re.Match) -> str:
    """A wide table whose cells know their headings, so that rows can become cards on a phone."""
    headings = [re.sub(r"<[^>]*>", "", text) for text in HEADING.findall(match["head"])]
    if len(headings) < CARDS or "math" in match["head"]:
        return match[0]
    column = 0

    def labelled(cell: re.Match) -> str:
        nonlocal column
        column = -1 if cell[1] == "tr" else column + 1
        return f'{cell[0]} data-label="{headings[column]}"' if column > 0 else cell[0]

    body = CELL.sub(labelled, match["body"])
    body = FIRST_NUMBER.sub(rf'\1 data-label="{headings[0]}"', body)
    whole = match[0].replace(match["body"], body, 1)
    return whole.replace('class="table"', 'class="table cards"', 1)


def name_numbers(match: re.Match) -> str:
    """A table whose rows are headed by numbers: on a card they need their heading."""
    return NUMBER.sub(f'<th data-label="{match["head"]}" ', match[0])


def sized(match: re.Match, page: Path) -> str:
    """An image tag with the size that the picture's own resolution asks for.

    Figures are stored with twice as many pixels as they are wide, for dense screens.
    """
    if " width=" in match[0]:
        return match[0]
    path = (page.parent / unquote(match["source"])).resolve()
    if not path.is_file():
        return match[0]
    head = path.read_bytes()[:4096]
    at = head.find(b"pHYs")
    width, height = struct.unpack(">II", head[16:24])
    metre = struct.unpack(">I", head[at + 4 : at + 8])[0] if at > 0 else 0
    scale = 2 if round(metre * 0.0254) >= 150 else 1
    size = f' width="{width // scale}" height="{height // scale}"'
    return match[0].replace("<img", f"<img{size}", 1)


def keep_icons(folder: Path, used: set[str]) -> None:
    """Cut the icon fonts down to the icons that the pages name; 300 kB become a few."""
    sheet = folder / "css" / "all.min.css"
    css = sheet.read_text()
    named = {code for names, code in ICON.findall(css) if used & set(ICON_NAME.findall(names))}
    sheets = [p for p in folder.parents[2].rglob("*.css") if folder not in p.parents]
    literal = set()
    for other in sheets:
        named |= set(GLYPH.findall(other.read_text()))
        literal |= set(LITERAL.findall(other.read_text()))
    codes = {int(code, 16) for code in named} | {ord(sign) for sign in literal}
    for font in ("solid-900", "brands-400", "regular-400"):
        path = folder / "webfonts" / f"fa-{font}.ttf"
        options = subset.Options(flavor="woff", notdef_outline=True)
        small = subset.Subsetter(options)
        small.populate(unicodes=codes)
        loaded = TTFont(path)
        small.subset(loaded)
        loaded.flavor = "woff"
        loaded.save(path.with_suffix(".woff"))
        css = re.sub(
            rf"src:url\(\.\./webfonts/fa-{font}\.woff2\)[^;}}]*",
            f'src:url(../webfonts/fa-{font}.woff) format("woff")',
            css,
        )
    sheet.write_text(css)


def setup(app) -> dict:
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
