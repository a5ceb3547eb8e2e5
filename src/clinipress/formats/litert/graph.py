"""A LiteRT graph as an object: read, looked at, added to, named and written.

Bytes depend on the network alone; `litert_rewrites` changes what is computed how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

__all__ = [
    "INPUT_NAME",
    "NO_ACTIVATION",
    "OUTPUT_NAME",
    "GraphEditor",
    "activation_of",
    "activations",
    "constant",
    "makers_of",
    "name_by_place",
    "operator_name",
    "pack",
    "read",
    "readers_of",
    "schema",
    "stored",
    "type_name",
]

INPUT_NAME, OUTPUT_NAME = "image", "logits"
IDENTIFIER = b"TFL3"
# Microcontrollers read weights where they lie in the file, and the schema promises them aligned so.
ALIGNMENT = 16
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
TYPES = {code: name for name, code in vars(schema.TensorType).items() if name.isupper()}
DTYPES: dict[int, Any] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}
NO_ACTIVATION = schema.ActivationFunctionType.NONE


def read(content: bytes) -> Any:
    """The model object of a file's bytes."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.data is None and buffer.size:  # large files keep their weights behind the graph
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    return model


class _Builder(schema.flatbuffers.Builder):  # type: ignore[misc]
    """Writes weights at multiples of 16 bytes, which the schema asks for and its Python forgets.

    Equal scales and equal zero points are written once: every channel of weights and of biases has
    a zero point of eight bytes, which is zero, and that is a tenth of a MobileNetV2.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple[str, bytes], Any] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> Any:  # noqa: N802
        if x.dtype != np.uint8:
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                self.written[key] = super().CreateNumpyVector(x)
            return self.written[key]
        self.StartVector(1, x.size, ALIGNMENT)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return self.EndVector()


def pack(model: Any) -> bytes:
    """The bytes of a model object, without anything that no operator reads."""
    _drop_unused(model)
    model.metadata, model.description = None, "clinipress"
    builder = _Builder(2**20)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def operator_name(model: Any, operator: Any) -> str:
    """Of the kind "CONV_2D"."""
    code = model.operatorCodes[operator.opcodeIndex]
    name: str = OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return name


def constant(model: Any, number: int) -> NDArray[Any] | None:
    """The values of tensor `number`; None when it is computed, or packed in less than 8 bits."""
    if number < 0:
        return None
    tensor = model.subgraphs[0].tensors[number]
    data, dtype = model.buffers[tensor.buffer].data, DTYPES.get(tensor.type)
    if data is None or dtype is None:
        return None
    shape = [] if tensor.shape is None else tensor.shape
    return np.frombuffer(bytes(data), dtype).reshape(shape)


def stored(model: Any, number: int) -> bool:
    """Whether tensor `number` is in the file, not computed."""
    return number >= 0 and model.buffers[model.subgraphs[0].tensors[number].buffer].data is not None


def type_name(model: Any, number: int) -> str:
    """The type of tensor `number`: "float32", "int8", "int4", ... ."""
    name: str = TYPES[model.subgraphs[0].tensors[number].type]
    return name.lower()


def activations(model: Any) -> list[int]:
    """Numbers of the floating-point tensors that are computed, the input first."""
    graph = model.subgraphs[0]
    numbers = [*graph.inputs, *(number for item in graph.operators for number in item.outputs)]
    return [n for n in numbers if graph.tensors[n].type == schema.TensorType.FLOAT32]


def _drop_unused(model: Any) -> None:
    """Keep the tensors and buffers that operators name, in the order of their first use."""
    graph = model.subgraphs[0]
    order: dict[int, int] = {}
    for numbers in _uses(graph):
        for number in numbers:
            if number >= 0:
                order.setdefault(int(number), len(order))
    tensors = [graph.tensors[number] for number in order]
    for numbers in _uses(graph):
        numbers[:] = [order[int(number)] if number >= 0 else -1 for number in numbers]
    for signature in model.signatureDefs or []:
        for item in (*signature.inputs, *signature.outputs):
            item.tensorIndex = order[item.tensorIndex]
    graph.tensors = tensors
    buffers, places = [schema.BufferT()], {0: 0}  # the first is empty by convention
    for tensor in tensors:
        if tensor.buffer not in places:
            places[tensor.buffer] = len(buffers)
            buffers.append(model.buffers[tensor.buffer])
        tensor.buffer = places[tensor.buffer]
    model.buffers = buffers
    used = sorted({item.opcodeIndex for item in graph.operators})
    for item in graph.operators:
        item.opcodeIndex = used.index(item.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[code] for code in used]


def _uses(graph: Any) -> Iterator[list[int]]:
    """Every list of tensor numbers in a graph, as lists that can be changed."""
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    yield graph.inputs
    for item in graph.operators:
        item.inputs, item.outputs = list(item.inputs), list(item.outputs)
        yield item.inputs
        yield item.outputs
    yield graph.outputs


def name_by_place(model: Any) -> None:
    """Name tensors by the operator that makes or first reads them.

    The converter's names are paths through the Python classes, longer than many a weight.
    """
    graph = model.subgraphs[0]
    names: dict[int, str] = {}
    names.update({int(graph.inputs[0]): INPUT_NAME, int(graph.outputs[0]): OUTPUT_NAME})
    for index, item in enumerate(graph.operators):
        name = f"{operator_name(model, item)}_{index}"
        for number in item.outputs:
            names.setdefault(int(number), name)
        for position, number in enumerate(item.inputs):
            names.setdefault(int(number), f"{name}.{position}")
    for number, tensor in enumerate(graph.tensors):
        tensor.name = names.get(number, f"unused_{number}")
    graph.name = "classifier"
    for signature in model.signatureDefs or []:
        signature.inputs[0].name, signature.outputs[0].name = INPUT_NAME, OUTPUT_NAME


class GraphEditor:
    """Adds tensors and operators to a model."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.subgraphs[0]

    def constant(self, values: NDArray[Any]) -> int:
        """Number of a new tensor with these values: int32 as it is, else float32."""
        kind = schema.TensorType.INT32 if values.dtype == np.int32 else schema.TensorType.FLOAT32
        data = np.frombuffer(np.ascontiguousarray(values, DTYPES[kind]).tobytes(), np.uint8)
        self.model.buffers.append(schema.BufferT(data=data))
        return self._tensor(values.shape, len(self.model.buffers) - 1, kind)

    def computed(self, shape: Any) -> int:
        """Number of a new tensor of a shape, for a result."""
        return self._tensor(shape, 0, schema.TensorType.FLOAT32)

    def _tensor(self, shape: Any, buffer: int, kind: int) -> int:
        self.graph.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32), type=kind, buffer=buffer, name="", hasRank=True
            )
        )
        return len(self.graph.tensors) - 1

    def operator(self, name: str, inputs: list[int], output: int, options: Any) -> Any:
        """A new operator, not yet in the graph."""
        code = getattr(schema.BuiltinOperator, name)
        codes = self.model.operatorCodes
        known = [max(item.builtinCode, item.deprecatedBuiltinCode) for item in codes]
        if code not in known:
            known.append(code)
            codes.append(
                schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127))
            )
        return schema.OperatorT(
            opcodeIndex=known.index(code),
            inputs=inputs,
            outputs=[output],
            builtinOptionsType=getattr(schema.BuiltinOptions, type(options).__name__[:-1]),
            builtinOptions=options,
        )


def readers_of(graph: Any) -> Counter[int]:
    """How many times each tensor is read, the end of the graph included."""
    counts: Counter[int] = Counter(int(number) for number in graph.outputs)
    for item in graph.operators:
        counts.update(int(number) for number in item.inputs)
    return counts


def makers_of(graph: Any) -> dict[int, Any]:
    """Tensor -> the operator that computes it."""
    return {int(number): item for item in graph.operators for number in item.outputs}


def activation_of(item: Any) -> int:
    """The activation fused into an operator."""
    return int(getattr(item.builtinOptions, "fusedActivationFunction", NO_ACTIVATION))
