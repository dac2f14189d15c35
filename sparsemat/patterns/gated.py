"""The patterns of LSTM and GRU: fixed blocks, and diagonals that the data fill. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arguments import as_size
from ..kronecker import kron
from ..pattern import Pattern
from .simple import dense_pattern, diagonal_pattern, identity_pattern, shift_pattern


class GatedPattern(NamedTuple):
    """The pattern of the system $z = M z + E x + c$ of one gated layer, step by step.

    Attributes:
        m: Pattern of M, strictly lower triangular. Its parameters are those of its blocks, one
            after another.
        e: Pattern of E, whose parameters are the flattened ``weight_ih``.
        parts: Where in z each vector stands, time-major: name to rows.
        blocks: The number of parameters of each block of M, in order: name to number.
    """

    m: Pattern
    e: Pattern
    parts: dict[str, np.ndarray]
    blocks: dict[str, int]


def lstm_pattern(steps: int, input_size: int, hidden_size: int, proj_size: int = 0) -> GatedPattern:
    r"""The pattern of an LSTM over a sequence, $z_t = (a_t, c_t, m_t, h_t)$.

    With a the pre-activations of the gates i, f, g, o, S the delay by one step, $P_g$ the
    selection of a gate and capital letters for diagonal matrices of gates,

    $$a = B x + N h + b, \; c = F S c + I G P_g a, \; m = O K c, \; h = W_r m,$$

    where $G = \mathrm{diag}(\tanh(a_g)/a_g)$ and $K = \mathrm{diag}(\tanh(c)/c)$. Without a
    projection h is m, and z has no m.

    Args:
        steps: Length T of the sequence.
        input_size: Features d of an input.
        hidden_size: Units h.
        proj_size: Features of the projected state; 0 for none.

    Returns:
        The blocks are ``weight_hh``, ``forget`` (F), ``input`` (I G), ``output`` (O K) and, with a
        projection, ``weight_hr``; a diagonal has a parameter a step and unit.

    Raises:
        ValueError: A size is below 1, or ``proj_size`` below 0.

    Source: chapter "Gated recurrence".
    """
    t, d, h = _sizes(steps, input_size, hidden_size)
    out = as_size("proj_size", proj_size, 0) or h
    diagonal = diagonal_pattern(t * h)
    inner = "m" if proj_size else "h"
    blocks = {
        "weight_hh": ("a", "h", kron(shift_pattern(t), dense_pattern(4 * h, out))),
        "forget": ("c", "c", _delayed(t, h)),
        "input": ("c", "a", _from_gate(t, h, 2, 4)),
        "output": (inner, "c", diagonal),
    }
    sizes = {"a": 4 * h, "c": h, "h": h}
    if proj_size:
        sizes = {"a": 4 * h, "c": h, "m": h, "h": out}
        blocks["weight_hr"] = "h", "m", kron(identity_pattern(t), dense_pattern(out, h))
    return _stacked(t, sizes, blocks, "a", d)


def gru_pattern(steps: int, input_size: int, hidden_size: int) -> GatedPattern:
    r"""The pattern of a GRU over a sequence, $z_t = (u_t, v_t, a_t, h_t)$.

    With the gates r, z, n, S the delay by one step and $P_n$ the selection of a gate,

    $$u = B x + b_i, \; v = N h + b_h, \; a = P_n u + R P_n v, \; h = (1 - Z) K a + Z S h,$$

    where $K = \mathrm{diag}(\tanh(a)/a)$.

    Args:
        steps: Length T of the sequence.
        input_size: Features d of an input.
        hidden_size: Units h.

    Returns:
        The blocks are ``weight_hh``, ``one`` (a one), ``reset`` (R), ``new`` ((1 - Z) K) and
        ``update`` (Z); a diagonal has a parameter a step and unit.

    Raises:
        ValueError: A size is below 1.

    Source: chapter "Gated recurrence".
    """
    t, d, h = _sizes(steps, input_size, hidden_size)
    selection = _from_gate(t, h, 2, 3)
    one = Pattern(selection.shape, selection.row, selection.col, 0 * selection.index, 1)
    blocks = {
        "weight_hh": ("v", "h", kron(shift_pattern(t), dense_pattern(3 * h, h))),
        "one": ("a", "u", one),
        "reset": ("a", "v", selection),
        "new": ("h", "a", diagonal_pattern(t * h)),
        "update": ("h", "h", _delayed(t, h)),
    }
    return _stacked(t, {"u": 3 * h, "v": 3 * h, "a": h, "h": h}, blocks, "u", d)


def cell_pattern(input_size: int, hidden_size: int, rows: int, *, together: bool = True) -> Pattern:
    """The pattern of a cell's weights, which act on an input and below it a state.

    Args:
        input_size: Features d of an input.
        hidden_size: Units h of a state.
        rows: Rows of each of the two weights.
        together: Whether the two stand side by side, in one sum, or on the diagonal.

    Returns:
        Pattern with ``input_size + hidden_size`` columns; its parameters are the flattened
        ``weight_ih`` and then the flattened ``weight_hh``.

    Raises:
        ValueError: A size is below 1.
    """
    d, h = as_size("input_size", input_size), as_size("hidden_size", hidden_size)
    left, right = dense_pattern(as_size("rows", rows), d), dense_pattern(rows, h)
    below = 0 if together else rows
    row = np.concatenate([left.row, right.row + below])
    col = np.concatenate([left.col, right.col + d])
    index = np.concatenate([left.index, right.index + rows * d])
    return Pattern((rows + below, d + h), row, col, index, len(index))


def _sizes(steps: int, input_size: int, hidden_size: int) -> tuple[int, int, int]:
    return (
        as_size("steps", steps),
        as_size("input_size", input_size),
        as_size("hidden_size", hidden_size),
    )


def _delayed(steps: int, size: int) -> Pattern:
    """A diagonal times the delay by one step; the first step reads nothing."""
    row = np.arange(size, steps * size)
    return Pattern((steps * size, steps * size), row, row - size, row, steps * size)


def _from_gate(steps: int, size: int, gate: int, gates: int) -> Pattern:
    """A diagonal times the selection of one gate of the pre-activations of every step."""
    row = np.arange(steps * size)
    col = row // size * gates * size + gate * size + row % size
    return Pattern((steps * size, steps * gates * size), row, col, row, steps * size)


def _stacked(
    steps: int,
    sizes: dict[str, int],
    blocks: dict[str, tuple[str, str, Pattern]],
    entry: str,
    input_size: int,
) -> GatedPattern:
    width, start, parts = sum(sizes.values()), 0, {}
    for name, size in sizes.items():
        at = np.arange(steps * size)
        parts[name] = at // size * width + start + at % size
        start += size
    triples, numbers = [], {}
    for name, (to, source, block) in blocks.items():
        index = block.index + sum(numbers.values())
        triples.append((parts[to][block.row], parts[source][block.col], index))
        numbers[name] = block.num_parameters
    row, col, index = map(np.concatenate, zip(*triples, strict=True))
    side = steps * width
    m = Pattern((side, side), row, col, index, sum(numbers.values()))
    b = kron(identity_pattern(steps), dense_pattern(sizes[entry], input_size))
    e = Pattern((side, b.shape[1]), parts[entry][b.row], b.col, b.index, b.num_parameters)
    return GatedPattern(m, e, parts, numbers)
