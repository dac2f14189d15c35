"""The triangular system of a network, from one followed run."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .follow import Block, Follow
from .forms import MOVEMENTS, RULES
from .inputs import batched, is_floating
from .paths import require_values
from .system import BlockSystem

HINTS = {  # by a part of the name
    " from torch.": "give the network and its inputs one type: .double()",
    "mkldnn_rnn_layer": "use the network in float64: .double()",
    "native_dropout": "call .eval() first",
}


def block_system(model: nn.Module, *inputs: torch.Tensor) -> BlockSystem:
    r"""A network as one sparse triangular system over all its intermediate vectors.

    The run for these inputs is followed operation by operation. Each result is a block of unknowns,
    each block row a sum of matrices on earlier blocks: weights, averages and sums are fixed;
    gates, selections, attention and the statistics of norms depend on the data and are frozen at
    these inputs. Moving data (reshape, concatenation, padding, slices) makes no unknowns. What only
    decides coefficients, as queries and keys do, is not among the unknowns.

    Gates are written as follows. Piecewise linear ones as slope and offset, so that the system of
    such a network solves its local map. Smooth ones as the secant from zero,
    $f(x) = f(0) + \frac{f(x) - f(0)}x\, x$, at zero refused if the slope is infinite; softmax
    attention as its matrix on the values; a product of two vectors that both depend on the input as
    a diagonal of the gate (the left one if neither is a gate) times the other.

    Args:
        model: The network, in the mode in which it shall run; it stays as it is.
        inputs: Its arguments, each one input without the batch axis; at least one of floating-point
            numbers.

    Returns:
        A snapshot, a :class:`sparsemat.networks.BlockSystem` that does not follow the parameters.

    Raises:
        ValueError: The output is not finite or has no entries, a parameter has no values, or torch
            refuses the inputs; the message names the part.
        TypeError: There is no tensor of floating-point numbers, the output is none (nor a tuple
            that begins with one), or an operation on the way to it has no such form or changes the
            floating type; the message names it and the part.
        RuntimeError: An entry of the output is not that of the network.

    Source: chapter "A CNN as one matrix".
    """
    given = batched(model, inputs)
    require_values(model)
    floating = [x for x in given if is_floating(x)]
    entered = [x.clone() for x in floating]  # the network may write to its input
    run = Follow(model, RULES, MOVEMENTS)
    for x in floating:
        run.input(x)
    with run.following():
        output = model(*given)
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not is_floating(output):
            raise TypeError(f"the network must return a tensor, got {type(output).__name__}")
        output = output.clone()
    numbers = run.numbers(output)
    numbers = torch.zeros_like(output, dtype=torch.float64) if numbers is None else numbers
    blocks, numbers = _reached(model, run, len(floating), numbers)
    system = BlockSystem(blocks, [x.to(output.dtype) for x in entered], output, numbers)
    _verify(system)
    return system


def _reached(
    model: nn.Module, run: Follow, inputs: int, numbers: torch.Tensor
) -> tuple[list[Block], torch.Tensor]:
    """The blocks from which the output is made, numbered without the others."""
    blocks = run.blocks
    kept, waiting = set(range(inputs)), set(run.sources(numbers))
    while waiting:
        k = waiting.pop()
        block = blocks[k]
        if block.refused:
            where = block.path or type(model).__name__
            hints = [hint for part, hint in HINTS.items() if part in block.kind]
            hint = (*hints, "its Jacobian, from sparsemat.jacobian, may do instead")[0]
            raise TypeError(f"{where}: {block.kind} of the input has no form as matrices; {hint}")
        kept.add(k)
        waiting |= set().union(*(term.sources for term in block.terms)) - kept
    order, start = sorted(kept), 0
    shift = np.zeros(len(blocks), np.int64)
    for k in order:
        shift[k], start = blocks[k].start - start, start + blocks[k].size
    back = torch.from_numpy(np.repeat(shift, [block.size for block in blocks]))
    place = {k: at for at, k in enumerate(order)}

    def moved(at: slice | torch.Tensor) -> slice | torch.Tensor:
        if isinstance(at, slice):  # what lies between is read, too, hence kept
            by = int(back[at.start - 1])
            return slice(at.start - by, at.stop - by)
        at = at.long()
        return torch.where(at > 0, at - back[(at - 1).clamp(min=0)], 0)

    for k in order:
        block = blocks[k]
        block.start -= int(shift[k])
        block.terms = [
            term._replace(at=moved(term.at), sources=frozenset(place[j] for j in term.sources))
            for term in block.terms
        ]
    return [blocks[k] for k in order], moved(numbers)


def _verify(system: BlockSystem) -> None:
    """Compare the solution with the run, so that nothing unforeseen passes in silence."""
    if not system.y.isfinite().all():
        raise ValueError("the network must return finite numbers, got infinite ones or NaN")
    if not system.y.numel():
        raise ValueError("the network must return at least one number, got none")
    r = system.right_hand_side()
    z, eps = system.solve(r), torch.finfo(system.dtype).eps
    error, size = (system.output(z) - system.y).abs(), system.y.abs()
    allowed = eps**0.5 * size + 8 * eps * size.max()
    if not (error <= allowed).all():
        allowed += 1000 * eps * _rounding(system, z, r)
        allowed = allowed.clamp(max=eps**0.5 * size.max() + 1000 * eps * z.abs().max())
    if not (error <= allowed).all():
        i = int((error - allowed).argmax())
        raise RuntimeError(
            f"the system must give the network's output, {system.y[i]:.3g} at entry {i}, "
            f"got an error of {error[i]:.3g}; please report the network"
        )


def _rounding(system: BlockSystem, z: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """What becomes of the output, entry by entry, if all unknowns are off by a part."""
    chance = torch.Generator().manual_seed(0)
    moved = torch.zeros_like(system.y)
    for _ in range(2):  # one alone may cancel
        part = 2 * torch.rand(len(z), generator=chance, dtype=torch.float64).to(z) - 1
        moved += system.select(system.solve(part * (z.abs() + r.abs()))).abs()
    return moved
