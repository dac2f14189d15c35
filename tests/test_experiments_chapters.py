"""Every training chapter, run to its end with FULL = True, on small data of the real shape.

The code is the chapter's own; the budget is one epoch, and the data sets are replaced by stand-ins
that carry the names of the real ones.
"""

import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from sparsemat.experiments import datasets, records
from sparsemat.experiments.configurations import EXPERIMENTS
from sparsemat.experiments.datasets.series import windows

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
from full import PAGES, cells  # noqa: E402

CUT = {"mnist": 200, "cifar10": 140, "cifar100": 400, "tiny-imagenet": 140, "etth1": 200}
CUT |= {"electricity": 64, "ag-news": 200, "wikitext-2": 30, "ptb": 40}


def of_the_real_shape(name):
    """A data set with the name and the shape of the real one, and few examples."""
    if name == "electricity":
        rows = np.random.default_rng(0).normal(size=(360, 321)).cumsum(0)
        whole = windows(name, rows, window=168, train=240, valid=40, test=80)
    else:
        standin = name + ("-sample" if name in ("mnist", "wikitext-2") else "-standin")
        whole = datasets.load(standin)
    parts = {
        part: tuple(tensor[: CUT[name]] for tensor in getattr(whole, part))
        for part in ("train", "valid", "test")
        if getattr(whole, part) is not None
    }
    words = getattr(EXPERIMENTS[name].profiles["full"].network, "vocabulary", 0)
    more = tuple(f"extra{n}" for n in range(words - len(whole.vocabulary)))
    return replace(whole, name=name, vocabulary=whole.vocabulary + more, floor=None, **parts)


@pytest.fixture
def page_like(monkeypatch):
    """As a notebook runs: in its folder, with figures that go nowhere."""
    matplotlib.use("Agg")
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    threads = torch.get_num_threads()
    yield
    plt.close("all")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", PAGES)
def test_a_full_run_from_the_chapter_reaches_its_end(page, page_like, monkeypatch, tmp_path):
    name = PAGES[page]
    small = of_the_real_shape(name)
    monkeypatch.setitem(datasets.DATASETS, name, lambda: small)
    space = {}
    for number, source in enumerate(
        cells(page, FULL=True, SEEDS=[1], EPOCHS=1, FOLDER=str(tmp_path)), 1
    ):
        exec(compile(source, f"{page}, cell {number}", "exec"), space)
    chapter = space["chapter"]
    written = records.read_all(tmp_path, name)
    assert {record["variant"] for record in written} == set(chapter.chosen)
    assert all((r["seed"], r["budget"], r["profile"]) == (1, 1, "full") for r in written)
    assert len(list(tmp_path.glob("*.ckpt"))) == len(written)
    lines = chapter.yours().splitlines()
    assert len(lines) == 2 + len(written)  # caption and headings
    assert all(record["date"] in line for record, line in zip(written, lines[2:], strict=True))


def test_a_choice_that_the_page_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"the choices of mnist are .*'SEEDS'.*got \['SEED'\]"):
        cells("mnist", FULL=True, SEED=3)
