"""One image to pixels, or why it is refused: one door, for the device and for training alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ImageError
from clinipress.kinds.image.read import HeaderFacts, decode, facts, has_palette
from clinipress.kinds.image.refuse import colour_refusal, contrast_refusal, size_refusal
from clinipress.records.candidate import InputSpec

__all__ = ["accept", "accept_file", "refuse"]

# Files whose further pictures are smaller previews of the first, as telephones write them.
_WITH_PREVIEWS = frozenset({"JPEG", "MPO"})


def accept_file(
    source: Path | bytes, index: int | None, spec: InputSpec, *, colourful: bool
) -> NDArray[np.uint8]:
    """`accept` for picture `index` of a file or of its bytes; None: the only one."""
    return accept(
        facts(source),
        index,
        lambda wanted: decode(source, wanted, index=index),
        lambda: has_palette(source),
        spec,
        colourful=colourful,
    )


def accept(
    about: HeaderFacts,
    index: int | None,
    read: Callable[[InputSpec], NDArray[np.uint8]],
    palette: Callable[[], bool],
    spec: InputSpec,
    *,
    colourful: bool,
) -> NDArray[np.uint8]:
    """The pixels of an image of the kind that a model is made for.

    Args:
        about: What its header says.
        index: Which picture of a file with several; None: the only one.
        read: Pixels for an input, uint8 ``[channels, height, width]``.
        palette: Whether its values point to colours.
        spec: The model's input.
        colourful: True when the model was made with colourful images.

    Raises:
        ImageError: It cannot be read or is plainly of another kind.
    """
    if about.frames > 1 and index is None and about.format not in _WITH_PREVIEWS:
        got = f"a file of {about.frames}"
        raise ImageError("one picture", got, "name one as FILE#NUMBER, counted from 0")
    refuse(size_refusal(about.width, about.height, spec))
    pixels = read(spec)
    refuse(contrast_refusal(pixels))
    if spec.channels == 1 and (about.channels >= 3 or palette()):
        colours = read(spec.model_copy(update={"channels": 3}))
        refuse(colour_refusal(colours, model_sees_colour=False))
    elif spec.channels == 3 and colourful:
        refuse(colour_refusal(pixels, model_sees_colour=True))
    return pixels


def refuse(reason: str | None) -> None:
    """Raise the reason, if there is one.

    Raises:
        ImageError: There is.
    """
    if reason is not None:
        raise ImageError("an image of the kind the model was made for", reason)
