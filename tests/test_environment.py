"""The ranges, the lock, the conda file and the Makefile describe one environment."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = sorted(
    {*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)}
)
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().split()
    if re.fullmatch(r"[\w.-]+==[\w.]+", line)
)
INSTALL = f"-e .[{','.join(EXTRAS)}]"


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_range_admits_its_pin(line):
    requirement = Requirement(line)
    assert PINS[requirement.name.lower()] in requirement.specifier


def test_lock_has_nothing_but_pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert len(lines) == len(PINS)


def test_the_library_needs_only_three_packages():
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == {
        "numpy",
        "sympy",
        "torch",
    }


def test_conda_file_reuses_the_lock_and_the_extras():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python, pip, through_pip = conda
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert through_pip == {"pip": ["-c constraints.txt", INSTALL]}


def test_makefile_installs_the_same():
    makefile = (ROOT / "Makefile").read_text().replace('"', "")
    assert f"-c constraints.txt {INSTALL}" in makefile
