"""ONNX files, run by ONNX Runtime: the one place of the run-time side that names that engine.

Nothing here needs torch or onnx, so the same code answers on the device and in a study, and what a
study measures is what is shipped. onnxruntime itself is imported on first use: it takes about
0.2 s, which a ``--help`` should not pay.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.records import Card
from clinipress.runtimes.files import FileCandidate, card_of_text, first_line

__all__ = ["CARD_KEY", "INPUT_NAME", "OUTPUT_NAME", "OnnxCandidate", "runtime_name", "session"]

CARD_KEY = "clinipress.card"
INPUT_NAME = "image"
OUTPUT_NAME = "logits"


def runtime_name() -> str:
    """The engine and its version, "onnxruntime 1.31.1"; read without importing it."""
    return f"onnxruntime {metadata.version('onnxruntime')}"


class OnnxCandidate(FileCandidate):
    """An ONNX file as a candidate; made by `load`.

    Args:
        path: The file.
        card: What it is.
        opened: The open ``onnxruntime.InferenceSession``.
        threads: Threads the session was given; None: as many as there are cores.
    """

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        super().__init__(path, card, threads)
        self._session = opened
        self._pixels = np.float32 if opened.get_inputs()[0].type == "tensor(float)" else np.uint8

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
        return cls(path, card, opened, threads)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return runtime_name()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = images.astype(self._pixels, copy=False)
        logits: NDArray[np.float32] = self._session.run([OUTPUT_NAME], {INPUT_NAME: pixels})[0]
        return logits


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
        # else a file it refuses is tried again, with a message on standard output
        enable_fallback=0,
        # It quantizes layers that were kept in float when their neighbours are quantized.
        disabled_optimizers=["WeightBiasQuantization"],
    )


def _open(path: Path, threads: int | None) -> Any:
    try:
        return session(path, threads)
    except Exception as problem:  # its exceptions share no base but Exception
        raise ModelError(
            f"a whole ONNX file at '{path}'",
            f"one that ONNX Runtime refuses ({_short(problem)})",
            "export it again, or copy it again if it was cut short",
        ) from None


def _short(problem: Exception) -> str:
    """The first line of the engine's message, without paths of its sources."""
    return first_line(problem).split(" : ")[-1]


def _card_inside(path: Path, opened: Any) -> Card:
    text = opened.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelError(
            f"a card ('{CARD_KEY}') inside '{path}'",
            "an ONNX file without one, made by something else",
            "export the model with clinipress, or pass the card",
        )
    return card_of_text(text, str(path))


def _check_graph(path: Path, opened: Any, card: Card) -> None:
    spec = card.input
    taken = [(node.name, node.type, node.shape[1:]) for node in opened.get_inputs()]
    given = [(node.name, node.type, node.shape[1:]) for node in opened.get_outputs()]
    # TensorRT before 8.5 has no uint8: its files take the same numbers as float32
    pixels = "tensor(float)" if card.format == "tensorrt" else "tensor(uint8)"
    right_input = (INPUT_NAME, pixels, [spec.channels, spec.height, spec.width])
    right_output = (OUTPUT_NAME, "tensor(float)", [len(card.classes)])
    for side, right, actual in (("input", right_input, taken), ("output", right_output, given)):
        if actual != [right]:
            raise ModelError(
                f"the {side} {right} in '{path}' as its card says",
                f"{actual}",
                "the card belongs to another file: export the model again",
            )
