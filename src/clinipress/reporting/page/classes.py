"""Class by class: what the candidate and the reference find, and what they take for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinipress.records.result import Interval
from clinipress.reporting import document as doc
from clinipress.reporting.drawing.figures import (
    FEW,
    Mark,
    Scale,
    heat_table,
    nice_ticks,
    strip,
    strip_axis,
)
from clinipress.reporting.drawing.parts import (
    cell,
    column_heads,
    grid,
    legend,
    pair_cell,
    two_lines,
)
from clinipress.reporting.view import Role, View
from clinipress.reporting.wording.numbers import (
    NOT_MEASURED,
    counted,
    finite,
    metric_class,
    metric_name,
    tick_words,
)
from clinipress.reporting.wording.phrases import split_name
from clinipress.reporting.wording.sentences import classes_sentence, unasked_sentence
from clinipress.text import capital

__all__ = ["classes_section"]

# What is told of each class, and of each of several findings -> head of the column
CLASS = {"sensitivity": "Sensitivity", "precision": "Precision", "f1": "F1"}
FINDING = {"auroc": "AUROC", "sensitivity": "Sensitivity", "specificity": "Specificity"}


def classes_section(view: View) -> doc.Section:
    """Per-class figures and confusion matrices of reference and candidate, side by side."""
    split, subject, reference = view.compared_split, view.subject, view.reference
    lead = classes_sentence(view)
    title = view.told("Class by class")
    if split is None or subject is None or reference is None:
        return doc.Section("classes", title, lead)
    mine, theirs = subject.evidence[split], reference.evidence[split]
    pair: list[tuple[Role, str]] = [
        ("reference", reference.name),
        (view.role(subject), subject.name),
    ]
    matrices = [
        heat_table(view.in_order(matrix), view.classes, record.name)
        for record in (reference, subject)
        if _fits(matrix := record.confusion.get(split, []), len(view.result.classes))
    ]
    return doc.Section(
        "classes",
        title,
        lead,
        [
            _overall(view, mine, theirs),
            doc.Heading(f"Each {view.noun}, {split_name(split)} images"),
            legend(pair, stacked=True),
            _class_table(view, split, mine, theirs),
            *([] if view.several else _matrices(matrices, len(view.result.classes))),
        ],
    )


def _matrices(matrices: Sequence[doc.Content], classes: int) -> list[doc.Content]:
    note = (
        "Rows are the true class, columns the answer, numbers are images; a stronger shade is a "
        "larger share of the row (of mistakes its square root, so that rare ones show)."
    )
    return [
        doc.Heading("Confusion matrices"),
        doc.Box(list(matrices), "panels" if classes <= FEW else "panels stacked")
        if matrices
        else doc.Paragraph(NOT_MEASURED, "empty"),
        doc.Paragraph(note, "note") if matrices else None,
    ]


def _fits(matrix: Sequence[Sequence[int]], classes: int) -> bool:
    return len(matrix) == classes and all(len(row) == classes for row in matrix)


def _overall(view: View, mine: dict[str, Interval], theirs: dict[str, Interval]) -> doc.DataTable:
    """Figures over all classes."""
    metrics = [m for m in {**theirs, **mine} if metric_class(m) is None and m != "agreement"]
    metrics.sort(key=lambda metric: view.several and metric != view.overall)
    rows: list[list[doc.Content]] = [
        [
            capital(metric_name(metric)),
            two_lines(metric, theirs.get(metric)),
            two_lines(metric, mine.get(metric)),
        ]
        for metric in metrics
    ]
    name = view.subject.name if view.subject else ""
    return grid([f"Over all {view.nouns}", "Reference", name], rows)


def _class_table(
    view: View, split: str, mine: dict[str, Interval], theirs: dict[str, Interval]
) -> doc.Box:
    """The first figure as a picture and in figures, two others in figures."""
    first, *_ = figures = FINDING if view.several else CLASS
    ends = [
        interval.low
        for name in view.result.classes
        for side in (mine, theirs)
        if finite(interval := side.get(f"{first}[{name}]")) and interval is not None
    ]
    low = max(min(ends, default=0.0) - 0.02, 0.0)
    scale = Scale(low, 1.0, 3, 94)
    ticks = nice_ticks(low, 1.0, 4)
    axis = strip_axis(scale, ticks, [tick_words(first, tick) for tick in ticks])
    heads = column_heads([capital(view.noun), "Images", axis, *(figures[name] for name in figures)])
    tables = [
        doc.DataTable(
            heads,
            [
                doc.RowGroup(
                    [_class_row(view, split, n, mine, theirs, scale, figures) for n in names]
                )
            ],
            "cards classes",
        )
        for names in view.lost_most_first(view.classes)
        if names
    ]
    title = counted(len(view.classes) - len(tables[0].groups[0].rows), "more finding")
    folded = [doc.Details(f"{title} that may have lost less", table) for table in tables[1:]]
    note = "Upper line: original. Lower line: compressed."
    if view.several:
        note += (
            " Sensitivity and specificity are at each model's own thresholds, chosen on the "
            "validation images; images of which it is unknown whether they show a finding count "
            "for nothing in its row."
        )
        note += f" {unasked_sentence(view)}" if view.unasked else ""
    return doc.Box([tables[0], *folded, doc.Paragraph(note, "note")])


def _class_row(
    view: View,
    split: str,
    name: str,
    mine: dict[str, Interval],
    theirs: dict[str, Interval],
    scale: Scale,
    shown: Mapping[str, str],
) -> doc.DataRow:
    first = next(iter(shown))
    subject: Role = view.role(view.subject) if view.subject else "candidate"
    sides: list[tuple[Role, Interval | None]] = [
        ("reference", theirs.get(f"{first}[{name}]")),
        (subject, mine.get(f"{first}[{name}]")),
    ]
    marks = [Mark(interval, role) for role, interval in sides if interval and finite(interval)]
    count = view.result.split.counts.get(split, {}).get(name)
    figures = [
        pair_cell(head, metric, theirs.get(f"{metric}[{name}]"), mine.get(f"{metric}[{name}]"))
        for metric, head in shown.items()
    ]
    cells = [
        doc.DataCell(name, heads="row"),
        cell("Images", f"{count:,}" if count is not None else NOT_MEASURED),
        doc.DataCell(strip(marks, scale), "strip-cell"),
        *figures,
    ]
    return doc.DataRow(cells)
