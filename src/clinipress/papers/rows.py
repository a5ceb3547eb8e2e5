"""From the results of a table's studies to its rows, each paper's row below ours."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.papers.columns import COLUMNS, NOTHING, PER_CLASS, Column, EntryOutcome, of_evidence
from clinipress.papers.grids import RowPlan
from clinipress.papers.papers import Paper
from clinipress.papers.records import Cell, TableRow

__all__ = ["columns_for", "rows_of"]


def columns_for(source: str, outcomes: Sequence[EntryOutcome]) -> tuple[Column, ...]:
    """The columns of a table; one per class where the paper reports by class."""
    columns: list[Column] = []
    for column in COLUMNS[source]:
        if column.title == PER_CLASS:
            classes = outcomes[0].result.classes if outcomes else ()
            columns += [Column(f"F1 {name}", of_evidence(f"f1[{name}]")) for name in classes]
        else:
            columns.append(column)
    return tuple(columns)


def rows_of(
    paper: Paper, outcomes: Sequence[EntryOutcome], columns: Sequence[Column]
) -> tuple[TableRow, ...]:
    """Our rows, each paper's row below the one it stands beside.

    Without rows whose main candidate is missing; the caller names the studies that failed.
    """
    rows: list[TableRow] = []
    for outcome in outcomes:
        for plan in outcome.entry.rows:
            row = _row(outcome, plan, columns)
            if row is not None:
                rows.append(row)
            if plan.beside is not None and plan.beside in paper.rows:
                rows.append(_printed(paper, plan.beside, columns))
    return _once(rows)


def _once(rows: Sequence[TableRow]) -> tuple[TableRow, ...]:
    """A paper's row that stands beside several of ours, below the last of them alone."""
    return tuple(
        row for index, row in enumerate(rows) if row.kind != "paper" or row not in rows[index + 1 :]
    )


def _row(outcome: EntryOutcome, plan: RowPlan, columns: Sequence[Column]) -> TableRow | None:
    cells = {}
    there = {role: outcome.candidate(name) for role, name in plan.of.items()}
    if not any(there.values()):
        return None
    for column in columns:
        record = there.get(column.role)
        if column.role not in there:
            cells[column.title] = NOTHING
            continue
        cell = column.measure(outcome, record) if record is not None else None
        if cell is not None:
            cells[column.title] = cell
    kind = "control" if plan.control else "measured"
    return TableRow(name=plan.name, kind=kind, entry=outcome.entry.key, cells=cells)


def _printed(paper: Paper, key: str, columns: Sequence[Column]) -> TableRow:
    row, cells = paper.rows[key], {}
    titles = [column.title for column in columns]
    for title, figure in row.cells.items():
        for match in _matching(title, titles):
            cells[match] = Cell(printed=figure.text, notes=figure.notes)
    return TableRow(name=row.name, kind="paper", cells=cells)


def _matching(title: str, titles: Sequence[str]) -> list[str]:
    """Columns that a paper's title stands for: itself, or those of the class with a word in it."""
    head, bracket, word = title.partition(" [")
    if not bracket:
        return [title] if title in titles else []
    return [
        column for column in titles if column.startswith(f"{head} ") and _has(column, word[:-1])
    ]


def _has(title: str, word: str) -> bool:
    """A word of a class's name: "no" is in "no_tumor" and "notumor", not in "meningioma"."""
    name = title.partition(" ")[2].lower()
    parts = "".join(c if c.isalnum() else " " for c in name).split()
    return any(part.startswith(word) for part in parts)
