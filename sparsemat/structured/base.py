"""What every structured matrix is: a product of patterns filled with parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from math import isfinite
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..arguments import as_tuple
from ..lazy import Chain
from ..matrix import SparseMatrix, following
from ..pattern import Pattern
from ..rules import what_is_replaced


class Projection(NamedTuple):
    """A member of a class that is near to a given matrix.

    Attributes:
        matrix: The member.
        error: Frobenius norm of the difference over that of the given matrix; 0 where both are 0.
        guarantee: ``"exact"`` if a theorem says that no member is nearer; else ``"local"``.
    """

    matrix: StructuredMatrix
    error: float
    guarantee: str


class StructuredMatrix(nn.Module):
    r"""A matrix W that is a product of patterns filled with parameters.

    The parameters are tensors of the shapes that the fast product wants; :meth:`factors` gives the
    same matrix as sparse factors. Called on vectors it multiplies them; nothing of the size of W is
    formed. Everything is differentiable, to every order, with respect to parameters and vectors.

    Attributes:
        shape: ``(rows, columns)``.
        structure: The arguments that, beside the shape, make a matrix of the same kind.
        guarantee: What :meth:`project` promises, ``"exact"`` or ``"local"``.
    """

    guarantee = "exact"

    def __init__(self, shape: tuple[int, int], **structure: Any) -> None:
        super().__init__()
        self.shape = as_pair("shape", shape)
        self.structure = structure

    def extra_repr(self) -> str:
        """Shape and structure, for ``repr``."""
        rows, cols = self.shape
        return ", ".join([f"{rows}x{cols}", *(f"{k}={v!r}" for k, v in self.structure.items())])

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor:
        """The fast product: x of shape ``(n, columns)`` to ``(n, rows)``."""
        raise NotImplementedError

    def patterns(self) -> tuple[Pattern, ...]:
        """Patterns whose product, filled with :meth:`thetas`, is W; leftmost first."""
        raise NotImplementedError

    def thetas(self) -> tuple[Tensor, ...]:
        """The parameters of each pattern."""
        return tuple(self.parameters())

    @property
    def einsum(self) -> str:
        """The product as a string of ``torch.einsum`` for :meth:`operands` and x with an axis B."""
        raise NotImplementedError

    def operands(self) -> tuple[Tensor, ...]:
        """What the einsum string multiplies with x: the parameters, and constants if any."""
        return tuple(self.parameters())

    @property
    def dof(self) -> int:
        """Number of identifiable parameters, the largest rank of the Jacobian of the entries."""
        raise NotImplementedError

    @property
    def macs(self) -> int:
        """Multiplications of the fast product for one vector."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @classmethod
    def __torch_function__(cls, *call: Any) -> Any:
        """No function of torch's takes a matrix as a tensor.

        Its fast paths, which read ``linear1.weight`` of an encoder layer and go round the layer,
        ask for this method and then leave such layers alone.
        """
        return NotImplemented

    @cached_property
    def _patterns(self) -> tuple[Pattern, ...]:
        return self.patterns()

    def factors(self) -> tuple[SparseMatrix, ...]:
        """Sparse matrices whose product is W, leftmost first; one alone if W is linear in theta.

        They read the parameters at each use, and refuse to once the blocks have moved.
        """
        patterns = self._patterns

        def reader(place: int) -> Callable[[], Tensor]:
            def read() -> Tensor:
                if self._patterns is not patterns:
                    raise ValueError(
                        f"{type(self).__name__} had the pattern {patterns[place]!r} when the "
                        f"matrix was made and has others, {self._patterns!r}, now: make it anew"
                    )
                return self.thetas()[place]

            return read

        return tuple(following(pattern, reader(k)) for k, pattern in enumerate(patterns))

    def matrix(self) -> SparseMatrix | Chain:
        """W as a matrix of the library: the lazy product of its factors."""
        factors = self.factors()
        return factors[0] if len(factors) == 1 else Chain(*factors)

    @property
    def T(self) -> SparseMatrix | Chain:
        """The transposed matrix, as the lazy product of the transposed factors."""
        return self.matrix().T

    def to_dense(self) -> Tensor:
        """The dense tensor of shape ``shape``."""
        return self.product(torch.eye(self.shape[1], dtype=self.dtype, device=self.device)).mT

    def forward(self, x: Tensor) -> Tensor:
        """Multiply every vector by the matrix.

        Args:
            x: Shape ``(..., columns)``.

        Returns:
            Tensor of shape ``(..., rows)``.

        Raises:
            ValueError: x has another last axis.
        """
        rows, cols = self.shape
        if x.ndim == 0 or x.shape[-1] != cols:
            raise ValueError(
                f"x must have shape (..., columns) with columns={cols}, got {tuple(x.shape)}"
            )
        return self._multiply(x.reshape(x.numel() // cols, cols)).reshape(*x.shape[:-1], rows)

    def _multiply(self, x: Tensor) -> Tensor:
        if len(x):
            return self.product(x)
        # transforms refuse an empty batch; nothing of one vector keeps type, checks and gradients
        return self.product(pad(x, (0, 0, 0, 1)))[:0]

    def __matmul__(self, x: Tensor) -> Tensor:
        """``W @ x`` for x of shape ``(columns,)`` or ``(columns, n)``.

        Raises:
            TypeError: x is no tensor; :meth:`matrix` has products with matrices.
            ValueError: x has another shape.
        """
        if not torch.is_tensor(x):
            raise TypeError(
                f"W @ x takes a tensor, got {type(x).__name__}; W.matrix() has products with "
                "matrices"
            )
        if x.ndim not in (1, 2) or x.shape[0] != self.shape[1]:
            raise ValueError(
                f"x must have shape (columns,) or (columns, n) with columns={self.shape[1]}, "
                f"got {tuple(x.shape)}"
            )
        return self._multiply(x[None])[0] if x.ndim == 1 else self._multiply(x.mT).mT

    def lr_multipliers(self) -> dict[str, float]:
        """What to multiply the learning rate of a dense layer with, parameter by parameter."""
        return {name: 1.0 for name, _ in self.named_parameters()}

    @classmethod
    def project(cls, dense: Tensor, **structure: Any) -> Projection:
        """A member near to a given matrix; see ``guarantee`` for how near.

        Args:
            dense: The matrix; real for BLAST and tile products, or else complex as well.
            structure: The arguments of the class beside the shape.

        Raises:
            TypeError: No projection to this class is known, or none for complex matrices; or there
                is no tensor of floating-point or complex numbers.
            ValueError: The matrix has not two axes, an entry is not finite, or the parameters or
                the product leave the range of its type.
        """
        if not torch.is_tensor(dense) or not (dense.is_floating_point() or dense.is_complex()):
            got = dense.dtype if torch.is_tensor(dense) else type(dense).__name__
            raise TypeError(
                f"a matrix must be a tensor of floating-point or complex numbers, got {got}"
            )
        if dense.ndim != 2:
            raise ValueError(f"a matrix must have two axes, got shape {tuple(dense.shape)}")
        require_finite(dense)
        member = cls(tuple(dense.shape), **structure)
        with warnings.catch_warnings():  # torch's note that complex modules are new
            warnings.filterwarnings("ignore", "Complex modules", UserWarning)
            member.to(dense)
        with torch.no_grad():
            # torch decomposes no matrices of 16 bits
            wide = dense.detach().to(torch.promote_types(dense.dtype, torch.float32))
            member._fit(wide)
            error = relative_error(member.to_dense().to(wide), wide)
        if not isfinite(error):
            largest = float(dense.abs().max())
            raise ValueError(
                f"a matrix must be small enough for {cls.__name__} in its type, got {dense.dtype} "
                f"with a largest entry of {largest:.3g}, which overflows"
            )
        return Projection(member, error, cls.guarantee)

    def _fit(self, dense: Tensor) -> None:
        raise TypeError(f"no projection to {type(self).__name__} is known")


class StructuredLinear(nn.Module):
    r"""$y=Wx+b$ for a structured matrix W; its parameters are those of W, and the bias.

    Args:
        matrix: W.
        bias: Whether to add a number to every output; it starts at zero.
    """

    def __init__(self, matrix: StructuredMatrix, bias: bool = True) -> None:
        super().__init__()
        self.weight = matrix
        zeros = torch.zeros(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        self.register_parameter("bias", nn.Parameter(zeros) if bias else None)

    @classmethod
    def from_linear(cls, linear: nn.Linear, kind: type[StructuredMatrix], **structure: Any) -> Self:
        """The layer whose matrix is the projection of a dense layer's weight; the bias is copied.

        The layer has the mode of the dense one, and what is frozen there is frozen here.

        Args:
            linear: The dense layer.
            kind: The class of the matrix, :class:`LowRank` for instance.
            structure: Its arguments beside the shape.

        Raises:
            ValueError: The weight's shape does not have the structure, or the dense layer is none
                that its weight and bias alone describe: they are computed, or it has hooks.
        """
        require_plain(linear)
        layer = cls(kind.project(linear.weight, **structure).matrix, linear.bias is not None)
        if not linear.weight.requires_grad:
            layer.weight.requires_grad_(False)
        if linear.bias is not None:
            with torch.no_grad():
                layer.bias.copy_(linear.bias)
            layer.bias.requires_grad_(linear.bias.requires_grad)
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Columns of the matrix."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Rows of the matrix."""
        return self.weight.shape[0]

    def matrix(self) -> SparseMatrix | Chain:
        """The weight matrix as the lazy product of its factors; the bias is no part of it."""
        return self.weight.matrix()

    def forward(self, input: Tensor) -> Tensor:
        """Multiply vectors of shape ``(..., in_features)`` and add the bias."""
        y = self.weight(input)
        return y if self.bias is None else y + self.bias


def parameter_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: every parameter with its own learning rate.

    Args:
        module: A network; parameters of structured matrices get the rate of
            :meth:`StructuredMatrix.lr_multipliers`, all others ``lr``.
        lr: The learning rate of a dense layer.
    """
    rates: dict[nn.Parameter, float] = dict.fromkeys(module.parameters(), lr)
    for part in module.modules():
        if isinstance(part, StructuredMatrix):
            own = dict(part.named_parameters())
            rates |= {own[name]: lr * factor for name, factor in part.lr_multipliers().items()}
    return [{"params": [p], "lr": rate} for p, rate in rates.items()]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Frobenius norm of the difference over that of the exact tensor.

    Both are scaled first, so that no square leaves the range of the type.

    Args:
        found: The approximation, of the same shape.
        exact: What it should be.

    Returns:
        At least 0. If all of ``exact`` is zero: 0 if ``found`` is zero too, else infinite.
    """
    scale = exact.abs().max()
    if scale == 0:
        return float("inf") if found.any() else 0.0
    return float(((found - exact) / scale).norm() / (exact / scale).norm())


def widened(x: Tensor) -> Tensor:
    """The same numbers in double precision, so that sums of half ones neither stop nor overflow."""
    return x.to(torch.promote_types(x.dtype, torch.float64))


def norms(rows: Tensor) -> Tensor:
    """Frobenius norm of every ``rows[i]``, in double precision, whatever the scale.

    Args:
        rows: At least two axes.

    Raises:
        ValueError: An entry is infinite or not a number, so that norms cannot be compared.
    """
    require_finite(rows)
    wide = rows.abs().double().flatten(1)
    largest = wide.amax(1, keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
    return (wide / largest).norm(dim=1) * largest[:, 0]


def core_std(fan_in: int, fan_out: int) -> float:
    """Standard deviation of a core's entries: the spectral rule of arXiv 2406.06248."""
    return fan_in**-0.5 * min(1.0, (fan_out / fan_in) ** 0.5)


def require_plain(linear: nn.Linear, name: str = "linear") -> None:
    """Refuse a dense layer that does more than multiply by its weight and add its bias.

    Raises:
        ValueError: Its weight or bias is computed from other parameters, it has hooks, or a method
            was replaced.
    """
    computed = [name for name in ("weight", "bias") if name not in linear._parameters]
    if computed:
        raise ValueError(
            f"{name}: its {computed[0]} must be a parameter, got a tensor that is computed from "
            f"{sorted(name for name, _ in linear.named_parameters())}; make it one first, with "
            "torch.nn.utils.prune.remove or remove_parametrizations say"
        )
    replaced = what_is_replaced(linear, nn.Linear)
    if replaced:
        raise ValueError(f"{name} must be a layer of torch's without hooks, but {replaced}")


def require_finite(dense: Tensor) -> None:
    """Refuse entries that are infinite or not numbers.

    Raises:
        ValueError: There are some; their number is named.
    """
    wrong = int((~dense.isfinite()).sum())
    if wrong:
        raise ValueError(f"all entries must be finite, got {wrong} of {dense.numel()} that are not")


def require_real(dense: Tensor) -> None:
    """Refuse a complex matrix where only real ones can be fitted.

    Raises:
        TypeError: The matrix is complex.
    """
    if dense.is_complex():
        raise TypeError(f"only a real matrix can be fitted, got {dense.dtype}")


def as_pair(name: str, value: tuple[int, int]) -> tuple[int, int]:
    """Two sizes, one down and one across.

    Raises:
        ValueError: They are not two positive integers; with what they are.
    """
    try:
        sizes = as_tuple(name, value)
    except ValueError:
        sizes = ()
    if len(sizes) != 2:
        raise ValueError(f"{name} must be two positive integers, got {value!r}")
    return sizes


def divide(name: str, size: int, parts: int) -> int:
    """``size // parts``.

    Raises:
        ValueError: The parts do not divide the size; both are named.
    """
    if parts < 1 or size % parts:
        raise ValueError(f"{name} must be divided by its number of blocks, got {size} and {parts}")
    return size // parts
