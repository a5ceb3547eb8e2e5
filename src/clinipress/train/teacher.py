"""A teacher's outputs, computed once per view and kept on the disk; distillation from them.

The teacher sees the same seeded views as the student will (`clinipress.train.augment.draw`), each
at its own input size, so its forward pass is paid once per view and not in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.candidate import Candidate
from clinipress.errors import DataError
from clinipress.progress import SILENT, Progress
from clinipress.store import storage, write_atomically
from clinipress.train import distributed
from clinipress.train.augment import augment, draw
from clinipress.train.loader import PixelStore
from clinipress.train.losses import distillation

__all__ = ["DistillationLoss", "teacher_logits"]

TASK = "teacher"
BATCH = 64
MARK_EVERY = 8  # batches between two marks: what a kill can cost


def teacher_logits(
    teacher: Candidate,
    cache: PixelStore,
    rows: NDArray[np.int64],
    *,
    modality: str,
    strength: float,
    seed: int,
    views: int,
    path: Path,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """The teacher's logits for every view of every row, from the disk where they are finished.

    Args:
        teacher: Whose outputs; asked in eval mode, as every candidate.
        cache: Pixels in the teacher's own input size; row numbers as in the student's.
        rows: int64 ``[n]``, rows of the cache.
        modality: Of the augmentation.
        strength: Of the augmentation, as the student's.
        seed: Of the augmentation, as the student's.
        views: How many; view v is what the student sees in epochs v, v + views, ...
        path: The file (.npy); marks of what is done lie beside it until it is finished.
        progress: Hears the images done.

    Returns:
        float32 ``[views, n, classes]``, memory-mapped, read-only.

    Raises:
        DataError: The teacher's outputs do not fit its own class names.
        StorageError: The disk is full; what was computed is kept for the next run.
    """
    if distributed.is_main():
        job = _Job(teacher, cache, rows, modality, strength, seed, views, path, progress)
        with storage(f"the teacher's outputs '{path}'"):
            job.run()
    distributed.barrier()
    logits: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return logits


class _Job:
    """One computation of teacher's logits, with its marks."""

    def __init__(
        self,
        teacher: Candidate,
        cache: PixelStore,
        rows: NDArray[np.int64],
        modality: str,
        strength: float,
        seed: int,
        views: int,
        path: Path,
        progress: Progress,
    ) -> None:
        self.teacher, self.cache, self.progress = teacher, cache, progress
        self.rows = np.ascontiguousarray(rows, dtype=np.int64)
        self.modality, self.strength, self.seed = modality, strength, seed
        self.path, self.marks = path, path.with_name(path.name + ".json")
        self.shape = (views, len(rows), len(teacher.card.classes))
        self.facts: dict[str, Any] = {
            "teacher": teacher.digest,
            "rows": hashlib.sha256(self.rows.tobytes()).hexdigest(),
            "pixels": list(cache.shape),
            "modality": modality,
            "strength": strength,
            "seed": seed,
            "shape": list(self.shape),
        }

    def run(self) -> None:
        """Compute what is not on the disk yet."""
        per_view = -(-len(self.rows) // BATCH)
        total = self.shape[0] * per_view
        done = self._done()
        if done == total:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.progress.start(TASK, total)
        self.progress.advance(TASK, done)
        with self._opened(fresh=done == 0) as file:
            for number in range(done, total):
                view, start = number // per_view, number % per_view * BATCH
                self._put(file, view, start, self._logits(view, start))
                self.progress.advance(TASK, 1, f"view {view + 1} of {self.shape[0]}")
                if (number + 1) % MARK_EVERY == 0 or number + 1 == total:
                    file.flush()
                    os.fsync(file.fileno())
                    self._mark(number + 1)
        self.progress.finish(TASK)

    def _opened(self, *, fresh: bool) -> IO[bytes]:
        """The .npy file, its header in place.

        Plain writes, not a memory map: on a full disk a map kills the process (SIGBUS), a write
        raises an error.
        """
        file = self.path.open("wb" if fresh else "r+b")
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        )
        self.begin = file.tell()
        return file

    def _put(self, file: IO[bytes], view: int, start: int, logits: NDArray[np.float32]) -> None:
        """Write one batch at its place."""
        _, images, classes = self.shape
        file.seek(self.begin + (view * images + start) * classes * 4)
        file.write(np.ascontiguousarray(logits, dtype="<f4").tobytes())

    def _logits(self, view: int, start: int) -> NDArray[np.float32]:
        """One batch: the augmented view through the teacher."""
        some = self.rows[start : start + BATCH]
        size = (self.cache.shape[2], self.cache.shape[3])
        uniforms = draw(self.seed, view, some)
        images = torch.from_numpy(self.cache.take(some))
        images = augment(images, size, self.modality, self.strength, uniforms)
        logits = self.teacher.predict(images.numpy())
        if logits.shape != (len(some), self.shape[2]):
            expected = f"logits of shape {(len(some), self.shape[2])} from the teacher"
            raise DataError(expected, str(logits.shape), "the card's classes must be the outputs")
        return logits

    def _done(self) -> int:
        """Batches already in the file, 0 when it is not of this job."""
        try:
            kept = json.loads(self.marks.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        if not self.path.is_file() or kept.get("facts") != self.facts:
            return 0
        return int(kept["done"])

    def _mark(self, done: int) -> None:
        """Record the batches done, atomically, after they are in the file."""
        write_atomically(self.marks, json.dumps({"done": done, "facts": self.facts}))


class DistillationLoss:
    """Hinton's loss on cached teacher's logits, as the training loop calls a loss.

    Args:
        teacher: float32 ``[views, n, classes]`` from `teacher_logits`.
        rows: int64 ``[n]``, the rows they were computed for.
        temperature: T of both softmaxes.
        alpha: Weight of the soft part; 0 is the control.
        smoothing: Of the hard part.
        class_weights: Of the hard part, float ``[classes]`` or None.
    """

    def __init__(
        self,
        teacher: NDArray[np.float32],
        rows: NDArray[np.int64],
        *,
        temperature: float,
        alpha: float,
        smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self._teacher, self._temperature, self._alpha = teacher, temperature, alpha
        self._smoothing, self._weights = smoothing, class_weights
        self._place = np.full(int(rows.max()) + 1, -1, dtype=np.int64)
        self._place[rows] = np.arange(len(rows))

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, rows: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        """Mean loss of a batch: rows find the teacher's logits, view says which."""
        places = self._place[rows]
        if (places < 0).any():
            raise DataError("rows the teacher has seen", "others", "compute its outputs for them")
        teacher = torch.from_numpy(self._teacher[view, places]).to(logits.device)
        weights = None if self._weights is None else self._weights.to(logits.device)
        return distillation(
            logits, labels, teacher, self._temperature, self._alpha, self._smoothing, weights
        )
