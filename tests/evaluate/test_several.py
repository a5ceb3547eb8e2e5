"""Several findings in one image, some unknown: figures, thresholds, rules, the device's answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as referee

from clinipress.edge.answers import _of_findings
from clinipress.errors import DataError
from clinipress.evidence import gate
from clinipress.evidence.calibration import calibration_section, fit_findings
from clinipress.evidence.disagreement import disagreement_section
from clinipress.evidence.evidence import evidence
from clinipress.evidence.finding_groups import finding_groups_section
from clinipress.evidence.judged import Declared, counted, judged, statistics
from clinipress.evidence.multilabel import (
    carried_by_findings,
    judgeable,
    multilabel_changes,
    multilabel_evidence,
)
from clinipress.evidence.scores import Scores
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.candidate import Card, InputSpec
from clinipress.records.judgement import Judgements
from clinipress.records.result import Interval
from clinipress.stats.metrics import finding_aurocs, overall_score, sigmoid, strata
from kit.each import each_seed
from kit.tolerances import ROUNDING

NAMES = ("edema", "mass", "hernia")


def odds(chances):
    chances = np.asarray(chances, np.float64)
    return np.log(chances / (1 - chances))


def task(seed=0, n=240, k=3, patients=80, noise=0.8, unknown=0.2):
    """Truth with gaps, units, and the logits of a reference and a candidate."""
    random = np.random.default_rng(seed)
    truth = (random.random((n, k)) < (0.4, 0.2, 0.1)[:k]).astype(np.int64)
    truth[random.random((n, k)) < unknown] = -1
    units = np.arange(n) % patients
    before = 2.0 * truth + random.normal(size=(n, k))
    return truth, units, before, before + noise * random.normal(size=(n, k))


def scores(logits, truth, units, **more):
    n, k = truth.shape
    return Scores(
        logits=logits.astype(np.float32),
        labels=truth,
        units=units,
        keys=tuple(f"{i}.png" for i in range(n)),
        classes=NAMES[:k],
        groups={"sex": tuple("fm"[i // 3 % 2] for i in range(n))},
        **more,
    )


def test_an_unknown_finding_makes_no_image_wrong():
    # a report to another library, which said 0
    truth = np.array([[0, 1, 0], [1, 0, -1]])
    logits = odds([[0.11, 0.22, 0.84], [0.73, 0.33, 0.92]])
    figures = multilabel_evidence(logits, truth, NAMES, resamples=20)
    assert figures["exact_match"].value == 0.5
    assert figures["hamming_accuracy"].value == 3 / 5


def test_a_finding_that_nobody_shows_counts_in_no_mean():
    # reports to two other libraries: it counted as 0, or stopped everything
    scored = np.array([0.9, 0.2, 0.6, 0.4, 0.5, 0.1])
    first, second = np.array([1, 0, 1, 1, 0, 0]), np.array([0, 1, 1, 0, 1, 1])
    for third in (np.zeros(6, int), np.full(6, -1)):
        truth = np.stack([first, second, third], axis=1)
        logits = odds(np.stack([scored, scored[::-1], scored], axis=1))
        areas = [referee.roc_auc_score(truth[:, c], logits[:, c]) for c in (0, 1)]
        assert finding_aurocs(logits, truth)[:2] == pytest.approx(areas, abs=ROUNDING)
        assert overall_score(logits, truth) == pytest.approx(np.mean(areas), abs=ROUNDING)
        figures = multilabel_evidence(logits, truth, NAMES, resamples=20)
        assert "auroc[hernia]" not in figures
        # six images are too few to be judged by: no mean at all
        assert not judgeable(truth).any()
        assert "auroc_macro" not in figures


@pytest.mark.parametrize("third", [0, -1])
def test_a6_the_third_finding_is_named_and_not_counted(third):
    # enough patients for two findings, so that these are judged
    scored = np.tile([0.9, 0.2, 0.6, 0.4, 0.5, 0.1], 3)
    first, second = np.tile([1, 0, 1, 0, 1, 0], 3), np.tile([1, 0, 1, 1, 0, 1], 3)
    truth = np.stack([first, second, np.full(18, third)], axis=1)
    logits = odds(np.stack([scored, scored[::-1], scored], axis=1))
    units = np.arange(18)
    areas = [referee.roc_auc_score(truth[:, c], logits[:, c]) for c in (0, 1)]
    figures = multilabel_evidence(logits, truth, NAMES, units=units, resamples=50)
    assert figures["auroc_macro"].value == pytest.approx(np.mean(areas), abs=ROUNDING)
    assert "auroc[hernia]" not in figures
    one = scores(logits, truth, units)
    other = replace(one, logits=one.logits + np.float32(0.1))
    declared = Declared("medium", EvidenceRecipe(), 50)
    found = statistics(declared, one, other, validation=None)
    part = judged(declared, gate.rules_for("medium", several="auroc_macro"), one, other, found)
    (few,) = (reason for reason in part.verdict.reasons if reason.kind == "few units")
    assert few.parameters["units"] == {"hernia": 0}
    assert "inconclusive" in few.text
    # three findings without one that nobody shows: .778 and .750 give .764, never .509
    areas = finding_aurocs(*_row_of_a6(third))
    assert areas[:2] == pytest.approx([7 / 9, 3 / 4])
    assert np.isnan(areas[2])
    assert overall_score(*_row_of_a6(third)) == pytest.approx(0.764, abs=5e-4)


def _row_of_a6(third):
    """Six cases, AUROC 7 of 9 and 6 of 8 pairs, and a finding never present or never known."""
    logits = np.array([[6, 8], [4, 6], [3, 4], [5, 2], [2, 5], [1, 1]], np.float64)
    truth = np.array([[1, 1], [1, 1], [1, 1], [0, 1], [0, 0], [0, 0]])
    truth = np.column_stack([truth, np.full(6, third)])
    return np.column_stack([logits, logits[:, 0]]), truth


@each_seed(range(4))
def test_figures_are_those_of_the_known_images(seed):
    truth, units, logits, _ = task(seed)
    limits = (0.4, 0.3, 0.6)
    figures = multilabel_evidence(
        logits, truth, NAMES, units=units, thresholds=limits, resamples=50
    )
    areas = []
    for c, name in enumerate(NAMES):
        known = truth[:, c] >= 0
        there, called = truth[known, c] == 1, sigmoid(logits[known, c]) >= limits[c]
        areas.append(referee.roc_auc_score(there, logits[known, c]))
        assert figures[f"auroc[{name}]"].value == pytest.approx(areas[-1], abs=ROUNDING)
        assert figures[f"sensitivity[{name}]"].value == pytest.approx(called[there].mean())
        assert figures[f"specificity[{name}]"].value == pytest.approx((~called[~there]).mean())
        assert figures[f"sensitivity[{name}]"].n == there.sum()
    assert figures["auroc_macro"].value == pytest.approx(np.mean(areas), abs=ROUNDING)
    # what is unknown may be anything
    other = np.where(truth < 0, 50.0, logits)
    again = multilabel_evidence(other, truth, NAMES, units=units, thresholds=limits, resamples=50)
    assert again == figures


def test_means_are_over_findings_that_enough_patients_show():
    truth, units, before, after = task()
    rare = truth.copy()
    rare[:, 2] = 0
    rare[:40:10, 2] = 1  # four patients
    assert judgeable(rare, units).tolist() == [True, True, False]
    figures = multilabel_evidence(before, rare, NAMES, units=units, resamples=50)
    both = [figures[f"auroc[{name}]"].value for name in NAMES[:2]]
    assert figures["auroc_macro"].value == pytest.approx(np.mean(both), abs=ROUNDING)
    carried = carried_by_findings(rare, NAMES, units=units)
    assert carried["auroc[hernia]"] == 4
    changes = multilabel_changes(before, after, rare, NAMES, units=units, resamples=50)
    verdict = gate.judge(
        gate.rules_for("medium", several="auroc_macro"), changes, units=carried, joint=changes
    )
    (few,) = (reason for reason in verdict.reasons if reason.kind == "few units")
    assert few.parameters["units"] == {"hernia": 4}
    assert "clusters carry it: hernia (4)" in few.text


def test_a_loss_fails_only_where_it_is_shown_as_the_worst_of_so_many():
    rules = [r for r in gate.rules_for("medium", several="auroc_macro") if r.metric == "auroc[*]"]
    alone = {"auroc[a]": Interval(value=-0.15, low=-0.2, high=-0.1), "auroc[b]": Interval(
        value=0, low=-0.01, high=0.01)}  # fmt: skip
    wide = {"auroc[a]": Interval(value=-0.15, low=-0.25, high=-0.05), "auroc[b]": alone["auroc[b]"]}
    assert gate.judge(rules, alone).status == "fail"
    assert gate.judge(rules, alone, joint=wide).status == "inconclusive"
    assert gate.judge(rules, alone, joint=alone).status == "fail"


def test_what_decides_is_chosen_beforehand():
    usual = gate.rules_for("high", several="auroc_macro")
    assert [(r.metric, r.margin) for r in usual if r.primary] == [("auroc_macro", 0.01)]
    worst = gate.rules_for("high", several="sensitivity[*]")
    assert [(r.metric, r.margin) for r in worst if r.primary] == [("sensitivity[*]", 0.04)]
    assert {r.metric for r in worst} >= {"auroc_macro", "auroc[*]"}
    assert "accuracy" not in {r.metric for r in (*usual, *worst)}


@each_seed(range(6))
def test_thresholds_are_where_sensitivity_plus_specificity_is_greatest(seed):
    truth, _, logits, _ = task(seed)
    temperatures, limits = fit_findings(logits, truth)
    for c in range(3):
        known = truth[:, c] >= 0
        chances = sigmoid(logits[known, c] / temperatures[c])
        there = truth[known, c] == 1
        rate, recall, cuts = referee.roc_curve(there, chances, drop_intermediate=False)
        called = chances >= limits[c]
        reached = called[there].mean() + (~called[~there]).mean()
        assert reached == pytest.approx((recall - rate).max() + 1, abs=ROUNDING)
        assert limits[c] not in chances  # met or not, never equalled
        assert len(cuts)


def test_a_finding_by_itself_is_a_question_of_two_classes():
    truth, units, logits, _ = task()
    temperatures, limits = fit_findings(logits, truth)
    kept = scores(logits, truth, units, temperatures=temperatures, thresholds=limits)
    mass = kept.of_finding(1)
    known = truth[:, 1] >= 0
    assert mass.positive == "mass"
    assert mass.keys == tuple(k for k, there in zip(kept.keys, known, strict=True) if there)
    assert mass.probabilities[:, 0] == pytest.approx(kept.probabilities[known, 1], abs=1e-6)
    pairs = kept.called_pairs()
    assert len(pairs.keys) == (truth >= 0).sum()
    called = kept.probabilities >= np.array(limits)
    assert ((pairs.logits.argmax(1) == 0) == called[truth >= 0]).all()
    assert counted(kept)[1] == [
        int((called[:, 1] & (truth[:, 1] == 1)).sum()),
        int((~called[:, 1] & (truth[:, 1] == 1)).sum()),
        int((called[:, 1] & (truth[:, 1] == 0)).sum()),
        int((~called[:, 1] & (truth[:, 1] == 0)).sum()),
    ]


def both():
    truth, units, before, after = task()
    fitted = [
        dict(zip(("temperatures", "thresholds"), fit_findings(logits, truth), strict=True))
        for logits in (before, after)
    ]
    return [scores(x, truth, units, **how) for x, how in zip((before, after), fitted, strict=True)]


def test_scores_are_written_and_read_and_put_in_order(tmp_path):
    kept, _ = both()
    kept.save(tmp_path / "a.npz")
    again = Scores.load(tmp_path / "a.npz")
    assert again.digest == kept.digest
    assert again.several
    turned = kept.in_order(NAMES[::-1])
    assert turned.thresholds == kept.thresholds[::-1]
    assert np.array_equal(turned.labels, kept.labels[:, ::-1])
    assert np.array_equal(turned.probabilities, kept.probabilities[:, ::-1])
    with pytest.raises(DataError, match="labels"):
        replace(kept, labels=kept.labels[:, :2])


def test_sections_and_verdict_of_several_findings():
    reference, candidate = both()
    declared = Declared("medium", EvidenceRecipe(), resamples=100)
    sections = statistics(declared, reference, candidate, validation=(reference, candidate))
    assert {row.label for row in sections.operating.rows} == set(NAMES)
    assert set(sections.calibration.temperatures) == set(NAMES)
    assert {d.label for d in sections.disagreement.directions} <= set(NAMES)
    assert all(flip.finding in NAMES for flip in sections.disagreement.flips)
    assert {flip.truth for flip in sections.disagreement.flips} <= {"present", "absent"}
    assert {(g.column, g.value) for g in sections.subgroups.groups} == {("sex", "f"), ("sex", "m")}
    rules = gate.rules_for("medium", several="auroc_macro")
    row = judged(declared, rules, reference, candidate, sections)
    assert row.verdict.status in ("fail", "inconclusive")
    assert row.changes["auroc_macro"].value < 0
    same = judged(declared, rules, reference, replace(reference), Judgements(
        operating=None, calibration=sections.calibration, subgroups=sections.subgroups,
        disagreement=None))  # fmt: skip
    assert same.verdict.status == "pass"


def test_calibration_is_of_all_known_pairs():
    reference, _ = both()
    section = calibration_section(reference, reference, margin=0.02, resamples=50)
    known = reference.labels >= 0
    chances, truth = reference.probabilities[known], reference.labels[known]
    assert section.after["brier"].value == pytest.approx(((chances - truth) ** 2).mean(), abs=1e-6)
    assert section.after["brier"].n == known.sum()


def test_disagreement_and_groups_refuse_other_images():
    reference, candidate = both()
    other = replace(candidate, keys=candidate.keys[::-1])
    for section in (disagreement_section, finding_groups_section):
        how = {"least_agreement": 0.9} if section is disagreement_section else {"margin": 0.02}
        with pytest.raises(DataError, match="same images"):
            section(reference, other, **how)


def test_images_are_drawn_by_the_rarest_that_they_show():
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, -1], [0, 1, 1], [1, 0, 0]])
    assert strata(truth).tolist() == [1, 0, -1, 2, 0]
    assert strata(np.array([3, 1])).tolist() == [3, 1]


def test_the_device_answers_each_finding_with_its_own_threshold():
    card = Card(
        name="chest", classes=NAMES, input=InputSpec(), task="multilabel",
        temperatures=(1.0, 2.0, 1.0), thresholds=(0.3, 0.9, None),
    )  # fmt: skip
    # three findings exported without their sigmoid, a report to another library
    answer = _of_findings("a.png", np.array([2.0, -1.0, 0.3]), card)
    plain = _of_findings("a.png", np.array([2.0, -1.0, 0.3]), replace_card(card))
    assert [round(p, 3) for p in plain.probabilities.values()] == [0.881, 0.269, 0.574]
    assert answer.label == "edema"
    assert answer.findings["mass"].present is False
    assert answer.findings["hernia"].present is None  # not asked, which is not absent
    assert (
        answer.to_text() == "a.png: edema 88.1 % (called from 30.0 %); 1 absent; not asked: hernia"
    )
    assert answer.to_dict()["findings"]["hernia"] == {
        "probability": pytest.approx(0.5744, abs=1e-4), "threshold": None, "present": None
    }  # fmt: skip
    none = _of_findings("b.png", np.array([-3.0, -1.0, -4.0]), card)
    assert none.label == "no finding"


def replace_card(card):
    return card.model_copy(update={"temperatures": ()})


def test_intervals_of_a_brier_score_begin_at_0():
    # one patient of many images carries nearly all of the loss
    units = np.array([0] * 4 + list(range(1, 13)))
    truth = np.tile([[1, 0]], (16, 1))
    truth[4:] = np.arange(24).reshape(12, 2) % 3 == 0
    logits = np.where(truth == 1, 6.0, -6.0)
    logits[:4] *= -1
    figures = multilabel_evidence(logits, truth, NAMES[:2], units=units, resamples=200)
    losses = {n: x for n, x in figures.items() if n.startswith("brier")}
    assert {"brier", "brier[edema]", "brier[mass]"} <= set(losses)
    for figure in losses.values():
        assert 0 <= figure.low <= figure.value <= figure.high
    labels = truth[:, 0]
    both = np.stack([logits[:, 0], -logits[:, 0]], axis=1)
    alone = evidence(both, 1 - labels, ("a", "b"), units=units, resamples=200)
    assert alone["brier"].low >= 0
    assert alone["log_loss"].low >= 0


def test_a_rare_finding_lends_a_mean_no_width():
    # no resample of these differs: the ends are those of the findings that are counted
    truth = np.zeros((60, 3), np.int64)
    truth[:30, 0], truth[15:45, 1], truth[:2, 2] = 1, 1, 1
    logits = np.where(truth == 1, 5.0, -5.0)
    figures = multilabel_evidence(logits, truth, NAMES, resamples=50)
    low = np.mean([figures[f"sensitivity[{name}]"].low for name in NAMES[:2]])
    assert figures["sensitivity_macro"].low == pytest.approx(low)
    assert figures["sensitivity[hernia]"].low < 0.5  # two patients: it would drag the mean down


def test_gaps_between_groups_are_of_findings_that_both_can_be_judged_by():
    truth, units, before, after = task(n=480, patients=160, unknown=0.0)
    sex = np.array(list("fm"))[units % 2]
    truth[(sex == "f"), 2] = 0  # hernia is seen in men alone
    truth[np.flatnonzero(sex == "m")[:40], 2] = 1
    after[sex == "f"] = np.random.default_rng(3).normal(size=after[sex == "f"].shape)  # lost there
    one, two = (
        replace(scores(x, truth, units), groups={"sex": tuple(sex)}) for x in (before, after)
    )
    section = finding_groups_section(one, two, margin=0.02, resamples=100)
    gaps = {gap.metric: gap for gap in section.gaps}
    assert set(gaps) == {"auroc_macro", "auroc[edema]", "auroc[mass]"}
    areas = {
        (value, c): referee.roc_auc_score(truth[sex == value, c], after[sex == value, c])
        for value in "fm"
        for c in (0, 1)
    }
    apart = [abs(areas["m", c] - areas["f", c]) for c in (0, 1)]
    assert gaps["auroc[edema]"].candidate.value == pytest.approx(apart[0], abs=1e-6)
    mean = np.mean([areas["m", c] for c in (0, 1)]) - np.mean([areas["f", c] for c in (0, 1)])
    assert gaps["auroc_macro"].candidate.value == pytest.approx(mean, abs=1e-6)
    assert (gaps["auroc_macro"].best, gaps["auroc_macro"].worst) == ("m", "f")
    assert section.verdict.status == "fail"
    assert any(reason.kind == "gap" for reason in section.verdict.reasons)
    (few,) = (reason for reason in section.verdict.reasons if reason.kind == "few units")
    assert few.parameters["units"] == {"hernia, sex: f": 0}
    same = finding_groups_section(one, replace(one), margin=0.02, resamples=50)
    assert all(gap.change.value == 0 for gap in same.gaps)
