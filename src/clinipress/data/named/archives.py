"""Unpacking a downloaded archive: nothing outside its folder, no bomb, whole or not at all."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from clinipress.errors import DataError
from clinipress.kinds.image.unpacking import limit
from clinipress.progress import SILENT, Progress
from clinipress.records.store import storage

__all__ = ["unpack"]

_MOST_FILES = 1_000_000
_CHUNK = 2**20
_DRIVE = re.compile(r"^[A-Za-z]:")
# too long a name, and a file that another one has for its folder
_IMPOSSIBLE = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ}
)
_NOISE = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})


def unpack(archive: Path, folder: Path, *, progress: Progress = SILENT) -> Path:
    """Unpack a .zip into `folder`, which appears only when all of it is there; what is there stays.

    Raises:
        DataError: It is no .zip, is damaged or locked, names a place outside `folder`, holds links
            or far more than a set of pictures could.
        StorageError: There is no room.
    """
    if folder.is_dir():
        return folder
    staging = folder.with_name(f".{folder.name}.unpacking")
    with storage(f"'{folder.name}'"):
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        try:
            with zipfile.ZipFile(archive) as content:
                members = _safe(content, archive)
                progress.start(archive.name, len(members))
                for member in members:
                    _write(content, member, staging)
                    progress.advance(archive.name)
                progress.finish(archive.name)
        except OSError as problem:
            shutil.rmtree(staging, ignore_errors=True)
            if problem.errno not in _IMPOSSIBLE:
                raise
            raise DataError(
                f"names in '{archive}' that a folder can hold",
                f"'{_named(problem)}' ({problem.strerror})",
                "unpack it by hand, and give the names that do not fit others",
            ) from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as problem:
            shutil.rmtree(staging, ignore_errors=True)
            raise DataError(
                f"an undamaged .zip at '{archive}'", str(problem), "remove it and get it again"
            ) from None
        staging.rename(folder)
    return folder


def _named(problem: OSError) -> str:
    return Path(str(problem.filename or "")).name


def _safe(content: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """The files of an archive, after all of its directory has been looked at."""
    members = [m for m in content.infolist() if not m.is_dir() and not _is_noise(m.filename)]
    if not members:
        raise DataError(f"files in '{archive}'", "none")
    if len(members) > _MOST_FILES:
        raise DataError(f"at most {_MOST_FILES:,} files in '{archive}'", f"{len(members):,}")
    for member in members:
        _check_member(member, archive)
    names = {member.filename.casefold() for member in members}
    if len(names) < len(members):
        raise DataError(f"files of different names in '{archive}'", "two of one name")
    total, packed = sum(m.file_size for m in members), archive.stat().st_size
    if total > limit(packed):
        raise DataError(
            f"at most {limit(packed):,} bytes in '{archive}' of {packed:,}",
            f"{total:,}",
            "it unpacks to far more than pictures do",
        )
    free = shutil.disk_usage(archive.parent).free
    if total > free:
        raise DataError(f"room for {total:,} bytes", f"{free:,} in '{archive.parent}'")
    return members


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.filename
    # zipfile turns only the separators of the machine it runs on into slashes
    leaves = name.startswith(("/", "\\")) or _DRIVE.match(name) or ".." in re.split(r"[/\\]", name)
    if leaves or "\\" in name:
        raise DataError(f"names inside the folder in '{archive}'", f"'{name}'", "it is not safe")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise DataError(f"plain files in '{archive}'", f"'{name}', a link or device")
    if member.flag_bits & 1:
        raise DataError(f"an archive without password at '{archive}'", f"'{name}' has one")


def _write(content: zipfile.ZipFile, member: zipfile.ZipInfo, staging: Path) -> None:
    target = staging.joinpath(*PurePosixPath(member.filename).parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, _CHUNK)


def _is_noise(name: str) -> bool:
    return not _NOISE.isdisjoint(PurePosixPath(name).parts)
