"""Classes that have an order: weighted kappa, answers two grades off, rules, thresholds upwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as referee

from clinipress.errors import DataError
from clinipress.evidence import gate
from clinipress.evidence.calibration import calibration_section, called_together, operating_points
from clinipress.evidence.evidence import changes, evidence
from clinipress.evidence.operating import operating_section
from clinipress.evidence.scores import Scores
from clinipress.stats.metrics import point_metrics
from kit.each import each_seed
from kit.tolerances import ROUNDING

GRADES = ("none", "doubtful", "mild", "moderate", "severe")


def logits_of(answers, k=5, seed=0):
    """Logits that are largest for the answers."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 0.3, (len(answers), k))
    logits[np.arange(len(answers)), answers] += 3
    return logits


def graded(seed=0, n=400, spread=(-1, 0, 0, 0, 1)):
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, n)
    return truth, np.clip(truth + random.choice(spread, n), 0, 4)


def test_grades_that_nobody_has_keep_their_place():
    # a report to another library: closed up, the grades 0, 1 and 4 gave 0.667
    truth = np.array([0, 0, 0, 1, 1, 1, 4, 4])
    answers = np.array([0, 0, 1, 1, 1, 4, 4, 1])
    figures = point_metrics(logits_of(answers), truth, GRADES, order=GRADES)
    assert figures["kappa_quadratic"] == pytest.approx(0.5, abs=1e-12)
    assert figures["two_off"] == 0.25


@pytest.mark.parametrize(
    "names",
    [
        ("mild", "moderate", "none", "severe", "worst"),
        ("worst", "severe", "none", "moderate", "mild"),
    ],
)
def test_a8_names_sorted_by_alphabet_change_nothing(names):
    # the row's own eight cases, grades 2 and 3 on neither side, the logits by alphabet or otherwise
    order = ("none", "mild", "moderate", "severe", "worst")
    at = np.array([names.index(name) for name in order])
    truth, answers = at[[0, 0, 0, 1, 1, 1, 4, 4]], at[[0, 0, 1, 1, 1, 4, 4, 1]]
    logits = logits_of(answers)
    figures = point_metrics(logits, truth, names, order=order)
    assert figures["kappa_quadratic"] == pytest.approx(0.5, abs=1e-12)
    found = evidence(logits, truth, names, order=order, resamples=50)
    assert found["kappa_quadratic"].value == pytest.approx(0.5, abs=1e-12)
    assert found["two_off"].value == 0.25
    same = changes(logits, logits, truth, names, order=order, resamples=50)
    assert same["kappa_quadratic"].value == 0


@each_seed(range(8))
def test_kappa_is_that_of_scikit_learn_whatever_the_order_of_the_logits(seed):
    truth, answers = graded(seed, n=150, spread=(-3, -1, 0, 0, 1, 2))
    right = referee.cohen_kappa_score(truth, answers, weights="quadratic", labels=range(5))
    far = np.mean(np.abs(truth - answers) >= 2)
    places = np.random.default_rng(seed).permutation(5)  # of the logits: by alphabet, say
    names = tuple(GRADES[grade] for grade in places)
    at = np.argsort(places)
    logits = logits_of(at[answers])
    figures = evidence(logits, at[truth], names, order=GRADES, resamples=100)
    assert figures["kappa_quadratic"].value == pytest.approx(right, abs=ROUNDING)
    assert figures["two_off"].value == pytest.approx(far, abs=ROUNDING)
    assert "kappa_quadratic" not in evidence(logits, at[truth], names, resamples=100)


@each_seed(range(3))
def test_interval_of_kappa_is_that_of_an_independent_bootstrap(seed):
    truth, answers = graded(seed, spread=(-2, -1, 0, 0, 0, 1))
    figure = evidence(logits_of(answers), truth, GRADES, order=GRADES)["kappa_quadratic"]
    random = np.random.default_rng(seed + 100)
    drawn = []
    for _ in range(1000):
        rows = random.integers(0, len(truth), len(truth))
        drawn.append(referee.cohen_kappa_score(truth[rows], answers[rows], weights="quadratic"))
    low, high = np.quantile(drawn, [0.025, 0.975])
    # theirs is not stratified and its tails are plain percentiles
    assert figure.low == pytest.approx(low, abs=0.25 * (high - low))
    assert figure.high == pytest.approx(high, abs=0.25 * (high - low))


def test_a_perfect_grader_and_one_that_changes_nothing_have_intervals():
    truth, answers = graded(n=300)
    units = np.arange(300) // 2
    perfect = evidence(logits_of(truth), truth, GRADES, order=GRADES, units=units)
    assert perfect["kappa_quadratic"].value == 1 > perfect["kappa_quadratic"].low > 0.8
    assert perfect["two_off"].value == 0 < perfect["two_off"].high < 0.03
    nudged = logits_of(answers) + np.random.default_rng(1).normal(0, 1e-3, (300, 5))
    same = changes(logits_of(answers), nudged, truth, GRADES, order=GRADES, units=units)
    for name in ("kappa_quadratic", "two_off"):
        assert same[name].value == 0
        assert same[name].low < -0.005 < 0.005 < same[name].high


def compared(moves, n=600):
    """A reference that is always right, and a copy with 40 answers moved by so many grades."""
    truth, _ = graded(n=n)
    answers = truth.copy()
    rows = np.flatnonzero(truth + moves <= 4)[:40]
    answers[rows] += moves
    return logits_of(truth), logits_of(answers), truth


def test_two_grades_off_fails_where_one_of_equal_accuracy_does_not():
    rules = gate.rules_for("low", ordered=True)
    verdicts, shares = {}, {}
    for moves in (1, 2, 3):
        before, after, truth = compared(moves)
        apart = changes(before, after, truth, GRADES, order=GRADES)
        shares[moves] = apart["accuracy"].value
        # the sensitivities are not what is looked at: 40 answers are spread over four of them
        asked = [rule for rule in rules if rule.metric in ("accuracy", "two_off")]
        wide = [rule.model_copy(update={"margin": 0.1}) for rule in asked if rule.primary]
        narrow = [
            rule.model_copy(update={"margin": 0.04}) for rule in wide if rule.metric != "accuracy"
        ]
        verdicts[moves] = gate.judge([wide[0], *narrow], apart)
    assert len(set(shares.values())) == 1
    assert verdicts[1].status == "pass"
    assert verdicts[2].status == verdicts[3].status == "fail"
    (reason,) = (r for r in verdicts[2].reasons if r.status == "fail")
    assert reason.metric == "two_off"


def test_rules_of_other_tasks_are_as_they_were():
    plain, ordered = gate.rules_for("medium"), gate.rules_for("medium", ordered=True)
    more = [rule for rule in ordered if rule not in plain]
    assert [(rule.metric, rule.primary) for rule in more] == [
        ("two_off", True),
        ("kappa_quadratic", False),
    ]


@pytest.mark.parametrize("order", [GRADES[:4], (*GRADES[:4], "grave"), (*GRADES, "none")])
def test_an_order_of_other_classes_is_refused(order):
    with pytest.raises(DataError, match="an order of none, doubtful"):
        evidence(logits_of([0, 1, 2]), np.array([0, 1, 2]), GRADES, order=order)


def scores(answers, truth, order=GRADES):
    names = tuple(f"p{n}" for n in range(len(truth)))
    return Scores(
        logits_of(answers).astype(np.float32), truth, np.arange(len(truth)) // 2, names, GRADES,
        order=order,
    )  # fmt: skip


def test_thresholds_call_a_grade_and_all_graver_ones():
    truth, answers = graded()
    kept = scores(answers, truth)
    points = operating_points(kept.probabilities, truth, GRADES, order=GRADES)
    labels = ["doubtful or worse", "mild or worse", "moderate or worse", "severe"]
    assert [point.label for point in points[::2]] == labels
    graver = kept.probabilities[:, 2:].sum(axis=1)
    point = next(p for p in points if p.label == labels[1] and p.aim.startswith("sensitivity"))
    assert np.mean(graver[truth >= 2] >= point.threshold) >= 0.95
    assert point.specificity.value == pytest.approx(
        np.mean(graver[truth < 2] < point.threshold), abs=ROUNDING
    )
    section = operating_section(kept, kept, kept, kept, margin=0.02)
    assert {row.label for row in section.rows} == set(labels)
    assert {row.positives for row in section.rows if row.label == labels[1]} == {
        int((truth >= 2).sum())
    }


def test_prevalence_of_grades_together_is_the_sum_of_theirs():
    truth, answers = graded()
    kept = scores(answers, truth)
    declared = {"none": 0.5, "doubtful": 0.2, "mild": 0.15, "moderate": 0.1, "severe": 0.05}
    section = operating_section(kept, kept, kept, kept, margin=0.02, prevalence=declared)
    share = {row.label: row.prevalence for row in section.rows}
    assert share["mild or worse"] == pytest.approx(0.3, abs=ROUNDING)
    assert share["severe"] == pytest.approx(0.05, abs=ROUNDING)
    # from below, where nothing is said of the gravest
    some = {name: declared[name] for name in GRADES[:2]}
    section = operating_section(kept, kept, kept, kept, margin=0.02, prevalence=some)
    share = {row.label: row.prevalence for row in section.rows}
    assert share["mild or worse"] == pytest.approx(0.3, abs=ROUNDING)
    assert share["moderate or worse"] == pytest.approx(np.mean(truth >= 3), abs=ROUNDING)


def test_classes_together_without_an_order_are_as_they_were():
    plain = called_together(("a", "b", "c"))
    assert [(t.label, t.columns) for t in plain] == [("a", (0,)), ("b", (1,)), ("c", (2,))]
    normal = called_together(("a", "b", "c"), normal="b")[1]
    assert (normal.label, normal.columns) == ("any finding", (0, 2))
    assert called_together(("a", "b"), normal="b")[1].label == "b"


def test_calibration_says_how_often_each_grade_or_worse_was_promised():
    truth, answers = graded()
    kept = scores(answers, truth)
    rows = {row.label: row for row in calibration_section(kept, kept, margin=0.02).grades}
    row = rows["moderate or worse"]
    stated = kept.probabilities[:, 3:].sum(axis=1)
    assert row.stated == pytest.approx(stated.mean(), abs=ROUNDING)
    assert row.observed.value == pytest.approx(np.mean(truth >= 3), abs=ROUNDING)
    assert row.excess.value == pytest.approx(stated.mean() - np.mean(truth >= 3), abs=ROUNDING)
    assert row.excess.low < row.excess.value < row.excess.high
    assert calibration_section(*[scores(answers, truth, ())] * 2, margin=0.02).grades == ()


def test_scores_keep_the_order_and_others_their_digest(tmp_path):
    truth, answers = graded(n=20)
    kept = scores(answers, truth)
    kept.save(tmp_path / "a.npz")
    assert Scores.load(tmp_path / "a.npz").order == GRADES
    assert kept.in_order(GRADES[::-1]).order == GRADES
    assert kept.digest != scores(answers, truth, ()).digest


def test_thresholds_of_a_broken_model_are_refused():
    truth, answers = graded(n=60)
    kept = scores(answers, truth, ())
    broken = replace(kept, logits=np.full_like(kept.logits, np.nan))
    with pytest.raises(DataError, match="finite logits"):
        operating_section(kept, broken, kept, broken, margin=0.02)
