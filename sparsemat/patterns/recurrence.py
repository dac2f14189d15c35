"""The patterns of a linear recurrence: a delay or the identity, times a dense block. NumPy only."""

from __future__ import annotations

from ..arguments import as_size
from ..kronecker import kron
from ..pattern import Pattern
from .simple import dense_pattern, identity_pattern, shift_pattern


def recurrence_patterns(steps: int, input_size: int, hidden_size: int) -> tuple[Pattern, Pattern]:
    r"""The patterns of N and B in the linear recurrence $h = N h + B x + c$.

    Both are time-major: entry ``t * hidden_size + i`` of h is unit i at step t. Row ``(t, i)`` of N
    holds ``weight_hh[i, j]`` in column ``(t - 1, j)``, row ``(t, i)`` of B holds
    ``weight_ih[i, j]`` in column ``(t, j)``. N is strictly block lower triangular, so
    $(I - N)^{-1} B$ exists; it is the explicit matrix, whose entries are polynomials in the
    parameters and no pattern.

    Args:
        steps: Length T of the sequence.
        input_size: Features d of an input.
        hidden_size: Units h of the hidden state.

    Returns:
        N of shape ``(T h, T h)`` with ``h * h`` parameters (the flattened ``weight_hh``) and B of
        shape ``(T h, T d)`` with ``h * d`` parameters (the flattened ``weight_ih``).

    Raises:
        ValueError: A size is below 1.

    Source: paper 4.3 and A.2, corrected in the chapter "Recurrence".
    """
    steps = as_size("steps", steps)
    input_size, hidden_size = as_size("input_size", input_size), as_size("hidden_size", hidden_size)
    return (
        kron(shift_pattern(steps), dense_pattern(hidden_size, hidden_size)),
        kron(identity_pattern(steps), dense_pattern(hidden_size, input_size)),
    )
