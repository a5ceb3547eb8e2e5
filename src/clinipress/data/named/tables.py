"""The tables that a named set is read from afterwards: its manifest, and its masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from clinipress.data.named.rows import ListedImage
from clinipress.errors import DataError
from clinipress.records.store import write_atomically

__all__ = ["read_masks", "write_manifest", "write_masks"]


def write_manifest(rows: Sequence[ListedImage], table: Path) -> Path:
    """Write the manifest that `clinipress.data.sources.read_dataset` reads, to `table`; `table`.

    Columns that no image has a value for are left out.

    Raises:
        StorageError: It cannot be written.
    """
    columns = ["path", "label"]
    columns += ["split"] if any(row.split for row in rows) else []
    columns += sorted({_column(row) for row in rows if row.unit})
    columns += dict.fromkeys(name for row in rows for name in row.groups)
    cells: Iterable[Mapping[str, str]] = (
        {
            **row.groups,
            "path": _key(row.path, table.parent),
            "label": row.label,
            "split": row.split or "",
            _column(row): row.unit or "",
        }
        for row in rows
    )
    return _write(table, columns, ([record.get(name, "") for name in columns] for record in cells))


def _column(row: ListedImage) -> str:
    return f"{row.unit_kind}_id"


def write_masks(rows: Sequence[ListedImage], manifest: Path, name: str) -> Path | None:
    """Write NAME.masks.csv beside the manifest; None where no image has a mask.

    Raises:
        StorageError: It cannot be written.
    """
    home = manifest.parent
    lines = [
        [_key(row.path, home), kind, _key(mask, home)]
        for row in rows
        for kind, mask in row.masks.items()
    ]
    if not lines:
        return None
    return _write(home / f"{name}.masks.csv", ["image", "kind", "mask"], lines)


def read_masks(table: Path) -> dict[str, dict[str, Path]]:
    """The table of masks that `prepare` wrote.

    Returns:
        Key of an item of the manifest beside it -> kind ("lung", "infection", "tumour") -> file.

    Raises:
        DataError: It cannot be read.
    """
    masks: dict[str, dict[str, Path]] = {}
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                masks.setdefault(row["image"], {})[row["kind"]] = table.parent / row["mask"]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as problem:
        raise DataError("a table of image, kind and mask", f"'{table}' ({problem!r})") from None
    return masks


def _write(path: Path, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(lines)
    write_atomically(path, text.getvalue())
    return path


def _key(path: Path, home: Path) -> str:
    """Relative to the manifest where it lies below, so that the folder can be moved."""
    return (path.relative_to(home) if path.is_relative_to(home) else path.absolute()).as_posix()
