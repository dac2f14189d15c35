"""A convolution's matrix multiplied by torch's own convolution; asked for by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from ..kronecker import KroneckerPattern
from ..pattern import Pattern
from .product import ADJOINT, APPLY, Product

MOST_STEP = 32  # stride or dilation tried where the pattern leaves it open


class NativeProduct(Product):
    """``W(theta) @ x`` for channels (x) shifts, by ``torch.convolution``. Made by ``of``.

    Args:
        pattern: The pattern of W.
        groups: Groups of channels.
        channels: ``(out, in)`` channels.
        axes: ``(inputs, outputs, taps, stride, dilation, before)`` of every axis.
    """

    def __init__(
        self,
        pattern: Pattern,
        groups: int,
        channels: tuple[int, int],
        axes: list[tuple[int, int, int, int, int, int]],
    ) -> None:
        self.shape, self.num_parameters = pattern.shape, pattern.num_parameters
        self.nnz, self.groups, self.channels, self.axes = pattern.nnz, groups, channels, axes
        self.input_size, self.output_size, self.kernel = (
            tuple(axis[k] for axis in axes) for k in range(3)
        )
        self.stride, self.dilation = ([axis[k] for axis in axes] for k in (3, 4))
        # what is cut off or added before and after, so that just these windows fit
        self.pads = []
        for n, m, taps, stride, dilation, before in axes:
            after = (m - 1) * stride + (taps - 1) * dilation + 1 - n - before
            self.pads.append((before, after))

    def __repr__(self) -> str:
        return (
            f"NativeProduct({self.shape[0]}x{self.shape[1]}, nnz={self.nnz}): "
            f"torch's convolution of {len(self.axes)} axes, as asked"
        )

    @classmethod
    def of(cls, pattern: Pattern) -> NativeProduct | TransposedProduct | None:
        """The product for this pattern or its transpose, None if it is not channels (x) shifts."""
        if not isinstance(pattern, KroneckerPattern) or not pattern.tied or pattern.nnz == 0:
            return None
        if pattern.labels is not None:
            return None
        if pattern.major == "col":
            product = cls.of(pattern.T)
            return None if product is None else TransposedProduct(product)
        for groups, factors in _splits(pattern.factors):
            axes = [_shift(axis) for axis in factors[2:]]
            columns = len(factors) > 2 and _is_column(factors[0]) and _is_column(factors[1].T)
            if columns and len(axes) <= 3 and None not in axes:
                channels = factors[0].shape[0] * groups, factors[1].shape[1] * groups
                return cls(pattern, groups, channels, axes)
        return None

    def numbers(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps; torch's convolution is its own fast form."""
        return self.plain(kind, left, right)

    def _map(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.plain(kind, left, right)  # torch knows the derivatives of its own convolution

    def arrays(self) -> dict[str, np.ndarray]:
        """There is no table."""
        return {}

    def plain(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps by operations that torch can trace, batch and differentiate."""
        n = right.shape[1]
        weight = self.channels[0], self.channels[1] // self.groups, *self.kernel
        images = (n, self.channels[1], *self.input_size)
        if kind == APPLY:
            y = self._convolution(left.view(weight), right.t().reshape(images))
            return y.flatten(1).t()
        if kind == ADJOINT:
            zeros = right.new_zeros(images)
            y, g = self._through(lambda x: self._convolution(left.view(weight), x), zeros)
            return g(right.t().reshape(y.shape)).flatten(1).t()
        zeros, x = right.new_zeros(weight), right.t().reshape(images)
        y, g = self._through(lambda w: self._convolution(w, x), zeros)
        return g(left.t().reshape(y.shape)).reshape(-1)

    def _convolution(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        symmetric = all(before == after >= 0 for before, after in self.pads)
        if not symmetric:
            x = pad(x, [side for pair in reversed(self.pads) for side in pair])
        padding = [before if symmetric else 0 for before, _ in self.pads]
        dims = len(self.axes)
        convolution = (conv1d, conv2d, conv3d)[dims - 1]
        return convolution(x, weight, None, self.stride, padding, self.dilation, self.groups)

    @staticmethod
    def _through(function, at: torch.Tensor):
        """The value of a linear function and its transpose, as a function of the gradient."""
        value, pull = torch.func.vjp(function, at)
        return value, lambda g: _unconjugated(pull, g)


class TransposedProduct(Product):
    """The product with the transposed matrix: the maps of another product, in exchanged roles.

    Args:
        product: The product with the matrix that is transposed.
    """

    def __init__(self, product: NativeProduct) -> None:
        self.product, self.shape = product, product.shape[::-1]
        self.num_parameters, self.nnz = product.num_parameters, product.nnz

    def __repr__(self) -> str:
        return f"TransposedProduct({self.shape[0]}x{self.shape[1]}) of {self.product!r}"

    def numbers(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps."""
        return self.plain(kind, left, right)

    def _map(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.plain(kind, left, right)

    def arrays(self) -> dict[str, np.ndarray]:
        """There is no table."""
        return {}

    def plain(self, kind: str, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """One of the three maps by operations that torch can trace, batch and differentiate."""
        if kind in (APPLY, ADJOINT):
            return self.product.plain(ADJOINT if kind == APPLY else APPLY, left, right)
        return self.product.plain(kind, right, left)


def _unconjugated(pull, g: torch.Tensor) -> torch.Tensor:
    if not g.is_complex():
        return pull(g)[0]
    return pull(g.conj())[0].conj()  # the plain transpose, without torch's conjugates


def _splits(factors: tuple[Pattern, ...]) -> Iterator[tuple[int, tuple[Pattern, ...]]]:
    """Groups of channels and the other factors: one group, or as many as a first diagonal has."""
    yield 1, factors
    if _is_diagonal(factors[0]):
        yield factors[0].shape[0], factors[1:]


def _is_diagonal(pattern: Pattern) -> bool:
    at = np.arange(pattern.shape[0])
    square = pattern.shape[0] == pattern.shape[1] == pattern.num_parameters == pattern.nnz
    return square and all(np.array_equal(s, at) for s in (pattern.row, pattern.col, pattern.index))


def _is_column(pattern: Pattern) -> bool:
    at = np.arange(pattern.shape[0])
    full = pattern.shape[1] == 1 and len(at) == pattern.num_parameters == pattern.nnz
    return full and np.array_equal(pattern.row, at) and np.array_equal(pattern.index, at)


def _shift(pattern: Pattern) -> tuple[int, int, int, int, int, int] | None:
    """The axis of a convolution with zero padding, or None.

    Its columns are ``stride * row + dilation * tap - before`` wherever that lies inside.
    """
    if isinstance(pattern, KroneckerPattern) or pattern.nnz == 0:
        return None
    row, col, tap = pattern.row, pattern.col, pattern.index
    (outputs, inputs), taps = pattern.shape, pattern.num_parameters
    given = np.full((outputs, taps), -1)
    given[row, tap] = col
    for stride in _steps(row, tap, col):
        for dilation in _steps(tap, row, col):
            before = int(stride * row[0] + dilation * tap[0] - col[0])
            read = stride * np.arange(outputs)[:, None] + dilation * np.arange(taps) - before
            read[(read < 0) | (read >= inputs)] = -1
            if before >= 0 and len(row) == (given >= 0).sum() and np.array_equal(read, given):
                return inputs, outputs, taps, stride, dilation, before
    return None


def _steps(moving: np.ndarray, fixed: np.ndarray, col: np.ndarray) -> range:
    """What a column can move by when one coordinate does: one number, or any if none is seen."""
    order = np.lexsort((moving, fixed))
    same = np.diff(fixed[order]) == 0
    across, along = np.diff(col[order])[same], np.diff(moving[order])[same]
    if len(across) == 0:
        return range(1, MOST_STEP + 1)
    step = int(across[0] // max(along[0], 1))
    return range(step, step + 1) if step > 0 else range(0)
