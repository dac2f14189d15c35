"""What a training chapter runs: seconds on a sample as it stands, the real thing if asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from . import datasets, devices, models, records, report, runs, training
from .configurations import EXPERIMENTS, Configuration, Experiment
from .display import show

if TYPE_CHECKING:
    import pandas as pd

STEPS = 4  # of a comparison step by step on the real data


@dataclass(frozen=True, eq=False)
class Chapter:
    """The choices in a chapter's first cell, and what follows from them.

    Args:
        name: Name in ``EXPERIMENTS``.
        full: Whether to train on the published data; else the profile "quick" on a sample or a
            stand-in, one seed of every variant, without records.
        profile: Profile of the full runs, such as "full" or "paper".
        variants: What to train; None for all variants.
        seeds: Seeds of the full runs.
        folder: Where checkpoints and records of the full runs go. A run that was broken off goes on
            from its last whole epoch; one that has its record is not run again.
        epochs: Budget of the full runs, if they are to end before their profile's epochs.
        device: "auto", "cpu" or "cuda".
    """

    name: str
    full: bool = False
    profile: str = "full"
    variants: Sequence[str] | None = None
    seeds: Sequence[int] = (0,)
    folder: Path | str = "../runs"
    epochs: int | None = None
    device: str = "auto"

    @property
    def experiment(self) -> Experiment:
        """The experiment of this name."""
        return EXPERIMENTS[self.name]

    @cached_property
    def configuration(self) -> Configuration:
        """What is trained here.

        Raises:
            ValueError: The profile is unknown.
        """
        return records.find(self.name, None, self.profile if self.full else "quick")

    @cached_property
    def data(self) -> datasets.Dataset:
        """The data that this configuration trains on."""
        return datasets.load(self.configuration.dataset)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The variants that are trained."""
        return tuple(self.variants or self.experiment.variants)

    @property
    def seed(self) -> int:
        """The seed of the networks that :meth:`train` returns."""
        return self.seeds[0] if self.full else 0

    def about(self, results: Path | str = "../results") -> str:
        """What is trained on, and how long that takes as far as records tell.

        Args:
            results: Folder of the records that come with the book.
        """
        lines = [f"{self.data.name}: {self.data.subset or 'the whole data set'}"]
        if not self.full:
            return lines[0]
        known = [r for r in records.read_all(results, self.name) if r["profile"] == self.profile]
        epochs = self.epochs or self.configuration.epochs
        extent = "at most" if self.configuration.patience else "about"
        for variant in self.chosen:
            runs_of = [r for r in known if r["variant"] == variant]
            for machine, timed in records.by_machine(runs_of).items():
                an_epoch = np.median([r["seconds"] / r["last"]["epoch"] for r in timed])
                minutes = math.ceil(an_epoch * epochs / 60)
                number = f"{len(timed)} record{'s' * (len(timed) > 1)}"
                lines.append(
                    f"{variant}: {extent} {minutes} min a seed, "
                    f"for {epochs} epochs, by {number} ({machine})"
                )
            if not runs_of:
                lines.append(f"{variant}: no record says how long a seed takes")
        if not any(r["device"]["type"] == "cuda" for r in known):
            lines.append("No run on a GPU has been recorded, so its time is not known.")
        return "\n".join(lines)

    def losses(
        self, variants: Sequence[str], count: int, dtype: torch.dtype = torch.float64, **changes
    ) -> pd.DataFrame:
        """The losses of the first steps, as :func:`report.step_losses`, on the device.

        On the real data, whose networks are larger, at most ``STEPS`` steps.

        Args:
            variants: The variants to compare.
            count: Number of steps.
            dtype: Precision of weights and activations.
            changes: Fields of the configuration to change.
        """
        return report.step_losses(
            replace(self.configuration, **changes),
            variants,
            min(count, STEPS) if self.full else count,
            dtype=dtype,
            device=self._fabric.device,
        )

    def train(self) -> dict[str, training.Progress]:
        """Train every chosen variant, with every seed in full runs.

        Returns:
            The trained network and its curve, by variant; of several seeds the first.
        """
        if not self.full:
            device = self._fabric.device.type
            return report.train_all(self.configuration, self.chosen, device=device)
        found = {}
        for seed in self.seeds:
            for variant in self.chosen:
                progress = runs.trained(
                    *(self.name, variant, seed, self.profile),
                    **{"device": self.device, "epochs": self.epochs, "folder": Path(self.folder)},
                )
                found.setdefault(variant, progress)
        return found

    def by_epoch(self, variant: str) -> Iterator[nn.Module]:
        """One network, before training and after every epoch of a quick run.

        Args:
            variant: The variant to train, with seed 0.

        Yields:
            The network, which goes on to be trained.
        """
        quick = records.find(self.name, variant, "quick")
        fabric = devices.make_fabric(self.device, quick.precision)
        yield models.build(quick.network, variant, 0)
        with TemporaryDirectory() as folder:
            kept = Path(folder) / "checkpoint"
            for epochs in range(1, quick.epochs + 1):
                options = {"epochs": epochs, "checkpoint": kept, "resume": True}
                yield training.train(quick, variant, 0, fabric=fabric, **options).model

    def yours(self) -> str:
        """The reader's own records in ``folder``, one line a run, with device and date."""
        if not self.full:
            return "Runs of your own are listed here once FULL is set."
        found = report.runs(records.read_all(self.folder, self.name))
        return repr(show(found, "Your runs."))

    @cached_property
    def _fabric(self):
        fabric = devices.make_fabric(self.device, "32-true")
        runs.limit_threads(self.profile if self.full else "quick", fabric.device)
        return fabric
