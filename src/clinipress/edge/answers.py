"""One image in, one answer out: reading, checking, classifying, calibrating.

Images go to the model one by one, never in batches: some int8 graphs choose their ranges per batch,
and then an image's answer would depend on its neighbours.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.edge.inputs import Source, is_there, locate
from clinipress.errors import ImageError, MissingExtraError, ModelError
from clinipress.kinds.image.read import HeaderFacts, decode, facts, has_palette
from clinipress.kinds.image.refuse import colour_refusal, contrast_refusal, size_refusal
from clinipress.records.candidate import Candidate, Card, InputSpec
from clinipress.stats.metrics import softmax

__all__ = ["Prediction", "answer"]

# Files whose further pictures are smaller previews of the first, as telephones write them.
WITH_PREVIEWS = frozenset({"JPEG", "MPO"})


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        file: The file as it was named; "-" from standard input, "" for pixels and bytes.
        label: The most probable class; None when the image was refused.
        probabilities: Class -> calibrated probability, in the model's order; their sum is 1.
        uncertain: True when the top probability is below the card's `uncertain_below`; None when
            the card has no such limit, or the image was refused.
        refused: Why there is no answer: the image cannot be read, or is not the right kind.
    """

    file: str
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    uncertain: bool | None = None
    refused: str | None = None

    @property
    def probability(self) -> float | None:
        """Probability of `label`."""
        return None if self.label is None else self.probabilities[self.label]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, one JSON line; every key is always there."""
        return {
            "file": self.file,
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
            "uncertain": self.uncertain,
            "refused": self.refused,
        }

    def to_text(self) -> str:
        """One line for people.

        Example:
            >>> Answer("a.png", "normal", {"normal": 0.875, "nodule": 0.125}, True).to_text()
            'a.png: normal 87.5 %, uncertain'
        """
        if self.label is None or self.probability is None:
            line = f"{self.file}: refused, {self.refused}"
        else:
            note = ", uncertain" if self.uncertain else ""
            line = f"{self.file}: {self.label} {100 * self.probability:.1f} %{note}"
        # names of files may hold line ends, a terminal's commands, and bytes that are no UTF-8 (as
        # lone surrogates)
        text = " ".join(line.encode("utf-8", "replace").decode().splitlines())
        return "".join(letter if letter.isprintable() else "?" for letter in text)


def answer(
    candidate: Candidate, card: Card, source: Source, *, file: str | None = None, colourful: bool
) -> Prediction:
    """Classify one image, or say why not.

    Args:
        candidate: The classifier.
        card: Its card.
        source: A path, the bytes of a file, or uint8 pixels: ``[h, w]``, ``[h, w, 3]``, or the very
            ``[channels, height, width]`` of the card.
        file: Name to report; None: the path, or "".
        colourful: True when the model was made with colourful images.
    """
    if file is None:
        file = str(source) if isinstance(source, str | Path) else ""
    try:
        pixels = _pixels(source, card.input, colourful)
        logits = candidate.predict(pixels[None])[0]
    except (ImageError, MissingExtraError, ModelError) as problem:
        return Prediction(file, refused=str(problem))
    shares = softmax(logits, card.temperature)
    top = int(np.argmax(shares))
    limit = card.uncertain_below
    return Prediction(
        file=file,
        label=card.classes[top],
        probabilities=dict(zip(card.classes, shares.tolist(), strict=True)),
        uncertain=None if limit is None else bool(shares[top] < limit),
    )


def _pixels(source: Source, spec: InputSpec, colourful: bool) -> NDArray[np.uint8]:
    if isinstance(source, np.ndarray):
        if source.shape == (spec.channels, spec.height, spec.width) and source.dtype == np.uint8:
            _refuse(contrast_refusal(source))
            return source
        return _checked(_picture_bytes(source), None, spec, colourful)
    if isinstance(source, bytes):
        return _checked(source, None, spec, colourful)
    path, index = locate(source)
    if not (is_there(path) and path.is_file()):  # opening a pipe could wait for ever
        raise ImageError("an image file", f"no regular file at '{path!s:.300}'")
    return _checked(path, index, spec, colourful)


def _checked(
    source: Path | bytes, index: int | None, spec: InputSpec, colourful: bool
) -> NDArray[np.uint8]:
    about = facts(source)
    if about.frames > 1 and index is None and about.format not in WITH_PREVIEWS:
        got = f"a file of {about.frames}"
        raise ImageError("one picture", got, "name one as FILE#NUMBER, counted from 0")
    _refuse(size_refusal(about.width, about.height, spec))
    pixels = decode(source, spec, index=index)
    _refuse(contrast_refusal(pixels))
    if spec.channels == 1 and _may_have_colour(source, about):
        colours = decode(source, spec.model_copy(update={"channels": 3}), index=index)
        _refuse(colour_refusal(colours, model_sees_colour=False))
    elif spec.channels == 3 and colourful:
        _refuse(colour_refusal(pixels, model_sees_colour=True))
    return pixels


def _may_have_colour(source: Path | bytes, about: HeaderFacts) -> bool:
    """True when a file stores colours: three samples per pixel, or one that points to a palette."""
    return about.channels >= 3 or has_palette(source)


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ImageError("an image of the kind the model was made for", reason)


def _picture_bytes(pixels: NDArray[Any]) -> bytes:
    """Pixels of any size as an image file, so that one decoder serves all."""
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ImageError(
            "uint8 pixels of shape [height, width] or [height, width, 3]",
            f"{pixels.dtype} of shape {list(pixels.shape)}",
        )
    if not pixels.size:
        raise ImageError("an image", "an array without pixels")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
