"""Full-integer .tflite files, run by the microcontroller interpreter on this machine.

TensorFlow Lite for Microcontrollers computes here with its reference kernels, in an arena whose
size is given: what the device needs of working memory is found by trying. This is the one place
that names it, and it needs neither torch nor LiteRT.

    arena_bytes              the smallest arena in which a file runs
    TfliteMicroCandidate     a file as a candidate
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.file import FILES, FileCandidate, first_line
from clinipress.formats.litert.run import as_input, check_interface, logits_of, silence
from clinipress.records.candidate import Card

__all__ = ["DIGEST_WORD", "ENGINE", "TfliteMicroCandidate", "arena_bytes"]

DIGEST_WORD = "sha256"  # in the header beside a file
HEAD = 4096  # characters of the header before the array
IDENTIFIER = b"TFL3"
ROUNDING = 16  # bytes; the arena is aligned so
# An arena for files whose need is not known; of memory that is not touched none is used.
GENEROUS = 256 * 2**20
SECONDS = 300
# Too small an arena may end the process instead of raising, so every trial is a child of a process
# that has the engine loaded. Prints the smallest arena, or what the engine said of a large one.
SEARCH = """
import os, sys
import numpy as np
from tflite_micro import runtime

content = open(sys.argv[1], "rb").read()
step, largest = int(sys.argv[2]), int(sys.argv[3])

def runs(size, once=False):
    child = os.fork()
    if child == 0:
        try:
            engine = runtime.Interpreter.from_bytes(content, arena_size=size)
            if once:  # everything is allocated before; a call of a large network takes seconds
                details = engine.get_input_details(0)
                engine.set_input(np.zeros(details["shape"], details["dtype"]), 0)
                engine.invoke()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0

high = 4096
while not runs(high) and high < largest:
    high *= 2
if high >= largest:
    sys.exit(3)
low = 0 if high == 4096 else high // 2
while high - low > step:
    middle = (low + high) // 2 // step * step
    low, high = (low, middle) if runs(middle) else (middle, high)
if not runs(high, once=True):
    sys.exit(4)
print(high)
"""


def arena_bytes(path: Path) -> int:
    """The smallest arena in which the interpreter of this machine runs a file.

    Found by bisection, each trial in a process of its own. The device's may differ: its pointers
    are half as wide, and kernels written for its processor may want scratch memory besides
    (CMSIS-NN: some kilobytes for a convolution).

    Args:
        path: A .tflite file.

    Returns:
        Bytes, a multiple of 16.

    Raises:
        ModelError: The interpreter cannot run the file, whatever the arena; the operator that it
            lacks is named where it says so.
    """
    require("tflite_micro", extra="tflite-micro")  # said here rather than in the child

    command = [sys.executable, "-c", SEARCH, str(path), str(ROUNDING), str(GENEROUS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        problem = f"no arena found within {SECONDS} s"
    else:
        if done.returncode == 0:
            return int(done.stdout)
        problem = _complaint(done.stderr)
    raise ModelError(
        f"a file that TensorFlow Lite Micro can run ('{path.name}')",
        problem,
        "choose another network or another format",
    )


def _complaint(text: str) -> str:
    """What of the engine's messages says why: a missing operator first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if match := re.search(r"find op for (?:builtin|custom) opcode\W+(\w+)", line):
            return f"the operator {match.group(1)}, which it has not"
    telling = [line for line in lines if not _of_python(line) and "llocat" not in line]
    return first_line(RuntimeError(telling[0] if telling else "no run in the largest arena"))


def _of_python(line: str) -> bool:
    return line.startswith(("Traceback", "File ", "^"))


class TfliteMicroCandidate(FileCandidate):
    """A full-integer .tflite file as a candidate, in an arena that is large enough for any.

    It takes one image int8 ``[1, h, w, c]`` and gives int8 logits; `threads` plays no part, since
    a microcontroller has one.
    """

    kind = "a .tflite file"
    largest_batch = 1

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        super().__init__(path, card, opened, threads)
        details = opened.get_output_details(0)["quantization_parameters"]
        self._scale, self._zero = float(details["scales"][0]), int(details["zero_points"][0])

    @classmethod
    def _files_of(cls, path: Path) -> tuple[Path, ...]:
        header = _header(path)
        return (path, header) if header.is_file() else (path,)

    @classmethod
    def _open(cls, path: Path, threads: int | None) -> Any:
        """The engine does not verify what it reads and may end the process on a damaged file.

        So the file is compared with the digest in the header first.
        """
        content, stated = path.read_bytes(), _stated(path)
        digest = re.search(rf"{DIGEST_WORD} ([0-9a-f]{{64}})", stated)
        if content[4:8] != IDENTIFIER:
            problem = "something else"
        elif digest and digest.group(1) != hashlib.sha256(content).hexdigest():
            problem = f"one that is not what '{_header(path).name}' beside it was made of"
        else:
            try:
                with silence():
                    runtime = require("tflite_micro", extra="tflite-micro").runtime
                    return runtime.Interpreter.from_bytes(content, arena_size=GENEROUS)
            except (RuntimeError, ValueError, struct.error) as error:
                problem = f"one that TensorFlow Lite Micro refuses ({first_line(error)})"
        raise ModelError(
            f"a whole .tflite file at '{path}'",
            problem,
            "export it again, or copy it again with its header if it was cut short",
        )

    @classmethod
    def _check(cls, path: Path, opened: Any, card: Card) -> None:
        taken, given = opened.get_input_details(0), opened.get_output_details(0)
        check_interface(path, [taken], [given], card, integers=True)

    @property
    def file_bytes(self) -> int:
        """Size of the file: what the device stores. The header is the same in words."""
        return self.path.stat().st_size

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return f"tflite-micro {metadata.version('tflite-micro')}"

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._opened.set_input(as_input(images, np.int8), 0)
        self._opened.invoke()
        return logits_of(self._opened.get_output(0), self._scale, self._zero)


ENGINE = TfliteMicroCandidate


def _header(path: Path) -> Path:
    return path.with_name(FILES["tflite-micro"][1])


def _stated(path: Path) -> str:
    """The header beside a file, without the array; "" where there is none."""
    header = _header(path)
    if not header.is_file():
        return ""
    with header.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(HEAD)
