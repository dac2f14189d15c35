"""Which part of a network is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def running(model: nn.Module) -> Iterator[list[str]]:
    """The paths of the parts that are running, the innermost last; empty for the network itself."""
    paths, handles = [""], []

    def leave(*_: object) -> None:
        paths.pop()

    try:
        for path, part in model.named_modules():
            enter = lambda *_, path=path: paths.append(path)  # noqa: E731
            handles.append(part.register_forward_pre_hook(enter))
            handles.append(part.register_forward_hook(leave, always_call=True))
        yield paths
    finally:
        for handle in handles:
            handle.remove()
