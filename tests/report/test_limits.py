from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clinipress.records.candidate import Applied
from clinipress.records.result import Interval, Result, TestOpening, Unreadable
from clinipress.reporting.view import View
from clinipress.reporting.wording.limits import limits

Make = Callable[..., Result]


def said(study: Result, **changes: Any) -> str:
    return "\n".join(limits(View(study.model_copy(update=changes))))


def test_each_reservation_follows_from_its_fact(make_study: Make) -> None:
    found = said(make_study())
    assert "No patient identifiers" in found
    assert "No external test" in found
    assert "No subgroup metadata" in found
    assert "measured on this computer (Example CPU at 2.5 GHz)" in found
    assert "not measured for pruned-float16" in found
    assert "One training run" in found
    assert "drawn by a program" not in found
    assert "calibration" not in found


def test_facts_that_are_there_lift_the_reservation(make_study: Make) -> None:
    study = make_study()
    audit = study.audit.model_copy(update={"patients": 384, "groups": {"sex": {"f": 9, "m": 7}}})
    split = study.split.model_copy(update={"by": "patient"})
    found = said(study, audit=audit, split=split)
    assert "No patient identifiers" not in found
    assert "No subgroup metadata" not in found
    assert "Groups are known (sex)" in found


def test_known_patients_that_were_not_kept_together(make_study: Make) -> None:
    study = make_study()
    audit = study.audit.model_copy(update={"patients": 384})
    split = study.split.model_copy(update={"by": "image"})
    assert "Patients are known, but the images were divided by image" in said(
        study, audit=audit, split=split
    )


def test_an_external_split_lifts_the_reservation(make_study: Make) -> None:
    study = make_study()
    first = study.candidates[0]
    seen = first.model_copy(
        update={"evidence": {**first.evidence, "external": first.evidence["test"]}}
    )
    assert "No external test" not in said(study, candidates=(seen, *study.candidates[1:]))


def test_e2_what_was_set_aside_is_a_reservation(make_study: Make) -> None:
    sentence = "The external test 'B' is not shown."
    assert sentence in said(make_study(), set_aside={"external/B.json": sentence})


def test_openings_of_the_test_split(make_study: Make) -> None:
    study = make_study()
    opening = TestOpening(when="now", candidates=("a",), reason="b")
    assert "were opened 3 times" in said(study, test_openings=(opening,) * 3)
    assert "were not used" in said(study, test_openings=())


def test_synthetic_few_cases_and_class_shares(make_study: Make) -> None:
    found = said(make_study(synthetic=True, classes=("a", "b"), per_class=20))
    assert "drawn by a program" in found
    assert "Few test images for a (20) and b (27)" in found
    assert "b is 57.4% of the test images" in found


def test_rules_and_calibration_that_were_not_measured(make_study: Make) -> None:
    study = make_study(classes=("a", "b"))
    keep = {"accuracy": Interval(value=0.9, low=0.8, high=0.95)}
    records = tuple(
        record.model_copy(
            update={"changes": {"test": keep}, "evidence": {"test": keep, "validation": keep}}
        )
        for record in study.candidates
    )
    found = said(study, candidates=records)
    assert "change in balanced accuracy" in found
    assert "sensitivity for a and sensitivity for b was not measured" in found
    assert "(calibration) was not measured" in found


def test_the_studys_own_limits_come_first_and_none_twice(make_study: Make) -> None:
    study = make_study()
    own = ("A limit of this study.", limits(View(study))[0])
    found = limits(View(study.model_copy(update={"limits": own})))
    assert found[0] == own[0]
    assert len(found) == len(set(found)) == len(limits(View(study))) + 1


def test_images_that_cross_published_splits(make_study: Make) -> None:
    study = make_study()
    split = study.split.model_copy(update={"by": "published"})
    found = said(study, split=split)
    assert "61 images or patients cross the published splits; 2 images were left out." in found
    assert "The images were divided by published" in found


def test_a_split_image_by_image_is_said(make_study: Make) -> None:
    study = make_study()
    split = study.split.model_copy(update={"by": "image"})
    assert "divided one by one, without any grouping" in said(study, split=split)


def test_a_distilled_student_without_a_control_is_a_reservation(make_study: Make) -> None:
    study = make_study()
    taught = Applied(step="distill", params={"alpha": 0.7})
    for changes, expected in (
        ({"history": (taught,)}, True),
        ({"history": (taught,), "control": "other"}, False),
        ({"history": (Applied(step="distill", params={"alpha": 0}),)}, False),
        ({"history": (taught, Applied(step="prune", params={}))}, False),
    ):
        records = [
            record.model_copy(update=changes if record.name == "distilled" else {"history": ()})
            for record in study.candidates
        ]
        found = said(study, candidates=tuple(records))
        assert ("was trained ('control: true')" in found) == expected


def test_a_reference_that_came_trained_may_have_seen_the_test(make_study: Make) -> None:
    study = make_study()
    model = {"name": "resnet18", "checkpoint": "weights.safetensors"}
    assert "came already trained" in said(study, recipe={"reference": {"model": model}})
    trained = {"reference": {"model": model, "train": {"epochs": 3}}}
    assert "came already trained" not in said(study, recipe=trained)
    scratch = {"reference": {"model": {"name": "resnet18"}, "train": {"epochs": 3}}}
    assert "came already trained" not in said(study, recipe=scratch)


def test_a3_lesions_kept_whole_are_not_called_patients(make_study: Make) -> None:
    study = make_study()
    split = study.split.model_copy(update={"by": "lesion", "unit": "lesion"})
    audit = study.audit.model_copy(update={"patients": None, "units": {"lesion": 384}})
    found = limits(View(study.model_copy(update={"split": split, "audit": audit})))
    (said,) = [text for text in found if text.startswith("No patient identifiers")]
    assert said.endswith("What is kept whole is each lesion, not each patient.")


def test_f1_images_without_a_patient_are_a_limit(make_study: Make) -> None:
    study = make_study()
    split = study.split.model_copy(update={"by": "patient", "unit": "patient", "without_unit": 3})
    audit = study.audit.model_copy(update={"patients": 384, "without_patient": 3})
    found = limits(View(study.model_copy(update={"split": split, "audit": audit})))
    assert any(text.startswith("3 images name no patient") for text in found)


def test_f4_images_that_the_device_would_refuse_are_a_limit(make_study: Make) -> None:
    study = make_study()
    refused = (Unreadable(path="a.png", reason="a blank one"),)
    audit = study.audit.model_copy(update={"refused": refused})
    found = limits(View(study.model_copy(update={"audit": audit})))
    assert any(text.startswith("1 image of ") and "refused on the device" in text for text in found)
