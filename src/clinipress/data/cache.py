"""Images decoded once into one memory-mapped file, so that training reads and never decodes.

    FOLDER/
      images.u8        uint8 [n, channels, height, width], nothing else
      cache.json       keys, labels, classes, input, the digest of each source file (else its size
                       and time), and that of images.u8
      images.u8.part   an unfinished build; marks.json says how far it is whole

The file is written with plain writes and mapped only when it is whole: a full disk met through a
memory map would kill the process (SIGBUS) instead of raising an error.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.sources import ImageItem, decode_item
from clinipress.distributed import usable_cores
from clinipress.errors import DataError, InputError, StorageError
from clinipress.kinds.image.pixels import READING
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import InputSpec
from clinipress.records.store import (
    digest_of,
    read_json,
    sha256_of,
    storage,
    versions,
    write_atomically,
)

__all__ = ["DECODERS", "UNKNOWN", "Cache", "build_cache", "labelled"]

IMAGES, SIDECAR, PART, MARKS = "images.u8", "cache.json", "images.u8.part", "marks.json"
TASK = "decoding images"
SHA256 = "sha256"
FORMAT = "clinipress cache 2"
UNKNOWN = -1  # whether a finding is present
# Distributions whose versions decide what a decoded pixel is.
DECODERS = (
    *("nibabel", "numpy", "pillow", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg"),
    "pylibjpeg-openjpeg",
)
PAGE = 4096
# the kernel maps 16 pages around each fault, wanted or not
FAULT_AROUND = 65536
TOUCHED_LIMIT = 64 * 2**20
MARK_BYTES = 32 * 2**20


class Cache:
    """Decoded images; reading keeps resident memory bounded however large the file is.

    Args:
        folder: Folder of a finished cache.

    Attributes:
        keys: Names of the images.
        labels: int64 ``[n]`` class numbers; of several findings ``[n, k]``: 1 present, 0 absent, -1
            unknown.
        classes: Class names.
        spec: The input the images were decoded for.
        shape: ``(n, channels, height, width)``.

    Raises:
        DataError: The folder holds no whole cache.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / SIDECAR).is_file() or not (folder / IMAGES).is_file():
            raise DataError("a finished cache", f"none in '{folder}'", "build_cache makes one")
        facts = read_json(folder / SIDECAR)
        self.folder = folder
        self.keys: tuple[str, ...] = tuple(facts["keys"])
        self.labels: NDArray[np.int64] = np.asarray(facts["labels"], dtype=np.int64)
        self.classes: tuple[str, ...] = tuple(facts["classes"])
        self.spec = InputSpec.model_validate(facts["spec"])
        self.shape = (len(self.keys), self.spec.channels, self.spec.height, self.spec.width)
        self._touched = 0
        self._rows: dict[str, int] = {}
        with (folder / IMAGES).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != int(np.prod(self.shape)) or size == 0:
                raise DataError(
                    f"{int(np.prod(self.shape))} bytes in '{folder / IMAGES}'",
                    f"{size}",
                    "delete the folder; it is made again",
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._images = np.frombuffer(self._map, dtype=np.uint8).reshape(self.shape)

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        """Travel to another process as a path: the map is opened there again."""
        return Cache, (self.folder,)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy rows, int64 ``[m]`` in any order, out of the file: uint8 ``[m, c, h, w]``."""
        images = self._images[indices]
        row = -(-images[0].nbytes // PAGE) * PAGE if len(images) else 0
        self._touched += len(images) * (row + FAULT_AROUND)
        if self._touched > TOUCHED_LIMIT:
            self.release()
        return images

    def release(self) -> None:
        """Give mapped pages back; they stay in the system's file cache, not in this process."""
        self._touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows, whose working set trims itself
            self._map.madvise(mmap.MADV_DONTNEED)

    def where(self, keys: Iterable[str]) -> NDArray[np.int64]:
        """Row numbers of images by name: int64 ``[m]``.

        Raises:
            DataError: An image is not in the cache.
        """
        if not self._rows:
            self._rows = {key: row for row, key in enumerate(self.keys)}
        try:
            return np.asarray([self._rows[key] for key in keys], dtype=np.int64)
        except KeyError as missing:
            raise DataError("images of this cache", f"{missing}", "decode them first") from None


def build_cache(
    items: Sequence[ImageItem],
    classes: tuple[str, ...],
    spec: InputSpec,
    path: Path,
    *,
    contents: Mapping[str, str] | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Cache:
    """Decode images into a cache, or reopen it when it was made of the same files before.

    The same are files of the same `contents` (image key -> sha256); without these, of the same
    size and time. What was damaged on the disk since is decoded again.

    Rows are in the order of `items`, labels in that of `classes`. A build that was killed goes on
    from its last mark (every 32 MB). Several processes may call this at once: one builds, the
    others wait and then reopen. Without `threads` every core decodes.

    Raises:
        ImageError: An image cannot be decoded.
        DataError: There is no image, or a label is no class.
        StorageError: The disk is full; nothing of the unfinished cache is left on it.
    """
    facts = _facts(items, classes, spec, contents)
    with storage(f"the decoded images in '{path}'"):
        path.mkdir(parents=True, exist_ok=True)
    with _lock(path / "lock"):
        if not _is_whole(path, facts):
            _build(items, spec, path, facts, threads or usable_cores(), progress)
    return Cache(path)


def _facts(
    items: Sequence[ImageItem],
    classes: tuple[str, ...],
    spec: InputSpec,
    contents: Mapping[str, str] | None,
) -> dict[str, Any]:
    number = {name: i for i, name in enumerate(classes)}
    foreign = [item for item in items if item.findings is None and item.label not in number]
    if not items or foreign:
        got = f"'{foreign[0].label}' at '{foreign[0].key}'" if foreign else "no image at all"
        raise DataError(f"images of the classes {', '.join(classes)}", got)
    files: list[Any]
    if contents is not None:
        files = [contents[item.key] for item in items]
    else:
        stats = {path: path.stat() for path in {item.path for item in items}}
        files = [[stats[i.path].st_size, stats[i.path].st_mtime_ns] for i in items]
    return {
        "format": FORMAT,
        "versions": versions(DECODERS),
        "reading": READING,
        "keys": [item.key for item in items],
        "labels": [labelled(item, classes) for item in items],
        "classes": list(classes),
        "spec": spec.model_dump(mode="json"),
        "files": files,
    }


def labelled(item: ImageItem, classes: Sequence[str]) -> int | list[int]:
    """The number of its class; of several findings, whether each is present: 1, 0, -1 unknown."""
    if item.findings is None:
        return classes.index(item.label)
    return [int(item.findings.get(name, UNKNOWN)) for name in classes]


def _is_whole(path: Path, facts: dict[str, Any]) -> bool:
    spec, images = facts["spec"], path / IMAGES
    size = len(facts["keys"]) * spec["channels"] * spec["height"] * spec["width"]
    if not (path / SIDECAR).is_file() or not images.is_file() or images.stat().st_size != size:
        return False
    with contextlib.suppress(InputError):
        kept = read_json(path / SIDECAR)
        sha256 = kept.pop(SHA256, None) if isinstance(kept, dict) else None
        return digest_of(kept) == digest_of(facts) and sha256 == sha256_of(images)
    return False


def _build(
    items: Sequence[ImageItem],
    spec: InputSpec,
    path: Path,
    facts: dict[str, Any],
    threads: int,
    progress: Progress,
) -> None:
    """Decode into the part file from its last mark on, then publish it."""
    row = spec.channels * spec.height * spec.width
    digest = digest_of(facts)
    start = _rows_done(path, digest, row)
    _need_room(path, (len(items) - start) * row)
    progress.start(TASK, len(items))
    progress.advance(TASK, start)
    # the sidecar vouches for images.u8, so it goes before the images change
    (path / SIDECAR).unlink(missing_ok=True)
    chunk = max(1, MARK_BYTES // row)
    try:
        with storage("the decoded images"):
            with (path / PART).open("r+b" if start else "wb") as file:
                if start:  # what was written beyond the mark may be torn
                    file.truncate(start * row)
                    file.seek(start * row)
                for first in range(start, len(items), chunk):
                    some = items[first : first + chunk]
                    _write_rows(file, some, spec, threads, progress)
                    _mark(file, path, digest, first + len(some))
            (path / PART).replace(path / IMAGES)
            kept = facts | {SHA256: sha256_of(path / IMAGES)}
            write_atomically(path / SIDECAR, json.dumps(kept))
    except StorageError:
        for name in (PART, MARKS):
            (path / name).unlink(missing_ok=True)
        raise
    (path / MARKS).unlink(missing_ok=True)
    progress.finish(TASK)


def _write_rows(
    file: IO[bytes], items: Sequence[ImageItem], spec: InputSpec, threads: int, progress: Progress
) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for image in pool.map(lambda item: decode_item(item, spec), items):
            file.write(image.tobytes())
            progress.advance(TASK)


def _mark(file: IO[bytes], path: Path, digest: str, rows: int) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_atomically(path / MARKS, json.dumps({"of": digest, "rows": rows}))


def _rows_done(path: Path, digest: str, row: int) -> int:
    """Whole rows that an unfinished build of the same images left behind."""
    part = path / PART
    if not part.is_file() or not (path / MARKS).is_file():
        return 0
    marks = read_json(path / MARKS)
    if marks["of"] != digest:
        return 0
    return min(int(marks["rows"]), part.stat().st_size // row)


def _need_room(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path).free
    if free < wanted:
        raise StorageError(
            f"{wanted / 1e6:.0f} MB of room for the decoded images in '{path}'",
            f"{free / 1e6:.0f} MB",
            "free some space, or choose another --out",
        )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees when the process dies; no lock where there is none."""
    try:
        import fcntl
    except ImportError:  # Windows: several processes are not started there
        yield
        return
    with path.open("wb") as file:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
