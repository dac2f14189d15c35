"""Networks for images: convolutions and poolings, native or as matrices."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import sparsemat as sm


@dataclass(frozen=True)
class ImageNetwork:
    """A small convolutional network.

    Variants: "native"; "tied" (matrices that share parameters as the native kernels do); "untied"
    (the same matrices at the start, every entry a parameter).

    Args:
        channels: Channels of an image.
        size: Height and width of an image.
        layers: A number is a 3x3 convolution with that many channels, batch normalisation and
            ReLU; "P" is 2x2 average pooling, "G" pools all positions. A linear layer to the
            classes follows.
        classes: Number of classes.
        mean: Mean of the pixels, on the scale 0..1.
        std: Standard deviation of the pixels, on the scale 0..1.
    """

    channels: int
    size: tuple[int, int]
    layers: tuple[int | str, ...]
    classes: int
    mean: float
    std: float

    variants: ClassVar[tuple[str, ...]] = ("native", "tied", "untied")

    def module(self, variant: str) -> nn.Sequential:
        """The network with the layers of a variant; "untied" still has to be untied.

        Returns:
            A module from uint8 images ``(N, channels, *size)`` to logits ``(N, classes)``.
        """
        matrix = variant != "native"
        convolution, pooling = (sm.Conv2d, sm.AvgPool2d) if matrix else (nn.Conv2d, nn.AvgPool2d)
        layers = OrderedDict(scale=Scale(self.mean, self.std))
        channels, size, convs, pools = self.channels, self.size, 0, 0
        for layer in self.layers:
            where = {"input_size": size} if matrix else {}
            if layer in ("P", "G"):
                pools += 1
                window = (2, 2) if layer == "P" else size
                layers[f"pool{pools}"] = pooling(window, **where)
                size = size[0] // window[0], size[1] // window[1]
            else:
                convs += 1
                layers[f"conv{convs}"] = convolution(
                    channels, layer, 3, padding=1, bias=False, **where
                )
                layers[f"norm{convs}"] = BatchNorm(layer)
                layers[f"relu{convs}"] = nn.ReLU()
                channels = layer
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels * size[0] * size[1], self.classes)
        network = nn.Sequential(layers)
        # each in the layout in which it is faster
        return network if matrix else network.to(memory_format=torch.channels_last)

    def untie(self, model: nn.Sequential) -> nn.Sequential:
        """The network with a parameter of its own for every entry of a convolution's matrix."""
        for name, layer in list(model.named_children()):
            if isinstance(layer, sm.Conv2d):
                setattr(model, name, layer.untie())
        return model

    def nonzeros(self, variant: str) -> int:
        """Nonzeros of the learnt matrices that one image meets: convolutions and linear layer.

        The number is the same for every variant: tying changes who owns an entry, not where it is.
        """
        return sum(
            layer.pattern.nnz if isinstance(layer, sm.Conv2d) else layer.weight.numel()
            for layer in self.module("tied")
            if isinstance(layer, (sm.Conv2d, nn.Linear))
        )


class BatchNorm(nn.BatchNorm2d):
    """Torch's layer, which copies images that lie features first in memory unless told of it."""

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` normalised over all but C, in the layout they came in."""
        features = x.permute(1, 2, 3, 0)
        if not features.is_contiguous():
            return super().forward(x)
        y = super().forward(features.flatten(1, 2)[None])  # one image of the same numbers
        return y.view(features.shape).permute(3, 0, 1, 2)


class Scale(nn.Module):
    """Bytes 0..255 to numbers of about mean 0 and variance 1 over the training data."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, ...)`` of uint8 to the dtype of the network."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std
