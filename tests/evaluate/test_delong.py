from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as referee
from scipy import stats

from clinipress.stats import delong
from clinipress.stats.intervals import auroc_score_limits
from kit.each import each_seed
from kit.tolerances import ROUNDING, check_share

Z = stats.norm.ppf(0.975)
# Hanley and McNeil 1982, Radiology 143:29: 109 CT images rated 1 to 5, 58 normal, 51 abnormal
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two classifiers, who is positive, unit of each case; every third with many ties."""
    random = np.random.default_rng(seed)
    n = int(random.integers(20, 120))
    positive = np.arange(n) < random.integers(4, n - 4)
    first = random.normal(size=n) + random.uniform(0, 2) * positive
    second = first + random.uniform(0.1, 1) * random.normal(size=n)
    if seed % 3 == 0:
        first, second = np.round(first), np.round(second)
    units = random.integers(0, n // 3, n) if seed % 2 else np.arange(n)
    shuffled = random.permutation(n)
    return first[shuffled], second[shuffled], positive[shuffled], units


def wins(scores, positive) -> np.ndarray:
    """Every positive against every negative: 1 won, 1/2 tied, 0 lost."""
    above, below = scores[positive][:, None], scores[~positive][None]
    return (above > below) + 0.5 * (above == below)


def brute_variance(table, positive, units) -> float:
    """Obuchowski's variance, unit by unit, from the table of all pairs.

    Each unit's sum is taken over the cases of the others: the same for single images.
    """
    p, q = table.shape
    area, everyone = table.mean(), sorted(set(units.tolist()))
    of_positives, of_negatives = table.mean(axis=1), table.mean(axis=0)
    sums = []
    for unit in everyone:
        own, other = units[positive] == unit, units[~positive] == unit
        a = of_positives[own].sum() - own.sum() * area
        b = of_negatives[other].sum() - other.sum() * area
        sums.append((own.any(), other.any(), a / (p - own.sum()), b / (q - other.sum())))
    with_p, with_q = sum(s[0] for s in sums), sum(s[1] for s in sums)
    share_p, share_q = (with_p - 1) / with_p, (with_q - 1) / with_q
    s10 = share_p * sum(a * a for _, _, a, _ in sums)
    s01 = share_q * sum(b * b for _, _, _, b in sums)
    every = len(everyone) / (len(everyone) - 1)
    s11 = every * share_p * share_q * sum(a * b for _, _, a, b in sums)
    variance = s10 + s01 + 2 * s11
    if len(everyone) == len(units):
        return variance
    squares = brute_shares(table, positive, units) ** 2
    sizes = [np.unique(units[side], return_counts=True)[1] for side in (positive, ~positive)]
    carried = min(size.sum() ** 2 / (size**2).sum() for size in sizes)
    return variance * (1 + 10 / carried * squares.max() / squares.sum())


def brute_shares(table, positive, units) -> np.ndarray:
    """What each unit adds to the area that the others give."""
    shares = []
    sides = [
        (table.mean(axis=1) - table.mean(), units[positive]),
        (table.mean(axis=0) - table.mean(), units[~positive]),
    ]
    for unit in sorted(set(units.tolist())):
        added = 0.0
        for apart, where in sides:
            several = len(set(where.tolist()))
            others = (where != unit).sum() * several / (several - 1)
            added += apart[where == unit].sum() / others
        shares.append(added)
    return np.array(shares)


def brute_freedom(table, positive, units) -> float:
    """2 m / (kurtosis - 1) of the units' shares in the area."""
    shares = brute_shares(table, positive, units)
    kurtosis = np.mean(shares**4) / np.mean(shares**2) ** 2  # as if centred
    return min(max(2 * len(shares) / (kurtosis - 1), 1), len(shares) - 1)


@each_seed(range(24))
def test_one_area_is_that_of_all_pairs(seed) -> None:
    scores, _, positive, units = draw(seed)
    found = delong.auroc_interval(scores, positive, units)
    assert found.value == pytest.approx(referee.roc_auc_score(positive, scores), abs=ROUNDING)
    table = wins(scores, positive)
    placed = delong.placements(scores, positive)
    assert placed.positives == pytest.approx(table.mean(axis=1), abs=ROUNDING)
    assert placed.negatives == pytest.approx(table.mean(axis=0), abs=ROUNDING)
    variance, freedom, _ = delong.delong_variance(placed, positive, units)
    assert variance == pytest.approx(brute_variance(table, positive, units), rel=1e-9)
    assert freedom == pytest.approx(brute_freedom(table, positive, units), rel=1e-9)
    half = stats.t.ppf(0.975, freedom) * variance**0.5 / (found.value * (1 - found.value))
    middle = math.log(found.value / (1 - found.value))
    expected = stats.logistic.cdf([middle - half, middle + half])
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert found.method == ("delong-cluster" if seed % 2 else "delong")


@each_seed(range(24))
def test_a_drop_is_that_of_all_pairs(seed) -> None:
    first, second, positive, units = draw(seed)
    found = delong.auroc_difference(first, second, positive, units)
    table = wins(first, positive) - wins(second, positive)
    assert found.value == pytest.approx(table.mean(), abs=ROUNDING)
    freedom = brute_freedom(table, positive, units)
    error = brute_variance(table, positive, units) ** 0.5
    shares = brute_shares(table, positive, units)
    skewness = (shares**3).sum() / (shares @ shares) ** 1.5
    clustered = len(shares) < len(units)
    for end, side in ((found.low, 1), (found.high, -1)):
        # where Hall's transformation of the studentised drop is t
        studentised = (found.value - end) / error
        quantile = (
            studentised
            + skewness * studentised**2 / 3
            + skewness**2 * studentised**3 / 27
            + skewness / 6
        )
        limit = stats.t.ppf(0.975, freedom)
        if clustered:  # or where it is t itself, whichever is further out
            assert side * studentised > limit - 1e-9
        if abs(end) < 1 and (not clustered or side * studentised > limit + 1e-9):
            assert quantile == pytest.approx(side * limit, rel=1e-6)
    turned = delong.auroc_difference(second, first, positive, units)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=ROUNDING)


@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_single_images_are_delongs_own_variance(seed) -> None:
    scores, _, positive, units = draw(seed)
    table = wins(scores, positive)
    expected = sum(table.mean(axis=axis).var(ddof=1) / table.shape[1 - axis] for axis in (0, 1))
    variance, _, _ = delong.delong_variance(delong.placements(scores, positive), positive, units)
    assert variance == pytest.approx(expected, rel=1e-9)


def ratings() -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([np.repeat(np.arange(1.0, 6), n) for n in (NORMAL, ABNORMAL)])
    return scores, np.arange(109) >= 58


def test_published_ratings() -> None:
    # Stata's manual ("roctab", DeLong): area 0.8932, standard error 0.0307, 0.83295 to 0.95339
    scores, positive = ratings()
    placed = delong.placements(scores, positive)
    variance, _, _ = delong.delong_variance(placed, positive, np.arange(109))
    assert placed.area == pytest.approx(0.8932, abs=5e-5)
    assert variance**0.5 == pytest.approx(0.0307, abs=5e-5)
    assert placed.area - Z * variance**0.5 == pytest.approx(0.83295, abs=5e-6)
    assert placed.area + Z * variance**0.5 == pytest.approx(0.95339, abs=5e-6)


def test_the_referee_can_fail() -> None:
    """Ties lost, a denominator of n for n - 1, units forgotten: each is seen."""
    scores, _, positive, units = draw(3)
    table = wins(scores, positive)
    expected = brute_variance(table, positive, units)
    strict = scores[positive][:, None] > scores[~positive][None]
    assert table.mean() - strict.mean() > 0.01
    assert brute_variance(table, positive, np.arange(len(units))) != pytest.approx(expected)
    plain = sum(table.mean(axis=axis).var() / table.shape[1 - axis] for axis in (0, 1))
    assert plain != pytest.approx(brute_variance(table, positive, np.arange(len(units))))


def test_copies_in_one_unit_add_nothing() -> None:
    first, second, positive, _ = draw(2)
    n = len(first)
    copies = np.repeat(np.arange(n), 4)
    single = delong.auroc_difference(first, second, positive, np.arange(n))
    variances = [
        delong.delong_variance(
            delong.placements(first[rows], positive[rows]), positive[rows], units
        )[0]
        for rows, units in ((np.arange(n), np.arange(n)), (copies, copies))
    ]
    shares = brute_shares(wins(first, positive), positive, np.arange(n)) ** 2
    fewer = min(positive.sum(), (~positive).sum())
    # no more than the further unit that units of several images have
    further = 1 + 10 / fewer * shares.max() / shares.sum()
    assert variances[1] == pytest.approx(further * variances[0], rel=1e-9)
    blind = delong.auroc_difference(
        first[copies], second[copies], positive[copies], np.arange(4 * n)
    )
    assert blind.high - blind.low == pytest.approx((single.high - single.low) / 2, rel=0.05)


SIX = np.arange(6) >= 3
DEGENERATE = {
    "perfect": (np.arange(6.0), np.arange(6.0)[::-1].copy(), SIX, np.arange(6)),
    "all ties": (np.zeros(6), np.arange(6.0), SIX, np.arange(6)),
    "one positive": (np.arange(6.0), -np.arange(6.0), np.arange(6) == 3, np.arange(6)),
    "one unit": (np.arange(6.0), np.cos(np.arange(6.0)), SIX, np.zeros(6, int)),
    "two cases": (np.arange(2.0), np.arange(2.0), np.arange(2) == 1, np.arange(2)),
    "equal classifiers": (np.cos(np.arange(6.0)), np.cos(np.arange(6.0)), SIX, np.arange(6)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tasks_have_sane_ends(name) -> None:
    first, second, positive, units = DEGENERATE[name]
    for scores in (first, second):
        found = delong.auroc_interval(scores, positive, units)
        assert found.value == pytest.approx(referee.roc_auc_score(positive, scores), abs=ROUNDING)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.2
    drop = delong.auroc_difference(first, second, positive, units)
    assert -1 <= drop.low <= drop.value <= drop.high <= 1
    assert drop.high - drop.low > 0.2


def test_without_variance_the_score_limits_stand_in() -> None:
    first, second, positive, units = DEGENERATE["perfect"]
    found = delong.auroc_interval(first, positive, units)
    assert (found.low, found.high) == auroc_score_limits(1.0, 3, 3)
    assert found.method == "newcombe"
    drop = delong.auroc_difference(first, second, positive, units)
    assert (drop.value, drop.method) == (1, "newcombe")
    low, high = auroc_score_limits(0.0, 3, 3)
    assert drop.low == pytest.approx(1 - math.hypot(1 - found.low, high - low), abs=ROUNDING)
    same = delong.auroc_difference(first, first + 5, positive, units)
    assert (same.value, same.method) == (0, "tango")
    assert same.high == -same.low == pytest.approx(Z**2 / (3 + Z**2), abs=ROUNDING)


def test_one_side_empty_is_undefined() -> None:
    scores, units = np.arange(4.0), np.arange(4)
    for positive in (np.ones(4, bool), np.zeros(4, bool)):
        assert delong.auroc_interval(scores, positive, units) is None
        assert delong.auroc_difference(scores, scores, positive, units) is None
    nothing = np.zeros(0)
    assert delong.auroc_interval(nothing, nothing.astype(bool), nothing.astype(int)) is None


def covered(trials, positives, negatives, shift, size, alike) -> tuple[int, int, int]:
    """Studies whose intervals hold the area, hold the drop, and whose drop is above its upper end.

    Normal scores, the candidate's with a little more noise; units share a part of theirs.
    """
    random = np.random.default_rng(1)
    n = positives + negatives
    units = np.arange(n) // size
    area = stats.norm.cdf(shift / 2**0.5)
    drop = area - stats.norm.cdf(shift / (2 * 1.25) ** 0.5)

    def noise() -> np.ndarray:
        shared = random.normal(size=n)[units]
        return alike**0.5 * shared + (1 - alike) ** 0.5 * random.normal(size=n)

    hits = np.zeros(3, int)
    for _ in range(trials):
        positive = random.permutation(n) < positives
        scores = shift * positive + noise()
        one = delong.auroc_interval(scores, positive, units)
        two = delong.auroc_difference(scores, scores + 0.5 * noise(), positive, units)
        hits += (one.low <= area <= one.high, two.low <= drop <= two.high, two.high < drop)
    return tuple(hits.tolist())


@pytest.mark.parametrize(
    ("positives", "negatives", "shift", "size", "alike"),
    [(150, 150, 1.5, 1, 0), (30, 270, 2.0, 1, 0), (150, 150, 1.5, 5, 0.5)],
)
def test_areas_and_drops_cover(positives, negatives, shift, size, alike) -> None:
    trials = 500
    one, two, missed = covered(trials, positives, negatives, shift, size, alike)
    for hits in (one, two):
        check_share(hits, trials, at_least=0.935, at_most=0.965)
    check_share(missed, trials, at_most=0.05)


def test_forgetting_the_units_does_not_cover() -> None:
    random, trials, hits = np.random.default_rng(2), 400, 0
    area = stats.norm.cdf(1.5 / 2**0.5)
    for _ in range(trials):
        positive = np.repeat(random.random(40) < 0.5, 8)
        shared = np.repeat(random.normal(size=40), 8)
        scores = 1.5 * positive + 0.8 * shared + 0.6 * random.normal(size=320)
        found = delong.auroc_interval(scores, positive, np.arange(320))
        hits += found.low <= area <= found.high
    with pytest.raises(AssertionError):
        check_share(hits, trials, at_least=0.935)
