"""A page printed to PDF: its fonts are there before it is printed, and folded parts are open."""

import re
import subprocess
import sys

from browsing import ROOT, needs_browser

STATIC = (ROOT / "book" / "_static").as_uri()
PAGE = f"""<!doctype html><title>t</title>
<link rel="stylesheet" href="{STATIC}/katex/katex.min.css">
<script defer src="{STATIC}/formulas.js"></script>
<script defer src="{STATIC}/katex/katex.min.js"></script>
<p>Before.</p><div style="height: 4000px"></div>
<details><summary>more</summary><p style="break-before: page">
<span class="math">\\(x^2 + y^2\\)</span></p></details>"""


@needs_browser
def test_formulas_far_down_have_their_fonts_before_the_page_is_printed(tmp_path):
    page, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(PAGE)
    files = str(page), str(pdf)
    # a process of its own: Playwright allows one loop, and other tests may hold it
    code = f"from pathlib import Path; from pdf import printed; printed(*map(Path, {files}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", check=True)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    fonts = set(re.findall(rb"/FontName ?/[A-Z]{6}\+([\w-]+)", content))
    assert {b"KaTeX_Math", b"KaTeX_Main"} <= {name.partition(b"-")[0] for name in fonts}, fonts
    assert len(re.findall(rb"/Type ?/Page\b", content)) >= 4
