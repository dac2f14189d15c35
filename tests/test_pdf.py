"""A page printed to PDF: formulas are set before it is printed, and folded parts are open."""

import re
import subprocess
import sys

from browsing import ROOT, needs_browser

MATHJAX = (ROOT / "book" / "_static" / "mathjax" / "startup.js").as_uri()
PAGE = f"""<!doctype html><title>t</title>
<script>MathJax = {{loader: {{load: ['core', 'input/tex', 'output/chtml', 'ui/lazy']}}}}</script>
<script src="{MATHJAX}"></script>
<p>Before.</p><div style="height: 4000px"></div>
<details><summary>more</summary><p style="break-before: page">\\(x^2 + y^2\\)</p></details>"""


@needs_browser
def test_formulas_far_down_are_set_before_the_page_is_printed(tmp_path):
    page, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(PAGE)
    files = str(page), str(pdf)
    # a process of its own: Playwright allows one loop, and other tests may hold it
    code = f"from pathlib import Path; from pdf import printed; printed(*map(Path, {files}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", check=True)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    fonts = set(re.findall(rb"/FontName ?/[A-Z]{6}\+(\w+)", content))
    assert any(b"MJX" in name or b"MathJax" in name for name in fonts), fonts
    assert len(re.findall(rb"/Type ?/Page\b", content)) >= 4
