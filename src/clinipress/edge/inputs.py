"""What arguments of ``predict`` stand for: files, folders, one picture of many, standard input."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import InputError
from clinipress.records.item import SYSTEM_NAMES

__all__ = ["STANDARD_INPUT", "Source", "expand", "is_there", "locate"]

Source = str | Path | bytes | NDArray[np.uint8]
STANDARD_INPUT = "-"
STDIN_LIMIT = 2**30  # bytes of one image
HEAD = 1024
CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r")


def locate(name: str | Path) -> tuple[Path, int | None]:
    """Path and number of the picture in it.

    "volume.nii.gz#34" is picture 34 of that file, as in the keys of a split file, unless a file of
    that very name exists.

    Example:
        >>> locate("volume.nii.gz#34")[1]
        34
    """
    path = Path(name)
    match = re.fullmatch(r"(.+)#([0-9]{1,9})", str(name), re.DOTALL)
    if match is None or is_there(path):
        return path, None
    return Path(match[1]), int(match[2])


def is_there(path: Path) -> bool:
    """True when something lies at `path`; a name too long for the system is nowhere."""
    try:
        return path.exists()
    except OSError:
        return False


def expand(name: str, stdin: BinaryIO | None) -> Iterator[tuple[str, Source]]:
    """What is behind one argument, as (name to report, source), lazily.

    Raises:
        InputError: Standard input is empty.
    """
    if name == STANDARD_INPUT:
        yield from _from_stream(stdin or sys.stdin.buffer)
    elif is_there(Path(name)) and Path(name).is_dir():
        for path in _walk(name):
            yield path, Path(path)
    else:
        yield name, Path(name)


def _walk(folder: str) -> Iterator[str]:
    """Files below `folder`, sorted; links to folders are followed, but into no folder twice.

    A folder that cannot be read is handed out itself, so that it is refused in its place. One
    inside the other may be nested deeper than functions can call themselves.
    """
    waiting: list[os.DirEntry[str] | str] = [folder]
    visited: set[tuple[int, int]] = set()
    while waiting:
        entry = waiting.pop()
        path = entry if isinstance(entry, str) else entry.path
        try:
            if isinstance(entry, str) or entry.is_dir():
                facts = Path(path).stat()
                identity = facts.st_dev, facts.st_ino
                if identity not in visited:  # links may go in circles
                    visited.add(identity)
                    with os.scandir(path) as entries:
                        inside = sorted(entries, key=lambda item: item.name, reverse=True)
                    waiting += [
                        item
                        for item in inside
                        if not item.name.startswith(".")
                        and item.name.casefold() not in SYSTEM_NAMES
                    ]
            elif entry.is_file():
                yield path
        except OSError:
            yield path


def _from_stream(stream: BinaryIO) -> Iterator[tuple[str, Source]]:
    head = b""
    while len(head) < HEAD and b"\n" not in head and (more := _some(stream, HEAD)):
        head += more
    if not head:
        raise InputError("an image or a list of paths on standard input", "nothing")
    if not _is_text(head):
        yield STANDARD_INPUT, head + stream.read(STDIN_LIMIT)
        return
    head = head.removeprefix(codecs.BOM_UTF8)  # of an editor, or of PowerShell
    for line in io.BufferedReader(_Joined(head, stream)):
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield path, Path(path)


def _some(stream: BinaryIO, count: int) -> bytes:
    """What is there, at most `count` bytes, without waiting for more than one; b"" at the end."""
    read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    return read(count)


def _is_text(head: bytes) -> bool:
    """True when no byte is a control character, which every image has early and no path holds."""
    if re.match(rb"P[1-6]\s", head):  # PPM and its kin have a header of text
        return False
    return CONTROL.isdisjoint(head)


class _Joined(io.RawIOBase):
    """A head that was read already, followed by the rest of its stream."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or _some(self._stream, len(buffer))
        taken = data[: len(buffer)]
        self._head = data[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
