from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from clinipress.records.candidate import CandidateRecord, Latency
from clinipress.records.result import Interval, Result, Rule, Verdict
from clinipress.reporting.drawing.plot import Point
from clinipress.reporting.view import View
from clinipress.reporting.wording import phrases
from clinipress.reporting.wording import sentences as words
from clinipress.reporting.wording.numbers import limit_figure

Make = Callable[..., Result]


def with_shipped(study: Result, **changes: object) -> Result:
    """The study with its shipped candidate changed; reading the file doubles each time."""
    if "latency_ms" in changes:
        alone = changes["latency_ms"]
        assert alone is None or isinstance(alone, Latency)
        whole = alone and alone.model_copy(
            update={"median": 2 * alone.median, "preprocessing": True}
        )
        changes["latency_with_preprocessing_ms"] = whole
    records = [
        record.model_copy(update=changes) if record.name == study.shipped else record
        for record in study.candidates
    ]
    return study.model_copy(update={"candidates": tuple(records)})


def with_loss(study: Result, value: float, low: float, high: float) -> Result:
    change = {"accuracy": Interval(value=-value, low=-high, high=-low, n=642)}
    return with_shipped(study, changes={"test": change})


def numbers(sentence: str) -> list[float]:
    plain = sentence.replace("\u2212", "-").replace(",", "")
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", plain)]


def test_the_verdict_says_the_figures_of_the_record(make_study: Make) -> None:
    study = make_study()
    view = View(study)
    shipped, reference = view.shipped, view.reference
    assert shipped is not None
    assert reference is not None
    assert shipped.latency_ms is not None
    assert reference.latency_ms is not None
    change = shipped.changes["test"]["accuracy"]
    sentence = words.verdict_sentence(view)
    said = numbers(sentence.replace("int8", ""))
    expected = [
        reference.file_bytes / shipped.file_bytes,
        reference.latency_ms.median / shipped.latency_ms.median,
        sum(study.split.counts["test"].values()),
        abs(100 * change.value),
        95,
        100 * change.low,
        100 * change.high,
        100 * study.rules[0].margin,
    ]
    assert said == pytest.approx(expected, rel=0.03, abs=0.051)
    assert sentence.startswith("The selected int8 model is ")
    assert sentence.endswith(": PASS.")


def test_the_example_of_the_design(make_study: Make) -> None:
    study = with_loss(make_study(), 0.0031, -0.0121, 0.0182)
    assert words.verdict_sentence(View(study)).replace("\u202f", " ").replace("\u2212", "-") == (
        "The selected int8 model is 40 times smaller and 12 times faster than the reference; its "
        "accuracy on 642 held-out test images fell by 0.3 points (95% CI of the change -1.8 to "
        "+1.2; allowed fall 2.0): PASS."
    )


@pytest.mark.parametrize(("value", "said"), [(-0.0072, "rose by 0.7"), (0.0001, "changed by 0.0")])
def test_a_gain_is_not_called_a_fall(make_study: Make, value: float, said: str) -> None:
    sentence = words.verdict_sentence(View(with_loss(make_study(), value, -0.03, 0.011)))
    assert f"{said} points" in sentence
    assert "95% CI of the change \u22121.1 to +3.0" in sentence


@pytest.mark.parametrize(
    ("status", "word"), [("pass", "PASS"), ("fail", "FAIL"), ("inconclusive", "INCONCLUSIVE")]
)
def test_each_verdict_has_its_word(make_study: Make, status: str, word: str) -> None:
    view = View(make_study(status=status))
    assert words.verdict_sentence(view).endswith(f": {word}.")
    assert words.meaning_sentence(view).startswith(f"{word}: ")


def test_what_was_not_measured_is_said(make_study: Make) -> None:
    untimed = View(with_shipped(make_study(), latency_ms=None))
    assert "(speed not measured)" in words.verdict_sentence(untimed)
    unmeasured = View(with_shipped(make_study(), changes={}))
    assert "the change in accuracy was not measured" in words.verdict_sentence(unmeasured)
    broken = View(with_loss(make_study(), math.nan, -0.01, 0.01))
    assert "the change in accuracy was not measured" in words.verdict_sentence(broken)


@pytest.mark.parametrize(
    ("size", "milliseconds", "said"),
    [
        (28_312_044, 41.2, "is as large and as fast as the reference"),
        (28_000_000, 4.12, "is 10 times faster than the reference and as large"),
        (2_831_204, 41.5, "is 10 times smaller than the reference and as fast"),
        (56_624_088, 82.4, "is 2.0 times larger and 2.0 times slower than the reference"),
    ],
)
def test_comparisons_of_size_and_speed(
    make_study: Make, size: int, milliseconds: float, said: str
) -> None:
    study = make_study()
    shipped = View(study).shipped
    assert shipped is not None
    assert shipped.latency_ms is not None
    timing = shipped.latency_ms.model_copy(update={"median": milliseconds})
    view = View(with_shipped(study, file_bytes=size, latency_ms=timing))
    assert f"model {said}; " in words.verdict_sentence(view)


def test_nothing_shipped_and_the_reference_shipped(make_study: Make) -> None:
    study = make_study(status="fail")
    sentence = words.verdict_sentence(View(study.model_copy(update={"shipped": None})))
    assert sentence.startswith("No model was selected: of 5 compressed candidates, 3 PASS, 1 FAIL")
    assert "limit 2.0 points" in sentence
    same = View(study.model_copy(update={"shipped": "reference"}))
    assert words.verdict_sentence(same).startswith("The reference itself was selected")


@pytest.mark.parametrize(
    ("status", "loss", "said"),
    [
        (
            "pass",
            (0.003, -0.01, 0.015),
            "whole interval (far end \u22121.5) stays within the limit of 2.0",
        ),
        (
            "fail",
            (0.05, 0.03, 0.07),
            "whole interval (near end \u22123.0) is at or beyond the limit of 2.0",
        ),
        (
            "inconclusive",
            (0.01, -0.01, 0.03),
            "but the interval reaches \u22123.0. About 1,480 images",
        ),
        ("fail", (0.003, -0.01, 0.015), "is not what decided; the reasons are below"),
    ],
)
def test_the_verdict_is_explained(
    make_study: Make, status: str, loss: tuple[float, float, float], said: str
) -> None:
    assert said in words.meaning_sentence(View(with_loss(make_study(status=status), *loss)))


def test_a_change_as_a_count_of_errors(make_study: Make) -> None:
    said = words.natural_sentence(View(with_loss(make_study(), 0.0031, -0.0121, 0.0182)))
    assert said is not None
    assert "about 3 more errors than" in said
    assert "compatible with 12 fewer to 18 more" in said
    same = words.natural_sentence(View(with_loss(make_study(), 0.0, -0.01, 0.01)))
    assert same is not None
    assert "as many errors as" in same


def test_a_reference_no_better_than_file_statistics_is_called_out(make_study: Make) -> None:
    study = make_study()
    assert words.caution_sentence(View(study)) is None
    high = Interval(value=0.95, low=0.93, high=0.97)
    audit = study.audit.model_copy(update={"baseline_accuracy": high})
    said = words.caution_sentence(View(study.model_copy(update={"audit": audit})))
    assert said is not None
    assert "95.0% (93.0\u201397.0)" in said


def test_the_weakest_class_and_the_largest_loss(make_study: Make) -> None:
    study = make_study(classes=("a", "b", "c"))
    shipped = View(study).shipped
    assert shipped is not None
    found = {name: shipped.evidence["test"][f"sensitivity[{name}]"].value for name in "abc"}
    lost = {name: -shipped.changes["test"][f"sensitivity[{name}]"].value for name in "abc"}
    sentence = words.classes_sentence(View(study))
    weakest = min(found, key=lambda name: found[name])
    assert f"the weakest class, {weakest}, in {100 * found[weakest]:.1f}" in sentence
    worst = max(lost, key=lambda name: lost[name])
    assert f"{100 * lost[worst]:.1f} points" in sentence
    assert sentence.endswith(f"for {worst}.")


def test_no_measured_loss_is_not_called_no_loss(make_study: Make) -> None:
    study = make_study(classes=("a", "b"))
    change = {
        "sensitivity[a]": Interval(value=0.01, low=-0.031, high=0.05),
        "sensitivity[b]": Interval(value=0.0, low=-0.147, high=0.147),
    }
    said = words.classes_sentence(View(with_shipped(study, changes={"test": change})))
    assert said.endswith("a loss of up to 14.7 points is not excluded for b.")


def test_counts_of_the_audit_and_the_split(make_study: Make) -> None:
    study = make_study()
    said = words.audit_sentence(View(study))
    assert said.startswith(f"{study.audit.images:,} images in 4 classes, patients unknown: ")
    assert "214 exact copies, 97 near-duplicates" in said
    assert "61 images leaking" in said
    split = words.split_sentence(View(study))
    assert split.startswith("Divided by near-duplicate cluster. No patient identifiers were found.")
    assert split.endswith("opened once.")
    never = words.split_sentence(View(study.model_copy(update={"test_openings": ()})))
    assert never.endswith("were never opened.")


def test_the_front_is_named(make_study: Make) -> None:
    view = View(make_study())
    interval = Interval(value=0.9, low=0.8, high=1.0)
    timed = [
        Point(1, "slow", 9.0, interval, "reference"),
        Point(2, "fast", 1.0, interval, "shipped"),
    ]
    said = words.trade_off_sentence(view, timed)
    assert "than 2 fast." in said
    assert said.endswith("The selected one is among them.")
    assert "Fewer than two" in words.trade_off_sentence(view, timed[:1])


def test_verdicts_are_counted(make_study: Make) -> None:
    said = words.gate_sentence(View(make_study()))
    assert said.endswith("\u201cmedium\u201d: 3 PASS, 1 FAIL and 1 INCONCLUSIVE.")


def test_words_in_a_row() -> None:
    assert phrases.joined([]) == ""
    assert phrases.joined(["a"]) == "a"
    assert phrases.joined(["a", "b", "c"]) == "a, b and c"


def test_a_metric_that_is_not_a_share_is_not_said_in_points() -> None:
    change = Interval(value=-0.25, low=-0.3, high=-0.2)
    assert phrases.change_phrase("log_loss", change) == "log loss differs by \u22120.250"


def test_a_record_of_nothing_still_reads(make_study: Make) -> None:
    study = make_study()
    bare = study.candidates[0].model_copy(update={"evidence": {}, "confusion": {}})
    assert isinstance(bare, CandidateRecord)
    view = View(
        study.model_copy(
            update={"candidates": (bare,), "shipped": None, "verdict": Verdict(status="fail")}
        )
    )
    assert "none judged" in words.verdict_sentence(view)
    assert words.gate_sentence(view) == "No candidate was judged."
    assert "No candidate can be set beside" in words.classes_sentence(view)


def with_control(study: Result, value: float, low: float, high: float) -> View:
    """The distilled row beside a control that is another row of the study."""
    gain = Interval(value=value, low=low, high=high, method="tango", n=642)
    changes = {"control": "pruned", "over_control": {"test": {"accuracy": gain}}}
    records = [
        record.model_copy(update=changes) if record.name == "distilled" else record
        for record in study.candidates
    ]
    return View(study.model_copy(update={"candidates": tuple(records)}))


@pytest.mark.parametrize(
    ("gain", "end"),
    [
        ((0.02, 0.005, 0.035), "A gain from distillation is shown."),
        ((0.02, 0.0, 0.04), "not shown: the interval contains 0."),
        ((-0.01, -0.03, 0.01), "not shown: the interval contains 0."),
        ((-0.02, -0.035, -0.005), "Distillation made it worse."),
    ],
)
def test_what_distillation_gave_is_said_plainly(
    make_study: Make, gain: tuple[float, float, float], end: str
) -> None:
    (sentence,) = words.distillation_sentences(with_control(make_study(), *gain))
    assert end in sentence
    assert "distilled minus pruned" in sentence
    assert "642 held-out test images" in sentence
    for number in gain:
        assert round(100 * number, 1) in numbers(sentence)


def test_without_a_control_nothing_is_said_of_it(make_study: Make) -> None:
    assert words.distillation_sentences(View(make_study())) == []


@pytest.mark.parametrize(
    ("audit", "split", "known", "start"),
    [
        (
            {"patients": None, "units": {"lesion": 1200}},
            {"by": "lesion", "unit": "lesion"},
            "1,200 lesions known, patients unknown: ",
            "Divided by lesion. ",
        ),
        (
            {"patients": 40, "units": {"patient": 40}, "without_patient": 1},
            {"by": "patient", "unit": "patient"},
            "40 patients known, 1 image without one: ",
            "Divided by patient. ",
        ),
        (
            {"patients": None, "units": {"study": 7}},
            {"by": "published", "unit": "study"},
            "7 studies known, patients unknown: ",
            "Divided as published. ",
        ),
    ],
)
def test_a3_units_are_called_what_they_are(make_study, audit, split, known, start) -> None:
    study = make_study()
    changed = {
        "audit": study.audit.model_copy(update=audit),
        "split": study.split.model_copy(update=split),
    }
    view = View(study.model_copy(update=changed))
    assert known in words.audit_sentence(view)
    assert words.split_sentence(view).startswith(start)


def test_a_share_that_gets_worse_upwards_may_rise_and_by_points() -> None:
    rule = Rule(metric="two_off", margin=0.02, primary=True)
    assert phrases.rule_phrase(rule) == (
        "answers two grades off or more may rise by at most 2.0 points (main rule)"
    )
    accuracy = Rule(metric="accuracy", margin=0.02, primary=False)
    assert phrases.rule_phrase(accuracy) == "accuracy may fall by at most 2.0 points (guard)"
    assert limit_figure("two_off", 0.02) == limit_figure("accuracy", 0.02) == "2.0"
    assert limit_figure("log_loss", 0.02) == "0.02"
