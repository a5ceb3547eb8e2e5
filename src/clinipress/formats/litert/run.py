"""LiteRT files (.tflite), run by its interpreter with XNNPACK: the one place that names it.

A file takes one image, channels last: uint8 pixels where it computes in float, and where it
computes in integers int8, the pixels less 128: the grid of its input is the image's own grey
levels, so there is nothing to compute between the two.

Nothing here needs torch, and the engine is imported when a file is opened.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.distributed import usable_cores
from clinipress.extras import require
from clinipress.formats.file import FileCandidate, first_line, not_whole, unlike_card
from clinipress.records.candidate import Card

__all__ = [
    "ENGINE",
    "LiteRtCandidate",
    "as_input",
    "check_interface",
    "interpreter",
    "logits_of",
    "silence",
]

MIDDLE = 128  # of the grey levels: what int8 inputs are short of


class LiteRtCandidate(FileCandidate):
    """A .tflite file as a candidate.

    It takes one image ``[1, h, w, c]``, uint8 or int8, and gives float32 or int8 logits
    ``[1, classes]``.
    """

    kind = "a .tflite file"
    largest_batch = 1

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        super().__init__(path, card, opened, threads)
        self._input, self._output = opened.get_input_details()[0], opened.get_output_details()[0]

    @classmethod
    def _open(cls, path: Path, threads: int | None) -> Any:
        try:
            return interpreter(path, threads)
        except (ValueError, RuntimeError) as problem:
            reason = f"one that LiteRT refuses ({first_line(problem)})"
            raise not_whole(f".tflite file at '{path}'", reason) from None

    @classmethod
    def _check(cls, path: Path, opened: Any, card: Card) -> None:
        taken, given = opened.get_input_details(), opened.get_output_details()
        check_interface(path, taken, given, card)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return f"litert {metadata.version('ai-edge-litert')}"

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        engine = self._opened
        engine.set_tensor(self._input["index"], as_input(images, self._input["dtype"]))
        engine.invoke()
        return logits_of(engine.get_tensor(self._output["index"]), *self._output["quantization"])


ENGINE = LiteRtCandidate


def as_input(images: NDArray[np.uint8], dtype: Any) -> NDArray[Any]:
    """What a file takes, of uint8 ``[n, c, h, w]``: channels last, uint8 or int8."""
    pixels = images.transpose(0, 2, 3, 1)
    if images.shape[1] == 1:  # the same bytes in the same order: nothing to move
        pixels = images.reshape(pixels.shape)
    if dtype == np.int8:
        return np.ascontiguousarray(pixels ^ np.uint8(MIDDLE)).view(np.int8)
    return np.ascontiguousarray(pixels)


def logits_of(output: NDArray[Any], scale: float, zero: int) -> NDArray[np.float32]:
    """float32 logits of what a file gave; scale and zero point of an int8 output."""
    if output.dtype == np.int8:
        return (output.astype(np.float32) - np.float32(zero)) * np.float32(scale)
    return output.astype(np.float32, copy=False)


def interpreter(model: Path | bytes, threads: int | None = None, **options: Any) -> Any:
    """An interpreter as every part of clinipress opens it, its tensors allocated.

    Args:
        model: A file, or the bytes of one.
        threads: CPU threads of one call; None: as many as there are cores.
        options: Further arguments of ``ai_edge_litert.interpreter.Interpreter``.
    """
    with silence():  # the engine's C++ part says once per process that XNNPACK is there
        engine = require("ai_edge_litert.interpreter", extra="litert")
        what = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        opened = engine.Interpreter(**what, num_threads=threads or usable_cores(), **options)
        opened.allocate_tensors()
    return opened


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Swallow what engines write to standard output and error, from Python and from C++.

    Errors still come as exceptions. What other threads write meanwhile is lost too.
    """
    import warnings

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for stream, number in ((sys.__stdout__, 1), (sys.__stderr__, 2)):
            if stream is not None:
                stream.flush()
            with contextlib.suppress(OSError):  # closed by whoever started us: nothing to silence
                stack.callback(_restore, number, os.dup(number))
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
        yield


def _restore(number: int, kept: int) -> None:
    os.dup2(kept, number)
    os.close(kept)


def check_interface(
    path: Path,
    taken: list[dict[str, Any]],
    given: list[dict[str, Any]],
    card: Card,
    *,
    integers: bool = False,
) -> None:
    """Refuse a file that does not take one image and give one logit per class, as its card says.

    Args:
        path: The file.
        taken: Details of each input, "dtype" and "shape" among them.
        given: Details of each output.
        card: Its card.
        integers: Whether both must be int8.

    Raises:
        ModelError: It does not.
    """
    spec = card.input
    pixels, logits = ("uint8", "int8")[integers:], ("float32", "int8")[integers:]
    sides = (
        ("input", taken, pixels, [1, spec.height, spec.width, spec.channels]),
        ("output", given, logits, [1, len(card.classes)]),
    )
    for side, tensors, dtypes, shape in sides:
        described = [
            (np.dtype(tensor["dtype"]).name, [int(n) for n in tensor["shape"]])
            for tensor in tensors
        ]
        if len(described) != 1 or described[0][0] not in dtypes or described[0][1] != shape:
            expected = f"the {side} {' or '.join(dtypes)} {shape} in '{path}'"
            raise unlike_card(expected, described)
