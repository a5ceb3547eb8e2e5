"""Figures as inline SVG, drawn by a few small functions.

Horizontal places are percentages and vertical ones pixels, so that a figure fills a phone and a
desk screen alike while its text keeps its size. Colours come from the style sheet, which knows
light and dark. Meaning never hangs on colour alone: roles and verdicts have their own shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clinipress.records import Interval, Status
from clinipress.report.formats import finite, percent
from clinipress.report.markup import Markup, tag
from clinipress.report.view import Role

__all__ = [
    "Mark",
    "Point",
    "Scale",
    "heat_table",
    "icon",
    "log_ticks",
    "marker",
    "nice_ticks",
    "pareto",
    "rules_style",
    "strip",
    "strip_axis",
    "symbols",
    "trade_off",
]

HEIGHT = 300  # of the trade-off plot, pixels
TOP, BOTTOM = 14, 256  # where its highest and lowest values lie
NARROW = 340  # width in pixels for which labels are kept apart: a phone
LETTER = 6.8  # pixels of one letter of the labels

SHAPES: dict[Role, str] = {
    "reference": "M-5-5H5V5H-5Z",
    "shipped": "M0-8L8 0L0 8L-8 0Z",
    "rejected": "M-4.5-4.5L4.5 4.5M-4.5 4.5L4.5-4.5",
    "candidate": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
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
    role: Role


def _place(value: float) -> str:
    return f"{value:.4g}%"


def _line(class_: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A line; x in percent, y in pixels."""
    return tag("line", class_=class_, x1=_place(x1), x2=_place(x2), y1=f"{y1:.4g}", y2=f"{y2:.4g}")


def marker(role: Role, x: str, y: str) -> Markup:
    """The shape of a role at a place."""
    shape = tag("path", class_=f"m {role}", d=SHAPES[role])
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
        parts.append(_line(f"whisker {mark.role}", ends[0], y, ends[1], y))
        parts.append(marker(mark.role, _place(scale.at(mark.interval.value)), f"{y:.4g}"))
    height = str(row * len(marks) + 9)
    return tag("svg", parts, class_="strip", height=height, aria_hidden="true")


def rules_style(scale: Scale, margin: float | None) -> str:
    """Where the style sheet draws the line of no difference and the zone beyond the limit.

    They are the background of the cell, so that they join from row to row whatever its height.
    """
    limit = f";--limit:{_place(scale.at(margin))}" if margin is not None else ""
    return f"--zero:{_place(scale.at(0))}{limit}"


def strip_axis(scale: Scale, ticks: Sequence[float], texts: Sequence[str]) -> Markup:
    """The axis under (or over) a column of strips."""
    parts: list[Markup] = []
    for tick, text in zip(ticks, texts, strict=True):
        parts.append(_line("tick", scale.at(tick), 0, scale.at(tick), 5))
        parts.append(tag("text", text, class_="mid", x=_place(scale.at(tick)), y="17"))
    return tag("svg", parts, class_="strip axis", height="22", aria_hidden="true")


# ------------------------------------------------------------------------------- trade-off plot


@dataclass(frozen=True)
class Point:
    """One candidate in the trade-off plot.

    Attributes:
        number: Its number in the table.
        name: Its name.
        cost: Milliseconds or megabytes, positive.
        gain: Accuracy with its interval.
        role: What became of it.
    """

    number: int
    name: str
    cost: float
    gain: Interval
    role: Role


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both: cheaper (or as cheap) and more accurate (or as accurate).

    Of points equal in both, the first is kept. Rejected points are no choice and do not count.
    """
    front: list[Point] = []
    able = [point for point in points if point.role != "rejected"]
    for point in sorted(able, key=lambda point: (point.cost, -point.gain.value)):
        if not front or point.gain.value > front[-1].gain.value:
            front.append(point)
    return front


def _ranges(points: Sequence[Point]) -> tuple[Scale, Scale]:
    """Scales of cost (percent of the width) and gain (pixels), with some air."""
    costs = [point.cost for point in points]
    low = min(point.gain.low for point in points)
    high = max(point.gain.high for point in points)
    air = max(0.04 * (high - low), 0.002)
    ratio = max((max(costs) / min(costs)) ** 0.08, 1.15)
    across = Scale(min(costs) / ratio, max(costs) * ratio, 14, 97, logarithmic=True)
    return across, Scale(max(low - air, 0), min(high + air, 1), BOTTOM, TOP)


def _axes(across: Scale, up: Scale, unit: str) -> list[Markup]:
    parts: list[Markup] = []
    ticks = nice_ticks(up.low, up.high)
    decimals = 0 if all(abs(100 * tick - round(100 * tick)) < 1e-6 for tick in ticks) else 1
    for tick in ticks:
        y = up.at(tick)
        parts.append(_line("grid", 14, y, 100, y))
        parts.append(
            tag("text", percent(tick, decimals), class_="end", x="12.5%", y=f"{y + 4:.4g}")
        )
    for tick in log_ticks(across.low, across.high):
        x = across.at(tick)
        parts.append(_line("tick", x, BOTTOM + 8, x, BOTTOM + 13))
        text = f"{tick:,.6g}"
        parts.append(tag("text", text, class_="mid", x=_place(x), y=str(BOTTOM + 27)))
    parts.append(_line("base", 14, BOTTOM + 8, 100, BOTTOM + 8))
    parts.append(tag("text", unit, class_="end unit", x="100%", y=str(HEIGHT - 1)))
    return parts


def _front_line(front: Sequence[Point], across: Scale, up: Scale) -> list[Markup]:
    """The best accuracy that a given cost buys, as steps."""
    places = [(across.at(point.cost), up.at(point.gain.value)) for point in front]
    parts: list[Markup] = []
    for (x, y), (next_x, next_y) in zip(places, [*places[1:], (100.0, places[-1][1])], strict=True):
        parts.append(_line("front", x, y, next_x, y))
        if next_y != y:
            parts.append(_line("front", next_x, y, next_x, next_y))
    return parts


Box = tuple[float, float, float, float]


def _overlaps(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _label_texts(point: Point) -> list[str]:
    """What may stand beside a marker, the best first: the two main ones carry their names."""
    if point.role not in ("reference", "shipped"):
        return [str(point.number)]
    name = point.name if len(point.name) <= 18 else point.name[:17] + "\u2026"
    return [f"{point.number} {name}", str(point.number)]


@dataclass(frozen=True)
class Label:
    """A text beside a marker: the offset of its anchor, and the box it would fill, in pixels."""

    text: str
    dx: float
    dy: float
    box: Box


def _choices(text: str, x: float, y: float) -> list[Label]:
    wide = LETTER * len(text)
    return [
        Label(text, dx, dy, (left, y + dy - 6.5, left + wide, y + dy + 6.5))
        for dy in (0.0, -13.0, 13.0, -26.0, 26.0)
        for dx, left in ((11.0, x + 11), (-11.0, x - 11 - wide))
    ]


def _trouble(label: Label, hard: Sequence[Box], soft: Sequence[Box]) -> int:
    """How badly a label stands: outside the figure, on a marker or label, on a whisker."""
    outside = label.box[0] < 0.12 * NARROW or label.box[2] > NARROW
    on_hard = sum(_overlaps(label.box, other) for other in hard)
    return 100 * outside + 10 * on_hard + sum(_overlaps(label.box, other) for other in soft)


def _labels(points: Sequence[Point], across: Scale, up: Scale) -> list[Markup]:
    """Numbers and the two main names beside the markers, each in the clearest place.

    Widths are reckoned for a phone; on a wider screen everything only moves apart. A name that
    finds no clear place gives way to its number.
    """
    spots = [(across.at(point.cost) * NARROW / 100, up.at(point.gain.value)) for point in points]
    hard: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    soft: list[Box] = [
        (x - 1, up.at(point.gain.high), x + 1, up.at(point.gain.low))
        for point, (x, _) in zip(points, spots, strict=True)
    ]
    parts: list[Markup] = []
    for point, (x, y) in zip(points, spots, strict=True):
        labels = [label for text in _label_texts(point) for label in _choices(text, x, y)]
        best = min(labels, key=lambda label: _trouble(label, hard, soft))
        hard.append(best.box)
        anchor = "end" if best.dx < 0 else None
        text = tag("text", best.text, class_=anchor, x=str(best.dx), y=str(best.dy + 4.5))
        parts.append(tag("svg", text, x=_place(100 * x / NARROW), y=f"{y:.4g}", class_="at"))
    return parts


def trade_off(points: Sequence[Point], unit: str, title: str) -> Markup | None:
    """Accuracy with its interval against a cost on a logarithmic axis, and the Pareto front.

    Args:
        points: Candidates whose cost and accuracy were measured.
        unit: What the cost axis shows.
        title: What a screen reader says.

    Returns:
        None when fewer than two points can be drawn.
    """
    drawn = [point for point in points if point.cost > 0 and finite(point.gain)]
    if len(drawn) < 2:
        return None
    across, up = _ranges(drawn)
    front = pareto(drawn)
    parts = [*_axes(across, up, unit), *(_front_line(front, across, up) if front else [])]
    # the two that matter are drawn last, over the others
    order: dict[Role, int] = {"rejected": 0, "candidate": 1, "reference": 2, "shipped": 3}
    for point in sorted(drawn, key=lambda point: order[point.role]):
        x = across.at(point.cost)
        low, high = up.at(point.gain.low), up.at(point.gain.high)
        parts.append(_line(f"whisker {point.role}", x, low, x, high))
        parts.append(marker(point.role, _place(x), f"{up.at(point.gain.value):.4g}"))
    main_first = sorted(drawn, key=lambda point: -order[point.role])
    parts.extend(_labels(main_first, across, up))
    return tag("svg", parts, class_="plot", height=str(HEIGHT), role="img", aria_label=title)


# ------------------------------------------------------------------------------------ heat table


def heat_table(matrix: Sequence[Sequence[int]], classes: Sequence[str], caption: str) -> Markup:
    """A confusion matrix: rows the true class, columns the answer, shaded by share of the row.

    Right answers are shaded in one hue in proportion to their share, wrong ones in another by the
    square root of it, so that rare mistakes can be seen.

    Args:
        matrix: Images, ``[classes][classes]``.
        classes: Names in the order of rows and columns.
        caption: What the table is of.
    """
    numbered = len(classes) > 4 or any(len(name) > 11 for name in classes)
    heads = [
        tag("th", str(number) if numbered else name, scope="col")
        for number, name in enumerate(classes, start=1)
    ]
    rows = [
        tag(
            "tr",
            tag("th", f"{number} {name}" if numbered else name, scope="row"),
            [
                _heat_cell(count, sum(row), right=number == column)
                for column, count in enumerate(row, start=1)
            ],
        )
        for number, (name, row) in enumerate(zip(classes, matrix, strict=True), start=1)
    ]
    corner = tag("th", "true class \u2193 answer \u2192", class_="corner", scope="col")
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", corner, heads)),
            tag("tbody", rows),
            class_="heat",
        ),
        class_="scroll",
        tabindex="0",
    )


def _heat_cell(count: int, total: int, *, right: bool) -> Markup:
    if count == 0 or total == 0:
        return tag("td", "0" if right else None, class_="right" if right else None)
    share = count / total
    shade = share if right else 0.1 + 0.9 * math.sqrt(share)
    strong = " strong" if shade > 0.55 else ""
    return tag(
        "td",
        f"{count:,}",
        class_=("right" if right else "wrong") + strong,
        style=f"--v:{shade:.2f}",
    )
