"""DICOM files to pixels in stored units; pydicom does the parsing and is loaded when first used.

References are to the DICOM standard, part 3: modality look-up table C.11.1, display window C.11.2.
"""

from __future__ import annotations

import io
import math
import threading
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ImageError, MissingExtraError, NoPictureError
from clinipress.extras import require
from clinipress.kinds.image.pixels import (
    PLANES,
    HeaderFacts,
    Raster,
    check_size,
    eight_bits,
    quiet,
    to_uint8,
    value_range,
)
from clinipress.kinds.image.unpacking import (
    MAX_PICTURES,
    BoundedStream,
    claim,
    colours_mixed,
    gunzip,
    inflated,
    length,
)

__all__ = ["pictures", "read_facts", "read_raster", "recognises", "stored_bytes"]

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
_PIXELS = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
_PIXEL_KINDS = (b"OB", b"OW", b"OF", b"OD", b"UN")  # all odd as a length, which is even
_PADDING = ("PixelPaddingValue", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue")
_KEPT = 4  # files with several frames whose headers are kept


class _Element(NamedTuple):
    """Where the pixels lie: their element's name and VR, and their first byte and their bytes."""

    name: str
    vr: str
    start: int
    size: int
    # of compressed frames, where the file itself has no table and each is one fragment
    offsets: tuple[list[int], list[int]] | None = None


class _File(NamedTuple):
    """A file's data set without its pixels; `plain` where the file itself is packed."""

    header: Any
    facts: HeaderFacts
    pixels: _Element | None
    plain: bytes | None


_files: dict[Path, tuple[tuple[int, int], _File]] = {}
_lock = threading.Lock()


def recognises(head: bytes) -> bool:
    """True behind a preamble, and for a data set without one: group 2 or 8 in either byte order.

    The last line, an element number and a plausible value representation or length, keeps other
    formats out.
    """
    little = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    big = head[:2] in (b"\x00\x02", b"\x00\x08") and head[2:3] == b"\x00"
    named = head[4:6] in (b"UL", b"CS", b"UI", b"DA", b"SH")
    plausible = named or (little and head[6:8] == b"\x00\x00")
    return head[128:132] == b"DICM" or ((little or big) and plausible)


def read_facts(stream: BinaryIO, source: Path | bytes = b"") -> HeaderFacts:
    """Size, channels, bits stored and frames, from the header alone."""
    return _file(stream, source).facts


def pictures(path: Path) -> tuple[dict[str, str], range | None]:
    """Identifiers of patient, study and series, those that are not empty; frames, if several."""
    with quiet(), path.open("rb") as stream:
        file = _file(stream, path)
        _check_picture(file.header)  # pydicom looks at a value, and warns, when it is asked for
        values = {kind: str(file.header.get(name) or "").strip() for kind, name in _UNITS.items()}
    units = {kind: value for kind, value in values.items() if value}
    return units, None if file.facts.frames == 1 else range(file.facts.frames)


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


def read_raster(stream: BinaryIO, index: int | None = None, source: Path | bytes = b"") -> Raster:
    """One frame, rescaled to its unit (Hounsfield for CT), or as RGB; None: the first.

    Of a file with several only that frame's bytes are read.
    """
    index, file = index or 0, _file(stream, source)
    facts = file.facts
    check_size(facts.width, facts.height)
    if not 0 <= index < facts.frames:
        raise ImageError(f"a frame number from 0 to {facts.frames - 1}", str(index))
    one = _one_frame(stream, file, index)
    pixels = _pixels(one)
    if facts.channels >= 3:
        return Raster(eight_bits(pixels, facts.bits))
    if one.get("PhotometricInterpretation") == "PALETTE COLOR":
        colours = _pydicom().pixels.apply_color_lut(pixels, file.header)[..., :3]
        return Raster(eight_bits(colours, 8 * colours.dtype.itemsize))
    return _grey(pixels, _frame_header(file.header, index), facts.bits)


def _pydicom() -> Any:
    require("pydicom.pixels", extra="dicom")
    return require("pydicom", extra="dicom")


def _file(stream: BinaryIO, source: Path | bytes) -> _File:
    """The header of a file; where it has several frames it is kept, as are its unpacked bytes.

    Frames are asked for one after the other: parsed anew for each, a header with a description of
    every frame would cost the square of their number.
    """
    if not isinstance(source, Path):
        return _opened(stream)
    facts = source.stat()
    stamp = facts.st_size, facts.st_mtime_ns
    known = _files.get(source)
    if known and known[0] == stamp:
        return known[1]
    file = _opened(stream)
    if file.facts.frames > 1:
        with _lock:
            while len(_files) >= _KEPT:
                del _files[next(iter(_files))]
            _files[source] = stamp, file
    return file


def _opened(stream: BinaryIO) -> _File:
    """Pydicom reads as many bytes as a file says it has, so it is given a stream with an end."""
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    plain = gunzip(stream) if packed else None
    bounded = cast(BinaryIO, BoundedStream(plain or stream))
    room = _room(bounded)
    header = _header(bounded)
    facts = _facts(header, room)
    if header.file_meta.TransferSyntaxUID == _DEFLATED:
        bounded.seek(0)
        whole = _pydicom().dcmread(bounded, force=True)
        stored = next((whole[name] for name in _PIXELS.values() if name in whole), None)
        value = bytes(stored.value) if stored else b""
        element = _Element(stored.keyword, stored.VR, 0, len(value)) if stored else None
        return _File(header, facts, element, value)
    element = _element(bounded, header, facts)
    return _File(header, facts, element, plain.getvalue() if plain else None)


def _element(stream: BinaryIO, header: Any, facts: HeaderFacts) -> _Element | None:
    """Of the pixels, before which pydicom has stopped; None where there are none."""
    at = stream.tell()
    head = stream.read(12)
    little = header.original_encoding[1]
    number = Struct("<HHHxxI" if little else ">HHHxxI")
    if len(head) < number.size:
        return None
    group, tag, _, size = number.unpack(head)
    implicit = head[4:6] not in _PIXEL_KINDS  # some files are not written as they say
    if implicit:
        size = int.from_bytes(head[4:8], "little")
    if group != 0x7FE0 or tag not in _PIXELS:
        return None
    start = at + (8 if implicit else 12)
    left = length(stream) - start
    vr = "OW" if implicit else head[4:6].decode("ascii", "replace")
    offsets = None
    if header.file_meta.TransferSyntaxUID.is_encapsulated and facts.frames > 1:
        stream.seek(start)
        offsets = _fragments(stream, header, facts.frames)
    return _Element(_PIXELS[tag], vr, start, min(size, left), offsets)


def _fragments(stream: BinaryIO, header: Any, frames: int) -> tuple[list[int], list[int]] | None:
    """Places and lengths of fragments that are a frame each, counted from behind the table.

    Found once: without them every frame is looked for from the first one on.
    """
    table, lengths = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    if table and lengths:
        places = (np.frombuffer(raw, "<u8").tolist() for raw in (table, lengths))
        return next(places), next(places)
    encaps = _pydicom().encaps
    basic = encaps.parse_basic_offsets(stream)
    start = stream.tell()
    count, places = encaps.parse_fragments(stream)
    if basic or count != frames:
        return None
    sizes = []
    for place in places:
        stream.seek(place + 4)
        sizes.append(int.from_bytes(stream.read(4), "little"))
    return [place - start for place in places], sizes


def _one_frame(stream: BinaryIO, file: _File, index: int) -> Any:
    """A data set with what describes the pixels, and one frame of them."""
    header, facts, element = file.header, file.facts, file.pixels
    if element is None:
        raise ImageError("a DICOM image", "a DICOM file without pixels")
    pydicom = _pydicom()
    one = pydicom.Dataset()
    one.update(header.group_dataset(0x0028))
    one.file_meta = header.file_meta
    one.NumberOfFrames = 1
    plain = io.BytesIO(file.plain) if file.plain else stream
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        plain.seek(element.start)
        options = {"number_of_frames": facts.frames, "extended_offsets": element.offsets}
        bounded = BoundedStream(plain, rewind=False)
        frame = pydicom.encaps.get_frame(bounded, index, **options)
        _check_frame(frame, facts)
        if colours_mixed(frame) and facts.channels == 3:
            one.PhotometricInterpretation = "RGB"  # decoders undo the mixing, whatever the label
        value = pydicom.encaps.encapsulate([frame], has_bot=False)
    else:
        value = _native(plain, one, element, facts, index)
    one.add_new(pydicom.tag.Tag(element.name), element.vr, value)
    if element.name == "PixelData":
        one["PixelData"].is_undefined_length = header.file_meta.TransferSyntaxUID.is_encapsulated
    return one


def _native(stream: BinaryIO, one: Any, element: _Element, facts: HeaderFacts, index: int) -> bytes:
    """The bytes of one uncompressed frame; those of single bits may start within a byte."""
    if facts.frames == 1:
        stream.seek(element.start)
        return stream.read(element.size)
    if int(one.get("BitsAllocated") or 0) == 1:
        count = facts.width * facts.height * facts.channels
        first, last = index * count, (index + 1) * count
        stream.seek(element.start + first // 8)
        packed = np.frombuffer(stream.read(-(-last // 8) - first // 8), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[first % 8 :][:count]
        return np.packbits(bits, bitorder="little").tobytes()
    size = _pydicom().pixels.utils.get_expected_length(one)
    if one.get("PhotometricInterpretation") == "YBR_FULL_422" and (
        element.size >= size // 2 * 3 * facts.frames
    ):  # labelled so, and not subsampled
        size = size // 2 * 3
        one.PhotometricInterpretation = "YBR_FULL"
    stream.seek(element.start + index * size)
    content = stream.read(size)
    if len(content) < size:
        raise ImageError(f"{size:,} bytes of pixels in frame {index}", f"{len(content):,}")
    return content


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


def _header(stream: BinaryIO) -> Any:
    """The data set without its pixels, before which the stream stops; it may lack the preamble."""
    header = _pydicom().dcmread(stream, stop_before_pixels=True, force=True)
    if "TransferSyntaxUID" not in header.file_meta:
        # without a preamble no encoding is named; pydicom has found out how it is written
        little, implicit = header.original_encoding[1], header.original_encoding[0]
        names = ("ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian")
        number = 0 if implicit else 1 if little else 2
        header.file_meta.TransferSyntaxUID = getattr(_pydicom().uid, names[number])
    return header


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
        plane=_plane(header),
    )


def _plane(header: Any) -> str:
    """By the directions of rows and columns, of all frames in an enhanced file; "" unknown."""
    directions = header.get("ImageOrientationPatient")
    for group in (header.get("SharedFunctionalGroupsSequence") or [])[:1]:
        for values in group.get("PlaneOrientationSequence") or []:
            directions = values.get("ImageOrientationPatient") or directions
    try:
        across, down = np.reshape([float(value) for value in directions or ()], (2, 3))
    except (TypeError, ValueError):
        return ""
    normal = np.abs(np.cross(across, down))
    return PLANES[int(np.argmax(normal))] if np.isfinite(normal).all() and normal.any() else ""


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


def _pixels(one: Any) -> NDArray[Any]:
    """A frame's data set to ``[h, w]`` or ``[h, w, 3]`` in RGB, before any rescale."""
    shift = 0
    if one.get("HighBit") is not None and one.get("BitsStored"):
        shift = int(one.HighBit) + 1 - int(one.BitsStored)
    if shift > 0 and int(one.HighBit) < int(one.BitsAllocated):
        # pydicom takes the lowest bits for the stored ones; ACR-NEMA files have them at the top
        one.BitsStored = int(one.HighBit) + 1
    syntax = one.file_meta.TransferSyntaxUID
    try:
        pixels = np.asarray(_pydicom().pixels.pixel_array(one, index=0))
    except RuntimeError as problem:
        if "missing dependencies" in str(problem):
            raise MissingExtraError("reading compressed DICOM", "dicom") from None
        if not syntax.is_encapsulated:
            raise
        raise ImageError(
            "compressed pixels that can be decoded",
            f"{syntax.name} of {one.get('BitsStored')} bits",
            "if another viewer shows it, save it without compression (dcmdjpeg, gdcmconv --raw)",
        ) from None
    return pixels >> shift if shift > 0 and pixels.dtype.kind in "iu" else pixels


def _frame_header(header: Any, index: int) -> Any:
    """The header, or for an enhanced multi-frame file a small one with this frame's own values."""
    shared = header.get("SharedFunctionalGroupsSequence")
    own = header.get("PerFrameFunctionalGroupsSequence")
    if not shared and not own:
        return header
    merged = _pydicom().Dataset()
    merged.file_meta = header.file_meta
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
        window = value_range(values[~_padded(pixels, header)])
    return Raster(values, bits, window, display, inverted)


def _padded(pixels: NDArray[Any], header: Any) -> NDArray[np.bool_]:
    """Where pixels, as stored, are padding: one value, or all from it to the limit (C.7.5.1.1.2).

    A file may give the value as a number of the other sign, 63536 for -2000, or without the sign
    of fewer bits.
    """
    given = [header.get(name) for name in (*_PADDING, "PixelPaddingRangeLimit")]
    given += [header.get(f"{kind}FloatPixelPaddingRangeLimit") for kind in ("", "Double")]
    ends = [value for value in given if isinstance(value, int | float)]
    if not ends:
        return np.zeros(pixels.shape, np.bool_)
    if pixels.dtype.kind in "iu":
        ends = [_as_stored(int(end), pixels.dtype, header) for end in ends]
    return (pixels >= min(ends)) & (pixels <= max(ends))


def _as_stored(value: int, dtype: Any, header: Any) -> int:
    info, bits = np.iinfo(dtype), int(header.get("BitsStored") or 8 * dtype.itemsize)
    if info.min <= value <= info.max and (info.min == 0 or value < 2 ** (bits - 1)):
        return value
    value %= 2**bits
    return value - 2**bits if info.min < 0 and value >= 2 ** (bits - 1) else value


def _rescaled(pixels: NDArray[Any], header: Any) -> NDArray[Any]:
    """Stored values to their unit, C.11.1; `pixels` itself where the file names no rescale."""
    if header.get("ModalityLUTSequence"):
        return _looked_up(pixels, header.ModalityLUTSequence[0], header)[0]
    slope, intercept = _first(header.get("RescaleSlope")), _first(header.get("RescaleIntercept"))
    if not slope or intercept is None or (slope, intercept) == (1.0, 0.0):
        return pixels  # a slope of 0, which would make all pixels one value, is a mistake
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
        shown, largest = _looked_up(values, header.VOILUTSequence[0], header)
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        # tables declared 16 bits wide often end at 255 or 4095: shown so, the picture is black
        full = 2**bits - 1 if 2 ** (bits - 1) <= largest < 2**bits else largest
        return to_uint8(shown, bits, (0.0, float(full)))
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if _function(header) != "SIGMOID" or centre is None or width is None or width <= 0:
        return None
    with np.errstate(over="ignore"):
        curve = 255 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))
    return to_uint8(curve, 8, (0.0, 255.0))


def _looked_up(values: NDArray[Any], table: Any, header: Any) -> tuple[NDArray[np.uint16], int]:
    """A table's entries for values, its ends beyond it; and its largest entry (C.11.1.1, C.11.2.1).

    What bits it declares is the caller's to believe; its first value may have lost the sign.
    """
    data, first = table.LUTData, int(table.LUTDescriptor[1])
    if isinstance(data, bytes):
        count = int(table.LUTDescriptor[0]) or 2**16
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, "u1" if len(data) <= count + count % 2 else f"{order}u2")
    entries = np.atleast_1d(np.asarray(data)).astype(np.uint16)
    whole = np.rint(np.nan_to_num(values)).astype(np.int64)
    if first >= 2**15 and whole.min(initial=0) < 0:
        first -= 2**16
    return entries[np.clip(whole - first, 0, len(entries) - 1)], int(entries.max())
