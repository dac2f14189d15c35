"""Runs: train a variant and write its record."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from . import (
    baselines,
    checkpoints,
    counting,
    datasets,
    models,
    provenance,
    records,
    training,
)
from .configurations import Configuration
from .devices import make_fabric
from .files import RESULTS, RUNS
from .records import find
from .tasks import TASKS


def run(
    experiment: str,
    variant: str,
    seed: int = 0,
    profile: str = "quick",
    *,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    precision: str | None = None,
    epochs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    runs: Path = RUNS,
    results: Path = RESULTS,
    show: bool | None = None,
) -> tuple[dict, Path | None]:
    """Train one variant of an experiment and write its record.

    Args:
        experiment: Name in ``EXPERIMENTS``.
        variant: One of its variants.
        seed: Seed of everything random.
        profile: One of its profiles.
        device: "auto", "cpu" or "cuda".
        devices: Processes a machine.
        nodes: Machines.
        precision: Of Fabric, instead of the configuration's.
        epochs: Budget: stop after so many of the configuration's epochs, which the record says.
        resume: Whether to go on from the run's last checkpoint, if there is one. A run that has
            its record is not run again.
        overwrite: Whether to replace the record and the checkpoint of an earlier run.
        runs: Folder for checkpoints and for the records of quick runs.
        results: Folder for the records of all other runs.
        show: As for :func:`training.train`.

    Returns:
        The record and where it was written; None for the latter in all processes but the first,
        which writes.

    Raises:
        ValueError: A name is unknown, the seed is negative, the budget is not within the
            configuration's epochs, the device is not there, a data file is corrupt, the checkpoint
            is damaged, it or the record is of other settings or data, or there is an earlier run
            to replace, or both ``resume`` and ``overwrite`` are asked for.
        OSError: A folder cannot be written.
    """
    configuration = find(experiment, variant, profile)
    if precision is not None:
        configuration = replace(configuration, precision=precision)
    if not 0 <= seed < 2**31:
        raise ValueError(f"the seed must be from 0 to 2147483647, got {seed}")
    if epochs is not None and not 1 <= epochs <= configuration.epochs:
        raise ValueError(
            f"epochs must be from 1 to the profile's {configuration.epochs}, got {epochs}"
        )
    if resume and overwrite:
        raise ValueError("a run goes on or is replaced: give resume or overwrite, got both")
    fabric = make_fabric(device, configuration.precision, devices, nodes)
    limit_threads(profile, fabric.device)
    folder = runs if profile == "quick" else results
    name = records.name(
        *(experiment, variant, seed, profile),
        budget=epochs,
        precision=configuration.precision,
        device=fabric.device.type,
        processes=devices * nodes,
    )
    path, checkpoint = folder / f"{name}.json", checkpoints.path_of(runs, name, profile)
    earlier = next((kept for kept in (path, checkpoint) if kept.exists()), None)
    if earlier and not resume and not overwrite and fabric.is_global_zero:
        raise ValueError(
            f"{earlier} must not exist before a run: --resume goes on with what is there, "
            "--overwrite replaces it"
        )
    if resume and path.exists():
        return _same(path, configuration), path
    for written in (runs, folder):
        written.mkdir(parents=True, exist_ok=True)
    # of the code that runs, not of later commits
    environment = provenance.environment(fabric.device)
    data = datasets.load(configuration.dataset)
    progress = training.train(
        *(configuration, variant, seed),
        **{"fabric": fabric, "epochs": epochs, "checkpoint": checkpoint, "resume": resume},
        show=show,
    )
    curve = progress.curve
    record = {
        "experiment": experiment,
        "variant": variant,
        "seed": seed,
        "profile": profile,
        "configuration": asdict(configuration),
        "budget": epochs,
        "data": description(data),
        "curve": curve,
        **derived(configuration, variant, progress.model, curve),
        "seconds": round(sum(epoch["seconds"] for epoch in curve), 3),
        "peak_mebibytes": progress.peak_mebibytes,
        "weights_sha256": training.weights_sha256(progress.model),
        **environment,
    }
    if devices * nodes > 1:
        record["device"] |= {"devices": devices, "nodes": nodes}
    record = json.loads(json.dumps(record))  # as a reader of the file will see it
    return record, records.write(record, folder) if fabric.is_global_zero else None


def _same(path: Path, configuration: Configuration) -> dict:
    record = records.read(path)
    if differ := settings_that_differ(record, configuration) + data_that_differ(record):
        raise ValueError(
            f"{path} must be of the same run to go on from it, but {'; '.join(differ)}: "
            "--overwrite replaces it"
        )
    return record


def trained(
    experiment: str,
    variant: str,
    seed: int,
    profile: str,
    *,
    folder: Path,
    device: str = "auto",
    epochs: int | None = None,
) -> training.Progress:
    """Run, or go on, or only read what has been run; with progress shown.

    Args:
        experiment: As for :func:`run`.
        variant: As for :func:`run`.
        seed: As for :func:`run`.
        profile: As for :func:`run`.
        folder: Where checkpoint and record are, or go.
        device: As for :func:`run`.
        epochs: As for :func:`run`.

    Returns:
        The network after the last epoch, and the curve.
    """
    record, path = run(
        *(experiment, variant, seed, profile),
        **{"device": device, "epochs": epochs, "resume": True, "show": True},
        **{"runs": folder, "results": folder},
    )
    path = path or folder / f"{records.name_of(record)}.json"
    state = checkpoints.read(checkpoints.path_of(folder, path.stem, profile))
    if state is None:
        raise ValueError(f"{path} needs its checkpoint beside it: delete it, and run again")
    model = models.build(find(experiment, variant, profile).network, variant, seed)
    model.load_state_dict(state["model"])
    return training.Progress(model, state["curve"], state["peak"])


def run_baselines(
    experiment: str, profile: str = "quick", *, runs: Path = RUNS, results: Path = RESULTS
) -> tuple[dict, Path]:
    """Do an experiment's task without a network, and write what that reaches.

    A series is forecast by :func:`baselines.all_errors`, texts are classified by naive Bayes, and
    running text is modelled by n-grams (:mod:`counting`).

    Args:
        experiment: Name in ``EXPERIMENTS``.
        profile: One of its profiles.
        runs: Folder for the results on the quick profile's data.
        results: Folder for all others.

    Returns:
        The record, whose ``errors`` have the metric by name of the rival, and its file,
        ``FOLDER/baselines/EXPERIMENT-PROFILE.json``.

    Raises:
        ValueError: A name is unknown, or there is no rival without a network, as for images.
    """
    configuration = find(experiment, None, profile)
    rivals = {
        models.SeriesNetwork: baselines.all_errors,
        models.TextClassifier: lambda data: {"naive Bayes": counting.naive_bayes(data)},
        models.LanguageModel: counting.ngrams,
    }
    if type(configuration.network) not in rivals:
        raise ValueError(f"baselines need a series or texts, got {experiment!r}")
    data = datasets.load(configuration.dataset)
    record = {
        "experiment": experiment,
        "profile": profile,
        "data": description(data),
        "metric": TASKS[configuration.task].metric,
        "errors": rivals[type(configuration.network)](data),
        **provenance.environment(torch.device("cpu")),
    }
    folder = runs if profile == "quick" else results
    return record, records.write_baselines(record, folder)


def limit_threads(profile: str, device: torch.device) -> None:
    """Let a quick run on a CPU have one thread: more would mostly wait for each other."""
    if profile == "quick" and device.type == "cpu":
        torch.set_num_threads(1)


def settings_that_differ(record: dict, configuration: Configuration) -> list[str]:
    """What a configuration has otherwise than a record, one phrase a field."""
    now = json.loads(json.dumps(asdict(configuration)))
    return records.differences(records.configuration(record), now)


def data_that_differ(record: dict) -> list[str]:
    """What the data at hand have otherwise than a record says, one phrase a field."""
    found = find(record["experiment"], record["variant"], record["profile"])
    return records.differences(record["data"], description(datasets.load(found.dataset)))


def description(data: datasets.Dataset) -> dict:
    """What a record says of its data."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "train": len(data.train[0]),
        "test": len(data.test[0]),
        "subset": data.subset,
    }


def derived(
    configuration: Configuration, variant: str, model: nn.Module, curve: list[dict]
) -> dict:
    """What follows from the network and the curve, for a record and for who checks it."""
    task = TASKS[configuration.task]
    return {
        "metric": task.metric,
        "parameters": models.count_parameters(model),
        "nonzeros": configuration.network.nonzeros(variant),
        "best": records.best(curve, task),
        "last": curve[-1],
        "selected": records.selected(curve),
    }
