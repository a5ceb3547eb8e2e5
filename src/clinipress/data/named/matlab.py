"""Cheng's brain tumours (figshare 1512427): MATLAB v7.3 files to PNG, with patient and mask.

A v7.3 file is HDF5; h5py does the parsing and is loaded when first used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.data.layouts.items import natural
from clinipress.data.named.rows import ListedImage, Listing
from clinipress.errors import ImageError
from clinipress.extras import require
from clinipress.progress import SILENT, Progress
from clinipress.records.store import storage

__all__ = ["read_figshare"]

LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
_LARGEST = 4096  # pixels a side
_TASK = "converting MATLAB files"


@dataclass(frozen=True)
class _Slice:
    image: NDArray[np.uint16]  # [height, width]
    mask: NDArray[np.uint8] | None  # [height, width], 0 or 255
    label: str
    patient: str


def read_figshare(where: Path, work: Path, *, progress: Progress = SILENT) -> Listing:
    """List the slices of the .mat files at any depth below `where`, with patient and tumour mask.

    Each slice is written once to `work`/images, as a 16-bit PNG with the stored values, its mask
    to `work`/masks. Files that cannot be read are left out and counted. The published folds
    (cvind.mat) are not used: splits here are dealt by patient.

    Raises:
        MissingExtraError: h5py is not installed.
        StorageError: `work` cannot be written.
    """
    files = sorted(
        (f for f in where.rglob("*.mat") if f.stem.isdigit()), key=lambda f: natural(f.name)
    )
    if not files:
        return Listing()
    h5py = require("h5py", extra="data", what="reading MATLAB v7.3 files")
    rows, broken = [], []
    progress.start(_TASK, len(files))
    for file in files:
        progress.advance(_TASK)
        try:
            image_slice = _read(h5py, file)
        except ImageError:
            broken.append(file.name)
            continue
        rows.append(_written(image_slice, int(file.stem), work))
    progress.finish(_TASK)
    note = f"{len(broken)} files could not be read, first {broken[0]}" if broken else ""
    return Listing(tuple(rows), (note,) if note else ())


def _written(image_slice: _Slice, number: int, work: Path) -> ListedImage:
    image = work / "images" / image_slice.label / f"{number}.png"
    mask = work / "masks" / f"{number}.png"
    with storage("the converted images"):
        _save(image, image_slice.image)
        if image_slice.mask is not None:
            _save(mask, image_slice.mask)
    masks = {"tumour": mask} if image_slice.mask is not None else {}
    return ListedImage(image, image_slice.label, unit=image_slice.patient, masks=masks)


def _save(path: Path, pixels: NDArray[Any]) -> None:
    """Whole or not at all; what is there already is whole."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    Image.fromarray(pixels).save(part, format="PNG")
    part.replace(path)


def _read(h5py: Any, path: Path) -> _Slice:
    try:
        with h5py.File(path, "r") as file:
            data = file["cjdata"]
            shape = data["image"].shape
            if len(shape) != 2 or max(shape) > _LARGEST:
                raise ImageError(f"a slice of at most {_LARGEST} pixels a side", f"{shape}")
            # MATLAB counts columns first, so HDF5 has the transpose
            image = np.asarray(data["image"][()]).T
            mask = np.asarray(data["tumorMask"][()]).T if "tumorMask" in data else None
            label = LABELS[int(np.asarray(data["label"][()]).item())]
            patient = "".join(chr(int(c)) for c in np.asarray(data["PID"][()]).ravel()).strip()
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as problem:
        raise ImageError("a file of figshare 1512427", f"'{path.name}' ({problem})") from None
    low = min(0, int(image.min()))  # none is known to be negative; a shift would lose nothing
    values = np.clip(image.astype(np.int64) - low, 0, np.iinfo(np.uint16).max).astype(np.uint16)
    shown = None if mask is None else np.ascontiguousarray((mask > 0).astype(np.uint8) * 255)
    if not patient:
        raise ImageError("a patient", f"none in '{path.name}'")
    return _Slice(np.ascontiguousarray(values), shown, label, patient)
