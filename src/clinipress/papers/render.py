"""A table in words, as Markdown and row by row: from its records alone."""

from __future__ import annotations

from collections.abc import Sequence

from clinipress.papers.records import Cell, Table, TablePanel, TableRow
from clinipress.reporting.wording.numbers import (
    DASH,
    NOT_MEASURED,
    TIMES,
    change_interval,
    decimal_interval,
    figure_interval,
    finite,
    large,
    megabytes,
    milliseconds,
    percent,
    times,
)

__all__ = ["cell_text", "markdown", "note_numbers", "panels_by_study", "shown_rows"]

HEAD = {"measured": "{}", "control": "*{}*", "paper": "**{}**"}


def markdown(table: Table) -> str:
    """The whole table with its footnotes.

    Notes are numbered in the order in which a reader meets them.
    """
    numbers = note_numbers(table)
    lines = [f"# Table {table.source}: {table.title}", ""]
    if table.synthetic:
        lines += ["**SYNTHETIC images: nothing here says anything of patients.**", ""]
    lines += [f"{table.citation}. Read of it: {table.read}.", ""]
    lines += [f"{sentence}\n" for sentence in table.said]
    heads = ["", *table.columns]
    lines += [_line(heads), _line(["---"] * len(heads))]
    lines += [_line(_texts(row, table.columns, numbers)) for row in table.rows]
    lines += ["", *_notes(table, numbers)]
    lines += [f"Not measured, {key}: {why}\n" for key, why in table.failed.items()]
    if table.panels:
        lines += ["## Where the networks look (Score-CAM)", ""]
        for study, panels in panels_by_study(table).items():
            lines += [f"### {study}", ""]
            for panel in panels:
                lines += [f"{_safe(panel.caption)}. {_safe('; '.join(panel.titles))}:", ""]
                lines += [f"![{_safe(panel.key)}]({panel.picture})", ""]
    return "\n".join(lines).rstrip() + "\n"


def shown_rows(table: Table) -> list[list[str]]:
    """Name and figures of every row as a reader sees them, without notes."""
    return [_plain(row, table.columns) for row in table.rows]


def panels_by_study(table: Table) -> dict[str, list[TablePanel]]:
    """Study -> its panels, in the table's order."""
    by_study: dict[str, list[TablePanel]] = {}
    for panel in table.panels:
        by_study.setdefault(panel.entry, []).append(panel)
    return by_study


def note_numbers(table: Table) -> dict[str, int]:
    """Key of a note -> its number: those of rows and cells first, the table's own last."""
    met: list[str] = []
    for row in table.rows:
        met += row.notes
        for column in table.columns:
            met += row.cells[column].notes if column in row.cells else ()
    met += table.notes
    return {key: number + 1 for number, key in enumerate(dict.fromkeys(met))}


def cell_text(cell: Cell | None) -> str:
    """One figure as the reader sees it, without its notes."""
    if cell is None:
        return NOT_MEASURED
    if cell.printed is not None:
        return cell.printed
    text = _with_interval(cell) if cell.interval is not None else _counted(cell)
    if cell.seeds:
        named = ", ".join(f"{100 * value:.1f}" for value in cell.seeds)
        text += f"; seeds {named}"
    return text


def _with_interval(cell: Cell) -> str:
    interval = cell.interval
    if interval is None or not finite(interval):
        return NOT_MEASURED
    if cell.unit == "points":
        return change_interval(interval)
    if cell.unit == "area":
        return decimal_interval(interval, 3)
    return figure_interval("accuracy", interval)


def _counted(cell: Cell) -> str:
    number = cell.number
    if number is None:
        return NOT_MEASURED
    if cell.unit == "bytes":
        return megabytes(round(number))
    if cell.unit == "count":
        return large(round(number))
    if cell.unit == "ms":
        return milliseconds(number)
    if cell.unit == "ratio":
        return f"{times(number)}{TIMES}"
    return percent(number)


def _plain(row: TableRow, columns: Sequence[str]) -> list[str]:
    """Name and cells of one row; what a paper does not print is a dash, not "not measured"."""
    nothing = DASH if row.kind == "paper" else NOT_MEASURED
    return [row.name, *(cell_text(row.cells[c]) if c in row.cells else nothing for c in columns)]


def _texts(row: TableRow, columns: Sequence[str], numbers: dict[str, int]) -> list[str]:
    name, *cells = _plain(row, columns)
    notes = [row.cells[column].notes if column in row.cells else () for column in columns]
    marked = [text + _marks(keys, numbers) for text, keys in zip(cells, notes, strict=True)]
    return [HEAD[row.kind].format(name) + _marks(row.notes, numbers), *marked]


def _marks(notes: Sequence[str], numbers: dict[str, int]) -> str:
    """Numbers of footnotes as superscripts that every Markdown reader shows."""
    return f" [{', '.join(str(numbers[key]) for key in notes)}]" if notes else ""


def _notes(table: Table, numbers: dict[str, int]) -> list[str]:
    return [f"[{number}] {table.notes[key]}\n" for key, number in numbers.items()]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_safe(cell) for cell in cells)} |"


def _safe(text: str) -> str:
    """Text that neither ends a cell or a line nor is a tag: class names may hold anything."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
