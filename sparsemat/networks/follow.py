"""A run of a network, followed entry by entry: every number knows which unknown it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..convert.record import undisturbed
from .inputs import is_numeric
from .operators import Operator
from .paths import running

GATE, OPAQUE = 1, 2  # ranks of a block; of two factors the higher one is the coefficient


class Tracked(NamedTuple):
    """A tensor of a run, and which unknown each of its entries is.

    Attributes:
        value: The tensor.
        numbers: Of the same shape, float64: the unknown, counted from 1; 0 for what does not depend
            on the input. Moving data moves these numbers, by the same operation.
    """

    value: torch.Tensor
    numbers: torch.Tensor

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Tracked:
        """Both moved in the same way."""
        return Tracked(move(self.value), move(self.numbers))


class Term(NamedTuple):
    """One summand of a block: an operator on entries of earlier blocks."""

    operator: Operator
    at: slice | torch.Tensor  # their numbers; a slice where they follow one another
    known: torch.Tensor | None  # the values of the entries that are no unknowns, flat
    sources: frozenset[int]  # the blocks of the others


@dataclass
class Form:
    """What a rule makes of an operation: the sum of operators on tracked tensors, and a constant.

    Attributes:
        terms: The operators and what they act on.
        constant: What is added, None for nothing; anything that broadcasts to the result.
        depends: What of the operators depends on the data, empty if nothing.
        rank: ``GATE`` if the result is by its nature a coefficient.
    """

    terms: Sequence[tuple[Operator, Tracked]]
    constant: torch.Tensor | None = None
    depends: str = ""
    rank: int = 0


@dataclass
class Block:
    """The unknowns that one operation makes.

    Attributes:
        path: The part that was running; empty for the network's own code.
        kind: The operation, ``"input"`` for an input.
        shape: Shape of the result.
        start: The first unknown, from 0.
        terms: What its rows are.
        constant: What is added, flat.
        depends: What of the rows depends on the data.
        rank: See :class:`Form`.
        refused: Whether there is no rule for the operation, so that it has no rows.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    start: int
    terms: list[Term] = field(default_factory=list)
    constant: torch.Tensor | None = None
    depends: str = ""
    rank: int = 0
    refused: bool = False

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return torch.Size(self.shape).numel()


Rule = Callable[["Follow", tuple, dict[str, Any], Any], "Form | None"]
# of the shape only
CONSTANT = """
new_empty new_empty_strided new_zeros new_ones new_full zeros_like ones_like full_like empty_like
rand_like randn_like
"""
# also in place: the same storage, seen otherwise
VIEWS = "as_strided squeeze unsqueeze transpose t detach"
LEFT_ALONE = frozenset((*CONSTANT.split(), *VIEWS.split()))


class Follow(TorchDispatchMode):
    """Follows what runs under it; an operation without a rule makes a block that is refused.

    Args:
        model: The network, for the paths.
        rules: For the name of an operation the function that tells its form.
        movements: For the name of an operation that only moves data, the place of the argument that
            is a value to fill with, or None.
    """

    def __init__(
        self, model: nn.Module, rules: dict[str, Rule], movements: dict[str, int | None]
    ) -> None:
        super().__init__()
        self.model, self.rules, self.movements = model, rules, movements
        self.blocks: list[Block] = []
        self.paths = [""]
        # by address and type, for all entries of a storage
        self.storages: dict[int, dict[torch.dtype, torch.Tensor]] = {}
        self.alive: dict[int, torch.Tensor] = {}  # so that no address comes twice

    @contextmanager
    def following(self):
        """The mode, with nothing fused and the network as it was afterwards."""
        with (
            running(self.model) as self.paths,
            undisturbed(self.model),
            sdpa_kernel(SDPBackend.MATH),
            self,
        ):
            yield

    def input(self, x: torch.Tensor) -> None:
        """Make the entries of a tensor unknowns."""
        self._place(x, self._number(Block("", "input", tuple(x.shape), self._next())))

    def block(self, kind: str, shape: Sequence[int], form: Form) -> torch.Tensor:
        """Make the results of an operation unknowns; returns their numbers."""
        block = Block(self.paths[-1], kind, tuple(shape), self._next())
        block.depends, block.rank = form.depends, form.rank
        for operator, (value, numbers) in form.terms:
            if tuple(numbers.shape) != tuple(operator.source):
                value, numbers = (t.reshape(operator.source) for t in (value, numbers))
            flat = numbers.reshape(-1).long()
            known = torch.where(flat == 0, value.reshape(-1), 0) if not flat.all() else None
            block.terms.append(Term(operator, _as_slice(flat), known, self.sources(flat)))
        if form.constant is not None:
            block.constant = form.constant.expand(block.shape).reshape(-1).clone()
        return self._number(block)

    def numbers(self, x: torch.Tensor) -> torch.Tensor | None:
        """The numbers of a tensor's entries, None if nothing in its storage is an unknown."""
        found = self.storages.get(x.untyped_storage().data_ptr())
        if found is None or not is_numeric(x) or not x.numel():
            return None
        if x.dtype not in found:  # the storage of real numbers seen as complex ones, say
            (other,) = list(found.values())[:1]
            kinds = [self.blocks[k].kind for k in self.sources(other) if self.blocks[k].refused]
            kind = kinds[0] if kinds else f"a view as {x.dtype}"
            found[x.dtype] = self._refuse(kind, (_length(x),))
        return found[x.dtype].as_strided(x.shape, x.stride(), x.storage_offset())

    def sources(self, numbers: torch.Tensor) -> frozenset[int]:
        """The blocks that some unknowns belong to."""
        starts, at = [block.start for block in self.blocks], _as_slice(numbers.reshape(-1))
        if isinstance(at, slice):
            first, last = np.searchsorted(starts, (at.start - 1, at.stop - 2), "right")
            return frozenset(range(first - 1, last))
        at = np.searchsorted(starts, at.numpy() - 1, "right")  # 0 for what is no unknown
        return frozenset(int(k) - 1 for k in np.flatnonzero(np.bincount(at)) if k)

    def rank(self, x: Tracked) -> int:
        """The highest rank among the blocks that a tensor's entries come from."""
        return max((self.blocks[k].rank for k in self.sources(x.numbers)), default=0)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        name = name.removesuffix("_") if not name.endswith("__") else name
        if function.is_view or name in LEFT_ALONE:
            return function(*args, **kwargs)
        written = _written(function, args, kwargs)
        outs = {k: x for k, x in kwargs.items() if any(x is out for out in written)}  # out=
        named = {k: self._tracked(v) for k, v in kwargs.items() if k not in outs}
        given = list(map(self._tracked, args))
        if not any(map(_depends, (*given, *named.values()))):
            result = function(*args, **kwargs)
            for out in outs.values():  # what it was is gone
                if isinstance(self._tracked(out), Tracked):
                    self._place(out, torch.zeros(out.shape, dtype=torch.float64))
            return result
        addresses = {x.untyped_storage().data_ptr() for x in written}
        given = [_copied(arg, addresses) for arg in given]  # what they were, for the rule
        named = {k: _copied(arg, addresses) for k, arg in named.items()}
        result = function(*args, **kwargs)
        made = result if isinstance(result, (tuple, list)) else (result,)
        numeric = list(filter(is_numeric, written if result is None else made))
        if not numeric:
            return result  # a comparison, an index or a shape is a choice
        kinds = _kinds((given, *named.values())) - {numeric[0].dtype}
        rule = self.rules.get(name)
        if kinds and (rule or name in self.movements):
            name = f"{name} from {', '.join(sorted(map(str, kinds)))} to {numeric[0].dtype}"
            rule = None
        if name in self.movements:
            numbers = self._moved(function, name, given, named, outs)
            for out, moved in zip(made, numbers, strict=True):
                self._place(out, moved)
            return result
        if any(out.is_complex() for out in (*numeric, *args) if torch.is_tensor(out)):
            rule = None
        form = rule and rule(self, tuple(given), named, result)
        for out in numeric:
            if form is not None:  # the others are statistics
                self._place(out, self.block(name, out.shape, form))
                break
            self._place(out, self._refuse(name, out.shape))
        return result

    def _next(self) -> int:
        return self.blocks[-1].start + self.blocks[-1].size if self.blocks else 0

    def _number(self, block: Block) -> torch.Tensor:
        self.blocks.append(block)
        first = block.start + 1
        return torch.arange(first, first + block.size, dtype=torch.float64).reshape(block.shape)

    def _refuse(self, kind: str, shape: Sequence[int]) -> torch.Tensor:
        block = Block(self.paths[-1], kind, tuple(shape), self._next(), rank=OPAQUE, refused=True)
        return self._number(block)

    def _place(self, x: torch.Tensor, numbers: torch.Tensor) -> None:
        """Note the numbers of a tensor's entries, for all that share its storage."""
        address = x.untyped_storage().data_ptr()
        self.alive[address] = x
        whole = self.storages.get(address, {}).get(x.dtype)
        if whole is None:
            whole = torch.zeros(_length(x), dtype=torch.float64)
        self.storages[address] = {x.dtype: whole}
        whole.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(numbers)

    def _tracked(self, arg: Any) -> Any:
        if isinstance(arg, (list, tuple)):
            return type(arg)(self._tracked(part) for part in arg)
        if not torch.is_tensor(arg):
            return arg
        numbers = self.numbers(arg)
        return arg if numbers is None or not numbers.any() else Tracked(arg, numbers)

    def _moved(
        self, function: Any, name: str, args: list, kwargs: dict[str, Any], outs: dict[str, Any]
    ) -> tuple:
        fill = self.movements[name]
        if fill is not None and fill < len(args) and isinstance(args[fill], (int, float)):
            args = [*args[:fill], 0, *args[fill + 1 :]]
        kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "layout", "device")}
        kwargs = {k: _only_numbers(v) for k, v in kwargs.items()}
        kwargs |= {k: torch.empty(0, dtype=torch.float64) for k in outs}
        result = function(*map(_only_numbers, args), **kwargs)
        return result if isinstance(result, (tuple, list)) else (result,)


def _as_slice(at: torch.Tensor) -> slice | torch.Tensor:
    """The same numbers as a slice where they follow one another."""
    if len(at) and at[0] > 0 and at[-1] - at[0] == len(at) - 1 and (at.diff() == 1).all():
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


def _length(x: torch.Tensor) -> int:
    return x.untyped_storage().nbytes() // x.element_size()


def _depends(arg: Any) -> bool:
    if isinstance(arg, Tracked):
        return True
    return isinstance(arg, (list, tuple)) and any(map(_depends, arg))


def _written(function: Any, args: tuple, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operation writes to."""
    expected = function._schema.arguments
    given = dict(zip((argument.name for argument in expected), args, strict=False)) | kwargs
    writes = [a.name for a in expected if a.alias_info is not None and a.alias_info.is_write]
    return [x for x in tree_leaves([given.get(name) for name in writes]) if torch.is_tensor(x)]


def _copied(arg: Any, addresses: set[int]) -> Any:
    """The same, what is in one of some storages with a storage of its own."""
    if isinstance(arg, Tracked):
        shared = arg.value.untyped_storage().data_ptr() in addresses
        return arg.map(torch.clone) if shared else arg
    if isinstance(arg, (list, tuple)):
        return type(arg)(_copied(part, addresses) for part in arg)
    shared = torch.is_tensor(arg) and arg.untyped_storage().data_ptr() in addresses
    return arg.clone() if shared else arg


def _kinds(arg: Any) -> set[torch.dtype]:
    """The types of what is tracked."""
    if isinstance(arg, Tracked):
        return {arg.value.dtype}
    return set().union(*map(_kinds, arg)) if isinstance(arg, (list, tuple)) else set()


def _only_numbers(arg: Any) -> Any:
    """The numbers of what is tracked, zeros for other values; indices and masks stay."""
    if isinstance(arg, Tracked):
        return arg.numbers
    if isinstance(arg, (list, tuple)):
        return type(arg)(_only_numbers(part) for part in arg)
    if is_numeric(arg):
        return torch.zeros_like(arg, dtype=torch.float64)
    return arg
