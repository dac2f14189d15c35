"""How the pages of the built book weigh and look: figures and pictures for who changes them.

python tools/look.py speed [NAME ...]           formulas, kB compressed, ms until all of it is set
python tools/look.py sheets FOLDER [NAME ...]   pictures of pages in four forms, tiled

A NAME is a page such as ``convolution`` or ``api/layers``; without one, every page. The times are
of a page opened anew, until its fonts have come and it is laid out: the median of three.
"""

from __future__ import annotations

import gzip
import sys
from io import BytesIO
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urlsplit

from pdf import browser_path, chromium

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
FORMS = [(width, theme) for width in (1280, 390) for theme in ("light", "dark")]
SCALE, HEIGHT, SHEET = 0.5, 3100, 1560  # pixels of a picture a pixel of a page; both in pixels
SET = """async () => {
    await document.fonts.ready;
    document.body.getBoundingClientRect();
    await new Promise(requestAnimationFrame);
    return performance.now();
}"""
SHOW = """async theme => {
    document.documentElement.dataset.theme = theme;
    for (const image of document.images) image.loading = 'eager';
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
    await document.fonts.ready;
    dispatchEvent(new Event('resize'));
    for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
    const box = document.querySelector('.bd-article').getBoundingClientRect();
    return [box.left, box.top + scrollY, box.width, box.height];
}"""


def pages(names: list[str]) -> list[Path]:
    """The pages with these names, or all."""
    found = sorted(p for folder in ("notebooks", "book") for p in (HTML / folder).rglob("*.html"))
    return [
        p
        for p in found
        if not names or str(p.relative_to(HTML).with_suffix("")).partition("/")[2] in names
    ]


def speed(browser, names: list[str]) -> None:
    print(f"{'page':32}{'formulas':>9}{'kB':>8}{'ms':>8}")
    for path in pages(names):
        times, loaded = [], set()

        def note(request, seen=loaded):
            seen.add(unquote(urlsplit(request.url).path))

        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.on("request", note)
            page.goto(path.as_uri(), wait_until="load")
            times.append(page.evaluate(SET))
            formulas = page.locator(".math").count()
            page.close()
        size = sum(len(gzip.compress(Path(p).read_bytes(), 6)) for p in loaded if Path(p).is_file())
        print(f"{path.stem:32}{formulas:9}{size / 1e3:8.0f}{median(times):8.0f}", flush=True)


def sheets(browser, folder: Path, names: list[str]) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for path in pages(names):
        for width, theme in FORMS:
            page = browser.new_page(
                viewport={"width": width, "height": 900}, device_scale_factor=SCALE
            )
            page.goto(path.as_uri(), wait_until="load")
            _, top, _, high = page.evaluate(SHOW, theme)
            # a screenshot of the full page at this scale lays the page out anew, shifted sideways
            page.set_viewport_size({"width": width, "height": int(top + high) + 1})
            left, top, wide, high = page.evaluate(SHOW, theme)
            strips = []
            for start in range(0, int(high) + 1, HEIGHT):
                clip = {"x": left, "y": top + start, "width": wide}
                clip["height"] = min(HEIGHT, high - start) or 1
                taken = page.screenshot(clip=clip)
                strips.append(Image.open(BytesIO(taken)).convert("RGB"))
            page.close()
            column = strips[0].width + 8
            each = max(1, SHEET // column)
            for number in range(0, len(strips), each):
                some = strips[number : number + each]
                height = max(strip.height for strip in some)
                sheet = Image.new("RGB", (column * len(some), height), "grey")
                for k, strip in enumerate(some):
                    sheet.paste(strip, (k * column, 0))
                sheet.save(folder / f"{path.stem}-{width}-{theme}-{number // each}.png")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in ("speed", "sheets") or browser_path() is None:
        print(__doc__ if browser_path() else "no Chromium is installed", file=sys.stderr)
        return 2
    with chromium() as browser:
        if arguments[0] == "speed":
            speed(browser, arguments[1:])
        else:
            sheets(browser, Path(arguments[1]), arguments[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
