from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from clinipress.records.judgement import SECTION_TITLES, SECTIONS
from clinipress.records.result import Result, Verdict
from clinipress.reporting.html import html as to_html
from clinipress.reporting.page.matrix import matrix_section
from clinipress.reporting.view import View
from kit.judgements import with_judgements
from kit.pages import Page
from kit.verdicts import spoken

Make = Callable[..., Result]


def rows(study: Result) -> dict[str, list[str]]:
    """Candidate -> the words of its cells."""
    html = to_html(matrix_section(View(study)))
    found = {}
    for row in re.findall(r"<tr class.*?</tr>", html):
        name = re.search(r"</svg>\d+ ([^<]+)<", row)
        words = re.findall(r"<i[^>]*>([^<]+)</i>", row)
        found[name[1] if name else "again"] = words
    return found


def test_every_candidate_is_a_row_rejected_ones_too(make_study: Make) -> None:
    study = with_judgements(make_study(extra_candidates=2), missing={"saliency": "not asked"})
    found = rows(study)
    assert list(found) == [one.name for one in study.candidates if one.name != "reference"]
    last = "not measured"
    assert found["pruned-int8"] == ["PASS"] * 5 + [last]
    assert found["pruned-int8-minmax"] == ["PASS"] * 4 + ["FAIL", last]
    assert found["variant-1-with-a-long-name"] == ["PASS"] * 4 + ["FAIL", last]


@pytest.mark.parametrize("planted", SECTIONS)
def test_a_planted_loss_shows_in_its_own_column_alone(make_study: Make, planted: str) -> None:
    study = with_judgements(make_study(), planted=planted)
    words = rows(study)["pruned-int8"]
    assert [key for key, word in zip(SECTIONS, words, strict=True) if word == "FAIL"] == [planted]
    text = Page(to_html(matrix_section(View(study)))).text
    assert f"5 pruned-int8, {SECTION_TITLES[planted].lower()}" in text
    assert f"FAIL for {SECTION_TITLES[planted].lower()}" in text


def test_what_failed_is_said_with_what_made_it_fail(make_study: Make) -> None:
    study = with_judgements(make_study(), planted="disagreement")
    verdict = Verdict(
        status="fail",
        reasons=(
            spoken("Too few cases to tell.", "inconclusive"),
            spoken("A count."),
            spoken("Flips lean to misses.", "fail"),
            spoken("More yet.", "fail"),
        ),
    )

    def said(found: Verdict) -> str:
        records = []
        for one in study.candidates:
            judgements = {}
            for split, sections in one.judgements.items():
                held = sections.disagreement
                if held is not None and held.verdict.status == "fail":
                    held = held.model_copy(update={"verdict": found})
                judgements[split] = sections.model_copy(update={"disagreement": held})
            records.append(one.model_copy(update={"judgements": judgements}))
        changed = study.model_copy(update={"candidates": tuple(records)})
        text = Page(to_html(matrix_section(View(changed)))).text
        return text.partition("What failed")[2].partition("images):")[2].strip()

    assert said(verdict).startswith("Flips lean to misses. More yet.")
    # of a record that was written before each reason had its status, all are shown
    old = Verdict(status="fail", reasons=(spoken("It fell."), spoken("A count.")))
    assert said(old).startswith("It fell. A count.")


def test_external_sets_are_rows_under_their_candidate(make_study: Make) -> None:
    study = with_judgements(make_study(), external="external: hospital B")
    html = to_html(matrix_section(View(study)))
    assert html.count('class="again"') == 1
    assert rows(study)["again"] == ["PASS", "PASS", "INCONCLUSIVE", "PASS", "PASS", "PASS"]


def test_candidates_without_sections_are_named(make_study: Make) -> None:
    study = with_judgements(make_study())
    bare = tuple(
        one.model_copy(update={"judgements": {}}) if one.name == "pruned" else one
        for one in study.candidates
    )
    text = Page(to_html(matrix_section(View(study.model_copy(update={"candidates": bare}))))).text
    assert "No section was measured for 3 pruned." in text
    assert "Of 4 candidates with measured sections, 1 fails at least one." in text
