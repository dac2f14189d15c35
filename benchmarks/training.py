"""Training: whole steps of every experiment's network, native and as matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from sparsemat.experiments import models, training
from sparsemat.experiments.configurations import EXPERIMENTS, Configuration

from .paired import Case

STEPS = 10_000  # of the learning rate's schedule: more than any case takes
GOAL, MEMORY_GOAL = 1.5, 1.3


def cases() -> Iterator[Case]:
    """Forward and backward pass and optimiser, native against tied, on a batch of random data."""
    for name, experiment in EXPERIMENTS.items():
        profile = "one-client" if "one-client" in experiment.profiles else "full"
        configuration = experiment.profiles[profile]
        inputs, targets = batch(configuration)
        native, tied = (
            step(configuration, variant, inputs, targets) for variant in ("native", "tied")
        )
        title = f"training step, {name}, batch {configuration.batch_size}"
        yield Case(title, ("torch's layers", native), ("tied", tied), GOAL, None, MEMORY_GOAL)


def batch(configuration: Configuration) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and targets of the right shapes; words as frequent as Zipf's law says."""
    network, count = configuration.network, configuration.batch_size

    def words(*shape: int) -> torch.Tensor:
        return (network.vocabulary ** torch.rand(shape)).long() - 1

    match network:
        case models.SeriesNetwork():
            inputs = torch.randn(count, network.window, network.variables)
            return inputs, torch.randn(count, network.variables)
        case models.LanguageModel():
            return words(count, network.length), words(count, network.length)
        case models.TextClassifier():
            return words(count, network.length), torch.randint(network.classes, (count,))
        case models.ImageNetwork():
            images = torch.randint(256, (count, network.channels, *network.size))
            return images.to(torch.uint8), torch.randint(network.classes, (count,))


def step(
    configuration: Configuration, variant: str, inputs: torch.Tensor, targets: torch.Tensor
) -> Callable[[], object]:
    """A training step of one variant, on the same examples every time."""
    model = models.build(configuration.network, variant, seed=0)
    optimizer, schedule = training.make_optimizer(configuration, model, STEPS * len(inputs))
    every = [torch.arange(len(inputs))]
    return lambda: list(
        training.steps(model, optimizer, schedule, configuration, inputs, targets, every)
    )
