"""Weights of full runs, kept as safetensors: tensors alone, read without pickle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ..structured.base import relative_error
from . import checkpoints, datasets, models, records, training
from .files import atomic

FOLDER = "weights"  # below the folder of records
LARGE = 1 << 20  # bytes in single precision from which on half precision is kept


def keep(record_path: Path, checkpoint: Path, results: Path, words: int | None = None) -> Path:
    """Keep the weights of a run beside its record.

    Args:
        record_path: The record.
        checkpoint: Its last checkpoint.
        results: Folder of records.
        words: Of a network of texts, keep so many of the most frequent words and no others;
            :func:`vocabulary` then has these words. A classifier keeps their embeddings. A
            language model keeps whole clusters of its softmax, so ``words`` is one of its cuts; it
            gives these words the probabilities that they have given that the word is one of them.

    Returns:
        The file ``results/weights/NAME.safetensors``, in half precision if it would be large.

    Raises:
        ValueError: The checkpoint is missing, its weights are not those of the record, or words
            are asked for of another network, or a number that it cannot keep, or where the data
            are not the record's.
    """
    run = records.read(record_path)
    model = restored(run, checkpoint)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"record": json.dumps(run)}
    if words is not None:
        known = _most_frequent(run, words)
        metadata["vocabulary"] = json.dumps(known)
        expected = _build(run, len(known)).state_dict()  # the first rows of what depends on words
        tensors = {n: t[: len(expected[n])].clone() for n, t in tensors.items()}
    if sum(t.numel() * t.element_size() for t in tensors.values()) > LARGE:
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    path = results / FOLDER / f"{record_path.stem}.safetensors"
    with atomic(path) as partial:
        save_file(tensors, partial, metadata=metadata)
    return path


def restored(run: dict, checkpoint: Path) -> nn.Module:
    """The network of a run at the end of its training.

    Args:
        run: The record.
        checkpoint: Its last checkpoint.

    Raises:
        ValueError: The checkpoint is missing, or its weights are not those of the record.
    """
    state = checkpoints.read(checkpoint)
    if state is None:
        raise ValueError(
            f"{records.name_of(run)} needs the checkpoint of its run, got no {checkpoint}"
        )
    model = _build(run)
    model.load_state_dict(state["model"])
    found = training.weights_sha256(model)
    if found != run["weights_sha256"]:
        raise ValueError(
            f"the weights must be the record's, {run['weights_sha256']}, but {checkpoint} has "
            f"{found}"
        )
    return model


def data_of(run: dict) -> datasets.Dataset:
    """The data of a run.

    Args:
        run: The record.

    Raises:
        ValueError: Those that are here are others, such as a release in another order.
    """
    data = datasets.load(records.find(run["experiment"], run["variant"], run["profile"]).dataset)
    if data.fingerprint != run["data"]["fingerprint"]:
        raise ValueError(
            f"{records.name_of(run)} needs the data of its run, {run['data']['fingerprint']}, but "
            f"{data.name} is {data.fingerprint}"
        )
    return data


def load(results: Path | str, name: str) -> nn.Module:
    """The trained network of a run whose weights were kept, in single precision, for evaluation.

    Args:
        results: Folder of records.
        name: Stem of the record's file, such as "mnist-untied-3".

    Raises:
        FileNotFoundError: The weights are not there.
        RuntimeError: They do not fit the network of the record.
    """
    known = vocabulary(results, name)
    model = _build(record(results, name), known and len(known))
    tensors = load_file(Path(results) / FOLDER / f"{name}.safetensors")
    model.load_state_dict(tensors)
    return model.eval()


def vocabulary(results: Path | str, name: str) -> tuple[str, ...] | None:
    """The words by id of which embeddings were kept; None where all of them were.

    Args:
        results: As for :func:`load`.
        name: As for :func:`load`.
    """
    known = _metadata(results, name).get("vocabulary")
    return known and tuple(json.loads(known))


def record(results: Path | str, name: str) -> dict:
    """The record of the run whose weights these are, which stands in their file.

    Args:
        results: As for :func:`load`.
        name: As for :func:`load`.
    """
    return json.loads(_metadata(results, name)["record"])


def _metadata(results: Path | str, name: str) -> dict[str, str]:
    with safe_open(Path(results) / FOLDER / f"{name}.safetensors", "pt") as file:
        return file.metadata()


def _build(run: dict, words: int | None = None) -> nn.Module:
    network = records.find(run["experiment"], run["variant"], run["profile"]).network
    if words is not None:
        network = replace(network, vocabulary=words)
        if isinstance(network, models.LanguageModel):
            network = replace(network, cuts=tuple(cut for cut in network.cuts if cut < words))
    return models.build(network, run["variant"], run["seed"])


def _most_frequent(run: dict, words: int) -> tuple[str, ...]:
    """So many words, by id; before those of a classifier come padding and the unknown word."""
    network = records.find(run["experiment"], run["variant"], run["profile"]).network
    if isinstance(network, models.LanguageModel):
        if words not in network.cuts:
            raise ValueError(f"words must be one of the network's cuts {network.cuts}, got {words}")
        return data_of(run).vocabulary[:words]
    if not isinstance(network, models.TextClassifier):
        raise ValueError(f"words can be kept of a network of texts, got {run['experiment']}")
    known = data_of(run).vocabulary
    if not 0 <= words <= len(known) - 2:
        raise ValueError(f"words must be from 0 to the network's {len(known) - 2}, got {words}")
    return known[: 2 + words]


@torch.no_grad()
def nearest_tied(untied: torch.Tensor, index: torch.Tensor, parameters: int) -> torch.Tensor:
    """The shared values of the tied matrix that is nearest to an untied one.

    Nearest in the Frobenius norm: each value is the mean over the entries that would share it.

    Args:
        untied: One value an entry, ``(nonzeros,)``.
        index: The parameter of each entry, int64 ``(nonzeros,)``.
        parameters: Number of parameters.

    Returns:
        Tensor of shape ``(parameters,)``.
    """
    sums = untied.new_zeros(parameters).index_add(0, index, untied)
    return sums / torch.bincount(index, minlength=parameters)


@torch.no_grad()
def distance_to_tied(untied: torch.Tensor, index: torch.Tensor, parameters: int) -> float:
    """Frobenius distance to the nearest tied matrix, as a share of the untied matrix's norm.

    Args:
        untied: As for :func:`nearest_tied`.
        index: As for :func:`nearest_tied`.
        parameters: As for :func:`nearest_tied`.

    Returns:
        Between 0, which is tied (as is a matrix of zeros), and 1.
    """
    untied = untied.double()  # sums of many equal numbers round
    return relative_error(nearest_tied(untied, index, parameters)[index], untied)
