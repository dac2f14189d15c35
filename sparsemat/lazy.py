"""Chains, sums, blocks and Kronecker products of matrices, multiplied without being formed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from .algebra import Matrix, as_scalar


class _Composite(Matrix):
    """A matrix made of others, of one type on one device."""

    parts: tuple[Matrix, ...]

    def _take(self, parts: Sequence[Matrix]) -> None:
        if not parts:
            raise ValueError(f"{type(self).__name__} must have at least one matrix, got none")
        for part in parts:
            if not isinstance(part, Matrix):
                raise TypeError(f"{type(self).__name__} takes matrices, got {type(part).__name__}")
        kinds = {(part.dtype, part.device) for part in parts}
        if len(kinds) > 1:
            kinds = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(f"all matrices must have one type and device, got {kinds}")
        self.parts = tuple(parts)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the entries."""
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the entries live."""
        return self.parts[0].device

    @property
    def num_parameters(self) -> int:
        """Parameters of all parts; a part that stands twice counts twice."""
        return sum(part.num_parameters for part in self.parts)

    def conj(self) -> Matrix:
        """The matrix of conjugate entries; itself where they are real."""
        return self._mapped(lambda part: part.conj()) if self.dtype.is_complex else self

    def to(self, *args: Any, **kwargs: Any) -> Matrix:
        """The matrix with ``part.to(...)`` for every part: another dtype or device."""
        return self._mapped(lambda part: part.to(*args, **kwargs))

    def detach(self) -> Matrix:
        """The matrix of the parameters of now: later changes and gradients do not reach it."""
        return self._mapped(lambda part: part.detach())

    @property
    def requires_grad(self) -> bool:
        """Whether gradients reach the parameters."""
        return any(part.requires_grad for part in self.parts)

    def _mapped(self, change: Callable[[Matrix], Matrix]) -> Matrix:
        """The same of other parts."""
        return type(self)(*map(change, self.parts))

    def _total(self, terms: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum, of 16 bits rounded once."""
        if len(terms) < 3:
            return sum(terms[1:], terms[0])
        wide = torch.promote_types(self.dtype, torch.float32)
        return sum((t.to(wide) for t in terms[1:]), terms[0].to(wide)).to(self.dtype)

    def __repr__(self) -> str:
        parts = ", ".join(map(repr, self.parts))
        return f"{type(self).__name__}({self.shape[0]}x{self.shape[1]}: {parts})"


class Chain(_Composite):
    """The product of matrices, ``factors[0] @ factors[1] @ ...``, applied from the right.

    Args:
        factors: One or more matrices; a chain among them gives its own factors.

    Raises:
        TypeError: A factor is no matrix.
        ValueError: Inner sizes, types or devices differ.
    """

    def __init__(self, *factors: Matrix) -> None:
        self._take([f for m in factors for f in (m.parts if isinstance(m, Chain) else (m,))])
        for left, right in zip(self.parts[:-1], self.parts[1:], strict=True):
            if left.shape[1] != right.shape[0]:
                raise ValueError(
                    f"inner sizes must agree, got {left.shape[1]} columns and {right.shape[0]} rows"
                )
        self.shape = self.parts[0].shape[0], self.parts[-1].shape[1]

    @property
    def factors(self) -> tuple[Matrix, ...]:
        """The matrices, left to right."""
        return self.parts

    @property
    def T(self) -> Matrix:
        """The transposed matrix, of the transposed factors in reverse."""
        return Chain(*(part.T for part in reversed(self.parts)))

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        for part in reversed(self.parts):
            x = part._multiply(x)
        return x


class Sum(_Composite):
    """The sum of matrices of one shape.

    Args:
        terms: One or more matrices; a sum among them gives its own terms.

    Raises:
        TypeError: A term is no matrix.
        ValueError: Shapes, types or devices differ.
    """

    def __init__(self, *terms: Matrix) -> None:
        self._take([t for m in terms for t in (m.parts if isinstance(m, Sum) else (m,))])
        shapes = [part.shape for part in self.parts]
        if len(set(shapes)) > 1:
            raise ValueError(f"all terms must have one shape, got {shapes}")
        self.shape = shapes[0]

    @property
    def terms(self) -> tuple[Matrix, ...]:
        """The matrices that are added."""
        return self.parts

    @property
    def T(self) -> Matrix:
        """The transposed matrix, the sum of the transposed terms."""
        return Sum(*(part.T for part in self.parts))

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        return self._total([part._multiply(x) for part in self.parts])


class Scaled(_Composite):
    """A number times a matrix.

    Args:
        matrix: The matrix.
        scalar: A number, or a tensor without axes.
        inverse: Whether to divide by it.

    Raises:
        TypeError: The matrix or the number is none.
        ValueError: The number is complex and the matrix is not.
    """

    def __init__(self, matrix: Matrix, scalar: float | torch.Tensor, inverse: bool = False) -> None:
        self._take([matrix])
        self.scalar = as_scalar(matrix, scalar)
        if self.scalar is None:
            raise TypeError(f"scalar must be a number, got {type(scalar).__name__}")
        self.inverse, self.shape = inverse, matrix.shape

    @property
    def T(self) -> Matrix:
        """The transposed matrix."""
        return Scaled(self.parts[0].T, self.scalar, self.inverse)

    def conj(self) -> Matrix:
        """The matrix of conjugate entries; itself where they are real."""
        if not self.dtype.is_complex:
            return self
        scalar = self.scalar
        turned = scalar.conj() if torch.is_tensor(scalar) else scalar.conjugate()
        return Scaled(self.parts[0].conj(), turned, self.inverse)

    def to(self, *args: Any, **kwargs: Any) -> Matrix:
        """The matrix in another dtype or on another device."""
        scalar = self.scalar.to(*args, **kwargs) if torch.is_tensor(self.scalar) else self.scalar
        return Scaled(self.parts[0].to(*args, **kwargs), scalar, self.inverse)

    def detach(self) -> Matrix:
        """The matrix of now: later changes and gradients do not reach it."""
        scalar = self.scalar.detach().clone() if torch.is_tensor(self.scalar) else self.scalar
        return Scaled(self.parts[0].detach(), scalar, self.inverse)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients reach the parameters or the number."""
        own = torch.is_tensor(self.scalar) and self.scalar.requires_grad
        return own or self.parts[0].requires_grad

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        y = self.parts[0]._multiply(x)
        return y / self.scalar if self.inverse else y * self.scalar


class Block(_Composite):
    """A matrix of matrices.

    Args:
        rows: A list of lists of matrices; None stands for zeros. Every row and column of blocks
            must hold a matrix that says its size.

    Raises:
        TypeError: A block is no matrix, or the rows are no lists.
        ValueError: The rows have different lengths, sizes disagree, or a row or column has none.
    """

    def __init__(self, rows: Sequence[Sequence[Matrix | None]]) -> None:
        for part in (rows, *(rows if isinstance(rows, (list, tuple)) else ())):
            if not isinstance(part, (list, tuple)):
                raise TypeError(f"Block takes a list of lists, got {type(part).__name__}")
        lengths = {len(row) for row in rows}
        if len(lengths) != 1:
            raise ValueError(f"all rows of blocks must have one length, got {sorted(lengths)}")
        self.rows = tuple(tuple(row) for row in rows)
        self._take([block for row in self.rows for block in row if block is not None])
        self.heights = [_common("row", i, row, 0) for i, row in enumerate(self.rows)]
        columns = list(zip(*self.rows, strict=True))
        self.widths = [_common("column", j, column, 1) for j, column in enumerate(columns)]
        self.shape = sum(self.heights), sum(self.widths)

    @property
    def T(self) -> Matrix:
        """The transposed matrix, of the transposed blocks in transposed places."""
        columns = zip(*self.rows, strict=True)
        return Block([[None if b is None else b.T for b in column] for column in columns])

    def _mapped(self, change: Callable[[Matrix], Matrix]) -> Matrix:
        return Block([[None if b is None else change(b) for b in row] for row in self.rows])

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.split(self.widths)
        result = []
        for row, height in zip(self.rows, self.heights, strict=True):
            terms = [
                block._multiply(part)
                for block, part in zip(row, parts, strict=True)
                if block is not None
            ]
            result.append(self._total(terms) if terms else x.new_zeros(height, x.shape[1]))
        return torch.cat(result)


class Kronecker(_Composite):
    r"""The Kronecker product of matrices, $A \otimes B \otimes \dots$, one axis at a time.

    ``parts`` are the matrices, left to right.

    Args:
        factors: One or more matrices.

    Raises:
        TypeError: A factor is no matrix.
        ValueError: Types or devices differ.
    """

    def __init__(self, *factors: Matrix) -> None:
        self._take(factors)
        self.shape = tuple(prod(part.shape[k] for part in self.parts) for k in range(2))

    @property
    def T(self) -> Matrix:
        """The transposed matrix, of the transposed factors."""
        return Kronecker(*(part.T for part in self.parts))

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        x = x.reshape(*(part.shape[1] for part in self.parts), n)
        for axis, part in enumerate(self.parts):
            x = x.movedim(axis, 0)
            rest = x.shape[1:]
            x = part._multiply(x.reshape(part.shape[1], rest.numel())).view(part.shape[0], *rest)
            x = x.movedim(0, axis)
        return x.reshape(self.shape[0], n)


def _common(what: str, at: int, blocks: Sequence[Matrix | None], axis: int) -> int:
    sizes = {block.shape[axis] for block in blocks if block is not None}
    if len(sizes) != 1:
        raise ValueError(
            f"the blocks of {what} {at} must have one size, got {sorted(sizes) or 'no matrix'}"
        )
    return sizes.pop()
