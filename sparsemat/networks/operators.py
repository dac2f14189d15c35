"""Linear maps between tensors, as they stand in the blocks of a network: applied, and as CSR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .. import memory
from ..algebra import as_array
from ..convert import to_matrix
from ..patterns.convolution import conv_pattern, conv_transpose_pattern

if TYPE_CHECKING:
    import scipy.sparse


class Operator:
    """A linear map from tensors of the shape ``source`` to those of the shape ``target``.

    Attributes:
        source: Shape of the argument.
        target: Shape of the result.
        nnz: Nonzeros of its matrix.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    nnz: int

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The map."""
        raise NotImplementedError

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """The transposed map."""
        raise NotImplementedError

    def csr(self) -> scipy.sparse.csr_array:
        """Its matrix, for arguments and results in row-major order."""
        raise NotImplementedError

    def _uniform(self, values: np.ndarray, columns: np.ndarray) -> scipy.sparse.csr_array:
        """The matrix with as many entries a row as the last axis of both arrays is long."""
        from scipy.sparse import csr_array

        rows, width = prod(self.target), columns.shape[-1]
        kind = np.int32 if max(prod(self.source), rows * width) < 2**31 else np.int64
        memory.require(f"the matrix of {rows} rows", rows * width * (values.itemsize + 4))
        columns, values = np.broadcast_arrays(columns.astype(kind), values)
        starts = np.arange(0, rows * width + 1, width, dtype=kind)
        if width == 0:
            starts = np.zeros(rows + 1, kind)
        entries = np.ascontiguousarray(values).reshape(-1), columns.reshape(-1), starts
        return csr_array(entries, shape=(rows, prod(self.source)))


class Diagonal(Operator):
    """Multiplication of every entry by a number of its own.

    Args:
        values: The numbers.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values, self.nnz = values, values.numel()
        self.source = self.target = tuple(values.shape)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return self.values * x

    adjoint = apply

    def csr(self) -> scipy.sparse.csr_array:
        """The diagonal matrix."""
        values = as_array(self.values).reshape(-1, 1)
        return self._uniform(values, np.arange(len(values))[:, None])


class Left(Operator):
    r"""The matrix product $A_b X_b$ for every b of a batch: the blocks $A_b \otimes I$.

    Args:
        matrix: Shape ``(b, m, k)``.
        columns: The columns of X.
    """

    def __init__(self, matrix: torch.Tensor, columns: int) -> None:
        self.matrix = matrix
        b, m, k = matrix.shape
        self.source, self.target = (b, k, columns), (b, m, columns)
        self.nnz = b * m * k * columns

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return self.matrix @ x

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """The product with the transposed matrices."""
        return self.matrix.mT @ g

    def csr(self) -> scipy.sparse.csr_array:
        """The block-diagonal matrix."""
        (b, k, n), m = self.source, self.target[1]
        memory.require("a block of products", self.nnz * (self.matrix.element_size() + 16))
        columns = np.arange(b * k * n).reshape(b, k, n).transpose(0, 2, 1)[:, None]
        columns = np.broadcast_to(columns, (b, m, n, k))
        return self._uniform(as_array(self.matrix)[:, :, None], columns)


class Right(Operator):
    r"""The matrix product $X_b B_b$ for every b of a batch: the blocks $I \otimes B_b^T$.

    Args:
        matrix: Shape ``(b, k, n)``.
        rows: The rows of X.
    """

    def __init__(self, matrix: torch.Tensor, rows: int) -> None:
        self.matrix = matrix
        b, k, n = matrix.shape
        self.source, self.target = (b, rows, k), (b, rows, n)
        self.nnz = b * rows * k * n

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The product."""
        return x @ self.matrix

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """The product with the transposed matrices."""
        return g @ self.matrix.mT

    def csr(self) -> scipy.sparse.csr_array:
        """The block-diagonal matrix."""
        (b, m, k), n = self.source, self.target[2]
        memory.require("a block of products", self.nnz * (self.matrix.element_size() + 16))
        columns = np.broadcast_to(np.arange(b * m * k).reshape(b, m, 1, k), (b, m, n, k))
        return self._uniform(as_array(self.matrix.mT)[:, None], columns)


class Reduction(Operator):
    """A number times the sum over some axes.

    Args:
        source: Shape of the argument.
        axes: The axes that are summed.
        keepdim: Whether they stay, with length 1.
        scale: The number.
    """

    def __init__(
        self, source: Sequence[int], axes: Sequence[int], keepdim: bool, scale: torch.Tensor
    ) -> None:
        self.source, self.scale = tuple(source), scale
        self.axes = sorted({axis % len(source) for axis in axes} or range(len(source)))
        self.kept = tuple(1 if a in self.axes else n for a, n in enumerate(self.source))
        dropped = tuple(n for a, n in enumerate(self.source) if a not in self.axes)
        self.target = self.kept if keepdim else dropped
        self.nnz = prod(self.source)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The sums."""
        return self.scale * x.sum(self.axes).reshape(self.target)

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """Every sum's number to all its terms."""
        return self.scale * g.reshape(self.kept).expand(self.source)

    def csr(self) -> scipy.sparse.csr_array:
        """A row a sum."""
        order = [a for a in range(len(self.source)) if a not in self.axes] + self.axes
        columns = np.arange(self.nnz).reshape(self.source).transpose(order)
        values = as_array(self.scale).reshape(1, 1)
        return self._uniform(values, columns.reshape(prod(self.target), -1))


class Fixed(Operator):
    """A map whose matrix a rule of the library knows, the same for all of a batch.

    Args:
        function: The map, for tensors of the shape ``source``.
        source: Shape of the argument, with the batch axis.
        target: Shape of the result, with the batch axis.
        module: A module that does the same.
        like: A tensor of the right type.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], torch.Tensor],
        source: Sequence[int],
        target: Sequence[int],
        module: nn.Module,
        like: torch.Tensor,
    ) -> None:
        self.source, self.target = tuple(source), tuple(target)
        self.function, self.like = function, like
        self.matrix = to_matrix(module, self.source[1:], dtype=like.dtype)[0]
        self.nnz = self.source[0] * self.matrix.pattern.nnz

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The map."""
        return self.function(x)

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """The transposed map, by autograd."""
        return torch.func.vjp(self.function, g.new_zeros(self.source))[1](g)[0]

    def csr(self) -> scipy.sparse.csr_array:
        """A block for every input of the batch."""
        return _repeated(self.matrix.to_scipy(), self.source[0])


class Convolution(Operator):
    """A convolution or a transposed one.

    Args:
        weight: The kernel.
        source: Shape of the argument, with the batch axis.
        target: Shape of the result, with the batch axis.
        options: Stride, padding, dilation, whether transposed, output padding, groups.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        source: Sequence[int],
        target: Sequence[int],
        options: tuple,
    ) -> None:
        self.weight, self.options = weight, options
        self.source, self.target = tuple(source), tuple(target)
        stride, padding, dilation, transposed, _, groups = options
        (_, c_in, *size), (_, c_out, *outputs), kernel = source, target, weight.shape[2:]
        sides = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        if transposed:
            pattern = conv_transpose_pattern(c_in, c_out, size, outputs, kernel, **sides)
        else:
            pattern = conv_pattern(c_in, c_out, size, kernel, **sides)
        self.pattern, self.nnz = pattern, source[0] * pattern.nnz

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution, without a bias."""
        return torch.convolution(x, self.weight, None, *self.options)

    def adjoint(self, g: torch.Tensor) -> torch.Tensor:
        """The gradient of the argument."""
        dummy = g.new_empty(1).expand(self.source)
        backward = torch.ops.aten.convolution_backward
        return backward(g, dummy, self.weight, None, *self.options, (True, False, False))[0]

    def csr(self) -> scipy.sparse.csr_array:
        """A block for every input of the batch."""
        if self.options[3]:
            return _repeated(self.pattern.fill(self.weight.reshape(-1)).to_scipy(), self.source[0])
        return _repeated(self._one(), self.source[0])

    def _one(self) -> scipy.sparse.csr_array:
        """The matrix for one input: every output channel has the same places."""
        from scipy.sparse import csr_array

        memory.require("the matrix of a convolution", self.pattern.nnz * 16)
        stride, padding, dilation, _, _, groups = self.options
        (_, c_in, *size), outputs = self.source, self.weight.shape[0]
        sides = {"stride": stride, "padding": padding, "dilation": dilation}
        one = conv_pattern(c_in // groups, 1, size, self.weight.shape[2:], **sides)
        row, col, index = one.by_row()
        kind = np.int32 if max(*self.pattern.shape, self.pattern.nnz) < 2**31 else np.int64
        group = np.arange(outputs, dtype=kind) // (outputs // groups) * kind(one.shape[1])
        columns = (col.astype(kind) + group[:, None]).reshape(-1)
        values = as_array(self.weight).reshape(outputs, -1)[:, index].reshape(-1)
        counts = np.tile(np.bincount(row, minlength=one.shape[0]), outputs)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(kind)
        return csr_array((values, columns, starts), shape=self.pattern.shape)


def _repeated(one: scipy.sparse.csr_array, copies: int) -> scipy.sparse.csr_array:
    from scipy.sparse import block_diag

    memory.require("a block of a layer", 16 * copies * one.nnz)
    return one if copies == 1 else block_diag([one] * copies, format="csr")
