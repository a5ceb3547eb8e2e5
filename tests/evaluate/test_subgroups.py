"""Referee: fairlearn's MetricFrame, with scikit-learn's metrics."""

from dataclasses import replace

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from clinipress.errors import DataError
from clinipress.evidence.subgroup_verdict import judge_groups
from clinipress.evidence.subgroups import subgroups_section
from clinipress.records.judgement import Gap
from clinipress.records.result import Interval
from clinipress.stats.intervals import wilson
from clinipress.stats.paired import paired_difference
from kit.each import each_seed
from kit.planted import CLASSES, accuracy, one_sex_falls, reference, rounded, tempered, with_logits
from kit.tolerances import ROUNDING


def section(before, after, **options):
    return subgroups_section(before, after, **{"margin": 0.02, "resamples": 200} | options)


def frames(scores, column):
    """fairlearn's figures by group of one column: of hard answers, and of probabilities."""
    called = scores.logits.argmax(axis=1)
    features = np.asarray(scores.groups[column])
    hard = {"accuracy": accuracy_score, "balanced_accuracy": balanced_accuracy_score}
    for number, name in enumerate(scores.classes):

        def recall(true, said, label=number):
            return recall_score(true, said, labels=[label], average="macro")

        hard[f"sensitivity[{name}]"] = recall
    found = MetricFrame(
        metrics=hard, y_true=scores.labels, y_pred=called, sensitive_features=features
    )
    chances = softmax(scores.logits.astype(np.float64), axis=1)

    def area(true, rows):
        if chances.shape[1] == 2:
            return roc_auc_score(true, chances[rows, 1])
        return roc_auc_score(true, chances[rows], multi_class="ovr", average="macro")

    areas = MetricFrame(
        metrics=area,
        y_true=scores.labels,
        y_pred=np.arange(len(called)),
        sensitive_features=features,
    )
    return found, areas


@each_seed(range(8))
def test_groups_and_gaps_against_fairlearn(seed):
    classes = CLASSES if seed % 2 else CLASSES[:2]
    before = reference(seed, n=400, sharp=2.0, classes=classes)
    after = rounded(before, noise=1.0)
    found = section(before, after, resamples=50)
    for column in ("sex", "site"):
        shown = {group.value: group for group in found.groups if group.column == column}
        for scores, side in ((before, "reference"), (after, "metrics")):
            hard, areas = frames(scores, column)
            assert set(shown) == set(hard.by_group.index)
            for value, group in shown.items():
                figures = {name: one.value for name, one in getattr(group, side).items()}
                assert figures.pop("auroc_macro") == pytest.approx(areas.by_group[value], abs=1e-6)
                assert figures.pop("ece") >= 0
                expected = hard.by_group.loc[value].to_dict()
                assert figures == pytest.approx(expected, abs=ROUNDING)
            for gap in (one for one in found.gaps if one.column == column):
                shown_gap = (gap.candidate if side == "metrics" else gap.reference).value
                if gap.metric in hard.by_group.columns:
                    assert shown_gap == pytest.approx(hard.difference()[gap.metric], abs=1e-9)
                elif gap.metric == "auroc_macro":
                    assert shown_gap == pytest.approx(areas.difference(), abs=1e-6)
                assert gap.change.value == pytest.approx(gap.candidate.value - gap.reference.value)
        assert len([g for g in found.gaps if g.column == column]) == 4 + len(classes)


def test_intervals_of_shares_are_wilsons_and_tangos():
    before = reference(3, n=400)
    after = rounded(before, noise=1.0)
    group = next(g for g in section(before, after).groups if g.value == "female")
    women = np.array(before.groups["sex"]) == "female"
    right = after.logits.argmax(1) == after.labels
    low, high = wilson(right[women].sum(), women.sum())
    shown = group.metrics["accuracy"]
    assert (shown.low, shown.high) == pytest.approx((low, high), abs=ROUNDING)
    assert group.cases == group.units == women.sum()
    was = before.logits.argmax(1) == before.labels
    assert group.changes["accuracy"] == paired_difference(right[women], was[women])
    for name in ("balanced_accuracy", "auroc_macro", "ece"):
        change, mine, ours = group.changes[name], group.metrics[name], group.reference[name]
        assert change.value == pytest.approx(mine.value - ours.value)
        assert change.low <= change.value <= change.high


def test_small_groups_are_shown_and_not_judged():
    scores = reference(n=300)
    sites = ("A",) * 280 + ("rare",) * 19 + ("",)
    scores = replace(scores, groups={"site": sites})
    # all answers in the rare group become wrong
    rows = np.arange(280, 299)
    logits = scores.logits.copy()
    logits[rows] = -logits[rows]
    found = section(scores, with_logits(scores, logits))
    rare = next(group for group in found.groups if group.value == "rare")
    assert rare.too_small
    assert rare.metrics["accuracy"].value < 0.2
    assert "ece" not in rare.metrics
    assert found.unknown == {"site": 1}
    assert found.gaps == ()
    assert found.verdict.status == "inconclusive"
    assert "site: rare (19)" in found.verdict.texts[-1]
    # large enough, it fails
    judged = section(scores, with_logits(scores, logits), minimum=19)
    assert judged.verdict.status == "fail"


def test_no_metadata_is_said():
    scores = replace(reference(n=60), groups={})
    found = section(scores, rounded(scores))
    assert (found.columns, found.groups, found.gaps) == ((), (), ())
    assert found.verdict.status == "inconclusive"
    assert "no metadata" in found.verdict.texts[0]
    named = replace(scores, groups={"id": scores.keys})
    found = section(named, rounded(named))
    assert found.left_out == {"id": "60 different values, more than 20"}
    assert "id: 60 different values" in found.verdict.texts[0]
    assert section(scores, scores).verdict.status == "inconclusive"


def test_the_reference_itself():
    scores = reference(n=200)
    found = section(scores, scores)
    assert found.verdict.status == "pass"
    assert all(not group.changes for group in found.groups)
    assert all(group.metrics == group.reference for group in found.groups)
    changes = [gap.change for gap in found.gaps]
    assert all((one.value, one.low, one.high) == (0, 0, 0) for one in changes)


def test_degenerate_splits():
    scores = reference(n=120)
    one_class = replace(scores, labels=np.zeros(120, np.int64))
    found = section(one_class, rounded(one_class))
    assert all("auroc_macro" not in group.metrics for group in found.groups)
    assert found.verdict.status in ("fail", "inconclusive", "pass")
    perfect = with_logits(scores, 20.0 * np.eye(3)[scores.labels])
    found = section(perfect, rounded(perfect))
    for group in found.groups:
        if not group.too_small:
            assert group.metrics["auroc_macro"].low < 1 == group.metrics["auroc_macro"].high
            assert group.metrics["balanced_accuracy"].low < 1
    patient = replace(scores, units=np.zeros(120, np.int64))
    found = section(patient, rounded(patient))
    assert all("ece" not in group.metrics for group in found.groups)
    assert found.verdict.status == "inconclusive"
    flat = with_logits(scores, np.zeros((120, 3)))
    assert section(scores, flat).verdict.status == "fail"
    single = reference(n=1)
    assert section(single, rounded(single)).verdict.status == "inconclusive"
    with pytest.raises(DataError):
        section(scores, reference(n=121))


def test_units_that_lie_in_two_groups_are_drawn_once():
    """Each unit holds one image of either sex, both answered alike: the gap never moves."""
    half = reference(n=150)
    twice = np.repeat(np.arange(150), 2)
    scores = replace(
        half,
        logits=half.logits[twice],
        labels=half.labels[twice],
        units=twice,
        keys=tuple(map(str, range(300))),
        groups={"sex": ("female", "male") * 150},
    )
    found = section(scores, with_logits(scores, rounded(half, noise=1.5).logits[twice]))
    gap = next(one for one in found.gaps if one.metric == "accuracy")
    assert (gap.candidate.low, gap.candidate.high) == (0, 0)
    assert (gap.change.low, gap.change.high) == (0, 0)


def test_a_loss_among_women_is_caught_while_accuracy_holds():
    before = reference(0, sharp=2.0)
    after = one_sex_falls(before)
    assert accuracy(after) == pytest.approx(accuracy(before), abs=0.01)
    found = section(before, after)
    assert found.verdict.status == "fail"
    assert "sex: female" in found.verdict.texts[0]
    gap = next(g for g in found.gaps if (g.column, g.metric) == ("sex", "accuracy"))
    assert gap.worst == "female"
    assert gap.change.low > 0.08
    # the same answers without the column: nothing to see
    blind = [replace(one, groups={"site": before.groups["site"]}) for one in (before, after)]
    assert section(*blind).verdict.status != "fail"


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_candidate_is_not_failed(seed):
    before = reference(seed, n=1000)
    assert section(before, rounded(before)).verdict.status == "pass"
    few = reference(seed, n=200, per_unit=2)
    assert section(few, rounded(few)).verdict.status == "inconclusive"


def test_false_alarms_are_rare():
    """Candidates whose noise harms all groups alike, at the narrowest margin."""
    failed = 0
    for seed in range(40):
        before = reference(seed, n=160, sharp=2.5)
        before = replace(before, groups={"sex": before.groups["sex"]})
        after = rounded(before, seed, noise=0.5)
        failed += section(before, after, margin=0.005, resamples=20).verdict.status == "fail"
    assert failed <= 3


def interval(value, low, high):
    return Interval(value=value, low=low, high=high, n=200)


def gap(change, metric="accuracy"):
    flat = interval(0.02, 0, 0.05)
    return Gap(
        column="sex",
        metric=metric,
        best="male",
        worst="female",
        candidate=flat,
        reference=flat,
        change=change,
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (interval(0.0, -0.02, 0.02), "pass"),
        (interval(0.2, 0.15, 0.25), "fail"),
        (interval(0.05, 0.0, 0.1), "inconclusive"),
        (interval(0.1, 0.081, 0.2), "inconclusive"),  # by itself, not among three
    ],
)
def test_a_gap_that_widens(change, status):
    right = np.ones(200, bool)
    compared = {f"accuracy[sex: {who}]": (right, right, np.arange(200)) for who in "fm"}
    verdict = judge_groups(compared, {}, [gap(change)], {}, limit=0.08)
    assert verdict.status == status
    calibration = judge_groups(
        compared, {}, [gap(interval(0, 0, 0)), gap(change, "ece")], {}, limit=0.08
    )
    assert calibration.status == "pass"  # shown, not judged
    other = judge_groups(
        compared, {}, [gap(interval(0, 0, 0)), gap(change, "sensitivity[x]")], {}, limit=0.08
    )
    assert other.status == ("fail" if status == "fail" else "pass")


def test_temperature_moves_the_calibration_of_groups_alone():
    scores = reference(n=300)
    other = replace(scores, temperature=5.0)
    one, two = (section(s, tempered(s)).groups[0].reference for s in (scores, other))
    assert two["ece"].value > one["ece"].value + 0.1
    assert two["accuracy"] == one["accuracy"]


def test_f_a_group_whose_answers_all_stay_has_no_interval_of_no_width():
    """What no resample changes may still change in other patients."""
    before = reference(n=300, sharp=2.0)
    after = replace(before, logits=before.logits * np.float32(1.01))
    groups = section(before, after).groups
    flat = [group.changes["balanced_accuracy"] for group in groups if not group.too_small]
    assert flat
    assert all(change.value == 0 and change.low < 0 < change.high for change in flat)
