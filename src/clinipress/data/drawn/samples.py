"""SYNTHETIC pictures of the size a model takes, of which one travels with it for its self-test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.data.drawn.phantom import CLASSES, SCANNERS, SMALLEST_SIZE, draw_body, draw_slice
from clinipress.records.candidate import InputSpec

__all__ = ["drawn_samples"]

BODIES = 6  # of each class and scanner
# dark, middle and bright of a picture in colour, as stained or lit tissue has them
TINT = np.array([[45, 20, 60], [190, 95, 90], [255, 225, 205]], np.float64)


def drawn_samples(spec: InputSpec, *, colourful: bool, seed: int = 0) -> NDArray[np.uint8]:
    """Drawn pictures that a bundle does not refuse; no patient's image has any part in them.

    Args:
        spec: What the model takes.
        colourful: Whether it was made for images in colour; only with three channels.
        seed: Of the drawings.

    Returns:
        uint8 ``[n, channels, height, width]``.
    """
    draw, size = np.random.default_rng(seed), max(spec.height, spec.width, SMALLEST_SIZE)
    pictures = []
    for label in CLASSES:
        for scanner in SCANNERS:
            for _ in range(BODIES):
                slice_ = draw_slice(label, draw_body(draw), scanner, size, draw)
                grey = Image.fromarray(slice_).resize((spec.width, spec.height))
                pictures.append(_in_colour(np.asarray(grey), spec.channels, colourful))
    return np.stack(pictures)


def _in_colour(grey: NDArray[np.uint8], channels: int, colourful: bool) -> NDArray[np.uint8]:
    """uint8 ``[height, width]`` as ``[channels, height, width]``, tinted where colours are seen."""
    if not (channels == 3 and colourful):
        return np.repeat(grey[None], channels, axis=0)
    bands = [np.interp(grey, (0, 127, 255), TINT[:, band]) for band in range(3)]
    return np.rint(np.stack(bands)).astype(np.uint8)
