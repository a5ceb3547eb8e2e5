"""TIFF files written by hand, as their specification (revision 6.0) says."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Tags = dict[int, tuple[int, tuple[int, ...]]]


def tiff(
    *pictures: NDArray[np.generic],
    white_is_zero: bool = False,
    big_endian: bool = False,
    packed: bool = False,
    planes: bool = False,
    kinds: tuple[int, ...] = (),
) -> bytes:
    """Pages of ``[h, w]`` grey or ``[h, w, 3]`` RGB; `kinds` are the pages' tags 254."""
    order = ">" if big_endian else "<"
    data = bytearray((b"MM\0*" if big_endian else b"II*\0") + bytes(4))
    pointer = 4
    for number, picture in enumerate(pictures):
        colour = picture.ndim == 3
        strips = list(np.moveaxis(picture, 2, 0)) if planes else [picture]
        raw = [s.astype(s.dtype.newbyteorder(order)).tobytes() for s in strips]
        raw = [zlib.compress(strip) for strip in raw] if packed else raw
        places = []
        for strip in raw:
            places.append(len(data))
            data += strip + bytes(len(strip) % 2)
        samples = picture.shape[2] if colour else 1
        kind = {"u": 1, "i": 2, "f": 3}[picture.dtype.kind]
        tags: Tags = {
            254: (4, (kinds[number] if kinds else 0,)),
            256: (3, (picture.shape[1],)),
            257: (3, (picture.shape[0],)),
            258: (3, (8 * picture.dtype.itemsize,) * samples),
            259: (3, (8 if packed else 1,)),
            262: (3, (2 if colour else 0 if white_is_zero else 1,)),
            273: (4, tuple(places)),
            277: (3, (samples,)),
            278: (3, (picture.shape[0],)),
            279: (4, tuple(len(strip) for strip in raw)),
            284: (3, (2 if planes else 1,)),
            339: (3, (kind,) * samples),
        }
        struct.pack_into(order + "I", data, pointer, _append(data, tags, order))
        pointer = len(data) - 4
    return bytes(data)


def _append(data: bytearray, tags: Tags, order: str) -> int:
    """Write a directory whose last four bytes are the pointer to the next; where it begins."""
    entries = b""
    for tag, (kind, values) in tags.items():
        content = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > 4:
            place = len(data)
            data += content
            content = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    place = len(data)
    data += struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return place
