"""Sphinx extension: figures that move, ``{motion} patch`` and ``{motion} substitution``.

Both show one thing, a matrix times a vector row by row; in the second the vector that is read is
the one that is made. The numbers are computed while the book is built, with the library.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from docutils import nodes
from scripted import Scripted, add
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sparsemat" / "experiments" / "data" / "mnist-sample.npz"
FALLBACK = "This figure moves where JavaScript is on."


class motion(Scripted):  # docutils names nodes so
    """Where the figure goes."""


def digit(side: int):
    """The first digit of the sample with this many pixels a side, in [0, 1]."""
    import numpy as np
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    with np.load(SAMPLE) as data:
        images = data["train_images"]
    image = torch.as_tensor(images[0], dtype=torch.float64).reshape(1, 1, 28, 28)
    return adaptive_avg_pool2d(image / image.max(), side)[0]


def panel(name: str, start: int, shape, *, read: bool, written: bool) -> dict:
    *channels, height, width = (1, 1, *shape)[-3:]
    return {
        "name": name,
        "start": start,
        "shape": [*channels, height, width],
        "read": read,
        "written": written,
    }


def scene(starts, columns, weights, given, values, results, panels, **more) -> dict:
    """What the script needs: the rows of the matrix, both vectors, and how to show them."""

    def rounded(numbers):
        return [float(f"{float(number):.4g}") for number in numbers]

    return {
        "starts": [int(start) for start in starts],
        "columns": [int(column) for column in columns],
        "weights": rounded(weights),
        "given": rounded(given),
        "values": rounded(values),
        "results": rounded(results),
        "panels": panels,
        **more,
    }


def patch() -> dict:
    """A kernel on a digit: the window of each output, and the row of the matrix that reads it."""
    import numpy as np
    import torch

    import sparsemat as sm

    image, side = digit(14), 12
    kernel = torch.tensor([-1.0, 0, 1, -2, 0, 2, -1, 0, 1], dtype=torch.float64)
    pattern = sm.conv_pattern(1, 1, (14, 14), 3)
    W, x = pattern.fill(kernel), image.reshape(-1)
    order = np.lexsort((pattern.col, pattern.row))
    columns, index = pattern.col[order], pattern.index[order]
    starts = np.searchsorted(pattern.row[order], np.arange(pattern.shape[0] + 1))
    panels = [
        panel("the digit", 0, (14, 14), read=True, written=False),
        panel("the result", 0, (side, side), read=False, written=True),
    ]
    ties = index.tolist()
    return scene(starts, columns, kernel[ties], [0] * side**2, x, W @ x, panels, ties=ties)


def network():
    """A small network with a shortcut, for the figure; its weights are random."""
    import torch
    from torch import nn
    from torch.nn.functional import avg_pool2d, relu

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 3)
            self.inner = nn.Conv2d(2, 2, 3, padding=1)
            self.head = nn.Linear(18, 3)

        def forward(self, x):
            x = relu(self.first(x))
            x = x + self.inner(x)
            return self.head(avg_pool2d(x, 2).flatten(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small().double().eval()


NAMES = {
    "input": "digit",
    "convolution": "convolution",
    "relu": "ReLU",
    "add": "sum",
    "avg_pool2d": "pooling",
    "addmm": "linear",
}


def substitution() -> dict:
    """The system of a small network, solved row by row: each unknown is made of earlier ones."""
    import sparsemat as sm

    system = sm.block_system(network(), digit(8))
    z, r = system.solve(system.right_hand_side()), system.right_hand_side()
    L = system.to_scipy()
    starts, columns, weights = [0], [], []
    for row in range(L.shape[0]):
        here = slice(L.indptr[row], L.indptr[row + 1])
        for column, value in zip(L.indices[here], L.data[here], strict=True):
            if column != row:
                columns.append(column)
                weights.append(-value)
        starts.append(len(columns))
    panels = []
    for node in system.nodes:
        shape = node.shape[1:]  # without the batch axis
        name = NAMES.get(node.kind, node.kind)
        panels.append(panel(name, node.start, shape, read=True, written=True))
    return scene(starts, columns, weights, r, z, z, panels)


SCENES = {"patch": patch, "substitution": substitution}


class Motion(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in SCENES:
            raise self.error(f"a scene is one of {', '.join(SCENES)}, got {name!r}")
        data = json.dumps(SCENES[name](), separators=(",", ":"))
        return [motion(scene=name, data=data)]


def visit(translator, node: motion) -> None:
    translator.body.append(
        f'<div class="motion" data-scene="{escape(node["scene"])}">'
        f'<script type="application/json">{node["data"]}</script>'
        f"<noscript>{FALLBACK}</noscript></div>\n"
    )


def setup(app) -> dict:
    add(app, motion, visit, lambda _: ["motion/motion.css", "motion/motion.js"])
    app.add_directive("motion", Motion)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
