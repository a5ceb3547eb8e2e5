"""What an ONNX file really holds and really runs: types of weights, precision of operators."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import numpy_helper, shape_inference

from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.run import session
from clinipress.formats.precision import is_float_layer, zero_counts

__all__ = [
    "count_low_precision",
    "float_layers",
    "macs",
    "parameters",
    "stored_weights",
    "weight_bytes",
]

CONVERSIONS = {"Cast", "DequantizeLinear", "QuantizeLinear"}
# Moving values about costs little in any type and says nothing about precision.
MOVES = {"Flatten", "ReorderInput", "ReorderOutput", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
# Names of the engine's low-precision kernels -> the operator they run.
SAME = {
    "QGemm": "Gemm",
    "MatMulIntegerToFloat": "MatMul",
    "MatMulInteger": "MatMul",
    "DynamicQuantizeMatMul": "MatMul",
    "DynamicQuantizeLSTM": "LSTM",
    "QAttention": "Attention",
    "MatMulNBits": "MatMul",
}
INT4 = -4  # no type of ONNX's own: arithmetic on packed 4-bit weights
TYPE_NAMES = {
    INT4: "int4",
    int(onnx.TensorProto.FLOAT): "float32",
    int(onnx.TensorProto.FLOAT16): "float16",
    int(onnx.TensorProto.INT8): "int8",
    int(onnx.TensorProto.UINT8): "int8",
    int(onnx.TensorProto.INT32): "int32",
    int(onnx.TensorProto.INT64): "int64",
}


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of the stored weights by type: {"float32": 6115328} or {"int8": ..., "int32": ...}.

    Four-bit numbers count as half a byte, as they are stored; matrices packed for MatMulNBits count
    as "int4" too, although their bytes are declared uint8.
    """
    sizes: Counter[str] = Counter()
    graph = onnx.load(path).graph
    packed = {node.input[1] for node in graph.node if node.op_type == "MatMulNBits"}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        four = tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
        if four or tensor.name in packed:
            sizes["int4"] += (array.size + 1) // 2 if four else array.nbytes
        else:
            sizes[str(array.dtype)] += array.nbytes
    return dict(sorted(sizes.items()))


def count_low_precision(path: Path) -> dict[str, int]:
    """What ONNX Runtime really runs in which precision, on this machine.

    Counted in the graph after its own optimisation, where a quantized convolution has become one
    integer kernel or has not. Convolutions and matrix products are listed in all three types even
    when there are none, so that a file in which nothing was quantized shows it.

    Returns:
        Operator and type -> number: {"Conv float32": 0, "Conv int8": 52, ...}.
    """
    return _count(_optimised(path))


def float_layers(path: Path) -> list[str]:
    """Names, in the file, of the layers that ONNX Runtime computes in float here."""
    graph = _optimised(path)
    names = {node.name for node in onnx.load(path).graph.node}
    kinds = [(node, key) for node, key in _operators(graph) if is_float_layer(key)]
    return [node.name if node.name in names else node.output[0] for node, _ in kinds]


def _optimised(path: Path) -> onnx.GraphProto:
    """The graph after the engine's own optimisation."""
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        session(path, 1, optimised)
        return onnx.load(optimised).graph


def _count(graph: onnx.GraphProto) -> dict[str, int]:
    counts = zero_counts()
    counts.update(key for _, key in _operators(graph))
    return dict(sorted(counts.items()))


def _operators(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each operator that computes something, with the key it counts under."""
    types = {info.name: info.type.tensor_type.elem_type for info in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        kind = _type_of_result(node, types)
        types |= dict.fromkeys(node.output, kind)
        if node.op_type in CONVERSIONS:
            yield node, f"conversion {node.op_type}"
        elif node.op_type not in MOVES:
            name = node.op_type.removeprefix("QLinear").removeprefix("Nhwc").removeprefix("Fused")
            name = SAME.get(name, name)
            yield node, f"{name} {TYPE_NAMES.get(kind, 'other')}"


def _type_of_result(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Type of a node's data, followed through the graph: the engine does not write it down."""
    if node.op_type == "Cast":
        return int(onnx_graph.attribute(node, "to", onnx.TensorProto.FLOAT))
    if node.op_type == "DequantizeLinear":
        return types.get(node.input[1], onnx.TensorProto.FLOAT)
    if node.op_type == "MatMulNBits":
        return INT4
    if node.op_type.startswith(("Q", "DynamicQuantize")) or "Integer" in node.op_type:
        return int(onnx.TensorProto.UINT8)
    return types.get(next(iter(node.input), ""), onnx.TensorProto.FLOAT)


def parameters(model: onnx.ModelProto) -> int:
    """Weights of a graph: the values of its layers; constants of a single number do not count."""
    values = onnx_graph.constants(model.graph)
    used = {name for node in model.graph.node for name in node.input}
    numbers = (values[name] for name in used & set(values))
    return sum(array.size for array in numbers if array.ndim and array.dtype.kind in "fu")


def stored_weights(path: Path) -> int:
    """The same of a file, whose weights may lie beside it: they are not read."""
    graph = onnx.load(path, load_external_data=False).graph
    return sum(math.prod(tensor.dims) for tensor in graph.initializer if tensor.dims)


def macs(model: onnx.ModelProto) -> int | None:
    """Multiply-adds of convolutions and dense layers for one image; None where a shape is open."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph = copy.graph
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {
        item.name: [side.dim_value for side in item.type.tensor_type.shape.dim]
        for item in (*inferred.value_info, *inferred.output)
    }
    values = onnx_graph.constants(graph)
    count = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in values:
            continue
        weight, made = values[node.input[1]], shapes.get(node.output[0], [0])
        if not made or not all(made):
            return None
        turned = node.op_type == "Gemm" and onnx_graph.attribute(node, "transB", 0)
        inner = weight[0].size if node.op_type == "Conv" else weight.shape[-1 if turned else -2]
        count += math.prod(made) * inner
    return count
