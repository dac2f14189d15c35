"""Requests that memory cannot hold, refused before anything is allocated."""

from __future__ import annotations

import os


def host_memory() -> int:
    """Bytes of the machine's main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require(what: str, needed: int, total: int | None = None, where: str = "cpu") -> None:
    """Refuse a request that is larger than the whole memory.

    Args:
        what: Name of the request in the message.
        needed: Bytes it takes.
        total: Bytes there are; the main memory if None.
        where: Name of that memory in the message.

    Raises:
        MemoryError: With both sizes.
    """
    total = host_memory() if total is None else total
    if needed > total:
        raise MemoryError(
            f"{what} takes {needed / 2**30:,.1f} GiB, "
            f"but {where} memory is {total / 2**30:,.1f} GiB; keep it sparse"
        )
