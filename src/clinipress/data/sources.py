"""A data set on disk to a list of items, and an item to its pixels."""

from __future__ import annotations

import difflib
import errno
import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.data.layouts import arrays
from clinipress.data.layouts.findings import chosen_findings, mapped_names
from clinipress.data.layouts.folders import image_files, read_folders
from clinipress.data.layouts.items import (
    Contradictions,
    Dataset,
    Labelling,
    LeftOuts,
    Listed,
    ReaderRule,
    Task,
    Unsaid,
    loosely,
    natural,
    one_spelling,
)
from clinipress.data.layouts.manifests import find_tables, read_tables
from clinipress.data.layouts.tables import TABLE_SUFFIXES
from clinipress.data.named.medmnist import CHEST
from clinipress.data.units import HEADER_PATIENT, checked_units
from clinipress.errors import DataError, ImageError, MissingExtraError, NoPictureError
from clinipress.kinds.image.read import HeaderFacts, Reader, decode, facts, reader_of, render
from clinipress.records.candidate import InputSpec
from clinipress.records.item import ImageItem

__all__ = [
    "Dataset",
    "ImageItem",
    "decode_item",
    "in_archive",
    "item_bytes",
    "item_facts",
    "read_dataset",
]

# Files with these endings are not opened while a set is listed: they hold one picture each.
# fmt: off
_SINGLE = frozenset({
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm",
})
# fmt: on


def read_dataset(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    class_map: Mapping[str, str] | None = None,
    task: Task | None = "multiclass",
    blank: Unsaid = "unknown",
    uncertain: Unsaid = "unknown",
    split_column: str | None = None,
    readers: ReaderRule | None = None,
    parents: Mapping[str, str] | None = None,
    contradictions: Contradictions = "refuse",
    judged: Collection[str] | None = None,
) -> Dataset:
    """Find out how a data set is laid out, and list its pictures.

    Args:
        path: A folder of class folders (with or without split folders above them), a manifest
            (.csv, .tsv) or a folder with one, or with one for each split, HAM10000's folder, or an
            .npz in MedMNIST's layout.
        classes: Class names in the order of the logits; None sorts the names found.
        class_map: Name of a folder or label -> name of the class.
        task: One class for each image ("multiclass"), or any of several findings ("multilabel");
            None: as the set has it.
        blank: Of several findings with a column each, what an empty cell says.
        uncertain: And what -1 says.
        split_column: Column of a table that holds the published splits; None: by its name.
        readers: Which answer counts where several readers of an image differ; None: refuse.
        parents: Finding -> the one it is a kind of (`chosen_findings`).
        contradictions: Whether rows that name a finding and "No Finding" are refused or noted.
        judged: The findings of which they count; None: those in `classes`, or all.

    Returns:
        The set, items sorted by key. A volume or a multi-frame file becomes one item per picture,
        all of one unit, the file; empty slices of volumes are left out. DICOM files bring patient,
        study and series from their header. Identifiers that name nobody are set aside.
        What lies there and is not used is in `left_out`, each thing with its reason.

    Raises:
        DataError: Nothing there, one class only, or a layout that cannot be told.
        MissingExtraError: There are DICOM or NIfTI files and the extra is not installed.
    """
    mapping = dict(class_map or {})
    root = path if _is_dir(path) else path.parent
    left_out = LeftOuts(root, {*mapping, *(classes or ())})
    chosen = None if classes is None else tuple(classes)
    links = [name for pair in (parents or {}).items() for name in pair]
    columns = None if chosen is None else (*chosen, *links)
    names_judged = columns if judged is None else judged
    counting = None
    if names_judged is not None:
        counting = frozenset(map(loosely, (*names_judged, *mapping)))
    labelling = Labelling(
        task, columns, blank, uncertain, split_column, readers, contradictions, counting
    )
    try:
        listed = _listed(path, mapping, left_out, labelling)
    except OSError as problem:
        raise DataError("data that can be read", f"'{path}' ({problem.strerror})") from None
    if split_column is not None and listed.layout != "manifest":
        raise DataError(
            f"a table with the column '{split_column}', which data.split.column names",
            f"{listed.layout} in '{path}'",
            "leave out 'column'",
        )
    items = listed.items
    if listed.layout != "npz":
        items = [picture for item in items for picture in _opened(item, left_out)]
    items, named = checked_units(items)
    several = listed.task == "multilabel"
    if several:
        names, items, spellings = chosen_findings(
            items, classes, mapping, complete=listed.complete, parents=parents or {}
        )
    else:
        items, spellings = one_spelling(items, [*mapping.values(), *(classes or ())])
    items.sort(key=lambda item: natural(item.key))
    try:
        names = names if several else _classes(path, items, classes, mapping)
    except DataError as problem:
        raise _with_tables(problem, left_out) from None
    matched = mapped_names(mapping, listed.names) if several else {}
    unknown = [n for n in mapping if listed.names and n not in listed.names and n not in matched]
    if unknown:
        listed.notes.append(
            f"class_map has names that no folder or label has: {', '.join(unknown)}"
        )
    notes = (*listed.notes, *spellings, *named)
    return Dataset(
        listed.root,
        listed.layout,
        names,
        tuple(items),
        listed.group_columns,
        left_out.records(),
        notes,
        listed.task,
        listed.differing,
    )


def decode_item(item: ImageItem, spec: InputSpec) -> NDArray[np.uint8]:
    """One item as a classifier takes it: uint8 ``[channels, height, width]``.

    Raises:
        ImageError: It cannot be read.
    """
    if in_archive(item):
        return render(arrays.array_picture(item), spec)
    return decode(item.path, spec, index=item.index)


def item_bytes(item: ImageItem) -> bytes:
    """What a digest of the item is made of: the file, or one picture of several; never large then.

    Raises:
        ImageError: The file cannot be read.
    """
    if in_archive(item):
        return arrays.array_picture(item).pixels.tobytes()
    try:
        if item.index is None:
            return item.path.read_bytes()
        reader = _reader(item.path)
        stored = reader.stored_bytes(item.path, item.index) if reader else None
        if stored is not None:
            return stored
        # where a picture has no bytes of its own, the file's digest, and its number
        facts = item.path.stat()
        whole = _digest(item.path, facts.st_size, facts.st_mtime_ns)
        return whole + item.index.to_bytes(8, "little")
    except OSError as problem:
        raise ImageError("a file that can be read", f"'{item.key}' ({problem.strerror})") from None


@lru_cache(maxsize=64)
def _digest(path: Path, _size: int, _time: int) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def item_facts(item: ImageItem) -> HeaderFacts:
    """What the header of the item's file says, or the shape of its array.

    Raises:
        ImageError: It cannot be read.
    """
    if not in_archive(item):
        return facts(item.path)
    shape = arrays.array_picture(item).pixels.shape
    return HeaderFacts(shape[1], shape[0], 3 if len(shape) == 3 else 1, 8, 1, "NPZ")


def in_archive(item: ImageItem) -> bool:
    """True for a picture that is an array in an .npz, not a file."""
    return item.index is not None and item.path.suffix.casefold() == ".npz"


def _listed(
    path: Path, mapping: Mapping[str, str], left_out: LeftOuts, labelling: Labelling
) -> Listed:
    """What `path` is told to be, by its ending or by what lies in it."""
    wanted = "a folder, a manifest (.csv, .tsv) or an .npz"
    suffix = path.suffix.casefold()
    if _is_dir(path):
        if not any(path.iterdir()):
            raise DataError("a folder of images", f"the empty folder '{path}'")
        tables = find_tables(path, left_out, labelling)
        if tables:
            return _by_tables(tables, path, path, mapping, left_out, labelling)
        if labelling.task == "multilabel":
            raise _with_tables(_no_table(path), left_out, "none that can be used in")
        try:
            return read_folders(path, mapping, left_out)
        except DataError as problem:
            raise _with_tables(problem, left_out) from None
    if not _is_there(path):
        raise DataError(wanted, f"nothing at '{path!s:.300}'")
    if suffix == ".npz":
        items = arrays.read_arrays(path, mapping, left_out, labelling.task, labelling.classes or ())
        task: Task = "multiclass" if items[0].findings is None else "multilabel"
        if labelling.task not in (None, task):
            raise _no_table(path)
        chest = {*CHEST} & {*(items[0].findings or {})}
        notes = [f"the columns of '{path.name}' are named as MedMNIST has them"] if chest else []
        return Listed("npz", path.parent, items, notes=notes, task=task)
    if suffix in TABLE_SUFFIXES or suffix == ".txt":
        return _by_tables([path], path.parent, None, mapping, left_out, labelling)
    raise DataError(wanted, f"the file '{path}'")


def _by_tables(
    tables: list[Path],
    root: Path,
    whole: Path | None,
    mapping: Mapping[str, str],
    left_out: LeftOuts,
    labelling: Labelling,
) -> Listed:
    """The items of tables; images beside those they name are left out.

    A table that was named itself may lie in a folder of many things: there only the folders that it
    speaks of are looked at.
    """
    listed = read_tables(tables, root, mapping, left_out, labelling)
    named = {item.path for item in listed.items}
    folders = [whole] if whole else sorted({path.parent for path in named} - {root})
    folders = [f for f in folders if not any(other in f.parents for other in folders)]
    for table in tables:
        left_out.use(table)
    for folder in folders:
        for path in image_files(folder, left_out):
            if path not in named:
                left_out.add(path, "file", "not in the table")
    for item in listed.items:
        left_out.use(item.key)
    return listed


def _with_tables(problem: DataError, left_out: LeftOuts, got: str = "") -> DataError:
    """The same, and why the tables that lie there were not used instead; `got`: of them alone."""
    tables = [entry for entry in left_out.records() if entry.kind == "table"]
    if not tables:
        return problem
    first = f"the table '{tables[0].path}' is not used: {tables[0].reason}"
    return DataError(problem.expected, f"{got} '{left_out.root}'" if got else problem.got, first)


def _no_table(path: Path) -> DataError:
    return DataError(
        "findings of each image: a table with a column of names (a|b) or one for each finding, or "
        "an .npz of several columns of labels",
        f"one class for each image in '{path}'",
        "leave out task: multilabel",
    )


def _is_dir(path: Path) -> bool:
    """False for a name that is too long, or lies where nobody may look, as well."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            return False
        raise


def _reader(path: Path) -> Reader | None:
    """By content; what cannot be opened is left for the audit to set aside."""
    if path.suffix.casefold() in _SINGLE:
        return None
    try:
        with path.open("rb") as stream:
            return reader_of(stream)
    except (OSError, ImageError):
        return None


def _opened(item: ImageItem, left_out: LeftOuts) -> list[ImageItem]:
    """One item per picture of a file with several; an unreadable file stays one item."""
    reader = _reader(item.path)
    if reader is None:
        return [item]
    try:
        named, numbers = reader.pictures(item.path)
        pages = facts(item.path).frames if numbers is not None else 1
    except MissingExtraError:
        raise
    except NoPictureError as problem:
        left_out.reject(item.path, "object", problem.got)
        return []
    except Exception:  # third-party parsers raise nearly anything on a damaged file
        return [item]
    units = {HEADER_PATIENT if kind == "patient" else kind: name for kind, name in named.items()}
    units |= item.units if numbers is None else {**item.units, "file": item.key}
    if numbers is None:
        return [replace(item, units=units)]
    if not len(numbers):
        left_out.reject(item.path, "file", "a volume of one single value")
    elif len(numbers) < pages:
        left_out.reject(item.path, "page", "of one single value", pages - len(numbers))
    return [replace(item, key=f"{item.key}#{n}", index=n, units=units) for n in numbers]


def _classes(
    path: Path, items: list[ImageItem], wanted: Sequence[str] | None, mapping: Mapping[str, str]
) -> tuple[str, ...]:
    """Class order; what the user named and what was found must agree."""
    counts = Counter(item.label for item in items)
    if not items:
        raise DataError("images in class folders", f"none in '{path}'")
    _check_names(items)
    unused = [name for name in mapping.values() if name not in counts]
    if unused:
        near = difflib.get_close_matches(unused[0], counts, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"names there: {', '.join(sorted(counts))}"
        raise DataError(f"a folder or label for '{unused[0]}' of class_map", "none", hint)
    names = tuple(sorted(counts, key=natural))
    if len(names) < 2:
        raise DataError("two classes or more", f"only '{names[0]}' in '{path}'")
    if wanted is None:
        return names
    if len(set(wanted)) != len(wanted) or set(wanted) != set(names):
        raise DataError(
            f"the classes {', '.join(wanted)}",
            f"{', '.join(names)} in '{path}'",
            "set 'classes' to the names there, or map them with class_map",
        )
    return tuple(wanted)


def _check_names(items: list[ImageItem]) -> None:
    """Keys go into JSON: a name that is not UTF-8 on disk could not be written there."""
    for item in items:
        try:
            item.key.encode()
        except UnicodeEncodeError:
            shown = item.key.encode(errors="backslashreplace").decode()
            raise DataError("file names in UTF-8", f"'{shown}'", "rename it") from None
