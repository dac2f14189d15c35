"""The sparse linear layer: a pattern of any shape, trained as it is or rewired on the way."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from numbers import Real
from typing import Self

import numpy as np
import torch
from torch import nn

from ..kronecker import kron
from ..matrix import SparseMatrix, following
from ..pattern import Pattern
from ..patterns.simple import dense_pattern, identity_pattern, mask_pattern
from ..products import Product, choose
from ..products.casting import autocast
from ..rewiring import state_by_entry
from ..rules import Affine, Rule, as_it_is, register
from .base import (
    MatrixLayer,
    added,
    check_flags,
    require_own_weight,
    require_tensor,
    require_type,
)


class SparseLinear(MatrixLayer, nn.Module):
    r"""$y = W(\theta)\,x + b$ for a matrix with a given pattern.

    Nothing of the size of the dense matrix is made, forward or backward. Inputs and outputs may lie
    features first in memory (``x.t()`` contiguous), outputs do; between such layers nothing is
    copied.

    Parameters are ``weight``, shape ``(num_parameters,)``, and ``bias``, shape ``(rows,)``. As in
    ``torch.nn.Linear`` both start uniform in $\pm 1/\sqrt{f}$, but f is the number of entries of
    their own row rather than of all columns, so that the outputs keep their variance at any
    sparsity; a tied parameter takes the fullest row it stands in, an empty row the bias zero. The
    state dict holds the pattern beside the parameters, since the weights mean nothing without it.

    Args:
        pattern: Where the matrix may be nonzero; rows are outputs, columns inputs.
        bias: Whether to add a number to every output.
        device: Where the parameters live.
        dtype: Their floating-point type.
        form: ``"gather"`` or ``"general"``, see :func:`sparsemat.products.choose`; the one that
            suits the pattern if None.

    Raises:
        ValueError: There is no such form, or the pattern does not have it.

    Source: chapter "What it costs".
    """

    def __init__(
        self,
        pattern: Pattern,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        form: str | None = None,
    ) -> None:
        super().__init__()
        check_flags(bias=bias)
        self.pattern, self.form = pattern, form
        self.prepare()  # refuses a form that the pattern does not have
        like = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(pattern.num_parameters, **like))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(pattern.shape[0], **like)) if bias else None
        )
        self.reset_parameters()

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: torch.Tensor, form: str | None = None) -> Self:
        """The layer of a dense one with a mask: ``weight[mask]`` and the bias are copied.

        Args:
            linear: The dense layer.
            mask: Booleans of the shape of its weight; True where an entry is kept.
            form: As for the constructor.

        Raises:
            TypeError: ``linear`` is no dense layer or ``mask`` no tensor.
            ValueError: The mask has another shape or type.
        """
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"linear must be a torch.nn.Linear, got {type(linear).__name__}")
        if not isinstance(mask, torch.Tensor):
            raise TypeError(f"mask must be a torch.Tensor, got {type(mask).__name__}")
        weight = linear.weight.detach()
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be booleans, got {mask.dtype}")
        if mask.shape != weight.shape:
            raise ValueError(
                f"mask must have the shape of the weight {tuple(weight.shape)}, "
                f"got {tuple(mask.shape)}"
            )
        like = {"device": weight.device, "dtype": weight.dtype}
        layer = cls(mask_pattern(mask), linear.bias is not None, **like, form=form)
        with torch.no_grad():
            layer.weight.copy_(weight[mask.to(weight.device)])
            if linear.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    @property
    def in_features(self) -> int:
        """Columns of the matrix."""
        return self.pattern.shape[1]

    @property
    def out_features(self) -> int:
        """Rows of the matrix."""
        return self.pattern.shape[0]

    @property
    def product(self) -> Product:
        """The product that multiplies by the matrix; its repr says which it is and why."""
        key = (self.pattern, self.form)
        return self.remembered("product", key, lambda: choose(*key))

    def prepare(self) -> None:
        """Find the product."""
        _ = self.product

    def matrix(self) -> SparseMatrix:
        """The weight matrix. Gradients of its products reach ``weight``; the bias is no part.

        It reads ``weight`` at each use, and refuses to once the layer has another pattern.
        """
        return following(self.pattern, self._reader())

    def _reader(self) -> Callable[[], torch.Tensor]:
        """What gives the weights, as long as they are those of the pattern of now."""
        pattern = self.pattern

        def read() -> torch.Tensor:
            if self.pattern is not pattern:
                raise ValueError(
                    f"the layer had the pattern {pattern!r} when the matrix was made and has "
                    f"another, {self.pattern!r}, now: make it anew"
                )
            return self.weight

        return read

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        entries = self.pattern.row_counts
        fan_in = np.ones(self.pattern.num_parameters, dtype=np.int64)
        np.maximum.at(fan_in, self.pattern.index, entries[self.pattern.row])
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(torch.from_numpy(fan_in**-0.5).to(self.weight))
            if self.bias is not None:
                bound = np.where(entries > 0, entries.clip(1) ** -0.5, 0)
                self.bias.uniform_(-1, 1).mul_(torch.from_numpy(bound).to(self.bias))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply every vector by the matrix and add the bias.

        Args:
            input: Shape ``(..., in_features)``.

        Returns:
            Tensor of shape ``(..., out_features)``, features first in memory.

        Raises:
            ValueError: input has another last axis.
        """
        require_tensor(input, "input")
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise ValueError(
                f"input must have shape (..., in_features) with in_features={self.in_features}, "
                f"got {tuple(input.shape)}"
            )
        weight, bias, input = autocast(self.weight, self.bias, input)
        require_type(input, weight, "input")
        vectors = input
        if input.ndim != 2:
            vectors = input.reshape(input.shape[:-1].numel(), self.in_features)
        y = self.product(weight, vectors.t())
        if bias is not None:
            y = added(y, bias[:, None])
        y = y.t()
        return y if input.ndim == 2 else y.reshape(*input.shape[:-1], self.out_features)

    @torch.no_grad()
    def prune_and_regrow(
        self,
        fraction: float,
        *,
        scores: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> torch.Tensor:
        """Drop the smallest entries and grow as many elsewhere, as in SET or RigL.

        Only index arrays are rebuilt. Surviving weights stay as they are, to the bit, and new ones
        are zero; ``weight`` remains the same tensor, now in row-major order of the new pattern, and
        its gradient is dropped. New entries stand in cells that were empty before the call.

        Args:
            fraction: Part of the entries to drop, in 0..1; of ties the first entry goes first.
            scores: Shape ``(rows, cols)``, most often the gradient of the loss with respect to the
                dense weight: the empty cells of largest magnitude are grown (RigL). If None the
                cells are drawn evenly (SET).
            generator: Source of the draw, on the CPU; torch's global one if None.
            optimizer: Its state of every surviving entry moves along, that of a new one is zero.

        Returns:
            int64 positions of the new entries in ``weight``, ascending.

        Raises:
            TypeError: ``scores`` is no tensor or ``optimizer`` no optimizer.
            ValueError: ``fraction``, the form or the shape of ``scores`` is wrong, there is NaN in
                ``scores`` or the weights, entries are tied or name a cell twice, there are fewer
                empty cells than entries to grow, or the optimizer has state that is not held
                entry by entry, as that of LBFGS.

        Source: Mocanu et al. 2018 (SET), Evci et al. 2020 (RigL).
        """
        require_own_weight(self, "to rewire")
        held = state_by_entry(optimizer, self.weight)
        rows, cols = self.pattern.shape
        cell = self.pattern.row * cols + self.pattern.col
        entry = np.full(len(cell), -1)  # in the order of the parameters
        if self.pattern.num_parameters == len(cell):
            entry[self.pattern.index] = cell
        if (entry < 0).any() or len(np.unique(cell)) < len(cell):
            raise ValueError(
                "a pattern to rewire needs a parameter and a cell of its own for every entry, "
                f"got {self.pattern!r}"
            )
        if self.form == "gather":
            raise ValueError("a layer to rewire must be free in its form, got form='gather'")
        if not isinstance(fraction, Real) or not 0 <= fraction <= 1:
            raise ValueError(f"fraction must lie in 0..1, got {fraction!r}")
        if scores is not None and not isinstance(scores, torch.Tensor):
            raise TypeError(f"scores must be a torch.Tensor, got {type(scores).__name__}")
        if scores is not None and scores.shape != (rows, cols):
            raise ValueError(f"scores must have shape {(rows, cols)}, got {tuple(scores.shape)}")
        for name, sizes in (("weight", self.weight), ("scores", scores)):
            if sizes is not None and sizes.isnan().any():
                raise ValueError(f"{name} must have an order by size, got NaN in it")
        count = int(fraction * len(cell) + 1e-9)  # 0.29 of 100 are 29, though 0.29 * 100 is less
        empty = rows * cols - len(cell)
        if count > empty:
            raise ValueError(
                f"no more entries can be grown than cells are empty, got {count} and {empty}"
            )
        by_size = self.weight.abs().argsort(stable=True).cpu().numpy()
        kept = np.sort(by_size[count:])
        if scores is None:
            grown = _draw_outside(np.sort(cell), empty, count, generator)
        else:
            grown = (
                scores.abs().flatten().index_fill(0, torch.from_numpy(cell).to(scores.device), -1)
            )
            grown = grown.topk(count).indices.cpu().numpy()
        cells = np.concatenate([entry[kept], grown])
        order = np.argsort(cells)
        # where each entry of the new order comes from; beyond the kept ones it is new
        source = np.concatenate([kept, np.full(count, -1)])[order]
        row, col = np.divmod(cells[order], max(1, cols))
        self.pattern = Pattern((rows, cols), row, col, np.arange(len(row)), len(row))
        self.prepare()
        source = torch.from_numpy(source).to(self.weight.device)
        for values in (self.weight, *held.values()):
            values.copy_(values[source.clamp(min=0)].masked_fill_(source < 0, 0))
        self.weight.grad = None
        return (source < 0).nonzero()[:, 0]

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        """The pattern, for the state dict."""
        names = ("row", "col", "index", "shape", "num_parameters")
        return {name: torch.tensor(getattr(self.pattern, name), device="cpu") for name in names}

    def set_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take the pattern of a state dict."""
        loaded = {name: side.cpu().numpy() for name, side in state.items()}
        loaded.pop("shape", None)
        number = int(loaded.pop("num_parameters", len(self.weight)))
        if number != len(self.weight):
            return  # torch reports the weight's length
        if not all(np.array_equal(getattr(self.pattern, name), loaded[name]) for name in loaded):
            self.pattern = Pattern(self.pattern.shape, **loaded, num_parameters=len(self.weight))
            self.prepare()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # before torch copies the parameters
        state = state_dict.get(f"{prefix}_extra_state", {})
        shape = tuple(map(int, state.get("shape", self.pattern.shape)))
        if shape != self.pattern.shape:
            raise ValueError(
                f"a state must be of the layer's shape {self.pattern.shape}, got {shape}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return f"{self.pattern!r}, bias={self.bias is not None}{self.own_repr()}"


def _draw_outside(
    taken: np.ndarray, empty: int, count: int, generator: torch.Generator | None
) -> np.ndarray:
    """``count`` distinct cells that are not among the sorted ``taken``, of ``empty`` such."""
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    rank = np.random.default_rng(seed).choice(empty, count, replace=False)
    # the k-th empty cell stands behind every taken one that has at most k empty ones before it
    before = taken - np.arange(len(taken))
    return rank + np.searchsorted(before, rank, side="right")


def _matrix(module: nn.Linear | SparseLinear, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if not shape or shape[-1] != module.in_features:
        raise ValueError(
            f"input_shape must end in in_features={module.in_features}, got input_shape={shape}"
        )
    many = prod(shape[:-1])
    own = isinstance(module, SparseLinear)
    one = module.pattern if own else dense_pattern(module.out_features, module.in_features)
    pattern = one if many == 1 else kron(identity_pattern(many), one)
    bias = None
    if module.bias is not None:

        def bias() -> torch.Tensor:
            return module.bias.repeat(many)

    output = *shape[:-1], module.out_features
    read = module._reader() if own else lambda: module.weight
    return Affine(pattern, read, bias, output)


register(Rule((nn.Linear, SparseLinear), _matrix, as_it_is))
