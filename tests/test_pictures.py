"""Pictures of notebooks: fewer bytes, the same size on the page, the same colours to the eye."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from pictures import palette_png


def png(pixels: np.ndarray, **saved) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **saved)
    return file.getvalue()


def noisy(channels: int) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, channels), dtype=np.uint8)
    if channels == 4:
        pixels[:20, :, 3] = 0
        pixels[20:, :, 3] = 255
    return pixels


@pytest.mark.parametrize("channels", [3, 4], ids=["opaque", "transparent"])
def test_a_picture_keeps_its_resolution_and_its_look(channels):
    ramp = np.linspace(0, 255, 48).astype(np.uint8)
    pixels = noisy(channels)
    pixels[..., :3] = ramp[None, :, None]
    pixels[::2, :, :3] //= 2
    data = png(pixels.repeat(4, 0).repeat(4, 1), dpi=(200, 200))
    small = Image.open(io.BytesIO(palette_png(data)))
    assert small.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    shown = np.asarray(small.convert("RGBA" if channels == 4 else "RGB")).astype(int)[::4, ::4]
    seen = pixels[..., 3] > 0 if channels == 4 else np.ones(pixels.shape[:2], bool)
    assert np.abs(shown - pixels.astype(int))[seen].max() <= 24
    if channels == 4:
        assert (shown[..., 3] == pixels[..., 3]).all()


def test_a_palette_is_taken_only_where_it_saves_bytes():
    flat = png(np.zeros((4, 4, 3), np.uint8))
    assert len(palette_png(flat)) <= len(flat)
    photograph = png(noisy(3))
    assert len(palette_png(photograph)) < len(photograph)
    assert palette_png(palette_png(photograph)) == palette_png(photograph)
