"""A set in one .npz, in the layout of MedMNIST: ``train_images``, ``train_labels``, ``val_...``."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.layouts.items import SPLIT_NAMES, LeftOuts, Task
from clinipress.data.named.medmnist import CHEST, CHEST_IMAGES
from clinipress.errors import DataError, ImageError
from clinipress.kinds.image.pixels import Raster
from clinipress.kinds.image.unpacking import limit
from clinipress.records.item import ImageItem

__all__ = ["array_picture", "read_arrays"]

_UNREADABLE = (
    *(OSError, ValueError, EOFError, IndexError, MemoryError),
    *(zlib.error, zipfile.BadZipFile),
)
_PARTS = ("train", "val", "test")
_NUMBERS = tuple(map(str, range(len(CHEST))))


def read_arrays(
    path: Path,
    class_map: Mapping[str, str],
    left_out: LeftOuts | None = None,
    task: Task | None = "multiclass",
    wanted: Container[str] = (),
) -> list[ImageItem]:
    """Items of an archive: uint8 images ``[n, h, w]`` or ``[n, h, w, 3]``, whole-number labels.

    Labels are named by their number, "0", "1", ...; `class_map` gives them names. Several columns
    of 0 and 1 are findings, named by the number of their column; -1 is unknown. Those of MedMNIST's
    chestmnist have its names, unless `class_map` or `wanted` calls them by their numbers.

    Raises:
        DataError: It is no such archive, or labels and images do not fit together.
    """
    try:
        labels, others = _read_labels(path, task)
    except _UNREADABLE as problem:
        raise DataError("an .npz of arrays", f"'{path}' ({problem})") from None
    for name in others:
        (left_out or LeftOuts(path.parent)).add(
            f"{path.name}#{name}", "array", "not images with labels"
        )
    names = _chest_names(path, labels)
    names = [] if any(number in wanted or number in class_map for number in _NUMBERS) else names
    items = []
    for part, part_labels in labels.items():
        for number, label in enumerate(part_labels):
            known = label if isinstance(label, dict) else None
            if names and known is not None:
                known = {names[int(column)]: there for column, there in known.items()}
            text = str(label) if known is None else ""
            items.append(
                ImageItem(
                    key=f"{path.name}#{part}#{number}",
                    path=path,
                    label=class_map.get(text, text),
                    index=number,
                    split=SPLIT_NAMES[part],
                    findings=known,
                )
            )
    return items


def _chest_names(
    path: Path, labels: Mapping[str, Sequence[int] | Sequence[dict[str, bool]]]
) -> Sequence[str]:
    """Names of the columns where the archive is MedMNIST's chestmnist, by its name or counts."""
    columns = {c for part in labels.values() for row in part if isinstance(row, dict) for c in row}
    whole = {part: len(rows) for part, rows in labels.items()} == dict(CHEST_IMAGES)
    its_name = re.fullmatch(r"chestmnist(_\d+)?", path.stem.casefold())
    return CHEST if columns == set(_NUMBERS) and (whole or its_name) else ()


def array_picture(item: ImageItem) -> Raster:
    """The picture of an item that `read_arrays` made.

    Raises:
        ImageError: The archive is gone or damaged.
    """
    part = item.key.rsplit("#", 2)[1]
    try:
        facts = item.path.stat()
        images = _images(item.path, f"{part}_images", facts.st_size, facts.st_mtime_ns)
        return Raster(images[item.index])
    except _UNREADABLE as problem:
        raise ImageError("an undamaged .npz", f"'{item.key}' ({problem})") from None


@lru_cache(maxsize=3)  # one array of a compressed archive can only be unpacked as a whole
def _images(path: Path, name: str, _size: int, _time: int) -> NDArray[np.uint8]:
    _check_packing(path, name)
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        images: NDArray[np.uint8] = archive[name]
        return images


def _check_packing(path: Path, name: str) -> None:
    """Refuse, by ValueError, an array that is far larger than what it is packed into."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
    allowed = limit(entry.compress_size)
    if entry.file_size > allowed:
        raise ValueError(
            f"{name} unpacks to {entry.file_size:,} bytes, at most {allowed:,} expected"
        )


def _read_labels(
    path: Path, task: Task | None
) -> tuple[dict[str, list[int] | list[dict[str, bool]]], list[str]]:
    """Part -> its labels, each part's images checked by their header; and the arrays not used."""
    # np.load leaves a file open that it opened itself and could not read
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        names = archive.files
        for part in _PARTS:
            if f"{part}_labels" in names:
                _check_packing(path, f"{part}_labels")
        labels = {
            part: _labels(archive[f"{part}_labels"], part, path, task)
            for part in _PARTS
            if f"{part}_images" in names and f"{part}_labels" in names
        }
    if not labels:
        got = f"{', '.join(names[:6]) or 'nothing'} in '{path}'"
        raise DataError("train_images and train_labels, or val_ or test_", got)
    for part, part_labels in labels.items():
        _check_shape(_shape(path, f"{part}_images"), len(part_labels), part, path)
    used = {f"{part}_{what}" for part in labels for what in ("images", "labels")}
    return labels, [name for name in names if name not in used]


def _labels(
    labels: NDArray[Any], part: str, path: Path, task: Task | None
) -> list[int] | list[dict[str, bool]]:
    if task != "multiclass" and labels.ndim == 2 and labels.shape[1] > 1:
        return _findings(labels, part, path)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"one whole number per image in {part}_labels",
            f"{labels.dtype} {list(labels.shape)} in '{path}'",
            "set task: multilabel under 'data' if the columns are findings",
        )
    return [int(label) for label in labels]


def _findings(labels: NDArray[Any], part: str, path: Path) -> list[dict[str, bool]]:
    """Of each image, what is known: a column for each finding, 1, 0 or -1 (unknown)."""
    values = labels.astype(np.float64) if labels.dtype.kind in "iubf" else np.full((1, 1), np.nan)
    unknown = np.isnan(values) | (values == -1) if labels.dtype.kind == "f" else values == -1
    odd = ~np.isin(values, (0, 1)) & ~unknown
    if labels.dtype.kind not in "iubf" or odd.any():
        got = labels.dtype if labels.dtype.kind not in "iubf" else f"{values[odd][0]:g}"
        raise DataError(f"0, 1 or -1 (unknown) in {part}_labels", f"{got} in '{path}'")
    return [
        {str(c): bool(row[c]) for c in range(len(row)) if not hidden[c]}
        for row, hidden in zip(values.tolist(), unknown, strict=True)
    ]


def _shape(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type from the array's header, without unpacking the array."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        formats = np.lib.format
        first = formats.read_magic(stream) == (1, 0)
        read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        shape, _, dtype = read(stream)
        return shape, dtype


def _check_shape(
    header: tuple[tuple[int, ...], np.dtype[Any]], count: int, part: str, path: Path
) -> None:
    shape, dtype = header
    picture = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if not picture or dtype != np.uint8 or shape[0] != count:
        raise DataError(
            f"{part}_images as uint8 [{count}, h, w] or [{count}, h, w, 3]",
            f"{dtype} {list(shape)} in '{path}'",
        )
