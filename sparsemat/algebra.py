"""What every matrix can do: multiply, be added, scaled and transposed, and be written out."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Complex, Integral, Number, Real
from typing import TYPE_CHECKING

import numpy as np
import torch

from . import memory

if TYPE_CHECKING:
    import scipy.sparse.linalg


class Matrix:
    """What every matrix can do; a new one writes ``_multiply`` and ``T``.

    Attributes:
        shape: ``(rows, columns)``.
        dtype: Type of the entries.
        device: Where they live.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    __array_ufunc__ = None  # a NumPy scalar on the left leaves the product to us

    @property
    def T(self) -> Matrix:
        """The transposed matrix, with the same parameters."""
        raise NotImplementedError

    def conj(self) -> Matrix:
        """The matrix of conjugate entries; itself where they are real."""
        raise NotImplementedError

    @property
    def H(self) -> Matrix:
        """The conjugate transpose."""
        return self.T.conj()

    @property
    def mT(self) -> Matrix:
        """The transposed matrix, as torch calls it."""
        return self.T

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        """``(cols, n)`` to ``(rows, n)``."""
        raise NotImplementedError

    def __matmul__(self, other: torch.Tensor | Matrix) -> torch.Tensor | Matrix:
        """``W @ x`` for ``x`` of shape ``(cols,)`` or ``(cols, n)``, or the product with a matrix.

        Two sparse matrices give one; any other pair a :class:`sparsemat.Chain`, which multiplies
        without being formed.

        Raises:
            TypeError: ``other`` is neither a tensor nor a matrix.
            ValueError: The inner sizes differ, ``x`` has another rank or another type.
        """
        if isinstance(other, Matrix):
            from .lazy import Chain

            return Chain(self, other)
        _require_tensor(other)
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[1]:
            raise ValueError(
                f"x must have shape (cols,) or (cols, n) with cols={self.shape[1]}, "
                f"got {tuple(other.shape)}"
            )
        if other.dtype != self.dtype:
            raise ValueError(f"W and x must have one type, got {self.dtype} and {other.dtype}")
        if other.ndim == 1:
            return self._multiply(other[:, None])[:, 0]
        return self._multiply(other)

    def __rmatmul__(self, other: torch.Tensor) -> torch.Tensor:
        """``x @ W`` for ``x`` of shape ``(rows,)`` or ``(n, rows)``."""
        _require_tensor(other)
        if other.ndim not in (1, 2) or other.shape[-1] != self.shape[0]:
            raise ValueError(
                f"x must have shape (rows,) or (n, rows) with rows={self.shape[0]}, "
                f"got {tuple(other.shape)}"
            )
        return (self.T @ other.t()).t() if other.ndim == 2 else self.T @ other

    def __add__(self, other: Matrix) -> Matrix:
        """The sum, which multiplies without being formed."""
        if not isinstance(other, Matrix):
            return NotImplemented
        from .lazy import Sum

        return Sum(self, other)

    def __sub__(self, other: Matrix) -> Matrix:
        """The difference, which multiplies without being formed."""
        return self + (-1) * other if isinstance(other, Matrix) else NotImplemented

    def __neg__(self) -> Matrix:
        """Minus the matrix."""
        return (-1) * self

    def __mul__(self, scalar: float | torch.Tensor) -> Matrix:
        """A number times the matrix."""
        from .lazy import Scaled

        return NotImplemented if as_scalar(self, scalar) is None else Scaled(self, scalar)

    def __rmul__(self, scalar: float | torch.Tensor) -> Matrix:
        """A number times the matrix."""
        return self * scalar

    def __truediv__(self, scalar: float | torch.Tensor) -> Matrix:
        """The matrix divided by a number."""
        from .lazy import Scaled

        usable = as_scalar(self, scalar) is not None
        return Scaled(self, scalar, inverse=True) if usable else NotImplemented

    def row(self, i: int) -> torch.Tensor:
        """Row i as a dense vector ``(cols,)``: one product with the transposed matrix.

        Raises:
            ValueError: There is no such row.
        """
        if not isinstance(i, Integral) or not 0 <= i < self.shape[0]:
            raise ValueError(f"row must be an integer in 0..{self.shape[0] - 1}, got {i!r}")
        unit = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        unit[i] = 1
        return self.T @ unit

    def to_dense(self) -> torch.Tensor:
        """The dense tensor of shape ``shape``.

        Raises:
            MemoryError: It would not fit; the message says how much it takes.
        """
        rows, cols = self.shape
        what = f"a dense {rows}x{cols} matrix"
        require_memory(what, rows * cols, self.dtype, self.device)
        require_memory(f"the identity that makes {what}", cols**2, self.dtype, self.device)
        return self._multiply(torch.eye(cols, dtype=self.dtype, device=self.device))

    def linear_operator(self) -> scipy.sparse.linalg.LinearOperator:
        """A ``scipy.sparse.linalg.LinearOperator`` on the CPU, for ``svds``, ``eigs`` or ``cg``.

        SciPy has no types of 16 bits: what they give becomes float32.
        """
        from scipy.sparse.linalg import LinearOperator

        here = {"dtype": self.dtype, "device": self.device}

        def times(matrix: Matrix) -> Callable[[np.ndarray], np.ndarray]:
            def multiply(x: np.ndarray) -> np.ndarray:
                x = torch.as_tensor(x, device="cpu")
                with torch.no_grad():
                    if x.is_complex() and not self.dtype.is_complex:
                        y = torch.complex(*(matrix @ part.to(**here) for part in (x.real, x.imag)))
                    else:
                        y = matrix @ x.to(**here)
                    return as_array(y)

            return multiply

        forward, backward = times(self), times(self.H)
        return LinearOperator(
            shape=self.shape,
            matvec=forward,
            rmatvec=backward,
            matmat=forward,
            rmatmat=backward,
            dtype=as_array(torch.empty(0, dtype=self.dtype, device="cpu")).dtype,
        )


def require_memory(what: str, numel: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a request that the device's whole memory cannot hold, before allocating.

    Args:
        what: Name of the request in the message.
        numel: Number of entries.
        dtype: Their type.
        device: Where they would live.

    Raises:
        MemoryError: The request is larger than the device's memory.
    """
    device = torch.device(device)
    cuda = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if cuda else None
    memory.require(f"{what} of {dtype}", numel * dtype.itemsize, total, device.type)


def as_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """A type of fractions, torch's default if None.

    Raises:
        TypeError: It is no type of torch's.
        ValueError: It is a type of integers or booleans.
    """
    if dtype is None:
        return torch.get_default_dtype()
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}")
    if not (dtype.is_floating_point or dtype.is_complex):
        raise ValueError(f"dtype must be floating-point or complex, got {dtype}")
    return dtype


def as_array(values: torch.Tensor) -> np.ndarray:
    """The numbers for SciPy, which has no types of 16 bits: they become float32."""
    values = values.detach().cpu().resolve_conj()
    return (values.float() if values.itemsize == 2 else values).numpy()


def as_scalar(matrix: Matrix, value: object) -> Number | torch.Tensor | None:
    """The number by which the matrix can be multiplied; None if this is no number.

    Raises:
        ValueError: The number is complex and the matrix is not.
    """
    is_tensor = torch.is_tensor(value) and value.ndim == 0
    if not (is_tensor or isinstance(value, Number)):
        return None
    is_complex = (
        value.is_complex()
        if is_tensor
        else isinstance(value, Complex) and not isinstance(value, Real)
    )
    if is_complex and not matrix.dtype.is_complex:
        raise ValueError(
            f"a matrix of {matrix.dtype} must be multiplied by a real number, got {value}; "
            "make it complex first, see W.to(torch.complex128)"
        )
    # torch would drop the imaginary part of a complex number of NumPy's
    return complex(value) if is_complex and not is_tensor else value


def _require_tensor(other: object) -> None:
    if not torch.is_tensor(other):
        raise TypeError(
            f"W @ x needs a torch.Tensor or a Matrix, got {type(other).__name__}; "
            "see torch.as_tensor"
        )
