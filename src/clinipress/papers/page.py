"""A table as one HTML file: from its records, and the pictures beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from clinipress.papers.records import Table, TablePanel, TableRow
from clinipress.papers.render import note_numbers, panels_by_study, shown_rows
from clinipress.reporting.drawing.markup import Markup, tag
from clinipress.reporting.drawing.parts import interval_below
from clinipress.reporting.drawing.pictures import maps_picture, picture, read_files
from clinipress.reporting.html import html, skeleton
from clinipress.reporting.page.build import write_page

__all__ = ["page", "write_table_page"]


def write_table_page(table: Table, folder: Path) -> Path:
    """Write ``table.html`` into a table's folder; its path.

    Raises:
        StorageError: It cannot be written.
    """
    pictures = read_files((panel.picture for panel in table.panels), folder)
    return write_page(folder / "table.html", page(table, pictures))


def page(table: Table, pictures: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """The whole page as text; a panel whose file is not among `pictures` says so."""
    title = f"Table {table.source}: {table.title}"
    marks = note_numbers(table)
    return skeleton(
        title,
        table.synthetic,
        tag(
            "main",
            tag("h1", title),
            tag("p", f"{table.citation}. Read of it: {table.read}.", class_="lead"),
            [tag("p", sentence) for sentence in table.said],
            _table(table, marks),
            _notes(table, marks),
            [tag("p", f"Not measured, {key}: {why}") for key, why in table.failed.items()],
            _panels(table, pictures),
        ),
    )


def _table(table: Table, marks: Mapping[str, int]) -> Markup:
    heads = tag("tr", [tag("th", head, scope="col") for head in ("", *table.columns)])
    texts = shown_rows(table)
    rows = [
        _row(row, table.columns, figures, marks)
        for row, (_, *figures) in zip(table.rows, texts, strict=True)
    ]
    whole = tag("table", tag("thead", heads), tag("tbody", rows), class_="cards rows papers")
    return tag("div", whole, class_="scroll", tabindex="0")


def _row(
    row: TableRow, columns: Sequence[str], figures: Sequence[str], marks: Mapping[str, int]
) -> Markup:
    named = tag("th", row.name, _marks(row.notes, marks), scope="row")
    cells = [_cell(row, c, text, marks) for c, text in zip(columns, figures, strict=True)]
    return tag("tr", named, cells, class_=row.kind)


def _cell(row: TableRow, column: str, text: str, marks: Mapping[str, int]) -> Markup:
    figure = row.cells.get(column)
    spanned = figure is not None and figure.interval is not None and " (" in text
    content = html(interval_below(text) if spanned else text)
    links = _marks(figure.notes if figure else (), marks)
    return tag("td", content, links, attributes={"data-label": column})


def _marks(notes: Sequence[str], marks: Mapping[str, int]) -> Markup | None:
    if not notes:
        return None
    links = [tag("a", str(marks[key]), href=f"#note-{marks[key]}") for key in notes]
    spaced = [part for link in links for part in (" ", link)]
    return tag("sup", spaced)


def _notes(table: Table, marks: Mapping[str, int]) -> Markup | None:
    if not marks:
        return None
    items = [tag("li", table.notes[key], id=f"note-{number}") for key, number in marks.items()]
    return tag("section", tag("h2", "Notes"), tag("ol", items))


def _panels(table: Table, pictures: Mapping[str, bytes]) -> Markup | None:
    if not table.panels:
        return None
    studies = [
        (tag("h3", study), [_panel(panel, pictures) for panel in panels])
        for study, panels in panels_by_study(table).items()
    ]
    return tag("section", tag("h2", "Where the networks look (Score-CAM)"), studies)


def _panel(panel: TablePanel, pictures: Mapping[str, bytes]) -> Markup:
    shown = picture(pictures.get(panel.picture), f"{panel.key}: {', '.join(panel.titles)}")
    return html(maps_picture(panel.titles, shown, panel.caption))
