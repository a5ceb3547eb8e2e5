"""ONNX files, run by ONNX Runtime: the one place of the run-time side that names that engine.

Nothing here needs torch or onnx, so the same code answers on the device and in a study, and what a
study measures is what is shipped. onnxruntime itself is imported on first use: it takes about
0.2 s, which a ``--help`` should not pay.
"""

from __future__ import annotations

import functools
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.formats.file import FileCandidate, card_of_text, first_line, not_whole, unlike_card
from clinipress.records.candidate import Card

__all__ = [
    "CARD_KEY",
    "ENGINE",
    "INPUT_NAME",
    "OUTPUT_NAME",
    "OnnxCandidate",
    "engine",
    "holds_card",
    "images_per_call",
    "runtime_name",
    "session",
]

FIRST_CALL_SECONDS = 300.0
CARD_KEY = "clinipress.card"
INPUT_NAME = "image"
OUTPUT_NAME = "logits"


@functools.cache
def engine() -> Any:
    """The ``onnxruntime`` package, told not to report even where others imported it before us."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def start() -> None:
    """Load the engine, so that what it needs by itself can be told apart."""
    engine()


def runtime_name() -> str:
    """The engine and its version, "onnxruntime 1.31.1"; read without importing it."""
    return f"onnxruntime {metadata.version('onnxruntime')}"


def holds_card(path: Path) -> bool:
    """True where a file says itself what it is, so that nothing need be found out or declared."""
    key, tail = CARD_KEY.encode(), b""
    with path.open("rb") as stream:  # the metadata stand at the end, but need not
        while block := stream.read(2**22):
            if key in tail + block:
                return True
            tail = block[-len(key) :]
    return False


class OnnxCandidate(FileCandidate):
    """An ONNX file as a candidate: uint8 ``image`` in, float ``logits`` out."""

    kind = "an ONNX file"

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        super().__init__(path, card, opened, threads)
        self._answered = False
        self._pixels = np.float32 if opened.get_inputs()[0].type == "tensor(float)" else np.uint8
        # one grid for all images of a call; or a batch of one that is baked into the graph
        if card.precision == "int8-dynamic" or images_per_call(opened, 2) == 1:
            self.largest_batch = 1

    @classmethod
    def _open(cls, path: Path, threads: int | None) -> Any:
        try:
            return session(path, threads)
        except Exception as problem:  # its exceptions share no base but Exception
            reason = first_line(problem).split(" : ")[-1]  # without paths of its sources
            raise not_whole(
                f"ONNX file at '{path}'", f"one that ONNX Runtime refuses ({reason})"
            ) from None

    @classmethod
    def _card_of(cls, path: Path, opened: Any) -> Card:
        text = opened.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if text is None:
            raise ModelError(
                f"a card ('{CARD_KEY}') inside '{path}'",
                "an ONNX file without one, made by something else",
                "export the model with clinipress, or pass the card",
            )
        return card_of_text(text, str(path))

    @classmethod
    def _check(cls, path: Path, opened: Any, card: Card) -> None:
        spec = card.input
        # TensorRT before 8.5 has no uint8: its files take the same numbers as float32
        pixels = "tensor(float)" if card.format == "tensorrt" else "tensor(uint8)"
        right_input = (INPUT_NAME, pixels, [spec.channels, spec.height, spec.width])
        right_output = (OUTPUT_NAME, "tensor(float)", [len(card.classes)])
        for side, right, nodes in (
            ("input", right_input, opened.get_inputs()),
            ("output", right_output, opened.get_outputs()),
        ):
            actual = [(node.name, node.type, node.shape[1:]) for node in nodes]
            if actual != [right]:
                raise unlike_card(f"the {side} {right} in '{path}'", actual)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return runtime_name()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = images.astype(self._pixels, copy=False)
        if self._answered:
            return self._logits(pixels, None)
        # a file's first call is limited: its graph may hold a loop that never ends
        import onnxruntime

        options = onnxruntime.RunOptions()
        timer = threading.Timer(FIRST_CALL_SECONDS, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            logits = self._logits(pixels, options)
        finally:
            timer.cancel()
        self._answered = True
        return logits

    def _logits(self, pixels: NDArray[Any], options: Any) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._opened.run(
            [OUTPUT_NAME], {INPUT_NAME: pixels}, options
        )[0]
        return logits


ENGINE = OnnxCandidate


def images_per_call(opened: Any, usual: int) -> int:
    """How many images a session takes at once: 1 where that is baked into its graph."""
    return 1 if opened.get_inputs()[0].shape[0] == 1 else usual


def session(path: Path, threads: int | None, optimised: Path | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` as every part of clinipress opens it.

    Args:
        path: The file; by path, since its bytes in memory would add to the peak of loading.
        threads: CPU threads of one call; None: as many as there are cores.
        optimised: Where to write the graph after the engine's own optimisation, or None.
    """
    onnxruntime = engine()
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
        # else a file it refuses is tried again, with a message on standard output
        enable_fallback=0,
        # It quantizes layers that were kept in float when their neighbours are quantized.
        disabled_optimizers=["WeightBiasQuantization"],
    )
