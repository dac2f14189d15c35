"""The example in the README runs, prints what it says, and the README explains every dependency."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
LINES = [line for group in GROUPS for line in group]
LAYER, NETWORK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", [LAYER, NETWORK], ids=["layer", "network"])
def test_examples_run_and_print_what_they_say(example):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == re.findall(r"print\(.*# (.*)", example)


def test_the_first_example_has_ten_lines():
    assert len([line for line in LAYER.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", sorted({Requirement(line).name for line in LINES}))
def test_every_dependency_has_its_reason(name):
    assert f"**{name}**" in README


def test_every_file_that_is_named_exists():
    for name in re.findall(r"`([\w./-]+)`", README):
        if name[0].isupper() or "/" in name:
            assert (ROOT / name).exists(), name


def test_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for command in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert f"\n{command}:" in makefile
