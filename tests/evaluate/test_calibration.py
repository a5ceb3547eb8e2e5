from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_curve

from clinipress.errors import DataError
from clinipress.evidence.calibration import (
    calibration_section,
    fit_temperature,
    operating_points,
    uncertain_threshold,
)
from clinipress.evidence.evidence import changes, evidence
from clinipress.evidence.reliability import equal_mass_bins
from clinipress.evidence.scores import Scores
from kit.each import each_seed
from kit.planted import CLASSES, miscalibrated, reference, rounded, with_logits
from kit.tolerances import ROUNDING


def make(n=400, k=4, sharp=3.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)).astype(np.float32) * 2
    labels = np.array([rng.choice(k, p=softmax(row)) for row in logits])
    return logits * sharp, labels


@pytest.mark.parametrize("seed", range(5))
def test_temperature_against_scipy(seed):
    logits, labels = make(seed=seed, sharp=0.5 + seed)

    def loss(log_t):
        return -log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)[
            np.arange(len(labels)), labels
        ].mean()

    best = np.exp(
        minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x
    )
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=1e-4)


def test_temperature_stays_in_its_range_when_every_answer_is_right():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2] * 5] * 10
    assert fit_temperature(logits, np.array([0, 1, 2] * 5)) == pytest.approx(0.25, rel=1e-3)


def test_threshold_reaches_its_aim():
    logits, labels = make(sharp=1.0, n=2000)
    threshold = uncertain_threshold(logits, labels, aim=0.8)
    top = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    sure = top >= threshold - 1e-12
    assert sure.mean() >= 0.7 - 1e-9
    right = logits.argmax(1) == labels
    assert right[sure].mean() > right.mean()


def test_no_threshold_where_none_is_needed():
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2]] * 10
    assert uncertain_threshold(logits, np.array([0, 1, 2])) is None


# ------------------------------------------------------------------ operating points


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_those_of_the_roc_curve(seed):
    """Referee: scikit-learn's curve over the same probabilities."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 200)
    logits = random.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    points = operating_points(shares, labels, ("a", "b", "c"))
    assert [(p.label, p.aim) for p in points] == [
        (name, aim) for name in "abc" for aim in ("sensitivity 0.95", "specificity 0.95")
    ]
    for number in range(3):
        false, true, _ = roc_curve(labels == number, shares[:, number], drop_intermediate=False)
        sensitive, specific = points[2 * number : 2 * number + 2]
        assert sensitive.sensitivity.value >= 0.95
        assert sensitive.specificity.value == pytest.approx(1 - false[true >= 0.95].min())
        assert specific.specificity.value >= 0.95
        assert specific.sensitivity.value == pytest.approx(true[false <= 0.05].max())


def test_ties_and_missing_classes_keep_their_word():
    shares = np.array([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    labels = np.repeat([0, 1], 10)
    for point in operating_points(shares, labels, ("a", "b")):
        assert point.threshold <= 1
        assert point.sensitivity.value == 1
        assert point.specificity.value == 1
    assert operating_points(shares, np.zeros(20, int), ("a", "b")) == ()
    flat = np.full((20, 2), 0.5)
    sensitive = operating_points(flat, labels, ("a", "b"))[0]
    assert (sensitive.sensitivity.value, sensitive.specificity.value) == (1, 0)


# ------------------------------------------------------------------ the section


def section(before, after, **options):
    return calibration_section(before, after, **{"margin": 0.02, "resamples": 400} | options)


def referee(logits, labels, temperature):
    """scikit-learn's losses and quantile bins, statsmodels' recalibration."""
    chances = softmax(logits.astype(np.float64) / temperature, axis=1)
    n, k = chances.shape
    top, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    true, promised = calibration_curve(right, top, n_bins=15, strategy="quantile")
    edges = np.percentile(top, np.linspace(0, 100, 16))
    sizes = np.bincount(np.searchsorted(edges[1:-1], top), minlength=15)
    found = {
        "ece_equal_mass": (sizes[sizes > 0] * np.abs(true - promised)).sum() / n,
        "log_loss": log_loss(labels, chances, labels=range(k)),
        "brier": ((chances - np.eye(k)[labels]) ** 2).sum(axis=1).mean() * (0.5 if k == 2 else 1),
    }
    x, y = (logit(top), right) if k > 2 else (logit(chances[:, 1]), labels == 1)
    slope = sm.GLM(y, sm.add_constant(x), sm.families.Binomial()).fit(tol=1e-12)
    large = sm.GLM(y, np.ones(n), sm.families.Binomial(), offset=x).fit(tol=1e-12)
    return found | {"slope": slope.params[1], "intercept": large.params[0]}


@each_seed(range(20))
def test_figures_before_and_after_against_scikit_learn_and_statsmodels(seed):
    k = 2 + seed % 4
    logits, labels = make(n=300, k=k, sharp=0.5 + seed / 10, seed=seed)
    scores = Scores(
        logits=logits,
        labels=labels,
        units=np.arange(300),
        keys=tuple(map(str, range(300))),
        classes=tuple("abcde"[:k]),
        temperature=fit_temperature(logits, labels),
        positive="b" if k == 2 else None,
    )
    found = section(scores, scores, resamples=50)
    for figures, temperature in ((found.before, 1.0), (found.after, scores.temperature)):
        expected = referee(logits, labels, temperature)
        assert set(figures) == {*expected, "ece"}
        for name, value in expected.items():
            # logit of a rounded probability, and a flat maximum, cost the referee some digits
            assert figures[name].value == pytest.approx(value, abs=1e-6), name
            assert figures[name].low - 1e-6 <= value <= figures[name].high + 1e-6
    plain = evidence(logits / scores.temperature, labels, scores.classes, resamples=50)
    for name in ("ece", "brier", "log_loss"):
        assert found.after[name].value == pytest.approx(plain[name].value, abs=1e-7)


def ends(interval):
    return interval.low, interval.value, interval.high


@each_seed(range(20))
def test_what_evidence_measures_too_has_the_very_same_interval(seed):
    classes, per_unit = CLASSES[: 2 + seed % 2], 1 + 2 * (seed % 3)
    before = reference(seed, n=240, sharp=1 + seed / 10, classes=classes, per_unit=per_unit)
    before, after = replace(before, temperature=1.3), rounded(before, noise=0.5 + seed / 20)
    options = {"resamples": 100, "seed": seed}
    found = section(before, after, **options)
    options |= {"units": before.units, "positive": before.positive}
    was, now = (one.logits.astype(np.float64) / one.temperature for one in (before, after))
    labels = before.labels
    pairs = (
        (found.before, evidence(after.logits, labels, classes, **options)),
        (found.after, evidence(now, labels, classes, **options)),
        (found.changes, changes(was, now, labels, classes, **options)),
    )
    for ours, theirs in pairs:
        for name in ("ece", "brier", "log_loss"):
            assert ends(ours[name]) == pytest.approx(ends(theirs[name]), abs=ROUNDING), name
            assert ours[name].method == theirs[name].method
    # another seed is another interval: the test can fail
    other = section(before, after, resamples=100, seed=seed + 1)
    assert ends(other.after["ece"]) != pytest.approx(ends(found.after["ece"]), abs=ROUNDING)


def test_changes_are_of_the_same_resamples_and_of_distances():
    before = reference(0, n=500)
    after = rounded(before, noise=1.0)
    found, mine = section(before, after), section(before, before)
    assert mine.changes == {}
    for name in ("ece", "ece_equal_mass", "brier", "log_loss"):
        expected = found.after[name].value - mine.after[name].value
        assert found.changes[name].value == pytest.approx(expected)
    slopes = [abs(one.after["slope"].value - 1) for one in (mine, found)]
    assert found.changes["slope_error"].value == pytest.approx(slopes[1] - slopes[0])
    # paired: far narrower than the two intervals together
    both = found.after["brier"].high - found.after["brier"].low
    assert found.changes["brier"].high - found.changes["brier"].low < 1.2 * both
    copy = replace(before)
    same = section(before, copy)
    assert all((d.value, d.low, d.high) == (0, 0, 0) for d in same.changes.values())
    assert same.verdict.status == "pass"


def test_reliability_bins_hold_every_image_once():
    scores = reference(0, n=400, per_unit=2)
    found = section(scores, rounded(scores))
    for bins, temperature in ((found.bins, 1.0), (found.bins_after, found.temperature)):
        assert len(bins) == 15
        assert sum(one.cases for one in bins) == 400
        top = softmax(rounded(scores).logits.astype(np.float64) / temperature, axis=1).max(axis=1)
        for one in bins:
            inside = (top > one.low + 1e-12) & (top <= one.high + 1e-12)
            assert one.cases == inside.sum()
            if one.cases:
                assert one.low < one.confidence <= one.high
                assert one.accuracy.low <= one.accuracy.value <= one.accuracy.high
            else:
                assert one.confidence is None
                assert one.accuracy is None


def test_the_temperature_shown_is_the_candidates():
    scores = replace(reference(0, n=200), temperature=1.7)
    assert section(scores, scores).temperature == 1.7
    assert section(scores, scores, chosen_on="elsewhere").chosen_on == "elsewhere"


def test_degenerate_splits():
    perfect = with_logits(reference(n=60), 9 * np.eye(3)[reference(n=60).labels])
    found = section(perfect, replace(perfect))
    assert "slope" not in found.after  # no wrong answer: no slope
    assert found.after["brier"].value < 0.01
    one = reference(n=1)
    assert section(one, replace(one)).after == {}  # one image says nothing of its spread
    patient = replace(reference(n=40), units=np.zeros(40, np.int64))
    nearly = with_logits(patient, patient.logits * 1.0001)
    assert section(patient, nearly).verdict.status == "inconclusive"
    flat = with_logits(reference(n=60), np.zeros((60, 3)))  # all ties
    assert section(flat, replace(flat)).after["ece"].value >= 0
    alone = reference(n=60)
    alone = replace(alone, labels=np.zeros(60, np.int64))  # one class
    assert section(alone, rounded(alone)).after["log_loss"].low > 0
    with pytest.raises(DataError):
        section(reference(n=60), reference(n=61))


def test_miscalibration_is_caught_while_every_answer_is_kept():
    before = reference(0)
    after = miscalibrated(before)
    assert (before.logits.argmax(1) == after.logits.argmax(1)).all()
    found = section(before, after)
    assert found.verdict.status == "fail"
    assert found.verdict.texts[0].startswith("Expected calibration error rose by")
    assert found.changes["ece"].low > 0.02
    assert found.changes["slope_error"].low > 0


def test_what_the_temperature_mends_is_no_loss():
    before = reference(0)
    louder = with_logits(before, 4 * before.logits)
    found = section(before, louder)
    assert found.before["ece"].value > found.after["ece"].value
    assert found.verdict.status == "pass"


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_candidate_is_not_failed(seed):
    before = reference(seed, n=800)
    assert section(before, rounded(before)).verdict.status in ("pass", "inconclusive")


def test_equal_mass_bins_hold_equal_numbers_and_keep_ties_together():
    top = np.random.default_rng(0).random(300)
    assert (np.bincount(equal_mass_bins(top)) == 20).all()
    tied = np.repeat([0.4, 0.6, 0.9], 50)
    bins = equal_mass_bins(tied)
    assert [len(set(bins[tied == value])) for value in (0.4, 0.6, 0.9)] == [1, 1, 1]
