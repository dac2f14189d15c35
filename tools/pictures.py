"""Store a cell's pictures small: the colours of a figure fit a palette.

A figure of a dense screen's pixels takes a quarter of its bytes so. Photographs lose shades that no
reader misses at their size; Pillow comes with matplotlib.
"""

import base64
import io

import nbformat
from PIL import Image

COLOURS = 256


def palette_png(data: bytes) -> bytes:
    """The same picture with at most 256 colours, if that is smaller; else the picture itself."""
    picture = Image.open(io.BytesIO(data))
    if picture.mode == "P":
        return data
    opaque = picture.mode != "RGBA" or picture.getchannel("A").getextrema()[0] == 255
    method = Image.Quantize.MEDIANCUT if opaque else Image.Quantize.FASTOCTREE
    small = io.BytesIO()
    kept = {"dpi": picture.info["dpi"]} if "dpi" in picture.info else {}
    picture = picture.convert("RGB") if opaque else picture
    picture.quantize(COLOURS, method=method).save(small, "PNG", optimize=True, **kept)
    return min(data, small.getvalue(), key=len)


def shrink(output: nbformat.NotebookNode) -> None:
    """Replace an output's PNG by its palette form."""
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = base64.b64encode(
            palette_png(base64.b64decode(data["image/png"]))
        ).decode("ascii")
