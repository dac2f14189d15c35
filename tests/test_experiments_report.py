"""What chapters show: tables from records, and steps side by side."""

import numpy as np
import pytest

from sparsemat.experiments import datasets, records, report
from sparsemat.experiments.chapter import Chapter
from sparsemat.experiments.configurations import EXPERIMENTS

QUICK = EXPERIMENTS["mnist"].profiles["quick"]


def made_up(variant, seed, value, experiment="mnist", metric="accuracy"):
    """A record with one epoch, for tables; no run wrote it and none is on disk."""
    last = {"epoch": 1, "train_loss": 1.0, "test_loss": 1.0, metric: value, "seconds": 2.0}
    return {
        "experiment": experiment,
        "variant": variant,
        "seed": seed,
        "profile": "full",
        "configuration": {"network": {}, "precision": "32-true"},
        "budget": None,
        "data": {"subset": None, "fingerprint": "0", "test": 10_000},
        "device": {"type": "cpu", "name": "a CPU", "threads": 1},
        "date": None,
        "seconds": 120.0,
        "metric": metric,
        "parameters": 1,
        "nonzeros": 2,
        "curve": [last],
        "best": last,
        "last": last,
        "selected": None,
        "peak_mebibytes": 3.0,
    }


def test_the_summary_has_a_row_a_variant():
    found = [made_up("native", 0, 90.0), made_up("native", 1, 92.0), made_up("tied", 0, 91.0)]
    table = report.summary(found)
    assert list(table.index) == ["native", "tied"]
    assert table["accuracy"].tolist() == [91.0, 91.0]
    assert table["spread"].iloc[0] == pytest.approx(2**0.5) and np.isnan(table["spread"].iloc[1])
    assert table["paper"].tolist() == [90.60, 92.48]
    untied = report.summary([*found, made_up("untied", 0, 89.0)]).loc["untied"]
    assert untied[["paper", "paper epoch"]].isna().all()  # the paper trained no such network
    assert report.run_curves(found, seed=1) == {"native": [92.0]}
    assert list(report.run_curves(found[::-1])) == ["native", "tied"]
    assert report.costs(found)["peak MiB"].tolist() == [3.0, 3.0]


def test_a_chapter_says_how_long_its_runs_take_on_the_machines_that_are_known(monkeypatch):
    found = [made_up("native", seed, 90.0) for seed in (0, 1, 2)]
    found[2]["device"] = {"type": "cpu", "name": "another", "threads": 4}
    found[2]["last"] = found[2]["last"] | {"epoch": 4}  # in as much time
    monkeypatch.setattr(records, "read_all", lambda *of: found)
    chapter = Chapter("mnist", full=True, variants=["native", "tied"], epochs=2)
    vars(chapter)["data"] = datasets.load("mnist-sample")
    assert chapter.about().splitlines()[1:] == [
        "native: about 4 min a seed, for 2 epochs, by 2 records (a CPU, 1 thread)",
        "native: about 1 min a seed, for 2 epochs, by 1 record (another, 4 threads)",
        "tied: no record says how long a seed takes",
        "No run on a GPU has been recorded, so its time is not known.",
    ]


def test_a_chapter_whose_run_may_end_early_says_at_most(monkeypatch):
    found = [made_up("tied", 0, 90.0) | {"profile": "paper"}]
    monkeypatch.setattr(records, "read_all", lambda *of: found)
    chapter = Chapter("mnist", full=True, profile="paper", variants=["tied"])
    vars(chapter)["data"] = datasets.load("mnist-sample")
    assert "tied: at most 300 min a seed, for 150 epochs, by 1 record" in chapter.about()


def test_costs_on_different_machines_stand_apart():
    found = [made_up("tied", 0, 91.0), made_up("native", 0, 90.0), made_up("native", 1, 92.0)]
    found[2]["device"] = {"type": "cuda", "name": "a GPU", "threads": 2}
    found[2]["curve"] = [last | {"seconds": 1.0} for last in found[2]["curve"]]
    table = report.costs(found)
    assert list(table.index) == ["native", "native", "tied"]
    own = found[0]["device"]
    mine = f"{own['name']}, {own['threads']} thread{'s' * (own['threads'] != 1)}"
    assert table["machine"].tolist() == [mine, "a GPU, 2 threads", mine]
    assert table["seconds an epoch"].tolist() == [2.0, 1.0, 2.0]


def test_runs_end_with_their_losses():
    found = [made_up("tied", 0, 91.0), made_up("native", 0, 90.0), made_up("native", 1, 92.0)]
    found[0]["last"]["train_loss"] = 0.25
    table = report.ends(found)
    assert list(table.index) == ["native", "tied"]
    assert list(table.columns) == ["train_loss", "test_loss", "accuracy"]
    assert table.loc["tied", "train_loss"] == 0.25
    assert table["accuracy"].tolist() == [90.0, 91.0]
    assert report.ends(found, seed=1)["accuracy"].to_dict() == {"native": 92.0}


def test_a_metric_is_relative_to_the_native_run_with_the_same_seed():
    found = [made_up("native", 0, 80.0), made_up("untied", 0, 60.0), made_up("native", 1, 50.0)]
    found += [made_up("untied", 1, 60.0), made_up("tied", 0, 0.2, "etth1", "mse")]  # no native
    table = report.relative(found).set_index("variant")
    assert table["relative to native"].to_dict() == {"native": 1.0, "untied": 0.75}
    assert table.loc["untied", "value"] == 60.0
    assert report.relative(found, seed=1)["relative to native"].tolist() == [1.0, 1.2]


CHANGES = {
    "processes": {"device": {"type": "cpu", "name": "a CPU", "threads": 1, "devices": 2}},
    "device": {"device": {"type": "cuda", "name": "a GPU", "threads": 1}},
    "budget": {"budget": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_runs_that_no_row_tells_apart_are_no_row(change):
    found = [made_up("native", 0, 80.0), made_up("tied", 0, 82.0)]
    other = made_up("tied", 0, 50.0) | change
    for shown in (report.summary, report.run_curves, report.ends):
        with pytest.raises(ValueError, match="tied"):
            shown([*found, other])
    table = report.relative([*found, other])  # no native run like the other
    assert table["value"].tolist() == [80.0, 82.0]
    assert list(report.relative([other]).columns) == list(table.columns)


def test_processes_have_costs_of_their_own():
    found = [made_up("tied", 0, 80.0), made_up("tied", 0, 80.0) | CHANGES["processes"]]
    machines = ["a CPU, 1 thread", "a CPU, 1 thread, 2 processes"]
    assert report.costs(found)["machine"].tolist() == machines


def test_a_run_with_other_settings_is_not_compared_with_the_native_one():
    found = [made_up("native", 0, 80.0), made_up("untied", 0, 60.0)]
    found[1]["configuration"] = found[1]["configuration"] | {"clip": 1.0}
    with pytest.raises(ValueError, match=r"mnist full untied .*variant alone, but clip was None"):
        report.relative(found)


def test_the_matrices_of_a_network_are_counted():
    table = report.matrices(QUICK.network)
    assert list(table.index) == ["conv1", "conv2", "conv3"]
    assert table.loc["conv2", ["rows", "columns"]].tolist() == [32 * 14 * 14, 16 * 14 * 14]
    assert table["untied"].tolist() == table["nonzeros"].tolist()
    assert table["tied"].tolist() == [9 * 16, 9 * 16 * 32, 9 * 32 * 64]


def test_steps_and_curves_have_a_column_and_a_table_a_variant():
    quick = EXPERIMENTS["etth1"].profiles["quick"]
    steps = report.step_losses(quick, ["native", "tied", "free"], 3)
    assert steps.index.tolist() == [1, 2, 3]
    assert (steps["native"] - steps["tied"]).abs().max() < 1e-12
    assert (steps["native"] - steps["free"]).abs().max() > 1e-3
    trained = report.train_all(quick, ["scalar", "free"], device="cpu")
    last = report.last_epochs(trained)
    assert list(last.index) == ["scalar", "free"]
    assert last.loc["free", "mse"] == trained["free"].curve[-1]["mse"]


def test_a_table_leaves_out_what_the_paper_does_not_say():
    found = [made_up("native", 0, 0.5, "etth1", "mse"), made_up("native", 0, 90.0)]
    table = records.table(found)
    assert table["experiment"].tolist() == ["mnist", "etth1"]  # in the order of the book
    assert np.isnan(table["paper"].iloc[1]) and table["paper epoch"].iloc[1] == 100


def test_runs_are_listed_one_by_one():
    row = report.runs([made_up("tied", 4, 91.0)]).iloc[0]
    assert (row["variant"], row["seed"], row["accuracy"], row["minutes"]) == ("tied", 4, 91.0, 2.0)
    assert (row["device"], row["date"]) == ("a CPU", "not recorded")
