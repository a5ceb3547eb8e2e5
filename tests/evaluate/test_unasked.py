"""A finding that no validation image shows has no threshold: its area is measured, no call."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from clinipress.evidence.calibration import fit_findings
from clinipress.evidence.judged import Declared, counted, figures, judged, paired, statistics
from clinipress.evidence.scores import Scores, asked_of_both, without_unasked
from clinipress.recipe.study import EvidenceRecipe
from kit.findings import drawn

NAMES = ("edema", "mass", "hernia")
AT_A_THRESHOLD = ("sensitivity", "specificity", "precision", "f1")
DECLARED = Declared("medium", EvidenceRecipe(), 30)


def test_b2_a_finding_of_no_validation_image_gets_no_threshold():
    logits = np.linspace(-2, 2, 40).reshape(20, 2)
    truth = np.zeros((20, 2), int)
    truth[:12, 0] = 1
    assert fit_findings(logits, truth)[1][1] is None
    assert fit_findings(logits, truth)[1][0] is not None
    assert fit_findings(logits, np.full((20, 2), -1)) == ((1.0, 1.0), (None, None))


def both(unasked: float | None = None) -> list[Scores]:
    """Reference and candidate, the third finding without a threshold."""
    return [replace(s, thresholds=(0.4, 0.3, unasked)) for s in drawn(NAMES, images=160, seed=3)]


def of_two(scores: Scores) -> Scores:
    return replace(scores, logits=scores.logits[:, :2], labels=scores.labels[:, :2],
                   classes=NAMES[:2], thresholds=scores.thresholds[:2])  # fmt: skip


def test_b2_only_the_area_of_an_unasked_finding_is_measured():
    before, after = both()
    measured = figures(DECLARED, after), paired(DECLARED, before, after)
    smaller = [of_two(scores) for scores in (before, after)]
    fewer = figures(DECLARED, smaller[1]), paired(DECLARED, *smaller)
    for mine, less in zip(measured, fewer, strict=True):
        assert {"auroc[hernia]", "brier[hernia]"} <= mine.keys()
        assert not {f"{family}[hernia]" for family in AT_A_THRESHOLD} & mine.keys()
        # what needs thresholds is of the others alone, as if the third were not there
        for name in ("exact_match", "hamming_accuracy", *(
            f"{family}_{way}" for family in AT_A_THRESHOLD for way in ("macro", "micro")
        )):  # fmt: skip
            assert mine[name].value == pytest.approx(less[name].value, abs=1e-9), name
            assert mine[name].low == pytest.approx(less[name].low, abs=1e-6), name
        assert mine["auroc_macro"].value != less["auroc_macro"].value
    assert counted(after)[2] == []
    assert counted(after)[:2] == counted(smaller[1])


def test_b2_no_flip_no_point_and_no_verdict_hangs_on_an_unasked_finding():
    before, after = both()
    sections = statistics(DECLARED, before, after, validation=None)
    section = sections.disagreement
    assert section is not None
    assert section.cases == int((after.labels[:, :2] >= 0).sum())
    assert {direction.label for direction in section.directions} <= {"edema", "mass"}
    assert not any("hernia" in flip.key for flip in section.flips)
    assert sections.calibration is not None
    assert sections.calibration.thresholds.keys() == {"edema", "mass"}
    assert sections.calibration.temperatures.keys() == set(NAMES)
    part = judged(DECLARED, (), before, after, sections)
    assert "sensitivity[hernia]" not in part.evidence


def test_b2_where_nothing_is_asked_areas_are_left():
    answers = [replace(s, thresholds=(None,) * 3) for s in both()]
    measured = figures(DECLARED, answers[0])
    assert "auroc_macro" in measured
    assert not [m for m in measured if m.startswith((*AT_A_THRESHOLD, "exact", "hamming"))]
    sections = statistics(DECLARED, *answers, validation=None)
    assert sections.disagreement is None
    assert "threshold" in sections.not_measured["disagreement"]


def test_b2_scores_without_a_threshold_are_kept_and_read(tmp_path):
    kept, _ = both()
    kept.save(tmp_path / "a.npz")
    read = Scores.load(tmp_path / "a.npz")
    assert (read.thresholds, read.digest) == (kept.thresholds, kept.digest)
    assert read.in_order(("hernia", "edema", "mass")).thresholds == (None, 0.4, 0.3)
    assert math.isnan(read.cuts[2])


def test_b2_stored_scores_of_before_had_a_half():
    validation, _ = both(unasked=0.5)
    labels = validation.labels.copy()
    labels[:, 2] = np.minimum(labels[:, 2], 0)  # nobody shows it
    assert without_unasked(replace(validation, labels=labels)).thresholds == (0.4, 0.3, None)
    assert without_unasked(validation).thresholds == (0.4, 0.3, 0.5)


def test_b2_two_models_are_asked_what_both_can_answer():
    before, after = both()[0], both(unasked=0.2)[1]
    assert [s.thresholds for s in asked_of_both(before, after)] == [(0.4, 0.3, None)] * 2
    none = replace(before, thresholds=())  # somebody else's: called at a half, which is said
    assert [s.thresholds for s in asked_of_both(none, after)] == [(), (0.4, 0.3, 0.2)]
    assert [s.thresholds for s in asked_of_both(none, before)] == [
        (0.5, 0.5, None), (0.4, 0.3, None),
    ]  # fmt: skip
