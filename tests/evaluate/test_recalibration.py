"""Referee: statsmodels' generalised linear model with frequency weights and an offset."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from clinipress.stats.recalibration import BinnedFit, recalibrate
from kit.each import each_seed
from kit.tolerances import OPTIMUM, check_share


def glm(x, y, weights, *, slope):
    if slope:
        model = sm.GLM(y, sm.add_constant(x), sm.families.Binomial(), freq_weights=weights)
        return model.fit(tol=1e-12).params
    model = sm.GLM(y, np.ones(len(x)), sm.families.Binomial(), freq_weights=weights, offset=x)
    return np.array([model.fit(tol=1e-12).params[0], 1.0])


def draw(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(60, 900)) + 1200 * (seed % 2)
    x = random.normal(random.uniform(-1, 2), random.uniform(0.5, 4), n)
    y = random.random(n) < expit(random.normal(0, 0.5) + random.uniform(0.4, 2) * x)
    return x, y


@each_seed(range(20))
@pytest.mark.parametrize("slope", [True, False])
def test_against_a_generalised_linear_model(seed, slope):
    x, y = draw(seed)
    expected = glm(x, y, np.ones(len(x)), slope=slope)
    np.testing.assert_allclose(recalibrate(x, y, slope=slope), expected, atol=OPTIMUM)


@pytest.mark.parametrize("slope", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_resamples_against_a_generalised_linear_model(seed, slope):
    x, y = draw(seed)
    random = np.random.default_rng(seed)
    n = len(x)
    weights = random.multinomial(n, np.full(n, 1 / n), 25).T.astype(np.float64)
    found = BinnedFit.of(x, y, slope=slope).refit(weights)
    expected = np.stack([glm(x, y, one, slope=slope) for one in weights.T], axis=1)
    spread = expected.std(axis=1).max()
    # 512 distinct log odds are fitted as they are; beyond, binning adds 3 % of the spread
    if len(x) <= 512:
        np.testing.assert_allclose(found, expected, atol=OPTIMUM)
    assert np.abs(found - expected).max() < 0.1 * spread
    assert np.abs(found - expected).mean() < 0.03 * spread


def test_few_distinct_log_odds_are_fitted_exactly():
    random = np.random.default_rng(0)
    x = random.choice(np.linspace(-2, 3, 9), 300)
    y = random.random(300) < expit(0.8 * x)
    weights = random.multinomial(300, np.full(300, 1 / 300), 20).T.astype(np.float64)
    found = BinnedFit.of(x, y, slope=True).refit(weights)
    expected = np.stack([glm(x, y, one, slope=True) for one in weights.T], axis=1)
    np.testing.assert_allclose(found, expected, atol=OPTIMUM)


def test_what_has_no_maximum_is_not_fitted():
    x = np.linspace(-2, 2, 30)
    every, none = np.ones(30, bool), np.zeros(30, bool)
    for y in (every, none):
        assert recalibrate(x, y, slope=True) is None
        assert recalibrate(x, y, slope=False) is None
        assert BinnedFit.of(x, y, slope=True) is None
    assert recalibrate(x, x > 0, slope=True) is None  # parted
    assert recalibrate(x, x < 0, slope=True) is None
    assert recalibrate(x, x > 0, slope=False) is not None
    assert recalibrate(np.ones(30), np.arange(30) < 12, slope=True) is None  # constant
    assert recalibrate(np.ones(30), np.arange(30) < 15, slope=False)[0] == pytest.approx(-1)


def test_a_resample_without_a_maximum_is_undefined_and_the_others_are_not():
    x, y = draw(1)
    weights = np.ones((len(x), 3))
    weights[~y, 1] = 0
    found = BinnedFit.of(x, y, slope=True).refit(weights)
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[:, [0, 2]]).all()


def test_extreme_log_odds_do_not_break_it():
    x = np.concatenate([np.linspace(20, 90, 200), [-5.0, 3.0]])
    y = np.ones(202, bool)
    y[[3, 60, 150]] = False
    slope = recalibrate(x, y, slope=True)
    np.testing.assert_allclose(slope, glm(x, y, np.ones(202), slope=True), rtol=1e-4)
    alone = recalibrate(x, y, slope=False)
    np.testing.assert_allclose(alone, glm(x, y, np.ones(202), slope=False), rtol=1e-4)


def test_percentile_intervals_of_the_slope_cover():
    random = np.random.default_rng(0)
    inside, trials = 0, 300
    for _ in range(trials):
        x = random.normal(1.5, 1.5, 150)
        y = random.random(150) < expit(x)
        weights = random.multinomial(150, np.full(150, 1 / 150), 200).T.astype(np.float64)
        slopes = BinnedFit.of(x, y, slope=True).refit(weights)[1]
        low, high = np.nanquantile(slopes, [0.025, 0.975])
        inside += low <= 1 <= high
    check_share(inside, trials, at_least=0.93)
