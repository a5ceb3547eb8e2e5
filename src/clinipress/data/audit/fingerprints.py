"""What is read of every image once: its hashes, its thumbnail and the facts of its file.

Each file is read once and decoded once, by threads (Pillow releases the interpreter lock while it
decodes). Everything else, duplicates and shortcuts alike, works on what is kept here: about 1.2 kB
per image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clinipress.data.sources import Dataset, ImageItem, decode_item, item_bytes, item_facts
from clinipress.errors import ImageError
from clinipress.kinds.image.read import HeaderFacts, decode, facts
from clinipress.kinds.image.twins import THUMBNAIL, difference_hashes, thumbnails_of
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import InputSpec
from clinipress.records.result import Unreadable

__all__ = ["FEATURES", "Fingerprints", "Readings", "read_all"]

# twice the thumbnail: enough for border and contrast, and JPEG files decode at reduced size
SIDE = 2 * THUMBNAIL
LOOK = InputSpec(channels=1, height=SIDE, width=SIDE)
BORDER = 2
BLACK, WHITE = 8, 247
CHUNK = 32
FILE_FEATURES = ("width", "height", "aspect ratio", "file bytes", "channels", "bits per value")
PICTURE_FEATURES = (
    "mean intensity",
    "intensity deviation",
    "border brightness",
    "black share",
    "white share",
)
FEATURES = FILE_FEATURES + PICTURE_FEATURES


@dataclass(frozen=True)
class Fingerprints:
    """Per-image facts in the order of the data set's items.

    Attributes:
        keys: Image keys.
        readable: bool ``[n]``; where False, the other facts are zeros.
        sha256: Hex digests of the bytes, "" for unreadable.
        dhash: uint64 ``[n]``.
        thumbnails: uint8 ``[n, 32, 32]``, grey.
        features: float32 ``[n, f]``: facts of file and picture that say nothing of its content.
        feature_names: ``f`` names.
        clusters: int64 ``[n]``, cluster of near-duplicates; -1 for unreadable.
        baseline: Image -> whether the statistics-only baseline, which saw no image of its unit,
            classified it right; images it was not asked for are absent.
    """

    keys: tuple[str, ...]
    readable: NDArray[np.bool_]
    sha256: list[str]
    dhash: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.float32]
    feature_names: tuple[str, ...]
    clusters: NDArray[np.int64]
    baseline: Mapping[str, bool] = field(default_factory=dict)


@dataclass
class Readings:
    """What `read_all` fills, before clusters are known."""

    readable: NDArray[np.bool_]
    sha256: list[str]
    dhash: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.float32]
    formats: list[str]
    unreadable: list[Unreadable]

    def table(self) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Features and their names, with one column per file format where there are several."""
        present = sorted({name for name in self.formats if name})
        if len(present) < 2:
            return self.features, FEATURES
        formats = np.asarray(self.formats)
        columns = np.stack([formats == name for name in present], axis=1).astype(np.float32)
        names = tuple(f"format {name}" for name in present)
        return np.concatenate([self.features, columns], axis=1), FEATURES + names


def read_all(
    dataset: Dataset, *, threads: int | None = None, progress: Progress = SILENT
) -> Readings:
    """Read every image by `threads` threads, or one per core; the unreadable are set aside."""
    n = len(dataset.items)
    readings = Readings(
        readable=np.zeros(n, dtype=np.bool_),
        sha256=[""] * n,
        dhash=np.zeros(n, dtype=np.uint64),
        thumbnails=np.zeros((n, THUMBNAIL, THUMBNAIL), dtype=np.uint8),
        features=np.zeros((n, len(FEATURES)), dtype=np.float32),
        formats=[""] * n,
        unreadable=[],
    )
    task = "reading images"
    progress.start(task, n)
    chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]

    def read(rows: range) -> int:
        _read_chunk(readings, dataset.items, rows)
        return len(rows)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for done in pool.map(read, chunks):
            progress.advance(task, done)
    readings.unreadable.sort(key=lambda image: image.path)
    progress.finish(task)
    return readings


def _read_chunk(readings: Readings, items: Sequence[ImageItem], rows: range) -> None:
    """Fill some rows; whole chunks, because small arrays would cost more than the decoding."""
    pictures, good = [], []
    for row in rows:
        item = items[row]
        try:
            data = item_bytes(item)
            grey, what = _look(item, data)
        except ImageError as problem:
            readings.unreadable.append(Unreadable(path=item.key, reason=str(problem)))
            continue
        readings.sha256[row] = hashlib.sha256(data).hexdigest()
        readings.formats[row] = what.format
        readings.features[row] = (*_file_facts(what, len(data)), *[0.0] * len(PICTURE_FEATURES))
        pictures.append(grey)
        good.append(row)
    if good:
        stack = np.stack(pictures)
        readings.dhash[good] = difference_hashes(stack)
        readings.thumbnails[good] = thumbnails_of(stack)
        readings.features[good, len(FILE_FEATURES) :] = _picture_facts(stack)
        readings.readable[good] = True


def _look(item: ImageItem, data: bytes) -> tuple[NDArray[np.uint8], HeaderFacts]:
    """The image in grey at 64x64, and its file's facts.

    Members of a larger file go through their own reader; the bytes at hand are all there is of
    every other image, so that no file is read twice.
    """
    if item.index is not None:
        return decode_item(item, LOOK)[0], item_facts(item)
    return decode(data, LOOK)[0], facts(data)


def _file_facts(what: HeaderFacts, size: int) -> tuple[float, ...]:
    """In the order of `FILE_FEATURES`; pixels and bytes."""
    return (what.width, what.height, what.width / what.height, size, what.channels, what.bits)


def _picture_facts(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """In the order of `PICTURE_FEATURES`, all in [0, 1]: uint8 ``[n, 64, 64]`` to ``[n, 5]``."""
    border = np.ones(grey.shape[1:], dtype=np.bool_)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    columns = (
        grey.mean(axis=(1, 2)) / 255,
        grey.std(axis=(1, 2)) / 255,
        grey[:, border].mean(axis=1) / 255,
        (grey <= BLACK).mean(axis=(1, 2)),
        (grey >= WHITE).mean(axis=(1, 2)),
    )
    return np.stack(columns, axis=1).astype(np.float32)
