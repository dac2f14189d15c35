"""The experiments: what is trained, on what, how, and what the paper reports."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .models import ImageNetwork


@dataclass(frozen=True)
class Configuration:
    """Everything that decides the numbers of a run but its variant and its seed.

    Args:
        dataset: Name in ``datasets.DATASETS``.
        task: Name in ``tasks.TASKS``.
        network: The network; every variant is built from it.
        batch_size: Examples a step.
        learning_rate: Peak of the one-cycle schedule of AdamW.
        weight_decay: Of AdamW.
        epochs: Passes over the training data, chosen before any run.
        precision: Of Lightning Fabric: "32-true", or "bf16-mixed" on a GPU.
    """

    dataset: str
    task: str
    network: ImageNetwork
    batch_size: int
    learning_rate: float
    epochs: int
    weight_decay: float = 0.01
    precision: str = "32-true"


@dataclass(frozen=True)
class Experiment:
    """One data set of the paper.

    Args:
        variants: What can be trained, the native network first.
        profiles: "full" for the results, "quick" for a look in seconds.
        paper: Metric that the paper reports for the native and for the matrix network, and the
            epochs at which it was reached (tables 1 and 2, section 7).
    """

    variants: tuple[str, ...]
    profiles: dict[str, Configuration]
    paper: dict[str, dict[str, float]]


_MNIST = Configuration(
    dataset="mnist",
    task="classification",
    network=ImageNetwork(
        channels=1,
        size=(28, 28),
        layers=(16, "P", 32, "P", 64, "P"),
        classes=10,
        mean=0.1307,
        std=0.3081,
    ),
    batch_size=128,
    learning_rate=3e-3,
    epochs=5,
)

EXPERIMENTS = {
    "mnist": Experiment(
        variants=("native", "tied", "untied"),
        profiles={
            "full": _MNIST,
            "quick": replace(_MNIST, dataset="mnist-sample", batch_size=50, epochs=6),
        },
        paper={
            "native": {"metric": 90.60, "epoch": 46},
            "matrix": {"metric": 92.48, "epoch": 38},
        },
    )
}
