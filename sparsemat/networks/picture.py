"""The block structure of a network's system, drawn. Needs Matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .system import BlockSystem

# what of a block depends on the data, and its colour
COLOURS = {
    "": ("fixed", 0),
    "gates": ("gates", 1),
    "selection": ("selections", 2),
    "attention": ("attention", 3),
    "statistics": ("statistics", 4),
    "product": ("products", 5),
}


def draw(system: BlockSystem, ax: Axes | None = None) -> Axes:
    """A square for every node that another one reads, and grey ones for the diagonal."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    from ..plotting import INK, PALETTE

    count = len(system.nodes)
    ax = ax or plt.subplots(figsize=(4.5, 4.5))[1]
    image = np.full((count, count), np.nan)
    for k, node in enumerate(system.nodes):
        image[k, k] = len(COLOURS)
        image[k, list(node.reads)] = COLOURS[node.depends][1]
    colours = ListedColormap([*PALETTE[: len(COLOURS)], INK])
    ax.imshow(image, cmap=colours, vmin=0, vmax=len(COLOURS), interpolation="nearest")
    seen = {node.depends for node in system.nodes if node.reads}
    entries = [(name, PALETTE[i]) for key, (name, i) in COLOURS.items() if key in seen]
    handles = [Patch(color=colour, label=name) for name, colour in [*entries, ("identity", INK)]]
    ax.legend(handles=handles, loc="upper right")
    ax.set(xlabel="node that is read", ylabel="node", xticks=[], yticks=[])
    return ax
