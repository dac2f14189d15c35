"""The experiments: what is trained, on what, how, and what the paper reports."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import paper
from .models import ImageNetwork, LanguageModel, Network, SeriesNetwork, TextClassifier


@dataclass(frozen=True)
class Configuration:
    """Everything that decides the numbers of a run but its variant and its seed.

    Args:
        dataset: Name in ``datasets.DATASETS``.
        task: Name in ``tasks.TASKS``.
        network: The network; every variant is built from it.
        batch_size: Examples a step, over all devices.
        learning_rate: Peak of the one-cycle schedule, or the first rate.
        epochs: Passes over the training data, chosen before any run: the budget of every variant.
        weight_decay: Of the optimiser.
        precision: Of Lightning Fabric: "32-true", or "bf16-mixed" on a GPU.
        optimizer: "adamw", "adam" or "sgd" (momentum 0.9, Nesterov).
        schedule: "one-cycle", or "steps": the rate times ``factor`` at every milestone.
        milestones: Epochs of the step schedule; none for a constant rate.
        factor: Of the step schedule.
        augmentation: Name in ``augmentation.AUGMENTATIONS``.
        clip: Largest norm of the gradient; None for no clipping.
        patience: Stop when the validation loss has not improved for so many epochs; None: never.
        result: The epoch whose test metric is the result: "last", or "selected" for the one with
            the least validation loss.
    """

    dataset: str
    task: str
    network: Network
    batch_size: int
    learning_rate: float
    epochs: int
    weight_decay: float = 0.01
    precision: str = "32-true"
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    milestones: tuple[int, ...] = ()
    factor: float = 1.0
    augmentation: str = "none"
    clip: float | None = None
    patience: int | None = None
    result: str = "last"


@dataclass(frozen=True)
class Experiment:
    """One data set of the paper.

    Args:
        profiles: "full" for the results, "quick" for a look in seconds, "paper" for the recipe of
            the paper's table 1 on our network; each a configuration.
        paper: Metric that the paper reports for the native and for the matrix network, None where
            the number is not in the text, and the epochs at which it was reached (tables 1 and 2,
            section 7).
    """

    profiles: dict[str, Configuration]
    paper: dict[str, dict[str, float | None]]

    @property
    def variants(self) -> tuple[str, ...]:
        """What can be trained, the native network first."""
        return self.profiles["full"].network.variants


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

_CIFAR10 = Configuration(
    dataset="cifar10",
    task="classification",
    network=ImageNetwork(
        channels=3,
        size=(32, 32),
        layers=(16, "P", 32, 32, "P", 64, 64, "P", 128, 128, "G"),
        classes=10,
        mean=0.4734,
        std=0.2516,
    ),
    batch_size=128,
    learning_rate=5e-3,
    epochs=18,
    augmentation="crop and flip",
)
_CIFAR100 = replace(
    _CIFAR10,
    dataset="cifar100",
    network=replace(_CIFAR10.network, classes=100),
    batch_size=64,
    epochs=20,
)

_TINY = replace(
    _CIFAR10,
    dataset="tiny-imagenet",
    network=ImageNetwork(
        channels=3,
        size=(64, 64),
        layers=(16, "P", 32, "P", 64, "P", 128, "P", 128, "G"),
        classes=200,
        mean=0.4482,
        std=0.2770,
    ),
    epochs=10,
)

_ETTH1 = Configuration(
    dataset="etth1",
    task="forecast",
    network=SeriesNetwork(variables=7, window=24, hidden=64),
    batch_size=64,
    learning_rate=3e-3,
    epochs=20,
)
_MT200 = Configuration(
    dataset="electricity-mt200",
    task="forecast",
    network=SeriesNetwork(variables=1, window=168, hidden=64),
    batch_size=32,
    learning_rate=2e-3,
    epochs=12,
    clip=1.0,
)
_TWO_CLIENTS = replace(
    _MT200,
    dataset="electricity-two-clients",
    network=replace(_MT200.network, variables=2),
)
_ELECTRICITY = replace(
    _MT200, dataset="electricity", network=replace(_MT200.network, variables=321, hidden=256)
)

_AG_NEWS = Configuration(
    dataset="ag-news",
    task="classification",
    network=TextClassifier(
        vocabulary=20_002,
        length=64,
        classes=4,
        dim=128,
        heads=4,
        feedforward=256,
        layers=2,
        dropout=0.3,
    ),
    batch_size=128,
    learning_rate=2e-3,
    epochs=2,
)

_PTB = Configuration(
    dataset="ptb",
    task="language",
    network=LanguageModel(
        vocabulary=10_000,
        length=64,
        dim=128,
        heads=4,
        feedforward=256,
        layers=1,
        dropout=0.2,
        cuts=(1000, 4000),
        readout_dropout=0.2,
    ),
    batch_size=24,
    learning_rate=4e-3,
    epochs=12,
    clip=1.0,
)
_WIKITEXT2 = replace(
    _PTB,
    dataset="wikitext-2",
    network=replace(
        _PTB.network,
        vocabulary=33_278,
        dropout=0.1,
        cuts=(1000, 4000, 12_000),
        readout_dropout=0.0,
    ),
    epochs=3,
)

EXPERIMENTS = {
    "mnist": Experiment(
        profiles={
            "full": _MNIST,
            "quick": replace(_MNIST, dataset="mnist-sample", batch_size=50, epochs=6),
            "paper": replace(_MNIST, **paper.recipe("mnist")),
        },
        paper=paper.RESULTS["mnist"],
    ),
    "cifar10": Experiment(
        profiles={
            "full": _CIFAR10,
            "quick": replace(
                _CIFAR10,
                dataset="cifar10-standin",
                network=replace(_CIFAR10.network, layers=(8, "P", 16, "P", 16, "G")),
                batch_size=50,
                epochs=5,
            ),
            "paper": replace(_CIFAR10, **paper.recipe("cifar10")),
        },
        paper=paper.RESULTS["cifar10"],
    ),
    "cifar100": Experiment(
        profiles={
            "full": _CIFAR100,
            "quick": replace(
                _CIFAR100,
                dataset="cifar100-standin",
                network=replace(_CIFAR100.network, layers=(8, "P", 16, "P", 32, "G")),
                batch_size=50,
                epochs=4,
            ),
            "paper": replace(_CIFAR100, **paper.recipe("cifar100")),
        },
        paper=paper.RESULTS["cifar100"],
    ),
    "tiny-imagenet": Experiment(
        profiles={
            "full": _TINY,
            "quick": replace(
                _TINY,
                dataset="tiny-imagenet-standin",
                network=replace(_TINY.network, layers=(8, "P", 8, "P", 16, "P", 16, "G")),
                batch_size=50,
                epochs=3,
            ),
            "paper": replace(_TINY, **paper.recipe("tiny-imagenet")),
        },
        paper=paper.RESULTS["tiny-imagenet"],
    ),
    "etth1": Experiment(
        profiles={
            "full": _ETTH1,
            "quick": replace(_ETTH1, dataset="etth1-standin", epochs=5),
            "paper": replace(_ETTH1, **paper.recipe("etth1")),
        },
        paper=paper.RESULTS["etth1"],
    ),
    "electricity": Experiment(
        profiles={
            "full": _ELECTRICITY,
            "one-client": _MT200,
            "two-clients": _TWO_CLIENTS,
            "quick": replace(
                _MT200,
                dataset="electricity-sample",
                network=replace(_MT200.network, hidden=16),
                batch_size=128,
                learning_rate=3e-3,
                epochs=4,
            ),
            "paper": replace(_ELECTRICITY, **paper.recipe("electricity")),
            "paper-two-clients": replace(_TWO_CLIENTS, **paper.recipe("electricity")),
        },
        paper=paper.RESULTS["electricity"],
    ),
    "ag-news": Experiment(
        profiles={
            "full": _AG_NEWS,
            "quick": replace(
                _AG_NEWS,
                dataset="ag-news-standin",
                network=replace(
                    _AG_NEWS.network, vocabulary=2002, dim=32, feedforward=64, layers=1
                ),
                batch_size=50,
                epochs=3,
            ),
            "paper": replace(_AG_NEWS, **paper.recipe("ag-news")),
        },
        paper=paper.RESULTS["ag-news"],
    ),
    "wikitext-2": Experiment(
        profiles={
            "full": _WIKITEXT2,
            "quick": replace(
                _WIKITEXT2,
                dataset="wikitext-2-sample",
                network=replace(
                    _WIKITEXT2.network, vocabulary=4828, dim=32, feedforward=64, cuts=(500,)
                ),
                epochs=1,
            ),
            "paper": replace(_WIKITEXT2, **paper.recipe("wikitext-2")),
        },
        paper=paper.RESULTS["wikitext-2"],
    ),
    "ptb": Experiment(
        profiles={
            "full": _PTB,
            "quick": replace(
                _PTB,
                dataset="ptb-standin",
                network=replace(
                    _PTB.network,
                    vocabulary=200,
                    dim=32,
                    feedforward=64,
                    dropout=0.0,
                    cuts=(),
                    readout_dropout=0.0,
                ),
                batch_size=8,
                learning_rate=8e-3,
                epochs=2,
            ),
            "paper": replace(_PTB, **paper.recipe("ptb")),
        },
        paper=paper.RESULTS["ptb"],
    ),
}
