"""A stand-in for NVIDIA's `tensorrt` and for CUDA's driver: the names clinipress uses, no others.

An "engine" is the ONNX file behind a line of JSON; ONNX Runtime computes its answers, from and into
the addresses it is given. The stand-in for the driver refuses what the real one refuses: addresses
that are not its own, calls without a current context, more memory than there is. What it should be
stands in the environment, since engines are built and memory is measured in processes of their own.
Names and signatures were compared with the real bindings of 8.6.1, 10.0, 10.3, 10.16 and 11.4.
"""

# ruff: noqa: N802  the driver's own names

import ctypes
import enum
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

HEADER = 512  # bytes
OUT_OF_MEMORY, INVALID_VALUE, INVALID_CONTEXT, NO_DEVICE = 2, 1, 201, 100
ERRORS = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 100: b"CUDA_ERROR_NO_DEVICE"}


def settings():
    return json.loads(os.environ["FAKE_TENSORRT"])


def by_name():
    return settings()["version"] >= "8.5" or settings()["version"].startswith("1")


def __getattr__(name):
    if name == "__version__":
        return settings()["version"]
    raise AttributeError(name)


# ------------------------------------------------------------------ the driver


class Driver:
    """libcuda on ordinary memory. Numbers are CUresult; the arguments come with their C types."""

    def __init__(self):
        self.device, self.host, self.streams, self.stack = {}, {}, set(), []

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = 0
        return 0 if settings()["gpu"] else NO_DEVICE

    def cuDeviceGetName(self, text, size, device):
        text.value = settings()["gpu"].encode()
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 7}[attribute.value]
        return 0

    def cuGetErrorName(self, code, text):
        text._obj.value = ERRORS.get(code.value, b"CUDA_ERROR_UNKNOWN")
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        context._obj.value = 7
        return 0

    def cuCtxPushCurrent_v2(self, context):
        self.stack.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context):
        context._obj.value = self.stack.pop()
        return 0

    def cuMemGetInfo_v2(self, free, total):
        free._obj.value = settings()["free"] - self.used()
        total._obj.value = settings()["free"]
        return 0

    def used(self):
        return sum(len(block) for block in self.device.values())

    def take(self, address, size, blocks):
        if not self.stack:
            return INVALID_CONTEXT
        if self.used() + size.value > settings()["free"]:
            return OUT_OF_MEMORY
        block = (ctypes.c_char * size.value)()
        address._obj.value = ctypes.addressof(block)
        blocks[ctypes.addressof(block)] = block
        return 0

    def drop(self, address, blocks):
        found = self.stack and blocks.pop(address.value, None) is not None
        return 0 if found else INVALID_VALUE

    def cuMemAlloc_v2(self, address, size):
        return self.take(address, size, self.device)

    def cuMemAllocHost_v2(self, address, size):
        return self.take(address, size, self.host)

    def cuMemFree_v2(self, address):
        return self.drop(address, self.device)

    def cuMemFreeHost(self, address):
        return self.drop(address, self.host)

    def cuStreamCreate(self, stream, flags):
        stream._obj.value = 1000 + len(self.streams)
        self.streams.add(stream._obj.value)
        return 0

    def cuStreamDestroy_v2(self, stream):
        self.streams.remove(stream.value)
        return 0

    def cuStreamSynchronize(self, stream):
        return 0 if stream.value in self.streams else INVALID_VALUE

    def copy(self, target, source, size, stream, device, host):
        whole = all(
            address in blocks and size.value <= len(blocks[address])
            for address, blocks in ((device, self.device), (host, self.host))
        )
        if not (whole and self.stack and stream.value in self.streams):
            return INVALID_VALUE
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def cuMemcpyHtoDAsync_v2(self, target, source, size, stream):
        return self.copy(target, source, size, stream, target.value, source.value)

    def cuMemcpyDtoHAsync_v2(self, target, source, size, stream):
        return self.copy(target, source, size, stream, source.value, target.value)


DRIVER = Driver()
REAL = ctypes.CDLL


def library(name, *arguments, **options):
    return DRIVER if name in ("libcuda.so.1", "nvcuda.dll") else REAL(name, *arguments, **options)


ctypes.CDLL = library


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
        kind = NamedEngine if by_name() else IndexedEngine
        return kind(self.logger, header["batch"], plan[HEADER:])


class Engine:
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
        return (NamedContext if by_name() else IndexedContext)(self)


class NamedEngine(Engine):
    device_memory_size_v2 = 1000

    @property
    def num_io_tensors(self):
        return len(self.shapes)

    def get_tensor_name(self, index):
        return list(self.shapes)[index]

    def get_tensor_shape(self, name):
        return self.shapes[name]


class IndexedEngine(Engine):
    device_memory_size = 1000

    @property
    def num_bindings(self):
        return len(self.shapes)

    def get_binding_name(self, index):
        return list(self.shapes)[index]

    def get_binding_shape(self, index):
        return list(self.shapes.values())[index]


class Context:
    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, None, {}

    def resize(self, shape):
        right = shape[1:] == self.engine.shapes["image"][1:] and 1 <= shape[0] <= self.engine.batch
        self.shape = shape if right else None
        return right

    def execute(self, stream):
        if settings().get("fail") == "answer":
            self.engine.logger.log(ILogger.ERROR, "1: [reformat.cpp] Cuda Runtime (misaligned)")
            return False
        if stream not in DRIVER.streams or not set(self.addresses.values()) <= set(DRIVER.device):
            return False
        pixels = self.array("image", self.shape)
        logits = self.array("logits", (self.shape[0], *self.engine.shapes["logits"][1:]))
        logits[:] = self.engine.session.run(["logits"], {"image": pixels.copy()})[0]
        return True

    def array(self, name, shape):
        kind = ctypes.c_float * int(np.prod(shape))
        return np.ctypeslib.as_array(kind.from_address(self.addresses[name])).reshape(shape)


class NamedContext(Context):
    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return True

    def set_input_shape(self, name, shape):
        return self.resize(shape)

    def execute_async_v3(self, stream_handle):
        return self.execute(stream_handle)


class IndexedContext(Context):
    def set_binding_shape(self, binding, shape):
        return self.engine.get_binding_name(binding) == "image" and self.resize(shape)

    def execute_async_v2(self, bindings, stream_handle):
        self.addresses = dict(zip(self.engine.shapes, bindings, strict=True))
        return self.execute(stream_handle)
