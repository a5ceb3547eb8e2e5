"""The GPU of this machine: its memory and its queue of work, through NVIDIA's ``cuda-bindings``.

Everything happens in the device's primary context, which TensorRT and PyTorch use too.
Source: CUDA Runtime API, "Device Management", "Memory Management" and "Stream Management".
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CudaError", "Gpu", "gpu"]


class CudaError(RuntimeError):
    """CUDA refused a call; the text is the call and CUDA's description of the error."""


class Gpu:
    """The first GPU that this process may use; `gpu` makes the one there is.

    Attributes:
        name: As CUDA calls it: "NVIDIA H100 80GB HBM3", "Orin".
        capability: Compute capability, "8.7".

    Raises:
        ImportError: ``cuda-bindings`` is not installed.
        CudaError: There is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._cuda = importlib.import_module("cuda.bindings.runtime")
        properties = self._call("cudaGetDeviceProperties", 0)
        self.name = properties.name.decode(errors="replace")
        self.capability = f"{properties.major}.{properties.minor}"

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._cuda, function)(*arguments)
        if int(error):
            text = self._cuda.cudaGetErrorString(error)[1].decode()
            raise CudaError(f"{function}: {text}")
        return values[0] if len(values) == 1 else values

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the thread's own for a while, and give back what was there before."""
        before = self._call("cudaGetDevice")
        self._call("cudaSetDevice", 0)
        try:
            yield
        finally:
            self._call("cudaSetDevice", before)

    def free_text(self) -> str:
        """How much memory nobody uses at this moment, "812 MB free"."""
        try:
            with self.current():
                free, _ = self._call("cudaMemGetInfo")
        except CudaError:  # not even enough to ask
            return "none free"
        return f"{free / 1e6:.0f} MB free"

    def memory(self, size: int, held: ExitStack) -> int:
        """Address of `size` bytes on the GPU, aligned for any type; freed when `held` closes.

        Raises:
            CudaError: There is no room.
        """
        address = int(self._call("cudaMalloc", size))
        held.callback(self._release, "cudaFree", address)
        return address

    def host_array(self, shape: tuple[int, ...], held: ExitStack) -> NDArray[np.float32]:
        """float32 zeros in page-locked memory, which the GPU reads itself; freed with `held`.

        Raises:
            CudaError: There is no room.
        """
        count = int(np.prod(shape))
        address = int(self._call("cudaMallocHost", 4 * count))
        held.callback(self._release, "cudaFreeHost", address)
        values = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
        values[:] = 0
        return values.reshape(shape)

    def stream(self, held: ExitStack) -> int:
        """Handle of a queue of work that does not wait for PyTorch's; destroyed with `held`.

        Raises:
            CudaError: There is no room.
        """
        stream = int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))
        held.callback(self._release, "cudaStreamDestroy", stream)
        return stream

    def _release(self, function: str, handle: int) -> None:
        with self.current():
            self._call(function, handle)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue the copy of `size` bytes; which address is the GPU's is CUDA's to know.

        Raises:
            CudaError: CUDA refuses.
        """
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def wait(self, stream: int) -> None:
        """Wait for all that was queued.

        Raises:
            CudaError: Anything in the queue failed.
        """
        self._call("cudaStreamSynchronize", stream)


@functools.cache
def gpu() -> Gpu:
    """The one GPU object of the process.

    Raises:
        ImportError: ``cuda-bindings`` is not installed.
        CudaError: There is no driver or no GPU.
    """
    return Gpu()
