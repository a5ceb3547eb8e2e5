"""Damaged inputs of every kind: read, or refused in one line, and never anything else."""

from __future__ import annotations

import contextlib
import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from clinipress.data.audit.audit import audit
from clinipress.data.sources import decode_item, read_dataset
from clinipress.errors import ClinipressError
from clinipress.kinds.image.read import decode, facts, has_palette
from clinipress.records.candidate import InputSpec
from kit.dicoms import EIGHT, VALUES, made, written
from kit.tiffs import tiff

SPEC = InputSpec(channels=3, height=16, width=16)
BY_DAY, AT_NIGHT = 2, 80  # of each of some 30 kinds
FRAMES = np.stack([VALUES, VALUES[::-1], VALUES.T])


def pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(np.kron(EIGHT, np.ones((2, 2), np.uint8))).convert(mode)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def packed(frames: np.ndarray, syntax: str, **more: object) -> bytes:
    dataset = made(frames, **more)
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    return written(dataset)


def table(sequence: str) -> bytes:
    entries = pydicom.Dataset()
    entries.LUTDescriptor, entries.ModalityLUTType = [4096, 0, 16], "US"
    entries.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    return written(made(VALUES, **{sequence: [entries]}))


def palette() -> bytes:
    dataset = made(EIGHT, 8, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        values = np.arange(256, dtype="<u2").tobytes()
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", values)
    return written(dataset)


def floating() -> bytes:
    dataset = made(VALUES)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated, dataset.FloatPixelPaddingValue = 32, -1.0
    dataset.FloatPixelData = VALUES.astype("<f4").tobytes()
    return written(dataset)


def enhanced() -> bytes:
    groups = []
    for centre in ("100", "2000", "3000"):
        group, window = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = centre, "500"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    return written(made(FRAMES, PerFrameFunctionalGroupsSequence=groups))


def nifti(values: np.ndarray, **header: float) -> bytes:
    image = nibabel.Nifti1Image(values, np.diag([1, 2, 1, 1]))
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()


def npz(**more: np.ndarray) -> bytes:
    stream = io.BytesIO()
    arrays = {f"{s}_images": FRAMES.astype("u1") for s in ("train", "val", "test")}
    arrays |= {f"{s}_labels": np.array([[0], [1], [0]]) for s in ("train", "val", "test")}
    np.savez_compressed(stream, **(arrays | more))
    return stream.getvalue()


RLE, DEFLATED = pydicom.uid.RLELossless, pydicom.uid.DeflatedExplicitVRLittleEndian
SMALL = VALUES[:8, :8, None].repeat(5, 2).astype("i2")
SEEDS = {
    "dicom": written(made(VALUES, WindowCenter="1000", WindowWidth="500", RescaleSlope="2",
                          RescaleIntercept="-1024", PixelPaddingValue=3)),
    "dicom frames": written(made(FRAMES)),
    "dicom run length": packed(FRAMES, RLE),
    "dicom deflated": packed(FRAMES, DEFLATED),
    "dicom colour": written(made(np.dstack([EIGHT] * 3), 8)),
    "dicom palette": palette(),
    "dicom display table": table("VOILUTSequence"),
    "dicom values table": table("ModalityLUTSequence"),
    "dicom floats": floating(),
    "dicom enhanced": enhanced(),
    "dicom gzip": gzip.compress(written(made(FRAMES))),
    "dicom bare": written(made(VALUES))[132:],
    "nifti": nifti(SMALL, cal_min=100, cal_max=2000),
    "nifti floats": nifti(SMALL.astype("f4"), scl_slope=2, scl_inter=1),
    "nifti gzip": gzip.compress(nifti(SMALL)),
    "nifti in time": nifti(np.stack([SMALL, SMALL], -1)),
    "tiff": tiff(VALUES, VALUES, white_is_zero=True),
    "tiff big": tiff(VALUES.astype("i4"), VALUES.astype("i4"), big_endian=True, packed=True),
    "tiff colour": tiff(np.dstack([VALUES << 4] * 3), planes=True),
    "tiff floats": tiff(VALUES.astype("f4"), packed=True),
    "tiff lzw": pillow("TIFF", compression="tiff_lzw"),
    "tiff jpeg": pillow("TIFF", compression="jpeg"),
    "tiff palette": pillow("TIFF", "P"),
    "png": pillow("PNG"),
    "png palette": pillow("PNG", "P", transparency=0),
    "jpeg": pillow("JPEG"),
    "jpeg progressive": pillow("JPEG", "CMYK", progressive=True),
    "gif": pillow("GIF"),
    "webp": pillow("WEBP"),
    "jpeg 2000": pillow("JPEG2000"),
    "bmp": pillow("BMP"),
    "ppm": pillow("PPM"),
    "npz": npz(),
    "npz colour": npz(train_images=np.stack([FRAMES.astype("u1")] * 3, -1)),
}  # fmt: skip


def spoilt(data: bytes, random: np.random.Generator) -> bytes:
    """Cut, flipped, zeroed, filled, doubled or joined; mostly near the beginning."""
    broken, way = bytearray(data), random.integers(6)
    reach = len(broken) if random.random() < 0.3 else min(len(broken), 600)
    at = int(random.integers(reach))
    size = int(random.integers(1, 9))
    if way == 0:
        del broken[at:]
    elif way == 1:
        for place in random.integers(0, reach, size):
            broken[place] ^= 1 << int(random.integers(8))
    elif way == 2:
        broken[at : at + size] = bytes(size)
    elif way == 3:
        broken[at : at + size] = b"\xff" * size
    elif way == 4:
        broken[at:at] = broken[at : at + 40 * size]
    else:
        broken[at : at + size] = random.integers(0, 256, size, np.uint8).tobytes()
    return bytes(broken)


def used(path: Path, folder: Path) -> int:
    """Everything that reads a file does so; how often it was refused."""
    ways = (
        lambda: facts(path),
        lambda: decode(path, SPEC),
        lambda: decode(path.read_bytes(), SPEC, index=1),
        lambda: has_palette(path),
        lambda: [decode_item(item, SPEC) for item in read_dataset(folder).items[:9]],
        lambda: audit(read_dataset(folder), threads=1),
    )
    problems = []
    for way in ways:
        try:
            way()
        except ClinipressError as problem:
            problems.append(str(problem))
    assert not any("\n" in problem for problem in problems)
    return len(problems)


@pytest.mark.parametrize("kind", SEEDS)
@pytest.mark.parametrize(
    "turns", [BY_DAY, pytest.param(AT_NIGHT, marks=pytest.mark.nightly)], ids=["day", "night"]
)
def test_f22_damaged_inputs_are_read_or_refused_in_one_line(
    kind: str, turns: int, tmp_path: Path
) -> None:
    random = np.random.default_rng([len(kind), turns, *kind.encode()])
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.fromarray(EIGHT).save(tmp_path / label / "good.png")
    archive = kind.startswith("npz")
    path = tmp_path / "set.npz" if archive else tmp_path / "a" / "file"
    folder = path if archive else tmp_path
    path.write_bytes(SEEDS[kind])
    assert used(path, folder) <= (4 if archive else 1)  # some have no second picture
    for _ in range(turns):
        path.write_bytes(spoilt(SEEDS[kind], random))
        with contextlib.redirect_stderr(io.StringIO()):
            used(path, folder)
