"""Disagreement: which answers changed, which way, for whom, and what those images look like."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.judgement import Direction, Disagreement, Flip, FlipCounts
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import Scale, position
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.drawing.parts import MANY, grid, small, two_lines
from clinipress.reporting.drawing.pictures import GALLERY, embedded
from clinipress.reporting.page.shown import SectionView, judgement_section
from clinipress.reporting.view import MOST_FINDINGS, OPEN_FINDINGS, View
from clinipress.reporting.wording.numbers import (
    counted,
    decimal,
    decimal_interval,
    figure_interval,
    percent,
    probability,
)
from clinipress.text import capital

__all__ = ["disagreement_section"]

SHOWN = 0.05  # p below which a leaning is called shown
KINDS = {
    "lost": "was right, now wrong",
    "gained": "was wrong, now right",
    "changed": "wrong both times",
}
NOTE = (
    "Lost: the reference was right and the candidate is wrong; gained: the other way round; "
    "changed: both wrong, differently. Losses and gains may cancel out in the accuracy, not for "
    "the patient. The test of asymmetry is McNemar's, exact: each patient or cluster counts once, "
    "on the side to which more of its images went. Where several classes are tested, the verdict "
    "goes by the p-value adjusted by Holm's method. Confidence is the reference's, calibrated."
)


OF_FINDINGS = (
    " Each pair of an image and a finding of which it is known is one answer, present or absent. "
    "Confidence is relative to the finding's own threshold: 50% stands for a probability that lies "
    "on it, and is not the probability that the finding is there."
)


def disagreement_section(view: View) -> doc.Section | None:
    """Agreement, flips by class, confidence and group, and a gallery of them."""
    note = f"{NOTE}{OF_FINDINGS}" if view.several else NOTE
    return judgement_section(
        view, "disagreement", lambda judgements: judgements.disagreement, _sentence, _body, note
    )


def _sentence(shown: SectionView[Disagreement]) -> str:
    """Agreement, the flips, and whether they lean to one side."""
    section = shown.mine
    answers = counted(section.lost, "answer was", "answers were")
    units = [f"{shown.where} {unit}" for unit in shown.view.answered]
    return (
        f"{shown.name} answers as the reference does on "
        f"{figure_interval('agreement', section.agreement)} of "
        f"{counted(section.cases, *units)}; {answers} right before and wrong now, "
        f"{section.gained:,} the other way round, {section.changed:,} wrong both times: "
        f"{_leaning(section)}."
    )


def _leaning(section: Disagreement) -> str:
    lost, gained, p_value = section.lost, section.gained, section.p_value
    sides = _sides(section.units_lost, section.units_gained)
    tested = f"exact McNemar test{f' of {sides}' if sides else ''}, {probability(p_value)}"
    if lost == gained:
        return f"as many lost as gained ({tested})"
    way = "losses" if lost > gained else "gains"
    if p_value < SHOWN:
        return f"flips lean to {way} ({tested})"
    return f"that flips lean to {way} is not shown ({tested})"


def _sides(more: int | None, fewer: int | None) -> str:
    """What a test counted; records of earlier versions do not say it."""
    return "" if more is None else f"{more:,} against {fewer:,} patients or clusters"


def _body(shown: SectionView[Disagreement]) -> list[doc.Content]:
    section = shown.mine
    numbers = doc.Facts(
        [
            ("Agreement", figure_interval("agreement", section.agreement)),
            ("Agreement beyond chance (kappa)", decimal_interval(section.kappa, 3)),
            (
                "Distance of probabilities (Kullback-Leibler)",
                f"{decimal(section.divergence, 4)} nats",
            ),
        ]
    )
    tables: list[doc.Content] = []
    for title, counts in (
        ("By truth" if shown.view.several else "By true class", section.by_class),
        ("By the reference's confidence", section.by_confidence),
        ("By group", section.by_group),
    ):
        if counts:
            tables.append(doc.Box([doc.Heading(title), _flip_table(counts)]))
    return [
        numbers,
        doc.Box(tables, "panels"),
        _directions(section.directions, shown.view.noun) if section.directions else None,
        _gallery(shown),
    ]


def _flip_table(counts: Sequence[FlipCounts]) -> doc.Content:
    """Losses to the left, gains to the right, as shares of the row's images."""
    most = max((max(row.lost, row.gained) / row.cases for row in counts if row.cases), default=0)
    scale = Scale(0, most or 1, 0, 46)
    directions: doc.Content = ["\u2190 lost", doc.Text("gained \u2192")]
    heads = [doc.DataCell(heads="col"), doc.DataCell(directions, "bars", heads="col")]
    heads.append(doc.DataCell("Same answer", heads="col"))
    # where there are many rows, those with most flips are in front
    order = counts if len(counts) <= MANY else sorted(counts, key=lambda row: -_flips(row))
    first, rest = (
        doc.DataTable(
            heads, [doc.RowGroup([_flip_row(row, scale) for row in part])], "flips", scroll=False
        )
        for part in (order[:MANY], order[MANY:])
    )
    if not order[MANY:]:
        return first
    return doc.Box([first, doc.Details(f"{len(order) - MANY:,} more, fewer flips", rest)])


def _flips(row: FlipCounts) -> int:
    return row.lost + row.gained + row.changed


def _flip_row(row: FlipCounts, scale: Scale) -> doc.DataRow:
    shares = [count / row.cases if row.cases else 0.0 for count in (row.lost, row.gained)]
    left, right = (scale.at(share) for share in shares)
    parts = [
        tag("rect", class_="lost", x=position(50 - left), y="3", width=position(left), height="14"),
        tag("rect", class_="gained", x="50%", y="3", width=position(right), height="14"),
        _count(row.lost, 50 - left, "end", -5),
        _count(row.gained, 50 + right, None, 5),
    ]
    label = f"{row.lost:,} lost, {row.gained:,} gained, {row.changed:,} changed"
    picture = tag("svg", parts, class_="strip", height="20", role="img", aria_label=label)
    changed = small(f"{row.changed:,} changed") if row.changed else None
    cells = [
        doc.DataCell([row.name, small(counted(row.cases, "image"))], heads="row"),
        doc.DataCell(picture, "bars"),
        doc.DataCell([two_lines("agreement", row.agreement), changed]),
    ]
    return doc.DataRow(cells)


def _count(number: int, x: float, anchor: str | None, shift: int) -> Markup:
    text = tag("text", f"{number:,}", class_=anchor, x=str(shift), y="14")
    return tag("svg", text, x=position(x), class_="at")


def _directions(directions: Sequence[Direction], noun: str) -> list[doc.Content]:
    many = noun == "finding" and len(directions) > MOST_FINDINGS
    ranked = sorted(directions, key=lambda row: row.found - row.missed) if many else directions
    rows: list[list[doc.Content]] = [
        [
            row.label,
            [f"{row.to_negative:,}", small(f"{row.missed:,} new misses")],
            [f"{row.to_positive:,}", small(f"{row.found:,} new finds")],
            [
                _probabilities(row),
                small(_sides(row.units_missed, row.units_found)),
                small(_direction(row)),
            ],
        ]
        for row in ranked
    ]
    heads = [capital(noun), "Calls dropped", "Calls added", "New misses against new finds"]
    heading = doc.Heading("From positive to negative, and back")
    if not many:
        return [heading, grid(heads, rows, "cards rows")]
    more = f"{counted(len(rows) - OPEN_FINDINGS, 'more finding')} that lean less to misses"
    rest = doc.Details(more, grid(heads, rows[OPEN_FINDINGS:], "cards rows"))
    return [heading, grid(heads, rows[:OPEN_FINDINGS], "cards rows"), rest]


def _probabilities(row: Direction) -> str:
    """'p = 0.022; adjusted p = 0.045': the second where several classes were tested."""
    raw, adjusted = row.p_value, row.adjusted_p_value
    if adjusted is None or adjusted == raw:
        return probability(raw)
    return f"{probability(raw)}; adjusted {probability(adjusted)}"


def _direction(row: Direction) -> str:
    p_value = row.p_value if row.adjusted_p_value is None else row.adjusted_p_value
    if p_value >= SHOWN or row.missed == row.found:
        return "no leaning shown"
    return "leans to misses" if row.missed > row.found else "leans to finds"


def _gallery(shown: SectionView[Disagreement]) -> list[doc.Content]:
    """Flipped images, worst first; beyond the first ones a list."""
    flips = shown.mine.flips
    all_flips = shown.mine.lost + shown.mine.gained + shown.mine.changed
    heading = doc.Heading("Images with another answer, worst first")
    if not flips:
        reason = "No image." if not all_flips else "Their names are not in the record."
        return [heading, doc.Paragraph(reason)]
    cards = [_card(shown, flip) for flip in flips[:GALLERY]]
    rest = [f"{flip.key}: {_answer(flip)}" for flip in flips[GALLERY:]]
    more = doc.Details(counted(len(rest), "more image"), doc.Bullets(rest)) if rest else None
    unnamed = all_flips - len(flips)
    unlisted = f"{unnamed:,} more flips are counted above and not listed." if unnamed > 0 else None
    return [
        heading,
        doc.Box(cards, "gallery"),
        more,
        doc.Paragraph(unlisted, "note") if unlisted else None,
    ]


def _card(shown: SectionView[Disagreement], flip: Flip) -> doc.Figure:
    known = ", ".join(f"{column} {value}" for column, value in flip.groups.items() if value)
    caption = [
        doc.Text(capital(KINDS[flip.kind]), "bold", f"kind {flip.kind}"),
        doc.Text(flip.finding, "bold") if flip.finding else None,
        doc.Text(["truth ", doc.Text(flip.truth, "bold")]),
        doc.Text(f"before {flip.before}, {percent(flip.confidence_before, 0)}"),
        doc.Text(f"after {flip.after}, {percent(flip.confidence_after, 0)}"),
        small(known) if known else None,
        small(flip.key),
    ]
    picture = embedded(shown.view, flip.picture, f"{flip.key}, {flip.truth}")
    return doc.Figure(caption, picture, words=None, below=True)


def _answer(flip: Flip) -> str:
    finding = f"{flip.finding}: " if flip.finding else ""
    return (
        f"{finding}{flip.truth}, before {flip.before} "
        f"({percent(flip.confidence_before, 0)} sure), after {flip.after} "
        f"({percent(flip.confidence_after, 0)} sure)"
    )
