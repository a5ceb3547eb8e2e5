"""Disagreement: which answers changed, which way, for whom, and what those images look like."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.judgement import Direction, Disagreement, Flip, FlipCounts
from clinipress.reporting.drawing.figures import Scale, place
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import MANY, facts, folded, grid, small, two_lines
from clinipress.reporting.drawing.pictures import GALLERY, embedded
from clinipress.reporting.page.shown import Shown, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    counted,
    decimal,
    decimal_interval,
    figure_interval,
    percent,
    probability,
)
from clinipress.text import (
    capital,
)

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
    "the patient. The test of asymmetry is McNemar's, exact. Confidence is the reference's, "
    "calibrated."
)


def disagreement_section(view: View) -> Markup | None:
    """Agreement, flips by class, confidence and group, and a gallery of them."""
    return judgement_section(
        view, "disagreement", lambda one: one.disagreement, _sentence, _body, NOTE
    )


def _sentence(shown: Shown[Disagreement]) -> str:
    """Agreement, the flips, and whether they lean to one side."""
    section = shown.mine
    answers = counted(section.lost, "answer was", "answers were")
    return (
        f"{shown.name} answers as the reference does on "
        f"{figure_interval('agreement', section.agreement)} of "
        f"{counted(section.cases, f'{shown.where} image')}; {answers} right before and wrong now, "
        f"{section.gained:,} the other way round, {section.changed:,} wrong both times: "
        f"{_leaning(section.lost, section.gained, section.p_value)}."
    )


def _leaning(lost: int, gained: int, p_value: float) -> str:
    tested = f"exact McNemar test, {probability(p_value)}"
    if lost == gained:
        return f"as many lost as gained ({tested})"
    way = "losses" if lost > gained else "gains"
    if p_value < SHOWN:
        return f"flips lean to {way} ({tested})"
    return f"that flips lean to {way} is not shown ({tested})"


def _body(shown: Shown[Disagreement]) -> list[Child]:
    section = shown.mine
    numbers = facts(
        [
            ("Agreement", figure_interval("agreement", section.agreement)),
            ("Agreement beyond chance (kappa)", decimal_interval(section.kappa, 3)),
            (
                "Distance of probabilities (Kullback-Leibler)",
                f"{decimal(section.divergence, 4)} nats",
            ),
        ]
    )
    tables: list[Child] = []
    for title, counts in (
        ("By true class", section.by_class),
        ("By the reference's confidence", section.by_confidence),
        ("By group", section.by_group),
    ):
        if counts:
            tables.append(tag("div", tag("h3", title), _flip_table(counts)))
    return [
        numbers,
        tag("div", tables, class_="panels"),
        _directions(section.directions) if section.directions else None,
        _gallery(shown),
    ]


def _flip_table(counts: Sequence[FlipCounts]) -> Markup:
    """Losses to the left, gains to the right, as shares of the row's images."""
    most = max((max(one.lost, one.gained) / one.cases for one in counts if one.cases), default=0)
    scale = Scale(0, most or 1, 0, 46)
    head = tag(
        "tr",
        tag("th", scope="col"),
        tag("th", "\u2190 lost", tag("span", "gained \u2192"), scope="col", class_="bars"),
        tag("th", "Same answer", scope="col"),
    )
    # where there are many rows, those with most flips are in front
    order = counts if len(counts) <= MANY else sorted(counts, key=lambda one: -_flips(one))
    tables = [
        tag("table", tag("thead", head), tag("tbody", [_flip_row(o, scale) for o in part]),
            class_="flips")
        for part in (order[:MANY], order[MANY:])
    ]  # fmt: skip
    if not order[MANY:]:
        return tables[0]
    return tag("div", tables[0], folded(f"{len(order) - MANY:,} more, fewer flips", tables[1]))


def _flips(one: FlipCounts) -> int:
    return one.lost + one.gained + one.changed


def _flip_row(one: FlipCounts, scale: Scale) -> Markup:
    shares = [count / one.cases if one.cases else 0.0 for count in (one.lost, one.gained)]
    left, right = (scale.at(share) for share in shares)
    parts = [
        tag("rect", class_="lost", x=place(50 - left), y="3", width=place(left), height="14"),
        tag("rect", class_="gained", x="50%", y="3", width=place(right), height="14"),
        _count(one.lost, 50 - left, "end", -5),
        _count(one.gained, 50 + right, None, 5),
    ]
    told = f"{one.lost:,} lost, {one.gained:,} gained, {one.changed:,} changed"
    picture = tag("svg", parts, class_="strip", height="20", role="img", aria_label=told)
    changed = small(f"{one.changed:,} changed") if one.changed else None
    return tag(
        "tr",
        tag("th", one.name, small(counted(one.cases, "image")), scope="row"),
        tag("td", picture, class_="bars"),
        tag("td", two_lines("agreement", one.agreement), changed),
    )


def _count(number: int, x: float, anchor: str | None, shift: int) -> Markup:
    text = tag("text", f"{number:,}", class_=anchor, x=str(shift), y="14")
    return tag("svg", text, x=place(x), class_="at")


def _directions(directions: Sequence[Direction]) -> list[Child]:
    rows: list[list[Child]] = [
        [
            one.label,
            [f"{one.to_negative:,}", small(f"{one.missed:,} new misses")],
            [f"{one.to_positive:,}", small(f"{one.found:,} new finds")],
            [probability(one.p_value), small(_direction(one))],
        ]
        for one in directions
    ]
    heads = ["Class", "Calls dropped", "Calls added", "New misses against new finds"]
    return [tag("h3", "From positive to negative, and back"), grid(heads, rows, "cards rows")]


def _direction(one: Direction) -> str:
    if one.p_value >= SHOWN or one.missed == one.found:
        return "no leaning shown"
    return "leans to misses" if one.missed > one.found else "leans to finds"


def _gallery(shown: Shown[Disagreement]) -> list[Child]:
    """Flipped images, worst first; beyond the first ones a list."""
    flips = shown.mine.flips
    all_flips = shown.mine.lost + shown.mine.gained + shown.mine.changed
    heading = tag("h3", "Images with another answer, worst first")
    if not flips:
        told = "No image." if not all_flips else "Their names are not in the record."
        return [heading, tag("p", told)]
    cards = [_card(shown, flip) for flip in flips[:GALLERY]]
    rest = [tag("li", f"{one.key}: {_answer(one)}") for one in flips[GALLERY:]]
    more = folded(f"{counted(len(rest), 'more image')}", tag("ul", rest)) if rest else None
    unnamed = all_flips - len(flips)
    unlisted = f"{unnamed:,} more flips are counted above and not listed." if unnamed > 0 else None
    return [
        heading,
        tag("div", cards, class_="gallery"),
        more,
        tag("p", unlisted, class_="note") if unlisted else None,
    ]


def _card(shown: Shown[Disagreement], flip: Flip) -> Markup:
    known = ", ".join(f"{column} {value}" for column, value in flip.groups.items() if value)
    return tag(
        "figure",
        embedded(shown.view, flip.picture, f"{flip.key}, {flip.truth}"),
        tag(
            "figcaption",
            tag("b", capital(KINDS[flip.kind]), class_=f"kind {flip.kind}"),
            tag("span", "truth ", tag("b", flip.truth)),
            tag("span", f"before {flip.before}, {percent(flip.confidence_before, 0)}"),
            tag("span", f"after {flip.after}, {percent(flip.confidence_after, 0)}"),
            tag("span", known, class_="small") if known else None,
            tag("span", flip.key, class_="small"),
        ),
    )


def _answer(flip: Flip) -> str:
    return (
        f"{flip.truth}, before {flip.before} ({percent(flip.confidence_before, 0)} sure), after "
        f"{flip.after} ({percent(flip.confidence_after, 0)} sure)"
    )
