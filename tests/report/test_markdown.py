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

from clinipress.records.result import Result
from clinipress.reporting.dossier.text import dossier_markdown
from clinipress.reporting.markdown import markdown
from clinipress.reporting.page.build import render
from clinipress.reporting.page.shown import TITLES
from clinipress.reporting.plain import blocks, escape, inline, parse, table
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
    assert missing_numbers(page, f"{text}\n99.87 %")


def test_every_sentence_of_every_section_is_there(study: Result) -> None:
    read = Words(GITHUB.render(markdown(study))).text
    page = parse(render(study))
    leads = [one for one in page.find("p") if "lead" in one.classes]
    assert len(leads) >= 8
    for lead in leads:
        said = " ".join("".join(one for one in lead.children if isinstance(one, str)).split())
        assert said in read


def test_sections_are_those_of_the_page_in_its_order(study: Result) -> None:
    heads = [inline(one.children) for one in parse(render(study)).find("h2")]
    assert re.findall(r"^## (.*)$", markdown(study), re.M) == heads
    assert len(heads) >= 8


def test_findings_are_sections_of_the_text_too(make_study: Make) -> None:
    text = markdown(with_judgements(make_study()))
    for title in TITLES.values():
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
    element = parse("<p></p>").elements()[0]
    element.children.append(text)
    read = Words(GITHUB.render("\n\n".join(blocks(element))))
    assert read.text == " ".join(text.split())
    assert read.elements <= {"p"}


def test_pieces_with_lines_of_their_own_are_told_apart() -> None:
    stacked = '<td><span class="line">1.1</span><span class="line">3.6</span></td>'
    assert inline(parse(stacked).elements()[0].children) == "1.1<br>3.6"
    badge = '<div><span class="badge pass">PASS</span><span class="soft">All is well.</span></div>'
    assert inline(parse(badge).elements()[0].children) == "PASS: All is well."
    aside = '<td>28.3 MB<span class="small">40x smaller</span></td>'
    assert inline(parse(aside).elements()[0].children) == "28.3 MB, 40x smaller"
    plain = "<p>one <b>two</b> three</p>"
    assert inline(parse(plain).elements()[0].children) == "one **two** three"


def test_a_legend_is_said_only_where_it_explains_stacked_lines() -> None:
    legend = '<p class="legend"><span>before</span><span>after</span></p>'
    cells = (
        '<table><tr><td><span class="line">1</span><span class="line">2</span></td></tr></table>'
    )
    told = "\n\n".join(blocks(parse(f"<div>{legend}{cells}</div>")))
    assert "from above: before; after" in told
    assert "before" not in "\n\n".join(blocks(parse(f"<div>{legend}<p>text</p></div>")))


def test_code_with_fences_stays_code() -> None:
    code = "a: |\n  ```\n  # no heading\n"
    text = "\n\n".join(blocks(parse(f"<pre><code>{code}</code></pre>")))
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
