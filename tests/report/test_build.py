from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinipress.errors import StorageError
from clinipress.records.result import Result, Verdict
from clinipress.reporting.page.build import render, write_report
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import lead
from kit.judgements import pictures, with_judgements
from kit.pages import Page

Make = Callable[..., Result]
LIMIT_BYTES = 500_000


TWENTY = tuple(f"class number {number}" for number in range(1, 21))
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "synthetic": {"synthetic": True, "status": "inconclusive"},
    "large": {"classes": TWENTY, "per_class": 60, "extra_candidates": 14},
    "nothing shipped": {"status": "fail"},
    "two classes": {"classes": ("a", "b")},
    "every section": {"synthetic": True, "extra_candidates": 3},
}
PICTURES = pictures()


@pytest.fixture(scope="session", params=CASES)
def html(request: pytest.FixtureRequest, make_study: Make) -> str:
    study = make_study(**CASES[request.param])
    if request.param == "nothing shipped":
        study = study.model_copy(update={"shipped": None})
    if request.param == "every section":
        return render(with_judgements(study, external="external: hospital B"), PICTURES)
    return render(study)


@pytest.mark.parametrize("broken", ["<p><b></p></b>", "<p>", "</p>", '<p a="1" a="2"></p>'])
def test_the_reader_of_these_tests_can_fail(broken: str) -> None:
    with pytest.raises(ValueError, match=r"clos|twice"):
        Page(broken)


def test_pages_are_well_formed_and_small(html: str) -> None:
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert {"html", "head", "main", "section"} <= {tag for tag, _ in page.elements}
    # pictures apart: they have an allowance of their own
    assert len(re.sub(r"data:image[^\"]+", "", html).encode()) < LIMIT_BYTES


def test_pages_ask_for_nothing_from_outside_and_run_nothing(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"srcset", "action", "data"}
            assert name != "src" or (tag == "img" and (value or "").startswith("data:image/"))
            assert name != "href" or (value or "").startswith("#")
    assert re.search(r"https?:|@import|url\(|javascript:", html) is None
    policy = [a["content"] for _, a in page.elements if a.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_inner_links_lead_somewhere_and_names_are_unique(html: str) -> None:
    page = Page(html)
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    wanted = {(a["href"] or "")[1:] for _, a in page.elements if "href" in a}
    assert wanted <= set(identities)


def test_no_figure_is_broken(html: str) -> None:
    assert re.search(r"\b(nan|inf|None)\b", Page(html).text) is None
    plain = re.sub(r"data:image[^\"]+", "", html)
    assert re.search(r'="[^"]*\b(nan|inf)\b', plain) is None


def test_each_section_opens_with_a_sentence(html: str) -> None:
    leads = re.findall(r'<section id="[\w-]+"><h2>[^<]+</h2><p class="lead">([^<]+)</p>', html)
    assert len(leads) == html.count("<section") == (18 if "data:image" in html else 11)
    assert all(lead.rstrip().endswith((".", ":")) for lead in leads)


def test_hostile_names_stay_text(make_study: Make, hostile: str) -> None:
    html = render(make_study())
    assert hostile not in html
    assert "<script" not in html.lower()
    assert hostile in Page(html).text
    assert "brain-mri <small>" in Page(html).text


def test_the_verdict_stands_on_top_by_word_and_shape(make_study: Make) -> None:
    for status, word in (("pass", "PASS"), ("fail", "FAIL"), ("inconclusive", "INCONCLUSIVE")):
        study = make_study(status=status)
        html = render(study)
        first = lead(View(study))
        assert first.headline in Page(html).text
        top = html[html.index("<h1") : html.index('id="candidates"')]
        assert f'class="verdict {first.tone}"' in top
        assert f'href="#i-{first.tone}"' in top
        assert f"{first.word}</p>" in top
        assert first.word.startswith(word)


def test_the_banner_only_on_drawn_images(make_study: Make) -> None:
    drawn, real = render(make_study(synthetic=True)), render(make_study())
    assert "SYNTHETIC drawn images, no patients" in Page(drawn).text
    assert "<title>SYNTHETIC " in drawn
    assert "SYNTHETIC" not in real


def row(html: str, name: str) -> Page:
    """The table body of one candidate."""
    bodies = re.findall(r"<tbody class=\"\w+\">.*?</tbody>", html)
    found = [body for body in bodies if re.search(rf'scope="row">{re.escape(name)}<', body)]
    assert len(found) == 1
    return Page(found[0])


def test_every_candidate_is_a_row_with_its_reason(make_study: Make) -> None:
    study = make_study()
    html = render(study)
    for record in study.candidates:
        text = row(html, record.name).text
        assert f"{record.format}, {record.precision}" in text
        if record.rejected:
            assert f"Not selected: {record.rejected}" in text
    assert "selected, released" in row(html, "pruned-int8").text
    assert "Not selected" not in row(html, "pruned-int8").text
    assert "The gate's own sentence on pruned-int8-minmax." in row(html, "pruned-int8-minmax").text


def test_figures_of_a_row_are_those_of_the_record(make_study: Make) -> None:
    study = make_study()
    text = row(render(study), "pruned-int8").text.replace("\u202f", " ").replace("\u2212", "-")
    record = next(one for one in study.candidates if one.name == "pruned-int8")
    for split in ("test", "validation"):
        interval = record.evidence[split]["accuracy"]
        low, high = f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}"
        assert f"{100 * interval.value:.1f}% ({low}\u2013{high})" in text
    change = record.changes["test"]["accuracy"]
    value, low, high = (f"{100 * x:+.1f}" for x in (change.value, change.low, change.high))
    assert f"{value} ({low} to {high})" in text
    for shown in ("0.707 MB", "40\u00d7 smaller", "6.86 ms", "p95 3.88 ms", "12\u00d7 faster"):
        assert shown in text
    for shown in ("network alone 3.43 ms", "662 k", "58.3 M multiply-adds", "61.7 MB"):
        assert shown in text


def test_none_reads_not_measured(make_study: Make) -> None:
    html = render(make_study())
    cells = re.findall(r'<td data-label="([^"]+)">not measured</td>', html)
    assert {"Time per image", "Peak memory", "Accuracy, held-out test"} <= set(cells)
    body = row(html, "pruned-float16").text
    assert body.count("not measured") == 3


def test_matrices_hold_the_counts_of_the_record(make_study: Make) -> None:
    study = make_study()
    tables = re.findall(r'<table class="heat">.*?</table>', render(study))
    assert len(tables) == 2
    for table, name in zip(tables, ("reference", "pruned-int8"), strict=True):
        record = next(one for one in study.candidates if one.name == name)
        counts = [int(text or 0) for text in re.findall(r"<td[^>]*>(\d*)</td>", table)]
        assert counts == [count for line in record.confusion["test"] for count in line]
        assert f"<caption>{name}</caption>" in table


def test_per_class_figures_are_shown_for_both(make_study: Make) -> None:
    study = make_study(classes=("a", "b", "c"))
    text = Page(render(study)).text.replace("\u202f", " ")
    for record in study.candidates:
        if record.name in ("reference", "pruned-int8"):
            for name in "abc":
                for metric in ("sensitivity", "precision", "f1"):
                    interval = record.evidence["test"][f"{metric}[{name}]"]
                    low, high = f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}"
                    assert f"{100 * interval.value:.1f}% ({low}\u2013{high})" in text


def test_every_fall_stands_against_its_limit(make_study: Make) -> None:
    study = make_study()
    html = render(study)
    forests = re.findall(r'<table class="forest">.*?</table>', html)
    assert len(forests) == 2
    limited = 'class="strip-cell zero limit"'
    assert forests[0].count(limited) == 5
    assert forests[1].count(limited) == 3 + len(study.classes)
    assert "within its limit of 8.0" in Page(forests[1]).text


def test_the_data_section_counts_and_warns_first(make_study: Make) -> None:
    study = make_study()
    data = re.search(r'<section id="data">.*?</section>', render(study))
    assert data is not None
    text = Page(data[0]).text
    assert text.index("2 warnings") < text.index("Images in each class")
    total = f"{sum(study.split.counts['test'].values()):,}"
    for shown in (total, "broken.jpg", "the file ends early", "Testing->Training: 61", "54.2"):
        assert shown in text
    assert "\u2026 and 18 more in the record" in text


def test_the_trail_holds_what_is_needed_to_do_it_again(make_study: Make) -> None:
    study = make_study()
    text = Page(render(study)).text
    env = study.environment
    wanted = [record.digest for record in study.candidates]
    wanted += [study.split.digest, env.cpu, env.python, env.platform, *env.cpu_flags]
    wanted += [f"{name} {version}" for name, version in env.packages.items()]
    wanted += ["train.epochs: 50", "list of 60 entries, in the record", "modality: brain-mri"]
    wanted += ["train \u2192 distill \u2192 prune \u2192 export", "bfloat16-channels-last"]
    for one in wanted:
        assert one in text


def test_a_candidates_history_leaves_its_parents_steps_to_the_parent(make_study: Make) -> None:
    html = render(make_study())
    entries = re.findall(r"<details><summary><strong>\d+ ([\w-]+)</strong>.*?</details>", html)
    assert entries[:2] == ["reference", "distilled"]
    distilled = re.search(r"<strong>2 distilled</strong>.*?</details>", html)
    assert distilled is not None
    steps = re.findall(r"<li><strong>(\w+)</strong>", distilled[0])
    assert steps == ["distill", "export"]


def test_a_record_with_next_to_nothing_can_be_shown(make_study: Make) -> None:
    study = make_study()
    bare = study.candidates[0].model_copy(
        update={
            "evidence": {},
            "confusion": {},
            "latency_ms": None,
            "history": (),
            "parity": None,
            "latency_with_preprocessing_ms": None,
            "macs": None,
            "peak_memory_bytes": None,
        }
    )
    audit = study.audit.model_copy(
        update={
            "shortcuts": (),
            "warnings": (),
            "unreadable": (),
            "duplicate_pairs": (),
            "conflicting_labels": (),
            "baseline_accuracy": None,
            "splits": {},
            "leaks": {},
        }
    )
    empty = study.model_copy(
        update={
            "candidates": (bare,),
            "shipped": None,
            "rules": (),
            "audit": audit,
            "bundle": None,
            "verdict": Verdict(status="inconclusive"),
            "test_openings": (),
            "seconds": {},
            "recipe": {},
        }
    )
    text = Page(render(empty)).text
    assert "fewer than two candidates have both figures" in text
    assert "Shortcuts: not measured." in text
    nobody = Page(render(empty.model_copy(update={"candidates": ()}))).text
    assert "No compressed model could be judged" in nobody


def test_the_same_record_gives_the_same_page(make_study: Make) -> None:
    study = make_study()
    again = Result.model_validate_json(study.model_dump_json())
    assert render(again) == render(study)


def test_the_report_is_written_whole(make_study: Make, tmp_path: Path) -> None:
    study = make_study()
    path = write_report(study, tmp_path / "new" / "run")
    assert path == tmp_path / "new" / "run" / "report.html"
    assert path.read_text(encoding="utf-8") == render(study)
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_said(make_study: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="expected room to write"):
        write_report(make_study(), tmp_path / "file")


def test_a_report_is_made_without_any_engine() -> None:
    code = (
        "import sys, clinipress.reporting.page.build;"
        "sys.exit(len({'torch', 'numpy', 'onnxruntime', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
