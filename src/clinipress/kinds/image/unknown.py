"""What a file is that no reader takes, and how to make it one that a reader takes."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

__all__ = ["described"]

_HEAD = 4096
_PICTURE = "save it as PNG, TIFF or JPEG of the best quality"
_VOLUME = "write it as NIfTI (.nii.gz)"
_VIDEO = "take single pictures out of it, as PNG"
_NOT_ONE = "take it out of the data"
# Where a signature stands, the signature, what has it, the way out. The first that fits counts.
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    *((4, b"ftyp" + brand, "AVIF", _PICTURE) for brand in (b"avif", b"avis")),
    *(
        (4, b"ftyp" + brand, "HEIC/HEIF", _PICTURE)
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
    (4, b"ftyp", "an MP4 or QuickTime video", _VIDEO),
    (0, b"RIFF", "an AVI video or WAV sound", _VIDEO),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video", _VIDEO),
    (0, b"\0\0\x01\xba", "an MPEG video", _VIDEO),
    (0, b"NRRD000", "NRRD", _VOLUME),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5 (or MINC 2)", f"{_VOLUME}, or its pictures as PNG"),
    (0, b"CDF\x01", "NetCDF (or MINC 1)", _VOLUME),
    (0, b"MATLAB 5.0", "a MATLAB file", f"{_VOLUME}, or its pictures as PNG"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", "put arrays and labels into one .npz, or save PNG"),
    (0, b"PK\x03\x04", "a ZIP archive (or .npz)", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (0, b"Rar!", "a RAR archive", "unpack it"),
    (257, b"ustar", "a tar archive", "unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it"),
    (0, b"BZh", "a bzip2 archive", "unpack it"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it"),
    (0, b"\xff\x0a", "JPEG XL", _PICTURE),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL", _PICTURE),
    (0, b"II\xbc", "JPEG XR", _PICTURE),
    (0, b"\x76\x2f\x31\x01", "OpenEXR", _PICTURE),
    (0, b"8BPS", "a Photoshop file", _PICTURE),
    (0, b"gimp xcf", "a GIMP file", _PICTURE),
    (0, b"SIMPLE  =", "FITS", _VOLUME),
    (0, b"ZISRAWFILE", "a Zeiss CZI file", "save regions of it as TIFF or PNG"),
    (0, b"%PDF", "a PDF document", "take its pictures out, as PNG"),
    (0, b"%!PS", "PostScript", _PICTURE),
    (0, b"MATRIX7", "ECAT 7", _VOLUME),
)
_PATTERNS = (
    (rb"\s*(ObjectType|NDims|Comment)\s*=[^\0]*\n\s*(NDims|DimSize)\s*=", "MetaImage", _VOLUME),
    (rb"\s*type\s*=\s*(string|integer|float)-attribute", "AFNI", _VOLUME),
    (rb"# === DATA DESCRIPTION FILE", "PAR/REC", _VOLUME),
    (rb"(?i)\s*<(svg|\?xml|!DOCTYPE|html)", "XML, HTML or SVG", _NOT_ONE),
    (rb"[\t-\r -~]*\Z", "text", _NOT_ONE),
)


def described(source: Path | bytes) -> tuple[str, str | None] | None:
    """What a file is, and the way out where there is one; None: nothing known about it."""
    head = _head(source)
    if not head:
        return "an empty file", "copy it again"
    known: list[tuple[bool, str, str]] = [
        *((head.startswith(signature, at), name, fix) for at, signature, name, fix in _SIGNATURES),
        (_is_analyze(head), "Analyze 7.5 (.hdr with .img)", _VOLUME),
        (_is_mgh(head), "FreeSurfer's MGH or MGZ", f"{_VOLUME}: mri_convert does"),
        (_has_header(source), "the voxels of an .hdr file", _VOLUME),
        *((bool(re.match(p, head)), name, fix) for p, name, fix in _PATTERNS),
    ]
    return next(((name, fix) for fits, name, fix in known if fits), None)


def _has_header(source: Path | bytes) -> bool:
    return (
        isinstance(source, Path)
        and source.suffix.casefold() == ".img"
        and source.with_suffix(".hdr").is_file()
    )


def _head(source: Path | bytes) -> bytes:
    """The first bytes, out of a gzip file where it is one."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            head = stream.read(_HEAD)
    else:
        head = source[:_HEAD]
    if head[:2] != b"\x1f\x8b":
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD) or head
    except zlib.error:
        return head


def _is_analyze(head: bytes) -> bool:
    """A header of 348 bytes with one to seven dimensions, and not NIfTI's mark."""
    return any(
        head[:4] == struct.pack(f"{order}i", 348)
        and len(head) >= 42
        and 1 <= struct.unpack_from(f"{order}h", head, 40)[0] <= 7
        for order in "<>"
    )


def _is_mgh(head: bytes) -> bool:
    """Version 1, four plausible dimensions, and a type that exists."""
    if len(head) < 24 or head[:4] != b"\0\0\0\x01":
        return False
    *shape, kind = struct.unpack_from(">5i", head, 4)
    return all(0 < n < 2**16 for n in shape) and kind in (0, 1, 3, 4, 10)
