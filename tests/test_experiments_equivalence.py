"""The rule of equivalence: the tests against scipy's, the power against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_experiments_report import made_up

from sparsemat.experiments import equivalence
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


def test_there_may_be_no_number_of_seeds():
    assert equivalence.seeds_needed(100.0, 1.0) is None
    assert equivalence.seeds_needed(0.0, 1.0) == 2
