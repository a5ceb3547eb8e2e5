"""Claims from few patients: equal models, hardly a change, and who carries a class."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from clinipress.evidence import gate
from clinipress.evidence.disagreement import disagreement_section
from clinipress.evidence.evidence import carried_by, changes
from clinipress.evidence.judged import Declared, judged, statistics
from clinipress.evidence.scores import Scores
from clinipress.evidence.stress import stress_section
from clinipress.evidence.subgroups import subgroups_section
from clinipress.kinds.image.disturb import DISTURBANCES
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.judgement import Judgements
from clinipress.records.result import Interval, Rule
from clinipress.stats.intervals import effective_units, proportion
from clinipress.stats.paired import nearest, paired_difference

CLASSES = ("normal", "paced", "ectopic")
KIND = next(iter(DISTURBANCES))
Z2 = stats.norm.ppf(0.975) ** 2
BEATS = np.random.default_rng(4).integers(150, 700, 22)  # of each patient


def records(seed=0, change=0.01):
    """Beats of 22 patients: labels, logits of reference and candidate, patients."""
    random, index = np.random.default_rng(seed), np.repeat(np.arange(22), BEATS)
    labels = random.choice(3, len(index), p=(0.8, 0.15, 0.05))

    def noise():
        shared = random.normal(size=(22, 3))[index]
        return 0.6 * shared + 0.8 * random.normal(size=(len(index), 3))

    reference = 3.2 * np.eye(3)[labels] + noise()
    return labels, reference, reference + change * noise(), index


def scores(logits, labels, index, **more):
    keys = tuple(map(str, range(len(labels))))
    return Scores(logits.astype(np.float32), labels, index, keys, CLASSES, **more)


def length(interval: Interval) -> float:
    return interval.high - interval.low


def test_f_interval_shrinks_to_the_bound_for_none_changed():
    """As whole patients cease to change: 3, 2, 1, 0 of 22."""
    index = np.repeat(np.arange(22), 40)
    right, lengths = np.ones(880, bool), []
    for changed in (3, 2, 1, 0):
        found = paired_difference(right & (index >= changed), right, index)
        lengths.append(length(found))
    assert lengths == sorted(lengths, reverse=True)
    assert min(-np.diff(lengths)) > 0
    assert found.high == pytest.approx(Z2 / (22 + Z2), abs=1e-9)  # Tango 1998 without a change
    assert found.low == -found.high


def test_f_fewer_changed_answers_never_fare_worse():
    """The movement of every logit taken back bit by bit, to the last digit."""
    labels, reference, candidate, index = records(change=0.03)
    figures = ("accuracy", "sensitivity[ectopic]", "balanced_accuracy", "kappa", "auroc_macro")
    lengths, counts = [], []
    for part in (1, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-4, 1e-9):
        after = reference + part * (candidate - reference)
        found = changes(reference, after, labels, CLASSES, units=index, resamples=60)
        counts.append(int((after.argmax(1) != reference.argmax(1)).sum()))
        lengths.append([length(found[name]) for name in figures])
    assert counts[0] > 20
    assert counts[-1] == 0
    for name, column in zip(figures, np.transpose(lengths), strict=True):
        assert all(after < 1.02 * before + 1e-4 for before, after in pairwise(column)), name
        assert length(found["precision[normal]"]) < 0.01  # 0.29 by two separate intervals
        assert column[-1] < 0.06, name  # 0.31 and more where only the number of patients counted


def test_f_last_changes_do_not_jump():
    """Single beats that change, in a candidate that is the reference everywhere else."""
    labels, reference, _, index = records()
    right = np.flatnonzero(reference.argmax(1) == labels)
    beats = np.random.default_rng(1).permutation(right)[:28]
    lengths = []
    for count in (28, 14, 7, 3, 1):
        after = reference.copy()
        after[beats[:count]] = -after[beats[:count]]
        found = changes(reference, after, labels, CLASSES, units=index, resamples=60)
        lengths.append(length(found["accuracy"]))
    assert all(after < 1.35 * before for before, after in pairwise(lengths))
    assert lengths[-1] < 0.005


def test_nearest_takes_what_the_same_movement_would_take_next():
    index = np.repeat(np.arange(10), 10)
    margin, moved = np.full(100, 5.0), np.full(100, -1.0)
    margin[:30] = 1 + np.arange(30) / 10
    events = np.zeros(100, int)
    events[40] = -1
    likely = nearest(events, margin, moved, index)
    assert set(np.flatnonzero(likely)) == {40, *range(19)}
    assert set(likely[likely != 0]) == {-1}
    wrong = nearest(events, -margin, -moved, index)
    assert (wrong[:19] == 1).all()
    single = nearest(events, margin, moved, np.arange(100))
    assert np.array_equal(single, events)  # of single cases there is nothing to tell


def test_f_a_copy_is_identical_and_passes():
    labels, reference, _, index = records()
    mine, copy = (scores(reference, labels, index) for _ in range(2))
    declared = Declared("medium", EvidenceRecipe(), resamples=60)
    found = judged(declared, gate.rules_for("critical"), mine, copy, Judgements())
    assert found.verdict.status == "pass"
    assert [reason.kind for reason in found.verdict.reasons] == ["identical"]
    assert "identical" in found.verdict.texts[0]
    assert {(x.value, x.low, x.high) for x in found.changes.values()} == {(0, 0, 0)}
    # a copy that was read with another temperature is another model
    sections = statistics(declared, mine, copy, validation=(mine, copy))
    for section in (sections.operating, sections.calibration, sections.disagreement):
        assert [reason.kind for reason in section.verdict.reasons] == ["identical"]
        assert section.verdict.status == "pass"
    row = sections.operating.rows[0]
    assert (row.sensitivity_change.low, row.sensitivity_change.high) == (0, 0)
    assert set(sections.calibration.changes) >= {"ece", "slope_error"}
    warmer = replace(copy, temperature=1.1)
    kinds = [
        r.kind
        for r in statistics(declared, mine, warmer, validation=None).calibration.verdict.reasons
    ]
    assert "identical" not in kinds


def test_f_identical_groups():
    labels, reference, _, index = records()
    sex = {"sex": tuple(np.where(index % 2, "female", "male").tolist())}
    mine, copy = (scores(reference, labels, index, groups=sex) for _ in range(2))
    found = subgroups_section(mine, copy, margin=0.005, resamples=40)
    assert [reason.kind for reason in found.verdict.reasons] == ["identical"]
    assert {(c.low, c.high) for group in found.groups for c in group.changes.values()} == {(0, 0)}
    assert {(gap.change.low, gap.change.high) for gap in found.gaps} == {(0, 0)}


def test_effective_units_are_counted_by_what_they_carry():
    assert effective_units(np.repeat(np.arange(7), 3)) == pytest.approx(7)
    assert effective_units(np.arange(0)) == 0
    one_has_most = np.repeat(np.arange(8), [75, 4, 4, 4, 4, 3, 3, 3])
    assert effective_units(one_has_most) == pytest.approx(1 / (0.75**2 + 4 * 0.04**2 + 3 * 0.03**2))


def test_f_a_class_of_fewer_than_five_patients_gets_no_verdict():
    labels, reference, candidate, index = records(change=0.6)
    index = np.where(labels == 2, np.where(np.arange(len(labels)) % 4, 3, index), index)
    candidate = (
        candidate - 9 * np.eye(3)[2] * (labels == 2)[:, None]
    )  # the class is lost altogether
    mine, other = (scores(x, labels, index) for x in (reference, candidate))
    carried = carried_by(labels, CLASSES, units=index)
    assert carried["sensitivity[ectopic]"] < 2
    assert carried["accuracy"] > 10
    assert carried["balanced_accuracy"] == carried["sensitivity[ectopic]"]
    rules = (
        Rule(metric="sensitivity[*]", margin=0.2, primary=True),
        Rule(metric="balanced_accuracy", margin=0.01, primary=False),
    )
    declared = Declared("medium", EvidenceRecipe(), resamples=60)
    found = judged(declared, rules, mine, other, Judgements()).verdict
    assert found.status == "inconclusive"
    few, others, mean = found.reasons
    assert (few.kind, few.status, list(few.parameters["units"])) == (
        "few units",
        "inconclusive",
        ["ectopic"],
    )
    assert "fewer than five patients" in few.text
    assert "ectopic (1." in few.text
    assert (others.kind, others.status) == ("margin", "pass")  # the other classes are judged
    assert (mean.kind, mean.status, mean.rule) == ("few units", None, "guard")
    everyone = judged(declared, rules, mine, replace(other, units=mine.units), Judgements())
    assert everyone.verdict == found
    single = [scores(x, labels, np.arange(len(labels))) for x in (reference, candidate)]
    assert judged(declared, rules, *single, Judgements()).verdict.status == "fail"


def test_f_two_classes_and_the_whole_are_counted_too():
    labels = np.repeat([0, 1], [90, 10])
    index = np.concatenate([np.arange(90), np.full(10, 95)])
    carried = carried_by(labels, ("healthy", "ill"), units=index, positive="healthy")
    assert carried["sensitivity"] == 90
    assert carried["specificity"] == carried["auroc_macro"] == 1
    change = Interval(value=0, low=-0.001, high=0.001)
    rule = Rule(metric="accuracy", margin=0.1)
    assert (
        gate.judge([rule], {"accuracy": change}, units={"accuracy": 4.9}).status == "inconclusive"
    )
    assert gate.judge([rule], {"accuracy": change}, units={"accuracy": 5.0}).status == "pass"


def test_f_a_group_of_fewer_than_five_patients_gets_no_verdict():
    labels, reference, candidate, index = records(change=0.3)
    site = {"site": tuple(np.where(index < 3, "small", "large").tolist())}
    mine, other = (scores(x, labels, index, groups=site) for x in (reference, candidate))
    found = subgroups_section(mine, other, margin=0.2, resamples=40).verdict
    few = [reason for reason in found.reasons if reason.kind == "few units"]
    assert found.status == "inconclusive"
    assert any("site: small" in reason.parameters["units"] for reason in few)
    assert not any("site: large" in reason.parameters["units"] for reason in few)


def test_f_few_errors_are_no_surer_than_none():
    index = np.repeat(np.arange(22), 400)
    hits = np.ones(8800, bool)
    assert proportion(hits, index).low == pytest.approx(22 / (22 + Z2))


def test_a14_p_values_are_told_with_what_they_count():
    """One patient with many new misses is one patient; raw and adjusted stand together."""
    random, n = np.random.default_rng(2), 600
    index, labels = np.arange(n) // 3, np.arange(n) // 3 % 3
    reference = 3 * np.eye(3)[labels] + 0.1 * random.normal(size=(n, 3))
    candidate = reference.copy()
    patients = np.unique(index[labels == 2])[:11]
    for images, patient in zip((2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1), patients, strict=True):
        rows = np.flatnonzero(index == patient)[:images]
        candidate[rows, 2] = -9
    mine, other = (scores(x, labels, index) for x in (reference, candidate))
    section = disagreement_section(mine, other, least_agreement=0.9, resamples=40)
    direction = section.directions[2]
    assert (direction.missed, direction.found) == (14, 0)
    assert (direction.units_missed, direction.units_found) == (11, 0)
    assert (section.units_lost, section.units_gained) == (11, 0)
    assert direction.p_value == pytest.approx(stats.binomtest(11, 11).pvalue)
    assert direction.adjusted_p_value == pytest.approx(3 * direction.p_value)  # Holm, of three
    text = next(r.text for r in section.verdict.reasons if r.kind == "new misses")
    assert "14 newly missed, 0 newly found" in text
    assert "11 against 0 patients or clusters, p < 0.001; p = 0.003 after Holm's" in text


def of_patients(patients, flipped):
    """30 images each, of which the last patients' answers turn; a site for the last ones."""
    index = np.repeat(np.arange(patients), 30)
    labels = np.arange(len(index)) % 3
    reference = 2.0 * np.eye(3)[labels]
    candidate = reference.copy()
    turned = (index >= patients - flipped) & (np.arange(len(index)) % 10 < 8)
    candidate[turned] = np.roll(candidate[turned], 1, axis=1)
    groups = {"site": tuple("B" if i >= patients - flipped else "A" for i in index)}
    pair = (scores(x, labels, index, groups=groups) for x in (reference, candidate))
    return (*pair, {(KIND, 1): (reference, candidate)})


@pytest.mark.parametrize(("flipped", "status"), [(3, "inconclusive"), (6, "fail")])
def test_f_no_gap_is_judged_by_a_group_of_few_patients(flipped, status):
    """The figures of three patients get no verdict; nor does their gap to the others."""
    reference, candidate, _ = of_patients(24, flipped)
    section = subgroups_section(reference, candidate, margin=0.02, resamples=200)
    assert section.verdict.status == status
    assert [group.value for group in section.groups] == ["A", "B"]  # shown all the same
    assert bool(section.gaps) is (status == "fail")


@pytest.mark.parametrize(("patients", "few"), [(3, True), (9, False)])
def test_f_few_patients_give_agreement_and_stress_no_verdict(patients, few):
    reference, candidate, worse = of_patients(patients, patients)
    flips = disagreement_section(reference, candidate, least_agreement=0.95, resamples=60)
    rows = np.arange(len(reference.labels))
    stress = stress_section(reference, reference, rows, worse, margin=0.02, resamples=200)
    for verdict in (flips.verdict, stress.verdict):
        assert verdict.status == ("inconclusive" if few else "fail")
        assert ("few units" in {reason.kind for reason in verdict.reasons}) is few
        assert any(f"all images ({patients})" in text for text in verdict.texts) is few
