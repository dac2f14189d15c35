"""Records of runs: one JSON file each, written whole, and only by a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .configurations import EXPERIMENTS, Configuration
from .files import write_json
from .models import Network
from .paper import SIDES
from .tasks import TASKS, Task

if TYPE_CHECKING:
    import pandas as pd

# fields that differ between two runs of the same thing
INCIDENTAL = ("seconds", "peak_mebibytes", "device", "versions", "commit", "date")
NAMED = ("experiment", "variant", "seed", "profile")
FIELDS = (
    *(*NAMED, "configuration", "data", "metric", "parameters"),
    *("nonzeros", "curve", "best", "last", "weights_sha256", "seconds", "peak_mebibytes"),
    *("device", "versions", "commit"),
)
NUMBER = int | float
KINDS = {  # of the fields that are read, and of the fields in them
    **dict.fromkeys((*("experiment", "variant", "profile"), "metric", "weights_sha256"), str),
    **dict.fromkeys(("seed", "parameters", "nonzeros"), int),
    **{"seconds": NUMBER, "peak_mebibytes": NUMBER, "budget": int | None, "curve": list},
    **{"commit": str | None, "date": str | None, "versions": {}},
    "configuration": {"network": {}, "precision": str, "epochs": int},
    "data": {"fingerprint": str, "train": int, "test": int, "subset": str | None},
    "device": {"type": str, "name": str},
}
OPTIONAL = {"threads", "devices", "nodes"}  # of a device
_UNSTATED = {"metric": None, "epoch": None}  # of a network that the paper does not have


def write(record: dict, folder: Path) -> Path:
    """Write a record to the file in ``folder`` that :func:`name_of` names.

    Returns:
        The path.
    """
    return write_json(folder / f"{name_of(record)}.json", record)


def name(
    experiment: str,
    variant: str,
    seed: int,
    profile: str,
    *,
    budget: int | None = None,
    precision: str = "32-true",
    device: str = "cpu",
    processes: int = 1,
) -> str:
    """What a run is called: the stem of its record's file, such as ``mnist-tied-0``.

    The profile stands after the experiment if it is neither the full nor the quick one; what
    differs from one process on a CPU in single precision, and a budget of epochs, at the end.
    """
    special = [] if profile in ("full", "quick") else [profile]
    flags = [
        *([f"{budget}-epochs"] if budget is not None else []),
        *([precision] if precision != "32-true" else []),
        *([device] if device != "cpu" else []),
        *([f"{processes}-processes"] if processes > 1 else []),
    ]
    return "-".join([experiment, *special, variant, str(seed), *flags])


def name_of(record: dict) -> str:
    """The name of the run that a record is of."""
    return name(
        **{part: record[part] for part in NAMED},
        budget=record.get("budget"),
        precision=record["configuration"]["precision"],
        device=record["device"]["type"],
        processes=processes(record),
    )


def processes(record: dict) -> int:
    """How many processes a run had, over all machines."""
    return record["device"].get("devices", 1) * record["device"].get("nodes", 1)


def read(path: Path) -> dict:
    """A record from its file.

    Raises:
        ValueError: The file is not JSON or no record: a field is missing or of another kind, a
            name is unknown, or the curve is not one of such a run, or not what ``last``, ``best``
            and ``selected`` are taken from.
    """
    try:
        record = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"a record must be JSON, got {path}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object, but {path} holds {record!r:.40}")
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise ValueError(f"a record must have every field, but {path} has no {', '.join(missing)}")
    for name in ("budget", "date"):  # younger than the first records, as is "selected"
        record.setdefault(name, None)
    try:
        _check_kinds(record, KINDS)
        if record["seed"] < 0:
            raise ValueError(f"the seed must be at least 0, got {record['seed']}")
        counts = dict.fromkeys(OPTIONAL & record["device"].keys(), int)
        _check_kinds(record["device"], counts, "device.")
        found = find(record["experiment"], record["variant"], record["profile"])
        _check_curve(record, TASKS[found.task])
    except ValueError as error:
        raise ValueError(f"{path} is no record of a run: {error}") from error
    return record


def find(experiment: str, variant: str | None, profile: str) -> Configuration:
    """The configuration of an experiment in a profile; None asks for no variant.

    Raises:
        ValueError: One of the names is unknown.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"the experiment must be one of {sorted(EXPERIMENTS)}, got {experiment!r}")
    found = EXPERIMENTS[experiment]
    if variant is not None and variant not in found.variants:
        raise ValueError(f"the variant must be one of {found.variants}, got {variant!r}")
    if profile not in found.profiles:
        raise ValueError(f"the profile must be one of {tuple(found.profiles)}, got {profile!r}")
    return found.profiles[profile]


def _check_kinds(found: dict, kinds: dict, inside: str = "") -> None:
    for name, kind in kinds.items():
        if name not in found:
            raise ValueError(f"it must have {inside}{name}")
        value = found[name]
        if isinstance(kind, dict) and isinstance(value, dict):
            _check_kinds(value, kind, f"{inside}{name}.")
        elif isinstance(kind, dict) or not isinstance(value, kind) or isinstance(value, bool):
            wanted = "an object" if isinstance(kind, dict) else kind
            wanted = getattr(wanted, "__name__", wanted)
            raise ValueError(f"{inside}{name} must be {wanted}, got {value!r:.40}")


def _check_curve(record: dict, task: Task) -> None:
    curve, made = record["curve"], configuration(record)
    if record["metric"] != task.metric:
        raise ValueError(f"the metric must be {task.metric!r}, got {record['metric']!r}")
    _check_kinds(made, {"patience": int | None, "result": str}, "configuration.")
    if made["result"] not in ("last", "selected"):
        raise ValueError(f"the result must be the last or selected epoch, got {made['result']!r}")
    watched = made["patience"] is not None or made["result"] == "selected"
    names = ["epoch", "train_loss", "test_loss", task.metric, "seconds"]
    names += ["valid_loss"] * watched
    for at, epoch in enumerate(curve, 1):
        if not isinstance(epoch, dict):
            raise ValueError(f"epoch {at} of the curve must be an object, got {epoch!r:.40}")
        _check_kinds(epoch, dict.fromkeys([*names, *curve[0], *epoch], NUMBER), f"epoch {at}: ")
        if extra := sorted(epoch.keys() - curve[0].keys()):
            raise ValueError(f"all epochs must have equal names, but epoch {at} has {extra} too")
        if epoch["epoch"] != at:
            raise ValueError(f"the epochs must be from 1 on, got {epoch['epoch']} in place {at}")
    most = made["epochs"] if record["budget"] is None else record["budget"]
    if not 1 <= most <= made["epochs"]:
        raise ValueError(f"the budget must be from 1 to {made['epochs']} epochs, got {most}")
    ends = range(1, min(most, len(curve) + 1))
    count = next((n for n in ends if has_stopped(made["patience"], curve[:n])), most)
    if len(curve) != count:
        raise ValueError(f"the curve must have the run's {count} epochs, got {len(curve)}")
    taken = {"best": best(curve, task), "last": curve[-1], "selected": selected(curve)}
    record.setdefault("selected", taken["selected"])
    for name, right in taken.items():
        if json.dumps(record[name], sort_keys=True) != json.dumps(right, sort_keys=True):
            raise ValueError(f"{name} must be the curve's {right}, got {record[name]!r}")


def has_stopped(patience: int | None, curve: list[dict]) -> bool:
    """Whether the validation loss has not improved for as many epochs as a run is patient."""
    if patience is None or not curve:
        return False
    return curve[-1]["epoch"] - selected(curve)["epoch"] >= patience


def best(curve: list[dict], task: Task) -> dict:
    """The epoch with the best test metric, the first of several; what is no number is worst."""
    worst = -math.inf if task.best is max else math.inf
    return task.best(curve, key=lambda epoch: _or_worst(epoch[task.metric], worst))


def selected(curve: list[dict]) -> dict | None:
    """The epoch with the least validation loss, the first of several; None without validation."""
    if not curve or "valid_loss" not in curve[0]:
        return None
    return min(curve, key=lambda epoch: _or_worst(epoch["valid_loss"], math.inf))


def _or_worst(value: float, worst: float) -> float:
    return worst if math.isnan(value) else value


def result(record: dict) -> dict:
    """The epoch of a record whose test metric is its result: the last or the selected one."""
    return record["selected" if configuration(record)["result"] == "selected" else "last"]


def read_all(folder: Path | str, experiment: str | None = None) -> list[dict]:
    """The records of a folder, of one experiment or of all, by name of file."""
    return [read(path) for path in sorted(Path(folder).glob(f"{experiment or '*'}-*.json"))]


def write_baselines(record: dict, folder: Path) -> Path:
    """Write the errors of the forecasts without a network.

    Returns:
        The path, ``folder/baselines/EXPERIMENT-PROFILE.json``.
    """
    path = folder / "baselines" / "{experiment}-{profile}.json".format(**record)
    return write_json(path, record)


def read_baselines(folder: Path | str, experiment: str, profile: str) -> dict:
    """The record that :func:`write_baselines` wrote.

    Raises:
        FileNotFoundError: There is none.
    """
    return json.loads((Path(folder) / "baselines" / f"{experiment}-{profile}.json").read_text())


def comparable(record: dict) -> dict:
    """A record without what differs between two runs of the same thing: times, machine, commit."""
    kept = {name: value for name, value in record.items() if name not in INCIDENTAL}
    kept["curve"] = [{**epoch, "seconds": None} for epoch in record["curve"]]
    for name in ("best", "last", "selected"):
        kept[name] = record[name] and {**record[name], "seconds": None}
    return kept


def configuration(record: dict) -> dict:
    """The configuration of a record; a field that is younger than the record had its default."""
    now = EXPERIMENTS[record["experiment"]].profiles[record["profile"]]
    then = _defaults(now) | record["configuration"]
    then["network"] = _defaults(now.network) | then["network"]
    return json.loads(json.dumps(then))


def _defaults(made: Configuration | Network) -> dict:
    return {f.name: f.default for f in fields(made) if f.default is not MISSING}


def differences(then: dict, now: dict) -> list[str]:
    """What differs between two dictionaries, or dictionaries in them: one phrase a field.

    A number that is none (NaN) is the same as another.
    """
    found = []
    for name in dict.fromkeys((*then, *now)):
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new)
        elif old != new and (old == old or new == new):
            found.append(f"{name} was {old!r} and is {new!r}")
    return found


def table(found: list[dict]) -> pd.DataFrame:
    """One row for runs that differ in the seed alone: the mean result over seeds, and costs.

    Args:
        found: Records, in any order.

    Returns:
        A frame in the order of ``EXPERIMENTS``, whose ``metric`` is the mean over seeds of the
        result (:func:`result`) and ``spread`` its standard deviation, missing for a single seed;
        ``epoch`` is the mean epoch of the result and ``best epoch`` of the best test metric; the
        paper's numbers are missing where its text lacks them, and beside variants that are not
        its networks (``paper.SIDES``).

    Raises:
        ValueError: Two runs of one row have the same seed, or differ in more than the seed.
    """
    import pandas as pd  # takes its time, which a run does not need

    rows = []
    for key, group in groups(found):
        first = group[0]
        stated = EXPERIMENTS[key.experiment].paper.get(SIDES.get(key.variant), _UNSTATED)
        stated = pd.Series(stated, dtype=float)  # what is missing is NaN
        metrics = np.array([result(record)[record["metric"]] for record in group])
        seconds = [epoch["seconds"] for record in group for epoch in record["curve"]]
        rows.append(
            {
                "experiment": key.experiment,
                "profile": key.profile,
                "variant": key.variant,
                "seeds": len(group),
                "name": first["metric"],
                "metric": metrics.mean(),
                "spread": metrics.std(ddof=1) if len(group) > 1 else np.nan,
                "paper": stated["metric"],
                "epochs": np.mean([record["last"]["epoch"] for record in group]),
                "epoch": np.mean([result(record)["epoch"] for record in group]),
                "best epoch": np.mean([record["best"]["epoch"] for record in group]),
                "paper epoch": stated["epoch"],
                "parameters": first["parameters"],
                "nonzeros": first["nonzeros"],
                "seconds an epoch": float(np.median(seconds)),
                "peak MiB": max(record["peak_mebibytes"] for record in group),
                "data": key.data,
                "device": key.device,
                "budget": key.budget,
            }
        )
    return pd.DataFrame(rows)


class Group(NamedTuple):
    """What runs share that are told apart by the seed: a row of a table.

    ``data`` is the part of the published set, or "whole"; ``device`` its type with the precision,
    if that is not single, and the processes, if there were several; ``budget`` the epochs after
    which the runs were stopped, or None.
    """

    experiment: str
    profile: str
    variant: str
    data: str
    device: str
    budget: int | None


def group_of(record: dict) -> Group:
    """The group that a record belongs to."""
    precision = record["configuration"]["precision"]
    device = [
        record["device"]["type"],
        *([precision] if precision != "32-true" else []),
        *([f"{count} processes"] if (count := processes(record)) > 1 else []),
    ]
    return Group(
        *(record["experiment"], record["profile"], record["variant"]),
        *(record["data"]["subset"] or "whole", ", ".join(device), record["budget"]),
    )


def groups(found: list[dict]) -> Iterator[tuple[Group, list[dict]]]:
    """The records by group, each by seed, in the order of ``EXPERIMENTS``.

    Raises:
        ValueError: Two runs of one group have the same seed, or differ in more than the seed.
    """
    by_group: dict[Group, list[dict]] = {}
    for record in found:
        by_group.setdefault(group_of(record), []).append(record)

    def place(key: Group) -> tuple:
        experiment = EXPERIMENTS[key.experiment]
        names = list(EXPERIMENTS), list(experiment.profiles), experiment.variants
        return *(all_.index(part) for all_, part in zip(names, key, strict=False)), key.data

    for key in sorted(by_group, key=lambda key: (*place(key), key.device, key.budget or math.inf)):
        group = sorted(by_group[key], key=lambda record: record["seed"])
        for one, next_ in pairwise(group):
            if one["seed"] == next_["seed"]:
                raise ValueError(
                    f"the runs of {title(key)} must differ in the seed, but two have {one['seed']}"
                )
        check_alike(f"the runs of {title(key)} must differ in the seed alone", group)
        yield key, group


def by_machine(found: list[dict]) -> dict[str, list[dict]]:
    """The records by what they ran on: a processor and its threads, or a GPU, and how many."""
    machines: dict[str, list[dict]] = {}
    for record in found:
        name, threads = record["device"]["name"], record["device"].get("threads")
        if threads:
            name += f", {threads} thread{'s' * (threads != 1)}"
        if (count := processes(record)) > 1:
            name += f", {count} processes"
        machines.setdefault(name, []).append(record)
    return machines


def title(key: Group) -> str:
    """What a message calls a group."""
    budget = f", {key.budget} epochs" * (key.budget is not None)
    return f"{key.experiment} {key.profile} {key.variant} ({key.data}, {key.device}{budget})"


def check_alike(rule: str, found: list[dict]) -> None:
    """Refuse runs that differ in more than the seed and the variant.

    Args:
        rule: What a message says first.
        found: Records.

    Raises:
        ValueError: They differ in the configuration, the data or the metric.
    """
    first, *others = (
        configuration(record) | {name: record[name] for name in ("data", "metric")}
        for record in found
    )
    for other in others:
        if differ := differences(first, other):
            raise ValueError(f"{rule}, but {'; '.join(differ)}")
