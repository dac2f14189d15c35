"""Max pooling: a matrix of zeros and ones that is chosen by the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool1d, max_pool2d, max_pool3d

from ..arguments import as_tuple
from ..matrix import SparseMatrix
from ..pattern import Pattern
from ..rules import Rule, image_size, refuse, register, spatial_dims
from ..windows import Windows, pool_windows
from .averages import own_layer
from .base import MatrixLayer, as_images, check_flags, require_tensor


class MaximumLayer(MatrixLayer):
    """Mixin of the maxima; stands before the torch layer of the same dimension.

    A layer kind says which pixel every output selects, and the spatial size of the output.
    """

    dims: int
    input_size: tuple[int, ...]

    def matrix(self, x: torch.Tensor) -> SparseMatrix:
        """The matrix S(x) of one image, whose only values are ones.

        Args:
            x: One image ``(channels, *input_size)``.

        Returns:
            Matrix of shape ``(channels * prod(output), channels * prod(input))``, one triple a row.

        Raises:
            TypeError: ``x`` is no tensor.
            ValueError: ``x`` has another shape.
        """
        require_tensor(x)
        if x.ndim != self.dims + 1:
            raise ValueError(f"x must be one image (C, *{self.input_size}), got {tuple(x.shape)}")
        images = as_images(x, None, self.input_size)
        chosen = self._first_maximisers(images).flatten(2)[0]
        channels, outputs = chosen.shape
        pixels = prod(self.input_size)
        col = (chosen.cpu().numpy() + pixels * np.arange(channels)[:, None]).reshape(-1)
        shape = channels * outputs, channels * pixels
        pattern = Pattern(shape, np.arange(shape[0]), col, np.zeros_like(col), 1)
        return pattern.fill(x.new_ones(1))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Select the first maximiser of every window.

        Args:
            input: Images ``(N, channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, channels, *output)``, or one without the batch axis; it lies in memory as
            ``input`` does, images or features first.

        Raises:
            ValueError: ``input`` has another shape.
        """
        images = as_images(input, None, self.input_size)
        # features first is torch's channels_last with images for channels
        swapped = images.stride(0) < images.stride(1)
        if swapped:
            images = images.transpose(0, 1)
        chosen = self._first_maximisers(images)
        pixels, places = images.flatten(2), chosen.flatten(2)
        # a result lies as the places do: so that it lies as the images, entries come first there
        y = pixels.mT.gather(1, places.mT).mT if swapped else pixels.gather(2, places)
        y = y.unflatten(2, chosen.shape[2:])
        y = y.transpose(0, 1) if swapped else y
        return y if input.ndim == images.ndim else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _first_maximisers(self, images: torch.Tensor) -> torch.Tensor:
        """The pixel that each output selects, as torch chooses it, ``(N, channels, *output)``."""
        raise NotImplementedError


class _MatrixMaxPool(MaximumLayer):
    """What the three layers share; stands before the torch layer of the same dimension."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        input_size: int | Sequence[int],
    ) -> None:
        check_flags(ceil_mode=ceil_mode)
        require_no_indices(return_indices)
        input_size = as_tuple("input_size", input_size, self.dims)
        pool_windows(input_size, kernel_size, stride, padding, ceil_mode, dilation)
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
        self.input_size = input_size
        self.prepare()

    @property
    def windows(self) -> Windows:
        """The geometry, that is which pixels every output reads."""
        return pool_windows(
            *(self.input_size, self.kernel_size, self.stride, self.padding),
            *(self.ceil_mode, self.dilation),
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        return self.windows.output_size

    def prepare(self) -> None:
        """Refuse windows that hold no cell."""
        key = (
            *(self.kernel_size, self.stride, self.padding, self.dilation),
            *(self.ceil_mode, self.input_size),
        )
        self.remembered("checked", key, self._check)

    def _first_maximisers(self, images: torch.Tensor) -> torch.Tensor:
        self.prepare()
        function = (max_pool1d, max_pool2d, max_pool3d)[self.dims - 1]
        geometry = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return function(images.detach(), *geometry, return_indices=True)[1]

    def _check(self) -> None:
        if not all((reads >= 0).any(1).all() for reads in self.windows.reads):
            raise ValueError(
                "every window must hold a cell of the input, got a window beyond it with "
                f"input_size={self.input_size}, padding={self.padding} and dilation={self.dilation}"
            )


class MaxPool1d(_MatrixMaxPool, nn.MaxPool1d):
    """1-D max pooling as a product with a matrix chosen by the data; see :class:`MaxPool2d`."""

    dims = 1


class MaxPool2d(_MatrixMaxPool, nn.MaxPool2d):
    r"""2-D max pooling as a product with a matrix chosen by the data, $y = S(x) x$.

    Every row of S(x) holds a single one, at the first maximiser of its window in row-major order.
    The gradient is $S(x)^T \bar y$.

    Args:
        kernel_size: Size of the window.
        stride: Step between windows; the window's size if None.
        padding: Cells added on both sides that are never chosen, at most half the window.
        dilation: Step between the cells of a window.
        return_indices: Not supported; False.
        ceil_mode: Whether a last window that starts inside the input may reach beyond it.
        input_size: Height and width of the images; any number of channels is served.

    Raises:
        ValueError: An argument is out of range, or a window holds no cell of the input.

    Source: paper 4.2.2, chapter "Pooling".
    """

    dims = 2


class MaxPool3d(_MatrixMaxPool, nn.MaxPool3d):
    """3-D max pooling as a product with a matrix chosen by the data; see :class:`MaxPool2d`."""

    dims = 3


STOCK = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
OWN = (MaxPool1d, MaxPool2d, MaxPool3d)
HINT = "its matrix depends on the image: sparsemat.{}(...).matrix(x) is the matrix at x"


def require_no_indices(return_indices: bool) -> None:
    """Refuse to return indices.

    Raises:
        ValueError: It is not False.
    """
    if return_indices is not False:
        raise ValueError(f"return_indices must be False, got {return_indices!r}")


def _layer(module: nn.MaxPool2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    refuse(module, return_indices=False)
    dims = spatial_dims(module)
    layer = OWN[dims - 1](
        *(module.kernel_size, module.stride, module.padding, module.dilation),
        ceil_mode=module.ceil_mode,
        input_size=image_size(module, shape, dims),
    )
    return layer.train(module.training)


def register_maxima(stock: tuple[type, ...], own: tuple[type, ...], layer: Callable) -> None:
    """The rules of three layers of torch, which become ours, and of ours."""
    hints = [HINT.format(kind.__name__) for kind in own]
    for native, hint in zip(stock, hints, strict=True):
        register(Rule((native,), layer=layer, hint=hint))
    register(Rule(own, layer=own_layer, hint=hints[1]))


register_maxima(STOCK, OWN, _layer)
