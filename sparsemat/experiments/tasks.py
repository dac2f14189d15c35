"""What a network is asked for: the loss it is trained on and the number that is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Task:
    """A loss and a metric.

    Args:
        loss: Mean loss of a batch, from outputs and targets.
        metric: Name of the number that is reported.
        score: Sum over a batch of each example's part in the metric.
        scale: The metric is ``scale`` times the mean score.
        best: ``max`` or ``min``, whichever picks the better value.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metric: str
    score: Callable[[Tensor, Tensor], Tensor]
    scale: float
    best: Callable


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).sum()


TASKS = {"classification": Task(F.cross_entropy, "accuracy", _hits, scale=100.0, best=max)}
