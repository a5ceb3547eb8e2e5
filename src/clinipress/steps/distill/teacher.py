"""A teacher's answers, computed once per view and kept on the disk.

The teacher sees the same seeded views as the student will (`clinipress.train.augment.draw`), each
at its own input size, so its forward pass is paid once per view and not in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.data.cache import DECODERS
from clinipress.errors import DataError
from clinipress.formats.open import TRAINING_PACKAGES
from clinipress.models.classifier import TorchCandidate
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import Candidate
from clinipress.records.store import sha256_of, storage, versions, write_atomically
from clinipress.steps.distill.features import FeatureMethod, read_of_teacher
from clinipress.train import distributed
from clinipress.train.augment import augment, draw
from clinipress.train.loader import PixelStore

__all__ = [
    "CachedMaps",
    "LiveMaps",
    "Places",
    "Views",
    "finished",
    "maps_width",
    "teacher_logits",
    "teacher_maps",
]

TASK = "teacher"
BATCH = 64
MARK_EVERY = 8  # batches between two marks: what a kill can cost
Answer = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
Shapes = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Views:
    """The seeded augmented views of some images, at the size of the one who looks.

    Attributes:
        cache: Pixels in the viewer's own input size; row numbers are the same for all sizes.
        rows: int64 ``[n]``, rows of the cache.
        modality: Of the augmentation.
        strength: Of the augmentation, as the student's.
        seed: Of the augmentation, as the student's.
        count: How many; view v is what the student sees in epochs v, v + count, ...
    """

    cache: PixelStore
    rows: NDArray[np.int64]
    modality: str
    strength: float
    seed: int
    count: int

    def images(self, rows: NDArray[np.int64], view: int) -> torch.Tensor:
        """One view of some rows, uint8 ``[m, c, h, w]``."""
        size = (self.cache.shape[2], self.cache.shape[3])
        pixels = torch.from_numpy(self.cache.take(rows))
        return augment(pixels, size, self.modality, self.strength, draw(self.seed, view, rows))

    def facts(self) -> dict[str, Any]:
        """What the views depend on, as plain data."""
        rows = np.ascontiguousarray(self.rows, dtype=np.int64)
        return {
            "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
            "pixels": list(self.cache.shape),
            "modality": self.modality,
            "strength": self.strength,
            "seed": self.seed,
        }


def teacher_logits(
    teacher: Candidate, views: Views, *, path: Path, progress: Progress = SILENT
) -> NDArray[np.float32]:
    """The teacher's logits for every view of every row: float32 ``[views, n, classes]``, mapped.

    Read from `path` (.npy) where they are finished; marks of what is done lie beside it until then.

    Raises:
        DataError: The teacher's outputs do not fit its own class names.
        StorageError: The disk is full; what was computed is kept for the next run.
    """
    facts = {"teacher": teacher.digest}
    width = len(teacher.card.classes)
    return _table(_Job(teacher.predict, width, "<f4", views, facts, path, progress))


def finished(path: Path) -> bool:
    """True when a table is whole."""
    try:
        kept = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        views, images, _ = kept["facts"]["shape"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(path.is_file() and kept.get("done") == views * -(-images // BATCH))


def teacher_maps(
    teacher: TorchCandidate,
    layers: Sequence[str],
    method: FeatureMethod,
    views: Views,
    *,
    shapes: Shapes,
    path: Path,
    progress: Progress = SILENT,
) -> NDArray[np.floating]:
    """What a feature loss reads of the teacher, for every view of every row.

    Args:
        teacher: A PyTorch candidate.
        layers: Modules of its backbone.
        method: "fitnet" keeps the maps, in float16; "attention" their attentions, in float32.
        views: What it looks at.
        shapes: (channels, height, width) per layer of what is kept.
        path: The file (.npy).
        progress: Hears the images done.

    Returns:
        ``[views, n, width]``, the layers' values in a row, memory-mapped, read-only.

    Raises:
        DataError: A value is too large for float16.
        StorageError: The disk is full; what was computed is kept for the next run.
    """

    def answer(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        maps = read_of_teacher(teacher.module, layers, method, torch.from_numpy(images))
        return np.concatenate(
            [feature_map.flatten(1).cpu().numpy() for feature_map in maps], axis=1
        )

    facts = {"teacher": teacher.digest, "layers": list(layers), "method": method}
    kind = "<f2" if method == "fitnet" else "<f4"
    return _table(_Job(answer, maps_width(shapes), kind, views, facts, path, progress))


def maps_width(shapes: Shapes) -> int:
    """Numbers per image in a table of maps."""
    return sum(channels * height * width for channels, height, width in shapes)


def _table(job: _Job) -> NDArray[Any]:
    """The finished table; computed by the first process, read by all."""
    if distributed.is_main():
        with storage(f"the teacher's outputs '{job.path}'"):
            job.run()
    distributed.barrier()
    table: NDArray[Any] = np.load(job.path, mmap_mode="r", allow_pickle=False)
    return table


class _Job:
    def __init__(
        self,
        answer: Answer,
        width: int,
        kind: str,
        views: Views,
        facts: dict[str, Any],
        path: Path,
        progress: Progress,
    ) -> None:
        self.answer, self.kind, self.views, self.progress = answer, kind, views, progress
        self.path, self.marks = path, path.with_name(path.name + ".json")
        self.shape = (views.count, len(views.rows), width)
        self.facts = {**facts, **views.facts(), "shape": list(self.shape), "type": kind}
        self._kept: dict[str, Any] = {}
        self.facts["versions"] = versions((*TRAINING_PACKAGES, *DECODERS))

    def run(self) -> None:
        per_view = -(-self.shape[1] // BATCH)
        total = self.shape[0] * per_view
        done = self._done()
        if done == total:
            if self._kept.get("sha256") == sha256_of(self.path):
                return
            done = 0  # damaged since
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.progress.start(TASK, total)
        self.progress.advance(TASK, done)
        with self._opened(fresh=done == 0) as file:
            for number in range(done, total):
                view, start = number // per_view, number % per_view * BATCH
                self._put(file, view, start, self._answers(view, start))
                self.progress.advance(TASK, 1, f"view {view + 1} of {self.shape[0]}")
                if (number + 1) % MARK_EVERY == 0 or number + 1 == total:
                    file.flush()
                    os.fsync(file.fileno())
                    if number + 1 < total:
                        self._mark(number + 1)
        self._mark(total, sha256=sha256_of(self.path))
        self.progress.finish(TASK)

    def _opened(self, *, fresh: bool) -> IO[bytes]:
        """The .npy file, its header in place.

        Plain writes, not a memory map: on a full disk a map kills the process (SIGBUS), a write
        raises an error.
        """
        file = self.path.open("wb" if fresh else "r+b")
        np.lib.format.write_array_header_1_0(
            file, {"descr": self.kind, "fortran_order": False, "shape": self.shape}
        )
        self.begin = file.tell()
        return file

    def _put(self, file: IO[bytes], view: int, start: int, answers: NDArray[Any]) -> None:
        _, images, width = self.shape
        file.seek(self.begin + (view * images + start) * width * answers.itemsize)
        file.write(answers.tobytes())

    def _answers(self, view: int, start: int) -> NDArray[Any]:
        some = np.ascontiguousarray(self.views.rows[start : start + BATCH], dtype=np.int64)
        answers = self.answer(self.views.images(some, view).numpy())
        if answers.shape != (len(some), self.shape[2]):
            expected = f"outputs of shape {(len(some), self.shape[2])} from the teacher"
            raise DataError(expected, str(answers.shape), "the card's classes must be the outputs")
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(answers, dtype=self.kind)
        if not np.isfinite(kept).all():
            raise DataError(
                "finite outputs of the teacher", "NaN, infinity or a number beyond its table's type"
            )
        return kept

    def _done(self) -> int:
        """Batches already in the file, 0 when it is not of this job."""
        try:
            kept = json.loads(self.marks.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        if not self.path.is_file() or kept.get("facts") != self.facts:
            return 0
        self._kept = kept
        return int(kept["done"])

    def _mark(self, done: int, **more: str) -> None:
        write_atomically(self.marks, json.dumps({"done": done, "facts": self.facts, **more}))


class CachedMaps:
    """A teacher's maps out of a table of `teacher_maps`, made for `rows`."""

    def __init__(self, table: NDArray[Any], rows: NDArray[np.int64], shapes: Shapes) -> None:
        self._table, self._shapes, self._places = table, list(shapes), Places(rows)
        self._ends = np.cumsum([maps_width([shape]) for shape in self._shapes])[:-1]

    def __call__(self, rows: NDArray[np.int64], view: int) -> list[torch.Tensor]:
        """One float32 ``[n, c, h, w]`` per layer, of (channels, height, width) in `shapes`."""
        values = self._table[view, self._places(rows)].astype(np.float32)
        parts = np.split(values, self._ends, axis=1)
        return [
            torch.from_numpy(part).reshape(-1, *shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]


class LiveMaps:
    """A teacher's maps, computed at every step: for maps too large to be kept.

    A teacher on the CPU stays there.
    """

    def __init__(
        self, teacher: TorchCandidate, layers: Sequence[str], method: FeatureMethod, views: Views
    ) -> None:
        self._teacher, self._layers, self._method = teacher, tuple(layers), method
        self._views = views

    def __call__(self, rows: NDArray[np.int64], view: int) -> list[torch.Tensor]:
        """One float32 ``[n, c, h, w]`` per layer."""
        images = self._views.images(rows, view)
        return read_of_teacher(self._teacher.module, self._layers, self._method, images)


class Places:
    """From row numbers of the cache to places in a table."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._place = np.full(int(rows.max()) + 1, -1, dtype=np.int64)
        self._place[rows] = np.arange(len(rows))

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 ``[m]``; DataError where a row is not in the table."""
        known = rows[rows < len(self._place)]
        places: NDArray[np.int64] = self._place[known]
        if len(known) < len(rows) or (places < 0).any():
            raise DataError("rows the teacher has seen", "others", "compute its outputs for them")
        return places
