"""Pictures of saliency maps: the image, then the image under each map, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.records.store import write_atomically

__all__ = ["colours", "overlay", "write_panel"]

Floats = NDArray[np.float32]
# Every 16th colour of "inferno" (Smith and van der Walt, matplotlib, CC0): lightness rises evenly,
# also for the colour-blind and in grey print.
INFERNO = np.array(
    [
        (0, 0, 4), (11, 7, 36), (33, 12, 74), (61, 9, 101), (87, 16, 110), (113, 25, 110),
        (138, 34, 106), (163, 44, 97), (188, 55, 84), (210, 70, 68), (228, 90, 49), (241, 115, 29),
        (249, 142, 9), (252, 172, 17), (249, 203, 53), (242, 234, 105), (252, 255, 164),
    ],
    np.float32,
)  # fmt: skip
STRENGTH = 0.8  # of the colour where a map is 1; where it is 0 the image stays as it is
GAP, WHITE = 4, 255
SIDE = 192  # longest side of a part, pixels
QUALITY = 88


def colours(values: Floats) -> Floats:
    """Colours of numbers in [0, 1], float32 ``[..., 3]`` in 0..255."""
    at = np.clip(values, 0, 1) * (len(INFERNO) - 1)
    left = np.minimum(at.astype(np.int64), len(INFERNO) - 2)
    part = (at - left)[..., None]
    return np.asarray(INFERNO[left] * (1 - part) + INFERNO[left + 1] * part, np.float32)


def overlay(image: NDArray[np.uint8], saliency: Floats | None) -> NDArray[np.uint8]:
    """An image as RGB, coloured where a map is high.

    Args:
        image: uint8 ``[1 or 3, h, w]``.
        saliency: float32 ``[h, w]`` in [0, 1]; None leaves the image plain.

    Returns:
        uint8 ``[h, w, 3]``.
    """
    plain = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0).astype(np.float32)
    if saliency is None:
        return plain.astype(np.uint8)
    share = STRENGTH * np.clip(saliency, 0, 1)[..., None]
    mixed = plain * (1 - share) + colours(saliency) * share
    return np.asarray(np.rint(mixed), np.uint8)


def write_panel(path: Path, image: NDArray[np.uint8], maps: Sequence[Floats]) -> None:
    """Write the image and its maps as one JPEG of some tens of kilobytes.

    A PNG of a palette draws contours that are not in the map.

    Args:
        path: Where.
        image: uint8 ``[1 or 3, h, w]``.
        maps: float32 ``[h, w]`` each.

    Raises:
        StorageError: It cannot be written.
    """
    from PIL import Image

    parts = [overlay(image, None), *(overlay(image, saliency) for saliency in maps)]
    height, width = parts[0].shape[:2]
    zoom = SIDE / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    sheet = Image.new("RGB", (len(parts) * (size[0] + GAP) - GAP, size[1]), (WHITE,) * 3)
    for number, part in enumerate(parts):
        picture = Image.fromarray(part).resize(size, Image.Resampling.BICUBIC)
        sheet.paste(picture, (number * (size[0] + GAP), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
