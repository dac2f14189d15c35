"""Pictures of patterns, coloured by parameter, and training curves. Needs Matplotlib.

Figures have a transparent background and mid-grey text, so that they read on light and dark pages.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from torch import Tensor

from .matrix import SparseMatrix
from .pattern import Pattern

INK = "#7f7f7f"  # contrast above 3.9 on white and on the theme's dark page
PALETTE = [
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#b07aa1",
    "#76b7b2",
    "#edc948",
    "#ff9da7",
    "#9c755f",
    "#bab0ac",
]
# For images: zero is transparent, since white glares on a dark page; red is negative.
SHADES = LinearSegmentedColormap.from_list(
    "shades", [to_rgba(PALETTE[0], 0), to_rgba(PALETTE[0], 1)]
)
SIGNED = LinearSegmentedColormap.from_list(
    "signed",
    [
        (0, to_rgba(PALETTE[3], 1)),
        (0.5, to_rgba(PALETTE[3], 0)),
        (0.5, to_rgba(PALETTE[0], 0)),
        (1, to_rgba(PALETTE[0], 1)),
    ],
)
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "legend.framealpha": 0.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "figure.dpi": 100,
    "axes.prop_cycle": cycler(color=PALETTE),
    "image.cmap": SHADES.name,
}
matplotlib.colormaps.register(SHADES, force=True)  # a style takes names only

MOST_TILES = 2048  # of a side; more than a screen shows
SLAB = 1 << 20  # entries drawn at once


def use_style() -> None:
    """Make the book's neutral style the default of this session, sharp on dense screens."""
    plt.rcParams.update(STYLE)
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


def parameter_colours(count: int) -> ListedColormap:
    """One colour a parameter: the palette, or hues a golden angle apart if that is too short.

    Neighbouring parameters differ clearly, and every colour reads on white and on dark.
    """
    if count <= len(PALETTE):
        return ListedColormap(PALETTE)
    hues = [(k * 137.508 / 360 % 1, 0.62 if k % 2 else 0.5) for k in range(min(count, 4096))]
    return ListedColormap([hls_to_rgb(hue, lightness, 0.55) for hue, lightness in hues])


def spy(
    pattern: Pattern | SparseMatrix,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    blocks: tuple[int, int] | None = None,
) -> Axes:
    """Draw where a matrix may be nonzero; entries that share a parameter share a colour.

    Args:
        pattern: A pattern or a matrix.
        ax: Where to draw; a new figure if None.
        title: Title of the axes; the size and the number of nonzeros if None.
        blocks: Rows and columns of a block; thin lines are drawn between blocks.

    Returns:
        The axes. A cell named by several triples shows the colour of the last. A side of more
        than ``MOST_TILES`` cells is drawn in as many tiles, which show the last entry in them.

    Raises:
        ValueError: There are no rows or no columns, or a block has none.
    """
    pattern = getattr(pattern, "pattern", pattern)
    rows, cols = pattern.shape
    if min(rows, cols, *(blocks or (1, 1))) < 1:
        raise ValueError(
            f"shape and blocks must be at least 1, got {pattern.shape} and blocks={blocks}"
        )
    ax = ax or plt.subplots(figsize=_figsize(rows, cols))[1]
    tiles, side = _tiles(pattern)
    down, across = (side * count for count in tiles.shape)  # the last may reach beyond the matrix
    ax.imshow(
        tiles,
        extent=(-0.5, across - 0.5, down - 0.5, -0.5),
        cmap=parameter_colours(pattern.num_parameters),
        vmin=0,
        vmax=max(pattern.num_parameters, len(PALETTE)) - 1,
        interpolation="nearest",
        aspect="equal",
    )
    ax.set(xlim=(-0.5, cols - 0.5), ylim=(rows - 0.5, -0.5))
    if blocks is not None:
        style = {"color": INK, "linewidth": 0.5, "alpha": 0.6}
        for edge in range(blocks[0], rows, blocks[0]):
            ax.axhline(edge - 0.5, **style)
        for edge in range(blocks[1], cols, blocks[1]):
            ax.axvline(edge - 0.5, **style)
    ax.set(xticks=[], yticks=[], xlabel="input", ylabel="output")
    ax.set_title(f"{rows}x{cols}, {pattern.nnz} nonzeros" if title is None else title)
    return ax


def corner(pattern: Pattern, size: int) -> Pattern:
    """The upper left ``size`` x ``size`` corner of a large pattern, for drawing.

    Args:
        pattern: The pattern.
        size: Rows and columns that are kept.

    Returns:
        Pattern whose parameters are those in the corner, numbered anew in their old order.

    Raises:
        ValueError: ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    shape = min(size, pattern.shape[0]), min(size, pattern.shape[1])
    top = pattern.rows(0, shape[0])
    inside = top.col < size
    used, index = np.unique(top.index[inside], return_inverse=True)
    return Pattern(shape, top.row[inside], top.col[inside], index, len(used))


def _tiles(pattern: Pattern) -> tuple[np.ndarray, int]:
    """The parameter of the last entry in each tile, NaN where there is none, and a tile's side."""
    rows, cols = pattern.shape
    step = -(-max(rows, cols) // MOST_TILES)
    image = np.full((-(-rows // step), -(-cols // step)), np.nan)
    counted = np.cumsum(pattern.row_counts)
    start = 0
    while start < rows:  # at least one row, and no more entries than memory should hold
        before = counted[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(counted, before + SLAB, side="right")))
        slab = pattern.rows(start, stop)
        image[(slab.row + start) // step, slab.col // step] = slab.index
        start = stop
    return image, step


def curves(
    series: Mapping[str, Sequence[float]],
    ax: Axes | None = None,
    *,
    xlabel: str = "step",
    ylabel: str = "loss",
    log: bool = False,
) -> Axes:
    """Draw one line a series against its position, 1 for the first value.

    Args:
        series: Name to values.
        ax: Where to draw; a new figure if None.
        xlabel: What a position is.
        ylabel: What a value is.
        log: Whether the values have a logarithmic axis.

    Returns:
        The axes, with a legend.
    """
    ax = ax or plt.subplots(figsize=(5.5, 3.2))[1]
    styles = ["-", "--", ":", "-."]
    for k, (name, values) in enumerate(series.items()):
        style = styles[k % len(styles)]
        ax.plot(
            range(1, len(values) + 1), values, style, color=PALETTE[k % len(PALETTE)], label=name
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.get_major_locator().set_params(integer=True)
    if log:
        ax.set_yscale("log")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend()
    return ax


def filters(banks: Mapping[str, Tensor]) -> Figure:
    """Draw filters as small images, one row a bank.

    Args:
        banks: Name to filters ``(count, inputs, height, width)``, as many in each: of 3 inputs for
            colours with grey for zero, or of 1 for blue where positive and red where negative. Each
            row has a scale of its own.

    Returns:
        The figure, with the names beside the rows.
    """
    count = len(next(iter(banks.values())))
    size = 7, 0.2 + 0.5 * len(banks)
    fig, axes = plt.subplots(len(banks), count, figsize=size, layout="constrained", squeeze=False)
    for line, (name, bank) in zip(axes, banks.items(), strict=True):
        largest = bank.abs().max()
        scaled = (bank / largest.where(largest > 0, 1)).numpy(force=True)
        for ax, image in zip(line, scaled, strict=True):
            shown = image[0] if len(image) == 1 else 0.5 + 0.5 * image.transpose(1, 2, 0)
            ax.imshow(shown, cmap=SIGNED, vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return fig


def _figsize(rows: int, cols: int, most: float = 4.5) -> tuple[float, float]:
    scale = most / max(rows, cols)
    return max(1.2, cols * scale), max(1.2, rows * scale) + 0.3
