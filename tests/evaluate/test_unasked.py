"""A finding that no validation image shows has no threshold: its area is measured, no call."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from clinipress.evidence.calibration import fit_findings
from clinipress.evidence.judged import Declared, counted, figures, judged, paired, statistics
from clinipress.evidence.multilabel import judgeable
from clinipress.evidence.scores import Scores, asked_of_both, without_unasked
from clinipress.recipe.study import EvidenceRecipe
from clinipress.records.result import Rule
from clinipress.reporting.page.operating import _counting_note
from clinipress.reporting.wording.numbers import metric_name
from clinipress.reporting.wording.sentences import means_sentence
from clinipress.study.external import _means, _not_shown
from clinipress.text import joined
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


def test_b3_means_over_different_findings_are_named_and_given_over_both(tmp_path):
    inside, outside = (drawn(NAMES, images=160, seed=seed)[0] for seed in (4, 5))
    labels = outside.labels.copy()
    labels[:, 1] = -1  # unknown there
    outside = replace(outside, labels=labels)
    inside.save(tmp_path / "test.npz")
    rows = [SimpleNamespace(name="reference", per_image={"test": "test.npz"})]
    means = _means(tmp_path, rows, {"reference": outside}, DECLARED)
    here = [
        n for n, there in zip(NAMES, judgeable(inside.labels, inside.units), strict=True) if there
    ]
    there = [n for n, there in zip(NAMES, judgeable(labels, outside.units), strict=True) if there]
    assert (list(means.inside), list(means.outside)) == (here, there)
    assert "mass" in here
    assert means.both == tuple(n for n in here if n != "mass")
    for scores, area in zip((inside, outside), means.areas["reference"], strict=True):
        figured = figures(DECLARED, scores)
        own = [figured[f"auroc[{name}]"].value for name in means.both]
        assert area.value == pytest.approx(np.mean(own), abs=1e-9)
    text = means_sentence(means, "reference")
    assert f"inside {joined(here)}; outside {joined(there)}." in text
    assert f"Over those in both ({joined(means.both)})" in text
    assert _means(tmp_path, rows, {"reference": inside}, DECLARED) is None
    nothing = means.model_copy(update={"both": (), "areas": {}})
    assert means_sentence(nothing, "reference").endswith("No finding is in both means.")


def test_b3_classes_that_a_set_does_not_show_are_named():
    grades = ("0", "1", "2")
    scores = Scores(logits=np.eye(3, dtype=np.float32)[[0, 2, 0]], labels=np.array([0, 2, 2]),
                    units=np.arange(3), keys=("a", "b", "c"), classes=grades)  # fmt: skip
    (line,) = _not_shown(scores)
    assert line.startswith("no image of 1: balanced accuracy")
    assert line.endswith("over 0 and 2 alone")
    every = replace(scores, labels=np.array([0, 1, 2]))
    assert _not_shown(every) == []


def test_b4_positives_of_grades_are_said_to_be_counted_by_step():
    random, grades = np.random.default_rng(0), tuple("01234")
    labels = random.integers(0, 5, 80)
    scores = [Scores(logits=(np.eye(5)[labels] + random.normal(size=(80, 5))).astype(np.float32),
                     labels=labels, units=np.arange(80), keys=tuple(map(str, range(80))),
                     classes=grades, order=grades) for _ in range(2)]  # fmt: skip
    rows = statistics(DECLARED, *scores, validation=tuple(scores)).operating.rows
    own = [row for row in rows if row.aim == "sensitivity 0.95" and not row.kept]
    assert sum(row.positives for row in own) == labels.sum() > 80  # grade 4 reaches four steps
    view = SimpleNamespace(result=SimpleNamespace(order=grades), several=False)
    text = _counting_note(view, own)
    assert text == ", over the 4 steps of the order, an image once for each step it reaches"
    plain = SimpleNamespace(result=SimpleNamespace(order=()), several=False)
    assert _counting_note(plain, own) == ""


def test_b7_a_finding_whose_name_is_a_number_is_called_a_finding():
    assert metric_name("auroc[2]") == "area under the ROC curve for class 2"
    assert metric_name("auroc[2]", "finding") == "area under the ROC curve for finding 2"
    assert metric_name("auroc[mass]", "finding") == "area under the ROC curve for mass"
    before, after = (replace(s, classes=("1", "2", "3")) for s in both())
    sections = statistics(DECLARED, before, after, validation=None)
    rules = (Rule(metric="auroc[*]", margin=1e-4),)
    texts = " ".join(judged(DECLARED, rules, before, after, sections).verdict.texts)
    assert "for finding " in texts
    assert "class " not in texts


def test_b2_where_nothing_is_asked_nothing_is_called():
    before, after = (replace(s, thresholds=(None, None, None)) for s in drawn(NAMES, images=160))
    measured = figures(DECLARED, after) | paired(DECLARED, before, after)
    assert {"auroc_macro", "auroc[mass]", "brier[mass]"} <= measured.keys()
    families = (*AT_A_THRESHOLD, "exact_match", "hamming_accuracy")
    assert not [name for name in measured if name.startswith(families)]
    sections = statistics(DECLARED, before, after, validation=None)
    assert sections.disagreement is None or not sections.disagreement.cases
    # a file that brings no thresholds at all is called at a half, which is said
    halves = figures(DECLARED, replace(after, thresholds=()))
    assert "sensitivity[mass]" in halves
