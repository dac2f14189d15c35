"""What trained image networks have learned, small enough to keep where their weights are not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import sparsemat as sm

from . import checkpoints, models, records, weights
from .disagreements import answers, tested
from .files import atomic


@dataclass(frozen=True)
class Learned:
    """What :func:`collect` kept of some runs, by variant.

    Args:
        records: Their records.
        filters: Of the first convolution, ``(outputs, inputs, height, width)``; of the untied
            network those of the nearest tied matrix as "untied, mean", and those at the pixel in
            the middle of the image as "untied, a pixel".
        distances: Of each convolution of the untied network to the nearest tied matrix, by layer;
            see :func:`weights.distance_to_tied`.
        right: Whether each test image is classified rightly, bool ``(N,)``.
    """

    records: dict[str, dict]
    filters: dict[str, Tensor]
    distances: dict[str, float]
    right: dict[str, Tensor]


@torch.no_grad()
def collect(results: Path, runs: Path, names: Sequence[str]) -> Path:
    """Keep what runs have learned.

    Args:
        results: Folder of records.
        runs: Folder with the records and checkpoints of the runs.
        names: Stems of their records: runs of one experiment, one a variant.

    Returns:
        The file ``results/weights/EXPERIMENT-learned.safetensors`` that :func:`read` reads.

    Raises:
        ValueError: The runs are not of one experiment and data, two have one variant, a checkpoint
            is not that of its record, or a network does not reach its record's accuracy.
    """
    found = {}
    for name in names:
        run = records.read(runs / f"{name}.json")
        if run["variant"] in found:
            raise ValueError(f"each run must have a variant of its own, got {', '.join(names)}")
        found[run["variant"]] = run
    images, truth = tested(list(found.values()))
    experiment, tensors = run["experiment"], {}
    for name, (variant, run) in zip(names, found.items(), strict=True):
        checkpoint = checkpoints.path_of(runs, name, run["profile"])
        model = weights.restored(run, checkpoint).eval()
        tensors[f"right/{variant}"] = answers(model, run, images, truth) == truth
        tensors |= (
            _untied(run, model)
            if variant == "untied"
            else {f"filters/{variant}": model.conv1.weight.clone()}
        )
    path = results / weights.FOLDER / f"{experiment}-learned.safetensors"
    with atomic(path) as partial:
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(packed, partial, metadata={"records": json.dumps(found)})
    return path


def read(results: Path | str, experiment: str) -> Learned:
    """What :func:`collect` kept of an experiment's runs.

    Args:
        results: Folder of records.
        experiment: The experiment's name.
    """
    path = Path(results) / weights.FOLDER / f"{experiment}-learned.safetensors"
    parts = {"filters": {}, "distances": {}, "right": {}}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            part, name = key.split("/")
            parts[part][name] = file.get_tensor(key)
        found = json.loads(file.metadata()["records"])
    parts["distances"] = {name: d.item() for name, d in parts["distances"].items()}
    return Learned(records=found, **parts)


def _untied(run: dict, model: nn.Module) -> dict[str, Tensor]:
    network = records.find(run["experiment"], run["variant"], run["profile"]).network
    tied = models.build(network, "tied", run["seed"])
    kept = {}
    for name, layer in tied.named_children():
        if isinstance(layer, sm.Conv2d):
            index, count = torch.tensor(layer.pattern.index), layer.pattern.num_parameters
            untied = model.get_submodule(name).weight
            distance = weights.distance_to_tied(untied, index, count)
            kept[f"distances/{name}"] = torch.tensor(distance)
            if name == "conv1":
                shape, pixels = layer.weight.shape, network.size[0] * network.size[1]
                middle = network.size[0] // 2 * network.size[1] + network.size[1] // 2
                here = torch.tensor(layer.pattern.row % pixels == middle)
                mean = weights.nearest_tied(untied, index, count)
                kept["filters/untied, mean"] = mean.reshape(shape)
                taps = untied.new_empty(count)
                taps[index[here]] = untied[here]
                kept["filters/untied, a pixel"] = taps.reshape(shape)
    return kept
