from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

from clinipress.stats import intervals
from kit.each import each, each_seed
from kit.tolerances import ROOT, ROUNDING, check_share

EDGES = [(0, 1), (1, 1), (0, 500), (500, 500), (1, 10_000)]
RANDOM = [
    (int(np.random.default_rng(seed).integers(0, n + 1)), n)
    for seed, n in enumerate([2, 3, 5, 8, 13, 21, 34, 55, 89, 144] * 2)
]


@each(("successes", "n"), EDGES + RANDOM)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_that_of_statsmodels(successes, n, confidence) -> None:
    expected = proportion_confint(successes, n, 1 - confidence, "wilson")
    found = intervals.wilson(successes, n, confidence)
    assert found == pytest.approx(expected, abs=ROUNDING)
    assert 0 <= found[0] <= successes / n <= found[1] <= 1


def clustered(seed, units=40, size=10, share=0.85, correlation=0.3):
    """Beta-binomial answers: right with a probability of each patient's own."""
    random = np.random.default_rng(seed)
    strength = (1 - correlation) / correlation
    own = random.beta(share * strength, (1 - share) * strength, units)
    return random.random((units, size)) < own[:, None], np.repeat(np.arange(units), size)


def test_design_effect_of_equal_units_is_the_cluster_variance_of_statsmodels() -> None:
    hits, units = (x.ravel() for x in clustered(3, units=25, size=8, share=0.7))
    fit = sm.OLS(hits.astype(float), np.ones(200)).fit(
        cov_type="cluster", cov_kwds={"groups": units, "use_correction": False}
    )
    sums = np.bincount(units, hits - hits.mean()) ** 2
    further = 1 + 10 / 25 * sums.max() / sums.sum()
    plain = further * 25 / 24 * float(fit.bse[0] ** 2 / (hits.var() / 200))
    pairs = 7 * int((~hits).sum())
    found = intervals.design_effect(hits, units)
    assert found == pytest.approx((pairs * plain + 8) / (pairs + 1), abs=1e-8)


@each_seed(range(20))
def test_design_effect_is_that_of_means_without_each_unit(seed) -> None:
    random = np.random.default_rng(seed)
    units = np.sort(random.integers(0, 25, size=200))
    hits = random.random(200) < random.random(25)[units]
    names = np.unique(units)
    without = np.array([hits[units != name].mean() for name in names])
    m = len(names)
    jackknife = (m - 1) / m * float(((without - hits.mean()) ** 2).sum())
    squares = (without - hits.mean()) ** 2
    carried = 200**2 / (np.bincount(units) ** 2).sum()
    further = 1 + 10 / carried * squares.max() / squares.sum()
    plain = max(further * jackknife / (hits.var() / 200), 1.0)
    sizes = np.bincount(units)[units]
    pairs = float((sizes[hits == (hits.mean() < 0.5)] - 1).sum())
    worst = sizes.mean()
    expected = (pairs * plain + worst) / (pairs + 1)
    found = intervals.design_effect(hits, intervals.unit_index(units, 200))
    assert found == pytest.approx(expected, abs=1e-8)
    assert found >= 1


def test_design_effect_of_copies_is_their_number_and_of_single_cases_one() -> None:
    hits = np.random.default_rng(0).random(300) < 0.7
    copies, units = np.repeat(hits, 6), np.repeat(np.arange(300), 6)
    assert intervals.design_effect(copies, units) == pytest.approx(6, rel=0.01)
    assert intervals.effective_size(copies, units) == pytest.approx(300, rel=0.02)
    assert intervals.effective_size(hits, np.arange(300)) == 300


def test_no_event_means_the_worst_and_each_event_means_less() -> None:
    units, hits = np.repeat(np.arange(100), 10), np.ones(1000, bool)
    sizes = [intervals.effective_size(hits, units)]
    for errors in range(3):
        hits[errors * 10] = False
        sizes.append(intervals.effective_size(hits, units))
    assert sizes[0] == 100
    assert sizes == sorted(sizes)
    # three errors: design effect (27 * 1 + 10) / 28, on about six degrees of freedom
    assert sizes[-1] == pytest.approx(
        1000 / (37 / 28) * (1.96 / stats.t.ppf(0.975, 6)) ** 2, rel=0.1
    )


@pytest.mark.parametrize("events", range(6))
def test_units_of_one_case_beside_a_few_pairs_cost_little(events) -> None:
    units = np.concatenate([np.arange(400), np.repeat(np.arange(400, 500), 2)])
    hits = np.arange(600) >= events
    # all pairs alike: 600^2 / (400 + 100 * 4)
    assert 450 <= intervals.effective_size(hits, units) <= 600


def few_and_many(name) -> np.ndarray:
    """1,500 answers of 75 units: two units hold half of the errors, or all units share them."""
    hits = np.random.default_rng(0).random(1500) > (0.01 if name == "two units" else 0.3)
    if name == "two units":
        hits[:10] = hits[20:30] = False
    return hits


@pytest.mark.parametrize(("name", "freedom"), [("two units", (2, 6)), ("all units", (50, 75))])
def test_degrees_of_freedom_count_the_units_that_matter(name, freedom) -> None:
    hits, units = few_and_many(name), np.repeat(np.arange(75), 20)
    sums = (hits - hits.mean()).reshape(75, 20).sum(axis=1)
    degrees = min(2 * 75 / (stats.kurtosis(sums, fisher=False) - 1), 74)
    assert freedom[0] < degrees < freedom[1]
    plain = 1500 / intervals.design_effect(hits, units)
    expected = plain * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, degrees)) ** 2
    found = intervals.effective_size(hits, units)
    assert found == pytest.approx(max(expected, 75), rel=1e-9)


def test_one_unit_counts_as_one_case() -> None:
    hits = np.arange(50) % 2 == 0
    assert intervals.effective_size(hits, np.zeros(50, np.int64)) == 1


@each_seed(range(20))
def test_units_never_make_an_interval_narrower(seed) -> None:
    random = np.random.default_rng(seed)
    hits = random.random(60) < [0.5, 0.97, 1.0][seed % 3]
    single = intervals.proportion(hits, np.arange(60))
    united = intervals.proportion(hits, intervals.unit_index(random.integers(0, 20, 60), 60))
    assert united.low <= single.low <= single.value <= single.high <= united.high
    assert (single.method, united.method) == ("wilson", "wilson-cluster")
    assert single.value == united.value


def test_proportion_of_nothing_is_undefined() -> None:
    assert intervals.proportion(np.zeros(0, bool), np.zeros(0, np.int64)) is None


@pytest.mark.parametrize(("share", "correlation"), [(0.85, 0.3), (0.95, 0.1), (0.6, 0.5)])
def test_wilson_with_design_effect_covers_and_without_it_does_not(share, correlation) -> None:
    trials, covered, naive = 1000, 0, 0
    for seed in range(trials):
        hits, units = clustered(seed, share=share, correlation=correlation)
        found = intervals.proportion(hits.ravel(), units)
        covered += found.low <= share <= found.high
        low, high = intervals.wilson(int(hits.sum()), hits.size)
        naive += low <= share <= high
    check_share(covered, trials, at_least=0.94)
    with pytest.raises(AssertionError):
        check_share(naive, trials, at_least=0.94)


def test_the_checker_of_shares_can_fail() -> None:
    check_share(950, 1000, at_least=0.95)
    for hits, trials, bounds in (
        (900, 1000, {"at_least": 0.95}),
        (50, 1000, {"at_most": 0.025}),
        (10, 10, {"at_least": 0.95}),
    ):
        with pytest.raises(AssertionError):
            check_share(hits, trials, **bounds)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (5, 60), (200, 20)])
def test_auroc_score_limits_solve_their_equation(value, positives, negatives) -> None:
    z = stats.norm.ppf(0.975)

    def score(area):
        q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
        # Hanley and McNeil (1982), with Newcombe's common N in place of P - 1 and Q - 1
        common = (positives + negatives) / 2 - 1
        spread = area * (1 - area) + common * (q1 - area**2 + q2 - area**2)
        return (value - area) ** 2 - z**2 * spread / (positives * negatives)

    low, high = intervals.auroc_score_limits(value, positives, negatives)
    for end, limit in ((low, 0.0), (high, 1.0)):
        if value == limit:
            assert end == limit
        elif score(limit + (1e-9 if limit == 0 else -1e-9)) > 0:
            # at a value of 0 or 1 the value itself is a root, and not the one asked for
            inside = value + (limit - value) * 1e-6
            expected = optimize.brentq(score, *sorted((inside, limit)), xtol=1e-12)
            assert end == pytest.approx(expected, abs=ROOT)
    assert low <= value <= high
    assert low < high


def test_strata_are_classes_and_lone_units_share_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 0, 2])
    index = np.array([0, 0, 1, 2, 2, 3, 4, 5, 5])
    assert intervals.strata(index, labels).tolist() == [0, 0, 1, 1, 3, 3]


def test_resampling_keeps_the_size_of_each_stratum_and_repeats_itself() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 900)
    index = np.arange(900)
    first = np.concatenate(list(intervals.resample(index, labels, 700, 4)), axis=1)
    again = np.concatenate(list(intervals.resample(index, labels, 700, 4)), axis=1)
    other = np.concatenate(list(intervals.resample(index, labels, 700, 5)), axis=1)
    assert first.shape == (900, 700)
    assert (first == again).all()
    assert (first != other).any()
    for level in range(3):
        assert (first[labels == level].sum(axis=0) == (labels == level).sum()).all()
    # a case is drawn Binomial(m, 1 / m) times: mean 1, variance 1 - 1 / m
    assert first.mean() == 1
    assert first.var() == pytest.approx(1, abs=0.02)


def test_percentile_interval_is_that_of_scipy() -> None:
    sample = np.random.default_rng(1).gamma(2, size=80)
    expected = stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=20_000, rng=2
    ).confidence_interval
    blocks = intervals.resample(np.arange(80), np.zeros(80, np.int64), 20_000, 3)
    means = np.concatenate([sample @ counts / 80 for counts in blocks])
    found = intervals.percentile_interval(float(sample.mean()), means, method="bootstrap", n=80)
    # an end of 20,000 resamples is known to about 0.014 of the standard error of the mean
    allowed = 0.08 * sample.std() / 80**0.5
    assert found.low == pytest.approx(expected.low, abs=allowed)
    assert found.high == pytest.approx(expected.high, abs=allowed)


def test_undefined_figures_have_no_interval() -> None:
    half = np.array([0.1, np.nan])
    assert intervals.percentile_interval(0.1, half, method="", n=2) is None
    assert intervals.percentile_interval(np.nan, np.ones(9), method="", n=2) is None
    most = np.array([0.1, 0.3, np.nan])
    assert intervals.percentile_interval(0.2, most, method="", n=2).high < 0.3
