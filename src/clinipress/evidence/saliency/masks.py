"""Masks that saliency is held against: a folder named as the images are, or a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.data.named.tables import read_masks
from clinipress.errors import DataError
from clinipress.kinds.image.read import decode
from clinipress.records.candidate import InputSpec

__all__ = ["image_masks"]

HALF = 127  # grey level above which a mask is set


def image_masks(
    where: str, kind: str | None, keys: Sequence[str], spec: InputSpec
) -> NDArray[np.bool_]:
    """Masks brought to the network's size, bool ``[n, h, w]``; False where an image has none.

    Args:
        where: Folder whose tree is that of the images, whatever the suffix; or the NAME.masks.csv
            that `clinipress data` wrote, whose keys are those of the manifest beside it.
        kind: Which masks of the table, such as "lung"; None: its only kind.
        keys: Names of the images.
        spec: The network's input.

    Raises:
        DataError: There is no mask of any of these images, or the table has several kinds.
    """
    table = Path(where).suffix == ".csv"
    files = _of_table(Path(where), kind) if table else {key: _beside(where, key) for key in keys}
    grey = spec.model_copy(update={"channels": 1, "window": None})
    masks = np.zeros((len(keys), spec.height, spec.width), np.bool_)
    count = 0
    for number, key in enumerate(keys):
        path = files.get(key)
        if path is not None and path.is_file():
            masks[number] = decode(path, grey)[0] > HALF
            count += 1
    if not count:
        raise DataError(
            f"masks of these images in '{where}'",
            f"none for any of {len(keys)}, first '{keys[0]}'",
            "give 'evidence.masks' the table beside the manifest that the study reads"
            if table
            else "give 'evidence.masks' the folder whose tree is that of the images",
        )
    return masks


def _beside(folder: str, key: str) -> Path:
    path = Path(folder) / key
    return path if path.is_file() else next(iter(path.parent.glob(f"{path.stem}.*")), path)


def _of_table(table: Path, kind: str | None) -> Mapping[str, Path]:
    masks = read_masks(table)
    kinds = sorted({name for of in masks.values() for name in of})
    if kind is None and len(kinds) == 1:
        (kind,) = kinds
    if kind not in kinds:
        raise DataError(
            f"'evidence.mask_kind' among {', '.join(kinds)}, the kinds of '{table.name}'",
            f"'{kind}'" if kind else "none",
        )
    return {key: of[kind] for key, of in masks.items() if kind in of}
