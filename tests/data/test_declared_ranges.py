"""Ranges, paddings and labels that a DICOM file states and its values contradict."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from clinipress.errors import ImageError
from clinipress.kinds.image.pixels import Raster, eight_bits
from clinipress.kinds.image.read import decode, facts
from kit.dicoms import COLOUR, SIDE, SPEC, VALUES, close, levels, made, written

RAMP = np.mgrid[0:SIDE, 0:SIDE][1].astype("u2") * 270


def with_table(entries: np.ndarray, bits: int, **more: Any) -> bytes:
    table = pydicom.Dataset()
    table.LUTDescriptor = [len(entries), 0, bits]
    table.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    return written(made(RAMP, VOILUTSequence=[table], **more))


@pytest.mark.parametrize("largest", [255, 1000, 1023, 4095, 32767])
def test_f5_voi_lut_narrower_than_declared(largest: int) -> None:
    table = np.rint((np.arange(4096) / 4095) ** 1.5 * largest)
    close(decode(with_table(table, 16), SPEC)[0], np.rint(255 * table[RAMP] / largest))


def test_f5_a_table_that_uses_its_bits_keeps_its_range() -> None:
    table = np.rint((np.arange(4096) / 4095) ** 1.5 * 60_000)
    close(decode(with_table(table, 16), SPEC)[0], np.rint(255 * table[RAMP] / 65_535))
    wider = np.arange(4096)  # more than 8 bits hold
    close(decode(with_table(wider, 8), SPEC)[0], np.rint(255.0 * RAMP / 4095))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("kind", ["OW", "US"])
def test_f5_tables_in_every_form(syntax: str, kind: str) -> None:
    """Either byte order, a first value that lost its sign behind a rescale, per frame."""
    big = syntax == ExplicitVRBigEndian
    entries = np.arange(300, dtype="u2") * 3
    table, group = pydicom.Dataset(), pydicom.Dataset()
    table.add_new(0x00283002, "US", [300, 2**16 - 100, 10])
    value = entries.astype(">u2" if big else "<u2").tobytes() if kind == "OW" else entries.tolist()
    table.add_new(0x00283006, kind, value)
    expected = levels(entries[np.clip(RAMP.astype(int) - 1024 + 100, 0, 299)], 0, 1023)
    for place in ("file", "frame"):
        dataset = made(RAMP.byteswap() if big else RAMP, RescaleSlope="1", RescaleIntercept="-1024")
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset["PixelData"].VR = "OW"
        if place == "file":
            dataset.VOILUTSequence = [table]
        else:
            shown = pydicom.Dataset()
            shown.VOILUTSequence = [table]
            group.FrameVOILUTSequence = [shown]
            dataset.PerFrameFunctionalGroupsSequence = [group]
        close(decode(written(dataset), SPEC)[0], expected)


def floating(values: np.ndarray, double: bool = False, **more: Any) -> bytes:
    dataset = made(np.zeros(values.shape, "u2"))
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated = 64 if double else 32
    kind = "DoubleFloatPixelData" if double else "FloatPixelData"
    setattr(dataset, kind, values.astype("<f8" if double else "<f4").tobytes())
    for name, value in more.items():
        setattr(dataset, name, value)
    return written(dataset)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    ("bad", "shown", "more"),
    [
        (np.nan, 0, {}),
        (np.inf, 255, {}),
        (-np.inf, 0, {}),
        (-9999.0, 0, {"PaddingValue": -9999.0}),
        (-9999.0, 0, {"PaddingValue": -9000.0, "PaddingRangeLimit": -10000.0}),
        (np.nan, 0, {"PhotometricInterpretation": "MONOCHROME1"}),
    ],
)
def test_f13_one_value_that_is_none_leaves_the_rest(
    bad: float, shown: int, more: dict[str, Any], double: bool
) -> None:
    values = np.mgrid[0:SIDE, 0:SIDE].sum(0).astype(float)
    expected = np.rint(255 * values / values.max())
    if "PhotometricInterpretation" in more:
        expected = 255 - expected
    values[0, 1], expected[0, 1] = bad, shown
    kind = "DoubleFloatPixel" if double else "FloatPixel"
    named = {kind + k if k.startswith("Padding") else k: v for k, v in more.items()}
    close(decode(floating(values, double, **named), SPEC)[0], expected)


@pytest.mark.parametrize("kind", ["i2", "u2"])
@pytest.mark.parametrize("given", ["as stored", "of the other sign", "range", "twelve bits"])
def test_f23_padding_is_no_part_of_the_range(kind: str, given: str) -> None:
    values = (VALUES % 1000).astype(kind)
    padding = -2000 if kind == "i2" else 63_536
    expected = levels(values, values.min(), values.max())
    expected[:2] = 0 if kind == "i2" else 255
    values[:2] = padding
    dataset = made(values, 16)
    if given == "as stored":
        dataset.PixelPaddingValue = padding
    elif given == "of the other sign":
        other, number = ("US", 63_536) if kind == "i2" else ("SS", -2000)
        dataset.add_new("PixelPaddingValue", other, number)
    elif given == "range":
        values[0] = padding + 500
        dataset.PixelData = values.tobytes()
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = padding + 700, padding - 40
    else:
        values[:2] = -2000 if kind == "i2" else 2096
        dataset = made(values, 12)
        dataset.add_new("PixelPaddingValue", "US", 2096)
    close(decode(written(dataset), SPEC)[0], expected)


@pytest.mark.parametrize(("used", "stored"), [(8, 16), (12, 16), (16, 16), (8, 12), (12, 12)])
def test_f24_colour_is_scaled_by_the_bits_that_are_used(used: int, stored: int) -> None:
    colours = np.random.default_rng(0).integers(0, 2**used, (SIDE, SIDE, 3)).astype("u2")
    colours[0, 0] = 2**used - 1
    found = decode(written(made(colours, stored)), COLOUR)
    np.testing.assert_array_equal(found, np.moveaxis(colours >> (used - 8), 2, 0))


@pytest.mark.parametrize(("used", "declared"), [(8, 16), (16, 16)])
def test_f24_palettes_are_scaled_by_their_entries(used: int, declared: int) -> None:
    dataset = made((VALUES % 256).astype("u1"), 8, PhotometricInterpretation="PALETTE COLOR")
    entries = np.arange(256) * (1 if used == 8 else 257)
    for colour, values in zip(
        ("Red", "Green", "Blue"), (entries, entries[::-1], entries), strict=True
    ):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, declared])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", values.astype("<u2").tobytes())
        dataset[f"{colour}PaletteColorLookupTableData"].VR = "OW"
    shown = VALUES % 256
    np.testing.assert_array_equal(
        decode(written(dataset), COLOUR), np.stack([shown, 255 - shown, shown])
    )


def test_f24_a_dark_picture_stays_dark() -> None:
    """Only the depths of cameras are guessed."""
    dark = np.full((2, 2, 3), 5_000, np.uint16)
    assert eight_bits(dark, 16).max() == 5_000 >> 8
    assert eight_bits(np.full((2, 2, 3), 1_000, np.uint16), 12).max() == 1_000 >> 4
    assert eight_bits(np.full((2, 2, 3), -3, np.int16), 16).max() == 0


def test_f26_a_slope_of_zero_is_ignored() -> None:
    data = written(made(VALUES, RescaleSlope="0", RescaleIntercept="-1024"))
    close(decode(data, SPEC)[0], levels(VALUES, VALUES.min(), VALUES.max()))


@pytest.mark.parametrize("kind", ["u2", "i2"])
@pytest.mark.parametrize("syntax", ["native", "rle"])
def test_f26_bits_stored_at_the_top(kind: str, syntax: str) -> None:
    """ACR-NEMA's way, with an overlay in the bits below."""
    values = VALUES.astype("i4") - (2048 if kind == "i2" else 0)
    dataset = made(((values << 4) + 5).astype(kind), HighBit=15)
    if syntax == "rle":
        dataset.BitsStored = 16  # which the encoder takes for its own
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.BitsStored = 12
    close(decode(written(dataset), SPEC)[0], levels(values, values.min(), values.max()))


@pytest.mark.parametrize("label", ["YBR_FULL", "YBR_RCT", "RGB"])
def test_f26_colours_mixed_by_jpeg_2000_are_parted_once(label: str) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3)).astype("u1")
    stream, dataset = io.BytesIO(), made(colours, 8)
    options = {"mct": 1, "irreversible": False, "num_resolutions": 1, "no_jp2": True}
    Image.fromarray(colours).save(stream, "JPEG2000", **options)
    dataset.file_meta.TransferSyntaxUID = JPEG2000
    dataset.PixelData, dataset.PhotometricInterpretation = encapsulate([stream.getvalue()]), label
    dataset["PixelData"].VR = "OB"
    np.testing.assert_array_equal(decode(written(dataset), COLOUR), np.moveaxis(colours, 2, 0))


def compressed(frames: np.ndarray, table: bool) -> bytes:
    dataset = made(frames, 12)
    dataset.compress(RLELossless, generate_instance_uid=False)
    if not table:
        parts = list(
            pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=len(frames))
        )
        dataset.PixelData = encapsulate(parts, has_bot=False)
    return written(dataset)


def deflated(frames: np.ndarray) -> bytes:
    dataset = made(frames, 12)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    return written(dataset)


def encoded(frames: np.ndarray, syntax: str, implicit: bool, little: bool) -> bytes:
    dataset = made(frames if little else frames.byteswap(), 12)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].VR = "OW"
    return written(dataset)


def bare(frames: np.ndarray, implicit: bool, little: bool) -> bytes:
    """Without preamble and meta group."""
    stream = io.BytesIO()
    dataset = made(frames if little else frames.byteswap(), 12)
    dataset["PixelData"].VR = "OW"
    del dataset.file_meta
    dataset.save_as(stream, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return stream.getvalue()


WAYS: dict[str, Callable[[np.ndarray], bytes]] = {
    "explicit": lambda frames: written(made(frames)),
    "implicit": lambda frames: encoded(frames, ImplicitVRLittleEndian, True, True),
    "big": lambda frames: encoded(frames, ExplicitVRBigEndian, False, False),
    "bare explicit": lambda frames: bare(frames, False, True),
    "bare implicit": lambda frames: bare(frames, True, True),
    "bare big": lambda frames: bare(frames, False, False),
    "rle with table": lambda frames: compressed(frames, True),
    "rle without": lambda frames: compressed(frames, False),
    "deflated": deflated,
    "gzip": lambda frames: gzip.compress(written(made(frames))),
}


@pytest.mark.parametrize("way", WAYS)
def test_f20_one_frame_is_that_of_the_whole(way: str, tmp_path: Path) -> None:
    frames = np.stack([VALUES, VALUES[::-1], (VALUES * 3) % 4096])
    path = tmp_path / "cine"
    path.write_bytes(WAYS[way](frames))
    assert facts(path).frames == 3
    for index in (2, 0, 1):
        expected = levels(frames[index], frames[index].min(), frames[index].max())
        close(decode(path, SPEC, index=index)[0], expected)
        close(decode(path.read_bytes(), SPEC, index=index)[0], expected)


def test_f20_frames_of_single_bits_need_not_start_at_a_byte() -> None:
    bits = np.random.default_rng(2).integers(0, 2, (3, 15, 15)).astype("u1")
    dataset = made(bits, 1, BitsAllocated=1)
    dataset.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes() + b"\0"
    spec = SPEC.model_copy(update={"height": 15, "width": 15})
    for index in range(3):
        np.testing.assert_array_equal(
            decode(written(dataset), spec, index=index)[0], bits[index] * 255
        )


def test_f25_pixels_that_no_decoder_reads_are_named() -> None:
    dataset = made(VALUES)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xda" + bytes(64)])
    dataset["PixelData"].VR = "OB"
    with pytest.raises(ImageError, match=r"JPEG Extended.*12 bits.*dcmdjpeg"):
        decode(written(dataset), SPEC)


def test_a_file_without_pixels_is_said_to_have_none() -> None:
    dataset = made(VALUES)
    del dataset.PixelData
    with pytest.raises(ImageError, match="without pixels"):
        decode(written(dataset), SPEC)


def test_nan_is_black_also_where_small_values_are_bright() -> None:
    values = np.array([[0.0, 1.0], [np.nan, 0.5]], np.float32)
    shown = Raster(values, 32, (0.0, 1.0), inverted=True).grey_or_colour(None)
    assert shown.tolist() == [[255, 0], [0, 127]]
