"""The run folder: finished pieces of work under the digest of what they were made from.

    RUN/
      study.json            the study as it was run, defaults included
      split.json            which image belongs where; the test split is sealed
      rules.json            what verdicts hang on, sealed before it is first opened
      test_openings.jsonl   every opening of it
      fingerprints.npz      how the study's images are known again in a set from elsewhere
      cache/                decoded images, memory-mapped
      teacher/              the reference's outputs on the augmented views, computed once
      objects/KIND-KEY/     finished pieces, never changed again
      work/KIND-KEY/        unfinished pieces with their checkpoints
      .lock                 held by the run that works here
      scores/               every answer of every candidate (npz): statistics re-run from these
      pictures/             thumbnails and saliency panels that the report shows
      external/             what was measured on images from elsewhere
      result.json, result.schema.json, report.html, report.md, model-card.md, dossier.md and .json
      bundle/

The key of a piece holds its kind, what it was made from, and the versions of clinipress and of
the packages that made it: after an upgrade it is made anew, and the older one is left where it
lies. The split alone is kept whatever the version, so that no upgrade draws the test split again.

A piece is made in ``work/`` and moved to ``objects/`` in one rename, with the sha256 of each of its
files: one that was damaged on the disk since is noticed when it is asked for, and made again. A run
that was killed finds the finished pieces by their keys and the unfinished one by its checkpoints.
One run at a time works in a folder (`locked`). Under torchrun every process walks the same flow:
the first makes a piece while the others wait, then all read it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path, PurePath
from typing import IO, Any

from pydantic import ValidationError

from clinipress import distributed, version
from clinipress.errors import InputError, StorageError
from clinipress.progress import SILENT, Progress
from clinipress.records.result import Result
from clinipress.records.version1 import result_of_version1

__all__ = [
    "Store",
    "below",
    "digest_of",
    "locked",
    "read_json",
    "read_result",
    "sha256_of",
    "storage",
    "strange_content",
    "versions",
    "write_atomically",
]

KEY_DIGITS = 16
INPUTS, VERSIONS, HASHES, LOCK = "inputs.json", "versions.json", "sha256.json", ".lock"
PARTS = ".*.part"  # what a process that was killed left of a file


def below(folder: Path, name: str) -> Path:
    """A path that a record or a user names, inside a folder.

    Raises:
        InputError: It leads out of it.

    Example:
        >>> below(Path("run"), "external/there.npz").as_posix()
        'run/external/there.npz'
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
        raise InputError(f"a name of something inside '{folder}'", f"'{name}'", "choose another")
    return folder / path


def digest_of(value: Any) -> str:
    """sha256 of plain data as canonical JSON; equal data gives equal digests.

    Example:
        >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits, read piece by piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """The versions that a piece of work depends on: clinipress's, and those of installed packages.

    Args:
        packages: Names of distributions; one that is not installed is left out.
    """
    installed = {"clinipress": version.__version__}
    for name in sorted(set(packages)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from working in a run folder, which is made if it is not there.

    The system frees the lock when the process ends, however it ends. Where a network disk has no
    locks, the file says which process of which computer works here; one that is gone from this
    computer is taken over.

    Raises:
        InputError: Another process works there, or the folder is a file.
        StorageError: The folder cannot be written.
    """
    if not distributed.is_main():  # of several processes of one run, the first answers for all
        yield
        return
    _refuse_file(folder)
    with storage(f"the run in '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    with file:
        if not _take(file):
            raise InputError(
                "a run folder in which nothing else is at work",
                f"'{folder}', in use by {_holder(file).get('named', 'another process')}",
                "wait until that has ended, or choose another --out",
            )
        _note(file, {"host": platform.node(), "process": os.getpid()})
        try:
            for part in folder.rglob(PARTS):
                if part.is_file():
                    part.unlink(missing_ok=True)
            yield
        finally:
            _note(file, None)


def _take(file: IO[str]) -> bool:
    """Lock an open file until it is closed; False where another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return not _at_work(_holder(file))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EAGAIN, errno.EACCES):
            return False
        return not _at_work(_holder(file))  # a disk without locks
    return True


def _holder(file: IO[str]) -> dict[str, Any]:
    """Who wrote into a lock's file; {} for nobody."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        named = f"process {holder['process']} since {holder['since']}"
        return {**holder, "named": named} if holder["host"] else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _at_work(holder: dict[str, Any]) -> bool:
    """True unless it is known that the process is gone; of another computer nothing is known."""
    if not holder or holder["host"] != platform.node() or os.name == "nt":
        return bool(holder)
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return bool(holder["process"] != os.getpid())


def _note(file: IO[str], holder: dict[str, Any] | None) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
        file.seek(0)
        file.truncate()
        file.write(json.dumps({**holder, "since": now}) if holder else "")
        file.flush()


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError("a folder for the run", f"the file '{folder}'", "choose another --out")


class Store:
    """One run folder.

    Args:
        folder: The run folder; made if it is not there.
        progress: Hears of pieces that are left aside because another version made them.

    Raises:
        InputError: `folder` is a file, or holds something other than a run.
    """

    def __init__(self, folder: Path, progress: Progress = SILENT) -> None:
        _refuse_file(folder)
        self.folder, self.progress = folder, progress
        self._whole: set[Path] = set()  # looked through by this process
        with storage(f"the run in '{folder}'"):
            for name in ("objects", "work"):
                (folder / name).mkdir(parents=True, exist_ok=True)

    def once(
        self,
        kind: str,
        inputs: dict[str, Any],
        make: Callable[[Path], None],
        *,
        packages: Sequence[str] | None = (),
        together: bool = False,
    ) -> Path:
        """The folder of a finished piece of work, made now if it was not made before.

        One whose files are no longer what they were is made again.

        Args:
            kind: What it is, for people: "train", "export", "scores".
            inputs: Everything it depends on, as plain data; its digest is the key.
            make: Fills the folder it is given. When it was killed before, the folder still holds
                what it left there.
            packages: Distributions whose versions it depends on besides clinipress's own; None:
                it must stay as it is over upgrades, clinipress's too.
            together: Under torchrun, every process runs `make` (training does); else the first
                one alone.

        Returns:
            The finished folder, never changed again.
        """
        made_with = {} if packages is None else versions(packages)
        what = {"kind": kind, "inputs": inputs}
        key = digest_of(what | ({"versions": made_with} if made_with else {}))[:KEY_DIGITS]
        done = self.folder / "objects" / f"{kind}-{key}"
        work = self.folder / "work" / f"{kind}-{key}"
        finished = distributed.agree(distributed.is_main() and self._is_whole(done))
        if not finished:
            if made_with and distributed.is_main():
                self._say_older(kind, inputs, made_with)
            if together or distributed.is_main():
                with storage(f"the step '{kind}'"):
                    work.mkdir(parents=True, exist_ok=True)
                    make(work)
            distributed.barrier()
            if distributed.is_main():
                self._publish(work, done, inputs, made_with)
            distributed.barrier()
        return done

    def older(self, kind: str, inputs: dict[str, Any], made_with: dict[str, str]) -> str | None:
        """What differs between these versions and those of a finished piece of the same inputs.

        Returns:
            "onnxruntime 1.30.0 then, 1.31.1 now"; None where no other version made such a piece.
        """
        wanted = digest_of(inputs)
        for path in sorted((self.folder / "objects").glob(f"{kind}-*/{VERSIONS}")):
            try:
                recorded: dict[str, str] = read_json(path)
                same = digest_of(read_json(path.with_name(INPUTS))) == wanted
            except InputError:  # damaged
                continue
            if recorded != made_with and same:
                names = sorted({*recorded, *made_with})
                return ", ".join(
                    f"{name} {recorded.get(name, 'absent')} then, "
                    f"{made_with.get(name, 'absent')} now"
                    for name in names
                    if recorded.get(name) != made_with.get(name)
                )
        return None

    def _say_older(self, kind: str, inputs: dict[str, Any], made_with: dict[str, str]) -> None:
        changed = self.older(kind, inputs, made_with)
        if changed is not None:
            self.progress.say(f"a finished '{kind}' of other versions is left aside: {changed}")

    def _is_whole(self, done: Path) -> bool:
        """True for a finished piece as it was made; another is removed, and that is said."""
        if done in self._whole or not done.is_dir():
            return done in self._whole
        damaged = _damaged(done)
        if damaged is None:
            self._whole.add(done)
            return True
        self.progress.say(f"'{done.name}' is not as it was made ({damaged}): it is made again")
        with storage(f"a new '{done.name}'"):
            shutil.rmtree(done)
        return False

    def _publish(
        self, work: Path, done: Path, inputs: dict[str, Any], made_with: dict[str, str]
    ) -> None:
        write_atomically(work / INPUTS, json.dumps(inputs, indent=1, sort_keys=True))
        write_atomically(work / VERSIONS, json.dumps(made_with, indent=1, sort_keys=True))
        shutil.rmtree(work / "checkpoint", ignore_errors=True)
        for part in work.rglob(PARTS):
            part.unlink(missing_ok=True)
        files = (path for path in sorted(work.rglob("*")) if path.is_file())
        hashes = {path.relative_to(work).as_posix(): sha256_of(path) for path in files}
        write_atomically(work / HASHES, json.dumps(hashes, indent=1))
        work.rename(done)
        _sync_folder(done.parent)
        self._whole.add(done)

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
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InputError(f"JSON in '{path}'", str(problem)) from None


def read_result(folder: Path) -> Result:
    """The records of a finished run, of schema version 1 or 2.

    Raises:
        InputError: The folder holds no result, or one of a version that is not known here.
    """
    tree = read_json(folder / "result.json")
    version1 = isinstance(tree, dict) and tree.get("schema_version") == "1"
    try:
        return Result.model_validate(result_of_version1(tree) if version1 else tree)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"a result.json of this version in '{folder}'",
            f"one where '{where}' does not fit ({first['msg']})",
            "run the study again",
        ) from None


def _damaged(done: Path) -> str | None:
    """A file of a finished piece that is missing or changed; None where all are as they were."""
    try:
        hashes: dict[str, str] = read_json(done / HASHES)
        for name, expected in hashes.items():
            if not (done / name).is_file() or sha256_of(done / name) != expected:
                return name
    except (InputError, AttributeError, OSError):
        return HASHES
    return None


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


STRANGE = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file: git lfs pull"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89png", "a PNG picture"),
    (b"gif8", "a GIF picture"),
    (b"%pdf", "a PDF"),
    (b"\x89hdf", "an HDF5 file, as Keras writes"),
    (b'{"', "a JSON file"),
)


def strange_content(path: Path) -> str:
    """What a file that should be a model is instead, by its first bytes; "" where they say nothing.

    What downloads and clones leave in place of large files.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return ""
    if not start:
        return "an empty file"
    start = start.lstrip().lower()
    return next((what for magic, what in STRANGE if start.startswith(magic)), "")
