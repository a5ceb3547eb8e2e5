"""Pieces of which every section is built: headings, badges, cells, lists, tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clinipress.records.result import Interval, Verdict
from clinipress.reporting.drawing.figures import Shape, icon, marker
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.wording.numbers import NOT_MEASURED, STATUS_WORDS, figure_interval, finite

__all__ = [
    "MANY",
    "badge",
    "bullets",
    "cell",
    "facts",
    "folded",
    "grid",
    "legend",
    "role_mark",
    "section",
    "shortened",
    "small",
    "two_lines",
]

MANY = 12  # entries of a list that are shown before "... and so many more"


def section(identity: str, title: str, lead: str, *children: Child) -> Markup:
    """A section of the page: its heading, its one sentence, its content."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), children, id=identity)


def badge(verdict: Verdict | None) -> Markup:
    """A verdict by word, shape and colour."""
    if verdict is None:
        return tag("span", "not judged", class_="badge none")
    word = STATUS_WORDS[verdict.status]
    return tag("span", icon(verdict.status), word, class_=f"badge {verdict.status}")


def cell(label: str, *children: Child, class_: str | None = None) -> Markup:
    """A table cell that knows its column's name, which a phone shows beside it."""
    return tag("td", children, class_=class_, attributes={"data-label": label})


def small(*children: Child) -> Markup:
    """A second line within a cell."""
    return tag("span", children, class_="small")


def role_mark(role: Shape) -> Markup:
    """The shape that stands for a role in all figures, for a legend."""
    return tag("svg", marker(role, "50%", "50%"), class_="key", aria_hidden="true")


def legend(roles: Sequence[tuple[Shape, str]]) -> Markup:
    """Shapes and what they mean."""
    items = [tag("span", role_mark(role), word) for role, word in roles]
    return tag("p", items, class_="legend")


def two_lines(metric: str, interval: Interval | None) -> list[Child]:
    """A figure, and its interval under it."""
    if interval is None or not finite(interval):
        return [NOT_MEASURED]
    return interval_below(figure_interval(metric, interval))


def interval_below(text: str) -> list[Child]:
    """A figure written with its interval in brackets behind it, as two lines."""
    value, _, rest = text.partition(" (")
    return [value, small(f"({rest}")]


def shortened(items: Sequence[Child]) -> list[Child]:
    """The first entries, and how many more there are."""
    rest = len(items) - MANY
    return [*items[:MANY], *([f"\u2026 and {rest:,} more in the record"] if rest > 0 else [])]


def bullets(items: Iterable[Child], class_: str | None = None) -> Markup:
    """A list."""
    return tag("ul", [tag("li", item) for item in items], class_=class_)


def facts(pairs: Iterable[tuple[str, Child]], class_: str = "facts") -> Markup:
    """Names and values, two columns."""
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", rows, class_=class_)


def folded(title: Child, *children: Child) -> Markup:
    """Content behind its title."""
    return tag("details", tag("summary", title), children)


def grid(heads: Sequence[str], rows: Iterable[Sequence[Child]], class_: str = "plain") -> Markup:
    """A small table whose first column names the row."""
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            [cell(head, value) for head, value in zip(heads[1:], row[1:], strict=True)],
        )
        for row in rows
    ]
    head_row = tag("tr", [tag("th", head, scope="col") for head in heads])
    table = tag("table", tag("thead", head_row), tag("tbody", body), class_=class_)
    return tag("div", table, class_="scroll", tabindex="0")
