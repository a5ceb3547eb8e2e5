"""Each planted loss is caught by its own section while accuracy holds; guards stop a candidate."""

import numpy as np
import pytest

from clinipress.evidence import gate
from clinipress.evidence.evidence import changes
from clinipress.evidence.judged import Declared, guarded, statistics
from clinipress.recipe.study import GUARDS, EvidenceRecipe
from clinipress.records.judgement import SECTIONS, Judgements
from kit import planted
from kit.verdicts import verdict_of

ASKED = Declared("medium", EvidenceRecipe(), resamples=300)
PASSED = verdict_of("pass", "Accuracy did not change.")


def flips_that_cancel(scores):
    """As many of each class are gained as are lost."""
    harmed = scores
    for label in range(len(scores.classes)):
        mine = scores.labels == label
        right, wrong = planted.wrong_and_right(scores, mine)
        count = min(len(right), len(wrong))
        other = (label + 1) % len(scores.classes)
        harmed = planted.swap(harmed, right[:count], other)
        harmed = planted.swap(harmed, wrong[:count], scores.labels[wrong[:count]])
    return harmed


PLANTED = {
    "operating": lambda root: planted.one_class_falls(root, share=0.35),
    "calibration": planted.miscalibrated,
    "subgroups": planted.one_sex_falls,
    "disagreement": flips_that_cancel,
}


def found(root, mine) -> Judgements:
    return statistics(ASKED, root, mine, validation=(root, mine))


@pytest.fixture(scope="module")
def root():
    return planted.reference(n=4000, sharp=2.2)


@pytest.mark.parametrize("section", PLANTED)
def test_a_planted_loss_is_caught_by_its_own_section(root, section):
    mine = PLANTED[section](root)
    assert planted.accuracy(mine) == pytest.approx(planted.accuracy(root), abs=1e-9)
    fall = changes(root.logits, mine.logits, root.labels, root.classes, resamples=300)
    accuracy = gate.judge(gate.rules_for("medium")[:1], fall)
    assert accuracy.status == "pass", "the planted loss must not show in accuracy"
    judgements = found(root, mine)
    assert getattr(judgements, section).verdict.status == "fail"
    stopped = guarded(accuracy, judgements, [section])
    assert stopped.status == "fail"
    assert {reason.section for reason in stopped.reasons} == {section, None}
    assert stopped.texts[0] in getattr(judgements, section).verdict.texts
    assert set(stopped.deciding) == set(getattr(judgements, section).verdict.deciding)


def test_an_honest_candidate_is_stopped_by_none(root):
    judgements = found(root, planted.rounded(root))
    measured = [name for name in SECTIONS if getattr(judgements, name) is not None]
    assert measured == ["operating", "calibration", "subgroups", "disagreement"]
    assert guarded(PASSED, judgements, measured) == PASSED


def test_only_named_guards_stop(root):
    judgements = found(root, planted.miscalibrated(root))
    assert judgements.calibration.verdict.status == "fail"
    assert guarded(PASSED, judgements, ["disagreement"]) == PASSED
    assert guarded(PASSED, judgements, ["stress", "saliency"]) == PASSED  # not measured: no opinion


def test_without_validation_scores_there_are_no_operating_points(root):
    judgements = statistics(ASKED, root, planted.rounded(root), validation=None)
    assert judgements.operating is None
    assert "thresholds" in judgements.not_measured["operating"]


def test_the_reference_has_no_drops_and_no_flips(root):
    judgements = statistics(ASKED, root, root, validation=(root, root))
    assert judgements.disagreement is None
    assert not judgements.calibration.changes
    assert all(row.sensitivity_change is None for row in judgements.operating.rows)


def test_the_study_or_else_the_risk_names_the_guards():
    assert tuple(Declared("low", EvidenceRecipe()).guards) == GUARDS["low"]
    assert tuple(Declared("low", EvidenceRecipe(guards=())).guards) == ()
    assert set(GUARDS["critical"]) > set(GUARDS["medium"])


def test_declared_prevalence_reaches_the_predictive_values(root):
    asked = Declared("medium", EvidenceRecipe(prevalence={"nodule": 0.01}), resamples=100)
    section = statistics(asked, root, root, validation=(root, root)).operating
    row = next(r for r in section.rows if r.label == "nodule" and r.ppv is not None)
    assert row.prevalence == 0.01
    share = row.sensitivity.value * 0.01
    false = (1 - row.specificity.value) * 0.99
    assert row.ppv.value == pytest.approx(share / (share + false))
    assert np.isfinite(row.ppv.low)
