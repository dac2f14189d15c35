"""What the matrices of a network at an input share: real, of now, known with their transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch

from ..matrix import Matrix


class RealMatrix(Matrix):
    """A real matrix that is not formed; a kind says how it and its transpose multiply columns.

    It is the matrix of the run that made it, so it has no parameters and takes no gradients.

    Attributes:
        num_parameters: None of its numbers is a parameter: 0.
        requires_grad: False.
    """

    num_parameters = 0
    requires_grad = False

    @property
    def T(self) -> Matrix:
        """The transposed matrix."""
        return Transposed(self)

    def conj(self) -> Matrix:
        """Itself: it is real."""
        return self

    def detach(self) -> Self:
        """Itself: it is the matrix of then."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Matrix:
        """The matrix for vectors of another dtype or device, multiplied in its own."""
        like = torch.empty(0, dtype=self.dtype, device=self.device).to(*args, **kwargs)
        same = (like.dtype, like.device) == (self.dtype, self.device)
        return self if same else Converted(self, like)

    def __copy__(self) -> Self:
        return self  # nothing in it can change

    def __deepcopy__(self, memo: dict) -> Self:
        return self

    def __reduce__(self) -> tuple:
        raise TypeError(
            f"{type(self).__name__} must stay in the process that made it, got pickled: it holds a "
            "run of the network; save the network and the input, and make it anew"
        )

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ByColumns(RealMatrix):
    """A matrix of this kind that multiplies one vector at a time."""

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        return _stacked(self._pushed, x, self.shape[0])

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        return _stacked(self._pulled, u, self.shape[1])

    def _pushed(self, v: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _pulled(self, u: torch.Tensor) -> torch.Tensor:
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


class Converted(RealMatrix):
    """A matrix of this kind for vectors of another type or device, complex ones too.

    Args:
        matrix: The matrix.
        like: A tensor of that type on that device.
    """

    def __init__(self, matrix: RealMatrix, like: torch.Tensor) -> None:
        self.matrix, self.shape = matrix, matrix.shape
        self.dtype, self.device = like.dtype, like.device

    @property
    def T(self) -> Matrix:
        """The transposed matrix, converted."""
        return self.matrix.T.to(self.device, self.dtype)

    def to(self, *args: Any, **kwargs: Any) -> Matrix:
        """The matrix for vectors of yet another dtype or device."""
        like = torch.empty(0, dtype=self.dtype, device=self.device).to(*args, **kwargs)
        return self.matrix.to(like.device, like.dtype)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        return self._through(self.matrix._multiply, x)

    def _multiply_back(self, u: torch.Tensor) -> torch.Tensor:
        return self._through(self.matrix._multiply_back, u)

    def _through(self, multiply: Any, x: torch.Tensor) -> torch.Tensor:
        parts = (x.real, x.imag) if x.is_complex() else (x,)
        made = [multiply(p.to(self.matrix.device, self.matrix.dtype)) for p in parts]
        result = torch.complex(*made) if x.is_complex() else made[0]
        return result.to(self.device, self.dtype)


def _stacked(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, rows: int
) -> torch.Tensor:
    with torch.inference_mode(False):  # autograd takes no tensors of that mode
        columns = [function(c.clone() if c.is_inference() else c) for c in x.unbind(1)]
        return torch.stack(columns, 1) if columns else x.new_zeros(rows, 0)
