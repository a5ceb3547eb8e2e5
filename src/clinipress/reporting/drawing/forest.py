"""Forest plots: rows of figures with their intervals on one scale, the numbers beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import (
    Mark,
    Scale,
    Shape,
    nice_ticks,
    rules_style,
    strip,
    strip_axis,
)
from clinipress.reporting.drawing.markup import Markup
from clinipress.reporting.wording.numbers import finite, points

__all__ = ["ForestRow", "foot", "forest", "marks"]


@dataclass(frozen=True)
class ForestRow:
    """One line of a forest plot.

    Attributes:
        label: What the figures are of.
        marks: Figures, first on top; empty where nothing was measured.
        text: The figures as text.
        limit: Where the zone that must not be reached ends, or None; below zero is worse.
        grey: Shown and not judged.
    """

    label: doc.Content
    marks: Sequence[Mark]
    text: doc.Content
    limit: float | None = None
    grey: bool = False


def marks(*pairs: tuple[Shape, Interval | None]) -> list[Mark]:
    """Those of some figures that can be drawn."""
    return [Mark(interval, shape) for shape, interval in pairs if interval and finite(interval)]


def forest(rows: Sequence[ForestRow], write: Callable[[float, int], str] = points) -> doc.DataTable:
    """A table with one strip per row, all on one scale around zero.

    Args:
        rows: From the top.
        write: A tick's value and its decimals (of a hundredth) as text.
    """
    ends = [0.0]
    for row in rows:
        ends += [end for mark in row.marks for end in (mark.interval.low, mark.interval.high)]
        ends += [1.3 * row.limit] if row.limit is not None else []
    low, high = min(ends), max(ends)
    air = 0.04 * (high - low) or 0.01
    scale = Scale(low - air, high + air, 1, 99)
    ticks = nice_ticks(scale.low, scale.high, 5)
    decimals = 0 if all(abs(100 * tick - round(100 * tick)) < 1e-6 for tick in ticks) else 1
    axis = strip_axis(scale, ticks, [write(tick, decimals) for tick in ticks])
    lines = [*(_row(row, scale) for row in rows), foot(axis)]
    return doc.DataTable((), [doc.RowGroup(lines)], "forest", scroll=False)


def foot(axis: Markup) -> doc.DataRow:
    """The axis under the strips of a forest plot."""
    cells = [
        doc.DataCell(heads="row"),
        doc.DataCell(axis, "strip-cell"),
        doc.DataCell(class_="value"),
    ]
    return doc.DataRow(cells)


def _row(row: ForestRow, scale: Scale) -> doc.DataRow:
    ruled = "strip-cell zero limit" if row.limit is not None else "strip-cell zero"
    style = rules_style(scale, row.limit)
    cells = [
        doc.DataCell(row.label, heads="row"),
        doc.DataCell(strip(row.marks, scale), ruled, style=style),
        doc.DataCell(row.text, "value"),
    ]
    return doc.DataRow(cells, "grey" if row.grey else None)
