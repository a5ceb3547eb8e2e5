"""Calibration: how far a stated confidence can be taken at its word, before and after scaling."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.judgement import Calibration, ReliabilityBin
from clinipress.records.result import Interval
from clinipress.reporting.drawing.figures import (
    Mark,
    Scale,
    Shape,
    frame,
    line,
    marker,
    nice_ticks,
    place,
)
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import grid, legend, small
from clinipress.reporting.page.shown import Shown, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    change_interval,
    counted,
    decimal,
    decimal_interval,
    figure_interval,
    finite,
    percent,
    points,
    points_interval,
)

__all__ = ["calibration_section"]

# figure -> its name, what it should be, whether it is a share
NAMES: dict[str, tuple[str, str, bool]] = {
    "ece": ("Calibration error", "0 is best; bins of equal width", True),
    "ece_equal_mass": ("Calibration error", "0 is best; bins of equal size", True),
    "brier": ("Brier score", "0 is best", False),
    "log_loss": ("Log loss", "0 is best", False),
    "slope": ("Slope", "1 is best; below 1 too extreme", False),
    "intercept": ("Intercept", "0 is best; below 0 too high", False),
}
TOP, BOTTOM, BARS = 10.0, 220.0, 262.0  # of the diagram: its field, and the foot of its bars
HEIGHT = 276
AXES = "right answers against stated confidence; below, how many images are how sure"
NOTE = (
    "In the diagrams an answer that is given with 80 % confidence should be right in 80 % of "
    "cases: points under the diagonal are answers that promised too much. The line through a point "
    "is the interval. Temperature scaling divides the "
    "network's outputs by one number, which changes no answer, only how sure it sounds."
)


def calibration_section(view: View) -> Markup | None:
    """Errors of the stated confidence and reliability diagrams, reference and candidate."""
    return judgement_section(
        view, "calibration", lambda one: one.calibration, _sentence, _body, NOTE
    )


def _sentence(shown: Shown[Calibration]) -> str:
    """The error after scaling, beside the reference's, and which way it leans."""
    mine, theirs = shown.mine, shown.theirs
    error = mine.after.get("ece")
    if not finite(error):
        return f"The calibration error of {shown.name} on the {shown.where} images: {NOT_MEASURED}."
    before = mine.before.get("ece")
    was = f", {points(before.value)} before it" if before is not None and finite(before) else ""
    root = theirs.after.get("ece") if theirs else None
    beside = f" (reference {points(root.value)})" if root is not None and finite(root) else ""
    return (
        f"After its temperature of {decimal(mine.temperature)}, fitted on the {mine.chosen_on} "
        f"images, the stated confidence of {shown.name} is off by {points_interval(error)} points "
        f"on average{beside}{was}{_leaning(mine.bins_after)}."
    )


def _leaning(bins: Sequence[ReliabilityBin]) -> str:
    """Whether answers promise too much on the whole."""
    total = sum(one.cases for one in bins)
    told = [
        one.cases * (one.confidence - one.accuracy.value)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    if not total or not told:
        return ""
    excess = sum(told) / total
    if abs(excess) < 0.0005:
        return "; on the whole it promises neither too much nor too little"
    return (
        f"; on the whole it promises {points(abs(excess))} points too "
        f"{'much' if excess > 0 else 'little'}"
    )


def _body(shown: Shown[Calibration]) -> list[Child]:
    sides: list[tuple[Shape, str, Calibration | None]] = [
        ("reference", shown.view.result.reference, shown.theirs),
        (shown.role, shown.name, shown.mine),
    ]
    low = min((_lowest(side) for _, _, side in sides if side), default=0.0)
    panels = [
        tag("figure", tag("figcaption", name, small(AXES)), _diagram(side, shape, low))
        for shape, name, side in sides
    ]
    return [
        legend(
            [
                ("before", "before the temperature"),
                ("reference", "reference, after it"),
                (shown.role, f"{shown.name}, after it"),
            ]
        ),
        tag("div", panels, class_="panels"),
        tag("div", _table(shown), class_="below"),
    ]


def _lowest(side: Calibration) -> float:
    """Where the axis of the confidence may begin: a tenth below the first bin with images."""
    edges = [one.low for one in (*side.bins, *side.bins_after) if one.cases]
    return max(0.0, min(int(10 * min(edges, default=0.0)) / 10, 0.8))


def _diagram(side: Calibration | None, shape: Shape, low: float) -> Markup:
    """Accuracy against confidence, the diagonal, and how many images lie where."""
    if side is None or not any(one.cases for one in (*side.bins, *side.bins_after)):
        return tag("p", NOT_MEASURED, class_="empty")
    across, up = Scale(low, 1, 13, 98), Scale(0, 1, BOTTOM, TOP)
    ticks = [(tick, percent(tick, 0)) for tick in nice_ticks(low, 1, 5)]
    rising = [(tick, percent(tick, 0)) for tick in nice_ticks(0, 1, 5)]
    parts = [*frame(across, up, ticks, rising)]
    parts.append(line("diagonal", across.at(low), up.at(low), across.at(1), up.at(1)))
    after = side.bins_after or side.bins
    parts += _bars(after, across)
    parts += _points(side.bins if side.bins_after else (), "before", across, up)
    parts += _points(after, shape, across, up)
    told = f"Reliability diagram, {counted(sum(one.cases for one in after), 'image')}"
    return tag("svg", parts, class_="plot", height=str(HEIGHT), role="img", aria_label=told)


def _bars(bins: Sequence[ReliabilityBin], across: Scale) -> list[Markup]:
    most = max((one.cases for one in bins), default=0) or 1
    parts = []
    for one in bins:
        if not one.cases:
            continue
        left, right = across.at(one.low), across.at(one.high)
        tall = max(22.0 * one.cases / most, 1.0)
        told = tag("title", f"{counted(one.cases, 'image')}")
        width, y = place(max(right - left - 0.4, 0.2)), f"{BARS - tall + 10:.4g}"
        parts.append(
            tag("rect", told, class_="bar", x=place(left), y=y, width=width, height=f"{tall:.3g}")
        )
    return parts


def _points(bins: Sequence[ReliabilityBin], shape: Shape, across: Scale, up: Scale) -> list[Markup]:
    parts: list[Markup] = []
    for one in bins:
        if one.confidence is None or one.accuracy is None or not finite(one.accuracy):
            continue
        mark, x = Mark(one.accuracy, shape), across.at(one.confidence)
        low, high = up.at(mark.interval.low), up.at(mark.interval.high)
        parts.append(line(f"whisker {shape}", x, low, x, high))
        told = f"{counted(one.cases, 'image')}: {figure_interval('accuracy', one.accuracy)}"
        parts.append(marker(shape, place(x), f"{up.at(one.accuracy.value):.4g}", told))
    return parts


def _table(shown: Shown[Calibration]) -> Markup:
    mine, theirs = shown.mine, shown.theirs
    names = [key for key in NAMES if key in mine.after or key in mine.before]
    heads = [
        "",
        "Reference, before",
        "Reference, after",
        f"{shown.name}, before",
        f"{shown.name}, after",
        "Candidate minus reference, after",
    ]
    rows: list[list[Child]] = [
        [
            "Temperature",
            "",
            decimal(theirs.temperature, 3) if theirs else NOT_MEASURED,
            "",
            decimal(mine.temperature, 3),
            "",
        ]
    ]
    for key in names:
        label, best, share = NAMES[key]
        rows.append(
            [
                [label, small(best)],
                _write(theirs.before.get(key) if theirs else None, share=share),
                _write(theirs.after.get(key) if theirs else None, share=share),
                _write(mine.before.get(key), share=share),
                _write(mine.after.get(key), share=share),
                _difference(mine.changes.get(key), share=share),
            ]
        )
    return grid(heads, rows, "cards rows")


def _write(interval: Interval | None, *, share: bool) -> str:
    return figure_interval("ece", interval) if share else decimal_interval(interval, 3)


def _difference(change: Interval | None, *, share: bool) -> str:
    if change is None or not finite(change):
        return NOT_MEASURED
    return f"{change_interval(change)} points" if share else decimal_interval(change, 3)
