"""What a table is made of: typed, JSON-able, and the only thing that rendering reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clinipress.records.base import Interval, Record

__all__ = ["Cell", "Table", "TablePanel", "TableRow", "Unit"]

Unit = Literal["share", "points", "area", "count", "bytes", "ms", "ratio", "reduction"]


class Cell(Record):
    """One figure of a table: measured with its interval, counted, or as a paper prints it.

    Attributes:
        unit: How it is written; None for a paper's own words.
        interval: A figure with its interval: shares and areas in 0 to 1, "points" also in 0 to 1.
        seeds: The figure of each seed, the first's included, where there are several.
        number: A figure that is counted or timed; bytes, milliseconds, a ratio.
        printed: A paper's own text; a dash of ours, where there is nothing to measure.
        notes: Keys of the table's notes.
    """

    unit: Unit | None = None
    interval: Interval | None = None
    seeds: tuple[float, ...] = ()
    number: float | None = None
    printed: str | None = None
    notes: tuple[str, ...] = ()


class TableRow(Record):
    """One row.

    Attributes:
        name: What it is.
        kind: "measured" here, "control" (the same student without a teacher), or "paper".
        entry: The study it comes from, a folder below the table's; None for a paper's row.
        cells: Title of the column -> figure; what was not measured is absent.
        notes: Keys of notes on the row as a whole.
    """

    name: str
    kind: Literal["measured", "control", "paper"]
    entry: str | None = None
    cells: dict[str, Cell] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class TablePanel(Record):
    """One image under the maps of several networks.

    Attributes:
        entry: The study.
        picture: The file, relative to the table's folder.
        titles: What is seen, left to right, in the words of the table's rows.
        key: Name of the image.
        truth: Its class.
        explained: The class whose maps these are.
    """

    entry: str
    picture: str
    titles: tuple[str, ...]
    key: str
    truth: str
    explained: str

    @property
    def caption(self) -> str:
        """What is told below the picture."""
        return f"{self.key}: truth {self.truth}, explained {self.explained}"


class Table(Record):
    """``OUT/table.json``.

    Attributes:
        source: "s0", "s1", "s2" or "s4".
        title: Of the paper.
        citation: Where it is found.
        read: What of it could be read.
        scale: "small", "moderate" or "full".
        said: What was reduced, on which images, on what machine: one sentence each.
        columns: Titles, left to right.
        rows: Top to bottom; a paper's row stands below ours.
        notes: Key -> footnote, of all that the rows and cells refer to and of the whole table.
        panels: Where the networks look.
        failed: Study -> why it gave no row.
        synthetic: True where the images were drawn.
    """

    source: str
    title: str
    citation: str
    read: str
    scale: Literal["small", "moderate", "full"]
    said: tuple[str, ...] = ()
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: dict[str, str] = Field(default_factory=dict)
    panels: tuple[TablePanel, ...] = ()
    failed: dict[str, str] = Field(default_factory=dict)
    synthetic: bool = False
