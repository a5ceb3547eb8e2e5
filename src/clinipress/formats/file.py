"""What every model file has in common, whatever engine runs it.

A file is a candidate: raw pixels in, logits out. Its card travels inside an ONNX file and as
``card.json`` beside any other. Nothing here names an engine; each engine has one module, whose
class says how a file is opened and how one batch is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clinipress.errors import BundleError, ClinipressError, ModelError, StorageError
from clinipress.recipe.formats import FORMATS
from clinipress.records.candidate import Card, InputSpec
from clinipress.records.store import sha256_of, write_atomically

__all__ = [
    "FILES",
    "FileCandidate",
    "card_beside",
    "card_of_text",
    "digest_of_files",
    "first_line",
    "not_whole",
    "unlike_card",
]

CARD = "card.json"
# Format -> its files by the names they have in a run folder and in a bundle, the one to open first.
FILES: Mapping[str, tuple[str, ...]] = MappingProxyType({row.name: row.files for row in FORMATS})
# Bytes of input per call of the engine: activations of convolutional nets are some 10 to 50 times
# their input, so a batch stays within some tens of megabytes whatever the size of the images.
BATCH_BYTES = 2**20
LARGEST_BATCH = 64


class FileCandidate:
    """A model file as a candidate, made by `load`; a sub-class opens it and runs one batch.

    Args:
        path: The file to open first.
        card: What it is.
        opened: What the engine made of it.
        threads: CPU threads of one call; None: as many as there are cores.

    Attributes:
        kind: What such a file is called.
        advice: What to do where one is missing.
        largest_batch: Images per call of the engine; 1 where the file takes single images.
        device_bytes: Memory outside this process: that of a GPU which runs the file.
    """

    kind = "a model file"
    advice = "check the path"
    largest_batch = LARGEST_BATCH
    device_bytes = 0

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        self.path, self.threads, self._card, self._opened = path, threads, card, opened
        self._files = self._files_of(path)
        self._digest = digest_of_files(self._files)

    @classmethod
    def load(cls, path: Path, card: Card | None = None, threads: int | None = None) -> Self:
        """Open a file.

        Args:
            path: The file; of several, the one to open first.
            card: Taken instead of the one inside the file or beside it.
            threads: CPU threads of one call; None: as many as there are cores.

        Raises:
            ModelError: A file is missing or not whole, there is no card, or the network does not
                take and give what the card says.
        """
        for file in cls._files_of(path):
            if not file.is_file():
                raise ModelError(cls.kind, f"nothing at '{file}'", cls.advice)
        opened = cls._open(path, threads)
        card = card or cls._card_of(path, opened)
        cls._check(path, opened, card)
        return cls(path, card, opened, threads)

    @classmethod
    def _files_of(cls, path: Path) -> tuple[Path, ...]:
        return (path,)

    @classmethod
    def _open(cls, path: Path, threads: int | None) -> Any:
        raise NotImplementedError

    @classmethod
    def _card_of(cls, path: Path, opened: Any) -> Card:
        return card_beside(path)

    @classmethod
    def _check(cls, path: Path, opened: Any, card: Card) -> None:
        """Refuse a file that does not take and give what its card says."""
        raise NotImplementedError

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the engine reads, the one to open first."""
        return self._files

    @property
    def card(self) -> Card:
        """What it is: name, classes, input, history."""
        return self._card

    @property
    def digest(self) -> str:
        """sha256 of the file or files, 64 hexadecimal digits."""
        return self._digest

    @property
    def file_bytes(self) -> int:
        """Size of the file, or of all of them together."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        raise NotImplementedError

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 ``[n, classes]`` of one contiguous batch uint8 ``[n, c, h, w]``."""
        raise NotImplementedError

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw pixels in, logits out; in batches, so that memory does not grow with `images`.

        Args:
            images: uint8 ``[n, channels, height, width]`` as the card says, in [0, 255], RGB order.

        Returns:
            float32 ``[n, classes]``.

        Raises:
            BundleError: The array is not what the card asks for.
            ModelError: The engine failed, or answered with NaN, infinity or another shape.
        """
        _check_images(images, self._card.input)
        logits = np.empty((len(images), len(self._card.classes)), np.float32)
        for rows in _batches(self._card.input, len(images), self.largest_batch):
            logits[rows] = self._answers(np.ascontiguousarray(images[rows]))
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).any(axis=1).sum())
            raise ModelError(
                f"finite logits from '{self.path.name}'",
                f"NaN or infinity for {bad} of {len(images)} images",
                "the file is damaged or its precision too low for this network: export it again",
            )
        return logits

    def _answers(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the engine answers; whatever it raises instead, and what is no answer, is a line."""
        try:
            answers = self._run(images)
        except (ClinipressError, MemoryError):
            raise
        except Exception as problem:  # engines' exceptions share no base but Exception
            raise ModelError(
                f"answers from '{self.path.name}'",
                f"an engine that gave up ({first_line(problem)})",
                "the file is damaged or not made for this engine: export it again",
            ) from problem
        expected = (len(images), len(self._card.classes))
        if np.shape(answers) != expected:
            raise unlike_card(f"logits {list(expected)} from '{self.path.name}'",
                              f"the shape {list(np.shape(answers))}")  # fmt: skip
        return answers

    def save(self, folder: Path) -> None:
        """Copy the files under their usual names into `folder`, with ``card.json`` beside them.

        Raises:
            StorageError: The disk is full or cannot be written, or a file was changed since.
        """
        if digest_of_files(self.files) != self._digest:
            raise StorageError(
                f"'{self.path.name}' as it was loaded",
                "a file that was changed since",
                "export it again",
            )
        for file, name in zip(self.files, FILES[self._card.format], strict=False):
            write_atomically(folder / name, file.read_bytes())
        write_atomically(folder / CARD, self._card.model_dump_json(indent=1) + "\n")


def digest_of_files(files: tuple[Path, ...]) -> str:
    """sha256 of a file; of several, sha256 of their digests one after the other."""
    digests = [sha256_of(file) for file in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def card_beside(path: Path) -> Card:
    """The card in the folder of a file that cannot hold one.

    Raises:
        ModelError: There is none, or it is not one of this version.
    """
    card_path = path.parent / CARD
    try:
        text = card_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ModelError(
            f"a card ('{CARD}') beside '{path}'",
            "a model file without one, made by something else",
            "export the model with clinipress, or pass the card",
        ) from None
    return card_of_text(text, str(card_path))


def card_of_text(text: str, where: str) -> Card:
    """A card from JSON.

    Raises:
        ModelError: It is not a card of this version.
    """
    try:
        return Card.model_validate_json(text)
    except ValidationError as problem:
        error = problem.errors()[0]
        part = ".".join(str(part) for part in error["loc"]) or "the card"
        raise ModelError(
            f"a card of this version of clinipress in '{where}'",
            f"'{part}': {error['msg']}",
            "export the model again",
        ) from None


def not_whole(file: str, reason: str) -> ModelError:
    """The error for a file that an engine refuses; `file` says which, "ONNX file at 'a.onnx'"."""
    return ModelError(
        f"a whole {file}", reason, "export it again, or copy it again if it was cut short"
    )


def unlike_card(expected: str, actual: object) -> ModelError:
    """The error for inputs or outputs that are not those of a card."""
    return ModelError(
        f"{expected} as its card says",
        f"{actual}",
        "the card belongs to another file: export the model again",
    )


def first_line(problem: BaseException) -> str:
    """The first line of an engine's message, cut to what fits into one line of ours."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0][:160]


def _check_images(images: NDArray[Any], spec: InputSpec) -> None:
    """Refuse an array that the card does not describe; nothing is converted silently."""
    shape = (spec.channels, spec.height, spec.width)
    if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.uint8:
        raise BundleError(
            f"uint8 images of shape [n, {spec.channels}, {spec.height}, {spec.width}]",
            f"{images.dtype} of shape {list(images.shape)}",
            "read them with clinipress.kinds.image.read.decode",
        )


def _batches(spec: InputSpec, count: int, largest: int) -> Iterator[slice]:
    image_bytes = spec.channels * spec.height * spec.width
    size = min(largest, max(1, BATCH_BYTES // image_bytes))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
