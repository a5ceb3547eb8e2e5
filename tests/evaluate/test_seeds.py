from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from clinipress.errors import DataError
from clinipress.evidence.evidence import changes, evidence
from clinipress.evidence.seeds import over_seeds
from clinipress.records.result import Interval
from kit.each import each_seed
from kit.tolerances import ROUNDING, check_share


def study(**values: float) -> dict[str, Interval]:
    return {name: Interval(value=x, low=x - 0.1, high=x + 0.1) for name, x in values.items()}


@each_seed(range(20))
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_mean_and_its_interval_are_those_of_statsmodels(seed, confidence) -> None:
    random = np.random.default_rng(seed)
    values = 0.7 + 0.02 * random.normal(size=random.integers(2, 12))
    found = over_seeds([study(accuracy=x) for x in values], confidence=confidence)["accuracy"]
    referee = DescrStatsW(values)
    low, high = referee.tconfint_mean(1 - confidence)
    assert (found.mean.low, found.mean.high) == pytest.approx((low, high), abs=1e-9)
    assert found.mean.value == pytest.approx(referee.mean, abs=ROUNDING)
    assert found.deviation == pytest.approx(stats.tstd(values), abs=ROUNDING)
    assert (found.low, found.high) == (values.min(), values.max())
    assert (found.mean.n, found.mean.method) == (len(values), "t over seeds")
    assert found.values == tuple(values)


def test_one_seed_has_no_spread() -> None:
    found = over_seeds([study(accuracy=0.8)])["accuracy"]
    assert (found.mean, found.deviation) == (None, None)
    assert found.values == (found.low,) == (found.high,) == (0.8,)


def test_equal_seeds_have_none_either() -> None:
    found = over_seeds([study(accuracy=0.8)] * 3)["accuracy"]
    assert found.deviation == pytest.approx(0, abs=ROUNDING)
    assert found.mean.low == pytest.approx(found.mean.high, abs=ROUNDING)


def test_the_interval_stays_in_the_metrics_range() -> None:
    high = [study(accuracy=x, log_loss=5 * x, brier=2 * x) for x in (0.9, 1.0)]
    found = over_seeds(high)
    assert found["accuracy"].mean.high == 1
    assert found["log_loss"].mean.high > 5
    assert found["brier"].mean.high == 2
    wide = over_seeds([study(accuracy=x, log_loss=x) for x in (-0.9, 0.9)], changes=True)
    assert (wide["accuracy"].mean.low, wide["accuracy"].mean.high) == (-1, 1)
    assert wide["log_loss"].mean.low < -1
    assert over_seeds([study(accuracy=x) for x in (0.0, 0.1)])["accuracy"].mean.low == 0


def test_only_what_every_seed_has_is_summed_up() -> None:
    found = over_seeds([study(accuracy=0.8, ece=0.1), study(accuracy=0.9)])
    assert set(found) == {"accuracy"}
    assert over_seeds([study(accuracy=0.8), {}]) == {}
    with pytest.raises(DataError, match="at least one seed"):
        over_seeds([])


def test_evidence_and_changes_go_in_as_they_come() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 90)
    reference = random.normal(size=(90, 3)) + 2 * np.eye(3)[labels]
    seeds = [reference + 0.5 * random.normal(size=(90, 3)) for _ in range(3)]
    names = ("a", "b", "c")
    found = over_seeds([evidence(x, labels, names, resamples=5) for x in seeds])
    right = [(x.argmax(axis=1) == labels).mean() for x in seeds]
    assert found["accuracy"].values == pytest.approx(right, abs=ROUNDING)
    fall = over_seeds(
        [changes(reference, x, labels, names, resamples=5) for x in seeds], changes=True
    )
    assert fall["accuracy"].mean.value == pytest.approx(
        np.mean(right) - (reference.argmax(axis=1) == labels).mean(), abs=ROUNDING
    )
    assert all(math.isfinite(one.mean.low) for one in fall.values())


def test_the_interval_of_the_mean_covers_and_a_normal_one_does_not() -> None:
    random, trials = np.random.default_rng(1), 2000
    covered = naive = 0
    for values in 0.5 + 0.01 * random.normal(size=(trials, 3)):
        found = over_seeds([study(accuracy=x) for x in values])["accuracy"]
        covered += found.mean.low <= 0.5 <= found.mean.high
        half = 1.96 * found.deviation / 3**0.5
        naive += abs(found.mean.value - 0.5) <= half
    check_share(covered, trials, at_least=0.95, at_most=0.95)
    with pytest.raises(AssertionError):
        check_share(naive, trials, at_least=0.95)
