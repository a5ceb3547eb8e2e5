"""Stress: how reference and candidate bear worse images, and images that are none of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from clinipress.records.judgement import OutOfScopeProbe, Stress, StressCurve, StressLevel
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import (
    Scale,
    Shape,
    frame,
    line,
    marker,
    nice_ticks,
    position,
)
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.drawing.parts import grid, legend, small
from clinipress.reporting.page.shown import SectionView, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    change_interval,
    counted,
    figure_interval,
    finite,
    percent,
    points_words,
    short_name,
    tick_words,
)
from clinipress.reporting.wording.phrases import interval_phrase
from clinipress.text import capital, joined

__all__ = ["stress_section"]

HEIGHT, TOP, BOTTOM = 168, 12.0, 138.0  # of one small plot, pixels
NAMES = {"jpeg": "JPEG compression", "missing": "missing region", "resolution": "lower resolution"}
NOTE = (
    "Accuracy against the strength of the disturbance, 0 (as it is) to 5; the lines up and down "
    "are the intervals. What matters is whether the two curves part: the added change is the "
    "change on disturbed images minus the change on the same images undisturbed. Probes are "
    "images no classifier here should be sure of; refused means refused or called uncertain."
)


def stress_section(view: View) -> doc.Section | None:
    """Curves of accuracy for every kind of disturbance, and out-of-scope probes."""
    return judgement_section(
        view, "stress", lambda judgements: judgements.stress, _sentence, _body, NOTE
    )


def _name(kind: str) -> str:
    return NAMES.get(kind, kind)


def _levels(curves: Sequence[StressCurve]) -> Iterator[tuple[StressCurve, StressLevel]]:
    for curve in curves:
        for level in curve.levels:
            if finite(level.added_change):
                yield curve, level


def _sentence(shown: SectionView[Stress]) -> str:
    """The disturbance that costs most beyond the reference's own loss, and whether it is shown."""
    section = shown.mine
    levels = list(_levels(section.curves))
    opening = (
        f"On {counted(section.images, f'{shown.where} image')} disturbed in "
        f"{counted(len(section.curves), 'way')} at up to five strengths"
    )
    if not levels:
        return f"{opening}, the added loss of {shown.name} was {NOT_MEASURED}.{_refusals(section)}"
    parted = list(
        dict.fromkeys(_name(c.kind) for c, level in levels if level.added_change.high < 0)
    )
    worst, level = min(levels, key=lambda pair: pair[1].added_change.value)
    most = (
        f"the largest added loss is {points_words(-level.added_change.value)} "
        f"({interval_phrase(level.added_change)}), by {_name(worst.kind)} at strength "
        f"{level.strength}"
    )
    if parted:
        return (
            f"{opening}, {shown.name} bears {joined(parted)} worse than the reference; {most}."
            f"{_refusals(section)}"
        )
    return (
        f"{opening}, no disturbance is shown to cost {shown.name} more than the reference; {most}."
        f"{_refusals(section)}"
    )


def _refusals(section: Stress) -> str:
    if not section.probes:
        return ""
    least = min(section.probes, key=lambda probe: probe.candidate_refused)
    return (
        f" Of the out-of-scope images \u201c{least.name}\u201d gets through most: "
        f"{percent(1 - least.candidate_refused, 0)} are answered as if there were nothing wrong "
        f"(reference {percent(1 - least.reference_refused, 0)})."
    )


def _body(shown: SectionView[Stress]) -> list[doc.Content]:
    section = shown.mine
    whole = section.undisturbed
    ends = [accuracy.low for accuracy in whole.values() if finite(accuracy)]
    for curve in section.curves:
        for level in curve.levels:
            ends += [side.low for side in (level.reference, level.candidate) if finite(side)]
    up = Scale(max(0.0, min(ends, default=0.0) - 0.02), 1.0, BOTTOM, TOP)
    plots = [_plot(shown, curve, up) for curve in section.curves]
    shapes: list[tuple[Shape, str]] = [
        ("reference", shown.view.result.reference),
        (shown.role, shown.name),
    ]
    return [
        legend(shapes),
        doc.Box(plots, "multiples"),
        doc.Details("All figures", _table(section)) if section.curves else None,
        _probes(section.probes),
    ]


def _plot(shown: SectionView[Stress], curve: StressCurve, up: Scale) -> doc.Figure:
    """One kind: two curves on one axis; a star where the candidate is shown to bear it worse."""
    across = Scale(-0.3, 5.3, 19, 99)
    below = [(float(number), str(number)) for number in range(6)]
    beside = [
        (tick, tick_words(shown.mine.metric, tick)) for tick in nice_ticks(up.low, up.high, 4)
    ]
    parts = frame(across, up, below, beside)
    whole = shown.mine.undisturbed
    sides: list[tuple[Shape, float, list[tuple[int, Interval]]]] = [
        ("reference", -0.12, [(level.strength, level.reference) for level in curve.levels]),
        (shown.role, 0.12, [(level.strength, level.candidate) for level in curve.levels]),
    ]
    for (shape, shift, points), key in zip(sides, ("reference", "candidate"), strict=True):
        start = [(0, whole[key])] if key in whole else []
        # the two stand a little apart, so that neither hides the other's interval
        drawn = [(n + shift, accuracy) for n, accuracy in (*start, *points) if finite(accuracy)]
        parts += _curve(shape, drawn, across, up, shown.mine.metric)
    worse = [
        level.strength
        for level in curve.levels
        if finite(level.added_change) and level.added_change.high < 0
    ]
    for strength in worse:
        x = position(across.at(strength))
        parts.append(tag("text", "\u2217", class_="mid star", x=x, y=str(int(TOP) + 2)))
    amounts = ", ".join(f"{level.amount:g}" for level in curve.levels)
    star = "; \u2217 worse than the reference" if worse else ""
    name = capital(_name(curve.kind))
    caption: doc.Content = [name, small(f"{amounts} {curve.unit}".strip() + star)]
    label = f"{name}: {short_name(shown.mine.metric)} by strength"
    plot = tag("svg", parts, class_="plot", height=str(HEIGHT), role="img", aria_label=label)
    return doc.Figure(caption, plot)


def _curve(
    shape: Shape, points: Sequence[tuple[float, Interval]], across: Scale, up: Scale, metric: str
) -> list[Markup]:
    places = [(across.at(x), up.at(accuracy.value), accuracy) for x, accuracy in points]
    parts = [
        line(f"curve {shape}", x, y, next_x, next_y)
        for (x, y, _), (next_x, next_y, _) in pairwise(places)
    ]
    for x, y, accuracy in places:
        parts.append(line(f"whisker {shape}", x, up.at(accuracy.low), x, up.at(accuracy.high)))
        parts.append(marker(shape, position(x), f"{y:.4g}", figure_interval(metric, accuracy)))
    return parts


def _table(section: Stress) -> doc.DataTable:
    rows: list[list[doc.Content]] = []
    for curve in section.curves:
        for level in curve.levels:
            amount = f"{level.amount:g} {curve.unit}".strip()
            rows.append(
                [
                    [f"{capital(_name(curve.kind))} {level.strength}", small(amount)],
                    figure_interval(section.metric, level.reference),
                    figure_interval(section.metric, level.candidate),
                    change_interval(level.change),
                    change_interval(level.added_change),
                ]
            )
    heads = ["Disturbance", "Reference", "Candidate", "Change, points", "Added change, points"]
    return grid(heads, rows, "cards rows")


def _probes(probes: Sequence[OutOfScopeProbe]) -> list[doc.Content]:
    heading = doc.Heading("Out-of-scope images")
    if not probes:
        return [heading, doc.Paragraph(NOT_MEASURED, "empty")]
    rows: list[list[doc.Content]] = [
        [
            [capital(probe.name), small(counted(probe.images, "image"))],
            percent(probe.reference_confidence),
            percent(probe.candidate_confidence),
            percent(probe.reference_refused),
            percent(probe.candidate_refused),
        ]
        for probe in probes
    ]
    heads = [
        "Probe",
        "Mean confidence, reference",
        "Mean confidence, candidate",
        "Refused, reference",
        "Refused, candidate",
    ]
    return [heading, grid(heads, rows, "cards rows")]
