"""Calibration: how far a stated confidence can be taken at its word, before and after scaling."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.judgement import Calibration, ReliabilityBin
from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import (
    Mark,
    Scale,
    Shape,
    frame,
    line,
    marker,
    nice_ticks,
    position,
)
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.drawing.parts import grid, legend, lines, small
from clinipress.reporting.page.shown import SectionView, judgement_section
from clinipress.reporting.view import View
from clinipress.reporting.wording.lead import change_words
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    decimal,
    decimal_interval,
    figure_interval,
    finite,
    percent,
    points,
    points_interval,
)
from clinipress.reporting.wording.sentences import half_sentence, unasked_sentence

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
# of several findings, each pair of an image and a finding of which it is known
AXES_OF_FINDINGS = (
    "how often the likelier side, present or absent, was the true one against its stated "
    "probability; below, how many pairs of image and finding"
)
NOTE_OF_FINDINGS = (
    "Each pair of an image and a finding of which it is known counts once, with the likelier side, "
    "present or absent, and its probability: what is stated with 80 % should be so in 80 % of the "
    "pairs; points under the diagonal are statements that promised too much. The line through a "
    "point is the interval. Temperature scaling divides the output for each finding by a number of "
    "its own, which moves its probabilities and not their order."
)
NOTE = (
    "In the diagrams an answer that is given with 80 % confidence should be right in 80 % of "
    "cases: points under the diagonal are answers that promised too much. The line through a point "
    "is the interval. Temperature scaling divides the "
    "network's outputs by one number, which changes no answer, only how sure it sounds."
)


def calibration_section(view: View) -> doc.Section | None:
    """Errors of the stated confidence and reliability diagrams, reference and candidate."""
    note = NOTE_OF_FINDINGS if view.several else NOTE
    return judgement_section(
        view, "calibration", lambda judgements: judgements.calibration, _sentence, _body, note
    )


def _sentence(shown: SectionView[Calibration]) -> str:
    """The error after scaling, beside the reference's, and which way it leans."""
    mine, theirs = shown.mine, shown.theirs
    error = mine.after.get("ece")
    if not finite(error):
        return f"The calibration error of {shown.name} on the {shown.where} images: {NOT_MEASURED}."
    before = mine.before.get("ece")
    was = f", {points(before.value)} before it" if before is not None and finite(before) else ""
    root = theirs.after.get("ece") if theirs else None
    beside = f" (reference {points(root.value)})" if root is not None and finite(root) else ""
    temperature = f"After its temperature of {decimal(mine.temperature)}"
    if mine.temperatures:
        temperature = "After a temperature for each finding"
    return (
        f"{temperature}, fitted on the {mine.chosen_on} images, the stated confidence of "
        f"{shown.name} is off by {points_interval(error)} points "
        f"on average{beside}{was}{_leaning(mine.bins_after)}."
    )


def _leaning(bins: Sequence[ReliabilityBin]) -> str:
    """Whether answers promise too much on the whole."""
    total = sum(bin_.cases for bin_ in bins)
    excesses = [
        bin_.cases * (bin_.confidence - bin_.accuracy.value)
        for bin_ in bins
        if bin_.confidence is not None and bin_.accuracy is not None
    ]
    if not total or not excesses:
        return ""
    excess = sum(excesses) / total
    if abs(excess) < 0.0005:
        return "; on the whole it promises neither too much nor too little"
    return (
        f"; on the whole it promises {points(abs(excess))} points too "
        f"{'much' if excess > 0 else 'little'}"
    )


def _body(shown: SectionView[Calibration]) -> list[doc.Content]:
    sides: list[tuple[Shape, str, Calibration | None]] = [
        ("reference", shown.view.result.reference, shown.theirs),
        (shown.role, shown.name, shown.mine),
    ]
    low = min((_lowest(side) for _, _, side in sides if side), default=0.0)
    axes = AXES_OF_FINDINGS if shown.view.several else AXES
    panels = [_panel(side, shape, name, low, axes) for shape, name, side in sides]
    return [
        legend(
            [
                ("before", "before the temperature"),
                ("reference", "reference, after it"),
                (shown.role, f"{shown.name}, after it"),
            ]
        ),
        doc.Box(panels, "panels"),
        doc.Box(_table(shown), "below"),
        *_grades(shown),
        _findings(shown),
    ]


def _lowest(side: Calibration) -> float:
    """Where the axis of the confidence may begin: a tenth below the first bin with images."""
    edges = [bin_.low for bin_ in (*side.bins, *side.bins_after) if bin_.cases]
    return max(0.0, min(int(10 * min(edges, default=0.0)) / 10, 0.8))


def _panel(side: Calibration | None, shape: Shape, name: str, low: float, axes: str) -> doc.Figure:
    caption: doc.Content = [name, small(axes)]
    if side is None or not any(bin_.cases for bin_ in (*side.bins, *side.bins_after)):
        return doc.Figure(caption, doc.Paragraph(NOT_MEASURED, "empty"), NOT_MEASURED)
    return doc.Figure(caption, _diagram(side, shape, low))


def _diagram(side: Calibration, shape: Shape, low: float) -> Markup:
    """Accuracy against confidence, the diagonal, and how many images lie where."""
    across, up = Scale(low, 1, 13, 98), Scale(0, 1, BOTTOM, TOP)
    ticks = [(tick, percent(tick, 0)) for tick in nice_ticks(low, 1, 5)]
    rising = [(tick, percent(tick, 0)) for tick in nice_ticks(0, 1, 5)]
    parts = [*frame(across, up, ticks, rising)]
    parts.append(line("diagonal", across.at(low), up.at(low), across.at(1), up.at(1)))
    after = side.bins_after or side.bins
    parts += _bars(after, across)
    parts += _points(side.bins if side.bins_after else (), "before", across, up)
    parts += _points(after, shape, across, up)
    label = f"Reliability diagram, {counted(sum(bin_.cases for bin_ in after), 'image')}"
    return tag("svg", parts, class_="plot", height=str(HEIGHT), role="img", aria_label=label)


def _bars(bins: Sequence[ReliabilityBin], across: Scale) -> list[Markup]:
    most = max((bin_.cases for bin_ in bins), default=0) or 1
    parts = []
    for bin_ in bins:
        if not bin_.cases:
            continue
        left, right = across.at(bin_.low), across.at(bin_.high)
        tall = max(22.0 * bin_.cases / most, 1.0)
        title = tag("title", counted(bin_.cases, "image"))
        width, y = position(max(right - left - 0.4, 0.2)), f"{BARS - tall + 10:.4g}"
        parts.append(
            tag(
                "rect",
                title,
                class_="bar",
                x=position(left),
                y=y,
                width=width,
                height=f"{tall:.3g}",
            )
        )
    return parts


def _points(bins: Sequence[ReliabilityBin], shape: Shape, across: Scale, up: Scale) -> list[Markup]:
    parts: list[Markup] = []
    for bin_ in bins:
        if bin_.confidence is None or bin_.accuracy is None or not finite(bin_.accuracy):
            continue
        mark, x = Mark(bin_.accuracy, shape), across.at(bin_.confidence)
        low, high = up.at(mark.interval.low), up.at(mark.interval.high)
        parts.append(line(f"whisker {shape}", x, low, x, high))
        title = f"{counted(bin_.cases, 'image')}: {figure_interval('accuracy', bin_.accuracy)}"
        parts.append(marker(shape, position(x), f"{up.at(bin_.accuracy.value):.4g}", title))
    return parts


def _grades(shown: SectionView[Calibration]) -> list[doc.Content]:
    """Of grades: how often each and all graver ones were promised and were there."""
    if not shown.mine.grades:
        return []
    theirs = {row.label: row for row in shown.theirs.grades} if shown.theirs else {}
    rows: list[list[doc.Content]] = [
        [
            row.label,
            percent(row.stated, 1),
            figure_interval("accuracy", row.observed),
            points_interval(row.excess),
            points_interval(theirs[row.label].excess) if row.label in theirs else NOT_MEASURED,
        ]
        for row in shown.mine.grades
    ]
    heads = ["", "Stated on average", "Observed", f"{shown.name}: too much by, points",
             "Reference: too much by, points"]  # fmt: skip
    return [doc.Heading("By grade, after the temperature"), grid(heads, rows)]


def _findings(shown: SectionView[Calibration]) -> doc.Details | None:
    """Of several findings, each one's temperature and calibration error."""
    view, split = shown.view, shown.split
    if not shown.mine.temperatures or view.reference is None:
        return None
    before, after = (r.evidence.get(split, {}) for r in (view.reference, shown.subject))
    changes = shown.subject.changes.get(split, {})
    own = shown.theirs.temperatures if shown.theirs else {}
    rows: list[list[doc.Content]] = [
        [
            name,
            lines([decimal(own[name], 2) if name in own else "", decimal(temperature, 2)]),
            lines([_limit(shown.theirs, name), _limit(shown.mine, name)]),
            *(
                lines([figure_interval(metric, side.get(metric)) for side in (before, after)])
                for metric in (f"ece[{name}]", f"brier[{name}]")
            ),
            change_words("ece", changes.get(f"ece[{name}]")),
        ]
        for name, temperature in shown.mine.temperatures.items()
    ]
    heads = ["Finding", "Temperature", "Called from", "Calibration error", "Brier score",
             "Change in calibration error, points"]  # fmt: skip
    note = (
        "Upper line: original. Lower line: compressed. Called from: the probability, after the "
        "temperature, at which sensitivity plus specificity was largest on the "
        f"{shown.mine.chosen_on} images.{half_sentence(shown.mine.thresholds.values())}"
    )
    if shown.view.unasked:
        note += f" {unasked_sentence(shown.view)}"
    return doc.Details(
        "Each finding: its temperature, its threshold, its calibration error",
        [grid(heads, rows, "cards rows lined"), doc.Paragraph(note, "note")],
    )


def _limit(side: Calibration | None, name: str) -> str:
    if side is None or not side.temperatures:
        return ""
    return decimal(side.thresholds[name], 3) if name in side.thresholds else "not asked"


def _table(shown: SectionView[Calibration]) -> doc.DataTable:
    mine, theirs = shown.mine, shown.theirs
    names = [key for key in NAMES if key in mine.after or key in mine.before]
    heads = [
        "",
        "Reference, before",
        "Reference, after",
        f"{shown.name}, before",
        f"{shown.name}, after",
        "Compressed minus original, after (shares in percentage points)",
    ]
    rows: list[list[doc.Content]] = (
        []
        if mine.temperatures
        else [
            [
                "Temperature",
                "",
                decimal(theirs.temperature, 3) if theirs else NOT_MEASURED,
                "",
                decimal(mine.temperature, 3),
                "",
            ]
        ]
    )
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
    # of errors: a rise is worse
    return change_words("ece" if share else "log_loss", change)
