"""What is read of every image once: its hashes, its thumbnail and the facts of its file.

Each file is read once and decoded once, by threads (Pillow releases the interpreter lock while it
decodes). Everything else, duplicates and shortcuts alike, works on what is kept here: about 1.2 kB
per image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.data.sources import Dataset, ImageItem, decode_item, item_bytes, item_facts
from clinipress.distributed import usable_cores
from clinipress.errors import ImageError
from clinipress.kinds.image.pixels import check_size
from clinipress.kinds.image.read import HeaderFacts, decode, facts
from clinipress.kinds.image.twins import THUMBNAIL, difference_hashes, thumbnails_of
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import InputSpec
from clinipress.records.result import Unreadable
from clinipress.records.store import sha256_of

__all__ = ["FEATURES", "Fingerprints", "Readings", "content_digests", "read_all"]

# twice the thumbnail: enough for border and contrast, and JPEG files decode at reduced size
SIDE = 2 * THUMBNAIL
LOOK = InputSpec(channels=1, height=SIDE, width=SIDE)
BORDER = 2
BLACK, WHITE = 8, 247
CHUNK = 32
IN_ONE_PIECE = 2**26  # bytes
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
        sha256: Hex digests of the bytes, "" where they cannot be read.
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
    frames: NDArray[np.int64]
    planes: list[str]
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

    def mixed_planes(self) -> dict[str, int]:
        """Plane -> slices, where volumes were cut in several; else empty."""
        counts = Counter(plane for plane in self.planes if plane)
        return dict(counts) if len(counts) > 1 else {}


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
        frames=np.ones(n, dtype=np.int64),
        planes=[""] * n,
        unreadable=[],
    )
    task = "reading images"
    progress.start(task, n)
    chunks = [range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]

    def read(rows: range) -> int:
        _read_chunk(readings, dataset.items, rows)
        return len(rows)

    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        for done in pool.map(read, chunks):
            progress.advance(task, done)
    readings.unreadable.sort(key=lambda image: image.path)
    progress.finish(task)
    return readings


def content_digests(
    dataset: Dataset, known: Fingerprints | None = None, *, threads: int | None = None
) -> dict[str, str]:
    """Image key -> sha256 of its whole file; "" where it cannot be read.

    Args:
        dataset: The data set.
        known: Of its items, in the same order: files hashed there are not read again.
        threads: Reading threads; None: one per core.
    """
    hashed = dict.fromkeys((item.path for item in dataset.items), "")
    if known is not None:  # the hash of one picture of several is not that of the file
        pairs = zip(dataset.items, known.sha256, strict=True)
        hashed |= {item.path: sha256 for item, sha256 in pairs if item.index is None}
    unknown = [path for path, sha256 in hashed.items() if not sha256]
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        hashed |= zip(unknown, pool.map(_file_digest, unknown), strict=True)
    return {item.key: hashed[item.path] for item in dataset.items}


def _file_digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError:  # the audit says what is the matter with it
        return ""


def _read_chunk(readings: Readings, items: Sequence[ImageItem], rows: range) -> None:
    """Fill some rows; whole chunks, because small arrays would cost more than the decoding."""
    pictures, good = [], []
    for row in rows:
        item = items[row]
        try:
            grey, what, digest, size = _look(item)
        except ImageError as problem:
            readings.unreadable.append(Unreadable(path=item.key, reason=str(problem)))
            continue
        readings.sha256[row] = digest
        readings.formats[row], readings.frames[row] = what.format, what.frames
        readings.planes[row] = what.plane
        readings.features[row] = (*_file_facts(what, size), *[0.0] * len(PICTURE_FEATURES))
        pictures.append(grey)
        good.append(row)
    if good:
        stack = np.stack(pictures)
        readings.dhash[good] = difference_hashes(stack)
        readings.thumbnails[good] = thumbnails_of(stack)
        readings.features[good, len(FILE_FEATURES) :] = _picture_facts(stack)
        readings.readable[good] = True


def _look(item: ImageItem) -> tuple[NDArray[np.uint8], HeaderFacts, str, int]:
    """The image in grey at 64x64, its header's facts, its digest and its bytes.

    The header first, so that no file is read whole before it is known to be an image; then the
    file once, in one piece while it is small. Pictures of a larger file go through its reader.
    """
    if item.index is not None:
        grey, what, data = decode_item(item, LOOK)[0], item_facts(item), item_bytes(item)
        share = item.path.stat().st_size // what.frames
        return grey, what, hashlib.sha256(data).hexdigest(), share
    what = facts(item.path)
    check_size(what.width, what.height)
    try:
        size = item.path.stat().st_size
        if size <= IN_ONE_PIECE:
            data = item.path.read_bytes()
            grey = decode(data, LOOK, sketch=True)[0]
            return grey, what, hashlib.sha256(data).hexdigest(), size
        with item.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        raise ImageError("a file that can be read", f"'{item.key}' ({problem.strerror})") from None
    return decode(item.path, LOOK, sketch=True)[0], what, digest, size


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
