"""Superseded runs: records that stood in the repository and were replaced, from its history."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from . import records

FILE = "superseded/runs.json"  # below the folder of records


def collect(results: Path) -> list[dict]:
    """Every earlier version of a record whose run is not one of the present ones.

    Args:
        results: Folder of records, in a git checkout with its history.

    Returns:
        One entry a run, oldest first: ``name`` of the record, the ``commit`` and ``date`` that
        added it, ``metric`` and ``value`` of its last epoch, ``best``, the best value of any epoch,
        ``epochs``, ``data`` (part of the set, or "whole") and ``changed``: what differs in the
        configuration from the record that has its name now.

    Raises:
        subprocess.CalledProcessError: The folder is not in a checkout.
    """

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(results), *command], capture_output=True, text=True, check=True
        ).stdout

    now = {records.name_of(record): record for record in records.read_all(results)}
    seen = {record["weights_sha256"] for record in now.values()}
    found = []
    log = git("log", "--reverse", "--format=%x00%H %cs", "--name-status", "--", "*.json")
    for part in log.split("\0")[1:]:
        head, *changes = [line for line in part.splitlines() if line]
        commit, date = head.split()
        for change in changes:
            status, path = change.split("\t")[0], change.split("\t")[-1]
            name = Path(path)
            if status == "D" or name.parent.name != results.name:
                continue
            record = json.loads(git("show", f"{commit}:{path}"))
            if "curve" not in record or record["weights_sha256"] in seen:
                continue
            seen.add(record["weights_sha256"])
            found.append(_entry(name.stem, commit, date, record, now.get(name.stem)))
    return found


def _entry(name: str, commit: str, date: str, record: dict, now: dict | None) -> dict:
    metric = record["metric"]
    then = records.configuration(record)
    kept = then if now is None else records.configuration(now)
    return {
        "name": name,
        "experiment": record["experiment"],
        "commit": commit,
        "date": date,
        "metric": metric,
        "value": record["last"][metric],
        "best": record["best"][metric],
        "epochs": len(record["curve"]),
        "data": record["data"]["subset"] or "whole",
        "changed": records.differences(then, kept),
    }


def read(results: Path | str) -> list[dict]:
    """The entries that ``python -m sparsemat.experiments superseded`` wrote.

    Args:
        results: Folder of records.
    """
    return json.loads((Path(results) / FILE).read_text())
