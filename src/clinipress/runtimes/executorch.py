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

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.records import Card
from clinipress.runtimes.files import FileCandidate, card_beside

__all__ = ["ExecuTorchCandidate"]

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
    """An ExecuTorch file as a candidate; made by `load`. Not for several threads at once.

    Candidates with unequal numbers of threads can be used in turn, but each turn loads the file
    anew: measure those of one number together.

    Args:
        path: The file.
        card: What it is.
        threads: Threads of one call; None: the engine's own number, one per core.
    """

    largest_batch = 1

    def __init__(self, path: Path, card: Card, threads: int | None) -> None:
        super().__init__(path, card, threads)
        self._changes = _threads().become(threads)
        self._method, self._signed = _load(path, card)
        self._tensor = sys.modules["torch"].from_numpy

    @classmethod
    def load(
        cls, path: Path, card: Card | None = None, threads: int | None = None
    ) -> ExecuTorchCandidate:
        """Open a file.

        Args:
            path: A ``.pte`` file: one uint8 image in (or the same less 128, as int8), float logits
                out.
            card: Taken instead of the one beside the file.
            threads: CPU threads of one call; None: as many as there are cores.

        Raises:
            ModelError: No such file, not a whole one, no card beside it, or a program that does
                not take and give what the card says.
        """
        if not path.is_file():
            raise ModelError("an ExecuTorch file", f"nothing at '{path}'", "check the path")
        return cls(path, card or card_beside(path), threads)

    @property
    def runtime(self) -> str:
        """The engine and its version."""
        return f"executorch {metadata.version('executorch')}"

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One image."""
        changes = _threads().become(self.threads)
        if changes != self._changes:
            self._method, self._signed = _load(self.path, self._card)
            self._changes = changes
        pixels = (images ^ SIGN).view(np.int8) if self._signed else images
        logits: NDArray[np.float32] = self._method([self._tensor(pixels)])[0].numpy()
        return logits


def _load(path: Path, card: Card) -> tuple[Any, bool]:
    """The method of a file, and whether it takes pixels less 128, as int8.

    Raises:
        ModelError: It is not whole, or does not fit the card.
    """
    engine = _binding()
    try:
        with _silent():
            program = engine._load_program(
                str(path),
                enable_etdump=False,
                debug_buffer_size=0,
                program_verification=engine.Verification.InternalConsistency,
            )
            method = program.load_method(METHOD)
    except RuntimeError as problem:
        raise ModelError(
            f"a whole ExecuTorch file at '{path}'",
            f"one that the engine refuses ({str(problem).splitlines()[0][:120]})",
            "export it again, or copy it again if it was cut short",
        ) from None
    facts = method.method_meta()
    taken, given = (
        [(tensor.dtype(), tuple(tensor.sizes())) for tensor in tensors]
        for tensors in (
            [facts.input_tensor_meta(place) for place in range(facts.num_inputs())],
            [facts.output_tensor_meta(place) for place in range(facts.num_outputs())],
        )
    )
    spec = card.input
    pixels = (1, spec.channels, spec.height, spec.width)
    right = [[(BYTE, pixels)], [(CHAR, pixels)]], [[(FLOAT, (1, len(card.classes)))]]
    for side, found, allowed in (("input", taken, right[0]), ("output", given, right[1])):
        if found not in allowed:
            raise ModelError(
                f"the {side} {allowed[0]} (type, shape) in '{path}' as its card says",
                f"{found}",
                "the card belongs to another file: export the model again",
            )
    return method, taken == right[0][1]
