"""Is this the kind of image the model was made for?

A classifier answers anything it is given, a photograph of the floor too. These checks refuse what
is plainly not its kind and nothing else: each limit is far from every image of four real sets
(brain MRI, two of chest CT, dermoscopy; 10,938 images), as said beside it. They do not notice a
wrong organ or a wrong scanner; nothing that looks at one image and no more can promise that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinipress.records.candidate import InputSpec

__all__ = ["colour_refusal", "contrast_refusal", "is_colourful", "size_refusal"]

# Standard deviation in grey levels. The real sets come no lower than 8.4; a lens cap stays below 1.
LEAST_CONTRAST = 2.0
# An image blown up eightfold has a 64th of the pixels the model is used to.
LARGEST_ENLARGEMENT = 8
# The real sets reach 2.6; stretching by more than 4 leaves no anatomy as it is.
LARGEST_ASPECT = 4.0
# Mean over the image of the largest minus the smallest of red, green and blue. Grey images have 0,
# grey ones with a few coloured marks under 20; dermoscopy has 6.5 to 133, and 98 % of it above 20.
COLOURFUL = 20.0
GREY = 2.0


def size_refusal(width: int, height: int, spec: InputSpec) -> str | None:
    """Why an original image of `width` columns and `height` rows is refused, or None."""
    least_width = -(-spec.width // LARGEST_ENLARGEMENT)
    least_height = -(-spec.height // LARGEST_ENLARGEMENT)
    if width < least_width or height < least_height:
        least = f"at least {least_width} x {least_height}"
        return f"one far too small ({width} x {height} pixels, {least})"
    shape = (width / height) / (spec.width / spec.height)
    if max(shape, 1 / shape) > LARGEST_ASPECT:
        return f"one far too long and narrow ({width} x {height} pixels)"
    return None


def contrast_refusal(pixels: NDArray[np.uint8]) -> str | None:
    """Why uint8 ``[channels, height, width]`` that shows next to nothing is refused, or None."""
    contrast = float(pixels.std(axis=(1, 2), dtype=np.float64).max())
    if contrast < LEAST_CONTRAST:
        return f"a blank one (contrast {contrast:.2g} grey levels, at least {LEAST_CONTRAST:g})"
    return None


def colour_refusal(colours: NDArray[np.uint8], *, model_sees_colour: bool) -> str | None:
    """Why uint8 RGB ``[3, height, width]`` is refused for its colours or for having none, or None.

    A model sees colour when it was made with colourful images, and not when it takes grey.
    """
    chroma = _chroma(colours)
    if model_sees_colour and chroma < GREY:
        return "a grey one, and the model was made for colour images"
    if not model_sees_colour and chroma > COLOURFUL:
        return "a colour one, and the model was made for grey images"
    return None


def is_colourful(colours: NDArray[np.uint8]) -> bool:
    """True when an image, uint8 ``[3, height, width]`` RGB, has clear colour."""
    return _chroma(colours) > COLOURFUL / 2


def _chroma(colours: NDArray[np.uint8]) -> float:
    """Mean over the pixels of max - min over red, green and blue, 0 to 255."""
    return float((colours.max(axis=0) - colours.min(axis=0)).mean(dtype=np.float64))
