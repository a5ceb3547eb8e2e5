"""One image file to the pixels a classifier takes: the same code in training and on the device.

Formats are told by content, never by suffix. A format with a `Reader` goes to its own module, which
may need an extra; everything else is Pillow's.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from clinipress.errors import ClinipressError, ImageError
from clinipress.kinds.image import dicom, nifti, tiff
from clinipress.kinds.image.pixels import (
    MAX_PIXELS,
    HeaderFacts,
    Raster,
    check_depth,
    check_size,
    inner_size,
    model_input,
    opaque,
    quiet,
    to_uint8,
)
from clinipress.kinds.image.unknown import described

if TYPE_CHECKING:  # pydantic is slow to import, and only the annotations need this name
    from clinipress.records.candidate import InputSpec

__all__ = [
    "MAX_PIXELS",
    "HeaderFacts",
    "Reader",
    "decode",
    "facts",
    "has_palette",
    "reader_of",
    "render",
    "to_uint8",
]


class Reader(Protocol):
    """What the module of a file format has; a new format is such a module and a place in `READERS`.

    A stream stands at the beginning of a file that `recognises` took, and may still be gzipped.
    What is damaged, too large or not there is an ImageError, an extra that is not installed a
    MissingExtraError.
    """

    def recognises(self, head: bytes) -> bool:
        """Whether a file begins like this format; `head` is free of gzip and may be short."""

    def read_facts(self, stream: BinaryIO, source: Path | bytes) -> HeaderFacts:
        """What the header alone of `source` says, at whose beginning the stream stands."""

    def read_raster(self, stream: BinaryIO, index: int | None, source: Path | bytes) -> Raster:
        """Picture `index` of `source`, from 0; None: the one that stands for the file."""

    def pictures(self, path: Path) -> tuple[Mapping[str, str], Sequence[int] | None]:
        """Kind -> identifier of "patient", "study", "series", and its pictures; None: one."""

    def stored_bytes(self, path: Path, index: int) -> bytes | None:
        """For a digest: what is stored of one picture; None: the whole file stands for it."""


READERS: tuple[Reader, ...] = (dicom, nifti, tiff)
# JPEG and PNG first: Pillow loads its other plug-ins only when neither accepts. Formats that start
# a program (EPS) or have no signature (TGA) are left out on purpose.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
_HEAD = 544  # the longest signature: a NIfTI-2 header's first 12 bytes, NIfTI-1's magic at 344
_ORIENTATION = 0x0112
_GREY_WIDE = {"I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
_BITS = {"1": 1, **_GREY_WIDE}


def facts(source: Path | bytes) -> HeaderFacts:
    """Read the header of a file or of its bytes, and no pixels where the format allows that.

    Raises:
        ImageError: It is no image, or its header is broken.
        MissingExtraError: It is DICOM or NIfTI and the extra for it is not installed.
    """
    with _reading(source) as stream:
        reader = reader_of(stream)
        return reader.read_facts(stream, source) if reader else _picture_facts(stream)


def has_palette(source: Path | bytes) -> bool:
    """True for a picture whose pixels point to colours; of a file that `facts` has read."""
    with _reading(source) as stream:
        reader = reader_of(stream)
        if reader:
            return reader is tiff and tiff.has_palette(stream)
        return Image.open(stream, formats=_FORMATS).mode in {"P", "PA"}


def decode(
    source: Path | bytes, spec: InputSpec, *, index: int | None = None, sketch: bool = False
) -> NDArray[np.uint8]:
    """Read one image as a classifier takes it.

    Args:
        source: A file, or the bytes of one; both give the same pixels.
        spec: Size, channels, fit and window. The window is for grey images; colour has none.
        index: Which picture of a file with several (TIFF page, DICOM frame, NIfTI slice). None:
            the first, and of a NIfTI volume the middle one.
        sketch: For thumbnails, not for a classifier: large JPEG files are shrunk by libjpeg, up to
            five times as fast and up to 20 grey levels off. Otherwise pixels are those of Pillow's
            ``open``, ``convert`` and bilinear ``resize``, to the last bit.

    Returns:
        uint8 ``[channels, height, width]`` in [0, 255], RGB order.

    Raises:
        ImageError: It is no image, is damaged or truncated, is too large, or has no such picture.
        MissingExtraError: It is DICOM or NIfTI and the extra for it is not installed.
    """
    with _reading(source) as stream:
        reader = reader_of(stream)
        if reader:
            return render(reader.read_raster(stream, index, source), spec)
        return _picture(stream, spec, index or 0, sketch=sketch)


def render(raster: Raster, spec: InputSpec) -> NDArray[np.uint8]:
    """Window, convert and resize an array's picture: uint8 ``[channels, height, width]``."""
    levels = raster.grey_or_colour(spec.window)
    check_size(levels.shape[1], levels.shape[0])
    return model_input(Image.fromarray(np.ascontiguousarray(levels)), spec)


def reader_of(stream: BinaryIO) -> Reader | None:
    """The reader of a file, gzip or not; None: it is Pillow's. The stream is rewound."""
    head = stream.read(_HEAD)
    stream.seek(0)
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=stream) as inner:
                head = inner.read(_HEAD)
        except (EOFError, OSError, zlib.error):
            raise ImageError("an image", "a damaged gzip file") from None
        finally:
            stream.seek(0)
    return next((reader for reader in READERS if reader.recognises(head)), None)


@contextmanager
def _reading(source: Path | bytes) -> Iterator[BinaryIO]:
    """Open a file or its bytes; whatever goes wrong is an image error that names it."""
    try:
        with (
            quiet(),
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream,
        ):
            yield stream
    except ClinipressError as problem:
        raise _named(problem, source) from None
    except Exception as problem:  # third-party parsers raise nearly anything on a damaged file
        raise _unreadable(problem, source) from None


def _picture_facts(stream: BinaryIO) -> HeaderFacts:
    picture = Image.open(stream, formats=_FORMATS)
    (width, height), bits = picture.size, _bits(picture)  # a PNG is loaded for its EXIF
    if picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
        width, height = height, width
    return HeaderFacts(
        width=width,
        height=height,
        channels=len(picture.getbands()),
        bits=bits,
        frames=int(getattr(picture, "n_frames", 1)),
        format=picture.format or "",
    )


def _bits(picture: Image.Image) -> int:
    """Bits per sample; Pillow keeps 8 of 16-bit colour, and only its raw mode tells."""
    if picture.mode in _BITS:
        return _BITS[picture.mode]
    stated = str([(tile.codec_name, tile.args) for tile in getattr(picture, "tile", [])[:1]])
    wide = ";16" in stated or "'ppm', ('RGB', 65535)" in stated
    return 16 if wide else 8


def _picture(stream: BinaryIO, spec: InputSpec, index: int, *, sketch: bool) -> NDArray[np.uint8]:
    picture = Image.open(stream, formats=_FORMATS)
    check_size(*picture.size)
    box, bits = None, _bits(picture)
    if index:
        _seek(picture, index)
    elif sketch and picture.format == "JPEG":
        box = _draft(picture, spec)
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in _GREY_WIDE:
        return render(Raster(np.asarray(upright), _GREY_WIDE[upright.mode]), spec)
    shown = opaque(upright)
    check_depth(shown, bits)
    if spec.window is not None and shown.mode == "L":
        return render(Raster(np.asarray(shown)), spec)
    return model_input(shown, spec, box)


def _seek(picture: Image.Image, index: int) -> None:
    count = int(getattr(picture, "n_frames", 1))
    if not 0 <= index < count:
        raise ImageError(f"a picture number from 0 to {count - 1}", str(index))
    picture.seek(index)
    check_size(*picture.size)


def _draft(picture: Image.Image, spec: InputSpec) -> tuple[float, float, float, float] | None:
    """Let libjpeg do part of the shrinking, never below twice the size that is wanted.

    Gives the part of the shrunk picture that holds the original: 630 pixels at a quarter are 157.5,
    and libjpeg hands out 158. None where nothing is shrunk, turned pictures among them.
    """
    mode = "L" if spec.channels == 1 and picture.mode == "RGB" else picture.mode
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        return None
    width, height = inner_size(picture.size, spec)
    drafted = picture.draft(mode, (2 * width, 2 * height))
    return drafted[1] if drafted else None


def _name(source: Path | bytes) -> str:
    return f"'{source.name}'" if isinstance(source, Path) else f"{len(source):,} bytes"


def _named(problem: ClinipressError, source: Path | bytes) -> ClinipressError:
    """Add the file's name to an image error; others pass."""
    if not isinstance(problem, ImageError):
        return problem
    return ImageError(problem.expected, f"{problem.got} in {_name(source)}", problem.fix)


def _unreadable(problem: Exception, source: Path | bytes) -> ImageError:
    if isinstance(problem, FileNotFoundError):
        return ImageError("an image file", f"no file at '{source!s:.300}'")
    if isinstance(problem, UnidentifiedImageError):
        what = described(source)
        if what is None:
            return ImageError("an image", f"{_name(source)}, which is of no known format")
        known = "an image (JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000, PPM, DICOM or NIfTI)"
        return ImageError(known, f"{what[0]} in {_name(source)}", what[1])
    if isinstance(problem, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limit = f"an image of at most {MAX_PIXELS:,} pixels"
        return ImageError(limit, f"a larger one in {_name(source)}")
    text = " ".join(str(problem).split())[:200] or type(problem).__name__
    return ImageError("an undamaged image", f"{_name(source)} ({text})")
