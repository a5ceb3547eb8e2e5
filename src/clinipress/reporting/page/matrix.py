"""Every candidate's sections at one look: which passed, which failed, which nobody measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clinipress.records.candidate import CandidateRecord
from clinipress.records.judgement import SECTION_TITLES, SECTIONS, Judgements
from clinipress.records.result import Status, Verdict
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import icon
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.drawing.parts import (
    column_heads,
    deciding_reasons,
    role_mark,
    shortened,
    small,
)
from clinipress.reporting.page.shown import HasVerdict
from clinipress.reporting.view import SPLIT_ORDER, View
from clinipress.reporting.wording.numbers import NOT_MEASURED, STATUS_WORDS, counted
from clinipress.reporting.wording.phrases import split_name
from clinipress.text import capital, joined

__all__ = ["matrix_section", "section_verdict"]

Line = tuple[int, CandidateRecord, str, Judgements]  # number, candidate, split, its sections there


def section_verdict(judgements: Judgements, key: str) -> Verdict | None:
    """The verdict of one section; None where it was not measured."""
    section: HasVerdict | None = getattr(judgements, key)
    return section.verdict if section is not None else None


def matrix_section(view: View) -> doc.Section:
    """Candidates by sections, rejected ones too, and what failed in words."""
    lines = list(_lines(view))
    lead = _sentence(view, lines)
    if not lines:
        return doc.Section("sections", "All checks at a glance", lead, short="All checks")
    heads = column_heads(["Candidate", "Images"])
    heads += [doc.DataCell(doc.Text(SECTION_TITLES[key]), "turn", heads="col") for key in SECTIONS]
    records = [None, *(record for _, record, _, _ in lines)]
    rows = [
        _row(view, line, again=before is line[1])
        for before, line in zip(records, lines, strict=False)
    ]
    absent = [
        f"{number} {record.name}"
        for number, record in view.numbered()
        if record is not view.reference and not record.judgements
    ]
    failed = list(_failed(lines))
    return doc.Section(
        "sections",
        "All checks at a glance",
        lead,
        [
            doc.DataTable(heads, [doc.RowGroup(rows)], "matrix", scroll=False),
            _key(),
            doc.Paragraph(f"No section was measured for {joined(absent)}.") if absent else None,
            [doc.Heading("What failed"), doc.Bullets(shortened(failed))] if failed else None,
        ],
        short="All checks",
    )


def _lines(view: View) -> Iterator[Line]:
    """Each candidate on the study's own images, then on sets from elsewhere."""
    for number, record in view.numbered():
        if record is view.reference:
            continue
        own = view.own_judgements(record)
        if own is not None:
            yield number, record, *own
        for split in sorted(set(record.judgements) - set(SPLIT_ORDER) - {own[0] if own else ""}):
            yield number, record, split, record.judgements[split]


def _row(view: View, line: Line, *, again: bool) -> doc.DataRow:
    number, record, split, judgements = line
    name = None if again else [role_mark(view.role(record)), f"{number} {record.name}"]
    cells = [
        doc.DataCell([name, small(split_name(split))], heads="row"),
        doc.DataCell(split_name(split), "where"),
        *(_cell(key, section_verdict(judgements, key)) for key in SECTIONS),
    ]
    return doc.DataRow(cells, "again" if again else view.role(record))


def _cell(key: str, verdict: Verdict | None) -> doc.DataCell:
    if verdict is None:
        return doc.DataCell(
            [tag("span", "\u2014", class_="mark none"), doc.Text(NOT_MEASURED, "word")]
        )
    word = STATUS_WORDS[verdict.status]
    content: doc.Content = [_mark(verdict.status), doc.Text(word, "word", verdict.status)]
    return doc.DataCell(content, title=f"{SECTION_TITLES[key]}: {word}")


def _mark(status: Status) -> Markup:
    return tag("span", icon(status), class_=f"mark {status}")


def _key() -> Markup:
    """The shapes, for a screen too narrow for words."""
    items = [tag("span", _mark(status), f" {word}") for status, word in STATUS_WORDS.items()]
    items.append(tag("span", "\u2014 ", NOT_MEASURED))
    return tag("p", items, class_="legend narrow")


def _failed(lines: Sequence[Line]) -> Iterator[doc.Content]:
    for number, record, split, judgements in lines:
        for key in SECTIONS:
            verdict = section_verdict(judgements, key)
            if verdict is not None and verdict.status == "fail":
                why = " ".join(deciding_reasons(verdict)) or "no reason is recorded"
                name = doc.Text(f"{number} {record.name}, {SECTION_TITLES[key].lower()}", "strong")
                yield [name, f" ({split_name(split)} images): {why}"]


def _sentence(view: View, lines: Sequence[Line]) -> str:
    """The subject's sections counted, and how many candidates fail one."""
    if not lines:
        names = joined([title.lower() for title in SECTION_TITLES.values()])
        return f"{capital(names)}: {NOT_MEASURED} for any candidate of this study."
    candidates = {record.name for _, record, _, _ in lines}
    failing = {
        record.name
        for _, record, _, judgements in lines
        if any((v := section_verdict(judgements, key)) and v.status == "fail" for key in SECTIONS)
    }
    many = f"{len(failing):,}" if failing else "none"
    total = (
        f"Of {counted(len(candidates), 'candidate')} with measured sections, {many} "
        f"{'fail' if len(failing) > 1 else 'fails'} at least one."
    )
    own = view.own_judgements(view.subject) if view.subject else None
    if own is None or view.subject is None:
        return total
    return f"{view.subject.name} on the {split_name(own[0])} images: {_tally(own[1])}. {total}"


def _tally(judgements: Judgements) -> str:
    """Sections by verdict: "PASS for calibration and stress; not measured for saliency"."""
    titles: dict[str, list[str]] = {}
    for key in SECTIONS:
        verdict = section_verdict(judgements, key)
        word = STATUS_WORDS[verdict.status] if verdict else NOT_MEASURED
        titles.setdefault(word, []).append(SECTION_TITLES[key].lower())
    order = [*STATUS_WORDS.values(), NOT_MEASURED]
    return "; ".join(f"{word} for {joined(titles[word])}" for word in order if word in titles)
