"""What a network is asked for: the loss it is trained on and the number that is reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Task:
    """A loss and a metric.

    Args:
        metric: Name of the number that is reported.
        outputs: What loss and score are taken of, from the model, inputs and targets.
        loss: Mean loss of a batch, from outputs and targets.
        score: Sum over a batch of each example's part in the metric, from outputs and targets.
        report: The metric, from the mean score.
        best: ``max`` or ``min``, whichever picks the better value.
    """

    metric: str
    outputs: Callable[[nn.Module, Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    report: Callable[[float], float]
    best: Callable


def _answers(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return model(inputs)


def _hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).sum()


TASKS = {
    "classification": Task(
        "accuracy", _answers, F.cross_entropy, _hits, lambda share: 100 * share, max
    ),
    # mean squared error, averaged over the variables, in units of their training variance
    "forecast": Task(
        "mse",
        _answers,
        F.mse_loss,
        lambda outputs, targets: (outputs - targets).square().mean(1).sum(),
        float,
        min,
    ),
    # outputs are the nats of every word
    "language": Task(
        "perplexity",
        lambda model, inputs, targets: model(inputs, targets),
        lambda nats, _: nats.mean(),
        lambda nats, _: nats.mean(1).sum(),
        math.exp,
        min,
    ),
}
