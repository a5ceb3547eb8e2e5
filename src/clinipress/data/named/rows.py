"""What readers of published layouts share: rows, and finding folders and tables by their names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from clinipress.data.layouts.tables import read_text
from clinipress.errors import DataError
from clinipress.records.item import SYSTEM_NAMES

__all__ = [
    "ListedImage",
    "Listing",
    "class_folders",
    "files_named",
    "one_file",
    "read_text_table",
    "walk",
]

_DEEPEST = 8


@dataclass(frozen=True)
class ListedImage:
    """One image.

    Attributes:
        path: The file.
        label: Its class.
        split: "train", "validation", "test" or None.
        unit: The patient, lesion or tile it is of, where that is known.
        unit_kind: Which of these (`UNIT_KINDS`).
        groups: What else is known.
        masks: Kind -> the file of a mask of it, never an image of a class.
    """

    path: Path
    label: str
    split: str | None = None
    unit: str | None = None
    unit_kind: str = "patient"
    groups: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Rows of images, and sentences on what was left out or stood in."""

    rows: tuple[ListedImage, ...] = ()
    notes: tuple[str, ...] = ()


def walk(where: Path) -> Iterator[Path]:
    """Visible folders at any depth, sorted."""
    for top, names, _ in os.walk(where):
        here = Path(top)
        deep = len(here.relative_to(where).parts)
        names[:] = sorted(
            n for n in names if not n.startswith(".") and n.casefold() not in SYSTEM_NAMES
        )
        if deep >= _DEEPEST:
            names.clear()
        yield from (here / name for name in names)


def class_folders(
    where: Path, patterns: Mapping[str, tuple[str | None, str]]
) -> dict[tuple[str | None, str], Path]:
    """(split, class) -> its folder, told by the end of its path; of nested ones the innermost.

    Raises:
        DataError: Two folders for one class and split.
    """
    parts = [(pattern.split("/"), key) for pattern, key in patterns.items()]
    candidates: dict[tuple[str | None, str], list[Path]] = defaultdict(list)
    for folder in walk(where):
        names = [part.casefold() for part in folder.relative_to(where).parts]
        for pattern, key in parts:
            ending = names[-len(pattern) :]
            if len(ending) == len(pattern) and all(map(fnmatchcase, ending, pattern)):
                candidates[key].append(folder)
    single = {}
    for key, folders in candidates.items():
        inner = [f for f in folders if not any(f in other.parents for other in folders)]
        if len(inner) > 1:
            raise DataError(
                f"one folder for '{key[1]}'" + (f" of {key[0]}" if key[0] else ""),
                f"'{inner[0]}' and '{inner[1]}'",
                "name the copy to use as the folder, or move one away",
            )
        single[key] = inner[0]
    return single


def files_named(where: Path, name: str) -> list[Path]:
    """Files of that name, in any case and at any depth."""
    folders = (where, *walk(where))
    return [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.name.casefold() == name.casefold() and file.is_file()
    ]


def one_file(where: Path, *names: str) -> Path | None:
    """The first that is there, nearest to the top."""
    return next((file for name in names for file in files_named(where, name)), None)


def read_text_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table of text, by column.

    Raises:
        DataError: It cannot be read.
    """
    table = read_text(path)
    return [dict(zip(table.columns, cells, strict=True)) for _, cells in table.rows]
