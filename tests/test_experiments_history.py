"""Superseded runs: earlier versions of a record in the history, beside files that are none."""

import json
import subprocess
from pathlib import Path

import pytest

from sparsemat.experiments import history

RECORD = Path(__file__).parent.parent / "results" / "mnist-native-0.json"


@pytest.fixture
def results(tmp_path):
    """A folder of records in a checkout: one run, replaced by one with another rate."""
    folder = tmp_path / "results"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    first = json.loads(RECORD.read_text())
    second = json.loads(RECORD.read_text())
    first["weights_sha256"] = "0" * 64
    first["configuration"]["learning_rate"] = 0.5
    (folder / "chapters.json").write_text('{"mnist": {"seconds": 1.0}}')
    for record in (first, second):
        (folder / RECORD.name).write_text(json.dumps(record))
        for command in (["add", "-A"], ["commit", "-qm", "run"]):
            names = ["-c", "user.name=a", "-c", "user.email=a@b"]
            subprocess.run(["git", "-C", str(tmp_path), *names, *command], check=True)
    return folder


def test_the_replaced_run_is_found_beside_files_that_are_no_records(results):
    (found,) = history.collect(results)
    assert found["name"] == "mnist-native-0"
    assert found["changed"] == ["learning_rate was 0.5 and is 0.003"]
    assert found["data"] == "whole" and found["epochs"] == 5
