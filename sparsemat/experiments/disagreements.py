"""On which test images trained networks give different answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor, nn

from . import records, weights
from .files import atomic
from .training import EVALUATION_BATCH

ROUNDED = 0.05  # percentage points by which half precision may move an accuracy


@torch.no_grad()
def collect(results: Path, names: Sequence[str]) -> Path:
    """Keep the test images on which runs disagree, with all answers, beside their weights.

    Args:
        results: Folder of records.
        names: Stems of the records of classifiers of images whose weights were kept, all on one
            data set.

    Returns:
        The file ``results/weights/EXPERIMENT-disagreements.safetensors`` that :func:`read` reads.

    Raises:
        ValueError: The runs are not of one data set, or a network does not reach its record's
            accuracy.
    """
    found = [records.read(results / f"{name}.json") for name in names]
    images, truth = tested(found)
    models = (weights.load(results, name) for name in names)
    given = torch.stack(
        [answers(model, run, images, truth) for model, run in zip(models, found, strict=True)], 1
    )
    (at,) = (given != given[:, :1]).any(1).nonzero(as_tuple=True)
    right = (given == truth[:, None]).sum(0)
    kept = {"index": at, "truth": truth[at], "answers": given[at], "right": right}
    path = results / weights.FOLDER / f"{found[0]['experiment']}-disagreements.safetensors"
    with atomic(path) as partial:
        tensors = {name: tensor.contiguous() for name, tensor in kept.items()}
        save_file(tensors | {"images": images[at]}, partial, metadata={"names": " ".join(names)})
    return path


def tested(runs: Sequence[dict]) -> tuple[Tensor, Tensor]:
    """The test images that all these runs classify, and their classes.

    Args:
        runs: Their records.

    Raises:
        ValueError: The runs do not classify the same data, or those that are here are others.
    """
    told = {(run["experiment"], run["data"]["fingerprint"], run["metric"]) for run in runs}
    if len(told) != 1 or runs[0]["metric"] != "accuracy":
        names = ", ".join(map(records.name_of, runs))
        raise ValueError(f"the runs must classify the same data, got {names}")
    return weights.data_of(runs[0]).test


@torch.no_grad()
def answers(model: nn.Module, run: dict, images: Tensor, truth: Tensor) -> Tensor:
    """The classes that the network of a run answers.

    Args:
        model: The network, for evaluation.
        run: Its record.
        images: The test images of the run.
        truth: Their classes, ``(N,)``.

    Returns:
        Tensor of shape ``(N,)``.

    Raises:
        ValueError: They do not reach the record's accuracy.
    """
    given = torch.cat([model(x).argmax(1) for x in images.split(EVALUATION_BATCH)])
    accuracy, expected = 100 * (given == truth).double().mean().item(), run["last"]["accuracy"]
    if abs(accuracy - expected) > ROUNDED:
        name = records.name_of(run)
        raise ValueError(f"{name} must reach its record's {expected}, got {accuracy}")
    return given


def read(results: Path | str, experiment: str) -> dict[str, Tensor]:
    """What :func:`collect` kept.

    Returns:
        ``index`` of the images in the test set ``(N,)``, ``images`` ``(N, channels, height,
        width)``, ``truth`` ``(N,)``, ``answers`` ``(N, runs)`` in the order of the names, and
        ``right``, how many of *all* test images each run gets right ``(runs,)``.
    """
    return load_file(Path(results) / weights.FOLDER / f"{experiment}-disagreements.safetensors")


def pairs(right: Mapping[str, Tensor]) -> pd.DataFrame:
    """McNemar's exact test for every two runs: do they fail equally often?

    Only the images that one of the two gets right and the other does not tell them apart.

    Args:
        right: By the name of each run, whether it gets each image right, bool ``(N,)``.

    Returns:
        One row a pair: ``first`` and ``second``, the numbers of images that only the one gets
        right, ``only first`` and ``only second``, and ``p``, the probability of numbers at least
        as uneven if both runs fail equally often.
    """
    rows = []
    for one, other in combinations(right, 2):
        only = [int((right[a] & ~right[b]).sum()) for a, b in ((one, other), (other, one))]
        p = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
        rows.append((one, other, *only, p))
    return pd.DataFrame(rows, columns=["first", "second", "only first", "only second", "p"])
