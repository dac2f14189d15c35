"""What the training chapters show: matrices, steps side by side, results of records."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

import sparsemat as sm

from . import devices, models, records, training
from .configurations import EXPERIMENTS, Configuration
from .display import word

__all__ = [
    *("costs", "ends", "last_epochs", "matrices", "relative", "run_curves", "runs"),
    *("step_losses", "summary", "train_all"),
]


def matrices(network: models.Network, variants: Sequence[str] = ("tied", "untied")) -> pd.DataFrame:
    """The matrices of an image network's convolutions.

    Args:
        network: The configuration of the network.
        variants: Variants whose trained parameters are counted.

    Returns:
        One row a layer: rows, columns, nonzeros, density, and the parameters of each variant.
    """
    built = {variant: models.build(network, variant, seed=0) for variant in variants}
    rows = {}
    for name, layer in built["tied"].named_children():
        if isinstance(layer, sm.Conv2d):
            pattern = layer.pattern
            rows[name] = {
                "rows": pattern.shape[0],
                "columns": pattern.shape[1],
                "nonzeros": pattern.nnz,
                "density": pattern.nnz / pattern.shape[0] / pattern.shape[1],
            } | {
                variant: models.count_parameters(net.get_submodule(name))
                for variant, net in built.items()
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


def step_losses(
    configuration: Configuration,
    variants: Sequence[str],
    count: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> pd.DataFrame:
    """The losses of the first training steps of each variant, on the same batches.

    Returns:
        One row a step, from 1; one column a variant.
    """
    found = {
        variant: training.losses(configuration, variant, seed, count, dtype, device)
        for variant in variants
    }
    return pd.DataFrame(found, index=pd.RangeIndex(1, count + 1, name="step"))


def train_all(
    configuration: Configuration, variants: Sequence[str], seed: int = 0, device: str = "auto"
) -> dict[str, training.Progress]:
    """Train every variant, without records.

    Returns:
        The trained network and its curve, by variant.
    """
    fabric = devices.make_fabric(device, configuration.precision)
    return {
        variant: training.train(configuration, variant, seed, fabric=fabric) for variant in variants
    }


def last_epochs(trained: dict[str, training.Progress]) -> pd.DataFrame:
    """The last epoch of each curve, one row a variant."""
    last = {name: run.frame.iloc[-1] for name, run in trained.items()}
    return pd.DataFrame(last).T.rename_axis("variant")


def summary(found: list[dict]) -> pd.DataFrame:
    """The results of one experiment beside the paper's, one row a variant.

    Args:
        found: Records of one experiment and profile.

    Returns:
        Seeds, epochs run and epoch of the result (:func:`records.result`), its mean over seeds
        under the metric's name with its spread, the mean best epoch, parameters, nonzeros, and the
        paper's two numbers.

    Raises:
        ValueError: Runs of one variant differ in the profile, the data, the device or the budget,
            which no column would tell.
    """
    table = records.table(found).set_index("variant")
    for variant in table.index[table.index.duplicated()]:
        apart = table.loc[variant, ["profile", "data", "device", "budget"]].to_dict("records")
        raise ValueError(f"there must be one kind of run a variant, but of {variant} are {apart}")
    columns = ["seeds", "epochs", "epoch", "metric", "spread", "best epoch", "parameters"]
    columns += ["nonzeros"]
    return table[[*columns, "paper", "paper epoch"]].rename(
        columns={"metric": table["name"].iloc[0]}
    )


def costs(found: list[dict]) -> pd.DataFrame:
    """What runs cost, by variant and machine.

    Args:
        found: Records of one experiment and profile.

    Returns:
        A row for each variant and machine, the machines of a variant together: ``machine``
        (processor and threads, or GPU), median ``seconds an epoch`` of training, and ``peak MiB``,
        the most memory of a process.
    """
    machines = records.by_machine(found)
    tables = [records.table(runs).assign(machine=name) for name, runs in machines.items()]
    table = pd.concat(tables).set_index("variant")
    order = list(records.table(found)["variant"])
    table = table.sort_index(key=lambda names: names.map(order.index), kind="stable")
    return table[["machine", "seconds an epoch", "peak MiB"]]


def relative(found: list[dict], seed: int = 0) -> pd.DataFrame:
    """The result of every run with one seed, and its ratio to the native network's.

    Args:
        found: Records of any experiments.
        seed: The seed of the runs that are compared.

    Returns:
        One row a run, in the order of ``EXPERIMENTS``: ``experiment``, ``profile``, ``data``,
        ``device``, ``variant``, ``metric``, ``value``, ``relative to native`` and ``parameters``.
        Without a native run on the same data, device and budget there is no row.

    Raises:
        ValueError: Two of the runs are one, or differ in more than the variant.
    """
    groups = dict(records.groups([record for record in found if record["seed"] == seed]))
    rows = []
    for key, (run,) in groups.items():
        for native in groups.get(key._replace(variant="native"), []):
            title = records.title(key)
            records.check_alike(
                f"{title} and native must differ in the variant alone", [native, run]
            )
            metric = run["metric"]
            value = records.result(run)[metric]
            rows.append(
                {
                    **{"experiment": key.experiment, "profile": key.profile, "data": key.data},
                    **{"device": key.device, "variant": key.variant, "metric": metric},
                    **{"value": value},
                    "relative to native": value / records.result(native)[metric],
                    "parameters": run["parameters"],
                }
            )
    columns = ["experiment", "profile", "data", "device", "variant", "metric", "value"]
    return pd.DataFrame(rows, columns=[*columns, "relative to native", "parameters"])


def run_curves(found: list[dict], seed: int = 0) -> dict[str, list[float]]:
    """The metric after every epoch of an experiment's runs with one seed, native first.

    Returns:
        Display name of a variant to its curve.

    Raises:
        ValueError: Two runs of a variant have the seed.
    """
    return {
        word(variant): [epoch[record["metric"]] for epoch in record["curve"]]
        for variant, record in _with_seed(found, seed).items()
    }


def ends(found: list[dict], seed: int = 0) -> pd.DataFrame:
    """Where an experiment's runs with one seed end: a high training loss is a network not done.

    Returns:
        One row a variant, native first: ``train_loss``, ``test_loss`` and the metric of the last
        epoch.

    Raises:
        ValueError: Two runs of a variant have the seed.
    """
    last = {variant: record["last"] for variant, record in _with_seed(found, seed).items()}
    table = pd.DataFrame(last).T.rename_axis("variant")
    return table[["train_loss", "test_loss", found[0]["metric"]]]


def _with_seed(found: list[dict], seed: int) -> dict[str, dict]:
    """The record of each variant of one experiment, native first."""
    runs = {}
    for record in found:
        if record["seed"] == seed and runs.setdefault(record["variant"], record) is not record:
            names = [records.name_of(run) for run in (runs[record["variant"]], record)]
            raise ValueError(
                f"there must be one run of a variant with seed {seed}, got {' and '.join(names)}"
            )
    variants = EXPERIMENTS[found[0]["experiment"]].variants
    return {variant: runs[variant] for variant in variants if variant in runs}


def runs(found: list[dict]) -> pd.DataFrame:
    """Runs one by one, for those who made them.

    Args:
        found: Records of one experiment.

    Returns:
        One row a run: variant, seed, profile, the result under the name of its metric, the epoch
        that it is of, the epochs run, minutes, device and date.
    """
    rows = []
    for record in found:
        result = records.result(record)
        rows.append(
            {
                "variant": record["variant"],
                "seed": record["seed"],
                "profile": record["profile"],
                record["metric"]: result[record["metric"]],
                "epoch": result["epoch"],
                "epochs run": len(record["curve"]),
                "minutes": round(record["seconds"] / 60, 1),
                "device": record["device"]["name"],
                "date": record["date"] or "not recorded",
            }
        )
    return pd.DataFrame(rows)
