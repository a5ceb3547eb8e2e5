"""Figures as inline SVG, drawn by a few small functions.

Horizontal places are percentages and vertical ones pixels, so that a figure fills a phone and a
desk screen alike while its text keeps its size. Colours come from the style sheet, which knows
light and dark. Meaning never hangs on colour alone: roles and verdicts have their own shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clinipress.records.result import Interval, Status
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.markup import Markup, tag

__all__ = [
    "FEW",
    "Mark",
    "Scale",
    "Shape",
    "frame",
    "heat_table",
    "icon",
    "line",
    "log_ticks",
    "marker",
    "nice_ticks",
    "position",
    "rules_style",
    "strip",
    "strip_axis",
    "symbols",
]

FEW = 8  # classes up to which two confusion matrices stand side by side

# the roles of a candidate; its answers with the reference's threshold, or before its temperature;
# the two baselines of maps
Shape = Literal[
    "reference", "shipped", "rejected", "candidate", "kept", "before", "independent", "randomized"
]
SHAPES: dict[Shape, str] = {
    "reference": "M-5-5H5V5H-5Z",
    "shipped": "M0-8L8 0L0 8L-8 0Z",
    "rejected": "M-4.5-4.5L4.5 4.5M-4.5 4.5L4.5-4.5",
    "candidate": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "kept": "M0-6.5L6.5 0L0 6.5L-6.5 0Z",
    "before": "M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0-4.5 0Z",
    "independent": "M0-6.5L6.5 5.5H-6.5Z",
    "randomized": "M0 6.5L6.5-5.5H-6.5Z",
}
ICONS: dict[Status, str] = {
    "pass": "M8 1A7 7 0 1 0 8 15A7 7 0 1 0 8 1ZM4.5 8.2L7 10.7L11.6 5.6",
    "inconclusive": "M8 1.2L15.4 14.6H.6ZM8 6V10.2M8 12V12.8",
    "fail": "M5 1H11L15 5V11L11 15H5L1 11V5ZM5.4 5.4L10.6 10.6M10.6 5.4L5.4 10.6",
}


def symbols() -> Markup:
    """Shapes that the page uses many times, defined once."""
    drawn = [
        tag("symbol", tag("path", d=path), id=f"i-{name}", attributes={"viewBox": "0 0 16 16"})
        for name, path in ICONS.items()
    ]
    return tag("svg", drawn, class_="symbols", aria_hidden="true")


def icon(status: Status) -> Markup:
    """Shape of a verdict: a round tick, a warning triangle, an eight-sided cross."""
    return tag("svg", tag("use", href=f"#i-{status}"), class_="icon", aria_hidden="true")


@dataclass(frozen=True)
class Scale:
    """From values to places between `start` and `end`.

    Attributes:
        low: Value at `start`.
        high: Value at `end`.
        start: Place of the lowest value (percent of the width, or pixels from the top).
        end: Place of the highest.
        logarithmic: Equal ratios take equal room; values must be positive.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a value, kept inside the figure."""
        low, high, here = self.low, self.high, value
        if self.logarithmic:
            low, high, here = (math.log(max(number, 1e-12)) for number in (low, high, here))
        share = (here - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within a range.

    Example:
        >>> nice_ticks(-0.013, 0.031)
        [-0.01, 0.0, 0.01, 0.02, 0.03]
    """
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= 0.999 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) + 0.0 for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Three to six round values of a logarithmic axis, where its range allows.

    1, 2, 5, 10, ...; only powers of ten when that is too many; evenly spaced when too few.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**power for power in range(first, last + 1)]
    coarse = [tick for tick in powers if low <= tick <= high]
    fine = [step * power for power in powers for step in (1, 2, 5) if low <= step * power <= high]
    if len(fine) < 3:
        return nice_ticks(low, high, 4)
    return fine if len(fine) <= 6 or len(coarse) < 2 else coarse


# ---------------------------------------------------------------------------------------- strips


@dataclass(frozen=True)
class Mark:
    """One figure with its interval on a strip."""

    interval: Interval
    role: Shape


def position(value: float) -> str:
    """A position across the figure, in percent of its width."""
    return f"{value:.4g}%"


def line(class_: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line; x in percent, y in pixels."""
    return tag(
        "line", class_=class_, x1=position(x1), x2=position(x2), y1=f"{y1:.4g}", y2=f"{y2:.4g}"
    )


def marker(role: Shape, x: str, y: str, title: str | None = None) -> Markup:
    """The shape of a role at a place, with a text for who points at it."""
    shape = tag("path", tag("title", title) if title else None, class_=f"m {role}", d=SHAPES[role])
    return tag("svg", shape, x=x, y=y, class_="at")


def strip(marks: Sequence[Mark], scale: Scale) -> Markup:
    """One row of a forest plot: each mark with its interval, on a common scale.

    Args:
        marks: Figures, first on top.
        scale: Common to all rows, places in percent.
    """
    row = 15
    parts: list[Markup] = []
    for number, mark in enumerate(marks):
        y = row * number + row / 2 + 4.5
        ends = scale.at(mark.interval.low), scale.at(mark.interval.high)
        parts.append(line(f"whisker {mark.role}", ends[0], y, ends[1], y))
        parts.append(marker(mark.role, position(scale.at(mark.interval.value)), f"{y:.4g}"))
    height = str(row * len(marks) + 9)
    return tag("svg", parts, class_="strip", height=height, aria_hidden="true")


def rules_style(scale: Scale, margin: float | None) -> str:
    """Where the style sheet draws the line of no difference and the zone beyond the limit.

    They are the background of the cell, so that they join from row to row whatever its height.
    """
    limit = f";--limit:{position(scale.at(margin))}" if margin is not None else ""
    return f"--zero:{position(scale.at(0))}{limit}"


def strip_axis(scale: Scale, ticks: Sequence[float], texts: Sequence[str]) -> Markup:
    """The axis under (or over) a column of strips."""
    parts: list[Markup] = []
    for tick, text in zip(ticks, texts, strict=True):
        parts.append(line("tick", scale.at(tick), 0, scale.at(tick), 5))
        parts.append(tag("text", text, class_="mid", x=position(scale.at(tick)), y="17"))
    return tag("svg", parts, class_="strip axis", height="22", aria_hidden="true")


def frame(
    across: Scale,
    up: Scale,
    below: Sequence[tuple[float, str]],
    beside: Sequence[tuple[float, str]],
) -> list[Markup]:
    """Grid lines and texts of a plot whose x is in percent and whose y is in pixels.

    Args:
        across: Scale of x.
        up: Scale of y.
        below: Values of x and what is written under them.
        beside: Values of y and what is written left of them.
    """
    parts: list[Markup] = []
    for value, text in beside:
        y = up.at(value)
        parts.append(line("grid", across.start, y, across.end, y))
        x = position(across.start - 1.5)
        parts.append(tag("text", text, class_="end", x=x, y=f"{y + 4:.4g}"))
    for value, text in below:
        x = position(across.at(value))
        parts.append(tag("text", text, class_="mid", x=x, y=f"{up.start + 18:.4g}"))
    parts.append(line("base", across.start, up.start, across.end, up.start))
    return parts


# ------------------------------------------------------------------------------------ heat table


def heat_table(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], caption: str
) -> doc.DataTable:
    """A confusion matrix: rows the true class, columns the answer, shaded by share of the row.

    Right answers are shaded in one hue in proportion to their share, wrong ones in another by the
    square root of it, so that rare mistakes can be seen.

    Args:
        matrix: Images, ``[classes][classes]``.
        classes: Names in the order of rows and columns.
        caption: What the table is of.
    """
    longest = max(map(len, classes), default=0)
    numbered = longest > 11 or (len(classes) > 4 and longest > 4)
    # "1" above a column must not be taken for the grade 1
    number_of = "({})" if any(name[:1].isdigit() for name in classes) else "{}"
    corner = doc.DataCell("true class \u2193 answer \u2192", "corner", heads="col")
    heads = [
        doc.DataCell(number_of.format(number) if numbered else name, heads="col")
        for number, name in enumerate(classes, start=1)
    ]
    rows = [
        doc.DataRow(
            [
                doc.DataCell(
                    f"{number_of.format(number)} {name}" if numbered else name, heads="row"
                ),
                *(
                    _heat_cell(count, sum(row), right=number == column)
                    for column, count in enumerate(row, start=1)
                ),
            ]
        )
        for number, (name, row) in enumerate(zip(classes, matrix, strict=True), start=1)
    ]
    class_ = "heat" if len(classes) <= FEW else "heat many"
    return doc.DataTable([corner, *heads], [doc.RowGroup(rows)], class_, caption)


def _heat_cell(count: int, total: int, *, right: bool) -> doc.DataCell:
    class_ = "right" if right else "wrong"
    if count == 0 or total == 0:  # a shade of nothing is a count of none
        return doc.DataCell("0", class_) if right else doc.DataCell(words="0")
    share = count / total
    shade = share if right else 0.1 + 0.9 * math.sqrt(share)
    strong = " strong" if shade > 0.55 else ""
    return doc.DataCell(f"{count:,}", class_ + strong, style=f"--v:{shade:.2f}")
