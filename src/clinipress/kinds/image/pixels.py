"""Pixels as arrays: what the readers of image files share, numpy and Pillow only."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.errors import ImageError

if TYPE_CHECKING:  # pydantic is slow to import, and only the annotations need this name
    from clinipress.records.candidate import InputSpec

__all__ = [
    "MAX_PIXELS",
    "PLANES",
    "READING",
    "HeaderFacts",
    "Raster",
    "check_depth",
    "check_size",
    "eight_bits",
    "model_input",
    "opaque",
    "quiet",
    "to_uint8",
    "value_range",
]

READING = 2
"""Goes up when a file gives other pixels than before, so that old ones are not taken for new."""
MAX_PIXELS = 100_000_000
"""Largest picture that is opened: 10,000 x 10,000; a mammogram has about 24 million pixels."""

PLANES = ("sagittal", "coronal", "axial")
"""Of slices that follow one another from right to left, to the front, to the head."""

_HALF_RANGE = 8e307  # beyond it the width of a range is no float64, beyond the other no float32
_WIDE = 1e38
# without a handler what Pillow logs goes to standard error
logging.getLogger("PIL").addHandler(logging.NullHandler())
_NOISY = r"(PIL|pydicom|pylibjpeg|libjpeg|openjpeg|nibabel)\b"
_lock = threading.Lock()
_depth = 0
_saved: Any = None


@dataclass(frozen=True)
class HeaderFacts:
    """What a file's header says of its picture.

    Attributes:
        width: Columns, pixels, after the EXIF orientation.
        height: Rows, pixels.
        channels: Samples per pixel as stored, alpha included; a palette image has 1.
        bits: Bits per sample as stored.
        frames: Pictures in the file: TIFF pages, DICOM frames, NIfTI slices.
        format: "JPEG", "PNG", "TIFF", "DICOM", "NIFTI", ...
        plane: One of `PLANES` for a slice of a body; "" where it is not known.
    """

    width: int
    height: int
    channels: int
    bits: int
    frames: int
    format: str
    plane: str = ""


@dataclass(frozen=True)
class Raster:
    """One picture as it was stored, with what is needed to show it.

    Attributes:
        pixels: ``[h, w]`` grey of any real type in stored units, or uint8 ``[h, w, 3]`` RGB.
        bits: Bits per sample as stored.
        window: The file's own display window (low, high), or the range to use instead.
        display: uint8 ``[h, w]``, what the file's own display function makes of `pixels` where
            that is no window; used only where no other window is asked for.
        inverted: True when small values are bright (MONOCHROME1).
    """

    pixels: NDArray[Any]
    bits: int = 8
    window: tuple[float, float] | None = None
    display: NDArray[np.uint8] | None = None
    inverted: bool = False

    def grey_or_colour(self, window: tuple[float, float] | None) -> NDArray[np.uint8]:
        """To uint8 ``[h, w]`` or ``[h, w, 3]``; `window` beats the file's; colour has none."""
        if self.pixels.ndim == 3:
            return self.pixels
        if window is None and self.display is not None:
            grey = self.display
        else:
            grey = to_uint8(self.pixels, self.bits, window or self.window)
        if not self.inverted:
            return grey
        grey = np.subtract(255, grey, dtype=np.uint8)
        if self.pixels.dtype.kind == "f":
            grey[np.isnan(self.pixels)] = 0
        return grey


def check_size(width: int, height: int) -> None:
    """Refuse a picture before memory is taken for it.

    Raises:
        ImageError: It has no pixels, or more than `MAX_PIXELS`.
    """
    if width < 1 or height < 1:
        raise ImageError("an image with pixels", f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"an image of at most {MAX_PIXELS:,} pixels",
            f"{width} x {height}",
            "crop it or scale it down",
        )


def check_depth(picture: Image.Image, bits: int) -> None:
    """Refuse colour that Pillow has cut from 16 bits to 8 where at most 12 of them were used.

    Raises:
        ImageError: It would be shown all but black.
    """
    if bits > 8 and picture.mode == "RGB" and np.asarray(picture).max(initial=0) <= 16:
        raise ImageError(
            f"colours that use the {bits} bits they are stored with",
            "colours of at most 12 bits",
            "save it with 8 bits for each colour",
        )


def opaque(picture: Image.Image) -> Image.Image:
    """Any 8-bit mode to "L" or "RGB", transparent pixels over black."""
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.has_transparency_data:
        grey = picture.mode in ("LA", "La", "L", "1")
        layered = picture.convert("LA" if grey else "RGBA")
        black = Image.new("L" if grey else "RGB", picture.size)
        black.paste(layered.convert(black.mode), mask=layered.getchannel("A"))
        return black
    return picture.convert("L" if picture.mode == "1" else "RGB")


def to_uint8(
    pixels: NDArray[Any], bits: int = 8, window: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Stored values to grey levels: ``255 (x - low) / (high - low)``, clipped and rounded.

    Args:
        pixels: ``[h, w]`` of any real type, in stored units. NaN becomes black.
        bits: Bits per sample as stored; 8 or fewer are scaled by their nominal range.
        window: (low, high). None: 0 to 2^bits - 1 for integers of 8 bits or fewer that stay
            within it, else the smallest and largest finite value of `pixels`.

    Returns:
        uint8 ``[h, w]``. A window without width is a threshold: what is above it is white.
    """
    if window is None and pixels.dtype == np.uint8 and bits == 8:
        return pixels
    low, high = window if window is not None else _range(pixels, bits)
    if high <= low:
        return np.where(pixels > low, np.uint8(255), np.uint8(0))
    if high / 2 - low / 2 > _HALF_RANGE:
        pixels, low, high = pixels / 2, low / 2, high / 2
    # float32 holds every 16-bit value exactly; larger integers need the other one
    small = pixels.dtype.itemsize <= 2 or (pixels.dtype == np.float32 and high - low < _WIDE)
    with np.errstate(over="ignore", invalid="ignore"):  # a file may hold signalling NaN
        values: NDArray[Any] = np.array(pixels, dtype=np.float32 if small else np.float64)
        np.subtract(values, low, out=values)
        np.multiply(values, 255.0 / (high - low), out=values)
    np.rint(np.clip(values, 0, 255, out=values), out=values)
    if pixels.dtype.kind == "f":
        values[np.isnan(values)] = 0
    return values.astype(np.uint8)


def _range(pixels: NDArray[Any], bits: int) -> tuple[float, float]:
    """The nominal range of few bits when the values respect it, else that of the values."""
    low, high = value_range(pixels) or (0.0, 0.0)
    nominal = float(2**bits - 1)
    if bits <= 8 and pixels.dtype.kind in "biu" and low >= 0 and high <= nominal:
        return 0.0, nominal
    return low, high


def value_range(pixels: NDArray[Any]) -> tuple[float, float] | None:
    """Smallest and largest finite value; None where there is none."""
    real = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    return (float(real.min()), float(real.max())) if real.size else None


def eight_bits(colours: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Colours of any depth to 8 bits, by a range that their values confirm.

    Files with 8 or 12 bits used often say 16, and would be shown black. No other depths are
    guessed, so that a dark picture stays dark.
    """
    largest = int(colours.max(initial=0))
    depth = next((d for d in (8, 12, 16) if d < bits and largest < 2**d), bits)
    depth = max(depth, largest.bit_length())
    colours = np.clip(colours, 0, None)
    return (colours >> (depth - 8) if depth > 8 else colours).astype(np.uint8)


def model_input(
    picture: Image.Image, spec: InputSpec, box: tuple[float, float, float, float] | None = None
) -> NDArray[np.uint8]:
    """Convert, resize and lay out: the last step of every reader.

    Args:
        picture: Pillow image of mode "L" or "RGB".
        spec: Channels, size and fit. Grey from colour is ITU-R 601 luma; the resize is Pillow's
            bilinear one, which averages when it shrinks.
        box: Left, top, right and lower end of the part to use; None: all of it.

    Returns:
        uint8 ``[channels, height, width]``, C-contiguous, in RGB order.
    """
    if spec.channels == 1 and picture.mode != "L":
        picture = picture.convert("L")
    size = inner_size((box[2], box[3]) if box else picture.size, spec)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR, box)
    if size != (spec.width, spec.height):
        canvas = Image.new(picture.mode, (spec.width, spec.height))
        canvas.paste(picture, ((spec.width - size[0]) // 2, (spec.height - size[1]) // 2))
        picture = canvas
    levels = np.asarray(picture)
    if levels.ndim == 2:
        return np.repeat(levels[None], spec.channels, axis=0)
    return np.ascontiguousarray(levels.transpose(2, 0, 1))


def inner_size(size: tuple[float, float], spec: InputSpec) -> tuple[int, int]:
    """Width and height the picture itself gets: all of the input, or the part "pad" leaves it."""
    if spec.fit == "stretch":
        return spec.width, spec.height
    scale = min(spec.width / size[0], spec.height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of the image libraries, and only those, while a file is read.

    A damaged file either decodes or raises; "possibly corrupt EXIF data" helps nobody. The
    filters of `warnings` belong to the whole process, so threads share one change of them: the
    first in makes it, the last out takes it back.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = warnings.catch_warnings()
            _saved.__enter__()
            warnings.filterwarnings("ignore", module=_NOISY)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _saved.__exit__(None, None, None)
