"""Tables that name the images: a manifest (.csv), and the metadata table of HAM10000."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from clinipress.data.layouts.folders import image_files
from clinipress.data.layouts.items import split_name
from clinipress.errors import DataError
from clinipress.records.item import UNIT_COLUMNS, ImageItem, units_named

__all__ = ["find_table", "is_table", "read_table"]

_MANIFEST = ("path", "label")
_HAM10000 = ("image_id", "dx", "lesion_id")
_OWN = ("path", "label", "split", "patient_id", *UNIT_COLUMNS)


def find_table(folder: Path) -> Path | None:
    """The one table in `folder` that names images, or None.

    Raises:
        DataError: There are several.
    """
    tables = sorted(f for f in folder.iterdir() if f.suffix.casefold() == ".csv" and is_table(f))
    if len(tables) > 1:
        names = " and ".join(f.name for f in tables)
        raise DataError("one manifest", f"{names} in '{folder}'", "name the one to use")
    return tables[0] if tables else None


def is_table(path: Path) -> bool:
    """True when the columns are those of a manifest or of HAM10000's metadata."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            columns = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return set(_MANIFEST) <= set(columns) or set(_HAM10000) <= set(columns)


def read_table(path: Path, class_map: Mapping[str, str]) -> tuple[list[ImageItem], tuple[str, ...]]:
    """Items and group columns of a table.

    A manifest has the columns ``path`` (relative to it) and ``label``, may have ``split`` and
    ``patient_id`` and the columns of other units (`UNIT_COLUMNS`), and every other column is a
    group. HAM10000's has ``image_id``, ``dx`` (the label) and ``lesion_id``; it names no patients.

    Raises:
        DataError: Missing columns, empty cells, unknown splits, images that are not there.
    """
    rows, columns = _rows(path)
    if set(_MANIFEST) <= set(columns):
        groups = tuple(c for c in columns if c not in _OWN)
        items = [_item(path, number, row, groups, class_map) for number, row in rows]
    else:
        groups = tuple(c for c in columns if c not in {*_HAM10000, *UNIT_COLUMNS})
        items = _ham10000(path, rows, groups, class_map)
    _check(path, items)
    return items, groups


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """(line, cells) of every row that is not blank, and the columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            columns = [name.strip() for name in next(reader, [])]
            cells = [(reader.line_num, row) for row in reader if any(row)]
    except OSError as problem:
        raise DataError("a table that can be read", f"'{path}' ({problem.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"a table in UTF-8 at '{path}'", str(problem)) from None
    if not (set(_MANIFEST) <= set(columns) or set(_HAM10000) <= set(columns)):
        got = ", ".join(columns) or "(none)"
        raise DataError(
            f"the columns path and label in '{path}'", got, "cells are parted by commas"
        )
    if len(set(columns)) < len(columns):
        raise DataError(f"columns of different names in '{path}'", ", ".join(columns))
    for line, row in cells:
        if len(row) > len(columns):  # an unquoted comma would shift the label
            got = f"{len(row)} in line {line} of '{path}'"
            raise DataError(f"{len(columns)} cells", got, "put texts with commas in quotes")
    padding = [""] * len(columns)
    return [
        (line, {name: cell.strip() for name, cell in zip(columns, row + padding, strict=False)})
        for line, row in cells
    ], columns


def _item(
    table: Path,
    line: int,
    row: Mapping[str, str],
    groups: tuple[str, ...],
    class_map: Mapping[str, str],
) -> ImageItem:
    for column in _MANIFEST:
        if not row[column]:
            raise DataError(f"a {column} in every row", f"none in line {line} of '{table}'")
    try:
        split = split_name(row.get("split", ""))
    except DataError as problem:
        raise DataError(problem.expected, f"{problem.got} in line {line} of '{table}'") from None
    path = table.parent / row["path"]
    if "\\" in row["path"] and not path.exists():  # written on Windows
        path = table.parent / row["path"].replace("\\", "/")
    inside = path.is_relative_to(table.parent)
    return ImageItem(
        key=(path.relative_to(table.parent) if inside else path).as_posix(),
        path=path,
        label=class_map.get(row["label"], row["label"]),
        split=split,
        patient=row.get("patient_id") or None,
        groups={c: row[c] for c in groups if row[c]},
        units=units_named(row),
    )


def _ham10000(
    table: Path,
    rows: list[tuple[int, dict[str, str]]],
    groups: tuple[str, ...],
    class_map: Mapping[str, str],
) -> list[ImageItem]:
    """Images lie in one folder or several beside the table, named by their image_id."""
    by_name = {path.stem: path for path in image_files(table.parent)}
    items = []
    for _, row in rows:
        path = by_name.get(row["image_id"], table.parent / "images" / f"{row['image_id']}.jpg")
        items.append(
            ImageItem(
                key=path.relative_to(table.parent).as_posix(),
                path=path,
                label=class_map.get(row["dx"], row["dx"]),
                groups={c: row[c] for c in groups if row[c]},
                units=units_named(row),
            )
        )
    return items


def _check(table: Path, items: list[ImageItem]) -> None:
    if not items:
        raise DataError("rows in the manifest", f"none in '{table}'")
    key, count = Counter(item.key for item in items).most_common(1)[0]
    if count > 1:
        raise DataError("one row per image", f"'{key}' in {count} rows of '{table}'")
    missing = [item for item in items if not item.path.is_file()]
    if missing:
        raise DataError(
            f"the images that '{table}' names",
            f"{len(missing)} of {len(items)} not there, first '{missing[0].key}'",
            "paths are relative to the manifest",
        )
