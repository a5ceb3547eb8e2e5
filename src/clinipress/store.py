"""The run folder: finished pieces of work under the digest of what they were made from.

    RUN/
      study.json            the study as it was run, defaults included
      split.json            which image belongs where; the test split is sealed
      test_openings.jsonl   every opening of it
      cache/                decoded images, memory-mapped
      teacher/              the reference's outputs on the augmented views, computed once
      objects/KIND-KEY/     finished pieces, never changed again
      work/KIND-KEY/        unfinished pieces with their checkpoints
      scores/               every answer of every candidate (npz): statistics re-run from these
      pictures/             thumbnails and saliency panels that the report shows
      external/             what was measured on images from elsewhere
      result.json, result.schema.json, report.html, report.md, model-card.md, dossier.md and .json
      bundle/

A piece is made in ``work/`` and moved to ``objects/`` in one rename, so what stands in ``objects/``
is whole. A run that was killed finds the finished pieces by their keys and the unfinished one by
its checkpoints. Under torchrun every process walks the same flow: the first makes a piece while the
others wait, then all read it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clinipress import distributed
from clinipress.errors import InputError, StorageError
from clinipress.records import Result

__all__ = ["Store", "digest_of", "read_json", "read_result", "storage", "write_atomically"]

KEY_DIGITS = 16


def digest_of(value: Any) -> str:
    """sha256 of plain data as canonical JSON; equal data gives equal digests.

    Example:
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn a full or read-only disk into one line.

    Raises:
        StorageError: Writing failed for want of room or permission.
    """
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"room on the disk for {what}",
                "a full disk",
                "free some space and run the same command again; finished work is kept",
            ) from None
        if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StorageError(
                f"a folder that can be written for {what}",
                f"'{problem.filename}': {problem.strerror}",
                "choose another one with --out",
            ) from None
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a reader never sees half of it, not even after a kill."""
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with storage(f"'{path.name}'"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


class Store:
    """One run folder.

    Args:
        folder: The run folder; made if it is not there.

    Raises:
        InputError: `folder` is a file, or holds something other than a run.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError("a folder for the run", f"the file '{folder}'", "choose another --out")
        self.folder = folder
        with storage(f"the run in '{folder}'"):
            for name in ("objects", "work"):
                (folder / name).mkdir(parents=True, exist_ok=True)

    def once(
        self,
        kind: str,
        inputs: dict[str, Any],
        make: Callable[[Path], None],
        *,
        together: bool = False,
    ) -> Path:
        """The folder of a finished piece of work, made now if it was not made before.

        Args:
            kind: What it is, for people: "train", "export", "scores".
            inputs: Everything it depends on, as plain data; its digest is the key.
            make: Fills the folder it is given. When it was killed before, the folder still holds
                what it left there.
            together: Under torchrun, every process runs `make` (training does); else the first
                one alone.

        Returns:
            The finished folder, never changed again.
        """
        key = digest_of({"kind": kind, "inputs": inputs})[:KEY_DIGITS]
        done = self.folder / "objects" / f"{kind}-{key}"
        work = self.folder / "work" / f"{kind}-{key}"
        finished = distributed.agree(done.is_dir())
        if not finished:
            if together or distributed.is_main():
                with storage(f"the step '{kind}'"):
                    work.mkdir(parents=True, exist_ok=True)
                    make(work)
            distributed.barrier()
            if distributed.is_main():
                self._publish(work, done, inputs)
            distributed.barrier()
        return done

    def _publish(self, work: Path, done: Path, inputs: dict[str, Any]) -> None:
        write_atomically(work / "inputs.json", json.dumps(inputs, indent=1, sort_keys=True))
        shutil.rmtree(work / "checkpoint", ignore_errors=True)
        work.rename(done)
        _sync_folder(done.parent)

    def read(self, name: str) -> Any:
        """Plain data of a JSON file in the run folder.

        Raises:
            InputError: It is not there or not JSON.
        """
        return read_json(self.folder / name)


def read_json(path: Path) -> Any:
    """Plain data of a JSON file.

    Raises:
        InputError: It is not there or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"the file '{path.name}'", f"a folder without it: '{path.parent}'"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"JSON in '{path}'", str(problem)) from None


def read_result(folder: Path) -> Result:
    """The records of a finished run.

    Raises:
        InputError: The folder holds no result, or one that another version wrote.
    """
    try:
        return Result.model_validate(read_json(folder / "result.json"))
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"a result.json of this version in '{folder}'",
            f"one where '{where}' does not fit ({first['msg']})",
            "run the study again",
        ) from None


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
