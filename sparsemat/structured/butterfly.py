"""Butterfly matrices: log2 n sparse factors, multiplied as two block diagonal ones."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from .base import StructuredMatrix, norms
from .sparse_product import butterfly_patterns


class Butterfly(StructuredMatrix):
    r"""$W=F_0F_1\cdots F_{k-1}$ of size $n=2^k$; factor i mixes entries that differ in bit i.

    Factor i is $I_{2^i}\otimes[\cdot]_{2\times2}\otimes I_{2^{k-1-i}}$ with a 2x2 matrix of its own
    for each setting of the other bits, bit 0 being the highest. Hadamard matrices are of this
    kind, and Fourier matrices with their columns in bit-reversed order, which are complex.

    Args:
        shape: ``(n, n)``, n a power of two from 2 on.

    Raises:
        ValueError: The size is not a power of two.

    Source: arXiv 1903.05895, 2204.00595; chapter "Products of sparse factors".
    """

    guarantee = "local"  # exact for butterflies, greedy for other matrices

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape)
        size = self.shape[0]
        if self.shape[1] != size:
            raise ValueError(f"a butterfly is square, got shape {shape}")
        self.levels = _levels(size)
        self.twiddle = nn.Parameter(torch.empty(self.levels, size // 2, 2, 2))
        self.reset_parameters()

    @classmethod
    def fourier(cls, size: int) -> Self:
        r"""The discrete Fourier transform of inputs in bit-reversed order, as ``torch.fft.fft``.

        Level i has the matrices :math:`\begin{pmatrix}1&w^l\\1&-w^l\end{pmatrix}`, where l is the
        number of the bits below bit i and :math:`w=e^{-\pi i/2^{k-1-i}}`. Its numbers are complex
        of the default dtype's precision: ``Butterfly.fourier(n)(x[..., bit_reversal(n)])`` is
        ``torch.fft.fft(x)`` for a complex x.

        Args:
            size: n, a power of two from 2 on.

        Raises:
            ValueError: The size is not a power of two.

        Source: Theorem of Cooley and Tukey in the chapter "Products of sparse factors".
        """
        matrix, levels = cls((size, size)), []
        for i in range(matrix.levels):
            low = matrix.shape[0] >> (i + 1)
            w = torch.exp(-1j * torch.pi * torch.arange(low) / low)
            small = torch.stack([w**0, w, w**0, -w], -1).view(low, 2, 2)
            levels.append(small.repeat(2**i, 1, 1))
        matrix.twiddle = nn.Parameter(torch.stack(levels))
        return matrix

    def reset_parameters(self) -> None:
        """Gaussian entries of variance 1/2, so that each factor keeps the variance."""
        nn.init.normal_(self.twiddle, std=0.5**0.5)

    def _level(self, i: int) -> Tensor:
        """Factor i as ``(2^i, 2^(k-1-i), 2, 2)``: higher bits, lower bits, output, input."""
        return self.twiddle[i].reshape(2**i, -1, 2, 2)

    def blocks(self) -> tuple[Tensor, Tensor]:
        """The same matrix as two block diagonal ones, one on the high bits and one on the low.

        Returns:
            Left of shape ``(low, high, high)`` and right of shape ``(high, low, low)`` with
            ``high * low = n``: the right factor mixes the low bits, the left one the high bits.
        """
        half = self.levels // 2
        high, low = 2**half, 2 ** (self.levels - half)
        left = self._grow(range(half), high, low)
        right = self._grow(range(half, self.levels), low, high, below=False)
        return left, right

    def _grow(self, levels: range, size: int, others: int, below: bool = True) -> Tensor:
        """The product of consecutive factors, one ``size x size`` matrix for each other index."""
        eye = torch.eye(size, dtype=self.dtype, device=self.device)
        out = eye.expand(others, size, size)
        for i in reversed(levels):
            bit = i - levels.start
            up, down = 2**bit, size // 2 ** (bit + 1)
            factor = self._level(i)
            if below:  # axes: bits above this one, bits below it in the group, the other index
                factor = factor.reshape(up, down, others, 2, 2).permute(2, 0, 1, 3, 4)
            else:
                factor = factor.reshape(others, up, down, 2, 2)
            shaped = out.reshape(others, up, 2, down, size)
            out = (factor.permute(0, 1, 3, 2, 4)[..., None] * shaped[:, :, None].movedim(3, 4)
                   ).sum(4).reshape(others, size, size)  # fmt: skip
        return out

    def product(self, x: Tensor) -> Tensor:
        """Two batched products with the matrices of :meth:`blocks`."""
        left, right = self.blocks()
        high, low = len(right), len(left)
        z = x.reshape(-1, high, low).transpose(0, 1) @ right.mT  # high, n, low
        return (z.permute(2, 1, 0) @ left.mT).permute(1, 2, 0).reshape(len(x), self.shape[0])

    def patterns(self) -> tuple[Pattern, ...]:
        """One pattern a level, two nonzeros a row."""
        return butterfly_patterns([2] * self.levels)

    def thetas(self) -> tuple[Tensor, ...]:
        """The parameters of each level."""
        return tuple(self.twiddle)

    @property
    def einsum(self) -> str:
        """The levels, then x with an axis a bit."""
        bits = [chr(ord("a") + i) for i in range(self.levels)]
        inner, outer = bits, [b.upper() for b in bits]
        terms = []
        for i in range(self.levels):
            # what lies left of bit i has not been mixed yet by this factor, what lies right has
            terms.append("".join(inner[:i] + outer[i + 1 :] + [outer[i], inner[i]]))
        return ",".join([*terms, "Z" + "".join(inner)]) + "->Z" + "".join(outer)

    def operands(self) -> tuple[Tensor, ...]:
        """The levels, an axis a bit."""
        return tuple(t.reshape((2,) * (self.levels + 1)) for t in self.twiddle)

    @property
    def dof(self) -> int:
        """``n (log2 n + 1)``, as between neighbouring factors n scalings are free."""
        return self.num_parameters - self.shape[0] * (self.levels - 1)

    @property
    def macs(self) -> int:
        """``n (high + low)``, though the factors have only ``2 n log2 n`` nonzeros."""
        half = self.levels // 2
        return self.shape[0] * (2**half + 2 ** (self.levels - half))

    def _fit(self, dense: Tensor) -> None:
        """Level by level: blocks of rank one, the exact factors of every butterfly.

        What remains keeps the weight of its rows, so that rounding in empty blocks stays rounding.
        """
        n, rest = self.shape[0], dense.reshape(1, *dense.shape)
        for i in range(self.levels):
            # rest[h] mixes the lower bits: rows (bit i, low) against columns (bit i, low)
            low = n // 2 ** (i + 1)
            b = rest.reshape(2**i, 2, low, 2, low).permute(0, 2, 3, 1, 4)  # h, l, j, i, low'
            u, s, v = torch.linalg.svd(b, full_matrices=False)
            self._level(i).copy_(u[..., 0].permute(0, 1, 3, 2))
            rest = (v[..., 0, :] * s[..., :1]).transpose(1, 2).reshape(2 ** (i + 1), low, low)
        # the last remainder is 1 x 1 a row: it belongs to the last level
        self._level(self.levels - 1).mul_(rest.reshape(-1, 1, 1, 2))
        sizes = norms(self.twiddle)  # all factors get the same
        if sizes.all():
            factors = sizes.log().mean().exp() / sizes
            self.twiddle.copy_(self.twiddle * factors[:, None, None, None])


def bit_reversal(size: int) -> Tensor:
    """The numbers from 0 to size - 1 with their bits reversed, shape ``(size,)``, integers.

    Args:
        size: A power of two from 2 on.

    Raises:
        ValueError: The size is not a power of two.

    Source: Theorem of Cooley and Tukey in the chapter "Products of sparse factors".
    """
    bits = _levels(size)
    return torch.arange(size).reshape([2] * bits).permute(*reversed(range(bits))).flatten()


def _levels(size: int) -> int:
    size = as_size("the size", size, None)
    if size < 2 or size & (size - 1):
        raise ValueError(f"the size must be a power of two from 2 on, got {size}")
    return size.bit_length() - 1
