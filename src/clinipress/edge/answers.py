"""One image in, one answer out: reading, checking, classifying, calibrating.

Images go to the model one by one, never in batches: some int8 graphs choose their ranges per batch,
and then an image's answer would depend on its neighbours.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.edge.inputs import Source, is_there, locate
from clinipress.errors import ImageError, MissingExtraError, ModelError
from clinipress.kinds.image.accept import accept_file, refuse
from clinipress.kinds.image.refuse import contrast_refusal
from clinipress.records.candidate import Candidate, Card, InputSpec
from clinipress.records.item import NO_FINDING
from clinipress.stats.metrics import sigmoid, softmax

NOTHING_ASKED = "nothing asked"  # no finding has a threshold: which is not "no finding"
NAMED = 6  # findings that are not asked, of which a line names so many

__all__ = ["FindingAnswer", "Prediction", "answer"]


@dataclass(frozen=True)
class FindingAnswer:
    """What the model says of one of several findings.

    Attributes:
        probability: Calibrated, by itself.
        threshold: At or above which it is called; None: no threshold could be chosen for it.
        present: Whether it is called; None where there is no threshold: not asked, which is not
            absent.
    """

    probability: float
    threshold: float | None
    present: bool | None

    def said(self) -> str:
        """The probability beside its threshold: low ones are called, too, where it is low."""
        limit = f" (called from {100 * self.threshold:.1f} %)" if self.threshold else ""
        return f"{100 * self.probability:.1f} %{limit}"


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        file: The file as it was named; "-" from standard input, "" for pixels and bytes.
        label: The most probable class; of several findings those that are called, "no finding"
            where none is, "nothing asked" where there is no threshold; None when the image was
            refused.
        probabilities: Class -> calibrated probability, in the model's order; their sum is 1, but
            of several findings each stands for itself.
        uncertain: True when the top probability is below the card's `uncertain_below`; None when
            the card has no such limit, or the image was refused.
        refused: Why there is no answer: the image cannot be read, or is not the right kind.
        findings: Of several findings, each one's answer; empty for a model of one class an image.
    """

    file: str
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    uncertain: bool | None = None
    refused: str | None = None
    findings: Mapping[str, FindingAnswer] = field(default_factory=dict)

    @property
    def probability(self) -> float | None:
        """Probability of `label`; None of several findings, which have one each."""
        return None if self.label is None or self.findings else self.probabilities[self.label]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, one JSON line; every key is always there."""
        return {
            "file": self.file,
            "label": self.label,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
            "uncertain": self.uncertain,
            "refused": self.refused,
            **(
                {"findings": {name: vars(each) for name, each in self.findings.items()}}
                if self.findings
                else {}
            ),
        }

    def to_text(self) -> str:
        """One line for people.

        Example:
            >>> Answer("a.png", "normal", {"normal": 0.875, "nodule": 0.125}, True).to_text()
            'a.png: normal 87.5 %, uncertain'
        """
        if self.label is None:
            line = f"{self.file}: refused, {self.refused}"
        elif self.probability is None:
            line = f"{self.file}: {self._said()}"
        else:
            note = ", uncertain" if self.uncertain else ""
            line = f"{self.file}: {self.label} {100 * self.probability:.1f} %{note}"
        # names of files may hold line ends, a terminal's commands, and bytes that are no UTF-8 (as
        # lone surrogates)
        text = " ".join(line.encode("utf-8", "replace").decode().splitlines())
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def _said(self) -> str:
        """Of several findings: what is called, the likeliest first, and what nobody asked."""
        ranked = sorted(self.findings.items(), key=lambda pair: -pair[1].probability)
        called = [f"{name} {each.said()}" for name, each in ranked if each.present]
        absent = sum(each.present is False for each in self.findings.values())
        unasked = [name for name, each in self.findings.items() if each.present is None]
        more = f" and {len(unasked) - NAMED} more" if len(unasked) > NAMED else ""
        parts = [", ".join(called) or (NO_FINDING if absent else NOTHING_ASKED)]
        parts += [f"{absent} absent"] if absent else []
        parts += [f"not asked: {', '.join(unasked[:NAMED])}{more}"] if unasked else []
        return "; ".join(parts)


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
    if card.task == "multilabel":
        return _of_findings(file, logits, card)
    shares = softmax(logits, card.temperature)
    top = int(np.argmax(shares))
    limit = card.uncertain_below
    return Prediction(
        file=file,
        label=card.classes[top],
        probabilities=dict(zip(card.classes, shares.tolist(), strict=True)),
        uncertain=None if limit is None else bool(shares[top] < limit),
    )


def _of_findings(file: str, logits: NDArray[np.floating], card: Card) -> Prediction:
    scale = np.asarray(card.temperatures or (1.0,) * len(card.classes), np.float64)
    chances = sigmoid(logits / scale)
    limits: tuple[float | None, ...] = card.thresholds or (None,) * len(card.classes)
    odds = (logits.astype(np.float64) / scale).tolist()
    findings = {
        name: FindingAnswer(chance, limit, None if limit is None else _called(odd, limit))
        for name, chance, odd, limit in zip(
            card.classes, chances.tolist(), odds, limits, strict=True
        )
    }
    called = [name for name, each in findings.items() if each.present]
    asked = any(each.present is not None for each in findings.values())
    return Prediction(
        file=file,
        label="|".join(called) or (NO_FINDING if asked else NOTHING_ASKED),
        probabilities=dict(zip(card.classes, chances.tolist(), strict=True)),
        findings=findings,
    )


def _called(odds: float, limit: float) -> bool:
    """Whether log odds reach a threshold, by the rounding that the evidence counts with."""
    return round(odds - (math.log(limit) - math.log1p(-limit)), 9) >= 0 if limit < 1 else False


def _pixels(source: Source, spec: InputSpec, colourful: bool) -> NDArray[np.uint8]:
    if isinstance(source, np.ndarray):
        if source.shape == (spec.channels, spec.height, spec.width) and source.dtype == np.uint8:
            refuse(contrast_refusal(source))
            return source
        return accept_file(_picture_bytes(source), None, spec, colourful=colourful)
    if isinstance(source, bytes):
        return accept_file(source, None, spec, colourful=colourful)
    path, index = locate(source)
    if not (is_there(path) and path.is_file()):  # opening a pipe could wait for ever
        raise ImageError("an image file", f"no regular file at '{path!s:.300}'")
    return accept_file(path, index, spec, colourful=colourful)


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
