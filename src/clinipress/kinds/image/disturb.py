"""Images made worse on purpose: ten kinds of disturbance, five strengths each.

The kinds are the common corruptions of Hendrycks and Dietterich (2019, ICLR, arXiv 1903.12261) that
happen to medical images, and gamma, rotation and a missing region beside them. Their five strengths
were chosen for photographs, so ours start from the amounts of MedMNIST-C (Di Salvo, Doerrich and
Ledig 2024, arXiv 2406.17536) and were set on brain MRI, chest CT and dermoscopy: strength 1 is
hardly visible, strength 5 is plainly bad, and a radiologist would still know what is shown. Noise
is weaker than theirs (3 to 20 grey levels, not 10 to 66): above that, classifiers that never saw
noise guess, and then nothing can be compared. Lengths are shares of the image side, so that a
strength means the same at every size.

Every image has its own stream of random numbers, from the seed, the kind and its key: neither the
order nor the size of batches matters. The strength is not part of it: the same grain, direction and
place, only more of it, so that a curve over strengths is of one thing.

Not modelled: what belongs to one modality alone, such as the ghosts of motion in MR, the streaks of
metal in CT, or hair in dermoscopy.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.errors import InputError

__all__ = ["DISTURBANCES", "STRENGTHS", "Disturbance", "disturb", "random_of"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
STRENGTHS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Disturbance:
    """One way of making images worse.

    Attributes:
        title: Its name in a sentence.
        unit: Of the amounts.
        amounts: At strengths 1 to 5.
        apply: uint8 ``[c, h, w]``, an amount and the image's own random numbers -> the same shape.
    """

    title: str
    unit: str
    amounts: tuple[float, float, float, float, float]
    apply: Callable[[Pixels, float, np.random.Generator], Pixels]


def disturb(
    images: NDArray[np.uint8], keys: Sequence[str], kind: str, strength: int, seed: int = 0
) -> NDArray[np.uint8]:
    """Make images worse.

    Args:
        images: uint8 ``[n, c, h, w]``; c is 1 (grey) or 3 (RGB).
        keys: n names, from which each image's random numbers come.
        kind: A name in `DISTURBANCES`.
        strength: 1 to 5; 0 returns the images as they are.
        seed: Another seed gives other noise, directions and places.

    Returns:
        uint8 ``[n, c, h, w]``, a new array.

    Raises:
        InputError: An unknown kind or strength, or images of another kind.
    """
    if kind not in DISTURBANCES:
        raise InputError(f"a disturbance among {', '.join(DISTURBANCES)}", f"'{kind}'")
    if strength not in (0, *STRENGTHS):
        raise InputError("a strength from 1 to 5, or 0 for none", f"{strength}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        got = f"{images.dtype} images {list(images.shape)}"
        raise InputError("uint8 images [n, 1 or 3, height, width]", got)
    if len(keys) != len(images):
        raise InputError(f"one key for each of the {len(images)} images", f"{len(keys)}")
    changed = images.copy()
    if strength:
        how = DISTURBANCES[kind]
        for row, key in enumerate(keys):
            random = random_of(seed, kind, key)
            changed[row] = how.apply(images[row], how.amounts[strength - 1], random)
    return changed


def random_of(*parts: object) -> np.random.Generator:
    """A stream of random numbers that depends on these parts alone, on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))
    return np.random.default_rng(int.from_bytes(digest.digest()[:16], "little"))


def _noise(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Gaussian noise, independent from pixel to pixel and colour to colour, clipped at 0 and 255.

    A grey picture in three channels keeps one grain: a detector without colours has none.
    """
    shape = image.shape[1:] if _is_grey(image) else image.shape
    grain: Floats = random.standard_normal(shape, dtype=np.float32)
    return _rounded(image + np.float32(amount) * grain)


def _blur(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Gaussian blur; beyond its border the image goes on as in a mirror."""
    height, width = image.shape[1:]
    deviation = amount / 100 * min(height, width)
    # separable: a product with a small matrix on either side, faster than a walk over the taps
    rows, columns = _gaussian(height, deviation), _gaussian(width, deviation)
    return _rounded(rows @ image.astype(np.float32) @ columns.T)


@functools.lru_cache(maxsize=32)
def _gaussian(side: int, deviation: float) -> Floats:
    """Matrix float32 ``[side, side]`` that blurs a column; cut off at four deviations."""
    radius = int(4 * deviation + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(deviation, 1e-9)) ** 2)
    mirrored = np.pad(np.arange(side), radius, mode="symmetric")
    matrix = np.zeros((side, side))
    rows = np.arange(side)
    for offset, weight in enumerate(taps / taps.sum()):
        np.add.at(matrix, (rows, mirrored[offset : offset + side]), weight)
    return matrix.astype(np.float32)


def _contrast(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Grey levels drawn towards the image's own mean."""
    mean = float(image.mean(dtype=np.float64))
    return _through(mean + (1 - amount / 100) * (_LEVELS - mean), image)


def _brightness(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Brighter or darker throughout; which of the two is drawn per image."""
    return _through(_LEVELS + _either(random) * amount, image)


def _gamma(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Mid-tones bent: ``255 (x / 255)^g`` with g the amount or one over it, drawn per image."""
    return _through(255 * (_LEVELS / 255) ** (amount ** _either(random)), image)


def _jpeg(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """To JPEG and back, by Pillow, colours at half resolution as it has them by default."""
    grey = _is_grey(image)
    picture = Image.fromarray(image[0] if grey else image.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=round(amount))
    levels = np.asarray(Image.open(buffer))
    return np.broadcast_to(levels, image.shape) if grey else levels.transpose(2, 0, 1)


def _rotation(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Turned about the centre, clockwise or not, bilinear.

    What comes from outside has the median level of the image's border, colour by colour: black for
    most slices, skin for dermoscopy, where black corners would be another disturbance.
    """
    angle = amount * _either(random)

    def turn(picture: Image.Image) -> Image.Image:
        levels = np.asarray(picture)
        border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
        fill = float(np.median(border))
        return picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)

    return _by_channel(image, turn)


def _resolution(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """Scaled down by areas and up again bilinearly, as an enlarged thumbnail is."""
    height, width = image.shape[1:]
    small = max(1, round(width / amount)), max(1, round(height / amount))

    def shrink_and_grow(picture: Image.Image) -> Image.Image:
        shrunk = picture.resize(small, Image.Resampling.BOX)
        return shrunk.resize((width, height), Image.Resampling.BILINEAR)

    return _by_channel(image, shrink_and_grow)


def _missing(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """A black block; of a stronger one's block the weaker one's is a part."""
    height, width = image.shape[1:]
    tall, wide = (max(1, round(amount / 100 * side)) for side in (height, width))
    down, right = random.random(2)
    top, left = round(down * (height - tall)), round(right * (width - wide))
    changed = image.copy()
    changed[:, top : top + tall, left : left + wide] = 0
    return changed


def _motion(image: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    """The mean of the image along a straight way, in a direction drawn per image.

    A patient or a hand-held camera that moves evenly while the picture is taken; mirrored borders.
    """
    length = amount / 100 * min(image.shape[1:])
    kernel = _line(length, math.pi * float(random.random()))
    radius = len(kernel) // 2
    height, width = image.shape[1:]
    pad = ((0, 0), (radius, radius), (radius, radius))
    padded = np.pad(image.astype(np.float32), pad, mode="symmetric")
    total = np.zeros(image.shape, np.float32)
    # few entries of the kernel are not zero: adding shifted images beats a full convolution
    for y, x in np.argwhere(kernel):
        total += kernel[y, x] * padded[:, y : y + height, x : x + width]
    return _rounded(total)


def _line(length: float, angle: float) -> Floats:
    """A straight line of this length through the centre, float32 ``[2 r + 1, 2 r + 1]``, sum 1.

    Points at most a quarter of a pixel apart, each shared bilinearly by the four pixels around it.
    """
    radius = math.ceil(length / 2) + 1
    along = np.linspace(-length / 2, length / 2, 2 * math.ceil(2 * length) + 1)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    ys, xs = radius + along * math.sin(angle), radius + along * math.cos(angle)
    rows, columns = np.floor(ys).astype(int), np.floor(xs).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (ys - rows)) * np.abs(1 - right - (xs - columns))
            np.add.at(kernel, (rows + down, columns + right), share / len(along))
    return kernel.astype(np.float32)


_LEVELS = np.arange(256.0)


def _through(table: NDArray[np.float64], image: Pixels) -> Pixels:
    """Each grey level replaced by what the table of 256 says."""
    return np.rint(np.clip(table, 0, 255)).astype(np.uint8)[image]


def _rounded(values: Floats) -> Pixels:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _either(random: np.random.Generator) -> int:
    """-1 or 1."""
    return 1 if random.random() < 0.5 else -1


def _is_grey(image: Pixels) -> bool:
    return bool((image[1:] == image[:1]).all())


def _by_channel(image: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Change each channel as a picture of floats: on bytes Pillow cuts off instead of rounding."""
    different = image[:1] if _is_grey(image) else image
    pictures = (Image.fromarray(channel) for channel in different.astype(np.float32))
    changed = _rounded(np.stack([np.asarray(change(picture)) for picture in pictures]))
    return np.broadcast_to(changed, image.shape)


DISTURBANCES: Mapping[str, Disturbance] = MappingProxyType(
    {
        "noise": Disturbance("noise", "grey levels, standard deviation", (3, 5, 8, 13, 20), _noise),
        "blur": Disturbance(
            "blur", "% of the side, standard deviation", (0.4, 0.7, 1.1, 1.6, 2.3), _blur
        ),
        "contrast": Disturbance(
            "loss of contrast", "% of the contrast lost", (20, 35, 50, 65, 75), _contrast
        ),
        "brightness": Disturbance(
            "other brightness", "grey levels up or down", (15, 30, 50, 70, 90), _brightness
        ),
        "gamma": Disturbance(
            "other gamma", "exponent, or one over it", (1.2, 1.5, 1.9, 2.4, 3), _gamma
        ),
        "jpeg": Disturbance("JPEG compression", "JPEG quality", (50, 25, 15, 9, 6), _jpeg),
        "rotation": Disturbance(
            "rotation", "degrees left or right", (4, 10, 18, 30, 45), _rotation
        ),
        "resolution": Disturbance(
            "lower resolution", "times fewer pixels each way", (1.3, 1.8, 2.5, 3.5, 5), _resolution
        ),
        "missing": Disturbance(
            "a missing region", "% of each side, a black block", (10, 18, 26, 34, 42), _missing
        ),
        "motion": Disturbance(
            "motion", "% of the side, length of the way", (1.5, 3, 5, 8, 12), _motion
        ),
    }
)
