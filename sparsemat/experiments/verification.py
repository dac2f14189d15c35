"""Verification: run the beginning of a recorded run again, or all of it, and compare."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from . import devices, provenance, records, training
from .records import differences, find
from .runs import data_that_differ, derived, limit_threads, settings_that_differ

# Relative differences that are allowed. Elsewhere sums are rounded in another order, and training
# amplifies that; test numbers of an early epoch move with it most. A halved error is found.
SAME = 1e-6
OTHER = {"train_loss": 0.02}
OTHER_TEST = 0.25
EXACT, ROUNDED = "to the last digits", "up to rounding"


@dataclass(frozen=True)
class Verification:
    """What was compared, and what differs.

    Args:
        tier: ``EXACT`` where device, versions and commit are the record's, else ``ROUNDED``.
        epochs: How many epochs were run again.
        of: How many the record has.
        checked: Names of the numbers that were compared.
        unchecked: Names of those that this tier, or so few epochs, cannot check.
        found: What differs, one sentence each.
    """

    tier: str
    epochs: int
    of: int
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    found: list[str]

    def __str__(self) -> str:
        lines = list(self.found)
        verdict = "not confirmed" if self.found else f"confirmed {self.tier}"
        lines.append(f"{verdict}: {self.epochs} of {self.of} epochs run again")
        lines.append(f"compared: {', '.join(self.checked)}")
        if self.unchecked:
            lines.append(f"not compared: {', '.join(self.unchecked)}")
        return "\n".join(lines)


def verify(
    path: Path, *, epochs: int = 1, full: bool = False, device: str = "auto"
) -> Verification:
    """Run epochs of a recorded run again and compare every number that they give.

    Where device, versions and commit are those of the record, all numbers may differ by ``SAME``,
    and after a full run the weights must be the same. Elsewhere the mean training loss may differ
    by two percent and test numbers by a quarter of the error, which is what rounding makes of them;
    a patient run may end earlier. A quick run has one thread here as when it was made.

    Args:
        path: The record.
        epochs: How many epochs to run again.
        full: Whether to run all of them.
        device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: The record is not one (:func:`records.read`), it has fewer epochs, or the device
            is not there.
    """
    record = records.read(path)
    count = len(record["curve"])
    epochs = count if full else epochs
    if not 1 <= epochs <= count:
        raise ValueError(f"epochs must be from 1 to the record's {count}, got {epochs}")
    configuration = find(record["experiment"], record["variant"], record["profile"])
    configuration = replace(configuration, precision=record["configuration"]["precision"])
    found = [
        f"the configuration has changed since the record: {one}"
        for one in settings_that_differ(record, configuration)
    ]
    if found:
        return Verification(ROUNDED, 0, count, ("configuration",), ("all else",), found)
    found = [f"the data are not the record's: {one}" for one in data_that_differ(record)]
    if found:
        return Verification(ROUNDED, 0, count, ("configuration", "data"), ("all else",), found)
    fabric = devices.make_fabric(device, configuration.precision)
    limit_threads(record["profile"], fabric.device)
    environment = provenance.environment(fabric.device)
    same = all(environment[name] == record[name] for name in ("device", "versions", "commit"))
    same &= record["commit"] is not None and not record["commit"].endswith(provenance.DIRTY)
    progress = training.train(
        configuration, record["variant"], record["seed"], fabric=fabric, epochs=epochs
    )
    names = dict.fromkeys(name for epoch in progress.curve for name in epoch)
    numbers = [name for name in names if name not in ("epoch", "seconds")]
    follows = derived(configuration, record["variant"], progress.model, record["curve"])
    found = differences({name: record[name] for name in follows}, follows)
    if extra := [name for name in record["curve"][0] if name not in names]:
        found.append(f"the run has no {', '.join(extra)}, the record has")
    if same and len(progress.curve) < epochs:
        found.append(f"the run ends after {len(progress.curve)} epochs, the record says {count}")
    epochs = min(epochs, len(progress.curve))
    for old, new in zip(record["curve"][:epochs], progress.curve, strict=False):
        for name in numbers:
            if name not in old:
                found.append(f"epoch {new['epoch']}: the record has no {name}")
            elif not _close(name, old[name], new[name], same):
                found.append(
                    f"epoch {new['epoch']}: {name} is {new[name]!r}, the record says {old[name]!r}"
                )
    checked = ["configuration", "data", *(name for name in follows), *numbers]
    if same and epochs == count:
        checked.append("weights_sha256")
        weights = training.weights_sha256(progress.model)
        if weights != record["weights_sha256"]:
            found.append(f"the weights are {weights}, the record says {record['weights_sha256']}")
    unchecked = [f"epochs {epochs + 1} to {count}"] * (epochs < count)
    unchecked += ["weights_sha256"] * ("weights_sha256" not in checked)
    unchecked += ["seconds", "peak_mebibytes"]
    tier = EXACT if same else ROUNDED
    return Verification(tier, epochs, count, tuple(checked), tuple(unchecked), found)


def _close(name: str, old: float, new: float, same: bool) -> bool:
    if old == new or (math.isnan(old) and math.isnan(new)):
        return True
    if name.endswith("accuracy"):  # of the errors, of which there may be few
        old, new = 100 - old, 100 - new
    allowed = SAME if same else OTHER.get(name, OTHER_TEST)
    room = 0.5 if name.endswith("accuracy") and not same else 0.0  # points
    # written so that one number that is none differs
    return abs(old - new) <= allowed * max(abs(old), abs(new)) + room
