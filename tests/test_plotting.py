"""Pictures show what the pattern holds."""

import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import MouseEvent

import sparsemat as sm
from sparsemat import plotting

matplotlib.use("Agg")
BOOK = Path(__file__).resolve().parent.parent / "book"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def shown(ax) -> np.ndarray:
    """What the axes' image holds, nan where it is transparent."""
    return np.ma.filled(ax.images[0].get_array().astype(float), np.nan)


def test_spy_shows_parameters_at_cells_and_nothing_elsewhere():
    pattern = sm.conv_pattern(1, 1, (3, 4), 2, padding=1)
    image = shown(plotting.spy(pattern))
    assert image.shape == pattern.shape
    np.testing.assert_array_equal(image[pattern.row, pattern.col], pattern.index)
    assert np.isfinite(image).sum() == pattern.nnz


def test_spy_of_a_matrix_is_the_spy_of_its_pattern():
    pattern = sm.conv_pattern(1, 1, 5, 3)
    np.testing.assert_array_equal(
        shown(plotting.spy(pattern.fill(torch.ones(3)))), shown(plotting.spy(pattern))
    )


def test_spy_tied_entries_share_a_colour_and_others_do_not():
    pattern = sm.conv_pattern(1, 1, (4, 4), 3, padding=1)
    image = plotting.spy(pattern).images[0]
    colours = image.to_rgba(image.get_array())[pattern.row, pattern.col]
    by_parameter = [np.unique(colours[pattern.index == k], axis=0) for k in range(9)]
    assert all(len(colour) == 1 for colour in by_parameter)
    assert len(np.unique(np.concatenate(by_parameter), axis=0)) == 9


def test_spy_with_more_parameters_than_the_palette_uses_the_whole_map():
    pattern = sm.conv_pattern(1, 1, (4, 4), 3).untied()
    image = plotting.spy(pattern).images[0]
    assert (image.norm.vmin, image.norm.vmax) == (0, pattern.num_parameters - 1)


def test_many_parameters_have_colours_that_differ_from_their_neighbours():
    colours = plotting.parameter_colours(64).colors
    steps = np.abs(np.diff(np.array(colours), axis=0)).max(axis=1)
    assert len(set(colours)) == 64
    assert steps.min() > 0.2


def test_spy_says_which_axis_is_which():
    ax = plotting.spy(sm.conv_pattern(1, 1, 3, 2))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("input", "output")


def test_spy_title_and_blocks():
    pattern = sm.conv_pattern(2, 3, 4, 2)
    ax = plotting.spy(pattern, blocks=(3, 4))
    assert ax.get_title() == f"9x8, {pattern.nnz} nonzeros"
    horizontal = sorted(line.get_ydata()[0] for line in ax.lines[:2])
    vertical = [line.get_xdata()[0] for line in ax.lines[2:]]
    assert horizontal == [2.5, 5.5]
    assert vertical == [3.5]


def test_spy_draws_where_it_is_told():
    ax = plt.subplots()[1]
    assert plotting.spy(sm.conv_pattern(1, 1, 3, 2), ax, title="mine") is ax
    assert ax.get_title() == "mine"


def test_a_corner_is_the_part_that_is_drawn():
    pattern = sm.conv_pattern(1, 1, (4, 4), 3, padding=1)
    part = plotting.corner(pattern, 5)
    assert part.shape == (5, 5)
    theta = torch.arange(1.0, 10)
    used = np.unique(pattern.index[(pattern.row < 5) & (pattern.col < 5)])
    whole = pattern.fill(theta).to_dense()[:5, :5]
    assert torch.equal(part.fill(theta[used]).to_dense(), whole)
    assert plotting.corner(pattern, 99).equals(pattern)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        plotting.corner(pattern, 0)


@pytest.mark.parametrize(("shape", "blocks"), [((0, 3), None), ((3, 3), (0, 1))], ids=str)
def test_what_has_no_cells_is_not_drawn(shape, blocks):
    with pytest.raises(ValueError, match="shape and blocks must be at least 1, got"):
        plotting.spy(sm.Pattern(shape, [], [], [], 0), blocks=blocks)
    assert not plt.get_fignums()


def test_curves_start_at_step_one():
    ax = plotting.curves({"a": [3, 2], "b": [1, 4, 5]}, xlabel="epoch", log=True)
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2], [1, 2, 3]]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[3, 2], [1, 4, 5]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("epoch", "loss", "log")


@pytest.mark.parametrize("count", [5, 11])
def test_curves_tell_many_series_apart(count):
    ax = plotting.curves({str(k): [k, k] for k in range(count)})
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == count


def test_style_is_transparent():
    with matplotlib.rc_context():
        plotting.use_style()
        figure = plt.figure()
        assert figure.get_facecolor() == (0, 0, 0, 0)
        assert plt.rcParams["savefig.transparent"]
        assert plt.rcParams["text.color"] == plotting.INK


def test_curves_label_whole_steps_only():
    ax = plotting.curves({"a": list(range(18))})
    assert all(tick == round(tick) for tick in ax.get_xticks())


def test_a_large_matrix_is_drawn_in_tiles():
    """Written out it would take 6 GiB; every tile with an entry in it shows one."""
    pattern = sm.conv_pattern(3, 16, (64, 64), 3, padding=1)
    image = plotting.spy(pattern).images[0]
    drawn = np.ma.masked_invalid(image.get_array())
    assert drawn.shape == (2048, 384)
    expected = np.zeros(drawn.shape, dtype=bool)
    expected[pattern.row // 32, pattern.col // 32] = True
    assert np.array_equal(~np.ma.getmaskarray(drawn), expected)
    assert list(image.get_extent()) == [-0.5, 12287.5, 65535.5, -0.5]


@pytest.mark.parametrize(
    ("shape", "side"), [((3, 4), 1), ((4, 9), 3), ((9, 4), 3), ((7, 5), 2), ((9, 9), 3)], ids=str
)
def test_tiles_stand_where_their_cells_are(shape, side, monkeypatch):
    monkeypatch.setattr(plotting, "MOST_TILES", 4)
    last = shape[0] - 1, shape[1] - 1
    ax = plotting.spy(sm.Pattern(shape, [last[0]], [last[1]], [0], 1))
    for row, col in np.ndindex(shape):
        event = MouseEvent("move", ax.figure.canvas, *ax.transData.transform((col, row)))
        filled = (row // side, col // side) == (last[0] // side, last[1] // side)
        assert np.ma.is_masked(ax.images[0].get_cursor_data(event)) != filled
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, last[1] + 0.5), (last[0] + 0.5, -0.5))


def test_zero_is_transparent_and_signs_have_their_colours():
    nothing, most = plotting.SHADES(0.0), plotting.SHADES(1.0)
    assert (nothing[3], most[3]) == (0, 1)
    low, middle, high = plotting.SIGNED([0.0, 0.5, 1.0])
    assert middle[3] < 0.01 and low[3] == high[3] == 1
    assert low[0] > low[2] and high[2] > high[0]


def test_slabs_of_rows_draw_the_same(monkeypatch):
    pattern = sm.conv_pattern(2, 3, (4, 5), 3, padding=1)
    whole = plotting.spy(pattern).images[0].get_array()
    monkeypatch.setattr(plotting, "SLAB", 7)
    assert np.array_equal(plotting.spy(pattern).images[0].get_array(), whole, equal_nan=True)


MAPS = re.compile(r'cmap\s*=\s*"(?!gray")\w+"')


@pytest.mark.parametrize("page", sorted(BOOK.glob("*.md")), ids=lambda page: page.stem)
def test_pages_draw_in_the_house_colours(page):
    """Other maps of colours glare on a dark page; grey is for photographs."""
    assert MAPS.findall(page.read_text()) == []


def test_filters_are_a_row_a_bank_in_colour_or_signed():
    colour, single = torch.randn(2, 5, 3, 4, 4), torch.randn(5, 1, 3, 3)
    fig = plotting.filters({"native": colour[0], "tied": colour[1], "one input": single})
    assert [ax.get_ylabel() for ax in fig.axes[::5]] == ["native", "tied", "one input"]
    shown = [np.asarray(ax.images[0].get_array()) for ax in fig.axes]
    assert [image.shape for image in shown[::5]] == [(4, 4, 3), (4, 4, 3), (3, 3)]
    scale = colour[1].abs().max()
    np.testing.assert_allclose(shown[6], 0.5 + 0.5 * colour[1, 1].permute(1, 2, 0) / scale)
    np.testing.assert_allclose(shown[-1], single[4, 0] / single.abs().max())
