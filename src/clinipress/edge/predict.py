"""From image files to answers, one at a time: the memory needed does not grow with the files.

Images go to the model one by one, never in batches: some int8 graphs choose their ranges per batch,
and then an image's answer would depend on its neighbours.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.candidate import Candidate
from clinipress.data.images import decode, facts
from clinipress.edge.checks import colour_refusal, contrast_refusal, size_refusal
from clinipress.errors import ImageError, InputError, MissingExtraError, ModelError
from clinipress.records import Card, InputSpec

if TYPE_CHECKING:
    from clinipress.edge.bundle import Bundle

__all__ = ["Answer", "Source", "answer", "predict", "probabilities"]

Source = str | Path | bytes | NDArray[np.uint8]
STANDARD_INPUT = "-"
STDIN_LIMIT = 2**30  # bytes of one image
HEAD = 4096


@dataclass(frozen=True)
class Answer:
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


def predict(
    bundle: Bundle, sources: Iterable[str | Path], *, stdin: BinaryIO | None = None
) -> Iterator[Answer]:
    """Classify files, lazily and in order.

    Args:
        bundle: An opened bundle.
        sources: Files, folders (every file below, hidden ones aside, sorted by name) or "-":
            standard input, either the bytes of one image or a list of paths, one per line.
        stdin: Standard input; None: the process's own.

    Yields:
        One answer per image.

    Raises:
        InputError: A source named here does not exist; said before any image is read. A path that
            comes from standard input is refused in its place instead.
    """
    named = [str(source) for source in sources]
    for name in named:
        if name != STANDARD_INPUT and not Path(name).exists():
            raise InputError("an image or a folder", f"nothing at '{name}'", "check the path")
    return _answers(bundle, named, stdin)


def _answers(bundle: Bundle, named: list[str], stdin: BinaryIO | None) -> Iterator[Answer]:
    colourful = bundle.manifest.self_test.colourful
    for name in named:
        for file, source in _expand(name, stdin):
            yield answer(bundle.candidate, bundle.card, source, file=file, colourful=colourful)


def answer(
    candidate: Candidate, card: Card, source: Source, *, file: str | None = None, colourful: bool
) -> Answer:
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
        return Answer(file, refused=str(problem))
    shares = probabilities(logits, card.temperature)
    top = int(np.argmax(shares))
    limit = card.uncertain_below
    return Answer(
        file=file,
        label=card.classes[top],
        probabilities=dict(zip(card.classes, shares.tolist(), strict=True)),
        uncertain=None if limit is None else bool(shares[top] < limit),
    )


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Calibrated probabilities: softmax of ``logits / temperature`` (Guo et al. 2017).

    Args:
        logits: Float ``[..., classes]``.
        temperature: Above 0; 1 leaves the probabilities as the model gives them.

    Returns:
        float64 of the same shape; the last axis sums to 1.
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _pixels(source: Source, spec: InputSpec, colourful: bool) -> NDArray[np.uint8]:
    """The image as the model takes it, after every check.

    Raises:
        ImageError: It cannot be read or is not the right kind.
        MissingExtraError: It needs a reader that is not installed.
    """
    if isinstance(source, np.ndarray):
        if source.shape == (spec.channels, spec.height, spec.width) and source.dtype == np.uint8:
            _refuse(contrast_refusal(source))
            return source
        source = _picture_bytes(source)
    elif isinstance(source, str | Path):
        source = _regular_file(Path(source))
    about = facts(source)
    _refuse(size_refusal(about.width, about.height, spec))
    pixels = decode(source, spec)
    _refuse(contrast_refusal(pixels))
    if spec.channels == 1 and about.channels >= 3:
        colours = decode(source, spec.model_copy(update={"channels": 3}))
        _refuse(colour_refusal(colours, model_sees_colour=False))
    elif spec.channels == 3 and colourful:
        _refuse(colour_refusal(pixels, model_sees_colour=True))
    return pixels


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ImageError("an image of the kind the model was made for", reason)


def _regular_file(path: Path) -> Path:
    """`path`, unless opening it could fail or wait for ever (a pipe, a device)."""
    if not path.is_file():
        raise ImageError("an image file", f"no regular file at '{path}'")
    return path


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


def _expand(name: str, stdin: BinaryIO | None) -> Iterator[tuple[str, Source]]:
    """What is behind one argument, as (name to report, source)."""
    if name == STANDARD_INPUT:
        yield from _from_stream(stdin or sys.stdin.buffer)
    elif Path(name).is_dir():
        for path in _walk(name):
            yield path, Path(path)
    else:
        yield name, Path(name)


def _walk(folder: str) -> Iterator[str]:
    """Files below `folder`, sorted; links to folders are not followed, they can go in circles."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif entry.is_file():
            yield entry.path


def _from_stream(stream: BinaryIO) -> Iterator[tuple[str, Source]]:
    """One image, or one path per line: text without a zero byte is a list."""
    head = stream.read(HEAD)
    if not head:
        raise InputError("an image or a list of paths on standard input", "nothing")
    if _is_text(head):
        rest = io.BufferedReader(_Joined(head, stream))
        for line in rest:
            path = os.fsdecode(line.rstrip(b"\r\n"))
            if path:
                yield path, Path(path)
        return
    content = head + stream.read(STDIN_LIMIT)
    yield STANDARD_INPUT, content


def _is_text(head: bytes) -> bool:
    """True for UTF-8 without control characters that no path holds."""
    if b"\0" in head:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True


class _Joined(io.RawIOBase):
    """A head that was read already, followed by the rest of its stream."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._stream.read(len(buffer))
        taken = data[: len(buffer)]
        self._head = data[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
