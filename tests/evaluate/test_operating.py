from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import confusion_matrix
from statsmodels.stats.proportion import proportion_confint

from clinipress.errors import DataError
from clinipress.evidence.calibration import operating_points, thresholds
from clinipress.evidence.operating import operating_section
from clinipress.records.candidate import ANY_FINDING
from clinipress.records.result import Interval
from clinipress.stats.intervals import wilson
from clinipress.stats.paired import paired_difference
from clinipress.stats.predictive import predictive_value
from kit.each import each_seed
from kit.planted import CLASSES, one_class_falls, reference, rounded, tempered, with_logits
from kit.tolerances import ROOT, ROUNDING, check_share

MARGIN = 0.02


def section(before, after, validation=None, **options):
    validations = validation or (before, after)
    return operating_section(*validations, before, after, **{"margin": MARGIN} | options)


def share(hits, n):
    low, high = wilson(hits, n)
    return Interval(value=hits / n, low=low, high=high, n=n)


# ------------------------------------------------------------------ predictive values


def referee(hits, n1, false, n0, prevalence):
    """Limits by root finding: R where the recovered interval of `wrong - R right` ends at 0."""
    (a_low, a_high), (b_low, b_high) = (
        proportion_confint(x, n, method="wilson") for x, n in ((false, n0), (hits, n1))
    )
    a, b = false / n0, hits / n1

    def lower(r):
        return a - r * b - np.sqrt((a - a_low) ** 2 + r * r * (b_high - b) ** 2)

    def upper(r):
        return a - r * b + np.sqrt((a_high - a) ** 2 + r * r * (b - b_low) ** 2)

    best = a / b
    least = brentq(lower, 0, best, xtol=1e-14) if a > 0 else 0.0
    most = brentq(upper, best, 1e7, xtol=1e-14)
    odds = (1 - prevalence) / prevalence
    return tuple(1 / (1 + odds * r) for r in (best, most, least))


@each_seed(range(20))
def test_predictive_value_against_root_finding(seed):
    random = np.random.default_rng(seed)
    n1, n0 = random.integers(10, 300, 2)
    hits, false = random.integers(1, n1 + 1), random.integers(0, n0 + 1)
    prevalence = random.uniform(0.01, 0.9)
    found = predictive_value(share(hits, n1), share(false, n0), prevalence)
    expected = referee(hits, n1, false, n0, prevalence)
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=ROOT)


@pytest.mark.parametrize("seed", range(5))
def test_predictive_value_is_near_the_logit_interval_of_mercaldo(seed):
    """Mercaldo et al. 2007, equations 8 and 9, where the counts are large."""
    random = np.random.default_rng(seed)
    n1, n0 = random.integers(400, 900, 2)
    hits, false = random.binomial(n1, 0.8), random.binomial(n0, 0.15)
    se, sp, prevalence = hits / n1, 1 - false / n0, 0.1
    centre = np.log(se * prevalence / ((1 - sp) * (1 - prevalence)))
    half = 1.959964 * np.sqrt((1 - se) / se / n1 + sp / (1 - sp) / n0)
    found = predictive_value(share(hits, n1), share(false, n0), prevalence)
    for end, logit in ((found.low, centre - half), (found.high, centre + half)):
        assert end == pytest.approx(1 / (1 + np.exp(-logit)), abs=0.006)


@pytest.mark.parametrize(
    ("hits", "false", "value"), [(10, 0, 1.0), (0, 4, 0.0), (0, 0, None), (10, 20, 0.05 / 1.0)]
)
def test_predictive_value_at_the_edges(hits, false, value):
    found = predictive_value(share(hits, 10), share(false, 20), 0.05)
    if value is None:
        assert found is None
        return
    assert found.value == pytest.approx(value)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01


def test_predictive_value_covers():
    random = np.random.default_rng(0)
    se, sp, p, inside, trials = 0.9, 0.97, 0.03, 0, 2000
    truth = se * p / (se * p + (1 - sp) * (1 - p))
    for _ in range(trials):
        hits, false = random.binomial(60, se), random.binomial(120, 1 - sp)
        found = predictive_value(share(hits, 60), share(false, 120), p)
        inside += found.low <= truth <= found.high
    check_share(inside, trials, at_least=0.935)


# ------------------------------------------------------------------ the section


@each_seed(range(20))
def test_rows_against_scikit_learn_and_the_card(seed):
    validation, before = reference(seed, n=300), reference(seed + 100, n=260)
    validations = validation, rounded(validation, noise=0.5)
    after = replace(rounded(before, noise=0.5), temperature=validations[1].temperature)
    before = replace(before, temperature=validation.temperature)
    found = section(before, after, validations, aims=(0.95, 0.8))
    assert len(found.rows) == len(CLASSES) * 2 * 2 * 2
    cards = [
        {(p.label, p.aim): p.threshold for aim in (0.95, 0.8) for p in points(one, aim)}
        for one in validations
    ]
    for row in found.rows:
        number = CLASSES.index(row.label)
        assert row.threshold == cards[not row.kept][row.label, row.aim]  # exactly the card's
        called = after.probabilities[:, number] >= row.threshold
        known = before.probabilities[:, number] >= cards[0][row.label, row.aim]
        mine = before.labels == number
        (tn, fp), (fn, tp) = confusion_matrix(mine, called)
        assert (row.positives, row.missed) == (tp + fn, fn)
        assert row.missed_by_reference == (mine & ~known).sum()
        assert row.sensitivity.value == pytest.approx(tp / (tp + fn), abs=ROUNDING)
        assert row.specificity.value == pytest.approx(tn / (tn + fp), abs=ROUNDING)
        low, high = proportion_confint(tp, tp + fn, method="wilson")
        assert (row.sensitivity.low, row.sensitivity.high) == pytest.approx((low, high), abs=1e-9)
        tango = paired_difference(called[mine], known[mine])
        others = paired_difference(~called[~mine], ~known[~mine])
        if row.kept:
            assert (row.sensitivity_change, row.specificity_change) == (tango, others)
        for change, least in ((row.sensitivity_change, tango), (row.specificity_change, others)):
            assert change.value == least.value
            assert change.low <= least.low
            assert change.high >= least.high
        # at the split's own prevalence the predictive values are those of the table
        assert row.prevalence == mine.mean()
        assert row.ppv.value == pytest.approx(tp / (tp + fp))
        assert row.npv.value == pytest.approx(tn / (tn + fn))
        new = {before.keys[i] for i in np.flatnonzero(mine & known & ~called)}
        assert set(row.newly_missed) == new
        shown = [after.probabilities[after.keys.index(key), number] for key in row.newly_missed]
        assert shown == sorted(shown)  # surest miss first


def points(scores, aim):
    return operating_points(scores.probabilities, scores.labels, scores.classes, aim)


def test_r5_of_two_classes_the_share_of_one_is_that_of_the_other():
    scores = reference(n=400)
    other, finding = scores.classes[:2]
    two = replace(
        scores, classes=(other, finding), logits=scores.logits[:, :2], labels=scores.labels % 2,
        positive=finding,
    )  # fmt: skip
    direct = section(two, two, prevalence={finding: 0.25})
    assert section(two, two, prevalence={other: 0.75}) == direct
    assert {row.prevalence for row in direct.rows} == {0.25}


def test_declared_prevalence_moves_predictive_values_and_nothing_else():
    scores = reference(n=400)
    other = rounded(scores)
    plain, declared = section(scores, other), section(scores, other, prevalence={"nodule": 0.01})
    assert (plain.declared, declared.declared) == (False, True)
    for before, after in zip(plain.rows, declared.rows, strict=True):
        assert before.sensitivity == after.sensitivity
        if before.label == "nodule":
            assert after.prevalence == 0.01
            assert after.ppv.value < before.ppv.value
        else:
            assert after == before


@pytest.mark.parametrize("finding", ["covid", "normal"])
def test_a2_two_classes_are_looked_at_for_the_finding_that_was_named(finding):
    scores = replace(reference(n=200, classes=("covid", "normal")), positive=finding)
    assert {row.label for row in section(scores, rounded(scores)).rows} == {finding}


def test_a2_no_finding_is_guessed_from_the_alphabet():
    scores = reference(n=200, classes=("covid", "normal"))
    assert {row.label for row in section(scores, rounded(scores)).rows} == {"covid", "normal"}


def test_a2_a_normal_class_gives_finding_against_none():
    """SYNTHETIC: its row is that of the two classes pooled by hand."""
    scores = reference(n=400)
    other = rounded(scores)
    normal, *findings = scores.classes
    declared = [replace(x, normal=normal) for x in (scores, other)]
    plain = {(r.label, r.aim, r.kept): r for r in section(scores, other).rows}
    found = {(r.label, r.aim, r.kept): r for r in section(*declared, prevalence={normal: 0.9}).rows}
    assert {label for label, *_ in found} == {*findings, ANY_FINDING}
    assert all(found[key] == plain[key] for key in found if key[0] != ANY_FINDING)
    row = found[ANY_FINDING, "sensitivity 0.95", False]
    ill = declared[1].labels != 0
    called = 1 - declared[1].probabilities[:, 0] >= row.threshold
    assert row.sensitivity.value == called[ill].mean()
    assert row.specificity.value == 1 - called[~ill].mean()
    assert row.positives == ill.sum()
    assert row.prevalence == pytest.approx(0.1)
    points = operating_points(scores.probabilities, scores.labels, scores.classes, normal=normal)
    assert {point.label for point in points} == {*findings, ANY_FINDING}
    thresholds = {p.aim: p.threshold for p in points if p.label == ANY_FINDING}
    itself = {r.aim: r.threshold for r in section(declared[0], declared[0]).rows
              if r.label == ANY_FINDING}  # fmt: skip
    assert thresholds == itself


def test_a2_a_class_with_a_margin_of_its_own_is_judged_by_it():
    scores = reference(n=400)
    other = rounded(scores)
    wide = section(scores, other, margin=0.2).verdict
    name = scores.classes[0]
    narrow = section(scores, other, margin=0.2, class_margins={name: 1e-6}).verdict
    assert wide.status == "pass"
    assert narrow.status != "pass"
    limits = {reason.limit for reason in narrow.reasons if reason.kind == "margin"}
    assert limits == {0.8, 1e-6}


def test_the_reference_itself_has_no_drops():
    scores = reference(n=200)
    found = section(scores, scores)
    assert found.verdict.status == "pass"
    assert all(row.sensitivity_change is None and not row.kept for row in found.rows)
    assert all(row.missed_by_reference is None and not row.newly_missed for row in found.rows)


def test_patients_widen_intervals():
    """The same answers: images that come in sixes tell less than images alone."""
    scores = reference(n=600, per_unit=6)
    # whole patients are answered alike
    scores = tempered(replace(scores, labels=scores.labels[scores.units * 6]))
    logits = scores.logits[scores.units * 6]
    scores = with_logits(scores, logits)
    alone = replace(scores, units=np.arange(600))
    for single, many in zip(
        section(alone, rounded(alone)).rows, section(scores, rounded(scores)).rows, strict=True
    ):
        width = single.sensitivity.high - single.sensitivity.low
        assert many.sensitivity.high - many.sensitivity.low > 1.3 * width


def test_degenerate_splits():
    scores = reference(n=90)
    other = rounded(scores)
    for rows in (scores.labels == 0, np.arange(90) == 0):
        one, two = (cut(s, rows) for s in (scores, other))
        found = section(one, two, (scores, other))  # one class in the split
        assert (found.rows, found.verdict.status) == ((), "inconclusive")
        found = section(scores, other, (one, two))  # one class in validation
        assert (found.rows, found.verdict.status) == ((), "inconclusive")
    unit = replace(scores, units=np.full(90, -7))  # one patient, with any number
    found = section(unit, rounded(unit))
    assert found.verdict.status == "inconclusive"
    assert found.rows[0].sensitivity.low < 0.3
    flat = with_logits(scores, np.zeros_like(scores.logits))  # all ties
    assert section(scores, flat, (scores, flat)).verdict.status == "fail"
    perfect = with_logits(scores, 20.0 * np.eye(3)[scores.labels])
    rows = section(perfect, with_logits(perfect, perfect.logits * 1.1)).rows
    assert all(row.missed == 0 and row.ppv.high == 1 for row in rows if not row.kept)


def cut(scores, rows):
    rows = np.flatnonzero(rows)
    return replace(
        scores,
        logits=scores.logits[rows],
        labels=scores.labels[rows],
        units=scores.units[rows],
        keys=tuple(scores.keys[i] for i in rows),
        groups={name: tuple(values[i] for i in rows) for name, values in scores.groups.items()},
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"aims": ()},
        {"aims": (1.0,)},
        {"prevalence": {"nodule": 0.0}},
        {"prevalence": {"nodul": 0.5}},
    ],
)
def test_wrong_wishes_are_refused(wrong):
    scores = reference(n=60)
    with pytest.raises(DataError):
        section(scores, rounded(scores), **wrong)


def test_a_class_that_falls_is_caught_while_accuracy_holds():
    before, validation = reference(0), reference(5)
    after = one_class_falls(before)
    assert (after.logits.argmax(1) == after.labels).sum() == (
        before.logits.argmax(1) == before.labels
    ).sum()
    found = section(before, after, (validation, one_class_falls(validation)))
    assert found.verdict.status == "fail"
    assert "at or beyond the limit" in " ".join(found.verdict.texts)


@pytest.mark.parametrize("seed", range(3))
def test_an_honest_candidate_passes_with_enough_images_and_is_open_with_few(seed):
    for n, status in ((1500, "pass"), (120, "inconclusive")):
        before, validation = reference(seed, n=n), reference(seed + 50, n=n)
        after = rounded(before, noise=0.05)
        found = section(before, after, (validation, rounded(validation, noise=0.05)))
        assert found.verdict.status == status
        assert found.verdict.texts


def test_choosing_thresholds_again_against_doing_it_one_by_one():
    """Referee: `thresholds` itself on resampled images, drawn by numpy."""
    random = np.random.default_rng(0)
    validation, split = reference(1, n=300), reference(2, n=300)
    other, after = rounded(validation, 3, noise=1.0), rounded(split, 4, noise=1.0)
    mine = validation.labels == 0
    differences = []
    for _ in range(1000):
        own = random.choice(np.flatnonzero(mine), mine.sum())
        rest = random.choice(np.flatnonzero(~mine), (~mine).sum())
        rates = []
        for chosen, looked in ((validation, split), (other, after)):
            shares = chosen.probabilities[:, 0]
            cut_at = thresholds(shares[own], shares[rest], 0.9)["specificity"]
            rates.append((looked.probabilities[split.labels == 0, 0] >= cut_at).mean())
        differences.append(rates[1] - rates[0])
    row = next(
        one
        for one in section(split, after, (validation, other), aims=(0.9,)).rows
        if (one.label, one.aim, one.kept) == ("effusion", "specificity 0.9", False)
    )
    known = split.probabilities[:, 0] >= next(
        p.threshold for p in points(validation, 0.9) if p.aim == "specificity 0.9"
    )
    called = after.probabilities[:, 0] >= row.threshold
    here = split.labels == 0
    tango = paired_difference(called[here], known[here])
    more = np.hypot(tango.high - tango.value, 1.959964 * np.std(differences))
    assert row.sensitivity_change.high - tango.value == pytest.approx(more, rel=0.06)


def test_equals_are_seldom_failed():
    """Two classifiers as good as each other, at the narrowest margin."""
    failed = 0
    for seed in range(40):
        root, other = (reference(seed + more, n=300, sharp=2.5) for more in (0, 5000))
        before, after = (rounded(root, seed + more, noise=0.5) for more in (0, 1000))
        validation = tuple(rounded(other, seed + more, noise=0.5) for more in (7, 1007))
        failed += section(before, after, validation, margin=0.005).verdict.status == "fail"
    assert failed <= 4


def test_with_thresholds_kept_a_shift_is_told_and_not_judged():
    """Every finding's logit is lower by 2: new thresholds undo it, old ones miss images."""
    before, validation = (replace(reference(s), temperature=1.0) for s in (0, 5))
    shift = np.array([-2.0, 0, 0], np.float32)
    after, shifted = (replace(s, logits=s.logits + shift) for s in (before, validation))
    found = section(before, after, (validation, shifted))
    own, kept = (
        next(r for r in found.rows if r.label == "effusion" and r.kept is k) for k in (False, True)
    )
    assert abs(own.sensitivity_change.value) < 0.02
    assert kept.sensitivity_change.high < -0.1
    assert found.verdict.status != "fail"
    assert "exchange thresholds and weights together" in found.verdict.texts[-1]
