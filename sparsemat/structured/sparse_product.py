"""Products of sparse factors on given patterns, and the patterns of fast transforms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from ..arguments import as_tuple
from ..pattern import Pattern
from ..products import choose
from ..products.casting import autocast
from .base import StructuredMatrix
from .patterns import einsum_pattern


class SparseProduct(StructuredMatrix):
    r"""$W=P_1(\theta_1)\cdots P_k(\theta_k)$ for any patterns; only the values are learned.

    Args:
        shape: ``(rows, columns)``.
        patterns: The patterns of the factors, leftmost first.

    Raises:
        ValueError: There are no patterns, or the shapes do not fit.

    No projection is offered: the nearest product of two factors on given patterns is NP-hard to
    find in general (arXiv 2112.00386); :class:`Butterfly` has patterns where it is easy.

    Source: arXiv 1506.07300 (FAuST); chapter "Products of sparse factors".
    """

    guarantee = "local"

    def __init__(self, shape: tuple[int, int], patterns: Sequence[Pattern]) -> None:
        super().__init__(shape, patterns=tuple(patterns))
        inner = [self.shape[0]]
        for pattern in self.structure["patterns"]:
            if pattern.shape[0] != inner[-1]:
                raise ValueError(
                    f"a factor must have as many rows as the one before has columns, "
                    f"got {pattern.shape[0]} after {inner[-1]}"
                )
            inner.append(pattern.shape[1])
        if len(inner) == 1 or inner[-1] != self.shape[1]:
            raise ValueError(
                f"the factors must end with columns={self.shape[1]}, got {inner[1:] or 'none'}"
            )
        self._choose()
        self.theta = nn.ParameterList(
            torch.empty(pattern.num_parameters) for pattern in self.structure["patterns"]
        )
        self.reset_parameters()

    def _choose(self) -> None:
        self._products = [choose(pattern) for pattern in self.structure["patterns"]]

    def __getstate__(self) -> dict[str, Any]:
        # products hold functions, which cannot be saved
        return {name: value for name, value in self.__dict__.items() if name != "_products"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._choose()

    def extra_repr(self) -> str:
        """Shape and nonzeros of the factors, for ``repr``."""
        nonzeros = " + ".join(str(pattern.nnz) for pattern in self.patterns())
        return f"{self.shape[0]}x{self.shape[1]}, nonzeros={nonzeros}"

    def reset_parameters(self) -> None:
        """Gaussian, so that each factor keeps the variance on average over its rows."""
        for pattern, theta in zip(self.patterns(), self.theta, strict=True):
            nn.init.normal_(theta, std=(pattern.shape[0] / max(pattern.nnz, 1)) ** 0.5)

    def product(self, x: Tensor) -> Tensor:
        """One sparse product a factor, the rightmost first."""
        *thetas, x = autocast(*self.theta, x)
        columns = x.mT
        for multiply, theta in reversed(list(zip(self._products, thetas, strict=True))):
            columns = multiply(theta, columns)
        return columns.mT

    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns that were given."""
        return self.structure["patterns"]

    def thetas(self) -> tuple[Tensor, ...]:
        """The parameters of each pattern."""
        return tuple(self.theta)

    @property
    def einsum(self) -> str:
        """The factors as dense matrices, then x."""
        letters = [chr(ord("a") + i) for i in range(len(self.theta) + 1)]
        terms = [first + second for first, second in pairwise(letters)]
        return ",".join([*terms, "B" + letters[-1]]) + "->B" + letters[0]

    def operands(self) -> tuple[Tensor, ...]:
        """The factors, dense."""
        return tuple(factor.to_dense() for factor in self.factors())

    @property
    def dof(self) -> int:
        """Rank of the Jacobian of the entries at random parameters, in double precision.

        Computed, since no formula holds for all patterns: rows x columns x parameters numbers.
        """
        generator = torch.Generator().manual_seed(0)
        point = {
            name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for name, p in self.named_parameters()
        }
        eye = torch.eye(self.shape[1], dtype=torch.float64)
        entries = jacrev(lambda values: functional_call(self, values, (eye,)).flatten())(point)
        return int(torch.linalg.matrix_rank(torch.cat(list(entries.values()), 1)))

    @property
    def macs(self) -> int:
        """Nonzeros of all factors."""
        return sum(pattern.nnz for pattern in self.patterns())


def butterfly_patterns(radices: Sequence[int]) -> tuple[Pattern, ...]:
    r"""The patterns of a fast transform of size $n=r_0r_1\cdots r_{k-1}$, leftmost first.

    Factor i is full in digit i of the mixed-radix number, digit 0 being the highest, and the
    identity in all others: $I_{r_0\cdots r_{i-1}}\otimes 1_{r_i\times r_i}\otimes I$, with
    ``n * radices[i]`` nonzeros.

    Args:
        radices: The number of values of each digit, each from 2 on.

    Raises:
        ValueError: A radix is below 2, or there is none.
    """
    try:
        radices = as_tuple("radices", radices, least=2)
    except ValueError:
        raise ValueError(f"radices must be integers from 2 on, got {radices!r}") from None
    total, above, patterns = prod(radices), 1, []
    for radix in radices:
        below = total // (above * radix)
        patterns.append(einsum_pattern("hlij -> hil, hjl", h=above, l=below, i=radix, j=radix))
        above *= radix
    return tuple(patterns)
