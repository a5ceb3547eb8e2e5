"""OpenVINO files, ``model.xml`` and ``model.bin``: the one run-time module that names that engine.

Importing the ``openvino`` package sends an event to its maker's statistics and writes a client
number into the home folder, unless its telemetry package is missing; `engine` sees to that.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.file import FileCandidate, unlike_card
from clinipress.records.candidate import Card

__all__ = [
    "ENGINE",
    "INPUT_NAME",
    "OUTPUT_NAME",
    "OpenVinoCandidate",
    "compiled",
    "engine",
    "read",
    "start",
]

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
BEGINNING, HEAD = re.compile(rb"\s*(<\?xml[^>]*>\s*)?<net\s"), 1024
TELEMETRY = "openvino_telemetry"
ATTENTION = {"Softmax", "ScaledDotProductAttention"}


def engine() -> Any:
    """The ``openvino`` package, imported so that nothing is sent.

    Its telemetry asks nobody: a None among the loaded modules makes ``import openvino_telemetry``
    fail, and openvino and nncf then take the stubs they have for that case. The entry stays, since
    nncf looks for it when it is imported later. Importing takes 0.2 s, half of what it takes with
    telemetry.
    """
    if TELEMETRY not in sys.modules:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    return require("openvino", extra="openvino")


def start() -> None:
    """Load the engine, so that what it needs by itself can be told apart."""
    engine()


@functools.cache
def _core() -> Any:
    """One engine for the whole process; it holds no model."""
    return engine().Core()


def read(source: Path | io.BytesIO) -> Any:
    """An ``openvino.Model`` of an ``.xml`` or ONNX file, or of one in memory."""
    return _core().read_model(str(source) if isinstance(source, Path) else source)


def compiled(source: Path | Any, threads: int | None) -> Any:
    """A file compiled for the CPU, as every part of clinipress opens it.

    Args:
        source: The ``.xml`` file, its ``.bin`` beside it; or a model that `read` gave.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        RuntimeError: It is not a whole OpenVINO file; the engine's own error.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        # Where the processor has bfloat16, the engine else rounds every float32 layer to 8 bits of
        # mantissa without a word (and takes float16 for bfloat16, too).
        "INFERENCE_PRECISION_HINT": "f32",
        # threads bound to cores would all sit on the first ones when two programs run
        "ENABLE_CPU_PINNING": "NO",
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    model = read(source) if isinstance(source, Path) else source
    if any(node.get_type_name() in ATTENTION for node in model.get_ops()):
        # Its just-in-time kernel of whole attentions rounds as bfloat16 where windows are small
        # (0.5 % of a logit in a Swin of 2 x 2 windows), whatever precision is asked for; without it
        # times of Swin, ViT and Visformer are the same.
        options["SNIPPETS_MODE"] = "DISABLE"
    return _core().compile_model(model, "CPU", options)


class OpenVinoCandidate(FileCandidate):
    """An OpenVINO file as a candidate, its weights beside it. Not for several threads at once.

    uint8 ``image`` in and float ``logits`` out, one image a call.
    """

    kind = "an OpenVINO file and its weights (.xml and .bin)"
    advice = "check the path, and copy both files"
    # With a free batch size the engine plans memory anew at each call: MobileNetV2 at 96 px and
    # MobileNetV3-Small at 128 px take 1.2 and 1.3 times as long.
    largest_batch = 1

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        super().__init__(path, card, opened, threads)
        self._request = opened.create_infer_request()
        # the request's own memory: writing into it is a tenth faster than handing an array over
        self._pixels = self._request.get_input_tensor().data
        self._logits = self._request.get_output_tensor().data

    @classmethod
    def _files_of(cls, path: Path) -> tuple[Path, ...]:
        return (path, path.with_suffix(".bin"))

    @classmethod
    def _open(cls, path: Path, threads: int | None) -> Any:
        with path.open("rb") as file:
            begins = BEGINNING.match(file.read(HEAD))
        try:
            if not begins:  # the engine would try it as a model of half a dozen other toolchains
                raise RuntimeError("another kind of file")
            return compiled(path, threads)
        except RuntimeError as problem:
            raise ModelError(
                f"a whole OpenVINO file at '{path}'",
                f"one that the engine refuses ({_short(problem)})",
                "export it again, or copy both files again if one was cut short",
            ) from None

    @classmethod
    def _check(cls, path: Path, opened: Any, card: Card) -> None:
        spec = card.input
        right_input = [(INPUT_NAME, "u8", [1, spec.channels, spec.height, spec.width])]
        right_output = [(OUTPUT_NAME, "f32", [1, len(card.classes)])]
        for side, right, ports in (
            ("input", right_input, opened.inputs),
            ("output", right_output, opened.outputs),
        ):
            actual = [_described(port) for port in ports]
            if actual != right:
                raise unlike_card(f"the {side} {right} in '{path}'", actual)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return f"openvino {metadata.version('openvino')}"

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._pixels[:] = images
        self._request.infer(share_outputs=True)
        logits: NDArray[np.float32] = self._logits.copy()
        return logits


ENGINE = OpenVinoCandidate


def _short(problem: RuntimeError) -> str:
    """The last line of the engine's message that says something; the first name its sources."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception from")]
    return (telling or lines or ["no reason given"])[-1][:160]


def _described(port: Any) -> tuple[str, str, list[int]]:
    """Name, type and shape of an input or output; -1 for a side that is free."""
    sides = [-1 if side.is_dynamic else side.get_length() for side in port.get_partial_shape()]
    return min(port.get_names(), default=""), port.get_element_type().get_type_name(), sides
