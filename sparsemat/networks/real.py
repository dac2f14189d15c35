"""What the matrices of a network at an input share: they are real, and know both products."""

from __future__ import annotations

import torch

from ..matrix import Matrix


class RealMatrix(Matrix):
    """A real matrix that is not formed; a kind says how it and its transpose multiply columns."""

    @property
    def T(self) -> Matrix:
        """The transposed matrix."""
        return Transposed(self)

    def conj(self) -> Matrix:
        """Itself: it is real."""
        return self

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Transposed(RealMatrix):
    """The transpose of a matrix of this kind."""

    def __init__(self, matrix: RealMatrix) -> None:
        self.matrix, self.shape = matrix, matrix.shape[::-1]
        self.dtype, self.device = matrix.dtype, matrix.device

    @property
    def T(self) -> Matrix:
        """The matrix itself."""
        return self.matrix

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix._multiply_back(x)

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        return self.matrix._multiply(u)
