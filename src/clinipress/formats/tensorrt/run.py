"""TensorRT engines of ONNX files: built and run on this machine's GPU, where there is one.

A file of format "tensorrt" is ONNX; NVIDIA's ``tensorrt`` makes an engine of it for one kind of GPU
and one version of itself. An engine is executable code (TensorRT documentation, "Security
Considerations"), so none is taken from a bundle or a run folder: it is built here, by the script
that travels with the file, and kept in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache;
clinipress/tensorrt), which may be emptied at any time.

Needs the extra "tensorrt" beside NVIDIA's own package. Tensors go by name, as in TensorRT 8.5 to
11: older ones have no package for the Python that clinipress takes; the build script knows them.
Source: TensorRT Python API, ``IRuntime``, ``ICudaEngine``, ``IExecutionContext``.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.formats.file import FileCandidate, digest_of_files, first_line, unlike_card
from clinipress.formats.onnx.run import INPUT_NAME, OUTPUT_NAME, OnnxCandidate
from clinipress.formats.tensorrt import build_engine
from clinipress.formats.tensorrt.cuda import CudaError, gpu
from clinipress.records.candidate import Card
from clinipress.records.store import digest_of, storage, write_atomically

__all__ = ["ENGINE", "TensorRtCandidate", "engine_and_gpu", "start"]

BUILD_SECONDS = 3600  # a small board takes some minutes for a large network
DIGEST_BYTES = 32
NO_ROOM = re.compile(r"out.?of.?memory|could not be allocated|insufficient memory", re.IGNORECASE)
OTHERWISE = "hide the GPU (CUDA_VISIBLE_DEVICES=) to go on with ONNX Runtime, times not measured"


def engine_and_gpu() -> str:
    """The engine and the GPU that answer here, "tensorrt 10.3.0 on Orin"; "" where none does."""
    try:
        import tensorrt

        return f"tensorrt {tensorrt.__version__} on {gpu().name}"
    except (ImportError, OSError, AttributeError, CudaError):  # no packages, no driver, no GPU
        return ""


def start() -> None:
    """Load what every engine needs, so that one engine's own memory can be told apart.

    Raises:
        ModelError: TensorRT cannot use this GPU.
    """
    with _one_line("TensorRT"), gpu().current():
        _runtime()


class TensorRtCandidate(FileCandidate):
    """An ONNX file as an engine of this GPU; made by `load`. Not for several threads at once.

    Args:
        path: The ONNX file.
        card: What it is.
        opened: The ``tensorrt.ICudaEngine``, and its size as it is stored, bytes.
        threads: A record; a GPU has its own.

    Attributes:
        device_bytes: Bytes on the GPU: the engine as it is stored (weights and kernels), its
            activations as TensorRT states them, input and output.
    """

    # As the script that travels with the file builds it: what is measured is what is shipped.
    largest_batch = 1

    def __init__(
        self, path: Path, card: Card, opened: tuple[Any, int], threads: int | None
    ) -> None:
        super().__init__(path, card, opened, threads)
        self._engine, stored = opened
        spec, batch = card.input, self.largest_batch
        with ExitStack() as held:
            self._shape = (spec.channels, spec.height, spec.width)
            self._pixels = gpu().host_array((batch, *self._shape), held)
            self._logits = gpu().host_array((batch, len(card.classes)), held)
            arrays = {INPUT_NAME: self._pixels, OUTPUT_NAME: self._logits}
            self._at = {name: gpu().memory(array.nbytes, held) for name, array in arrays.items()}
            self._stream = gpu().stream(held)
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise CudaError(_reason("out of memory for activations"))
            for name, address in self._at.items():
                self._context.set_tensor_address(name, address)
            # not at exit: the driver may be gone before, and the system frees everything then
            weakref.finalize(self, held.pop_all().close).atexit = False
        sizes = (stored, _activation_bytes(self._engine), *(a.nbytes for a in arrays.values()))
        self.device_bytes = sum(sizes)

    @classmethod
    def load(cls, path: Path, card: Card | None = None, threads: int | None = None) -> Self:
        """Open a file; its engine is built first where this GPU has none, which may take minutes.

        Args:
            path: An ONNX file with float32 ``image`` (0 to 255) in and float32 ``logits`` out.
            card: Taken instead of the one inside the file.
            threads: A record, not a setting.

        Raises:
            ModelError: The file is not whole or not what its card says, TensorRT refuses it, or the
                GPU has too little memory.
            StorageError: The engine cannot be kept.
        """
        if card is None or not path.is_file():  # ONNX Runtime reads cards, and says what is wrong
            card = OnnxCandidate.load(path, card, threads).card
        with _one_line(f"'{path.name}'"), gpu().current():
            opened = _engine(path, card, cls.largest_batch)
            _check_tensors(path, opened[0], card)
            return cls(path, card, opened, threads)

    @property
    def runtime(self) -> str:
        """The engine, its version and the GPU."""
        return engine_and_gpu()

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, stream = len(images), self._stream
        pixels, logits = self._pixels[:count], self._logits[:count]
        np.copyto(pixels, images)  # to float32, straight into what the GPU reads
        with _one_line(f"'{self.path.name}'"), gpu().current():
            gpu().copy(self._at[INPUT_NAME], pixels.ctypes.data, pixels.nbytes, stream)
            shaped = self._context.set_input_shape(INPUT_NAME, (count, *self._shape))
            if not (shaped and self._context.execute_async_v3(stream)):
                raise CudaError(_reason("no answer"))
            gpu().copy(logits.ctypes.data, self._at[OUTPUT_NAME], logits.nbytes, stream)
            gpu().wait(stream)
        return logits.copy()


ENGINE = TensorRtCandidate


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn what CUDA or TensorRT refuse into a `ModelError` of one line."""
    try:
        yield
    except CudaError as problem:
        if NO_ROOM.search(str(problem)):
            raise ModelError(
                f"enough memory for {what} on {gpu().name}",
                f"{gpu().free_text()} ({problem})",
                f"close what else uses the GPU, or {OTHERWISE}",
            ) from None
        raise ModelError(f"{what} to run on {gpu().name}", str(problem), OTHERWISE) from None


# ------------------------------------------------------------------ the engine


@functools.cache
def _runtime() -> tuple[Any, list[str]]:
    """The one ``tensorrt.Runtime`` of the process, and the list its errors are written to."""
    import tensorrt

    errors: list[str] = []

    class Log(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                errors.append(message)

    try:
        return tensorrt.Runtime(Log()), errors
    except TypeError:  # what the bindings make of a null pointer
        problem = errors[0] if errors else "TensorRT does not take this GPU"
        raise CudaError(first_line(RuntimeError(problem))) from None


def _reason(otherwise: str) -> str:
    """The first error that TensorRT wrote since it was last asked."""
    errors = _runtime()[1]
    message = errors[0] if errors else otherwise
    errors.clear()
    return first_line(RuntimeError(message))


def _engine(path: Path, card: Card, batch: int) -> tuple[Any, int]:
    import tensorrt

    key = {
        "file": digest_of_files((path,)),
        "builder": digest_of_files((Path(build_engine.__file__),)),
        "tensorrt": tensorrt.__version__,
        "gpu": f"{gpu().name} {gpu().capability}",
        "batch": batch,
    }
    kept = _folder() / f"{digest_of(key)}.engine"
    for build in (False, True):
        if build:
            OnnxCandidate.load(path, card, 1)  # refused at once rather than after minutes
            _build(path, kept, batch)
            _runtime()[1].clear()
        plan = _whole(kept)
        engine = _runtime()[0].deserialize_cuda_engine(plan) if plan else None
        if engine is not None:
            return engine, len(plan)
    raise CudaError(_reason("TensorRT does not open the engine that it built"))


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "clinipress" / "tensorrt"
    with storage("TensorRT engines"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise ModelError(
            "a folder for TensorRT engines that only you can write into",
            f"'{folder}'",
            "remove it, or name another place in XDG_CACHE_HOME",
        )
    return folder


def _whole(kept: Path) -> bytes:
    """An engine as it was written, else nothing: TensorRT may open one that was cut short."""
    content = kept.read_bytes() if kept.is_file() else b""
    plan = content[DIGEST_BYTES:]
    return plan if hashlib.sha256(plan).digest() == content[:DIGEST_BYTES] else b""


def _build(path: Path, kept: Path, batch: int) -> None:
    """Build in a process of its own: its memory comes back, and a crash is a line, not the end."""
    paths = (str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in paths if part)}
    with storage("a TensorRT engine"), tempfile.TemporaryDirectory(dir=kept.parent) as work:
        made = Path(work) / "model.engine"
        # -P: a file tensorrt.py in the folder one happens to be in is not NVIDIA's
        command = [sys.executable, "-P", "-m", build_engine.__name__, "--batch", str(batch)]
        command += ["--source", str(path.absolute()), "--target", str(made)]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise CudaError(f"no engine built within {BUILD_SECONDS} s") from None
        if done.returncode:
            raise CudaError(_complaint(done.returncode, done.stderr))
        plan = made.read_bytes()
        write_atomically(kept, hashlib.sha256(plan).digest() + plan)


def _complaint(code: int, text: str) -> str:
    """What of the builder's messages says most: want of memory, its own reason, its first error."""
    if code < 0:  # by a signal; 9 is the kernel's when the system runs out of memory
        hint = ", as when the system is out of memory" if code == -9 else ""
        return f"no engine built: ended by signal {-code}{hint}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.rpartition("[E] ")[2] for line in lines if "[E] " in line]
    starved = [line for line in errors if NO_ROOM.search(line)]
    own = [line.partition("got: ")[2] for line in lines if "got: " in line]
    if errors and build_engine.SILENT in own:
        own = []
    return first_line(RuntimeError([*starved, *own[-1:], *errors, *lines[-1:], "no reason"][0]))


def _check_tensors(path: Path, engine: Any, card: Card) -> None:
    spec = card.input
    right = {
        INPUT_NAME: (spec.channels, spec.height, spec.width),
        OUTPUT_NAME: (len(card.classes),),
    }
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    actual = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
    if actual != right:
        raise unlike_card(f"{right} for each image in '{path}'", actual)


def _activation_bytes(engine: Any) -> int:
    """Memory for activations at the largest batch; TensorRT 10 renamed it."""
    renamed = hasattr(engine, "device_memory_size_v2")
    return int(engine.device_memory_size_v2 if renamed else engine.device_memory_size)
