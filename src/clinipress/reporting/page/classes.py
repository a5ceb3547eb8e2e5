"""Class by class: what the candidate and the reference find, and what they take for what."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.records.result import Interval
from clinipress.reporting.drawing.figures import (
    FEW,
    Mark,
    Scale,
    heat_table,
    nice_ticks,
    strip,
    strip_axis,
)
from clinipress.reporting.drawing.markup import Child, Markup, tag
from clinipress.reporting.drawing.parts import cell, grid, legend, section, two_lines
from clinipress.reporting.view import Role, View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    figure_interval,
    finite,
    metric_class,
    metric_name,
    percent,
)
from clinipress.reporting.wording.phrases import (
    split_name,
)
from clinipress.reporting.wording.sentences import classes_sentence
from clinipress.text import (
    capital,
)

__all__ = ["classes_section"]


def classes_section(view: View) -> Markup:
    """Per-class figures and confusion matrices of reference and shipped candidate, side by side."""
    split, subject, reference = view.compared_split, view.subject, view.reference
    lead = classes_sentence(view)
    if split is None or subject is None or reference is None:
        return section("classes", "Class by class", lead)
    mine, theirs = subject.evidence[split], reference.evidence[split]
    pair: list[tuple[Role, str]] = [
        ("reference", reference.name),
        (view.role(subject), subject.name),
    ]
    matrices = [
        heat_table(matrix, view.result.classes, record.name)
        for record in (reference, subject)
        if _fits(matrix := record.confusion.get(split, []), len(view.result.classes))
    ]
    note = (
        "Rows are the true class, columns the answer, numbers are images; a stronger shade is a "
        "larger share of the row (of mistakes its square root, so that rare ones show)."
    )
    return section(
        "classes",
        "Class by class",
        lead,
        _overall(view, mine, theirs),
        tag("h3", f"Each class, {split_name(split)} images"),
        legend(pair),
        _class_table(view, split, mine, theirs),
        tag("h3", "Which class is taken for which"),
        tag(
            "div",
            matrices,
            class_="panels" if len(view.result.classes) <= FEW else "panels stacked",
        )
        if matrices
        else tag("p", NOT_MEASURED, class_="empty"),
        tag("p", note, class_="note") if matrices else None,
    )


def _fits(matrix: Sequence[Sequence[int]], classes: int) -> bool:
    return len(matrix) == classes and all(len(row) == classes for row in matrix)


def _overall(view: View, mine: dict[str, Interval], theirs: dict[str, Interval]) -> Markup:
    """Figures over all classes."""
    metrics = [m for m in {**theirs, **mine} if metric_class(m) is None and m != "agreement"]
    rows: list[list[Child]] = [
        [
            capital(metric_name(metric)),
            two_lines(metric, theirs.get(metric)),
            two_lines(metric, mine.get(metric)),
        ]
        for metric in metrics
    ]
    return grid(["Over all classes", "Reference", view.subject.name if view.subject else ""], rows)


def _class_table(
    view: View, split: str, mine: dict[str, Interval], theirs: dict[str, Interval]
) -> Markup:
    """Sensitivity as a picture and in figures, precision and F1 in figures."""
    found = [
        interval.low
        for name in view.result.classes
        for side in (mine, theirs)
        if finite(interval := side.get(f"sensitivity[{name}]")) and interval is not None
    ]
    low = max(min(found, default=0.0) - 0.02, 0.0)
    scale = Scale(low, 1.0, 3, 94)
    ticks = nice_ticks(low, 1.0, 4)
    heads: list[Child] = ["Class", "Images"]
    heads.append([strip_axis(scale, ticks, [percent(tick, 0) for tick in ticks])])
    heads += ["Sensitivity", "Precision", "F1"]
    rows = [_class_row(view, split, name, mine, theirs, scale) for name in view.result.classes]
    table = tag(
        "table",
        tag(
            "thead",
            tag(
                "tr",
                [
                    tag("th", head, scope="col", class_="strip-cell" if n == 2 else None)
                    for n, head in enumerate(heads)
                ],
            ),
        ),
        tag("tbody", rows),
        class_="cards classes",
    )
    note = "In each cell the reference stands above, the candidate below."
    return tag(
        "div", tag("div", table, class_="scroll", tabindex="0"), tag("p", note, class_="note")
    )


def _class_row(
    view: View,
    split: str,
    name: str,
    mine: dict[str, Interval],
    theirs: dict[str, Interval],
    scale: Scale,
) -> Markup:
    subject: Role = view.role(view.subject) if view.subject else "candidate"
    sides: list[tuple[Role, Interval | None]] = [
        ("reference", theirs.get(f"sensitivity[{name}]")),
        (subject, mine.get(f"sensitivity[{name}]")),
    ]
    marks = [Mark(interval, role) for role, interval in sides if interval and finite(interval)]
    count = view.result.split.counts.get(split, {}).get(name)
    figures = [
        cell(
            capital(metric),
            tag(
                "span",
                figure_interval(metric, theirs.get(f"{metric}[{name}]")),
                class_="of-reference",
            ),
            tag(
                "span",
                figure_interval(metric, mine.get(f"{metric}[{name}]")),
                class_="of-candidate",
            ),
            class_="pair",
        )
        for metric in ("sensitivity", "precision", "f1")
    ]
    return tag(
        "tr",
        tag("th", name, scope="row"),
        cell("Images", f"{count:,}" if count is not None else NOT_MEASURED),
        tag("td", strip(marks, scale), class_="strip-cell"),
        figures,
    )
