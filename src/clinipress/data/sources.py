"""A data set on disk to a list of items, and an item to its pixels."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.data.layouts import arrays
from clinipress.data.layouts.folders import read_folders
from clinipress.data.layouts.items import Dataset, Layout, natural
from clinipress.data.layouts.manifests import find_table, read_table
from clinipress.errors import DataError, ImageError, MissingExtraError
from clinipress.kinds.image.read import HeaderFacts, Reader, decode, facts, reader_of, render
from clinipress.records.candidate import InputSpec
from clinipress.records.item import ImageItem

__all__ = ["Dataset", "ImageItem", "decode_item", "item_bytes", "item_facts", "read_dataset"]

# Files with these endings are not opened while a set is listed: they hold one picture each.
# fmt: off
_SINGLE = frozenset({
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm",
})
# fmt: on


def read_dataset(
    path: Path, *, classes: Sequence[str] | None = None, class_map: Mapping[str, str] | None = None
) -> Dataset:
    """Find out how a data set is laid out, and list its pictures.

    Args:
        path: A folder of class folders (with or without split folders above them), a manifest
            (.csv) or a folder with one, HAM10000's folder, or an .npz in MedMNIST's layout.
        classes: Class names in the order of the logits; None sorts the names found.
        class_map: Name of a folder or label -> name of the class.

    Returns:
        The set, items sorted by key. A volume or a multi-frame file becomes one item per picture,
        its patient the file unless the file or the manifest names one; empty slices of volumes
        are left out. DICOM files bring the patient from their header, unless all name the same.

    Raises:
        DataError: Nothing there, one class only, or a layout that cannot be told.
        MissingExtraError: There are DICOM or NIfTI files and the extra is not installed.
    """
    mapping = dict(class_map or {})
    layout, root, items, columns = _listed(path, mapping)
    if layout != "npz":
        items = _one_patient_is_none([opened for item in items for opened in _opened(item)])
    items.sort(key=lambda item: natural(item.key))
    names = _classes(path, items, classes, mapping)
    return Dataset(root, layout, names, tuple(items), columns)


def decode_item(item: ImageItem, spec: InputSpec) -> NDArray[np.uint8]:
    """One item as a classifier takes it: uint8 ``[channels, height, width]``.

    Raises:
        ImageError: It cannot be read.
    """
    if _in_archive(item):
        return render(arrays.array_picture(item), spec)
    return decode(item.path, spec, index=item.index)


def item_bytes(item: ImageItem) -> bytes:
    """What a digest of the item is made of: the file, or one picture of several; never large then.

    Raises:
        ImageError: The file cannot be read.
    """
    if _in_archive(item):
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
    if not _in_archive(item):
        return facts(item.path)
    shape = arrays.array_picture(item).pixels.shape
    return HeaderFacts(shape[1], shape[0], 3 if len(shape) == 3 else 1, 8, 1, "NPZ")


def _in_archive(item: ImageItem) -> bool:
    return item.index is not None and item.path.suffix.casefold() == ".npz"


def _listed(
    path: Path, mapping: Mapping[str, str]
) -> tuple[Layout, Path, list[ImageItem], tuple[str, ...]]:
    """Layout, root, items and group columns, by what `path` is."""
    if path.is_file():
        if path.suffix.casefold() == ".npz":
            return "npz", path.parent, arrays.read_arrays(path, mapping), ()
        if path.suffix.casefold() == ".csv":
            return "manifest", path.parent, *read_table(path, mapping)
        raise DataError("a folder, a manifest (.csv) or an .npz", f"the file '{path}'")
    if not path.is_dir():
        raise DataError("a folder, a manifest (.csv) or an .npz", f"nothing at '{path}'")
    if not any(path.iterdir()):
        raise DataError("a folder of images", f"the empty folder '{path}'")
    table = find_table(path)
    if table is not None:
        return "manifest", path, *read_table(table, mapping)
    layout, items = read_folders(path, mapping)
    return layout, path, items, ()


def _reader(path: Path) -> Reader | None:
    """By content; what cannot be opened is left for the audit to set aside."""
    if path.suffix.casefold() in _SINGLE:
        return None
    try:
        with path.open("rb") as stream:
            return reader_of(stream)
    except (OSError, ImageError):
        return None


def _opened(item: ImageItem) -> list[ImageItem]:
    """One item per picture of a file with several; an unreadable file stays one item."""
    reader = _reader(item.path)
    if reader is None:
        return [item]
    try:
        patient, numbers = reader.pictures(item.path)
    except MissingExtraError:
        raise
    except Exception:  # third-party parsers raise nearly anything on a damaged file
        return [item]
    patient = item.patient or patient
    if numbers is None:
        return [replace(item, patient=patient)]
    patient = patient or item.key
    return [replace(item, key=f"{item.key}#{n}", index=n, patient=patient) for n in numbers]


def _one_patient_is_none(items: list[ImageItem]) -> list[ImageItem]:
    """A single identifier for all is a placeholder such as "ANONYMOUS", not one patient."""
    patients = {item.patient for item in items}
    if len(patients) == 1 and patients != {None} and len({item.path for item in items}) > 1:
        return [replace(item, patient=None) for item in items]
    return items


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
