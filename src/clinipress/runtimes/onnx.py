"""ONNX files, run by ONNX Runtime: the one place of the run-time side that names that engine.

Nothing here needs torch or onnx, so the same code answers on the device and in a study, and what a
study measures is what is shipped. onnxruntime itself is imported on first use: it takes about
0.2 s, which a ``--help`` should not pay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clinipress.errors import BundleError, ModelError, StorageError
from clinipress.records import Card, InputSpec
from clinipress.store import write_atomically

__all__ = ["CARD_KEY", "INPUT_NAME", "OUTPUT_NAME", "OnnxCandidate", "runtime_name", "session"]

CARD_KEY = "clinipress.card"
INPUT_NAME = "image"
OUTPUT_NAME = "logits"
# Bytes of input per call of the engine: activations of convolutional nets are some 10 to 50 times
# their input, so a batch stays within some tens of megabytes whatever the size of the images.
BATCH_BYTES = 2**20
LARGEST_BATCH = 64


def runtime_name() -> str:
    """The engine and its version, "onnxruntime 1.31.1"; read without importing it."""
    return f"onnxruntime {metadata.version('onnxruntime')}"


class OnnxCandidate:
    """An ONNX file as a candidate; made by `load`.

    Args:
        path: The file.
        card: What it is.
        opened: The open ``onnxruntime.InferenceSession``.
        digest: sha256 of the file, 64 hexadecimal digits.
        threads: Threads the session was given; None: as many as there are cores.
    """

    def __init__(
        self, path: Path, card: Card, opened: Any, digest: str, threads: int | None
    ) -> None:
        self.path, self.threads = path, threads
        self._card, self._session, self._digest = card, opened, digest

    @classmethod
    def load(
        cls, path: Path, card: Card | None = None, threads: int | None = None
    ) -> OnnxCandidate:
        """Open a file.

        Args:
            path: An ONNX file with uint8 ``image`` in and float ``logits`` out.
            card: Taken instead of the one inside the file.
            threads: CPU threads of one call; None: as many as there are cores.

        Raises:
            ModelError: No such file, not a whole ONNX file, no card in it, or a graph that does
                not take and give what the card says.
        """
        if not path.is_file():
            raise ModelError("an ONNX file", f"nothing at '{path}'", "check the path")
        opened = _open(path, threads)
        card = card or _card_inside(path, opened)
        _check_graph(path, opened, card)
        return cls(path, card, opened, _sha256(path), threads)

    @property
    def card(self) -> Card:
        """What it is: name, classes, input, history."""
        return self._card

    @property
    def digest(self) -> str:
        """sha256 of the file, 64 hexadecimal digits."""
        return self._digest

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return runtime_name()

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw pixels in, logits out; in batches, so that memory does not grow with `images`.

        Args:
            images: uint8 ``[n, channels, height, width]`` as the card says, in [0, 255], RGB order.

        Returns:
            float32 ``[n, classes]``.

        Raises:
            BundleError: The array is not what the card asks for.
            ModelError: The file answered with NaN or infinity.
        """
        _check_images(images, self._card.input)
        logits = np.empty((len(images), len(self._card.classes)), np.float32)
        for rows in _batches(self._card.input, len(images)):
            batch = np.ascontiguousarray(images[rows])
            logits[rows] = self._session.run([OUTPUT_NAME], {INPUT_NAME: batch})[0]
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).any(axis=1).sum())
            raise ModelError(
                f"finite logits from '{self.path.name}'",
                f"NaN or infinity for {bad} of {len(images)} images",
                "the file is damaged or its precision too low for this network: export it again",
            )
        return logits

    def save(self, folder: Path) -> None:
        """Copy the file as ``model.onnx`` into `folder`, with ``card.json`` beside it.

        Raises:
            StorageError: The disk is full or cannot be written.
        """
        if _sha256(self.path) != self._digest:
            raise StorageError(
                f"'{self.path.name}' as it was loaded",
                "a file that was changed since",
                "export it again",
            )
        write_atomically(folder / "model.onnx", self.path.read_bytes())
        write_atomically(folder / "card.json", self._card.model_dump_json(indent=1) + "\n")


def session(path: Path, threads: int | None, optimised: Path | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` as every part of clinipress opens it.

    Args:
        path: The file; by path, since its bytes in memory would add to the peak of loading.
        threads: CPU threads of one call; None: as many as there are cores.
        optimised: Where to write the graph after the engine's own optimisation, or None.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors come as exceptions; the log would repeat them
    # Threads that wait by spinning make a call 1.5 times faster (MobileNetV3-Small at 128 px, two
    # threads: 0.92 against 1.40 ms), but must not spin on between calls: that burns the battery and
    # slows down whatever else is running. Stopping at the end of each call costs 2 %.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(
        path,
        options,
        providers=["CPUExecutionProvider"],
        # It quantizes layers that were kept in float when their neighbours are quantized.
        disabled_optimizers=["WeightBiasQuantization"],
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path, threads: int | None) -> Any:
    """A session, or one line of error."""
    try:
        return session(path, threads)
    except Exception as problem:  # its exceptions share no base but Exception
        raise ModelError(
            f"a whole ONNX file at '{path}'",
            f"one that ONNX Runtime refuses ({_short(problem)})",
            "export it again, or copy it again if it was cut short",
        ) from None


def _short(problem: Exception) -> str:
    """The first line of an engine's message, without paths of its sources."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[0].split(" : ")[-1][:160]


def _card_inside(path: Path, opened: Any) -> Card:
    text = opened.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelError(
            f"a card ('{CARD_KEY}') inside '{path}'",
            "an ONNX file without one, made by something else",
            "export the model with clinipress, or pass the card",
        )
    try:
        return Card.model_validate_json(text)
    except ValidationError as problem:
        error = problem.errors()[0]
        where = ".".join(str(part) for part in error["loc"]) or "the card"
        raise ModelError(
            f"a card of this version of clinipress inside '{path}'",
            f"'{where}': {error['msg']}",
            "export the model again",
        ) from None


def _check_graph(path: Path, opened: Any, card: Card) -> None:
    """The graph takes what the card says and answers with one logit per class."""
    spec = card.input
    taken = [(node.name, node.type, node.shape[1:]) for node in opened.get_inputs()]
    given = [(node.name, node.type, node.shape[1:]) for node in opened.get_outputs()]
    right_input = (INPUT_NAME, "tensor(uint8)", [spec.channels, spec.height, spec.width])
    right_output = (OUTPUT_NAME, "tensor(float)", [len(card.classes)])
    for side, right, found in (("input", right_input, taken), ("output", right_output, given)):
        if found != [right]:
            raise ModelError(
                f"the {side} {right} in '{path}' as its card says",
                f"{found}",
                "the card belongs to another file: export the model again",
            )


def _check_images(images: NDArray[Any], spec: InputSpec) -> None:
    """Refuse an array that the card does not describe; nothing is converted silently."""
    shape = (spec.channels, spec.height, spec.width)
    if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.uint8:
        raise BundleError(
            f"uint8 images of shape [n, {spec.channels}, {spec.height}, {spec.width}]",
            f"{images.dtype} of shape {list(images.shape)}",
            "read them with clinipress.data.images.decode",
        )


def _batches(spec: InputSpec, count: int) -> Iterator[slice]:
    one = spec.channels * spec.height * spec.width
    size = min(LARGEST_BATCH, max(1, BATCH_BYTES // one))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
