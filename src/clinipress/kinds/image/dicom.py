"""DICOM files to pixels in stored units; pydicom does the parsing and is loaded when first used.

References are to the DICOM standard, part 3: modality look-up table C.11.1, display window C.11.2.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ImageError, MissingExtraError, NoPictureError
from clinipress.extras import require
from clinipress.kinds.image.pixels import HeaderFacts, Raster, check_size, quiet, to_uint8
from clinipress.kinds.image.unpacking import (
    MAX_PICTURES,
    BoundedStream,
    claim,
    gunzip,
    inflated,
    length,
)

__all__ = ["pictures", "read_facts", "read_raster", "recognises", "stored_bytes"]

_LARGE = 2**26  # bytes from which only the frame that is wanted is read
_MOST_COMPONENTS = 4
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Part 4, table B.5-1: the beginning of the number of a storage class -> what it holds
_NO_PICTURES = {
    "481.2.": "a radiotherapy dose",
    "481.3.": "radiotherapy structures",
    **{f"481.{n}.": "a radiotherapy plan or record" for n in (*range(4, 10), *range(10, 25))},
    "66.": "raw data",
    "66.1.": "a registration",
    "66.2.": "fiducials",
    "66.3.": "a registration",
    "66.4.": "a segmentation",
    "66.5.": "a segmentation",
    "66.6.": "tractography",
    "66.7.": "a segmentation",
    "67.": "a mapping of values",
    "68.": "a surface",
    "88.": "a report",
    "11.": "a presentation state",
    "9.": "a waveform",
    "104.": "a document",
    "4.2.": "spectroscopy",
}
_NO_PICTURE_MODALITIES = {
    "RTDOSE": "a radiotherapy dose", "RTSTRUCT": "radiotherapy structures",
    "RTPLAN": "a radiotherapy plan or record", "SEG": "a segmentation", "SR": "a report",
    "PR": "a presentation state", "KO": "a report", "REG": "a registration",
}  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SYNTAX = 0x00020010
_UNITS = {"patient": "PatientID", "study": "StudyInstanceUID", "series": "SeriesInstanceUID"}
_LARGEST = 1e30  # of a rescale, so that no stored value becomes infinite


def recognises(head: bytes) -> bool:
    """True behind a preamble, and for a data set without one: group 2 or 8 in either byte order.

    The last line, an element number and a plausible value representation or length, keeps other
    formats out.
    """
    little = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    plausible = head[4:6] in (b"UL", b"CS", b"UI", b"DA", b"SH") or head[6:8] == b"\x00\x00"
    return head[128:132] == b"DICM" or (little and plausible)


def read_facts(stream: BinaryIO) -> HeaderFacts:
    """Size, channels, bits stored and frames, from the header alone."""
    plain = _plain(stream)
    return _facts(*_header(plain))


def pictures(path: Path) -> tuple[dict[str, str], range | None]:
    """Identifiers of patient, study and series, those that are not empty; frames, if several."""
    with quiet(), path.open("rb") as stream:
        header, room = _header(_plain(stream))
        _check_picture(header)
        frames = _facts(header, room).frames
    values = {kind: str(header.get(name) or "").strip() for kind, name in _UNITS.items()}
    units = {kind: value for kind, value in values.items() if value}
    return units, None if frames == 1 else range(frames)


def _check_picture(header: Any) -> None:
    """Refuse objects that lie in the folders of a series and are no pictures of the patient.

    A dose and a segmentation have pixels as well, and would be read as images of the class.
    """
    uid = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    number = f"{uid.removeprefix(_STORAGE)}."
    starts = sorted((start for start in _NO_PICTURES if number.startswith(start)), key=len)
    kind = (
        _NO_PICTURES[starts[-1]] if starts else _NO_PICTURE_MODALITIES.get(header.get("Modality"))
    )
    if kind:
        raise NoPictureError("a DICOM image", f"DICOM, {kind}")


def stored_bytes(_path: Path, _index: int) -> None:
    """A frame has no bytes of its own that a digest could do with."""


def read_raster(stream: BinaryIO, index: int | None = None, _source: Any = None) -> Raster:
    """One frame, rescaled to its unit (Hounsfield for CT), or as RGB; None: the first."""
    stream, index = _plain(stream), index or 0
    large = length(stream) > _LARGE
    header, room = _header(stream, pixels=not large)
    facts = _facts(header, room)
    check_size(facts.width, facts.height)
    if not 0 <= index < facts.frames:
        raise ImageError(f"a frame number from 0 to {facts.frames - 1}", str(index))
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        if large:  # its reader has stopped at the pixels' tag: 12 bytes with the length
            stream.seek(stream.tell() + 12)
        coded = stream if large else header.PixelData
        _check_frame(_pydicom().encaps.get_frame(coded, index, **_offsets(header, facts)), facts)
    stream.seek(0)
    pixels = _pixels(stream if large else header, index)
    if facts.channels >= 3:
        return Raster(_eight_bits(pixels, facts.bits))
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        colours = _pydicom().pixels.apply_color_lut(pixels, header)[..., :3]
        return Raster(_eight_bits(colours, 8 * colours.dtype.itemsize))
    return _grey(pixels, _frame_header(header, index), facts.bits)


def _pydicom() -> Any:
    require("pydicom.pixels", extra="dicom")
    return require("pydicom", extra="dicom")


def _plain(stream: BinaryIO) -> BinaryIO:
    """Take gzip off, up to a limit; pydicom reads as many bytes as a file says it has."""
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    return gunzip(stream) if packed else cast(BinaryIO, BoundedStream(stream))


def _room(stream: BinaryIO) -> int:
    """Bytes of the data set, of a deflated one when inflated; the stream is rewound.

    pydicom inflates a whole file before it looks at anything, however large that gets.
    """
    reader, syntax = _pydicom().filereader, b""
    size = length(stream)
    reader.read_preamble(stream, True)
    for element in reader.data_element_generator(
        stream, False, True, stop_when=lambda tag, _kind, _length: tag >> 16 != 2
    ):
        if element.tag == _SYNTAX:
            syntax = element.value or b""
    if syntax.decode("ascii", "replace").strip("\0 ") == _DEFLATED:
        size = inflated(stream)
    stream.seek(0)
    return size


def _header(stream: BinaryIO, *, pixels: bool = False) -> tuple[Any, int]:
    """The data set, with the undecoded pixels or without, and its bytes.

    A file may lack the preamble.
    """
    room = _room(stream)
    header = _pydicom().dcmread(stream, stop_before_pixels=not pixels, force=True)
    if "TransferSyntaxUID" not in header.file_meta:
        # without a preamble no encoding is named; pydicom has found out how it is written
        little, implicit = header.original_encoding[1], header.original_encoding[0]
        names = ("ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian")
        number = 0 if implicit else 1 if little else 2
        header.file_meta.TransferSyntaxUID = getattr(_pydicom().uid, names[number])
    return header, room


def _facts(header: Any, room: int) -> HeaderFacts:
    """What the header says; more frames than `room` bytes can hold are refused."""
    if header.get("Rows") is None or header.get("Columns") is None:
        raise ImageError("a DICOM image", "a DICOM file without rows and columns")
    facts = _stated_facts(header)
    least = 8  # bytes of an empty compressed frame
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        least = facts.width * facts.height * int(header.get("BitsAllocated") or 1) // 8
    most = min(MAX_PICTURES, room // max(1, least))
    if facts.frames > max(1, most):
        raise ImageError(f"at most {most:,} frames in a file of its size", f"{facts.frames:,}")
    return facts


def _stated_facts(header: Any) -> HeaderFacts:
    return HeaderFacts(
        width=int(header.Columns),
        height=int(header.Rows),
        channels=int(header.get("SamplesPerPixel") or 1),
        bits=int(header.get("BitsStored") or header.get("BitsAllocated") or 8),
        frames=max(1, int(header.get("NumberOfFrames") or 1)),
        format="DICOM",
    )


def _offsets(header: Any, facts: HeaderFacts) -> dict[str, Any]:
    """Where the frames of compressed pixels begin, as far as the header says it."""
    table, lengths = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    return {
        "number_of_frames": facts.frames,
        "extended_offsets": (table, lengths) if table and lengths else None,
    }


def _check_frame(frame: bytes, facts: HeaderFacts) -> None:
    """Refuse compressed pixels that are of another size than the header says."""
    claimed = claim(frame)
    if claimed is not None:
        width, height, components = claimed
        if (width, height) != (facts.width, facts.height) or components > _MOST_COMPONENTS:
            got = f"{width} x {height} of {components} components"
            raise ImageError(f"compressed pixels of {facts.width} x {facts.height}", got)
    # run lengths pack no worse than this, and unpack to at most 64 times as much
    elif len(frame) > 2 * facts.width * facts.height * facts.channels * 8 + 2**16:
        raise ImageError("compressed pixels smaller than the image", f"{len(frame):,} bytes")


def _pixels(source: Any, index: int) -> NDArray[Any]:
    """One frame ``[h, w]`` or ``[h, w, 3]`` in RGB, before any rescale."""
    try:
        return np.asarray(_pydicom().pixels.pixel_array(source, index=index))
    except RuntimeError as problem:
        if "missing dependencies" in str(problem):
            raise MissingExtraError("reading compressed DICOM", "dicom") from None
        raise


def _eight_bits(pixels: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Colour to 8 bits by its nominal range."""
    if bits <= 8:
        return pixels.astype(np.uint8)
    return (pixels >> (bits - 8)).astype(np.uint8)


def _frame_header(header: Any, index: int) -> Any:
    """The header, or for an enhanced multi-frame file a small one with this frame's own values."""
    shared = header.get("SharedFunctionalGroupsSequence")
    own = header.get("PerFrameFunctionalGroupsSequence")
    if not shared and not own:
        return header
    merged = _pydicom().Dataset()
    merged.update({e.tag: e for e in header.group_dataset(0x0028)})
    for group in [*(shared or [])[:1], *(own or [])[index : index + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for values in group.get(name) or []:
                merged.update(values)
    return merged


def _grey(pixels: NDArray[Any], header: Any, bits: int) -> Raster:
    values = _rescaled(pixels, header)
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    display = _display(values, header)
    window = _window(header)
    if window is None and display is None and (bits > 8 or values is not pixels):
        # what lies outside the scanner's field of view is no part of the values' range
        padded = header.get("PixelPaddingValue")
        real = values[pixels != padded] if isinstance(padded, int) else values
        window = (float(real.min()), float(real.max())) if real.size else None
    return Raster(values, bits, window, display, inverted)


def _rescaled(pixels: NDArray[Any], header: Any) -> NDArray[Any]:
    """Stored values to their unit, C.11.1; `pixels` itself where the file names no rescale."""
    if header.get("ModalityLUTSequence"):
        return np.asarray(_pydicom().pixels.apply_modality_lut(pixels, header))
    slope, intercept = _first(header.get("RescaleSlope")), _first(header.get("RescaleIntercept"))
    if slope is None or intercept is None or (slope, intercept) == (1.0, 0.0):
        return pixels
    kind = np.float32 if pixels.dtype.itemsize <= 2 else np.float64
    if max(abs(slope), abs(intercept)) > _LARGEST:
        raise ImageError("a rescale that numbers can hold", f"{slope:g} x + {intercept:g}")
    return pixels * kind(slope) + kind(intercept)


def _window(header: Any) -> tuple[float, float] | None:
    """The first linear window as (low, high), C.11.2.1.2: what becomes black, what white."""
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is None or width is None:
        return None
    if _function(header) == "LINEAR_EXACT":
        return (centre - width / 2, centre + width / 2) if width > 0 else None
    return (centre - width / 2, centre + width / 2 - 1) if width >= 1 else None


def _function(header: Any) -> str:
    return str(header.get("VOILUTFunction") or "LINEAR").upper()


def _first(value: Any) -> float | None:
    """A DICOM decimal, or the first of several; None when absent or empty."""
    if not isinstance(value, str) and hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ImageError("numbers in a DICOM header", f"{number}")
    return number


def _display(values: NDArray[Any], header: Any) -> NDArray[np.uint8] | None:
    """Grey levels by a display table (C.11.2.1.1) or a sigmoid (C.11.2.1.3.1); None without them.

    The sigmoid is ``255 / (1 + exp(-4 (x - centre) / width))``.
    """
    if header.get("VOILUTSequence"):
        shown = _pydicom().pixels.apply_voi(np.rint(values).astype(np.int64), header, index=0)
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return to_uint8(np.asarray(shown), bits, (0.0, float(2**bits - 1)))
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if _function(header) != "SIGMOID" or centre is None or width is None or width <= 0:
        return None
    with np.errstate(over="ignore"):
        shown = 255 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))
    return to_uint8(shown, 8, (0.0, 255.0))
