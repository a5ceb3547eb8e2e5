"""Tables as Markdown: every cell where it belongs, every mark with its note."""

import re
from pathlib import Path

import pytest

from clinipress.cli.terminal import show_table
from clinipress.papers.records import Cell, Table, TablePanel, TableRow
from clinipress.papers.render import cell_text, markdown, note_numbers, shown_rows
from clinipress.records.base import Interval
from kit.tables import table_of

FALL = Interval(value=0.021, low=-0.056, high=0.104)
AREA = Interval(value=0.9567, low=0.94, high=0.97)


def table(**changes) -> Table:
    ours = TableRow(
        name="ours",
        kind="measured",
        entry="one",
        cells={
            "accuracy": Cell(unit="share", interval=Interval(value=0.8237, low=0.79, high=0.853)),
            "file": Cell(unit="bytes", number=5_760_000),
        },
    )
    paper = TableRow(
        name="theirs",
        kind="paper",
        cells={"accuracy": Cell(printed="82.37 %", notes=("one image", "validation"))},
    )
    fields = {
        "columns": ("accuracy", "file", "time"),
        "rows": (ours, paper),
        "notes": {"ours": "Ours.", "one image": "One.", "validation": "Two."},
    }
    return table_of(**fields | changes)


def lines(text: str) -> list[list[str]]:
    """Cells of each line of the Markdown table."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in rows]


def test_rows_have_as_many_cells_as_heads():
    found = lines(markdown(table()))
    assert {len(row) for row in found} == {4}
    assert found[0] == ["", "accuracy", "file", "time"]


def test_ours_and_theirs():
    _, _, ours, theirs = lines(markdown(table()))
    assert ours == ["ours", "82.4% (79.0\u201385.3)", "5.76\u202fMB", "not measured"]
    # what a paper does not print was not "not measured"
    assert theirs == ["**theirs**", "82.37 % [1, 2]", "\u2013", "\u2013"]


def test_every_mark_has_its_note_in_the_order_of_reading():
    shown = table()
    text = markdown(shown)
    assert note_numbers(shown) == {"one image": 1, "validation": 2, "ours": 3}
    for number, note in ((1, "One."), (2, "Two."), (3, "Ours.")):
        assert f"\n[{number}] {note}" in text


def test_a_mark_without_a_note_is_an_error():
    with pytest.raises(KeyError):
        markdown(table(notes={}))


def test_class_names_can_hold_anything():
    row = TableRow(name="a|b<script>", kind="measured", cells={})
    found = markdown(table(rows=(row,), columns=("F1 x|y\nz",)))
    assert {len(one) for one in lines(found)} == {2}
    assert "<script>" not in found


def test_synthetic_images_are_said_first():
    assert "SYNTHETIC" in markdown(table(synthetic=True))
    assert "SYNTHETIC" not in markdown(table())


PANEL = TablePanel(
    entry="one", picture="one/p.png", titles=("image", "teacher"), key="k", truth="a", explained="b"
)


def test_failures_and_panels_are_shown():
    text = markdown(table(failed={"qat": "no LiteRT"}, panels=(PANEL,)))
    assert "Not measured, qat: no LiteRT" in text
    assert "(one/p.png)" in text
    assert "k: truth a, explained b. image; teacher:" in text


def test_rows_without_notes_for_a_terminal():
    ours, theirs = shown_rows(table())
    assert ours == ["ours", "82.4% (79.0\u201385.3)", "5.76\u202fMB", "not measured"]
    assert theirs == ["theirs", "82.37 %", "\u2013", "\u2013"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "not measured"),
        (Cell(unit="share"), "not measured"),
        (Cell(unit="points", interval=FALL), "+2.1 (\u22125.6 to +10.4)"),
        (Cell(unit="area", interval=AREA), "0.957 (0.940 to 0.970)"),
        (Cell(unit="ms", number=4.25), "4.25\u202fms"),
        (Cell(unit="ratio", number=6.136), "6.1\u00d7"),
        (Cell(unit="reduction", number=0.744), "74.4%"),
        (Cell(unit="count", number=2_228_996), "2.23\u202fM"),
    ],
)  # fmt: skip
def test_figures(cell, text):
    assert cell_text(cell) == text


def test_seeds_follow_the_figure():
    cell = Cell(unit="share", interval=Interval(value=0.8, low=0.7, high=0.9), seeds=(0.8, 0.75))
    assert cell_text(cell).endswith("; seeds 80.0, 75.0")


def test_a_table_survives_json():
    shown = table()
    assert Table.model_validate_json(shown.model_dump_json()) == shown


def test_a_terminal_shows_the_columns_that_fit_and_where_the_rest_is(capsys):
    many = tuple(f"column {number:02}, of which there are many" for number in range(12))
    for columns, left in ((many, 8), (("accuracy",), 0)):
        cells = {title: Cell(printed="82.37 %") for title in columns}
        row = TableRow(name="theirs", kind="paper", cells=cells)
        show_table(table(columns=columns, rows=(row,), failed={"qat": "no room"}), Path("out"))
        text = capsys.readouterr().out
        shown = [title for title in columns if title in text]
        assert len(columns) - len(shown) == left
        assert text.count("82.37 %") == len(shown)
        assert "not measured, qat: no room" in text
        told = "8 more columns and the notes" if left else "the notes"
        assert text.splitlines()[-1] == f"{told}: out/table.html, out/table.md"
