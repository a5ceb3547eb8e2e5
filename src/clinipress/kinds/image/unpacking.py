"""What a packed file unpacks to, found out before memory is taken for it.

A few kilobytes can claim, or really hold, gigabytes. Every limit here is far from any picture.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from typing import BinaryIO

from clinipress.errors import ImageError

__all__ = [
    "MAX_BYTES",
    "MAX_PICTURES",
    "BoundedStream",
    "Claim",
    "claim",
    "colours_mixed",
    "gunzip",
    "inflated",
    "length",
    "limit",
]

MAX_BYTES = 2**31
"""Most bytes of one file that are taken into memory at once."""
MAX_PICTURES = 200_000
"""Most pictures of one file; a resting-state study of the brain has about 90,000 slices."""

# Scans shrink by 2 to 10, volumes that are mostly air by 20; a bomb by 1,000.
LARGEST_RATIO = 50
ALWAYS_ALLOWED = 2**28  # bytes
_CHUNK = 2**20
# Start-of-frame markers of JPEG (all processes) and JPEG-LS, which hold the size.
_FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_STARTS = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]")
_ALONE = frozenset((0x01, *range(0xD0, 0xDA)))
_SCAN = 0xDA
_CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000: start, and its size marker

Claim = tuple[int, int, int]
"""Width, height and components that a compressed picture says it has."""


def length(stream: BinaryIO) -> int:
    """Bytes of a stream, which is rewound."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


class BoundedStream:
    """A stream that is never asked for more than it has.

    A length field that claims gigabytes would else take their memory, just to find the end.
    """

    def __init__(self, stream: BinaryIO, *, rewind: bool = True) -> None:
        start = 0 if rewind else stream.tell()
        self._stream, self._size = stream, length(stream)
        stream.seek(start)

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes; all that is left when below 0."""
        left = max(0, self._size - self._stream.tell())
        return self._stream.read(left if count < 0 else min(count, left))

    def seek(self, offset: int, origin: int = os.SEEK_SET) -> int:
        """As of any stream."""
        return self._stream.seek(offset, origin)

    def tell(self) -> int:
        """As of any stream."""
        return self._stream.tell()


def limit(packed: int) -> int:
    """Most bytes that a file of `packed` bytes may unpack to.

    Example:
        >>> limit(1000) == 2**28, limit(10**7) == 5 * 10**8
        (True, True)
    """
    return max(ALWAYS_ALLOWED, LARGEST_RATIO * packed)


def gunzip(stream: BinaryIO) -> io.BytesIO:
    """All of a gzip file, in memory.

    Raises:
        ImageError: It unpacks to more than `limit` allows.
    """
    allowed = min(MAX_BYTES, limit(length(stream)))
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=stream) as inner:
        while chunk := inner.read(_CHUNK):
            if content.tell() + len(chunk) > allowed:
                raise _bomb(allowed)
            content.write(chunk)
    content.seek(0)
    return content


def inflated(stream: BinaryIO) -> int:
    """Bytes that the rest of a stream, raw deflate data, unpacks to; none of them is kept.

    Raises:
        ImageError: More than `limit` allows.
    """
    start = stream.tell()
    allowed = min(MAX_BYTES, limit(length(stream)))
    stream.seek(start)
    inflater, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not inflater.eof and (packed := inflater.unconsumed_tail or stream.read(_CHUNK)):
        count += len(inflater.decompress(packed, _CHUNK))
        if count > allowed:
            raise _bomb(allowed)
    return count


def claim(frame: bytes) -> Claim | None:
    """What a JPEG, JPEG-LS or JPEG 2000 picture says of its size; None for anything else.

    The decoders take memory by these numbers, not by those of the file around them. Where a JPEG
    has several frames, the largest counts.

    Example:
        >>> claim(bytes.fromhex("ffd8 ffc0 0011 08 0030 0040 03") + bytes(9))
        (64, 48, 3)
    """
    at = frame.find(_CODESTREAM, 0, 4096)  # at the start, or behind the boxes of a .jp2
    if at >= 0:
        right, lower, left, upper = (
            int.from_bytes(frame[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(4)
        )
        components = int.from_bytes(frame[at + 40 : at + 42], "big")
        return right - left, lower - upper, components
    if frame[:2] != b"\xff\xd8":
        return None
    claims = _jpeg_claims(frame)
    return max(claims, key=lambda size: size[0] * size[1] * size[2]) if claims else None


def colours_mixed(frame: bytes) -> bool:
    """True for JPEG 2000 whose red, green and blue were mixed by its own transform.

    Its decoders hand out RGB then. The flag stands in the default coding style (A.6.1).
    """
    at = frame.find(_CODESTREAM, 0, 4096)
    if at < 0:
        return False
    at += 2
    while frame[at : at + 1] == b"\xff" and frame[at + 1 : at + 2] not in (b"\x52", b"\x90"):
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return frame[at : at + 2] == b"\xff\x52" and frame[at + 8 : at + 9] == b"\x01"


def _jpeg_claims(frame: bytes) -> list[Claim]:
    """Of every start of frame: by the segments' lengths up to the scan, then wherever one stands.

    In the coded data no such marker occurs by chance: JPEG stuffs a byte or a bit behind 0xFF.
    """
    claims, at = [], 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _FRAMES:
            claims.append(_size(frame, at))
        if marker == _SCAN:
            return claims + [_size(frame, match.start()) for match in _STARTS.finditer(frame, at)]
        alone = marker in _ALONE
        fill = marker == 0xFF
        at += 1 if fill else 2 if alone else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return claims


def _size(frame: bytes, at: int) -> Claim:
    """Of a start of frame: marker, length, precision, height, width, components."""
    height, width = (int.from_bytes(frame[at + n : at + n + 2], "big") for n in (5, 7))
    return width, height, frame[at + 9] if at + 9 < len(frame) else 0


def _bomb(allowed: int) -> ImageError:
    return ImageError(f"a file that unpacks to at most {allowed:,} bytes", "one that goes on")
