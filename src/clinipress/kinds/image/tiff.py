"""TIFF pages to pixels, and what Pillow reads wrongly of values of more than eight bits.

Every page that is a picture of its own is one; reduced copies and masks (tag 254) are none. A page
of several is read as a file of its own, so that a pile of them costs no more than as many files.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clinipress.errors import ImageError
from clinipress.kinds.image.pixels import HeaderFacts, Raster, check_depth, check_size, opaque
from clinipress.kinds.image.unpacking import MAX_PICTURES, length

__all__ = ["pictures", "read_facts", "read_raster", "recognises", "stored_bytes"]

_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _SAMPLE_FORMAT = 254, 258, 262, 277, 284, 339
_TYPES = {
    **dict.fromkeys((1, 2, 6, 7), "B"), **dict.fromkeys((3, 8), "H"),
    **dict.fromkeys((4, 9, 11, 13), "I"), **dict.fromkeys((5, 10, 12, 16, 17, 18), "Q"),
}  # fmt: skip
_STRIPS = ((273, 279), (324, 325))  # places and sizes of strips, and of tiles
_POINTERS = (330, 34665, 34853, 40965)  # to further directories
_OLD_JPEG = 513
_MOST_ENTRIES = 4096
_REDUCED_OR_MASK = 1 | 4
_WHITE_IS_ZERO = 0
_NUMBERS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}
# libtiff gives values in the machine's byte order; Pillow turns some of a big-endian file once more
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "I;32B": "I;32N", "F;32BF": "F;32NF"}


def recognises(head: bytes) -> bool:
    """True for TIFF and BigTIFF of either byte order; some writers turn the mark round."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")


def read_facts(stream: BinaryIO, source: Path | bytes = b"") -> HeaderFacts:
    """Of the first page; `frames` are the pages that are pictures."""
    pages = _pages(stream, source)
    with _opened(stream, pages[0]) as picture:
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
    with _opened(stream, pages[index]) as picture:
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
    with _opened(stream, _pages(stream, b"")[0]) as picture:
        return picture.mode in {"P", "PA"}


@contextmanager
def _opened(stream: BinaryIO, page: int) -> Iterator[Any]:
    """Pillow's picture of the page at an offset."""
    form = _form(stream)
    first = page in (0, _number(stream, form, form.width, form.pointer))
    stream.seek(0)
    with nullcontext(stream) if first else io.BytesIO(_cut_out(stream, page)) as whole:
        try:
            yield Image.open(whole, formats=("TIFF",))
        except UnidentifiedImageError:
            got, fix = _described(stream, page), "save it with 8 or 16 bits for each value"
            raise ImageError("a TIFF of a common kind", got, fix) from None


def _cut_out(stream: BinaryIO, page: int) -> bytes:
    """One page as a file of its own: libtiff walks through all of them to any."""
    form = _form(stream)
    entries = {entry.tag: entry for entry in _entries(stream, form, page)}
    for pointer in _POINTERS:
        entries.pop(pointer, None)
    places, sizes = next(
        ((entries[a], entries[b]) for a, b in _STRIPS if a in entries and b in entries),
        (None, None),
    )
    if places is None or sizes is None or _OLD_JPEG in entries:
        raise ImageError("pages that can be parted", "one that only stands in its file", "split it")
    spans = [*zip(places.numbers(stream, form), sizes.numbers(stream, form), strict=False)]
    if sum(size for _, size in spans) > length(stream):
        raise ImageError("a page within its file", "one that goes beyond")
    content = bytearray(form.head())
    moved = []
    for at, size in spans:
        stream.seek(at)
        moved.append(len(content))
        content += stream.read(size)
    values = {tag: entry.value(stream, form) for tag, entry in entries.items()}
    values[places.tag] = struct.pack(f"{form.order}{len(moved)}{form.pointer}", *moved)
    entries[places.tag] = places._replace(kind=16 if form.big else 4, number=len(moved))
    rows = b""
    for tag, entry in sorted(entries.items()):
        value = values[tag]
        if len(value) > form.width:
            content += bytes(len(content) % 2) + value
            value = struct.pack(form.order + form.pointer, len(content) - len(value))
        head = struct.pack(f"{form.order}HH{form.pointer}", tag, entry.kind, entry.number)
        rows += head + value.ljust(form.width, b"\0")
    content += bytes(len(content) % 2)
    struct.pack_into(form.order + form.pointer, content, form.width, len(content))
    count = struct.pack(form.order + form.counter, len(entries))
    return bytes(content + count + rows + bytes(form.width))


def _raw_mode(tile: Any, tags: Any, bits: int) -> Any:
    """Pillow's name for how the stored bytes are to be read, where its own is wrong."""
    mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    little = tags.prefix == b"II"
    if tile.codec_name == "libtiff" and not little and sys.byteorder == "little":
        mode = _NATIVE.get(mode, mode)
    elif bits == 16 and tags.get(_PLANAR) == 2 and mode in ("R", "G", "B", "A"):
        mode = f"{mode};16{'L' if little else 'B'}"
    return (mode, *rest) if isinstance(tile.args, tuple) else mode


class _Form(NamedTuple):
    """How numbers are written: byte order, and 64 bits for offsets or 32."""

    order: str
    big: bool

    @property
    def pointer(self) -> str:
        return "Q" if self.big else "I"

    @property
    def counter(self) -> str:
        return "Q" if self.big else "H"

    @property
    def width(self) -> int:
        return 8 if self.big else 4

    def head(self) -> bytes:
        mark = b"II" if self.order == "<" else b"MM"
        rest = (43, 8, 0, 0) if self.big else (42, 0, 0)
        return mark + struct.pack(self.order + ("HHHQ" if self.big else "HHH"), *rest)


class _Entry(NamedTuple):
    """Of a directory; `field` is the value, or where it lies."""

    tag: int
    kind: int
    number: int
    field: bytes

    def value(self, stream: BinaryIO, form: _Form) -> bytes:
        size = self.number * struct.calcsize(_TYPES[self.kind])
        if size <= form.width:
            return self.field[:size]
        if size > length(stream):
            raise ImageError("a value within its file", f"one of {size:,} bytes")
        stream.seek(struct.unpack(form.order + form.pointer, self.field)[0])
        return stream.read(size)

    def numbers(self, stream: BinaryIO, form: _Form) -> tuple[int, ...]:
        value, kind = self.value(stream, form), _TYPES[self.kind]
        whole = len(value) // struct.calcsize(kind)
        return struct.unpack_from(f"{form.order}{whole}{kind}", value)


def _form(stream: BinaryIO) -> _Form:
    stream.seek(0)
    head = stream.read(16)
    if len(head) < 8 or not recognises(head):
        raise ImageError("a TIFF as it is", "one that is packed or cut", "unpack it")
    order = "<" if head[:2] == b"II" else ">"
    return _Form(order, struct.unpack_from(order + "H", head, 2)[0] == 43)


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
    own = tuple(at for at, kind in pages if not kind & _REDUCED_OR_MASK)
    return own or tuple(at for at, _ in pages[:1]) or (0,)


def _directories(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Offset and tag 254 of each page in the chain, which ends where damage begins."""
    form = _form(stream)
    seen: set[int] = set()
    at = _number(stream, form, form.width, form.pointer)
    while at and at not in seen and len(seen) < MAX_PICTURES:
        seen.add(at)
        entries = _entries(stream, form, at)
        if not entries:
            return
        kind = next((entry for entry in entries if entry.tag == _SUBFILE), None)
        yield at, (kind.numbers(stream, form) or (0,))[0] if kind and kind.number == 1 else 0
        size = struct.calcsize("<" + form.counter) + len(entries) * _size(form)
        at = _number(stream, form, at + size, form.pointer)


def _number(stream: BinaryIO, form: _Form, at: int, kind: str) -> int:
    """0 beyond the end."""
    stream.seek(at)
    raw = stream.read(struct.calcsize("<" + kind))
    return int.from_bytes(raw, "little" if form.order == "<" else "big") if raw else 0


def _size(form: _Form) -> int:
    return 20 if form.big else 12


def _entries(stream: BinaryIO, form: _Form, at: int) -> list[_Entry]:
    """Of the directory at an offset; none where it is damaged."""
    count = _number(stream, form, at, form.counter)
    raw = stream.read(count * _size(form)) if 0 < count <= _MOST_ENTRIES else b""
    if not raw or len(raw) < count * _size(form):
        return []
    row = struct.Struct(f"{form.order}HH{form.pointer}{form.width}s")
    return [_Entry(*fields) for fields in row.iter_unpack(raw)]


def _described(stream: BinaryIO, page: int) -> str:
    """What kind of TIFF it is that Pillow does not open."""
    form = _form(stream)
    tags = {
        entry.tag: (*entry.numbers(stream, form), 1)[0]
        for entry in _entries(stream, form, page)
        if entry.tag in (_BITS, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT) and entry.kind == 3
    }
    numbers = _NUMBERS.get(tags.get(_SAMPLE_FORMAT, 1), "numbers of an unknown kind")
    white = ", white is zero" if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else ""
    order = "big-endian" if form.order == ">" else "little-endian"
    order += ", BigTIFF" if form.big else ""
    return f"one with {tags.get(_SAMPLES, 1)} x {tags.get(_BITS, 1)}-bit {numbers} ({order}{white})"
