"""The one rule by which this book calls a matrix network and its native one equivalent.

Runs with equal seeds start from equal weights and see
equal batches; the differences of their results, matrix minus native, are taken as a sample of a
normal distribution. Two one-sided t-tests at level ``ALPHA`` ask whether their mean lies within
``MARGIN`` times the native mean: that is so exactly if the interval with confidence
``1 - 2 * ALPHA`` lies within the margin. One margin holds for every metric and every data set. A
pair that does not pass is "not shown": it may differ, or there may be too few seeds. A margin below
one test example says nothing, and neither does one seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import integrate, stats

from . import records

ALPHA = 0.05
MARGIN = 0.01  # of the native network's mean result
POWER = 0.8  # that ``seeds_needed`` asks for
PAIRS = {"tied": "native", "tied-linear": "native-linear"}  # equal parameters, two ways to compute

COLUMNS = [  # of ``pairs``, for a page about one experiment
    *("pair", "seeds", "native", "difference", "low", "high", "margin", "p", "power", "needed"),
    "verdict",
]


def test(differences: Sequence[float], margin: float) -> dict[str, float]:
    """Two one-sided t-tests of equivalence.

    Args:
        differences: Matrix minus native, one for each seed.
        margin: Half the width of the interval in which the mean difference counts as none.

    Returns:
        The mean ``difference``, the ends ``low`` and ``high`` of its interval with confidence
        ``1 - 2 * ALPHA``, the deviation ``spread`` between seeds, and ``p``, the larger of the two
        tests'. With one seed all but the difference are missing (NaN).
    """
    differences = np.asarray(differences, float)
    mean, count = differences.mean(), len(differences)
    if count < 2:
        return {"difference": mean, **dict.fromkeys(("low", "high", "spread", "p"), np.nan)}
    spread = 0.0 if np.ptp(differences) == 0 else differences.std(ddof=1)
    if spread == 0:
        p = float(abs(mean) >= margin)
        return {"difference": mean, "low": mean, "high": mean, "spread": 0.0, "p": p}
    error = spread / np.sqrt(count)
    half = stats.t.ppf(1 - ALPHA, count - 1) * error
    p = stats.t.sf((margin - abs(mean)) / error, count - 1)
    return {"difference": mean, "low": mean - half, "high": mean + half, "spread": spread, "p": p}


def power(spread: float, margin: float, seeds: int) -> float:
    """How often the test passes if the true mean difference is zero.

    Args:
        spread: Deviation of the differences between seeds.
        margin: As in :func:`test`.
        seeds: Number of seeds, at least 2.
    """
    if spread == 0:
        return float(margin > 0)
    error, freedom = spread / np.sqrt(seeds), seeds - 1
    quantile = stats.t.ppf(1 - ALPHA, freedom)

    def passes(share: float) -> float:  # given the sample's deviation at this share of its law
        deviation = np.sqrt(stats.chi2.ppf(share, freedom) / freedom)
        room = margin / error - quantile * deviation
        return max(0.0, 2 * stats.norm.cdf(room) - 1)

    # beyond this share the interval is wider than the margin
    widest = stats.chi2.cdf(freedom * (margin / error / quantile) ** 2, freedom)
    return integrate.quad(passes, 0, widest)[0]


def seeds_needed(spread: float, margin: float, most: int = 1000) -> int | None:
    """The fewest seeds with which :func:`power` is ``POWER``; None if more than ``most`` are.

    Args:
        spread: Deviation of the differences between seeds.
        margin: As in :func:`test`.
        most: Where to stop looking.
    """
    if not power(spread, margin, most) >= POWER:  # which a spread that is no number has not
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(spread, margin, middle) >= POWER else (middle, high)
    return high


def pairs(found: list[dict]) -> pd.DataFrame:
    """The test for every pair of runs that differ in the layers alone.

    Args:
        found: Records of any experiments.

    Returns:
        One row an experiment, profile, data, device, budget and pair, in the order of
        ``EXPERIMENTS``: ``seeds``, the ``native`` mean, what :func:`test` returns, the ``margin``,
        ``power`` and ``needed`` seeds with the spread at hand, and ``verdict``: "equivalent", "not
        shown", "one seed" or "margin below one example". The result of a run is that of
        :func:`records.result`.

    Raises:
        ValueError: Two runs of one variant have the same seed, or the runs of a pair differ in
            more than the seed and the layers.
    """
    groups, rows = dict(records.groups(found)), []
    for key, group in groups.items():
        partners = groups.get(key._replace(variant=PAIRS.get(key.variant)), [])
        ours, native = _by_seed(group), _by_seed(partners)
        seeds = sorted(ours.keys() & native.keys())
        if not seeds:
            continue
        pair = f"{key.variant} - {PAIRS[key.variant]}"
        title = records.title(key._replace(variant=pair))
        records.check_alike(
            f"the runs of {title} must differ in the layers alone", [*partners, *group]
        )
        accuracy = group[0]["metric"] == "accuracy"
        example = 100 / group[0]["data"]["test"] if accuracy else 0.0
        mean = float(np.mean([native[seed] for seed in seeds]))
        margin = MARGIN * mean
        tested = test([ours[seed] - native[seed] for seed in seeds], margin)
        several = len(seeds) > 1
        rows.append(
            {
                **{"experiment": key.experiment, "profile": key.profile, "data": key.data},
                **{"device": key.device, "budget": key.budget, "pair": pair},
                **{"seeds": len(seeds), "native": mean, **tested, "margin": margin},
                "power": power(tested["spread"], margin, len(seeds)) if several else np.nan,
                "needed": seeds_needed(tested["spread"], margin) if several else None,
                "verdict": _verdict(tested["p"], several, margin < example),
            }
        )
    return pd.DataFrame(rows)


def _by_seed(group: list[dict]) -> dict[int, float]:
    return {record["seed"]: records.result(record)[record["metric"]] for record in group}


def _verdict(p: float, several: bool, narrow: bool) -> str:
    if not several:
        return "one seed"
    if narrow:
        return "margin below one example"
    return "equivalent" if p < ALPHA else "not shown"
