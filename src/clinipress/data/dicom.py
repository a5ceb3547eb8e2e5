"""DICOM files to pixels in stored units; pydicom does the parsing and is loaded when first used.

References are to the DICOM standard, part 3: modality look-up table C.11.1, display window C.11.2.
"""

from __future__ import annotations

import gzip
import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from clinipress.data.pixels import Facts, Raster, check_size
from clinipress.errors import ImageError, MissingExtraError

__all__ = ["read_facts", "read_frame", "read_patient"]

_MAX_BYTES = 2**31


def read_facts(stream: BinaryIO) -> Facts:
    """Size, channels, bits stored and frames, from the header alone.

    Raises:
        ImageError: There is no image in it.
        MissingExtraError: pydicom is not installed.
    """
    return _facts(_header(_plain(stream)))


def read_patient(stream: BinaryIO) -> tuple[str | None, int]:
    """The patient's identifier (0010,0020), None when empty, and the number of frames.

    Raises:
        ImageError: There is no image in it.
        MissingExtraError: pydicom is not installed.
    """
    header = _header(_plain(stream))
    return str(header.get("PatientID") or "").strip() or None, _facts(header).frames


def read_frame(stream: BinaryIO, index: int = 0) -> Raster:
    """One frame, rescaled to its unit (Hounsfield for CT), or as RGB.

    Args:
        stream: The file; gzip is taken off.
        index: Number of the frame, from 0.

    Raises:
        ImageError: There is no image in it, no such frame, or it is too large.
        MissingExtraError: pydicom is not installed.
    """
    stream = _plain(stream)
    header = _header(stream)
    found = _facts(header)
    check_size(found.width, found.height)
    if not 0 <= index < found.frames:
        raise ImageError(f"a frame number from 0 to {found.frames - 1}", str(index))
    stream.seek(0)
    pixels = _pixels(stream, header, index)
    if found.channels >= 3:
        return Raster(_eight_bits(pixels, found.bits))
    if header.PhotometricInterpretation == "PALETTE COLOR":
        return Raster(_coloured(pixels, header))
    return _grey(pixels, _frame_header(header, index), found.bits)


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError:
        raise MissingExtraError("reading DICOM", "dicom") from None
    return pydicom


def _plain(stream: BinaryIO) -> BinaryIO:
    """Take gzip off, up to a limit."""
    if stream.read(2) != b"\x1f\x8b":
        stream.seek(0)
        return stream
    stream.seek(0)
    with gzip.GzipFile(fileobj=stream) as inner:
        content = inner.read(_MAX_BYTES)
    return io.BytesIO(content)


def _header(stream: BinaryIO) -> Any:
    """Everything before the pixels. ``force`` reads files without the 128-byte preamble."""
    return _pydicom().dcmread(stream, stop_before_pixels=True, force=True)


def _facts(header: Any) -> Facts:
    if header.get("Rows") is None or header.get("Columns") is None:
        raise ImageError("a DICOM image", "a DICOM file without rows and columns")
    return Facts(
        width=int(header.Columns),
        height=int(header.Rows),
        channels=int(header.get("SamplesPerPixel") or 1),
        bits=int(header.get("BitsStored") or header.get("BitsAllocated") or 8),
        frames=max(1, int(header.get("NumberOfFrames") or 1)),
        format="DICOM",
    )


def _pixels(stream: BinaryIO, header: Any, index: int) -> NDArray[Any]:
    """One frame ``[h, w]`` or ``[h, w, 3]`` in RGB, before any rescale."""
    from pydicom.pixels import pixel_array

    if not hasattr(header.file_meta, "TransferSyntaxUID"):
        # files without a preamble name no encoding; this is the standard's default
        dataset = _pydicom().dcmread(stream, force=True)
        dataset.file_meta.TransferSyntaxUID = _pydicom().uid.ImplicitVRLittleEndian
        return np.asarray(pixel_array(dataset, index=index))
    return np.asarray(pixel_array(stream, index=index))


def _eight_bits(pixels: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Colour to 8 bits by its nominal range."""
    if bits <= 8:
        return pixels.astype(np.uint8)
    return (pixels >> (bits - 8)).astype(np.uint8)


def _coloured(pixels: NDArray[Any], header: Any) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut

    colours = np.asarray(apply_color_lut(pixels, header))[..., :3]
    return _eight_bits(colours, 8 * colours.dtype.itemsize)


def _frame_header(header: Any, index: int) -> Any:
    """The header, or for an enhanced multi-frame file a small one with this frame's own values."""
    groups = header.get("SharedFunctionalGroupsSequence"), header.get("PerFrameFunctionalGroupsSequence")
    if not any(groups):
        return header
    merged = _pydicom().Dataset()
    merged.update({e.tag: e for e in header if e.VR != "SQ" or "LUT" in e.keyword})
    shared, own = groups
    for group in [*(shared or [])[:1], *(own or [])[index : index + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for values in group.get(name) or []:
                merged.update(values)
    return merged


def _grey(pixels: NDArray[Any], header: Any, bits: int) -> Raster:
    from pydicom.pixels import apply_modality_lut

    window = _window(header)
    padded = header.get("PixelPaddingValue")
    values = np.asarray(apply_modality_lut(pixels, header))
    rescaled = values.dtype != pixels.dtype and not np.array_equal(values, pixels)
    values = values if rescaled else pixels
    inverted = header.get("PhotometricInterpretation") == "MONOCHROME1"
    if window is None and header.get("VOILUTSequence"):
        return _looked_up(values, header, inverted)
    if window is None and str(header.get("VOILUTFunction", "")).upper() == "SIGMOID":
        return _sigmoid(values, header, inverted)
    if window is None and (bits > 8 or rescaled):
        real = values[pixels != padded] if isinstance(padded, int) else values
        window = (float(real.min()), float(real.max())) if real.size else None
    return Raster(values, max(bits, 9) if rescaled else bits, window, inverted)


def _window(header: Any) -> tuple[float, float] | None:
    """The first linear window as (low, high), C.11.2.1.2: what low maps to black, high to white."""
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if header.get("VOILUTSequence") or centre is None or width is None or function == "SIGMOID":
        return None
    if function == "LINEAR_EXACT":
        return (centre - width / 2, centre + width / 2) if width > 0 else None
    return (centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2) if width >= 1 else None


def _first(value: Any) -> float | None:
    """A DICOM decimal, or the first of several; None when absent or empty."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) and hasattr(value, "__len__"):
        return float(value[0]) if len(value) else None
    return float(value)


def _looked_up(values: NDArray[Any], header: Any, inverted: bool) -> Raster:
    """Through the file's own display table, whose entries have their own number of bits."""
    from pydicom.pixels import apply_voi

    shown = np.asarray(apply_voi(values.astype(np.int64), header, index=0))
    bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
    return Raster(shown, bits, (0.0, float(2**bits - 1)), inverted)


def _sigmoid(values: NDArray[Any], header: Any, inverted: bool) -> Raster:
    """C.11.2.1.3.1: ``255 / (1 + exp(-4 (x - centre) / width))``."""
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is None or not width or width <= 0:
        return Raster(values, 16, None, inverted)
    with np.errstate(over="ignore"):
        shown = 255 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width))
    return Raster(shown, 16, (0.0, 255.0), inverted)
