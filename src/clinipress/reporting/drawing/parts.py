"""Pieces of which every section is built: badges, cells, legends, tables, figures in two lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clinipress.records.result import Interval, Status, Verdict
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import Shape, icon, marker
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.wording.numbers import NOT_MEASURED, STATUS_WORDS, figure_interval, finite

__all__ = [
    "MANY",
    "badge",
    "cell",
    "column_heads",
    "deciding_reasons",
    "grid",
    "interval_below",
    "legend",
    "lines",
    "pair_cell",
    "reasons",
    "role_mark",
    "shortened",
    "small",
    "stated_reasons",
    "two_lines",
]

MANY = 12  # entries of a list that are shown before "... and so many more"


def reasons(verdict: Verdict) -> list[str]:
    """Why a verdict is what it is, one sentence each."""
    return list(verdict.texts)


def stated_reasons(verdict: Verdict) -> list[doc.Content]:
    """The same, each behind its own status: a failure is not told by a reason that is open."""
    return [
        reason.text if reason.status is None else [_badge(reason.status), reason.text]
        for reason in verdict.reasons
    ]


def deciding_reasons(verdict: Verdict) -> list[str]:
    """Those of its reasons that made it what it is."""
    return list(verdict.deciding)


def badge(verdict: Verdict | None) -> doc.Text:
    """A verdict by word, shape and colour."""
    if verdict is None:
        return doc.Text("not judged", "badge", "badge none")
    return _badge(verdict.status)


def _badge(status: Status) -> doc.Text:
    return doc.Text([icon(status), STATUS_WORDS[status]], "badge", f"badge {status}")


def small(content: doc.Content) -> doc.Text:
    """A second line within a cell."""
    return doc.Text(content, "aside", "small")


def lines(texts: Iterable[str]) -> list[doc.Content]:
    """Lines of a cell, one over the other."""
    return [doc.Text(text, "line", "line") for text in texts]


def role_mark(role: Shape) -> Markup:
    """The shape that stands for a role in all figures, for a legend."""
    return tag("svg", marker(role, "50%", "50%"), class_="key", aria_hidden="true")


def legend(roles: Sequence[tuple[Shape, str]], *, stacked: bool = False) -> doc.Drawing:
    """Shapes and what they mean.

    Args:
        roles: Each shape and its meaning.
        stacked: Lines stand in the same order in the cells of the table that follows, which
            Markdown, without shapes, has to say.
    """
    items = [tag("span", role_mark(role), word) for role, word in roles]
    names = "; ".join(word for _, word in roles)
    words = doc.Text(f"In each cell, from above: {names}.", "emphasis") if stacked else None
    return doc.Drawing(tag("p", items, class_="legend"), words)


def two_lines(metric: str, interval: Interval | None) -> list[doc.Content]:
    """A figure, and its interval under it."""
    if interval is None or not finite(interval):
        return [NOT_MEASURED]
    return interval_below(figure_interval(metric, interval))


def interval_below(text: str) -> list[doc.Content]:
    """A figure written with its interval in brackets behind it, as two lines."""
    value, _, rest = text.partition(" (")
    return [value, small(f"({rest}")]


def shortened(items: Sequence[doc.Content]) -> list[doc.Content]:
    """The first entries, and how many more there are."""
    rest = len(items) - MANY
    return [*items[:MANY], *([f"\u2026 and {rest:,} more in the record"] if rest > 0 else [])]


def cell(label: str, content: doc.Content, class_: str | None = None) -> doc.DataCell:
    """A table cell that knows its column's name, which a phone shows beside it."""
    return doc.DataCell(content, class_, label)


def pair_cell(
    label: str, metric: str, theirs: Interval | None, mine: Interval | None
) -> doc.DataCell:
    """The reference's figure above the candidate's."""
    above = doc.Text(figure_interval(metric, theirs), "line", "of-reference")
    below = doc.Text(figure_interval(metric, mine), "line", "of-candidate")
    return cell(label, [above, below], "pair")


def column_heads(names: Iterable[doc.Content]) -> list[doc.DataCell]:
    """The heads of a table's columns; that of a column of drawings is a drawing, their axis."""
    return [
        doc.DataCell(name, "strip-cell" if isinstance(name, Markup) else None, heads="col")
        for name in names
    ]


def grid(
    heads: Sequence[str], rows: Iterable[Sequence[doc.Content]], class_: str = "plain"
) -> doc.DataTable:
    """A small table whose first column names the row."""
    body = [
        doc.DataRow(
            [
                doc.DataCell(row[0], heads="row"),
                *(cell(head, value) for head, value in zip(heads[1:], row[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    return doc.DataTable(column_heads(heads), [doc.RowGroup(body)], class_)
