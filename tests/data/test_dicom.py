from __future__ import annotations

import contextlib
import gzip
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from clinipress.errors import ClinipressError, ImageError, MissingExtraError
from clinipress.kinds.image import dicom
from clinipress.kinds.image.pixels import quiet
from clinipress.kinds.image.read import decode, facts
from clinipress.records.candidate import InputSpec
from kit.dicoms import COLOUR, EIGHT, SIDE, SPEC, VALUES, close, levels, made, written
from kit.folders import picture


def test_twelve_bits_without_a_window_use_their_own_range() -> None:
    found = decode(written(made(VALUES)), SPEC)[0]
    close(found, levels(VALUES, VALUES.min(), VALUES.max()))
    assert found.min() == 0
    assert found.max() == 255


def test_rescale_comes_before_the_callers_window() -> None:
    data = written(made(VALUES, RescaleSlope="0.5", RescaleIntercept="-1024"))
    spec = SPEC.model_copy(update={"window": (-500.0, 300.0)})
    close(decode(data, spec)[0], levels(VALUES * 0.5 - 1024, -500, 300))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function: str | None) -> None:
    dataset = made(
        VALUES, RescaleSlope="1", RescaleIntercept="-1024", WindowCenter="40", WindowWidth="400"
    )
    if function:
        dataset.VOILUTFunction = function
    hounsfield = pydicom.pixels.apply_rescale(VALUES, dataset)
    shown = pydicom.pixels.apply_windowing(hounsfield, dataset)
    expected = levels(shown, -1024, 4095 - 1024)  # pydicom spreads over the range of the unit
    close(decode(written(dataset), SPEC)[0], expected)


def test_the_first_of_several_windows_and_a_useless_one() -> None:
    several = made(VALUES, WindowCenter=["1000", "50"], WindowWidth=["801", "10"])
    close(decode(written(several), SPEC)[0], levels(VALUES, 599.5, 1399.5 - 0))
    useless = made(VALUES, WindowCenter="1000", WindowWidth="0")
    close(decode(written(useless), SPEC)[0], levels(VALUES, VALUES.min(), VALUES.max()))


def test_the_callers_window_beats_the_files() -> None:
    for extra in ({}, {"VOILUTFunction": "SIGMOID"}):
        data = written(made(VALUES, WindowCenter="1000", WindowWidth="100", **extra))
        spec = SPEC.model_copy(update={"window": (0.0, 4095.0)})
        close(decode(data, spec)[0], levels(VALUES, 0, 4095))


def test_a_display_table_is_looked_up() -> None:
    dataset = made(VALUES)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 10]
    entries = (1023 - np.arange(4096) // 4).astype(np.uint16)
    table.LUTData = entries.tobytes()
    table["LUTData"].VR = "OW"
    dataset.VOILUTSequence = [table]
    close(decode(written(dataset), SPEC)[0], levels(entries[VALUES], 0, 1023))


def test_a_modality_table_is_looked_up() -> None:
    dataset = made(VALUES)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    entries = (np.arange(4096) ** 2 % 60000).astype(np.uint16)
    table.LUTData = entries.tobytes()
    table["LUTData"].VR = "OW"
    table.ModalityLUTType = "OD"
    dataset.ModalityLUTSequence = [table]
    found = entries[VALUES]
    close(decode(written(dataset), SPEC)[0], levels(found, found.min(), found.max()))


def test_monochrome1_is_inverted() -> None:
    plain = decode(written(made(EIGHT, 8)), SPEC)
    inverted = decode(written(made(EIGHT, 8, PhotometricInterpretation="MONOCHROME1")), SPEC)
    np.testing.assert_array_equal(plain[0], EIGHT)
    np.testing.assert_array_equal(inverted, 255 - plain)


def test_padding_does_not_stretch_the_range() -> None:
    values = (VALUES % 1000).astype(np.int16)
    padded = values.copy()
    padded[:2] = -2000
    data = written(made(padded, 16, PixelPaddingValue=-2000))
    inside = values[2:]
    close(decode(data, SPEC)[0, 2:], levels(inside, inside.min(), inside.max()))
    assert decode(data, SPEC)[0, :2].max() == 0


def test_signed_values() -> None:
    values = (VALUES.astype(np.int16) - 2000).astype(np.int16)
    spec = SPEC.model_copy(update={"window": (-1000.0, 1000.0)})
    close(decode(written(made(values, 16)), spec)[0], levels(values, -1000, 1000))


@pytest.mark.parametrize("name", ["big endian", "implicit", "rle", "gzip", "no preamble"])
def test_encodings_give_the_same_pixels(name: str) -> None:
    dataset = made(VALUES, RescaleSlope="2", RescaleIntercept="-7")
    expected = decode(written(dataset), SPEC)
    if name == "big endian":
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = VALUES.astype(">u2").tobytes()
        data = written(dataset)
    elif name == "implicit":
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        data = written(dataset)
    elif name == "rle":
        dataset.compress(RLELossless)
        data = written(dataset)
    elif name == "gzip":
        data = gzip.compress(written(dataset))
    else:
        stream = io.BytesIO()
        del dataset.file_meta
        dataset.save_as(stream, implicit_vr=True, little_endian=True)
        data = stream.getvalue()
        assert data[128:132] != b"DICM"
    np.testing.assert_array_equal(decode(data, SPEC), expected)
    assert facts(data).format == "DICOM"


def test_colour_in_rgb_and_ybr() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    rgb = np.stack([x * 16, y * 16, (x + y) * 8], -1).astype(np.uint8)
    np.testing.assert_array_equal(decode(written(made(rgb, 8)), COLOUR), np.moveaxis(rgb, 2, 0))
    ybr = pydicom.pixels.convert_color_space(rgb, "RGB", "YBR_FULL")
    data = written(made(ybr, 8, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(decode(data, COLOUR).astype(int) - np.moveaxis(rgb, 2, 0)).max() <= 2
    deep = (rgb.astype(np.uint16) << 8) + 3
    found = decode(written(made(deep, 16)), COLOUR)
    np.testing.assert_array_equal(found, np.moveaxis(rgb, 2, 0))


def test_palette_colour() -> None:
    dataset = made(EIGHT, 8, PhotometricInterpretation="PALETTE COLOR")
    tables = [np.roll(np.arange(256), k).astype(np.uint16) * 257 for k in (0, 50, 100)]
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", table.tobytes())
    expected = np.stack([table[EIGHT] >> 8 for table in tables])
    np.testing.assert_array_equal(decode(written(dataset), COLOUR), expected)


@pytest.mark.parametrize("large", [False, True])
def test_frames_by_number(tmp_path: Path, large: bool) -> None:
    """Of bytes, and of a file, whose header is kept between frames."""
    frames = np.stack([np.full((SIDE, SIDE), level, np.uint8) for level in (10, 90, 170)])
    data = source = written(made(frames, 8))
    if large:
        source = tmp_path / "cine"
        source.write_bytes(data)
    assert facts(source).frames == 3
    found = [int(decode(source, SPEC, index=i).max()) for i in (None, 0, 1, 2)]
    assert found == [10, 10, 90, 170]
    for index in (3, -1):
        with pytest.raises(ImageError, match="from 0 to 2"):
            decode(source, SPEC, index=index)


def test_enhanced_files_keep_rescale_and_window_per_frame() -> None:
    dataset = made(np.stack([VALUES, VALUES]))
    own = []
    for slope, centre in ((1, 500), (2, 3000)):
        transform, window, group = Dataset(), Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = str(slope), "-10"
        window.WindowCenter, window.WindowWidth = str(centre), "1001"
        group.PixelValueTransformationSequence = [transform]
        group.FrameVOILUTSequence = [window]
        own.append(group)
    dataset.PerFrameFunctionalGroupsSequence = own
    data = written(dataset)
    for index, (slope, centre) in enumerate(((1, 500), (2, 3000))):
        expected = levels(VALUES * float(slope) - 10, centre - 500.5, centre + 499.5)
        close(decode(data, SPEC, index=index)[0], expected)


def test_the_header_alone_gives_facts_and_patient(tmp_path: Path) -> None:
    data = written(made(VALUES, PatientID=" P7 "))
    cut = data[: data.index(VALUES.tobytes()[:32])]
    assert facts(cut) == facts(data)
    assert (facts(cut).width, facts(cut).height, facts(cut).bits, facts(cut).channels) == (
        SIDE, SIDE, 12, 1
    )  # fmt: skip
    for content, patient in ((data, "P7"), (cut, "P7"), (written(made(VALUES)), None)):
        (tmp_path / "slice").write_bytes(content)
        named, frames = dicom.pictures(tmp_path / "slice")
        assert (named.get("patient"), frames) == (patient, None)
    with pytest.raises(ImageError):
        decode(cut, SPEC)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda d: delattr(d, "Rows"), "rows and columns"),
        (lambda d: delattr(d, "PixelData"), "without pixels"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:100]), "undamaged"),
        (lambda d: setattr(d, "Rows", 60000) or setattr(d, "Columns", 60000), "at most"),
        (lambda d: setattr(d, "Rows", 0), "pixels"),
    ],
    ids=["no rows", "no pixels", "truncated", "bomb", "empty"],
)
def test_broken_files_raise_image_errors(spoil: Callable[[Dataset], None], what: str) -> None:
    dataset = made(VALUES)
    spoil(dataset)
    with pytest.raises(ImageError, match=what):
        decode(written(dataset), SPEC)


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(made(VALUES))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(MissingExtraError, match=r"reading DICOM.*clinipress\[dicom\]"):
        decode(data, SPEC)


def test_without_a_decoder_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to decompress: all plugins are missing dependencies:\n x")

    monkeypatch.setattr(pydicom.pixels, "pixel_array", fail)
    with pytest.raises(MissingExtraError, match=r"compressed DICOM.*clinipress\[dicom\]"):
        decode(written(made(VALUES)), SPEC)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_bytes_raise_image_errors_only(compressed: bool) -> None:
    dataset = made(VALUES, WindowCenter="40", WindowWidth="400", RescaleSlope="1", PatientID="x")
    if compressed:
        dataset.compress(RLELossless)
    data = written(dataset)
    random = np.random.default_rng(11)
    refused = 0
    for turn in range(150):
        broken = bytearray(data[: random.integers(133, len(data))] if turn % 3 == 0 else data)
        for place in random.integers(132, len(broken), random.integers(1, 8)):
            broken[place] ^= 1 << int(random.integers(8))
        with contextlib.suppress(ImageError):
            refused += 1
            facts(bytes(broken))
            assert decode(bytes(broken), SPEC).shape == (1, SIDE, SIDE)
            refused -= 1
    assert refused > 10


@pytest.mark.realdata
def test_real_files_agree_with_pydicom(realdata: Path) -> None:
    """Windowed, rescaled and inverted by pydicom's own functions, at the files' own size."""
    checked = 0
    for path in sorted((realdata / "readers").glob("dicom-*/**/*.dcm")):
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            about = (
                dataset.get("Rows"),
                dataset.get("Columns"),
                dataset.get("PhotometricInterpretation"),
            )
            if about[2] != "MONOCHROME2" or dataset.get("BitsStored", 0) > 16:
                continue
            spec = InputSpec(channels=1, height=about[0], width=about[1])
            try:
                values = pydicom.pixels.apply_rescale(dataset.pixel_array, dataset).astype(float)
            except (RuntimeError, ValueError):
                with pytest.raises(ClinipressError):
                    decode(path, spec)
                continue
        inside = values[dataset.pixel_array != dataset.get("PixelPaddingValue", 99999)]
        low, high = inside.min(), inside.max()
        if "WindowWidth" in dataset:
            first = lambda v: float(v[0] if v.VM > 1 else v.value)  # noqa: E731
            centre, width = first(dataset["WindowCenter"]), first(dataset["WindowWidth"])
            low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        close(decode(path, spec)[0], levels(values, low, high))
        checked += 1
    assert checked >= 20


# Odd values of elements as they stand in the file, the same number of bytes each
ODD = {
    "PatientID": (b"P\x1b$)C1", b"P\x1b[2J1", b"\xff\xfe\x1b%G\x80"),
    "StudyInstanceUID": (b"1.x.3\x1b", b"\x1b(J.1\x00"),
    "SpecificCharacterSet": (b"ISO 99", b"\x1b$)C\x80\x81"),
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name in ODD for v in ODD[name]])
def test_r4_odd_texts_of_dicom_warn_nobody(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, name: str, value: bytes
) -> None:
    warnings.simplefilter("always")
    stood = {"PatientID": "PPPPPP", "StudyInstanceUID": "1.2.34", "SpecificCharacterSet": "ISO_IR"}
    with quiet():
        data = written(made(VALUES, **stood))
    file = tmp_path / "1.dcm"
    file.write_bytes(data.replace(stood[name].encode(), value))
    dicom.pictures(file)
    facts(file)
    decode(file, SPEC)
    assert [str(warning.message) for warning in recwarn] == []


def test_r4_nothing_of_the_image_libraries_reaches_the_terminal(tmp_path: Path) -> None:
    for name in ("A/1.png", "B/1.png"):
        picture(tmp_path / name, len(name))
    esc = written(made(VALUES, PatientID="PPPPPP")).replace(b"PPPPPP", b"P\x1b$)C1")
    (tmp_path / "A" / "esc.dcm").write_bytes(esc)
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "TIFF")
    tags = stream.getvalue()
    planes = struct.pack("<HHIHH", 284, 3, 1, 1, 0)
    # samples for each pixel: Pillow logs what is too many
    many = struct.pack("<HHIHH", 277, 3, 1, 99, 0)
    assert tags.count(planes) == 1
    (tmp_path / "A" / "samples.tif").write_bytes(tags.replace(planes, many))
    size = struct.pack(">II", 12000, 9000)  # above Pillow's own limit, below its double
    chunk = b"IHDR" + size + b"\x08\0\0\0\0"
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = b"\x89PNG\r\n\x1a\n" + head + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    (tmp_path / "B" / "bomb.png").write_bytes(body)
    broken = bytearray(nibabel.Nifti1Image(np.ones((8, 8, 3), np.int16), np.eye(4)).to_bytes())
    broken[76:80] = struct.pack("<f", float("nan"))  # qfac
    (tmp_path / "B" / "odd.nii").write_bytes(broken)
    command = [sys.executable, "-W", "always", "-m", "clinipress", "audit", str(tmp_path)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
