"""Pictures that no classifier of the study should be sure of: drawn ones, and the set's own spoilt.

A classifier of a fixed list of classes answers whatever it is shown. How sure it is of nothing, of
noise and of a photograph says whether its confidence can be used to send such pictures back
(Hendrycks and Gimpel 2017, ICLR, arXiv 1610.02136).

An upside-down picture is out of scope where anatomy has an up and a down; in dermoscopy it is not,
and there a confident answer is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.errors import InputError
from clinipress.kinds.image.disturb import random_of

__all__ = ["SCENE", "as_seen", "probe_pictures"]

Pixels = NDArray[np.uint8]
SCENE = "SYNTHETIC colour photograph"


def probe_pictures(
    images: NDArray[np.uint8], keys: Sequence[str], seed: int = 0
) -> Mapping[str, NDArray[np.uint8]]:
    """Out-of-scope pictures of the size of some images, in colour as they would come from a file.

    Args:
        images: uint8 ``[n, c, h, w]`` of the set, c 1 or 3; some 20 are enough.
        keys: Their names.
        seed: Of the drawn pictures.

    Returns:
        Name -> uint8 ``[m, 3, h, w]``: "blank" (black) and "white", m = 1; "noise" (uniform) and
        `SCENE` (drawn), and the given images "inverted" and "upside down", m = n.

    Raises:
        InputError: No images, or not of this kind.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        got = f"{images.dtype} images {list(images.shape)}"
        raise InputError("uint8 images [n, 1 or 3, height, width]", got)
    if not len(images) or len(keys) != len(images):
        raise InputError("images, and one key for each", f"{len(images)} and {len(keys)} keys")
    n, _, height, width = images.shape
    colour = np.broadcast_to(images, (n, 3, height, width))
    blank = np.zeros((1, 3, height, width), np.uint8)
    noise = [_grain(height, width, random_of(seed, "grain", key)) for key in keys]
    scenes = [_scene(height, width, random_of(seed, "scene", key)) for key in keys]
    return {
        "blank": blank,
        "white": np.full_like(blank, 255),
        "noise": np.stack(noise),
        SCENE: np.stack(scenes),
        "inverted": 255 - colour,
        "upside down": colour[:, :, ::-1].copy(),
    }


def as_seen(pictures: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """What a model of so many channels is given of colour pictures, uint8 ``[m, channels, h, w]``.

    Grey is ITU-R 601 luma by Pillow, as in every reader of image files here.
    """
    if channels == 3:
        return pictures
    views = (Image.fromarray(picture.transpose(1, 2, 0)).convert("L") for picture in pictures)
    return np.stack([np.asarray(view)[None] for view in views])


def _grain(height: int, width: int, random: np.random.Generator) -> Pixels:
    """Uniform grey noise: every level as likely as any other, in every pixel by itself."""
    levels = random.integers(0, 256, (height, width), dtype=np.uint8)
    return np.repeat(levels[None], 3, axis=0)


def _scene(height: int, width: int, random: np.random.Generator) -> Pixels:
    """A holiday photograph, more or less: sky, sun, hills, a meadow, a house, and some texture."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][:, None]  # each [1, h, w], 0 to 1
    horizon = 0.5 + 0.1 * float(random.uniform(-1, 1))
    picture = _colour(110, 170, 235) * (1 - y) + _colour(235, 225, 205) * y
    sun_x, sun_y = random.uniform(0.1, 0.9), random.uniform(0.08, 0.25)
    sun = np.exp(-((x - sun_x) ** 2 + (y - sun_y) ** 2) / 0.004)
    picture += sun * (_colour(255, 240, 170) - picture)
    for depth, colour in enumerate((_colour(95, 120, 150), _colour(60, 105, 70))):
        phase, waves = random.uniform(0, 6.3), random.uniform(4, 9)
        ridge = horizon - 0.12 + 0.07 * depth + 0.05 * np.sin(waves * x + phase)
        picture = np.where(y > ridge, colour, picture)
    meadow = _colour(120, 180, 60) * (1.4 - y) + _colour(70, 110, 30) * y
    picture = np.where(y > horizon + 0.08, meadow, picture)
    left = random.uniform(0.1, 0.65)
    inside = (x > left) & (x < left + 0.22)
    picture = np.where(inside & (y > horizon - 0.06) & (y < horizon + 0.18), WALL, picture)
    roof = np.abs(x - left - 0.11) < 0.9 * (y - horizon + 0.22)
    picture = np.where(roof & (y < horizon - 0.06), ROOF, picture)
    picture = picture + random.normal(0, 6, (3, height, width))
    return np.asarray(np.rint(np.clip(picture, 0, 255)), np.uint8)


def _colour(red: int, green: int, blue: int) -> NDArray[np.float64]:
    return np.array([red, green, blue], np.float64)[:, None, None]


WALL, ROOF = _colour(240, 225, 190), _colour(185, 60, 45)
