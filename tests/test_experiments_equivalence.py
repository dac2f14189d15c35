"""The rule of equivalence: the tests against scipy's, the power against simulation."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_experiments_report import made_up

from sparsemat.experiments import equivalence, records
from sparsemat.experiments.configurations import EXPERIMENTS
from sparsemat.experiments.equivalence import ALPHA, MARGIN, POWER


def runs_of(values, variant, **options):
    return [made_up(variant, seed, value, **options) for seed, value in enumerate(values)]


def test_pairs_agree_with_scipy():
    native, tied = [90.0, 91.0, 92.0], [90.2, 90.9, 92.4]
    found = [*runs_of(native, "native"), *runs_of(tied, "tied")]
    found += [made_up("untied", 0, 80.0), made_up("tied", 7, 50.0)]  # no partner: left out
    (row,) = equivalence.pairs(found).to_dict("records")
    assert (row["pair"], row["seeds"]) == ("tied - native", 3)
    assert row["difference"] == pytest.approx(np.mean(tied) - np.mean(native))
    interval = stats.ttest_rel(tied, native).confidence_interval(1 - 2 * ALPHA)
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval))
    margin = row["margin"]
    assert margin == pytest.approx(MARGIN * 91)
    shifted = [
        stats.ttest_rel(np.array(tied) + margin, native, alternative="greater").pvalue,
        stats.ttest_rel(np.array(tied) - margin, native, alternative="less").pvalue,
    ]
    assert row["p"] == pytest.approx(max(shifted))
    assert row["verdict"] == ("equivalent" if row["p"] < ALPHA else "not shown")


values = st.lists(st.floats(-3, 3), min_size=2, max_size=12)


@given(values, st.floats(0.01, 3))
def test_the_test_passes_exactly_if_the_interval_lies_within_the_margin(differences, margin):
    found = equivalence.test(differences, margin)
    inside = max(abs(found["low"]), abs(found["high"]))
    if abs(inside - margin) > 1e-9 * (1 + margin):  # not on the border, where rounding decides
        assert (found["p"] < ALPHA) == (inside < margin)


@pytest.mark.parametrize(
    ("native", "tied", "verdict"),
    [
        pytest.param([3.0], [3.5], "one seed", id="one seed"),
        pytest.param([3.0, 3.1], [3.0, 3.1], "equivalent", id="equal runs"),
        pytest.param([3.0, 3.1], [3.5, 3.6], "not shown", id="equal differences"),
        pytest.param([90.0, 90.1, 90.2], [90.1, 90.0, 90.2], "equivalent", id="near"),
        pytest.param([90.0, 91.0], [91.0, 90.0], "not shown", id="two seeds that vary"),
    ],
)
def test_the_verdict(native, tied, verdict):
    found = [*runs_of(native, "native", experiment="etth1", metric="mse")]
    found += runs_of(tied, "tied", experiment="etth1", metric="mse")
    assert equivalence.pairs(found).iloc[0]["verdict"] == verdict


def test_a_margin_below_one_example_says_nothing():
    found = [*runs_of([8.0, 8.0], "native"), *runs_of([8.0, 8.0], "tied")]
    for record in found:
        record["data"] = {**record["data"], "test": 1000}
    assert equivalence.pairs(found).iloc[0]["verdict"] == "margin below one example"


def test_runs_on_other_data_are_no_pair():
    native, tied = made_up("native", 0, 1.0), made_up("tied", 0, 1.0)
    tied["data"] = {**tied["data"], "subset": "a part", "fingerprint": "1"}
    assert equivalence.pairs([native, tied]).empty
    assert equivalence.pairs([]).empty


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"learning_rate": 0.03}, "learning_rate was 0.003 and is 0.03", id="rate"),
        pytest.param({"epochs": 50}, "epochs was 5 and is 50", id="epochs"),
        pytest.param({"dataset": "mnist-sample"}, "is 'mnist-sample'", id="dataset"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3], ids="{} seeds".format)
def test_a_pair_whose_sides_differ_in_more_than_the_layers_is_refused(change, said, seeds):
    full = EXPERIMENTS["mnist"].profiles["full"]
    found = [*runs_of([90.0] * seeds, "native"), *runs_of([90.0] * seeds, "tied")]
    for record in found:
        record["configuration"] = asdict(full)
        if record["variant"] == "tied":
            record["configuration"] |= change
    with pytest.raises(ValueError, match=rf"mnist full tied - native .*layers alone.*{said}"):
        equivalence.pairs(found)


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": "1"}, {"test": 10}],
    ids=["fingerprint", "number of examples"],
)
def test_a_pair_on_other_data_of_the_same_part_is_refused(change):
    native, tied = made_up("native", 0, 1.0), made_up("tied", 0, 1.0)
    tied["data"] = tied["data"] | change
    (name,) = change
    with pytest.raises(ValueError, match=f"layers alone, but {name} was"):
        equivalence.pairs([native, tied])


@pytest.mark.parametrize("turn", [1, -1], ids=["in order", "in reverse"])
def test_a_seed_that_was_run_twice_is_no_second_seed(turn):
    found = [*runs_of([90.0, 91.0], "native"), *runs_of([90.0, 91.0], "tied")]
    found.append(made_up("tied", 1, 50.0))
    with pytest.raises(ValueError, match=r"mnist full tied .* differ in the seed, but two have 1"):
        equivalence.pairs(found[::turn])


def test_pairs_on_more_processes_stand_apart():
    found = [*runs_of([90.0, 91.0], "native"), *runs_of([90.0, 91.0], "tied")]
    spread = [*runs_of([80.0, 81.0], "native"), *runs_of([80.0, 82.0], "tied")]
    for record in spread:
        record["device"] = record["device"] | {"devices": 2, "nodes": 2}
    table = equivalence.pairs([*spread, *found]).set_index("device")
    assert list(table.index) == ["cpu", "cpu, 4 processes"]
    assert table["seeds"].tolist() == [2, 2] and table["native"].tolist() == [90.5, 80.5]
    assert list(records.table([*spread, *found])["seeds"]) == [2] * 4
    assert equivalence.pairs([*found[:2], *spread[2:]]).empty


def test_numbers_that_are_none_show_nothing():
    nan = [float("nan")] * 2
    found = [*runs_of(nan, "native"), *runs_of(nan, "tied")]
    (row,) = equivalence.pairs(found).to_dict("records")
    assert row["verdict"] == "not shown" and row["needed"] is None


@pytest.mark.parametrize(("seeds", "margin"), [(3, 1.0), (3, 3.0), (5, 1.5), (10, 0.8)])
def test_the_power_is_what_a_simulation_finds(seeds, margin):
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 1, (20_000, seeds))
    error = samples.std(axis=1, ddof=1) / np.sqrt(seeds)
    half = stats.t.ppf(1 - ALPHA, seeds - 1) * error
    passed = (np.abs(samples.mean(axis=1)) + half < margin).mean()
    assert equivalence.power(1.0, margin, seeds) == pytest.approx(passed, abs=0.012)


@pytest.mark.parametrize("spread", [0.1, 0.5, 1.0, 4.0])
def test_the_seeds_needed_are_the_fewest_that_suffice(spread):
    needed = equivalence.seeds_needed(spread, 1.0)
    assert equivalence.power(spread, 1.0, needed) >= POWER
    if needed > 2:
        assert equivalence.power(spread, 1.0, needed - 1) < POWER


@pytest.mark.parametrize("margin", [0.0, 1e-9, 1.0])
def test_without_spread_power_and_seeds_agree_with_the_test(margin):
    passes = equivalence.test([0.0, 0.0], margin)["p"] < ALPHA
    assert equivalence.power(0.0, margin, 2) == passes
    assert equivalence.seeds_needed(0.0, margin) == (2 if passes else None)


def test_there_may_be_no_number_of_seeds():
    assert equivalence.seeds_needed(100.0, 1.0) is None
    assert equivalence.seeds_needed(0.0, 1.0) == 2
