"""The first screen hides nothing: losses, failed sections, changed rules, floors, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinipress.cli.terminal import show_result
from clinipress.records.candidate import Speed
from clinipress.records.judgement import SECTIONS, Judgements
from clinipress.records.result import (
    ExternalRow,
    ExternalTest,
    Interval,
    Overlap,
    Result,
    RuleChange,
    SealedRules,
    Status,
    Verdict,
)
from clinipress.reporting.documents import report_markdown, write_documents
from clinipress.reporting.measures import finding, main_changes, measures
from clinipress.reporting.page.build import render, report
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import change_words, lead, reading, release_sentence
from clinipress.reporting.wording.numbers import MINUS
from clinipress.study.read import parse_study
from clinipress.study.summary import _nothing_shipped
from kit.judgements import with_judgements
from kit.pages import Page
from kit.verdicts import spoken, verdict_of

Make = Callable[..., Result]


def change(value: float, half: float = 0.005) -> Interval:
    return Interval(value=value, low=value - half, high=value + half, n=500)


def with_changes(study: Result, **changes: Interval) -> Result:
    """The study, its selected candidate with these changes on the test images and no others."""
    named = {name.replace("__", "[") + "]" * ("__" in name): x for name, x in changes.items()}
    records = tuple(
        record.model_copy(update={"changes": {"test": named}})
        if record.name == study.shipped
        else record
        for record in study.candidates
    )
    return study.model_copy(update={"candidates": records})


def first_screen(html: str) -> str:
    """The text above the contents of a page."""
    found = re.search(r"<header>.*?</header>", html, re.DOTALL)
    assert found is not None
    return Page(found[0]).text


def as_selected(study: Result, **update: Any) -> Result:
    records = tuple(
        record.model_copy(update=update) if record.name == study.shipped else record
        for record in study.candidates
    )
    return study.model_copy(update={"candidates": records})


@pytest.fixture
def demo(make_study: Make) -> Result:
    """The demo's own changes, as the fault names them."""
    return with_changes(
        make_study(classes=("nodule", "normal", "opacity")),
        accuracy=change(0.004),
        auroc_macro=change(-0.011),
        sensitivity__opacity=change(-0.063, 0.012),
        sensitivity__nodule=change(0.097, 0.06),
        precision__nodule=change(-0.086, 0.07),
        ece=change(0.026, 0.015),
        log_loss=change(0.02, 0.1),
    )


def test_a6_a_pass_with_a_shown_loss_is_no_green_pass(demo: Result) -> None:
    first = lead(View(demo))
    assert first.word == "PASS, with losses"
    assert first.tone == "inconclusive"
    assert demo.verdict.status == "pass"
    assert "sensitivity for opacity fell, and 3 other measures got worse" in first.headline
    assert "4 losses shown in 7 measures" in first.beside
    html = render(demo)
    assert 'class="verdict pass"' not in html
    top = first_screen(html)
    assert "PASS, with losses" in top
    for words in (f"{MINUS}6.3 ({MINUS}7.5 to {MINUS}5.1), worse", "loss shown, within its limit"):
        assert words in top


def test_a6_the_class_that_lost_most_is_always_there(demo: Result) -> None:
    every = measures(View(demo), View(demo).subject)
    assert [m.metric for m in main_changes(every)] == [
        "sensitivity[opacity]", "precision[nodule]", "sensitivity[nodule]",
    ]  # fmt: skip
    small = with_changes(
        demo,
        sensitivity__nodule=change(-0.001),
        sensitivity__opacity=change(0.3),
        precision__nodule=change(0.2),
        precision__opacity=change(0.19),
        kappa=change(-0.05, 0.01),
    )
    chosen = main_changes(measures(View(small), View(small).subject))
    # the class that lost most, the largest shown loss, the largest change
    assert [m.metric for m in chosen] == ["sensitivity[nodule]", "kappa", "sensitivity[opacity]"]


def test_a6_a_failed_section_that_stops_nothing_is_a_loss(make_study: Make) -> None:
    study = with_judgements(make_study(), planted="stress")
    study = as_selected(study, changes={"test": {"accuracy": change(0.0)}})
    first = lead(View(study))
    assert first.word == "PASS, with losses"
    assert first.headline.endswith("1 section of the evidence failed: stress.")
    assert [section.key for section in first.sections] == list(SECTIONS)


def test_a6_no_loss_is_a_plain_pass(make_study: Make) -> None:
    study = with_changes(make_study(), accuracy=change(0.001), kappa=change(0.0))
    first = lead(View(study))
    assert (first.word, first.tone) == ("PASS", "pass")
    assert first.headline == (
        "Overall accuracy was kept within the margin; no loss is shown in any of 2 measures."
    )


def test_a7_every_measured_change_is_listed(demo: Result) -> None:
    text = Page(render(demo)).text
    gate = text[text.index("All 7 measures of") :]
    for name in ("Log loss", "Expected calibration error", "Precision for nodule", "opacity"):
        assert name in gate
    assert report_markdown(demo).count("Precision for nodule") >= 2


def test_a7_two_classes_have_no_doubles(make_study: Make) -> None:
    figure = change(-0.01, 0.02)
    study = with_changes(
        make_study(classes=("CT_COVID", "CT_NonCOVID")).model_copy(update={"positive": "CT_COVID"}),
        sensitivity=figure, specificity=change(0.02), sensitivity__CT_COVID=figure,
        sensitivity__CT_NonCOVID=change(0.02), precision__CT_COVID=change(0.0),
    )  # fmt: skip
    view = View(study)
    assert finding(view) == "CT_COVID"
    every = {measure.metric: measure for measure in measures(view, view.subject)}
    assert list(every) == ["sensitivity", "specificity", "precision[CT_COVID]"]
    # the limit of "sensitivity for each class" goes with the name that stays
    assert every["sensitivity"].limit == every["specificity"].limit == 0.08
    assert "Sensitivity (CT_COVID)" in Page(render(study)).text


def test_a9_what_is_better_when_lower_reads_the_right_way() -> None:
    worse = Interval(value=0.026, low=0.011, high=0.044)
    assert change_words("ece", worse) == "+2.6 (+1.1 to +4.4), worse"
    assert change_words("ece", worse.turned).endswith("better")
    assert change_words("log_loss", worse) == "+0.026 (+0.011 to +0.044), worse"
    assert change_words("accuracy", worse).endswith("better")
    assert change_words("accuracy", change(0.0)).endswith("unchanged")


def test_a9_an_external_table_says_worse_and_better(make_study: Make) -> None:
    study = with_judgements(make_study(), external="external: B")
    records = tuple(
        record.model_copy(
            update={"changes": record.changes | {"external: B": {"ece": change(0.026, 0.015)}}}
        )
        for record in study.candidates
    )
    text = Page(render(study.model_copy(update={"candidates": records}))).text
    assert "change +2.6 (+1.1 to +4.1), worse" in text


@pytest.mark.parametrize(
    ("value", "half", "limit", "words"),
    [
        (-0.06, 0.05, 0.2, "loss shown, within its limit of 20.0"),
        (-0.06, 0.05, None, "loss shown, no limit set"),
        (-0.06, 0.01, 0.02, "loss shown, beyond its limit of 2.0"),
        (-0.03, 0.025, 0.02, "loss shown, limit of 2.0 not settled"),
        (0.06, 0.01, 0.02, "gain shown"),
        (0.0, 0.05, 0.02, "no change shown, limit of 2.0 not settled"),
        (0.0, 0.05, None, "no change shown"),
    ],
)
def test_how_a_change_reads(
    make_study: Make, value: float, half: float, limit: float | None, words: str
) -> None:
    study = with_changes(make_study(), kappa=change(value, half))
    rules = tuple(
        rule.model_copy(update={"metric": "kappa", "margin": limit})
        for rule in study.rules[:1]
        if limit
    )
    view = View(study.model_copy(update={"rules": rules}))
    (measure,) = measures(view, view.subject)
    assert reading(measure) == words


def sealed(**update: Any) -> SealedRules:
    return SealedRules(
        digest="8ae2" + "0" * 60,
        when="2026-02-03T10:01:00+00:00",
        risk="medium",
        rules=(),
        **update,
    )


def test_the_status_line_says_for_what_when_and_how_often(make_study: Make) -> None:
    study = make_study()
    purpose, cases, rules = lead(View(study)).facts
    assert purpose == "Intended use: not stated in the study"
    assert "of 546 near-duplicate clusters, one data set" in cases
    assert rules.startswith("When the rules were fixed: not recorded; test set opened once, 3 Feb")
    recipe = study.recipe | {"intended_use": "Triage."}
    told = study.model_copy(update={"sealed": sealed(), "recipe": recipe})
    purpose, _, rules = lead(View(told)).facts
    assert purpose == "Intended use: Triage"
    assert rules.startswith("Rules fixed 3 February 2026, 10:01 UTC (sha256 8ae20000")


def test_changed_rules_stand_in_plain_sight(make_study: Make) -> None:
    moved = RuleChange(what="risk", before="medium", after="low", when="2026-11-28T22:35:00+00:00")
    study = make_study(status="inconclusive").model_copy(
        update={"sealed": sealed(), "rule_changes": (moved,)}
    )
    words = "Risk changed after the test set was first opened: medium \u2192 low (first seen"
    html = render(study)
    top = first_screen(html)
    assert words in top
    assert "Test again on images that nobody has looked at" in top
    assert words in report_markdown(study)


def test_floors_are_shown_with_what_was_measured(make_study: Make) -> None:
    study = make_study(classes=("a", "b", "c"))
    study = study.model_copy(
        update={"sealed": sealed(floors={"accuracy": 0.5, "kappa": 0.999, "sensitivity[d]": 0.9})}
    )
    text = " ".join(lead(View(study)).lines)
    assert "Accuracy: at least 50.0% is required; " in text
    assert "was measured: shown." in text
    assert "Cohen's kappa: at least 0.999 is required" in text
    assert "Sensitivity for d: at least 90.0% is required; not measured." in text


def test_sections_that_can_stop_the_model_are_marked(make_study: Make) -> None:
    study = with_judgements(make_study(), planted="disagreement")
    study = study.model_copy(update={"sealed": sealed(guards=("subgroups", "disagreement"))})
    marks = {section.key: section for section in lead(View(study)).sections}
    assert [key for key, mark in marks.items() if mark.guard] == ["subgroups", "disagreement"]
    assert marks["disagreement"].word.startswith("FAIL")
    assert render(study).count("can stop the model") == 2
    assert 'href="#disagreement"' in render(study)


def test_a10_no_speed_ratio_from_a_busy_machine(make_study: Make) -> None:
    ratio, why = Interval(value=46, low=20, high=80), "The machine was too busy to compare times."
    busy = Speed(ratio=ratio, reliable=False, why=why)
    text = " ".join(lead(View(as_selected(make_study(), speed=busy))).lines)
    assert "times faster" not in text
    assert f"per image on this computer. {why}" in text
    sure = Speed(ratio=Interval(value=6.2, low=5.8, high=6.6))
    text = " ".join(lead(View(as_selected(make_study(), speed=sure))).lines)
    assert "6.2 times faster (95% CI 5.8 to 6.6; " in text


def test_a11_selected_is_not_released(make_study: Make) -> None:
    study = make_study(status="inconclusive")
    study = as_selected(study, selected_for=("",), verdict=verdict_of("inconclusive", "Open."))
    view = View(study)
    assert not view.released
    said = release_sentence(view)
    assert said is not None
    assert said.startswith("pruned-int8 was selected, not released: the selection was fixed on the")
    assert said.endswith("pruned passed on the test images but was not the choice.")
    assert "selected, not released" in Page(render(study)).text
    assert "shipped" not in Page(render(study)).text.replace("pruned-int8", "")


def test_both_figures_of_an_external_test_and_its_overlap(make_study: Make) -> None:
    study = with_judgements(make_study(), external="external: B")
    overlap = Overlap(exact=3, near=1, left_out=4, compared_with=900)
    when = "2026-02-03T10:11:12+00:00"
    test = ExternalTest(name="B", created=when, images=100, rows={}, overlap=overlap)
    (text,) = lead(View(study.model_copy(update={"external_tests": (test,)}))).external
    assert " inside, " in text
    assert " outside; difference outside " in text
    assert "(3 the same file or pixels, 1 nearly the same picture; looked for:" in text
    assert lead(View(make_study())).external == ("none; all images come from the one data set.",)


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
def test_e4_an_external_test_that_did_not_pass_says_why_and_what_to_do(
    make_study: Make, status: Status
) -> None:
    study = with_judgements(make_study(), external="external: B")
    row = ExternalRow(
        digest="0",
        per_image="",
        evidence={},
        confusion=[],
        judgements=Judgements(),
        verdict=verdict_of(status, "The AUROC guard failed.", "And more."),
    )
    when = "2026-02-03T10:11:12+00:00"
    test = ExternalTest(name="B", created=when, images=9, rows={study.shipped or "": row})
    first = lead(View(study.model_copy(update={"external_tests": (test,)})))
    (text,), steps = first.external, [step for step in first.steps if "images like those" in step]
    assert "And more" not in text
    assert ("The AUROC guard failed." in text) == (status != "pass") == (len(steps) == 1)
    verb = {"pass": "", "fail": "failed", "inconclusive": "is inconclusive"}[status]
    assert all(verb in step and " of B " in step for step in steps)


def test_the_page_and_the_text_begin_alike(demo: Result) -> None:
    first, text = lead(View(demo)), report_markdown(demo)
    for words in (first.word, first.headline, *first.beside, *first.steps, *first.external):
        assert words.split("[")[0] in text.replace("\\", "")
    assert report(demo).head


def test_a8_every_reason_stands_behind_its_own_status(make_study: Make) -> None:
    reasons = (
        spoken("Too few to tell.", "inconclusive"),
        spoken("A note."),
        spoken("Lost.", "fail"),
    )
    failed = Verdict(status="fail", reasons=reasons)
    study = with_judgements(make_study(), planted="disagreement")
    records = tuple(
        record.model_copy(
            update={
                "judgements": {
                    split: sections.model_copy(
                        update={
                            "disagreement": sections.disagreement
                            and sections.disagreement.model_copy(update={"verdict": failed})
                        }
                    )
                    for split, sections in record.judgements.items()
                }
            }
        )
        for record in study.candidates
    )
    text = report_markdown(study.model_copy(update={"candidates": records}))
    assert "- INCONCLUSIVE: Too few to tell.\n- A note.\n- FAIL: Lost." in text
    what_failed = text[text.index("### What failed") :].partition("\n#")[0]
    assert "Lost." in what_failed
    assert "Too few to tell." not in what_failed


def test_r1_what_the_policy_bars_comes_first_among_the_reasons(make_study: Make) -> None:
    pruned = {"step": "prune", "ratio": 0.3}
    asked = {"name": "s", "risk": "high", "reference": {"model": "resnet18"}, "steps": [pruned]}
    verdict = _nothing_shipped(parse_study(asked | {"exports": [{"precision": "float16"}]}))
    assert "pruning in one cut is not allowed" in verdict.texts[0]
    assert verdict.texts[-1].startswith("Nothing is shipped")
    study = make_study().model_copy(update={"shipped": None, "bundle": None, "verdict": verdict})
    first = lead(View(study))
    assert first.steps[0].startswith("Add 'rounds: 2' or more to the step 'prune'")
    reasons = render(study).partition('class="reasons"')[2]
    assert "pruning in one cut is not allowed" in reasons.partition("</li>")[0]


@pytest.mark.parametrize("classes", [("0", "1"), ("0", "1", "2")])
def test_r8_a_class_whose_name_is_a_number_is_called_a_class(
    make_study: Make, tmp_path: Path, classes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    study = with_judgements(make_study(classes=classes))
    if len(classes) == 2:
        study = study.model_copy(update={"positive": "1"})
    write_documents(study, tmp_path)
    show_result(study, tmp_path)
    pages = [Page(render(study)).text, capsys.readouterr().out]
    pages += [path.read_text() for path in tmp_path.glob("*.md")]
    assert len(pages) >= 5
    bare = re.compile(
        r"(ensitivity|pecificity|weakest|images:|taken) for [012]\b|misses of [012]\b|"
        r"\([012]\) [+\u2212]|missed [012] image|ensitivity \([012]\)"
    )
    for page in pages:
        assert [page[m.start() - 40 : m.end() + 20] for m in bare.finditer(page)] == []
    assert "class 1" in pages[0]
