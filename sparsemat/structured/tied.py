"""Matrices whose entries are tied by a symmetry: Toeplitz, circulant, permutation-equivariant."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from .base import StructuredMatrix, as_pair, widened
from .patterns import einsum_pattern


class Tied(StructuredMatrix):
    """A matrix that is one pattern filled with parameters; means of tied entries are nearest."""

    def __init__(self, shape: tuple[int, int], parameters: int) -> None:
        super().__init__(shape)
        self.theta = nn.Parameter(torch.empty(parameters))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gaussian of variance 1 / columns."""
        nn.init.normal_(self.theta, std=self.shape[1] ** -0.5)

    @property
    def einsum(self) -> str:
        """Parameters, which one stands where (ones and zeros), x."""
        return "k,kij,Bj->Bi"

    def operands(self) -> tuple[Tensor, ...]:
        """The parameters, and for each the matrix of its places."""
        (pattern,) = self._patterns
        places = torch.zeros(pattern.num_parameters, *pattern.shape)
        places[tuple(np.array([pattern.index, pattern.row, pattern.col]))] = 1
        return self.theta, places.to(self.theta)

    @property
    def dof(self) -> int:
        """All parameters."""
        return self.num_parameters

    def _fit(self, dense: Tensor) -> None:
        (pattern,) = self._patterns
        at = torch.from_numpy(np.array(pattern.index)).to(dense.device)
        entries = widened(dense)[tuple(np.array([pattern.row, pattern.col]))]
        total = entries.new_zeros(len(self.theta)).index_add(0, at, entries)
        self.theta.copy_(total / at.bincount(minlength=len(total)))


class Toeplitz(Tied):
    r"""$W_{ij}=\theta_{i-j+n-1}$ for n columns: one number a diagonal, the upper right one first.

    Args:
        shape: ``(rows, columns)``.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape, sum(as_pair("shape", shape)) - 1)

    def product(self, x: Tensor) -> Tensor:
        """A convolution by the fast Fourier transform."""
        rows, cols = self.shape
        return convolve(self.theta, x)[:, cols - 1 : cols - 1 + rows]

    def patterns(self) -> tuple[Pattern, ...]:
        """Tied along the diagonals."""
        i, j = np.indices(self.shape)
        index = (i - j + self.shape[1] - 1).ravel()
        return (Pattern(self.shape, i.ravel(), j.ravel(), index, self.num_parameters),)

    @property
    def macs(self) -> int:
        """Real multiplications of two transforms and the product between, to leading order."""
        return transform_macs(len(self.theta) + self.shape[1] - 1)


class Circulant(Tied):
    r"""$W_{ij}=\theta_{(i-j)\bmod n}$.

    Args:
        shape: ``(n, n)``.

    Raises:
        ValueError: The shape is not square.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        rows, cols = as_pair("shape", shape)
        if rows != cols:
            raise ValueError(f"shape must be square, got {shape}")
        super().__init__(shape, rows)

    def product(self, x: Tensor) -> Tensor:
        """Multiplication of the Fourier coefficients."""
        n = self.shape[0]
        forward, backward = transforms(self.theta, x)
        return backward(forward(self.theta) * forward(x), n)

    def patterns(self) -> tuple[Pattern, ...]:
        """Tied along the diagonals, which go round."""
        i, j = np.indices(self.shape)
        n = self.shape[0]
        return (Pattern(self.shape, i.ravel(), j.ravel(), (i - j).ravel() % n, n),)

    @property
    def macs(self) -> int:
        """Real multiplications of two transforms and the product between, to leading order."""
        return transform_macs(self.shape[0])


class Equivariant(StructuredMatrix):
    r"""All matrices that commute with permutations: $I\otimes\Lambda+\frac1n11^T\otimes\Gamma$.

    A set of n elements with d features becomes one with d' features: each element by itself, plus
    the mean of all.

    Args:
        shape: ``(n d', n d)``.
        elements: n, from 2 on.

    Raises:
        ValueError: n does not divide the shape, or is below 2.

    Source: arXiv 1703.06114 (Deep Sets).
    """

    def __init__(self, shape: tuple[int, int], elements: int) -> None:
        elements = as_size("elements", elements, None)
        super().__init__(shape, elements=elements)
        if elements < 2 or shape[0] % elements or shape[1] % elements:
            raise ValueError(
                f"elements must divide shape {shape} and be at least 2, got {elements}"
            )
        self.elements = elements
        outputs, inputs = shape[0] // elements, shape[1] // elements
        self.own, self.pooled = (nn.Parameter(torch.empty(outputs, inputs)) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gaussian of variance 1 / features."""
        for part in (self.own, self.pooled):
            nn.init.normal_(part, std=part.shape[1] ** -0.5)

    def product(self, x: Tensor) -> Tensor:
        """Each element by itself, and the mean once."""
        x = x.reshape(len(x), self.elements, self.own.shape[1])
        return (x @ self.own.mT + x.mean(1, keepdim=True) @ self.pooled.mT).flatten(1)

    def patterns(self) -> tuple[Pattern, ...]:
        """Two parameters in every block: Λ on the diagonal, Γ/n in all blocks."""
        (outputs, inputs), n = self.own.shape, self.elements
        sizes = {"i": n, "j": n, "o": outputs, "f": inputs}
        own, pooled = (
            einsum_pattern("of -> io, if", **sizes),
            einsum_pattern("of -> io, jf", **sizes),
        )
        row, col = (np.concatenate(p) for p in ((own.row, pooled.row), (own.col, pooled.col)))
        index = np.concatenate([own.index, pooled.index + own.num_parameters])
        return (Pattern(self.shape, row, col, index, 2 * own.num_parameters),)

    def thetas(self) -> tuple[Tensor, ...]:
        """Λ and Γ/n."""
        return (torch.cat([self.own.flatten(), self.pooled.flatten() / self.elements]),)

    @property
    def einsum(self) -> str:
        """Λ and Γ stacked, the identity and the mean stacked, x."""
        return "kof,kij,Bjf->Bio"

    def operands(self) -> tuple[Tensor, ...]:
        """Λ and Γ, and the two matrices that commute with permutations."""
        n = self.elements
        eye = torch.eye(n, dtype=self.dtype, device=self.device)
        commuting = torch.stack([eye, torch.full_like(eye, 1 / n)])
        return torch.stack([self.own, self.pooled]), commuting

    @property
    def dof(self) -> int:
        """2 d d', as the commutant of the permutations has dimension 2."""
        return self.num_parameters

    @property
    def macs(self) -> int:
        """(n + 1) d d'."""
        return (self.elements + 1) * self.own.numel()

    def _fit(self, dense: Tensor) -> None:
        """The average over all permutations: diagonal blocks, and the others."""
        n, (outputs, inputs) = self.elements, self.own.shape
        blocks = widened(dense).reshape(n, outputs, n, inputs)
        diagonal = torch.einsum("iofi->of", blocks.movedim(2, 3)) / n
        others = (blocks.sum((0, 2)) - n * diagonal) / (n * (n - 1))
        self.own.copy_(diagonal - others)
        self.pooled.copy_(n * others)


def convolve(kernel: Tensor, x: Tensor) -> Tensor:
    """The full convolution of a kernel with every row of x, by padded transforms.

    Args:
        kernel: Shape ``(k,)``.
        x: Shape ``(n, length)``.

    Returns:
        Shape ``(n, k + length - 1)``.
    """
    length = kernel.shape[-1] + x.shape[-1] - 1
    size = 1 << (length - 1).bit_length()
    forward, backward = transforms(kernel, x)
    return backward(forward(kernel, size) * forward(x, size), size)[..., :length]


def transforms(*tensors: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The Fourier transform and its inverse: of real numbers, or of complex ones if any are.

    Numbers of 16 bits, which torch does not transform, are widened and the results rounded once.
    """
    kind = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    wide = torch.promote_types(kind, torch.float32)
    there, back = torch.fft.rfft, torch.fft.irfft
    if wide.is_complex:
        there, back = torch.fft.fft, torch.fft.ifft
    return lambda x, n=None: there(x.to(wide), n), lambda z, n: back(z, n).to(kind)


def transform_macs(length: int) -> int:
    """Two real transforms of a power of two (L log2 L each) and 2 L between them."""
    size = 1 << (length - 1).bit_length()
    return 2 * size * (size.bit_length() - 1) + 2 * size
