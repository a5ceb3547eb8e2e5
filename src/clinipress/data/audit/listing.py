"""The lists of an audit as one table: for a spreadsheet, or a script that mends a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from clinipress.records.result import Audit, DuplicatePair
from clinipress.records.store import write_atomically

__all__ = ["write_listing"]

_COLUMNS = ("list", "path", "other", "count", "reason")


def write_listing(record: Audit, path: Path) -> None:
    """Write every file that the audit names: a row with its list, its twin if any, and why.

    Raises:
        StorageError: It cannot be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(_rows(record))
    write_atomically(path, stream.getvalue())


def _rows(record: Audit) -> Iterator[tuple[str, str, str, int, str]]:
    for entry in record.left_out:
        yield f"{entry.kind} not used", entry.path, "", entry.count, entry.reason
    for file in record.unreadable:
        yield "unreadable", file.path, "", 1, file.reason
    for what, images in (("refused", record.refused), ("dark", record.dark)):
        yield from ((what, image.path, "", 1, image.reason) for image in images)
    for pair in record.conflicting_labels:
        yield "two labels", pair.a, pair.b, 1, f"{pair.label_a} and {pair.label_b}"
    for pair in record.duplicate_pairs:
        yield "duplicate", pair.a, pair.b, 1, _likeness(pair)
    for where, names in record.leaked_images.items():
        for name in names:
            yield f"leak {where}", name, "", 1, "the same picture is in both"


def _likeness(pair: DuplicatePair) -> str:
    return "the same file" if pair.exact else f"correlation {pair.correlation:.4f}"
