"""A set in one .npz, in the layout of MedMNIST: ``train_images``, ``train_labels``, ``val_...``."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.items import SPLIT_NAMES, Item
from clinipress.data.pixels import Raster
from clinipress.errors import DataError

__all__ = ["array_picture", "read_arrays"]

_PARTS = ("train", "val", "test")


def read_arrays(path: Path, class_map: Mapping[str, str]) -> list[Item]:
    """Items of an archive: uint8 images ``[n, h, w]`` or ``[n, h, w, 3]``, whole-number labels.

    Labels are named by their number, "0", "1", ...; `class_map` gives them names.

    Raises:
        DataError: It is no such archive, or labels and images do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = [p for p in _PARTS if f"{p}_images" in archive and f"{p}_labels" in archive]
            labels = {p: _labels(archive[f"{p}_labels"], p, path) for p in parts}
            names = archive.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise DataError("an .npz of arrays", f"'{path}' ({problem})") from None
    if not parts:
        raise DataError(
            "train_images and train_labels, or val_ or test_", f"{', '.join(names[:6])} in '{path}'"
        )
    items = []
    for part in parts:
        _check_shape(_shape(path, f"{part}_images"), len(labels[part]), part, path)
        for number, label in enumerate(labels[part]):
            name = str(label)
            key = f"{path.name}#{part}#{number}"
            items.append(Item(key, path, class_map.get(name, name), number, SPLIT_NAMES[part]))
    return items


def array_picture(item: Item) -> Raster:
    """The picture of an item that `read_arrays` made."""
    facts = item.path.stat()
    part = item.key.rsplit("#", 2)[1]
    images = _images(item.path, f"{part}_images", facts.st_size, facts.st_mtime_ns)
    return Raster(images[item.index])


@lru_cache(maxsize=3)  # one array of a compressed archive can only be unpacked as a whole
def _images(path: Path, name: str, _size: int, _time: int) -> NDArray[np.uint8]:
    with np.load(path, allow_pickle=False) as archive:
        images: NDArray[np.uint8] = archive[name]
        return images


def _labels(labels: NDArray[Any], part: str, path: Path) -> list[int]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"one whole number per image in {part}_labels",
            f"{labels.dtype} {list(labels.shape)} in '{path}'",
            "several labels per image are not supported",
        )
    return [int(label) for label in labels]


def _shape(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type from the array's header, without unpacking the array."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        return shape, dtype


def _check_shape(found: tuple[tuple[int, ...], np.dtype[Any]], count: int, part: str, path: Path) -> None:
    shape, dtype = found
    picture = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if not picture or dtype != np.uint8 or shape[0] != count:
        raise DataError(
            f"{part}_images as uint8 [{count}, h, w] or [{count}, h, w, 3]",
            f"{dtype} {list(shape)} in '{path}'",
        )
