"""A stand-in for NVIDIA's `tensorrt` and `cuda.bindings.runtime`: the names clinipress uses.

An "engine" is the ONNX file behind a line of JSON; ONNX Runtime computes its answers, from and into
the addresses it is given. The stand-in for CUDA refuses what the real one refuses: addresses that
are not its own, calls on another device, more memory than there is. What it should be stands in the
environment, since engines are built and memory is measured in processes of their own.
Names and signatures were compared with the real bindings of 8.6.1, 10.0, 10.3, 10.16 and 11.4;
test_tensorrt.py calls those of CUDA as they are.
"""

# ruff: noqa: N802, N815  CUDA's own names

import ctypes
import enum
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime

HEADER = 512  # bytes
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 0, 1, 2, 100
ERRORS = {1: b"invalid argument", 2: b"out of memory", 100: b"no CUDA-capable device is detected"}


def settings():
    return json.loads(os.environ["FAKE_TENSORRT"])


def by_name():
    return settings()["version"] >= "8.5" or settings()["version"].startswith("1")


def __getattr__(name):
    if name == "__version__":
        return settings()["version"]
    raise AttributeError(name)


# ------------------------------------------------------------------ CUDA


class CudaRuntime:
    """`cuda.bindings.runtime` on ordinary memory: each call returns its error and what it gives."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)

    def __init__(self):
        self.device, self.host, self.streams, self.current = {}, {}, set(), 0

    def cudaGetErrorString(self, error):
        return SUCCESS, ERRORS[error]

    def cudaGetDeviceProperties(self, device):
        if not settings()["gpu"]:
            return NO_DEVICE, None
        return SUCCESS, SimpleNamespace(name=settings()["gpu"].encode(), major=8, minor=7)

    def cudaGetDevice(self):
        return SUCCESS, self.current

    def cudaSetDevice(self, device):
        self.current = device
        return (SUCCESS,)

    def cudaMemGetInfo(self):
        return SUCCESS, settings()["free"] - self.used(), settings()["free"]

    def used(self):
        return sum(len(block) for block in self.device.values())

    def take(self, size, blocks):
        if self.current:
            return INVALID_VALUE, None
        if self.used() + size > settings()["free"]:
            return OUT_OF_MEMORY, None
        block = (ctypes.c_char * size)()
        blocks[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def drop(self, address, blocks):
        known = not self.current and blocks.pop(address, None) is not None
        return (SUCCESS if known else INVALID_VALUE,)

    def cudaMalloc(self, size):
        return self.take(size, self.device)

    def cudaMallocHost(self, size):
        return self.take(size, self.host)

    def cudaFree(self, address):
        return self.drop(address, self.device)

    def cudaFreeHost(self, address):
        return self.drop(address, self.host)

    def cudaStreamCreateWithFlags(self, flags):
        stream = 1000 + len(self.streams)
        self.streams.add(stream)
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream):
        self.streams.remove(stream)
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        return (SUCCESS if stream in self.streams else INVALID_VALUE,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        ends = [
            next((blocks for blocks in (self.device, self.host) if address in blocks), {})
            for address in (target, source)
        ]
        whole = ends[0] is not ends[1] and all(
            size <= len(blocks.get(address, b""))
            for blocks, address in zip(ends, (target, source), strict=True)
        )
        if not whole or self.current or stream not in self.streams or kind != 4:
            return (INVALID_VALUE,)
        ctypes.memmove(target, source, size)
        return (SUCCESS,)


CUDA = CudaRuntime()
sys.modules["cuda.bindings.runtime"] = CUDA


# ------------------------------------------------------------------ building


class DataType(enum.Enum):
    FLOAT, HALF = 0, 1


class LayerType(enum.Enum):
    OTHER, QUANTIZE = 0, 1


class BuilderFlag(enum.Enum):
    FP16, INT8, TF32 = 0, 1, 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class Typed(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1


class Untyped(enum.IntEnum):
    EXPLICIT_BATCH = 0


NetworkDefinitionCreationFlag = Typed if settings()["version"].startswith("1") else Untyped


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

    def __init__(self):
        pass


class Logger(ILogger):
    def __init__(self, severity):
        pass

    def log(self, severity, message):
        letter = "E" if severity < 2 else "W"
        sys.stderr.write(f"[06/01/2026-10:00:00] [TRT] [{letter}] {message}\n")


class Tensor:
    def __init__(self, shape=(), dtype=DataType.FLOAT):
        self.shape, self.dtype = shape, dtype


class Layer:
    num_outputs = 1

    def __init__(self, node):
        self.type = LayerType.QUANTIZE if node.op_type == "QuantizeLinear" else LayerType.OTHER
        halves = node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16
        self.output = Tensor((), DataType.HALF if halves else DataType.FLOAT)

    def get_output(self, index):
        return self.output


class Network:
    def __init__(self, bits):
        self.typed = bits == 1 << 1

    def get_input(self, index):
        sides = self.graph.input[0].type.tensor_type.shape.dim
        return Tensor((-1, *(side.dim_value for side in sides[1:])))

    @property
    def num_layers(self):
        return len(self.graph.node)

    def get_layer(self, index):
        return Layer(self.graph.node[index])


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.num_errors = network, 0

    def parse(self, content):
        self.num_errors = int(settings().get("fail") == "parse")
        self.network.content = content
        self.network.graph = onnx.load_from_string(content).graph
        return not self.num_errors

    def get_error(self, index):
        return "In node 0 (parseNode):\nUNSUPPORTED_NODE: No importer registered for op: Einsum"


class Config:
    def __init__(self):
        self.flags = {BuilderFlag.TF32}
        if by_name():  # since 8.4
            self.set_memory_pool_limit = lambda pool, size: setattr(self, "workspace", size)

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def add_optimization_profile(self, profile):
        self.batch = profile.shapes[2][0]


class Profile:
    def set_shape(self, name, low, best, high):
        self.shapes = (low, best, high)


class Builder:
    def __init__(self, logger):
        if settings().get("fail") == "gpu":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def create_network(self, bits):
        return Network(bits)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        fail = settings().get("fail")
        self.logger.log(2, "Unable to determine GPU memory usage")
        if fail == "none":
            self.logger.log(1, "10: Could not find any implementation for node conv1.")
            return None
        if fail == "memory":
            self.logger.log(1, "2: [virtualMemory.cpp] Error Code 2: OutOfMemory (no further)")
            return None
        if fail == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        header = {
            "version": settings()["version"],
            "gpu": settings()["gpu"],
            "batch": config.batch,
            "typed": network.typed,
            "flags": sorted(flag.name for flag in config.flags),
            "workspace": getattr(config, "workspace", None) or config.max_workspace_size,
        }
        with Path(settings()["log"]).open("a") as file:
            file.write(json.dumps(header) + "\n")
        return json.dumps(header).encode().ljust(HEADER) + network.content


# ------------------------------------------------------------------ running


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        header = json.loads(plan[:HEADER])
        known = all(header[key] == settings()[key] for key in ("version", "gpu"))
        if not known or settings().get("fail") == "open":
            self.logger.log(ILogger.ERROR, "6: The engine plan file is not compatible")
            return None
        return Engine(self.logger, header["batch"], plan[HEADER:])


class Engine:
    device_memory_size_v2 = 1000

    def __init__(self, logger, batch, content):
        self.logger, self.batch = logger, batch
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        # outputs first: an order that nobody may rely on
        ends = [*self.session.get_outputs(), *self.session.get_inputs()]
        self.shapes = {end.name: (-1, *end.shape[1:]) for end in ends}

    def create_execution_context(self):
        if settings().get("fail") == "context":
            self.logger.log(ILogger.ERROR, "1: [defaultAllocator.cpp] Cuda Runtime (out of memory)")
            return None
        return Context(self)

    @property
    def num_io_tensors(self):
        return len(self.shapes)

    def get_tensor_name(self, index):
        return list(self.shapes)[index]

    def get_tensor_shape(self, name):
        return self.shapes[name]


class Context:
    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, None, {}

    def execute_async_v3(self, stream):
        if settings().get("fail") == "answer":
            self.engine.logger.log(ILogger.ERROR, "1: [reformat.cpp] Cuda Runtime (misaligned)")
            return False
        if stream not in CUDA.streams or not set(self.addresses.values()) <= set(CUDA.device):
            return False
        pixels = self.array("image", self.shape)
        logits = self.array("logits", (self.shape[0], *self.engine.shapes["logits"][1:]))
        logits[:] = self.engine.session.run(["logits"], {"image": pixels.copy()})[0]
        return True

    def array(self, name, shape):
        kind = ctypes.c_float * int(np.prod(shape))
        return np.ctypeslib.as_array(kind.from_address(self.addresses[name])).reshape(shape)

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return True

    def set_input_shape(self, name, shape):
        right = shape[1:] == self.engine.shapes["image"][1:] and 1 <= shape[0] <= self.engine.batch
        self.shape = shape if right else None
        return right
