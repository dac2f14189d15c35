"""The figures that move: their numbers are the library's, and their page does what it says."""

import sys

import numpy as np
import pytest
import torch
from browsing import ROOT, needs_book, needs_browser

sys.path.append(str(ROOT / "tools"))
import motion

PAGES = {"patch": "convolution", "substitution": "networks"}


def dense(scene):
    """The matrix of a scene."""
    rows, cols = len(scene["results"]), len(scene["values"])
    row = np.repeat(np.arange(rows), np.diff(scene["starts"]))
    matrix = np.zeros((rows, cols))
    np.add.at(matrix, (row, scene["columns"]), scene["weights"])
    return matrix


@pytest.mark.parametrize("name", motion.SCENES)
def test_every_row_gives_what_is_shown(name):
    scene = motion.SCENES[name]()
    made = dense(scene) @ scene["values"] + scene["given"]
    np.testing.assert_allclose(made, scene["results"], rtol=5e-3, atol=5e-3)
    for panel in scene["panels"]:
        vector = scene["values"] if panel["read"] else scene["results"]
        assert panel["start"] + np.prod(panel["shape"]) <= len(vector)


def test_the_patch_is_torchs_convolution_of_a_digit():
    scene = motion.patch()
    image, kernel = torch.tensor(scene["values"]).view(1, 1, 14, 14), scene["weights"][:9]
    expected = torch.nn.functional.conv2d(image, torch.tensor(kernel).view(1, 1, 3, 3))
    found = torch.tensor(scene["results"])
    torch.testing.assert_close(found, expected.reshape(-1), rtol=1e-3, atol=1e-3)
    assert image.max() > 0.5 and len(set(scene["ties"])) == 9


def test_the_substitution_ends_with_the_networks_output():
    scene, network = motion.substitution(), motion.network()
    image = motion.digit(8)
    torch.testing.assert_close(
        torch.tensor(scene["results"][-3:]),
        network(image[None])[0].detach().float(),
        rtol=1e-3,
        atol=1e-3,
    )
    matrix = dense(scene)
    assert not np.triu(matrix).any()
    first = scene["results"][:64]
    np.testing.assert_allclose(first, image.reshape(-1), atol=1e-3)


@needs_book
@needs_browser
@pytest.mark.parametrize("name", PAGES)
def test_it_moves_when_asked_and_not_before(browser, site, name):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{site}/notebooks/{PAGES[name]}.html", wait_until="load")
    try:
        slider, text = page.locator(".motion input"), page.locator(".motion-entry")
        before = slider.input_value()
        page.wait_for_timeout(300)
        assert slider.input_value() == before
        slider.focus()
        slider.press("ArrowRight")
        assert int(slider.input_value()) == int(before) + 1
        assert text.inner_text().startswith(f"Row {int(before) + 1},")
        play = page.locator(".motion-play")
        play.click()
        assert play.inner_text() == "Pause"
        # asked by a timer: frames may be rare where many tests share the cores
        page.wait_for_function(
            "start => document.querySelector('.motion input').value > start + 2",
            arg=int(before),
            polling=100,
        )
        play.click()
        assert play.inner_text() == "Play"
        scene = motion.SCENES[name]()
        slider.evaluate(
            "(it, last) => { it.value = last; it.dispatchEvent(new Event('input')); }",
            len(scene["results"]) - 1,
        )
        shown = format(float(format(scene["results"][-1], ".3g")), "g")
        last = shown.replace("-", "\u2212")
        assert text.inner_text().endswith(f"= {last}")
    finally:
        page.close()
