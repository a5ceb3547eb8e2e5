from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import precision_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from clinipress.stats import paired
from kit.each import each, each_seed
from kit.tolerances import OPTIMUM, ROUNDING, THREE_DECIMALS, check_share

Z = stats.norm.ppf(0.975)


def tables(count: int) -> list[tuple[int, int, int]]:
    """Random (lost, gained, n)."""
    found = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        n = int(random.integers(5, 800))
        shares = random.dirichlet([1, 1, 4 + 30 * (seed % 2)])
        lost, gained, _ = random.multinomial(n, shares)
        found.append((int(lost), int(gained), n))
    return found


EDGES = [(0, 0, 50), (1, 0, 1), (0, 30, 30), (30, 0, 30), (1, 0, 5000), (7, 7, 14)]


def brute_score(lost: int, gained: int, n: int, difference: float) -> float:
    """The score by numerical maximum likelihood under p_lost - p_gained = difference."""

    def minus_log_likelihood(share):
        chances = np.array([share + difference, share, 1 - 2 * share - difference])
        counts = np.array([lost, gained, n - lost - gained])
        chances = np.maximum(chances, 1e-300)
        return -float((counts * np.log(chances)).sum())

    low, high = max(0.0, -difference), (1 - difference) / 2
    best = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    ).x
    # a bounded search never tries the bounds themselves
    share = min((low, float(best), high), key=minus_log_likelihood)
    variance = n * (2 * share + difference - difference**2)
    return (lost - gained - n * difference) / np.sqrt(variance)


@each(("lost", "gained", "n"), tables(20) + EDGES)
def test_tango_score_is_that_of_numerical_maximum_likelihood(lost, gained, n) -> None:
    for difference in (-0.7, -0.2, -0.01, 0.004, 0.1, 0.6):
        expected = brute_score(lost, gained, n, difference)
        found = paired.tango_score(lost, gained, n, difference)
        assert found == pytest.approx(expected, rel=OPTIMUM, abs=OPTIMUM)


@each(("lost", "gained", "n"), tables(20) + EDGES)
def test_tango_ends_are_where_the_brute_score_is_z(lost, gained, n) -> None:
    value = (lost - gained) / n
    for end, side in zip(paired.tango(lost, gained, n), (-1, 1), strict=True):
        assert (end - value) * side >= 0
        if abs(end) < 1 - 1e-6:
            assert abs(brute_score(lost, gained, n, end)) == pytest.approx(Z, abs=1e-3)
        else:
            assert value == pytest.approx(side)


def test_tango_of_a_published_table() -> None:
    # airway hyper-responsiveness before and after stem-cell transplantation, 21 children:
    # Fagerland, Lydersen and Laake 2014, Stat Med 33:2850, give -0.286 (-0.517 to -0.026)
    low, high = paired.tango(1, 7, 21)
    assert low == pytest.approx(-0.517, abs=THREE_DECIMALS)
    assert high == pytest.approx(-0.026, abs=THREE_DECIMALS)


def test_tango_without_a_discordant_case_is_known_in_closed_form() -> None:
    # q = 0 maximises the likelihood, so the score is -n D / sqrt(n D (1 - D))
    expected = Z**2 / (642 + Z**2)
    assert paired.tango(0, 0, 642) == pytest.approx((-expected, expected), abs=ROUNDING)


@each(("lost", "gained", "n"), tables(20))
def test_tango_mirrors(lost, gained, n) -> None:
    low, high = paired.tango(lost, gained, n)
    assert paired.tango(gained, lost, n) == pytest.approx((-high, -low), abs=ROUNDING)


def test_tango_score_falls() -> None:
    scores = [paired.tango_score(9, 4, 300, d) for d in np.linspace(-0.99, 0.99, 400)]
    assert (np.diff(scores) < 0).all()


@cache
def limits(lost: int, gained: int, n: int) -> tuple[float, float]:
    return paired.tango(lost, gained, n)


@pytest.mark.parametrize(
    ("p_lost", "p_gained", "n"), [(0.03, 0.01, 300), (0.02, 0.02, 600), (0.2, 0.1, 60)]
)
def test_tango_covers(p_lost, p_gained, n) -> None:
    random, trials = np.random.default_rng(11), 4000
    drawn = random.multinomial(n, [p_lost, p_gained, 1 - p_lost - p_gained], size=trials)
    ends = np.array([limits(int(lost), int(gained), n) for lost, gained, _ in drawn])
    truth = p_lost - p_gained
    above, below = int((ends[:, 0] > truth).sum()), int((ends[:, 1] < truth).sum())
    check_share(trials - above - below, trials, at_least=0.94)
    check_share(below, trials, at_most=0.035)


def answers(random, units, size, discord, alike) -> tuple[np.ndarray, np.ndarray]:
    """Two classifiers of 85 %; discordant cases come in whole patients with chance `alike`."""
    shape = (units, size)
    reference = random.random(shape) < 0.85
    flips = np.where(
        random.random((units, 1)) < alike,
        random.random((units, 1)) < discord,
        random.random(shape) < discord,
    )
    return reference.ravel(), (reference ^ flips).ravel()


def test_clustered_difference_covers_and_the_plain_one_does_not() -> None:
    random, trials, covered, naive = np.random.default_rng(5), 1000, 0, 0
    units = np.repeat(np.arange(60), 10)
    truth = 0.1 * (2 * 0.85 - 1)
    for _ in range(trials):
        reference, candidate = answers(random, 60, 10, 0.1, alike=0.6)
        found = paired.paired_difference(reference, candidate, units)
        covered += found.low <= truth <= found.high
        plain = paired.paired_difference(reference, candidate)
        naive += plain.low <= truth <= plain.high
    check_share(covered, trials, at_least=0.93)
    with pytest.raises(AssertionError):
        check_share(naive, trials, at_least=0.93)


@each_seed(range(20))
def test_units_never_make_a_difference_narrower(seed) -> None:
    random = np.random.default_rng(seed)
    reference, candidate = random.random((2, 90)) < 0.9
    candidate = np.where(seed % 4 == 0, reference, candidate)
    single = paired.paired_difference(reference, candidate)
    united = paired.paired_difference(reference, candidate, np.repeat(np.arange(30), 3))
    assert single.value == united.value == (reference.sum() - candidate.sum()) / 90
    assert united.low <= single.low <= single.value <= single.high <= united.high
    assert (single.method, united.method) == ("tango", "tango-cluster")


@pytest.mark.parametrize(
    ("table", "ends"),
    [
        # Altman, Machin, Bryant and Gardner 2000, Statistics with Confidence, table 6.2
        ((14, 5, 0, 22), (0.011, 0.226)),
        # Fagerland, Lydersen and Laake 2014, Stat Med 33:2850
        ((1, 1, 7, 12), (-0.507, -0.026)),
    ],
)
def test_newcombe_of_published_tables(table, ends) -> None:
    assert paired.newcombe(*table) == pytest.approx(ends, abs=THREE_DECIMALS)


def brute_newcombe(both, lost, gained, neither) -> tuple[float, float]:
    """Method 10 with statsmodels' Wilson intervals, in the words of the paper."""
    a, b, c, d = both, lost, gained, neither
    n = a + b + c + d
    l1, u1 = proportion_confint(a + b, n, method="wilson")
    l2, u2 = proportion_confint(a + c, n, method="wilson")
    if 0 in (a + b, c + d, a + c, b + d):
        phi = 0.0
    else:
        top = a * d - b * c
        top = top - n / 2 if top > n / 2 else min(top, 0)
        phi = top / np.sqrt(float(a + b) * (c + d) * (a + c) * (b + d))
    down, up = np.array([(a + b) / n - l1, u2 - (a + c) / n]), [u1 - (a + b) / n, (a + c) / n - l2]
    correlation = np.array([[1, -phi], [-phi, 1]])
    return (b - c) / n - np.sqrt(down @ correlation @ down), (b - c) / n + np.sqrt(
        up @ correlation @ up
    )


def fourfold(count: int) -> list[tuple[int, int, int, int]]:
    random = np.random.default_rng(3)
    drawn = [random.multinomial(random.integers(4, 600), random.dirichlet([8, 1, 1, 2]))
             for _ in range(count)]  # fmt: skip
    return [tuple(int(cell) for cell in table) for table in drawn]


CORNERS = [(50, 0, 0, 0), (0, 30, 0, 0), (0, 0, 30, 0), (0, 0, 0, 1), (0, 7, 7, 0), (40, 3, 0, 0)]


@each("table", [*fourfold(20), *CORNERS])
def test_newcombe_is_the_papers_formula_with_statsmodels_wilson(table) -> None:
    low, high = paired.newcombe(*table)
    assert (low, high) == pytest.approx(brute_newcombe(*table), abs=ROUNDING)
    assert low <= (table[1] - table[2]) / sum(table) <= high


@each("table", fourfold(20))
def test_newcombe_and_tango_are_two_answers_to_one_question(table) -> None:
    _, lost, gained, _ = table
    tango, other = paired.tango(lost, gained, sum(table)), paired.newcombe(*table)
    width = tango[1] - tango[0]
    assert np.abs(np.subtract(tango, other)).max() < 0.15 * width + 2 / sum(table)


def test_the_two_methods_can_be_told_apart() -> None:
    with pytest.raises(AssertionError):
        test_newcombe_of_published_tables((1, 1, 7, 12), paired.tango(1, 7, 21))


@each_seed(range(20))
def test_precision_difference_is_a_paired_proportion_of_what_each_case_adds(seed) -> None:
    random, n = np.random.default_rng(seed), 60 + 20 * seed
    actual = random.random(n) < 0.4
    reference = actual ^ (random.random(n) < 0.1)
    candidate = reference ^ (random.random(n) < 0.1)
    found = paired.precision_difference(actual, candidate, reference, np.arange(n))
    after, before = (precision_score(actual, called) for called in (candidate, reference))
    assert found.value == pytest.approx(after - before, abs=ROUNDING)
    calls, either = (candidate.sum() + reference.sum()) / 2, int((candidate | reference).sum())
    added = [
        calls * (y - (after + before) / 2) * (now / candidate.sum() - was / reference.sum())
        for y, now, was in zip(actual, candidate, reference, strict=True)
    ]
    size = (sum(x * x for x in added) + 1) / (sum(map(abs, added)) + 1)
    more, fewer = (sum(max(side * x, 0) for x in added) / size for side in (1, -1))
    for end in (found.low, found.high):
        difference = end * calls / (size * either)
        assert abs(brute_score(more, fewer, either, difference)) == pytest.approx(Z, abs=1e-3)
    turned = paired.precision_difference(actual, reference, candidate, np.arange(n))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=ROUNDING)
    united = paired.precision_difference(actual, candidate, reference, np.arange(n) // 3)
    assert united.low <= found.value <= united.high
    assert (found.method, united.method) == ("tango", "tango-cluster")


def patients_called(random, units, size):
    """A class of 30 %, nine calls of ten right; the candidate changes a tenth of the calls."""
    index = np.repeat(np.arange(units), size)
    own, other, moved = (
        0.6 * random.normal(size=units)[index] + 0.8 * random.normal(size=units * size)
        for _ in range(3)
    )
    actual = own < stats.norm.ppf(0.3)
    reference = actual ^ (other < stats.norm.ppf(0.06))
    return actual, reference, reference ^ (moved < stats.norm.ppf(0.1)), index


def test_f_precision_is_useful_under_clustering() -> None:
    random, trials = np.random.default_rng(7), 600
    actual, reference, candidate, _ = patients_called(random, 200_000, 1)
    truth = precision_score(actual, candidate) - precision_score(actual, reference)
    held, halves = 0, []
    for _ in range(trials):
        *answers, index = patients_called(random, 40, 20)
        actual, reference, candidate = answers
        found = paired.precision_difference(actual, candidate, reference, index)
        held += found.low <= truth <= found.high
        halves.append((found.high - found.low) / 2)
    check_share(held, trials, at_least=0.935)
    assert np.mean(halves) < 0.09  # by square-and-add of both intervals 0.13


def test_f_no_changed_call_is_no_changed_answer() -> None:
    actual = np.random.default_rng(0).random(400) < 0.5
    index, called = np.arange(400) // 10, actual ^ (np.arange(400) % 40 == 0)
    found = paired.precision_difference(actual, called, called.copy(), index)
    right = paired.paired_difference(actual[called], actual[called], index[called])
    assert (found.low, found.high) == pytest.approx((right.low, right.high), abs=ROUNDING)


@pytest.mark.parametrize(
    ("actual", "reference", "candidate"),
    [
        ("1111", "1111", "1111"),
        ("0000", "1111", "1111"),
        ("1100", "1000", "0001"),
        ("1111", "1000", "1000"),
        ("1010", "1111", "1010"),
    ],
)
def test_precision_difference_of_degenerate_calls(actual, reference, candidate) -> None:
    cases = [np.array([mark == "1" for mark in marks]) for marks in (actual, reference, candidate)]
    found = paired.precision_difference(*cases, np.arange(4))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    never = np.zeros(4, bool)
    assert paired.precision_difference(cases[0], never, cases[2], np.arange(4)) is None
    assert paired.precision_difference(cases[0], cases[1], never, np.arange(4)) is None


def test_difference_by_newcombe_where_asked() -> None:
    reference, candidate = np.arange(41) < 19, (np.arange(41) < 14)
    found = paired.paired_difference(reference, candidate, method="newcombe")
    assert (found.low, found.high) == paired.newcombe(14, 5, 0, 22)
    assert found.method == "newcombe"
    units = np.arange(41) // 2
    united = paired.paired_difference(reference, candidate, units, method="newcombe")
    assert united.low < found.low < found.high < united.high
    assert united.method == "newcombe-cluster"


def test_difference_of_nothing_is_undefined() -> None:
    nothing = np.zeros(0, bool)
    assert paired.paired_difference(nothing, nothing) is None


@each(("lost", "gained", "n"), [*tables(20), *EDGES])
def test_mcnemar_is_that_of_statsmodels(lost, gained, n) -> None:
    expected = mcnemar([[n, lost], [gained, 0]], exact=True).pvalue
    assert paired.mcnemar_exact(lost, gained) == pytest.approx(min(expected, 1.0), rel=1e-9)


def test_discordance_is_the_share_that_only_one_gets_right() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    reference = np.eye(2)[[0, 1, 1, 1, 0]]
    candidate = np.eye(2)[[0, 0, 0, 0, 0]]
    assert paired.discordance(reference, candidate, labels) == {"accuracy": 0.6}
    shares = paired.discordance(reference, candidate, labels, ("a", "b", "c"))
    assert shares == {"accuracy": 0.6, "sensitivity[a]": 0.5, "sensitivity[b]": 2 / 3}
