from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from clinipress.records.judgement import SECTION_TITLES, SECTIONS
from clinipress.records.result import Result
from clinipress.reporting.page.build import render
from kit.judgements import pictures, with_judgements
from kit.pages import Page

Make = Callable[..., Result]


def part(html: str, key: str) -> str:
    found = re.search(rf'<section id="{key}">.*?</section>', html)
    assert found is not None, key
    return found[0]


def text(html: str) -> str:
    return Page(html).text.replace("\u202f", " ").replace("\u2212", "-")


def test_every_section_of_the_findings_has_a_heading() -> None:
    assert tuple(SECTION_TITLES) == SECTIONS


def test_sections_open_with_their_sentence_and_their_verdict(make_study: Make) -> None:
    html = render(with_judgements(make_study(), planted="calibration"), pictures())
    for key in SECTIONS:
        section = part(html, key)
        assert f"<h2>{SECTION_TITLES[key]}</h2>" in section
        status = "fail" if key == "calibration" else "pass"
        assert re.search(rf'class="judged"><span class="badge {status}">', section)
        assert f"the section's own sentence on {key}." in text(section)


@pytest.mark.parametrize("key", SECTIONS)
def test_what_was_not_measured_is_said_with_its_reason(make_study: Make, key: str) -> None:
    study = with_judgements(make_study(), missing={key: "the device was away"})
    section = part(render(study), key)
    assert text(section).strip() == (
        f"{SECTION_TITLES[key]} {SECTION_TITLES[key]}: not measured on the held-out test images "
        "(the device was away)."
    )


def test_a_section_without_any_reason_says_so(make_study: Make) -> None:
    study = with_judgements(make_study(), missing={"stress": ""})
    assert "not measured on the held-out test images (the record gives no reason)" in text(
        render(study)
    )


def test_without_any_findings_one_sentence_says_so_for_all(make_study: Make) -> None:
    html = render(make_study())
    assert 'id="stress"' not in html
    assert (
        "Operating points, calibration, subgroups, disagreement, stress and saliency: not measured "
        "for any candidate of this study." in text(html)
    )


def test_sets_from_elsewhere_stand_in_the_same_sections(make_study: Make) -> None:
    study = with_judgements(make_study(), external="external: hospital B")
    html = render(study)
    for key in SECTIONS:
        said = text(part(html, key))
        assert said.index("Held-out test images") < said.index("External (hospital B) images")
    assert "No metadata" in text(part(html, "subgroups"))


def test_the_closest_candidate_is_shown_where_none_is_shipped(make_study: Make) -> None:
    study = with_judgements(make_study(status="fail")).model_copy(update={"shipped": None})
    html = render(study)
    assert "stated confidence of" in text(part(html, "calibration"))
