"""Max pooling: a matrix of zeros and ones that is chosen by the data."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from ..arguments import as_tuple
from ..matrix import SparseMatrix
from ..pattern import Pattern
from ..rules import Rule, image_size, refuse, register
from ..windows import Windows, pool_windows
from .averages import own_layer
from .base import MatrixLayer, as_images, check_flags, require_tensor


class MaxPool2d(MatrixLayer, nn.MaxPool2d):
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
        if return_indices is not False:
            raise ValueError(f"return_indices must be False, got {return_indices!r}")
        input_size = as_tuple("input_size", input_size, 2)
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
        if x.ndim != 3:
            raise ValueError(f"x must be one image (C, *{self.input_size}), got {tuple(x.shape)}")
        images = as_images(x, None, self.input_size)
        chosen = self._first_maximisers(images)[0]
        channels, outputs = chosen.shape
        pixels = prod(self.input_size)
        col = (chosen.cpu().numpy() + pixels * np.arange(channels)[:, None]).reshape(-1)
        shape = channels * outputs, channels * pixels
        pattern = Pattern(shape, np.arange(shape[0]), col, np.zeros_like(col), 1)
        return pattern.fill(x.new_ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Select the first maximiser of every window.

        Args:
            x: Images ``(N, channels, *input_size)``, or one without the batch axis.

        Returns:
            Tensor ``(N, channels, *output_size)``, or one without the batch axis.

        Raises:
            ValueError: ``x`` has another shape.
        """
        images = as_images(x, None, self.input_size)
        y = images.flatten(2).gather(2, self._first_maximisers(images))
        y = y.unflatten(2, self.output_size)
        return y if x.ndim == 4 else y[0]

    def extra_repr(self) -> str:
        """The arguments that torch shows, and the size of the images."""
        return f"{super().extra_repr()}, input_size={self.input_size}"

    def _first_maximisers(self, images: torch.Tensor) -> torch.Tensor:
        """The pixel that each output selects, as torch chooses it, ``(N, channels, outputs)``."""
        self.prepare()
        geometry = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        return max_pool2d(images.detach(), *geometry, return_indices=True)[1].flatten(2)

    def _check(self) -> None:
        if not all((reads >= 0).any(1).all() for reads in self.windows.reads):
            raise ValueError(
                "every window must hold a cell of the input, got a window beyond it with "
                f"input_size={self.input_size}, padding={self.padding} and dilation={self.dilation}"
            )


def _layer(module: nn.MaxPool2d, shape: tuple[int, ...], options: dict[str, Any]) -> nn.Module:
    refuse(module, return_indices=False)
    layer = MaxPool2d(
        *(module.kernel_size, module.stride, module.padding, module.dilation),
        ceil_mode=module.ceil_mode,
        input_size=image_size(module, shape, 2),
    )
    return layer.train(module.training)


MAX_HINT = "its matrix depends on the image: sparsemat.MaxPool2d(...).matrix(x) is the matrix at x"
register(Rule((nn.MaxPool2d,), layer=_layer, hint=MAX_HINT))
register(Rule((MaxPool2d,), layer=own_layer, hint=MAX_HINT))
register(Rule((nn.MaxPool1d, nn.MaxPool3d), hint=MAX_HINT))
