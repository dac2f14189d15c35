"""Series: windows of standardised rows, and the row that follows each."""

from __future__ import annotations

import csv
import re
from collections import Counter
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .downloads import PublishedFile, folder

ETTH1_FILE = PublishedFile(
    path="ETTh1.csv",
    urls=(
        "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
        "https://cdn.jsdelivr.net/gh/zhouhaoyi/ETDataset@main/ETT-small/ETTh1.csv",
    ),
    sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
)
ELECTRICITY_FILE = PublishedFile(
    path="electricity.txt",
    urls=(
        "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/"
        "electricity/electricity.txt.gz",
    ),
)
MT_200_FILE = "LD_MT200_hour.csv"
TWO_CLIENTS_FILE = "ECL_0_OT.csv"


def windows(
    name: str,
    rows: np.ndarray,
    *,
    window: int,
    train: int,
    valid: int,
    test: int,
    subset: str | None = None,
) -> Dataset:
    """A series cut into windows.

    The rows are standardised by the mean and the standard deviation (with divisor n; 1 where a
    variable does not change) of the training rows. The first ``window`` training rows are no
    targets, so that training windows lie inside the training rows; every row of the other parts is
    one, and its window may reach back into the part before.

    Args:
        name: Name in ``DATASETS``.
        rows: The series, ``(rows, variables)``, in order of time.
        window: Rows in a window.
        train: How many rows train, from the first on.
        valid: How many follow to choose by; 0 for none.
        test: How many follow to test by; any later ones are left out.
        subset: As in :class:`Dataset`.

    Returns:
        float32 inputs ``(N, window, variables)``, strided views of the rows, and targets
        ``(N, variables)``.

    Raises:
        ValueError: There are fewer rows than the parts take together.
    """
    if len(rows) < train + valid + test:
        raise ValueError(
            f"{name} must have the {train + valid + test} rows of its parts, got {len(rows)}"
        )
    mean, deviation = rows[:train].mean(axis=0), rows[:train].std(axis=0)
    deviation = np.where(deviation == 0, 1.0, deviation)
    scaled = torch.from_numpy(((rows - mean) / deviation).astype(np.float32))

    def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = scaled[start - window : stop - 1].unfold(0, window, 1).transpose(1, 2)
        return inputs, scaled[start:stop]

    return Dataset(
        name,
        train=part(window, train),
        valid=part(train, train + valid) if valid else None,
        test=part(train + valid, train + valid + test),
        subset=subset,
        scale=tuple(torch.from_numpy(a.astype(np.float32)) for a in (mean, deviation)),
    )


@cache
def etth1() -> Dataset:
    """ETTh1: 7 variables of an electricity transformer, hourly; 24 hours -> the next.

    The first 14,400 of the file's 17,420 rows, split as the literature does: 8,640 rows (12 months
    of 30 days) train, 2,880 valid, 2,880 test. Inputs ``(N, 24, 7)``, targets ``(N, 7)``.
    """
    rows = np.loadtxt(ETTH1_FILE.fetch(), delimiter=",", skiprows=1, usecols=range(1, 8))
    return windows("etth1", rows, window=24, train=8640, valid=2880, test=2880)


ELECTRICITY_ROWS = 26_304  # hours of 2012, 2013 and 2014
_ELECTRICITY = {"window": 168, "train": 18_412, "valid": 2_632, "test": 5_260}


@cache
def electricity() -> Dataset:
    """Electricity: the load of 321 clients, hourly, 2012 to 2014; 168 hours -> the next.

    The file of the literature, made from UCI's ElectricityLoadDiagrams20112014, and its split: the
    first 70 % of the 26,304 rows train, the last 20 % (5,260) test. Inputs ``(N, 168, 321)``,
    targets ``(N, 321)``.

    Raises:
        ValueError: The file does not have 26,304 rows of 321 numbers.
    """
    path = ELECTRICITY_FILE.fetch()
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path} must have equally many numbers in every row: {error}") from error
    if rows.shape != (ELECTRICITY_ROWS, 321):
        raise ValueError(
            f"{path} must have 26304 rows of 321 clients, got {rows.shape}: "
            "delete it, and it is downloaded again"
        )
    return windows("electricity", rows, **_ELECTRICITY)


@cache
def electricity_two_clients() -> Dataset:
    """The first and the last of the 321 clients: inputs ``(N, 168, 2)``, targets ``(N, 2)``.

    Read from ``ECL_0_OT.csv``: the columns date, 0 and OT of ``ECL.csv``, the 321-client file in
    the form in which the literature on long forecasts passes it on. Hours and split are those of
    "electricity".

    Raises:
        FileNotFoundError: The file is not in the data folder.
        ValueError: It does not have 26,304 hours of the two, each after the one before.
    """
    path = folder() / TWO_CLIENTS_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing and has no address: make it from the columns date, 0 and OT of "
            "ECL.csv (321 clients, 26,304 rows), or name the folder that has it by SPARSEMAT_DATA"
        )
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != ["date", "0", "OT"]:
            raise ValueError(f"{path} must have the columns date, 0, OT, got {reader.fieldnames}")
        found = list(reader)
    rows = np.array([[_number(path, row, name) for name in ("0", "OT")] for row in found])
    if len(rows) != ELECTRICITY_ROWS:
        raise ValueError(f"{path} must have 26304 rows, got {len(rows)}")
    for before, after in pairwise(row["date"] for row in found):
        if _moment(path, after) - _moment(path, before) != timedelta(hours=1):
            raise ValueError(f"{path} must have a row an hour, got {after} after {before}")
    return windows(
        "electricity-two-clients", rows, **_ELECTRICITY, subset="clients 0 and OT of 321"
    )


def _moment(path: Path, date: str) -> datetime:
    try:
        return datetime(*map(int, re.findall(r"\d+", date)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must have a date such as 2016/7/1 2:00, got {date}") from error


def _number(path: Path, row: dict, column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must have a number under {column} in every row, got {row}"
        ) from error


@cache
def electricity_mt200() -> Dataset:
    """Client MT_200 of Electricity alone: inputs ``(N, 168, 1)``, targets ``(N, 1)``.

    Read from ``LD_MT200_hour.csv`` (columns date, hour, MT_200; hourly means), which nobody
    publishes: it is made from UCI's ``LD2011_2014.txt``. The hours of 2012 to 2014, and the split,
    are those of "electricity".

    Raises:
        FileNotFoundError: The file is not in the data folder.
        ValueError: It does not have every hour of 2012 to 2014 in their order.
    """
    path = folder() / MT_200_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing and has no address: make it from LD2011_2014.txt of UCI's "
            "ElectricityLoadDiagrams20112014 (hourly means of client MT_200, columns "
            "date,hour,MT_200), or name the folder that has it by SPARSEMAT_DATA"
        )
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != ["date", "hour", "MT_200"]:
            raise ValueError(
                f"{path} must have the columns date, hour, MT_200, got {reader.fieldnames}"
            )
        found = [row for row in reader if "2012-01-01" <= row["date"] <= "2014-12-31"]
    if len(found) != ELECTRICITY_ROWS:
        raise ValueError(
            f"{path} must have the 26304 hours of 2012 to 2014, got {len(found)} rows of them"
        )
    hours = [(row["date"], _number(path, row, "hour")) for row in found]
    for before, after in pairwise(hours):
        if not before < after:
            raise ValueError(
                f"{path} must have the hours in their order, got {after} after {before}"
            )
    days = Counter(date for date, _ in hours)
    if uneven := [f"{count} on {day}" for day, count in days.items() if count != 24]:
        raise ValueError(f"{path} must have 24 hours a day, got {', '.join(uneven[:3])}")
    values = [_number(path, row, "MT_200") for row in found]
    rows = np.array(values)[:, None]
    return windows("electricity-mt200", rows, **_ELECTRICITY, subset="client MT_200 of 321")


@cache
def electricity_sample() -> Dataset:
    """Ten weeks of client MT_200 that come with the package: 8 train, 2 test; 168 hours -> 1."""
    with files("sparsemat.experiments").joinpath("data/electricity-sample.npz").open("rb") as file:
        rows = np.load(file)["kilowatt"][:, None]
    week = 7 * 24
    return windows(
        "electricity-sample",
        rows,
        window=week,
        train=8 * week,
        valid=0,
        test=2 * week,
        subset="10 weeks of client MT_200 of 321",
    )
