"""Files that no reader takes are named, with the way out."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image, features

from clinipress.errors import ImageError
from clinipress.kinds.image.read import decode, facts
from clinipress.records.candidate import InputSpec

GREY = InputSpec(channels=1, height=16, width=16)
VOLUME = np.arange(8 * 8 * 8, dtype=np.float32).reshape(8, 8, 8)


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, kind)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", "b")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return stream.getvalue()


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, VOLUME)
    return stream.getvalue()


MGH = nibabel.MGHImage(VOLUME, np.eye(4)).to_bytes()
ANALYZE = nibabel.AnalyzeImage(VOLUME, np.eye(4)).header.binaryblock
CASES = {
    "empty": (b"", "an empty file", "copy it again"),
    "HEIC": (struct.pack(">I", 24) + b"ftypheic" + bytes(40), "HEIC", "PNG"),
    "video": (struct.pack(">I", 24) + b"ftypisom" + bytes(40), "video", "PNG"),
    "NRRD": (b"NRRD0005\ntype: short\n", "NRRD", "NIfTI"),
    "MHA": (b"ObjectType = Image\nNDims = 3\nBinaryData = True\n\0\1", "MetaImage", "NIfTI"),
    "AFNI": (b"\ntype = string-attribute\nname = TYPESTRING\n", "AFNI", "NIfTI"),
    "PAR": (b"# === DATA DESCRIPTION FILE ====\n#\n", "PAR/REC", "NIfTI"),
    "MGH": (MGH, "MGH", "mri_convert"),
    "MGZ": (gzip.compress(MGH), "MGH", "mri_convert"),
    "Analyze": (ANALYZE, "Analyze 7.5", "NIfTI"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5", "NIfTI"),
    "npy": (array(), "NumPy", "npz"),
    "zip": (zipped(), "ZIP", "unpack"),
    "tar": (tarred(), "tar archive", "unpack"),
    "tar.gz": (gzip.compress(tarred()), "tar archive", "unpack"),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "JPEG XL", "PNG"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\n", "PDF", "PNG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript", "PNG"),
    "SVG": (b"<?xml version='1.0'?><svg/>", "SVG", "out of the data"),
    "text": (b"path,label\na,b\n", "text", "out of the data"),
    "gzip of text": (gzip.compress(b"not an image"), "text", "out of the data"),
}


@pytest.mark.parametrize("case", CASES)
def test_f25_what_is_no_image_is_named_with_the_way_out(case: str, tmp_path: Path) -> None:
    data, name, way_out = CASES[case]
    (tmp_path / "file").write_bytes(data)
    for source in (data, tmp_path / "file"):
        for read in (facts, lambda s: decode(s, GREY)):
            with pytest.raises(ImageError) as problem:
                read(source)
            assert name in problem.value.got
            assert way_out in (problem.value.fix or "")
            assert "\n" not in str(problem.value)


def test_f25_avif_is_named() -> None:
    """Pillow may read it, and the device's may not: what is trained on must be read there too."""
    data = (
        saved("AVIF") if features.check("avif") else struct.pack(">I", 28) + b"ftypavif" + bytes(40)
    )
    with pytest.raises(ImageError, match=r"AVIF.*save it as PNG"):
        decode(data, GREY)


def test_f25_the_voxels_beside_a_header_are_named(tmp_path: Path) -> None:
    (tmp_path / "brain.hdr").write_bytes(ANALYZE)
    (tmp_path / "brain.img").write_bytes(VOLUME.tobytes())
    with pytest.raises(ImageError, match=r"voxels of an \.hdr file.*NIfTI"):
        decode(tmp_path / "brain.img", GREY)


def test_what_nobody_knows_is_said_so() -> None:
    with pytest.raises(ImageError, match="of no known format"):
        decode(bytes(range(1, 200)), GREY)
