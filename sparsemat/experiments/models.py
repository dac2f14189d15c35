"""The networks: every variant built from one configuration, with the same names inside."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import sparsemat as sm


@dataclass(frozen=True)
class ImageNetwork:
    """A small convolutional network, native or in matrix form.

    Args:
        channels: Channels of an image.
        size: Height and width of an image.
        layers: A number is a 3x3 convolution with that many channels, batch normalisation and
            ReLU; "P" is 2x2 average pooling. A linear layer to the classes follows.
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

    def module(self, matrix: bool) -> nn.Sequential:
        """The network, its convolutions and poolings native or as matrices.

        Returns:
            A module from uint8 images ``(N, channels, *size)`` to logits ``(N, classes)``.
        """
        convolution, pooling = (sm.Conv2d, sm.AvgPool2d) if matrix else (nn.Conv2d, nn.AvgPool2d)
        layers = OrderedDict(scale=Scale(self.mean, self.std))
        channels, size, convs, pools = self.channels, self.size, 0, 0
        for layer in self.layers:
            where = {"input_size": size} if matrix else {}
            if layer == "P":
                pools += 1
                layers[f"pool{pools}"] = pooling(2, **where)
                size = size[0] // 2, size[1] // 2
            else:
                convs += 1
                layers[f"conv{convs}"] = convolution(
                    channels, layer, 3, padding=1, bias=False, **where
                )
                layers[f"norm{convs}"] = nn.BatchNorm2d(layer)
                layers[f"relu{convs}"] = nn.ReLU()
                channels = layer
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels * size[0] * size[1], self.classes)
        return nn.Sequential(layers)


class Scale(nn.Module):
    """Bytes 0..255 to numbers of mean 0 and variance 1 over the training data."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, ...)`` of uint8 to the dtype of the network."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std


def build(network: ImageNetwork, variant: str, seed: int) -> nn.Sequential:
    """A network whose initial weights depend on the seed alone, not on the variant.

    Args:
        network: The configuration.
        variant: "native" (torch's own layers), "tied" (matrices that share parameters as the native
            kernels do) or "untied" (the same matrices, every entry a parameter).
        seed: Seed of the initial weights.

    Raises:
        ValueError: The variant is unknown.
    """
    variants = ("native", "tied", "untied")
    if variant not in variants:
        raise ValueError(f"the variant must be one of {variants}, got {variant!r}")
    torch.manual_seed(seed)
    native = network.module(matrix=False)
    if variant == "native":
        return native
    model = network.module(matrix=True)
    model.load_state_dict(native.state_dict())
    if variant == "untied":
        for name, layer in list(model.named_children()):
            if isinstance(layer, sm.Conv2d):
                setattr(model, name, layer.untie())
    return model


def nonzeros(network: ImageNetwork) -> int:
    """Nonzeros of the matrices that are learnt: of the convolutions and of the linear layer.

    The number is the same for every variant: tying changes who owns an entry, not where it is.
    """
    return sum(
        layer.pattern.nnz if isinstance(layer, sm.Conv2d) else layer.weight.numel()
        for layer in network.module(matrix=True)
        if isinstance(layer, (sm.Conv2d, nn.Linear))
    )
