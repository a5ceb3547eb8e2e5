"""The cells of an .xlsx workbook as text: all that a published table needs, and no package."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as Xml

from clinipress.errors import DataError
from clinipress.kinds.image.unpacking import limit

__all__ = ["read_workbook"]

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_SHEET = re.compile(r"xl/worksheets/sheet[0-9]+\.xml")
_STRINGS = "xl/sharedStrings.xml"
_COLUMN = re.compile(r"[A-Z]+")


def read_workbook(path: Path) -> list[dict[str, str]]:
    """Rows of all sheets, by the names in each sheet's first row; empty cells are left out.

    Whole numbers come without ".0": a patient "12" is the same as a text "12".

    Raises:
        DataError: It is no workbook.
    """
    try:
        with zipfile.ZipFile(path) as book:
            names = [info.filename for info in book.infolist()]
            if sum(info.file_size for info in book.infolist()) > limit(path.stat().st_size):
                raise DataError("a workbook", f"'{path}', which unpacks to far more than tables do")
            shared = _strings(book) if _STRINGS in names else []
            sheets = sorted(name for name in names if _SHEET.fullmatch(name))
            return [row for name in sheets for row in _named(book, name, shared)]
    except (OSError, zipfile.BadZipFile, Xml.ParseError, ValueError, IndexError) as problem:
        raise DataError("a workbook (.xlsx)", f"'{path}' ({problem})") from None


def _strings(book: zipfile.ZipFile) -> list[str]:
    root = Xml.fromstring(book.read(_STRINGS))  # expat itself stops entity bombs
    return ["".join(t.text or "" for t in entry.iter(f"{_MAIN}t")) for entry in root]


def _named(book: zipfile.ZipFile, name: str, shared: list[str]) -> Iterator[dict[str, str]]:
    header: dict[str, str] = {}
    for number, row in enumerate(Xml.fromstring(book.read(name)).iter(f"{_MAIN}row")):
        cells = dict(entry for cell in row if (entry := _cell(cell, shared)) is not None)
        if number == 0:
            header = cells
        elif cells:
            yield {header[c]: text for c, text in cells.items() if c in header}


def _cell(cell: Xml.Element, shared: list[str]) -> tuple[str, str] | None:
    column = _COLUMN.match(cell.get("r", ""))
    value = cell.findtext(f"{_MAIN}v")
    kind = cell.get("t")
    if kind == "inlineStr":
        text = "".join(t.text or "" for t in cell.iter(f"{_MAIN}t"))
    elif kind == "s" and value is not None:
        text = shared[int(value)]
    else:
        text = re.sub(r"\.0+$", "", value or "") if kind != "str" else value or ""
    return (column[0], text.strip()) if column and text.strip() else None
