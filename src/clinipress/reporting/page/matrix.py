"""Every candidate's sections at one look: which passed, which failed, which nobody measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clinipress.records.candidate import (
    CandidateRecord,
)
from clinipress.records.judgement import SECTIONS, Judgements
from clinipress.records.result import (
    Verdict,
)
from clinipress.reporting.drawing.figures import icon
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import bullets, role_mark, section, shortened, small
from clinipress.reporting.page.shown import TITLES
from clinipress.reporting.view import SPLIT_ORDER, View
from clinipress.reporting.wording.numbers import NOT_MEASURED, STATUS_WORDS, counted
from clinipress.reporting.wording.phrases import (
    split_name,
)
from clinipress.text import (
    capital,
    joined,
)

__all__ = ["matrix_section", "section_verdict"]

Line = tuple[int, CandidateRecord, str, Judgements]  # number, candidate, split, its sections there


def section_verdict(judgements: Judgements, key: str) -> Verdict | None:
    """The verdict of one section; None where it was not measured."""
    found = getattr(judgements, key)
    return found.verdict if found is not None else None


def matrix_section(view: View) -> Markup:
    """Candidates by sections, rejected ones too, and what failed in words."""
    lines = list(_lines(view))
    lead = _sentence(view, lines)
    if not lines:
        return section("sections", "Every section of the evidence", lead)
    head = [tag("th", "Candidate", scope="col"), tag("th", "Images", scope="col")]
    head += [tag("th", tag("span", TITLES[key]), scope="col", class_="turn") for key in SECTIONS]
    rows = [_row(view, *line, again=n > 0 and lines[n - 1][1] is line[1]) for n, line in
            enumerate(lines)]  # fmt: skip
    absent = [
        f"{number} {record.name}"
        for number, record in view.numbered()
        if record is not view.reference and not record.judgements
    ]
    failed = list(_failed(lines))
    return section(
        "sections",
        "Every section of the evidence",
        lead,
        tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="matrix"),
        _key(),
        tag("p", f"No section was measured for {joined(absent)}.") if absent else None,
        [tag("h3", "What failed"), bullets(shortened(failed))] if failed else None,
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


def _row(
    view: View,
    number: int,
    record: CandidateRecord,
    split: str,
    judgements: Judgements,
    *,
    again: bool,
) -> Markup:
    name = [role_mark(view.role(record)), f"{number} {record.name}"]
    cells = [_cell(key, section_verdict(judgements, key)) for key in SECTIONS]
    where = tag("td", split_name(split), class_="where")
    head = tag("th", None if again else name, small(split_name(split)), scope="row")
    return tag("tr", head, where, cells, class_="again" if again else view.role(record))


def _cell(key: str, verdict: Verdict | None) -> Markup:
    if verdict is None:
        return tag("td", tag("span", "\u2014", class_="mark none"), tag("i", NOT_MEASURED))
    word = STATUS_WORDS[verdict.status]
    mark = tag("span", icon(verdict.status), class_=f"mark {verdict.status}")
    return tag("td", mark, tag("i", word, class_=verdict.status), title=f"{TITLES[key]}: {word}")


def _key() -> Markup:
    """The shapes, for a screen too narrow for words."""
    items: list[Child] = [
        tag("span", tag("span", icon(status), class_=f"mark {status}"), f" {word}")
        for status, word in STATUS_WORDS.items()
    ]
    return tag("p", items, tag("span", "\u2014 ", NOT_MEASURED), class_="legend narrow")


def _failed(lines: Sequence[Line]) -> Iterator[Child]:
    for number, record, split, judgements in lines:
        for key in SECTIONS:
            verdict = section_verdict(judgements, key)
            if verdict is not None and verdict.status == "fail":
                told = " ".join(verdict.deciding) or "no reason is recorded"
                name = tag("strong", f"{number} {record.name}, {TITLES[key].lower()}")
                yield [name, f" ({split_name(split)} images): {told}"]


def _sentence(view: View, lines: Sequence[Line]) -> str:
    """The subject's sections counted, and how many candidates fail one."""
    if not lines:
        names = joined([title.lower() for title in TITLES.values()])
        return f"{capital(names)}: {NOT_MEASURED} for any candidate of this study."
    candidates = {record.name for _, record, _, _ in lines}
    failing = {
        record.name
        for _, record, _, judgements in lines
        if any((v := section_verdict(judgements, key)) and v.status == "fail" for key in SECTIONS)
    }
    many = f"{len(failing):,}" if failing else "none"
    told = (
        f"Of {counted(len(candidates), 'candidate')} with measured sections, {many} "
        f"{'fail' if len(failing) > 1 else 'fails'} at least one."
    )
    own = view.own_judgements(view.subject) if view.subject else None
    if own is None or view.subject is None:
        return told
    return f"{view.subject.name} on the {split_name(own[0])} images: {_tally(own[1])}. {told}"


def _tally(judgements: Judgements) -> str:
    """Sections by verdict: "PASS for calibration and stress; not measured for saliency"."""
    found: dict[str, list[str]] = {}
    for key in SECTIONS:
        verdict = section_verdict(judgements, key)
        word = STATUS_WORDS[verdict.status] if verdict else NOT_MEASURED
        found.setdefault(word, []).append(TITLES[key].lower())
    order = [*STATUS_WORDS.values(), NOT_MEASURED]
    return "; ".join(f"{word} for {joined(found[word])}" for word in order if word in found)
