"""Where the pieces of gates and selections meet, as linear inequalities of what they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import GradientEdge

from ..patterns.pooling import adaptive_avg_pool_pattern, avg_pool_of_windows
from ..windows import pool_windows

Bend = tuple[Callable[[Any, Any], torch.Tensor], Any]  # a bound, and on which side of it one is


def _alone(bound: Any) -> list[Bend]:
    """A bound that is a piece of its own: torch's slope there depends on how it is given."""
    return [] if bound is None else [(torch.gt, bound), (torch.ge, bound)]


def _zero(*_: Any) -> list[Bend]:
    return [(torch.gt, 0)]


# for the arguments after the first
GATES: dict[str, Callable[..., list[Bend]]] = {
    "relu": _zero,
    "abs": lambda: _alone(0),  # at zero torch takes neither side's slope
    "leaky_relu": _zero,
    "_prelu_kernel": _zero,
    "threshold": lambda bound, *_: [(torch.gt, bound)],
    "hardtanh": lambda low=-1, high=1: [(torch.gt, low), (torch.ge, high)],
    "clamp": lambda low=None, high=None: [*_alone(low), *_alone(high)],
    "clamp_min": _alone,
    "clamp_max": _alone,
}
# of two vectors, entry by entry; where they are equal torch takes half of each
PAIRS = frozenset(("maximum", "minimum"))
SIDES = {"gt": torch.gt, "le": torch.gt, "ge": torch.ge, "lt": torch.ge}
POOLS = frozenset(
    (
        *("max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("adaptive_max_pool2d", "adaptive_max_pool3d"),
    )
)
# along an axis; also the values, where it returns both
RANKS = frozenset(("max", "min", "argmax", "argmin", "sort", "topk"))
CHOICES = frozenset((*GATES, *SIDES)) | PAIRS | POOLS | RANKS


class Read(NamedTuple):
    """What a gate read.

    Attributes:
        value: Its numbers.
        edge: Where autograd knows them from.
    """

    value: torch.Tensor
    edge: Callable[[], GradientEdge]


class Faces(NamedTuple):
    """The inequalities of one gate: a signed sum of entries that it read is at most a bound.

    Attributes:
        terms: What was read, the entry in each row, and its sign in each row.
        slack: How far the sums are from their bounds, ``(rows,)``.
    """

    terms: tuple[tuple[Read, torch.Tensor, torch.Tensor], ...]
    slack: torch.Tensor


def chosen(x: torch.Tensor, bends: Sequence[Bend]) -> torch.Tensor:
    """For every entry on which piece it is, counted from the left; one bend gives booleans."""
    sides = [compare(x, bound) for compare, bound in bends]
    return sides[0] if len(sides) == 1 else sum(side.byte() for side in sides)


def faces(name: str, given: dict[str, Any], choice: torch.Tensor) -> Faces | None:
    """The inequalities of an operation of :data:`CHOICES`; None where they are not known.

    Args:
        name: The operation.
        given: Its arguments by name; a :class:`Read` for what depends on the input.
        choice: What it chose.
    """
    x, *rest = given.values()
    if name in GATES:
        return _between([(x, 1)], GATES[name](*rest))
    if name in PAIRS or name in SIDES:
        parts = [(read, sign) for read, sign in ((x, 1), (rest[0], -1)) if isinstance(read, Read)]
        bound = 0 if len(parts) == 2 else rest[0] if isinstance(x, Read) else -x
        return _between(parts, _alone(bound) if name in PAIRS else [(SIDES[name], bound)])
    return _pooled(name, x, rest, choice) if name in POOLS else _ranked(name, given, choice)


def _between(parts: Sequence[tuple[Read, int]], bends: Sequence[Bend]) -> Faces:
    """A signed sum of what was read stays between the bends next to it."""
    value = sum(sign * read.value for read, sign in parts)
    low, high = value.new_full((), -torch.inf), value.new_full((), torch.inf)
    for compare, bound in bends:
        above = compare(value, bound)
        bound = torch.as_tensor(bound, dtype=value.dtype, device=value.device)
        low = torch.where(above & (bound > low), bound, low)
        high = torch.where(~above & (bound < high), bound, high)
    limits = torch.stack([high, low], -1)  # of each entry
    row = limits.reshape(-1).isfinite().nonzero()[:, 0]
    entry, sign = row // 2, 1 - 2 * (row % 2).to(value.dtype)
    shape = limits.shape[:-1]
    terms = (
        (read, _entries(read.value.shape, value.device).expand(shape).reshape(-1)[entry], s * sign)
        for read, s in parts
    )
    slack = sign * (limits.reshape(-1)[row] - value.expand(shape).reshape(-1)[entry])
    return Faces(tuple(terms), slack)


def _among(read: Read, large: torch.Tensor, small: torch.Tensor) -> Faces:
    """Some entries are at least as large as others."""
    values = read.value.reshape(-1)
    slack = values[large] - values[small]
    one = torch.ones_like(slack)
    return Faces(((read, small, one), (read, large, -one)), slack)


def _pooled(name: str, read: Read, options: Sequence[Any], winners: torch.Tensor) -> Faces:
    """The entry that a window selects against each other one."""
    dims = int(name[name.index("pool") + 4])
    size = tuple(read.value.shape[-dims:])
    if name.startswith("adaptive"):
        pattern, _ = adaptive_avg_pool_pattern(1, size, winners.shape[-dims:])
    else:
        kernel, stride, padding, dilation, ceil_mode = options
        windows = pool_windows(size, kernel, stride, padding, ceil_mode, dilation)
        pattern, _ = avg_pool_of_windows(1, windows)
    row, col = (torch.tensor(side, device=winners.device) for side in (pattern.row, pattern.col))
    planes = winners.reshape(-1, pattern.shape[0])
    first = prod(size) * torch.arange(len(planes), device=winners.device)[:, None]
    winner = planes[:, row]
    lost = winner != col
    return _among(read, (first + winner)[lost], (first + col)[lost])


def _ranked(name: str, given: dict[str, Any], index: torch.Tensor) -> Faces | None:
    """What stands first along an axis against what follows, and the last of it against the rest."""
    read, axis = given["self"], given.get("dim")
    if not given.get("sorted", True):
        return None
    if name in ("sort", "topk"):
        falls = given["descending"] if name == "sort" else given["largest"]
    else:
        falls = name.endswith("max")
        index = index.reshape(1) if axis is None else index
        index = index if axis is None or given["keepdim"] else index.unsqueeze(axis)
    shape = read.value.shape if axis is not None else (read.value.numel(),)
    axis = axis or 0
    entries = _entries(shape, index.device).movedim(axis, -1)
    index = index.movedim(axis, -1)
    first = entries.gather(-1, index)
    others = torch.ones_like(entries, dtype=torch.bool).scatter(-1, index, False)
    rest = entries[others].reshape(*entries.shape[:-1], -1)
    large = torch.cat([first[..., :-1], first[..., -1:].expand_as(rest)], -1).reshape(-1)
    small = torch.cat([first[..., 1:], rest], -1).reshape(-1)
    return _among(read, *((large, small) if falls else (small, large)))


def _entries(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.arange(prod(shape), device=device).reshape(tuple(shape))
