"""ExecuTorch files (``.pte``), run by its Python binding: the module that names that engine.

The device runs these files from C++, Swift or Kotlin; the binding here runs the same kernels, so
that a file is measured before it is shipped. It takes tensors of torch, and brings torch with it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.extras import require
from clinipress.formats.file import FileCandidate, not_whole, unlike_card
from clinipress.records.candidate import Card

__all__ = ["ENGINE", "ExecuTorchCandidate"]

METHOD = "forward"
BYTE, CHAR, FLOAT = 0, 1, 6  # torch's numbers of uint8, int8 and float32
SIGN = np.uint8(128)  # a grey level with this bit turned over is the level less 128, as int8


@functools.cache
def _binding() -> Any:
    """The engine's compiled binding.

    ``executorch.runtime`` is a thin cover of it that imports the whole exporter, 6 s for nothing.
    """
    require("torch", extra="executorch")  # the libraries that the binding is linked to
    return require("executorch.extension.pybindings._C", extra="executorch")


def _silent() -> contextlib.AbstractContextManager[Any]:
    """Swallow what the engine logs; errors still come as exceptions.

    It tells of each look at the processor, each change of its threads and each broken file, through
    Python's own standard error.
    """
    return contextlib.redirect_stderr(io.StringIO())


class _Threads:
    """The engine's threads: one pool for the whole process.

    A method keeps the address of the pool it was loaded with, so after the pool was changed it must
    be loaded again before it may run (the engine calls the change unsafe).

    Attributes:
        changes: How often the pool was changed.
    """

    def __init__(self) -> None:
        with _silent():
            self._all = self._now = int(_binding()._threadpool_get_thread_count())
        self.changes = 0

    def become(self, threads: int | None) -> int:
        """See to it that there are so many (None: the engine's own number); all changes so far."""
        wanted = threads or self._all
        if wanted != self._now:
            with _silent():
                _binding()._unsafe_reset_threadpool(wanted)
            self._now, self.changes = wanted, self.changes + 1
        return self.changes


@functools.cache
def _threads() -> _Threads:
    return _Threads()


class ExecuTorchCandidate(FileCandidate):
    """An ExecuTorch file as a candidate. Not for several threads at once.

    One uint8 image in (or the same less 128, as int8), float logits out. Candidates with unequal
    numbers of threads can be used in turn, but each turn loads the file anew: measure those of one
    number together.
    """

    kind = "an ExecuTorch file"
    largest_batch = 1

    def __init__(self, path: Path, card: Card, opened: Any, threads: int | None) -> None:
        super().__init__(path, card, opened, threads)
        self._changes = _threads().changes
        self._signed = _tensors(opened)[0][0][0] == CHAR
        self._tensor = sys.modules["torch"].from_numpy

    @classmethod
    def _open(cls, path: Path, threads: int | None) -> Any:
        _threads().become(threads)
        return _load(path)

    @classmethod
    def _check(cls, path: Path, opened: Any, card: Card) -> None:
        spec = card.input
        pixels = (1, spec.channels, spec.height, spec.width)
        taken, given = _tensors(opened)
        for side, actual, allowed in (
            ("input", taken, [[(BYTE, pixels)], [(CHAR, pixels)]]),
            ("output", given, [[(FLOAT, (1, len(card.classes)))]]),
        ):
            if actual not in allowed:
                raise unlike_card(f"the {side} {allowed[0]} (type, shape) in '{path}'", actual)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return f"executorch {metadata.version('executorch')}"

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        changes = _threads().become(self.threads)
        if changes != self._changes:
            self._opened, self._changes = _load(self.path), changes
        pixels = (images ^ SIGN).view(np.int8) if self._signed else images
        logits: NDArray[np.float32] = self._opened([self._tensor(pixels)])[0].numpy()
        return logits


ENGINE = ExecuTorchCandidate


def _load(path: Path) -> Any:
    engine = _binding()
    try:
        with _silent():
            program = engine._load_program(
                str(path),
                enable_etdump=False,
                debug_buffer_size=0,
                program_verification=engine.Verification.InternalConsistency,
            )
            return program.load_method(METHOD)
    except RuntimeError as problem:
        reason = f"one that the engine refuses ({str(problem).splitlines()[0][:120]})"
        raise not_whole(f"ExecuTorch file at '{path}'", reason) from None


def _tensors(method: Any) -> list[list[tuple[int, tuple[int, ...]]]]:
    """(type, shape) of each input, and of each output."""
    facts = method.method_meta()
    sides = (
        [facts.input_tensor_meta(index) for index in range(facts.num_inputs())],
        [facts.output_tensor_meta(index) for index in range(facts.num_outputs())],
    )
    return [[(tensor.dtype(), tuple(tensor.sizes())) for tensor in side] for side in sides]
