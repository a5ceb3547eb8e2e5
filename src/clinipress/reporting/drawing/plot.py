"""The trade-off plot: accuracy with its interval against a cost, and the front nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinipress.records.result import Interval
from clinipress.reporting.drawing.figures import (
    Scale,
    line,
    log_ticks,
    marker,
    nice_ticks,
    position,
)
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.view import Role
from clinipress.reporting.wording.numbers import as_percent, finite, percent

__all__ = ["Point", "pareto", "trade_off"]

HEIGHT = 300  # of the plot, pixels
TOP, BOTTOM = 14, 256  # where its highest and lowest values lie
NARROW = 340  # width in pixels for which labels are kept apart: a phone
LETTER = 6.8  # pixels of one letter of the labels
UNREADABLE = 10  # trouble of a label that lies on a marker or another label
MAIN = frozenset({"reference", "shipped"})


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


def _axes(across: Scale, up: Scale, unit: str, metric: str) -> list[Markup]:
    parts: list[Markup] = []
    ticks = nice_ticks(up.low, up.high)
    decimals = 0 if all(abs(100 * tick - round(100 * tick)) < 1e-6 for tick in ticks) else 1

    def words(tick: float) -> str:
        return percent(tick, decimals) if as_percent(metric) else f"{tick:g}"

    for tick in ticks:
        y = up.at(tick)
        parts.append(line("grid", 14, y, 100, y))
        parts.append(tag("text", words(tick), class_="end", x="12.5%", y=f"{y + 4:.4g}"))
    for tick in log_ticks(across.low, across.high):
        x = across.at(tick)
        parts.append(line("tick", x, BOTTOM + 8, x, BOTTOM + 13))
        text = f"{tick:,.6g}"
        parts.append(tag("text", text, class_="mid", x=position(x), y=str(BOTTOM + 27)))
    parts.append(line("base", 14, BOTTOM + 8, 100, BOTTOM + 8))
    parts.append(tag("text", unit, class_="end unit", x="100%", y=str(HEIGHT - 1)))
    return parts


def _front_line(front: Sequence[Point], across: Scale, up: Scale) -> list[Markup]:
    """The best accuracy that a given cost buys, as steps."""
    places = [(across.at(point.cost), up.at(point.gain.value)) for point in front]
    parts: list[Markup] = []
    for (x, y), (next_x, next_y) in zip(places, [*places[1:], (100.0, places[-1][1])], strict=True):
        parts.append(line("front", x, y, next_x, y))
        if next_y != y:
            parts.append(line("front", next_x, y, next_x, next_y))
    return parts


Rectangle = tuple[float, float, float, float]


def _overlaps(first: Rectangle, second: Rectangle) -> bool:
    wide = first[0] < second[2] and second[0] < first[2]
    return wide and first[1] < second[3] and second[1] < first[3]


def _label_texts(point: Point) -> list[str]:
    """What may stand beside a marker, the best first: the two main ones carry their names."""
    if point.role not in MAIN:
        return [str(point.number)]
    name = point.name if len(point.name) <= 18 else point.name[:17] + "\u2026"
    return [f"{point.number} {name}", str(point.number)]


@dataclass(frozen=True)
class Label:
    """A text beside a marker: the offset of its anchor, and the box it would fill, in pixels."""

    text: str
    dx: float
    dy: float
    box: Rectangle


def _choices(text: str, x: float, y: float) -> list[Label]:
    wide = LETTER * len(text)
    return [
        Label(text, dx, dy, (left, y + dy - 6.5, left + wide, y + dy + 6.5))
        for dy in (0.0, -13.0, 13.0, -26.0, 26.0)
        for dx, left in ((11.0, x + 11), (-11.0, x - 11 - wide))
    ]


def _trouble(label: Label, hard: Sequence[Rectangle], soft: Sequence[Rectangle]) -> int:
    """How badly a label stands: outside the figure, on a marker or label, on a whisker."""
    outside = label.box[0] < 0.12 * NARROW or label.box[2] > NARROW
    on_hard = sum(_overlaps(label.box, other) for other in hard)
    return (
        10 * UNREADABLE * outside
        + UNREADABLE * on_hard
        + sum(_overlaps(label.box, other) for other in soft)
    )


def _labels(points: Sequence[Point], across: Scale, up: Scale) -> list[Markup]:
    """Numbers and the two main names beside the markers, each in the clearest place.

    Widths are reckoned for a phone; on a wider screen everything only moves apart. A name that
    finds no clear place gives way to its number, and a minor one's number is left out.
    """
    spots = [(across.at(point.cost) * NARROW / 100, up.at(point.gain.value)) for point in points]
    hard: list[Rectangle] = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]
    soft: list[Rectangle] = [
        (x - 1, up.at(point.gain.high), x + 1, up.at(point.gain.low))
        for point, (x, _) in zip(points, spots, strict=True)
    ]
    parts: list[Markup] = []
    for point, (x, y) in zip(points, spots, strict=True):
        labels = [label for text in _label_texts(point) for label in _choices(text, x, y)]
        best = min(labels, key=lambda label: _trouble(label, hard, soft))
        if _trouble(best, hard, soft) >= UNREADABLE and point.role not in MAIN:
            continue  # in a crowd; the table and the forest plot still tell
        hard.append(best.box)
        anchor = "end" if best.dx < 0 else None
        text = tag("text", best.text, class_=anchor, x=str(best.dx), y=str(best.dy + 4.5))
        parts.append(tag("svg", text, x=position(100 * x / NARROW), y=f"{y:.4g}", class_="at"))
    return parts


def trade_off(
    points: Sequence[Point], unit: str, title: str, metric: str = "accuracy"
) -> Markup | None:
    """Accuracy with its interval against a cost on a logarithmic axis, and the Pareto front.

    Args:
        points: Candidates whose cost and accuracy were measured.
        unit: What the cost axis shows.
        title: What a screen reader says.
        metric: What stands for accuracy.

    Returns:
        None when fewer than two points can be drawn.
    """
    drawn = [point for point in points if point.cost > 0 and finite(point.gain)]
    if len(drawn) < 2:
        return None
    across, up = _ranges(drawn)
    front = pareto(drawn)
    parts = [*_axes(across, up, unit, metric), *(_front_line(front, across, up) if front else [])]
    # the two that matter are drawn last, over the others
    order: dict[Role, int] = {"rejected": 0, "candidate": 1, "reference": 2, "shipped": 3}
    for point in sorted(drawn, key=lambda point: order[point.role]):
        x = across.at(point.cost)
        low, high = up.at(point.gain.low), up.at(point.gain.high)
        parts.append(line(f"whisker {point.role}", x, low, x, high))
        y = f"{up.at(point.gain.value):.4g}"
        parts.append(marker(point.role, position(x), y, f"{point.number} {point.name}"))
    main_first = sorted(drawn, key=lambda point: -order[point.role])
    parts.extend(_labels(main_first, across, up))
    return tag("svg", parts, class_="plot", height=str(HEIGHT), role="img", aria_label=title)
