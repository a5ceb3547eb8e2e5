"""report.md beside the page it comes from, read by an independent Markdown engine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from clinipress.records.judgement import SECTION_TITLES
from clinipress.records.result import Result
from clinipress.reporting.document import (
    Bullets,
    CodeBlock,
    DataCell,
    DataRow,
    DataTable,
    Figure,
    Paragraph,
    RowGroup,
    Text,
)
from clinipress.reporting.documents import report_markdown as markdown
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.drawing.markup import Markup
from clinipress.reporting.drawing.parts import legend, lines
from clinipress.reporting.html import html
from clinipress.reporting.markdown import blocks, escape, inline, table
from clinipress.reporting.page.build import render, report
from kit.judgements import with_judgements

Make = Callable[..., Result]
GITHUB = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
# what the page says in shapes, or says again elsewhere
LEFT_OUT = {"legend", "names", "no-picture", "mark", "drawn"}
VOID = {"meta", "br", "hr", "col", "img"}


class Words(HTMLParser):
    """Text of a page, without styles, drawings and links to its own sections."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.silent: list[bool] = [False]
        self.words: list[str] = []
        self.tables = 0
        self.elements: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.tables += tag == "table" and not self.silent[-1]
        if tag not in VOID:
            classes = set((dict(attrs).get("class") or "").split())
            quiet = tag in {"style", "nav", "svg", "head"} or bool(classes & LEFT_OUT)
            self.silent.append(self.silent[-1] or quiet)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.silent.pop()

    def handle_data(self, data: str) -> None:
        if not self.silent[-1]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def numbers(text: str) -> Counter[str]:
    """Every figure; not digits of names, nor zeros, for which a cell may be empty."""
    found = re.findall(r"(?<![\w-])\d+(?:[.,:]\d+)*", text)
    return Counter(one for one in found if one != "0")


def missing_numbers(page: str, text: str) -> Counter[str]:
    """Figures of the page that its Markdown does not have, and the reverse."""
    theirs, ours = numbers(Words(page).text), numbers(Words(GITHUB.render(text)).text)
    return (theirs - ours) + (ours - theirs)


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "two classes": {"classes": ("a", "b")},
    "failed": {"status": "fail", "synthetic": True},
    "twenty classes": {"classes": tuple(f"kind {n}" for n in range(20)), "per_class": 50},
}


@pytest.fixture(scope="module", params=CASES)
def study(request: pytest.FixtureRequest, make_study: Make) -> Result:
    made = make_study(**CASES[request.param])
    return with_judgements(made) if request.param == "usual" else made


def test_every_figure_of_the_page_is_in_the_text_and_no_other(study: Result) -> None:
    assert not missing_numbers(render(study), markdown(study))


def test_a_figure_that_is_lost_or_made_up_is_noticed(make_study: Make) -> None:
    study = make_study()
    page, text = render(study), markdown(study)
    accuracy = re.search(r"\d\d\.\d", text)
    assert accuracy is not None
    assert missing_numbers(page, text.replace(accuracy[0], "", 1))
    assert missing_numbers(page, text.replace(accuracy[0], "12.34", 1))
    assert missing_numbers(page, f"{text}\n99.87%")


def test_every_sentence_of_every_section_is_there(study: Result) -> None:
    read = Words(GITHUB.render(markdown(study))).text
    sections = report(study).sections
    assert len(sections) >= 8
    for section in sections:
        assert " ".join(section.lead.split()) in read


def test_sections_are_those_of_the_page_in_its_order(study: Result) -> None:
    heads = re.findall(r"<h2>(.*?)</h2>", render(study))
    assert re.findall(r"^## (.*)$", markdown(study), re.M) == heads
    assert len(heads) >= 8


def test_findings_are_sections_of_the_text_too(make_study: Make) -> None:
    text = markdown(with_judgements(make_study()))
    for title in SECTION_TITLES.values():
        assert f"\n## {title}\n" in text


def test_tables_are_tables_to_an_independent_reader(study: Result) -> None:
    text = markdown(study)
    read = Words(GITHUB.render(text))
    lines = [line for line in text.splitlines() if re.fullmatch(r"\|( --- \|)+", line)]
    assert read.tables == len(lines) > 8
    assert "| ---" not in read.text  # none is left standing as text


def test_reasons_stand_in_the_row_of_their_candidate(make_study: Make) -> None:
    text = markdown(make_study())
    told = [line for line in text.splitlines() if "Failed its gate on validation" in line]
    assert any("| pruned-int8-minmax" in line for line in told)


def test_names_cannot_become_markup(make_study: Make, hostile: str) -> None:
    classes = ("a|b", "*bold* _it_", "[x](http://example.org)", hostile)
    text = markdown(make_study(classes=classes))
    read = Words(GITHUB.render(text))
    assert "script" not in read.elements
    assert "a" not in read.elements
    assert not missing_numbers(render(make_study(classes=classes)), text)
    for name in classes:
        assert name in read.text


@example("__0__")
@example("glioma_tumor _a_")
@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), max_size=30))
def test_escaped_text_reads_as_it_was(text: str) -> None:
    assert Words(GITHUB.renderInline(escape(text))).text == text


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("#+-*_|`>~1.) a"), min_size=1, max_size=8))
def test_a_paragraph_stays_a_paragraph_whatever_it_begins_with(text: str) -> None:
    read = Words(GITHUB.render("\n\n".join(blocks(Paragraph(text)))))
    assert read.text == " ".join(text.split())
    assert read.elements <= {"p"}


def test_pieces_with_lines_of_their_own_are_set_apart() -> None:
    assert inline(lines(["1.1", "3.6"])) == "1.1<br>3.6"
    assert inline([Text("PASS", "badge"), Text("All is well.")]) == "PASS: All is well."
    assert inline(["28.3 MB", Text("40x smaller", "aside")]) == "28.3 MB, 40x smaller"
    assert inline(["1.2", Text("(0.1 to 2.3)", "aside")]) == "1.2 (0.1 to 2.3)"
    assert inline(["one ", Text("two", "bold"), " three"]) == "one **two** three"


def test_a_legend_is_said_only_where_it_explains_stacked_lines() -> None:
    shapes = [("before", "before"), ("reference", "after")]
    assert blocks(legend(shapes, stacked=True)) == ["*In each cell, from above: before; after.*"]
    assert blocks(legend(shapes)) == []
    assert html(legend(shapes)) == html(legend(shapes, stacked=True))


def test_a_drawing_reaches_the_page_alone_and_text_never_as_markup() -> None:
    content = ["a < b ", Markup("<svg></svg>"), Text("<i>", "strong")]
    assert html(content) == "a &lt; b <svg></svg><strong>&lt;i&gt;</strong>"
    assert inline(content) == "a &lt; b **&lt;i&gt;**"


def test_columns_of_drawings_are_left_out_and_reasons_become_a_column() -> None:
    rows = [
        DataRow([DataCell("a"), DataCell(Markup("<svg></svg>")), DataCell("1")]),
        DataRow([DataCell("too few", span=3)], kind="reasons"),
        DataRow([DataCell("b"), DataCell(Markup("<svg></svg>")), DataCell("2")]),
    ]
    heads = [DataCell("name"), DataCell("drawn"), DataCell("figure")]
    assert blocks(DataTable(heads, [RowGroup(rows)], "plain"))[-1].splitlines() == [
        "| name | figure | Why |",
        "| --- | --- | --- |",
        "| a | 1 | too few |",
        "| b | 2 |  |",
    ]


def test_figures_side_by_side_make_one_list() -> None:
    figures = [Figure("a", Markup("<svg></svg>")), Figure("b", "gone", words="not measured")]
    assert blocks(figures) == ["- a (drawn in report.html)\n- b not measured"]


def test_blocks_of_an_entry_are_indented_under_it() -> None:
    entry = [Text("prune", "strong"), Bullets(["ratio: 0.5", "rounds: 2"])]
    assert blocks(Bullets([entry])) == ["- **prune**\n  - ratio: 0.5\n  - rounds: 2"]


def test_code_with_fences_stays_code() -> None:
    code = "a: |\n  ```\n  # no heading\n"
    text = "\n\n".join(blocks(CodeBlock(code)))
    assert "<h1>" not in GITHUB.render(text)
    assert code.strip() in Words(f"<p>{GITHUB.render(text)}</p>").words[0]


def test_a_cell_never_breaks_its_row() -> None:
    assert table(["a", "b"], [["1\n2", "3"]]).splitlines()[-1] == "| 1 2 | 3 |"


def test_the_same_record_gives_the_same_text(make_study: Make) -> None:
    assert markdown(make_study()) == markdown(make_study())


def test_a_name_that_ends_in_a_number_does_not_run_into_its_value(make_study) -> None:
    study = make_study()
    audit = study.audit.model_copy(update={"groups": {"age": {"30 to 39": 291, "40 to 49": 1255}}})
    text = markdown(study.model_copy(update={"audit": audit, "seconds": {"train_2": 5.0}}))
    assert "age: 30 to 39 (291), 40 to 49 (1,255)" in text
    assert "QLinearConv (47)" in text
    assert "train 2 (5.0" in text
    assert "**train.epochs:** 50" in text
    answers = dossier_markdown(study.model_copy(update={"audit": audit}))
    assert "30 to 39 (291), 40 to 49 (1,255)" in answers
