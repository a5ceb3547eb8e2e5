"""A table as one HTML file: nothing lost of the Markdown, nothing from elsewhere, nothing run."""

from __future__ import annotations

import io
import re

from PIL import Image

from clinipress.papers.page import page, write_table_page
from clinipress.papers.records import Cell, Table, TablePanel, TableRow
from clinipress.records.base import Interval
from kit.tables import table_of

HOSTILE = "<script>alert(1)</script>"
TITLES = ("image", "VGG-19, teacher", "student")


def table(**changes) -> Table:
    interval = Interval(value=0.8237, low=0.79, high=0.853)
    cells = {"accuracy": Cell(unit="share", interval=interval, notes=("own",))}
    ours = TableRow(name="ours", kind="measured", entry="one", cells=cells)
    paper = TableRow(
        name="theirs", kind="paper", cells={"accuracy": Cell(printed="82 %", notes=("one image",))}
    )
    fields = {
        "columns": ("accuracy", "time"),
        "rows": (ours, paper),
        "notes": {"one image": "One.", "own": f"Own {HOSTILE}."},
        "panels": (
            TablePanel(
                entry="vgg19", picture="vgg19/a.jpg", titles=TITLES, key=f"{HOSTILE}.png",
                truth="a", explained="b",
            ),
        ),
        "failed": {"vgg16": "no room"},
    }  # fmt: skip
    return table_of(**fields | changes)


def test_figures_intervals_and_what_a_paper_does_not_print():
    text = page(table())
    assert re.search(r'82\.4%<span class="small">\(79\.0\u201385\.3\)', text)
    measured, paper = re.findall(r'<tr class="(?:measured|paper)">.*?</tr>', text, re.S)
    assert "not measured" in measured
    assert "not measured" not in paper
    assert "\u2013" in paper
    assert "Not measured, vgg16: no room" in text


def test_every_mark_leads_to_its_note():
    text = page(table())
    marks = re.findall(r'<sup> <a href="#note-(\d)">(\d)</a></sup>', text)
    assert marks == [("1", "1"), ("2", "2")]
    notes = re.findall(r'<li id="note-(\d)">(\w+)', text)
    assert notes == [("1", "Own"), ("2", "One")]


def test_no_name_is_run_and_nothing_is_fetched():
    text = page(table(title=HOSTILE))
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)


def test_pictures_are_inside_with_what_is_seen_above_them(tmp_path):
    (tmp_path / "vgg19").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG")
    (tmp_path / "vgg19" / "a.jpg").write_bytes(buffer.getvalue())
    text = write_table_page(table(), tmp_path).read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in text
    assert all(f"<span>{title}</span>" in text for title in TITLES)
    assert "the picture is not in the run folder" in page(table())


def test_synthetic_stands_above_everything():
    assert 'class="synthetic"' in page(table(synthetic=True))
    assert 'class="synthetic"' not in page(table())
