"""The GPU of this machine: its memory and its queue of work, by CUDA's driver library alone.

The driver library is there, under one name, wherever a GPU answers; the CUDA runtime library has
another name in each version. Everything happens in the device's primary context, which TensorRT and
PyTorch use too. Source: CUDA Driver API, "Primary Context Management", "Memory Management" and
"Stream Management"; the names with _v2 are the ones its header maps them to, since CUDA 4.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CudaError", "Gpu", "gpu"]

CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
OWN_STREAM = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream, which is PyTorch's


class CudaError(RuntimeError):
    """The driver refused a call; the text is the call and the driver's name of the error."""


class Gpu:
    """The first GPU that this process may use; `gpu` makes the one there is.

    Attributes:
        name: As the driver calls it: "NVIDIA H100 80GB HBM3", "Orin".
        capability: Compute capability, "8.7".

    Raises:
        OSError: There is no driver.
        CudaError: There is no GPU.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        self._context: ctypes.c_void_p | None = None
        self._device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(0))
        self._call("cuDeviceGetName", text, ctypes.c_int(len(text)), self._device)
        self.name = text.value.decode(errors="replace")
        self.capability = ".".join(str(self._attribute(number)) for number in CAPABILITY)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        which = ctypes.c_int(number)
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        # every argument comes with its C type: a bare int would be cut to 32 bits
        code = getattr(self._library, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
            raise CudaError(f"{function}: {text.value.decode() if text.value else code}")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the thread's own for a while, and give back what was there before."""
        if self._context is None:  # taken once, and kept until the process ends
            context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
            self._context = context
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def free_text(self) -> str:
        """How much memory nobody uses at this moment, "812 MB free"."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        try:
            with self.current():
                self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        except CudaError:  # not even enough to ask
            return "none free"
        return f"{free.value / 1e6:.0f} MB free"

    def memory(self, size: int, held: ExitStack) -> int:
        """Address of `size` bytes on the GPU, aligned for any type; freed when `held` closes.

        Raises:
            CudaError: There is no room.
        """
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        held.callback(self._release, "cuMemFree_v2", address)
        return address.value

    def host_array(self, shape: tuple[int, ...], held: ExitStack) -> NDArray[np.float32]:
        """float32 zeros in page-locked memory, which the GPU reads itself; freed with `held`.

        Raises:
            CudaError: There is no room.
        """
        address, count = ctypes.c_void_p(), int(np.prod(shape))
        self._call("cuMemAllocHost_v2", ctypes.byref(address), ctypes.c_size_t(4 * count))
        held.callback(self._release, "cuMemFreeHost", address)
        values = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address.value or 0))
        values[:] = 0
        return values.reshape(shape)

    def stream(self, held: ExitStack) -> ctypes.c_void_p:
        """A queue of work of its own; destroyed when `held` closes.

        Raises:
            CudaError: There is no room.
        """
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(OWN_STREAM))
        held.callback(self._release, "cuStreamDestroy_v2", stream)
        return stream

    def _release(self, function: str, handle: Any) -> None:
        with self.current():
            self._call(function, handle)

    def copy_in(self, address: int, values: NDArray[np.float32], stream: ctypes.c_void_p) -> None:
        """Queue the copy of a contiguous array to the GPU.

        Raises:
            CudaError: The driver refuses.
        """
        source, size = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, stream)

    def copy_out(self, values: NDArray[np.float32], address: int, stream: ctypes.c_void_p) -> None:
        """Queue the copy of a contiguous array from the GPU, and wait for the whole queue.

        Raises:
            CudaError: The driver refuses, or anything in the queue failed.
        """
        target, size = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), size, stream)
        self._call("cuStreamSynchronize", stream)


@functools.cache
def gpu() -> Gpu:
    """The one GPU object of the process.

    Raises:
        OSError: There is no driver.
        CudaError: There is no GPU.
    """
    return Gpu()
