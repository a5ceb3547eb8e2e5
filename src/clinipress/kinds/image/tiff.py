"""TIFF pages to pixels, and what Pillow reads wrongly of values of more than eight bits.

Every page that is a picture of its own is one; reduced copies and masks (tag 254) are none. A page
is opened as if it were the first, so that a pile of pages costs no more than as many files.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clinipress.errors import ImageError
from clinipress.kinds.image.pixels import HeaderFacts, Raster, check_depth, check_size, opaque
from clinipress.kinds.image.unpacking import MAX_PICTURES

__all__ = ["pictures", "read_facts", "read_raster", "recognises", "stored_bytes"]

_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _SAMPLE_FORMAT = 254, 258, 262, 277, 284, 339
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_KNOWN = frozenset((_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT))
_REDUCED_OR_MASK = 1 | 4
_WHITE_IS_ZERO = 0
_NUMBERS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}
# libtiff gives values in the machine's byte order; Pillow turns some of a big-endian file once more
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "I;32B": "I;32N", "F;32BF": "F;32NF"}


def recognises(head: bytes) -> bool:
    """True for TIFF and BigTIFF of either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_facts(stream: BinaryIO, source: Path | bytes = b"") -> HeaderFacts:
    """Of the first page; `frames` are the pages that are pictures."""
    pages = _pages(stream, source)
    with _opened(stream, source, pages[0]) as picture:
        bits = int(picture.tag_v2.get(_BITS, (1,))[0])
        width, height = picture.size
        return HeaderFacts(width, height, len(picture.getbands()), bits, len(pages), "TIFF")


def pictures(path: Path) -> tuple[dict[str, str], range | None]:
    """The pages, if several; no patient is named."""
    with path.open("rb") as stream:
        count = len(_pages(stream, path))
    return {}, range(count) if count > 1 else None


def stored_bytes(_path: Path, _index: int) -> None:
    """A page has no bytes of its own that a digest could do with."""


def read_raster(stream: BinaryIO, index: int | None = None, source: Path | bytes = b"") -> Raster:
    """One page, turned upright; None: the first."""
    pages, index = _pages(stream, source), index or 0
    if not 0 <= index < len(pages):
        raise ImageError(f"a picture number from 0 to {len(pages) - 1}", str(index))
    with _opened(stream, source, pages[index]) as picture:
        check_size(*picture.size)
        tags, bits = picture.tag_v2, int(picture.tag_v2.get(_BITS, (1,))[0])
        picture.tile = [tile._replace(args=_raw_mode(tile, tags, bits)) for tile in picture.tile]
        picture.load()
    upright = ImageOps.exif_transpose(picture)
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if upright.mode == "F" or upright.mode.startswith("I"):
        values: NDArray[Any] = np.asarray(upright)
        if bits == 32 and values.dtype == np.int32 and not signed:
            values = values.view(np.uint32)  # Pillow has no mode for them
        return Raster(values, bits, inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    if upright.mode == "L" and signed:
        return Raster(np.asarray(upright).view(np.int8))
    shown = opaque(upright)
    check_depth(shown, bits)
    return Raster(np.asarray(shown))


def has_palette(stream: BinaryIO) -> bool:
    """True where the first page's pixels point to colours."""
    with _opened(stream, b"", _pages(stream, b"")[0]) as picture:
        return picture.mode in {"P", "PA"}


class _Page(io.FileIO):
    """A file whose header points to one of its later pages."""

    def __init__(self, path: Path, head: bytes) -> None:
        super().__init__(path)
        self._head = head

    def read(self, count: int | None = -1, /) -> bytes:
        at = self.tell()
        content = super().read(-1 if count is None else count) or b""
        own = self._head[at : at + len(content)]
        return own + content[len(own) :]


@contextmanager
def _opened(stream: BinaryIO, source: Path | bytes, page: int) -> Iterator[Any]:
    """Pillow's picture of the page at an offset; libtiff wants a file, or all of its bytes."""
    stream.seek(0)
    head = stream.read(8)
    order, big = _order(head)
    head = head[: 8 if big else 4] + struct.pack(order + ("Q" if big else "I"), page)
    stream.seek(len(head))
    whole = _Page(source, head) if isinstance(source, Path) else io.BytesIO(head + stream.read())
    with whole:
        try:
            yield Image.open(whole, formats=("TIFF",))
        except UnidentifiedImageError:
            got, fix = _described(stream, page), "save it with 8 or 16 bits for each value"
            raise ImageError("a TIFF of a common kind", got, fix) from None


def _raw_mode(tile: Any, tags: Any, bits: int) -> Any:
    """Pillow's name for how the stored bytes are to be read, where its own is wrong."""
    mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    little = tags.prefix == b"II"
    if tile.codec_name == "libtiff" and not little and sys.byteorder == "little":
        mode = _NATIVE.get(mode, mode)
    elif bits == 16 and tags.get(_PLANAR) == 2 and mode in ("R", "G", "B", "A"):
        mode = f"{mode};16{'L' if little else 'B'}"
    return (mode, *rest) if isinstance(tile.args, tuple) else mode


def _order(head: bytes) -> tuple[str, bool]:
    """Byte order for `struct`, and whether offsets have 64 bits."""
    order = "<" if head[:2] == b"II" else ">"
    if len(head) < 8 or not recognises(head):
        raise ImageError("a TIFF as it is", "one that is packed or cut", "unpack it")
    return order, struct.unpack_from(order + "H", head, 2)[0] == 43


def _pages(stream: BinaryIO, source: Path | bytes) -> tuple[int, ...]:
    """Offsets of the pages that are pictures, or of the first one; at least one."""
    if not isinstance(source, Path):
        return _found(stream)
    facts = source.stat()
    return _found_in(source, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=16)
def _found_in(path: Path, _size: int, _time: int) -> tuple[int, ...]:
    with path.open("rb") as stream:
        return _found(stream)


def _found(stream: BinaryIO) -> tuple[int, ...]:
    pages = list(_directories(stream))
    own = tuple(at for at, tags in pages if not tags.get(_SUBFILE, 0) & _REDUCED_OR_MASK)
    return own or tuple(at for at, _ in pages[:1]) or (0,)


def _directories(
    stream: BinaryIO, first: int | None = None
) -> Iterator[tuple[int, dict[int, int]]]:
    """Offset and tags of one number (or the first of several that fit) of each page in the chain.

    A damaged chain ends where the damage begins.
    """
    stream.seek(0)
    head = stream.read(16)
    order, big = _order(head)
    pointer = struct.Struct(order + ("Q" if big else "I"))
    count_of, entry = struct.Struct(order + ("Q" if big else "H")), 20 if big else 12
    seen: set[int] = set()
    at = first or pointer.unpack_from(head, 8 if big else 4)[0]
    while at and at not in seen and len(seen) < MAX_PICTURES:
        seen.add(at)
        stream.seek(at)
        raw = stream.read(count_of.size)
        count = count_of.unpack(raw)[0] if len(raw) == count_of.size else 0
        if not 0 < count <= 4096:
            return
        raw = stream.read(count * entry + pointer.size)
        if len(raw) < count * entry:
            return
        tags = {}
        for place in range(0, count * entry, entry):
            tag, kind = struct.unpack_from(order + "HH", raw, place)
            if kind in _TYPES and tag in _KNOWN:
                values = pointer.unpack_from(raw, place + 4)[0]
                size = struct.calcsize(_TYPES[kind])
                if values * size > pointer.size:  # they lie elsewhere
                    stream.seek(pointer.unpack_from(raw, place + 4 + pointer.size)[0])
                    where = stream.read(size)
                else:
                    where = raw[place + 4 + pointer.size :][:size]
                if len(where) == size:
                    tags[tag] = struct.unpack(order + _TYPES[kind], where)[0]
        yield at, tags
        at = pointer.unpack_from(raw, count * entry)[0] if len(raw) > count * entry else 0


def _described(stream: BinaryIO, page: int) -> str:
    """What kind of TIFF it is that Pillow does not open."""
    tags = next((tags for _, tags in _directories(stream, page)), {})
    numbers = _NUMBERS.get(tags.get(_SAMPLE_FORMAT, 1), "numbers of an unknown kind")
    white = ", white is zero" if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else ""
    stream.seek(0)
    order = "big-endian" if stream.read(2) == b"MM" else "little-endian"
    return f"one with {tags.get(_SAMPLES, 1)} x {tags.get(_BITS, 1)}-bit {numbers} ({order}{white})"
