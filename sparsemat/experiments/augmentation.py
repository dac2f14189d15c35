"""Changes of the training images that do not change what they show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

Change = Callable[[Tensor, Tensor], Tensor]


def none(count: int, generator: torch.Generator | None = None) -> Change:
    """No change."""
    return lambda inputs, mine: inputs


def crop_and_flip(count: int, generator: torch.Generator | None = None, margin: int = 4) -> Change:
    """Random shifts by up to ``margin`` pixels, black where nothing was, and mirror images.

    Args:
        count: Images in the whole batch; their shifts are drawn here.
        generator: Where from; torch's own if None.
        margin: Largest shift, in pixels.

    Returns:
        A function of images ``(n, C, H, W)`` and their places in the batch, int64 ``(n,)``.
    """
    top, left = torch.randint(0, 2 * margin + 1, (2, count), generator=generator)
    flipped = torch.rand(count, generator=generator) < 0.5

    def change(images: Tensor, mine: Tensor) -> Tensor:
        _, _, height, width = images.shape
        device = images.device
        rows = top[mine, None] + torch.arange(height)
        cols = torch.arange(width).expand(len(mine), -1)
        cols = left[mine, None] + torch.where(flipped[mine, None], cols.flip(1), cols)
        image = torch.arange(len(mine), device=device)[:, None, None]
        padded = pad(images, (margin,) * 4).permute(0, 2, 3, 1)
        moved = padded[image, rows[:, :, None].to(device), cols[:, None].to(device)]
        return moved.permute(0, 3, 1, 2)

    return change


AUGMENTATIONS: dict[str, Callable[..., Change]] = {"none": none, "crop and flip": crop_and_flip}
