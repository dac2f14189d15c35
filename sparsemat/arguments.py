"""Arguments made what they should be, or refused with the rule and the value. NumPy only."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import numpy as np


def as_tuple(
    name: str, value: int | Sequence[int], length: int | None = None, least: int = 1
) -> tuple[int, ...]:
    """One integer a dimension, from one for all or a sequence; a sequence of one serves all.

    Raises:
        ValueError: The length differs, or an entry is no integer or below ``least``.
    """
    if isinstance(value, (str, bytes, dict, set)) or (
        getattr(value, "ndim", None) == 0 and not hasattr(value, "__index__")
    ):
        raise ValueError(f"{name} must be integers of at least {least}, got {value!r}")
    values = tuple(value) if _is_sequence(value) else (value,)
    if len(values) == 1:
        values *= length or 1
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must have {length} entries, one a dimension, got {values}")
    return tuple(as_size(name, v, least, "integers") for v in values) or _refuse_empty(name, least)


def as_size(name: str, value: int, least: int | None = 1, what: str = "an integer") -> int:
    """An integer of at least ``least``, if there is one; booleans and rounded numbers are none.

    ``what`` is the word for it in the message.

    Raises:
        ValueError: With the rule and the value.
    """
    try:
        number = operator.index(value)
    except (TypeError, RuntimeError):  # a tensor of a float raises the latter
        number = None
    is_integer = number is not None and not isinstance(value, (bool, np.bool_))
    if not is_integer or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be {what}{bound}, got {value!r}")
    return number


def as_array(name: str, value: object) -> np.ndarray:
    """An array of one axis, from anything that NumPy makes one of; tensors come to the CPU.

    Raises:
        ValueError: With what it is instead.
    """
    try:
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    except ValueError:  # lists of several lengths
        array = None
    if array is None or array.ndim != 1:
        shape = "" if array is None or array.ndim == 0 else f" of shape {array.shape}"
        got = f"an array{shape}" if shape else repr(value)
        raise ValueError(f"{name} must be one-dimensional, got {got}")
    return array


def as_flag(name: str, value: bool) -> bool:
    """True or False, and nothing that merely counts as one.

    Raises:
        ValueError: With the rule and the value.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_channels(in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """The counts as integers; refuses those that groups do not divide.

    Raises:
        ValueError: With the rule and the values.
    """
    counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
    counts = {name: as_size(name, value) for name, value in counts.items()}
    for name in ("in_channels", "out_channels"):
        if counts[name] % counts["groups"]:
            raise ValueError(
                f"groups must divide {name}, got groups={groups} and {name}={counts[name]}"
            )
    return tuple(counts.values())


def _is_sequence(value: object) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


def _refuse_empty(name: str, least: int) -> tuple[int, ...]:
    raise ValueError(f"{name} must be integers of at least {least}, got none")
