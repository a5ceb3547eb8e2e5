"""TIFF: pages, and values of more than eight bits that Pillow alone would show wrongly."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.data.sources import decode_item, read_dataset
from clinipress.errors import ImageError
from clinipress.kinds.image.read import decode, facts, has_palette
from clinipress.records.candidate import InputSpec
from kit.dicoms import close, levels
from kit.tiffs import tiff

SIDE = 24
GREY = InputSpec(channels=1, height=SIDE, width=SIDE)
COLOUR = InputSpec(channels=3, height=SIDE, width=SIDE)


def drawn(kind: str, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    """Values over all of a type's range."""
    random = np.random.default_rng(5)
    if np.dtype(kind).kind == "f":
        return (random.random(shape) * 1000 - 300).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, shape, kind, endpoint=True)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_f11_grey_of_every_type(
    kind: str, big_endian: bool, packed: bool, white_is_zero: bool
) -> None:
    """Right, or refused with what it is: Pillow has no mode for some."""
    values = drawn(kind)
    data = tiff(values, white_is_zero=white_is_zero, big_endian=big_endian, packed=packed)
    low, high = (0, 255) if kind == "u1" else (values.min(), values.max())
    expected = levels(values, float(low), float(high))
    refused = {("u4", True, False), ("u2", True, True), ("u4", True, True), ("u4", False, True)}
    refused |= {(k, end, True) for k in ("i1", "i2", "i4") for end in (False, True)}
    if (kind, big_endian, white_is_zero) in refused:
        with pytest.raises(ImageError, match=r"a TIFF.*1 x \d+-bit (un)?signed integers \("):
            decode(data, GREY)
        return
    close(decode(data, GREY)[0], 255 - expected if white_is_zero else expected)
    assert facts(data).bits == 8 * np.dtype(kind).itemsize


def test_f11_white_is_zero_at_sixteen_bits() -> None:
    values = np.mgrid[0:64, 0:64][1].astype("u2") * 1000
    spec = InputSpec(channels=1, height=64, width=64)
    assert decode(tiff(values, white_is_zero=True), spec)[0, 0, [0, -1]].tolist() == [255, 0]
    eight = (values // 250).astype("u1")
    assert decode(tiff(eight, white_is_zero=True), spec)[0, 0, [0, -1]].tolist() == [255, 3]


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
def test_f11_colour_of_sixteen_bits(big_endian: bool, packed: bool, planes: bool) -> None:
    values = drawn("u2", (SIDE, SIDE, 3))
    data = tiff(values, big_endian=big_endian, packed=packed, planes=planes)
    found = decode(data, COLOUR).astype(int)  # Pillow cuts some ways and rounds others
    assert np.abs(found - np.moveaxis(values >> 8, 2, 0)).max() <= 1
    dark = tiff(values >> 4, big_endian=big_endian, packed=packed, planes=planes)
    with pytest.raises(ImageError, match=r"16 bits.*at most 12 bits.*8 bits for each"):
        decode(dark, COLOUR)


def ppm(values: np.ndarray) -> bytes:
    return b"P6 %d %d 65535\n" % (SIDE, SIDE) + values.astype(">u2").tobytes()


def png(values: np.ndarray) -> bytes:
    """Of 16 bits for each colour, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("made", [ppm, png])
def test_f11_dark_colours_of_sixteen_bits_in_other_formats_are_refused(
    made: Callable[[np.ndarray], bytes],
) -> None:
    values = drawn("u2", (SIDE, SIDE, 3))
    found = decode(made(values), COLOUR).astype(int)
    assert np.abs(found - np.moveaxis(values >> 8, 2, 0)).max() <= 1
    assert facts(made(values)).bits == 16
    with pytest.raises(ImageError, match="at most 12 bits"):
        decode(made(values >> 4), COLOUR)


@pytest.mark.parametrize("kind", ["f8", "f2"])
def test_f25_numbers_without_a_mode_are_named(kind: str) -> None:
    bits = 8 * np.dtype(kind).itemsize
    with pytest.raises(
        ImageError, match=rf"{bits}-bit floating-point numbers.*save it with 8 or 16"
    ):
        decode(tiff(drawn(kind)), GREY)


def test_f25_grey_with_alpha_of_sixteen_bits_is_named() -> None:
    data = bytearray(tiff(drawn("u2", (SIDE, SIDE, 2))))
    at = data.index(b"\x06\x01\x03\0\x01\0\0\0\x02")  # tag 262 says RGB
    data[at + 8] = 1
    with pytest.raises(ImageError, match="2 x 16-bit unsigned"):
        decode(bytes(data), GREY)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
def test_f17_pages_are_pictures(tmp_path: Path, packed: bool, big_endian: bool) -> None:
    """And a reduced copy or a mask is none."""
    pages = [np.full((SIDE, SIDE), level, "u1") for level in (10, 99, 20, 77, 30)]
    data = tiff(*pages, kinds=(0, 1, 2, 4, 0), packed=packed, big_endian=big_endian)
    path = tmp_path / "pages"
    path.write_bytes(data)
    for source in (data, path):
        assert facts(source).frames == 3
        found = [int(decode(source, GREY, index=i).max()) for i in (None, 0, 1, 2)]
        assert found == [10, 10, 20, 30]
        assert decode(tiff(*pages[:2], kinds=(1, 0)), GREY).max() == 99  # the copy stands first
        for index in (3, -1):
            with pytest.raises(ImageError, match="from 0 to 2"):
                decode(source, GREY, index=index)


def test_f17_a_folder_of_page_files_lists_every_page(tmp_path: Path) -> None:
    for label, level in (("a", 40), ("b", 140)):
        (tmp_path / label).mkdir()
        pages = [np.full((SIDE, SIDE), level + n, "u1") for n in range(3)]
        (tmp_path / label / "pile.tif").write_bytes(tiff(*pages))
        (tmp_path / label / "single.tiff").write_bytes(tiff(pages[0]))
        (tmp_path / label / "preview.tif").write_bytes(tiff(*pages[:2], kinds=(0, 1)))
    dataset = read_dataset(tmp_path)
    assert [item.key for item in dataset.items if item.label == "a"] == [
        "a/pile.tif#0", "a/pile.tif#1", "a/pile.tif#2", "a/preview.tif", "a/single.tiff"
    ]  # fmt: skip
    assert {i.unit("file") for i in dataset.items} == {"a/pile.tif", "b/pile.tif", None}
    shown = [int(decode_item(item, GREY).max()) for item in dataset.items if item.label == "b"]
    assert shown == [140, 141, 142, 140, 140]


def test_pages_of_pillows_own_files() -> None:
    pages = [Image.new("RGB", (16, 16), (level, 0, level)) for level in (10, 20, 30)]
    for how in (None, "tiff_lzw", "jpeg"):
        stream = io.BytesIO()
        pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], compression=how)
        assert facts(stream.getvalue()).frames == 3
        for index, level in enumerate((10, 20, 30)):
            shown = decode(stream.getvalue(), COLOUR, index=index).max(axis=(1, 2)).astype(int)
            assert np.abs(shown - [level, 0, level]).max() <= 3
    stream = io.BytesIO()
    pages[0].quantize(4).save(stream, "TIFF")
    assert has_palette(stream.getvalue())


@pytest.mark.parametrize("spoil", ["endless", "cut", "no page"])
def test_a_damaged_chain_of_pages_ends_there(spoil: str) -> None:
    data = bytearray(tiff(*(np.full((SIDE, SIDE), n, "u1") for n in (1, 2))))
    if spoil == "endless":
        data[-4:] = data[4:8]
    elif spoil == "cut":
        del data[-20:]
    else:
        data[4:8] = bytes(4)
        with pytest.raises(ImageError):
            decode(bytes(data), GREY)
        return
    assert facts(bytes(data)).frames == (2 if spoil == "endless" else 1)
    assert decode(bytes(data), GREY).max() == 1
