from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clinipress.stats import bootstrap
from clinipress.stats.bootstrap import BootstrapSpread
from clinipress.stats.intervals import degrees_of_freedom, percentile_interval, t_value
from clinipress.stats.metrics import calibration_gaps
from kit.each import each_seed
from kit.tolerances import ROUNDING


def mean_of(values):
    """A measure: the weighted mean of one value per unit."""

    def measure(counts):
        return [{"mean": values @ counts / counts.sum(axis=0)}]

    return measure


def spread_of(values, resamples=200, seed=0) -> BootstrapSpread:
    units = np.arange(len(values))
    labels = np.zeros(len(values), np.int64)
    return bootstrap.bootstrap(mean_of(values), units, labels, resamples, seed)[0]["mean"]


@each_seed(range(20))
def test_jackknife_of_a_mean_is_its_textbook_standard_error(seed) -> None:
    values = np.random.default_rng(seed).gamma(1 + seed % 3, size=10 + 15 * seed)
    found = spread_of(values)
    assert found.value == pytest.approx(values.mean(), abs=ROUNDING)
    assert len(found.left_out) == len(values)
    error, freedom = found.jackknife()
    assert error == pytest.approx(stats.sem(values), rel=1e-9)
    kurtosis, n = stats.kurtosis(values, fisher=False), len(values)
    assert freedom == pytest.approx(min(2 * n / (kurtosis - 1), n - 1), rel=1e-6)


def test_many_units_are_left_out_by_groups() -> None:
    values = np.random.default_rng(0).normal(size=4 * bootstrap.PARTS + 7)
    found = spread_of(values, resamples=5)
    assert len(found.left_out) == bootstrap.PARTS
    assert found.jackknife()[0] == pytest.approx(stats.sem(values), rel=0.15)


def test_a_difference_is_that_of_the_same_draws() -> None:
    values = np.random.default_rng(1).normal(size=(2, 30))
    first, second = spread_of(values[0]), spread_of(values[1])
    together, apart = spread_of(values[0] - values[1]), first - second
    for name in ("value", "resampled", "left_out"):
        assert getattr(apart, name) == pytest.approx(getattr(together, name), abs=ROUNDING)


@each_seed(range(20))
def test_expanded_interval_has_the_tails_of_t(seed) -> None:
    values = np.random.default_rng(seed).exponential(size=12 + seed)
    spread = spread_of(values, resamples=999, seed=seed)
    found = bootstrap.expanded_interval(spread, method="x", n=len(values))
    n = len(values)
    freedom = min(2 * n / (stats.kurtosis(values, fisher=False) - 1), n - 1)
    tail = stats.norm.cdf(stats.t.ppf(0.025, freedom))
    assert (found.low, found.high) == pytest.approx(
        np.quantile(spread.resampled, [tail, 1 - tail]), abs=1e-9
    )
    plain = percentile_interval(spread.value, spread.resampled, method="x", n=n)
    assert found.low <= plain.low < plain.high <= found.high
    assert (found.method, found.n) == ("x", n)


@each_seed(range(20))
def test_corrected_interval_takes_the_bias_off(seed) -> None:
    random = np.random.default_rng(seed)
    chances = random.dirichlet([1, 1, 1], 80)
    labels = random.integers(0, 3, 80)
    bins, gaps = calibration_gaps(chances, labels)
    rows = np.zeros((15, 80))
    rows[bins, np.arange(80)] = gaps

    def error(counts) -> np.ndarray:
        return np.abs(rows @ counts).sum(axis=0) / counts.sum(axis=0)

    (found,) = bootstrap.bootstrap(
        lambda counts: [{"ece": error(counts)}], np.arange(80), labels, 300, seed
    )
    spread = found["ece"]
    interval = bootstrap.corrected_interval(spread, method="x", n=80, limits=(0.0, 1.0))
    left = np.array(
        [np.abs(np.delete(rows, one, axis=1).sum(axis=1)).sum() / 79 for one in range(80)]
    )
    deviation = np.sqrt(79 / 80 * ((left - left.mean()) ** 2).sum())
    freedom = min(2 * 80 / (stats.kurtosis(left, fisher=False) - 1), 79)
    half = stats.t.ppf(0.975, freedom) * deviation
    middle = spread.value - (spread.resampled.mean() - spread.value)
    assert interval.low == pytest.approx(min(max(middle - half, 0), spread.value), abs=1e-9)
    assert interval.high == pytest.approx(max(middle + half, spread.value), abs=1e-9)
    assert spread.resampled.mean() > spread.value  # chance pushes it upwards


def test_a_calibration_error_stays_between_floor_and_one() -> None:
    spread = BootstrapSpread(0.6, np.linspace(0.5, 0.8, 99), np.array([0.2, 0.7, 0.9]))
    found = bootstrap.corrected_interval(spread, method="x", n=3, limits=(0.0, 1.0))
    assert (found.low, found.high) == (0.0, 1.0)


def test_calibration_is_corrected_and_all_else_is_not() -> None:
    spread = spread_of(np.random.default_rng(3).random(40))
    pairs = np.arange(40) // 2
    for name in ("ece", "ece_equal_mass", "ece[nodule]"):
        found = bootstrap.spread_interval(name, spread, pairs, 0.0)
        assert found == bootstrap.corrected_interval(
            spread, method="cluster-bootstrap", n=40, limits=(0.0, 1.0), units=20.0
        )
    for name in ("slope", "intercept"):
        found = bootstrap.spread_interval(name, spread, pairs, 0.0)
        assert found == bootstrap.corrected_interval(
            spread, method="cluster-bootstrap", n=40, units=20.0
        )
    found = bootstrap.spread_interval("brier", spread, np.arange(40), 0.0)
    assert found == bootstrap.expanded_interval(spread, method="bootstrap", n=40)


def test_distance_of_a_figure_is_taken_on_every_draw() -> None:
    found = BootstrapSpread(0.5, np.array([0.5, 1.5]), np.array([np.nan, 1.0])).distance(1.0)
    assert found.value == 0.5
    np.testing.assert_array_equal(found.resampled, [0.5, 0.5])
    np.testing.assert_array_equal(found.left_out, [np.nan, 0.0])


def test_sums_in_pieces_are_the_product() -> None:
    random = np.random.default_rng(0)
    for units in (1, 3, 700, 5000):
        rows, counts = random.normal(size=(33, units)), random.normal(size=(units, 64))
        np.testing.assert_allclose(
            bootstrap.weighted_sums(rows, counts), rows @ counts, atol=ROUNDING * units
        )


DEGENERATE = {
    "one unit": np.array([0.3]),
    "two units": np.array([0.3, 0.9]),
    "nothing varies": np.full(9, 0.4),
    "one unit differs": (np.arange(40) == 3).astype(float),
    "undefined": np.full(5, np.nan),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_spreads_have_sane_intervals(name) -> None:
    spread = spread_of(DEGENERATE[name])
    found = (
        bootstrap.expanded_interval(spread, method="x", n=1),
        bootstrap.corrected_interval(spread, method="x", n=1, limits=(0.0, 1.0)),
    )
    if name == "undefined":
        assert found == (None, None)
        return
    for interval in found:
        assert interval.low <= spread.value <= interval.high
        assert np.isfinite([interval.low, interval.high]).all()
        wide = name in ("two units", "one unit differs")
        assert (interval.high - interval.low > 1e-3) == wide
    error, freedom = spread.jackknife()
    assert error >= 0
    assert freedom >= 1


@pytest.mark.parametrize("freedom", [1, 2.5, 7, 30, 1000])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_t_value_is_that_of_scipy(freedom, confidence) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert t_value(freedom, confidence) == pytest.approx(expected, rel=1e-9)
    normal = stats.norm.ppf((1 + confidence) / 2)
    assert t_value(np.inf, confidence) == pytest.approx(normal, rel=1e-9)
    assert t_value(freedom, confidence) > normal


def test_degrees_of_freedom_stay_between_one_and_all_but_one() -> None:
    assert degrees_of_freedom(np.zeros(8)) == 7
    assert degrees_of_freedom((np.arange(500) == 0) - 1 / 500) == pytest.approx(2, rel=0.01)
    assert degrees_of_freedom(np.tile([1.0, -1.0], 10)) == 19
