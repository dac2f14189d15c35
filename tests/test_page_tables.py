"""The ledger and the records as readers filter and sort them, and the page of the status."""

import json
import sys
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from browsing import ROOT, needs_book, needs_browser

sys.path.append(str(ROOT / "tools"))
import check_kinds
import filters
import status

from sparsemat.experiments import records

CLAIMS = yaml.safe_load((ROOT / "book" / "claims.yml").read_text())
RECORDS = records.read_all(ROOT / "results")
VISIBLE = """selector => [...document.querySelectorAll(selector)]
    .filter(found => found.offsetHeight)
    .map(found => [...(found.cells ?? [])].map(cell => cell.textContent.trim()))"""


def opened(browser, address, width=1280):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(address, wait_until="load")
    return page


def visible(page, selector):
    """The texts of the cells of what is seen of a selector."""
    return page.evaluate(VISIBLE, selector)


@needs_book
@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_ledger_is_filtered_by_verdict_and_chapter(browser, site, width):
    page = opened(browser, f"{site}/notebooks/claims.html?verdict=refuted", width)
    try:
        ledger = "#the-claims "
        count = Counter(row["verdict"] for row in CLAIMS)
        assert len(visible(page, f"{ledger}tbody tr")) == count["refuted"]
        heading = status.titles()["recurrence"]
        page.select_option(".filter-form select[name=chapter]", heading)
        wanted = [r for r in CLAIMS if (r["verdict"], r["chapter"]) == ("refuted", "recurrence")]
        assert wanted and len(visible(page, f"{ledger}tbody tr")) == len(wanted)
        assert parse_qs(urlsplit(page.url).query)["chapter"] == [heading]
        assert page.locator(".filter-count").inner_text() == f"{len(wanted)} of {len(CLAIMS)} rows"
        assert len(visible(page, f"{ledger}h3")) == 1
    finally:
        page.close()


@needs_book
@needs_browser
def test_records_are_filtered_sorted_and_drawn(browser, site):
    page = opened(browser, f"{site}/book/records.html")
    try:
        assert len(visible(page, "article tbody tr")) == len(RECORDS)
        page.select_option(".filter-form select[name='data set']", "MNIST")
        page.select_option(".filter-form select[name=variant]", "tied")
        found = [r for r in RECORDS if (r["experiment"], r["variant"]) == ("mnist", "tied")]
        assert len(visible(page, "article tbody tr")) == len(found)
        page.get_by_role("button", name="seed").click()
        page.get_by_role("button", name="seed").click()
        seeds = [int(cells[3]) for cells in visible(page, "article tbody tr")]
        assert seeds == sorted((r["seed"] for r in found), reverse=True)
        assert not page.locator(".record-panel").is_visible()
        for box in page.locator("tbody tr:not([hidden]) input[type=checkbox]").all()[:2]:
            box.check()
        assert page.locator(".record-panel polyline").count() == 2
        points = page.locator(".record-panel polyline").first.get_attribute("points").split()
        assert len(points) == len(found[-1]["curve"])
    finally:
        page.close()


def test_a_row_and_a_curve_say_what_the_record_says():
    for record in RECORDS:
        row, curve = filters.row(record), filters.curve(record)
        assert row["metric"] == records.result(record)[record["metric"]]
        assert len(curve["epochs"]) == row["epochs"] == len(record["curve"])
        last = record["curve"][-1]
        assert curve["series"][record["metric"]][-1] == pytest.approx(last[record["metric"]], 1e-3)
        json.dumps(curve, allow_nan=False)


def test_the_status_counts_every_box_and_record():
    titles = status.titles()
    assert {claim["chapter"] for claim in CLAIMS} <= set(titles)
    boxes = sum(len(check_kinds.kinds(name)) for name in titles)
    rows, _, _ = status.checks()
    assert rows[-1]["boxes"] == boxes > 200
    chapters, _, _ = status.chapters()
    assert [row["chapter"] for row in chapters] == list(titles.values())
    for row in rows[:-1]:
        assert sum(chapter[row["kind"]] or 0 for chapter in chapters) == row["boxes"]
    times, _, caption = status.times()
    assert f"; {len(times)} of {len(titles)} have" in caption
    assert all(row["seconds"] > 0 and row["date"] for row in times)
    runs, _, _ = status.runs()
    assert sum(row["runs"] for row in runs) == len(RECORDS)
    areas, _, _ = status.benchmarks()
    measured = sum(
        len(json.loads(path.read_text())["measured"])
        for path in (ROOT / "results" / "benchmarks").glob("cpu-*.json")
    )
    assert len(areas) == measured
