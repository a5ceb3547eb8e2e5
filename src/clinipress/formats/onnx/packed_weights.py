"""Weights stored in 4 or 8 bits while the arithmetic stays in float32.

The file holds integers and scales; a Cast and a Mul in front of the layer make floats of them.
ONNX Runtime folds the two into a float constant when it opens the file, so a call costs what it
costs with float weights. (A DequantizeLinear, the obvious way to write it, is not folded but run in
every call: MobileNetV3-Small took ten times as long.) What it buys is the size of the file; what it
does not is speed, nor memory at run time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from clinipress.formats.onnx import graph as onnx_graph

__all__ = ["block_quantize", "pack_matmuls", "store_weights"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Weights below this many numbers are left as they are: two more nodes would outweigh them.
SMALLEST = 64
INT4_OPSET = 21
MICROSOFT = "com.microsoft"
SHRINKS = np.linspace(1.0, 0.6, 17)


def block_quantize(
    rows: NDArray[np.float32], bits: int, block: int | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers with one scale per block of a row.

    The scale of a block is the one, of 17 from its largest magnitude down to 60 % of that, with the
    least squared error: at 4 bits clipping one outlier often costs less than coarse steps for all.

    Args:
        rows: float32 ``[rows, columns]``.
        bits: 4 or 8; levels -7..7 or -127..127.
        block: Columns that share a scale; None: the whole row.

    Returns:
        int8 ``[rows, blocks, block]``, padded with zeros, and float32 ``[rows, blocks, 1]``.
    """
    count, columns = rows.shape
    width = min(block or columns, columns)
    blocks = -(-columns // width)
    padded = np.zeros((count, blocks * width), np.float32)
    padded[:, :columns] = rows
    parts = padded.reshape(count, blocks, width)
    top = 2 ** (bits - 1) - 1
    full = np.abs(parts).max(axis=2, keepdims=True) / top
    full[full == 0] = 1.0
    best = full.copy()
    least = np.full_like(full, np.inf)
    for shrink in SHRINKS if bits < 8 else SHRINKS[:1]:
        scale = (full * shrink).astype(np.float32)
        error = ((np.clip(np.round(parts / scale), -top, top) * scale - parts) ** 2).sum(
            axis=2, keepdims=True
        )
        better = error < least
        best[better], least[better] = scale[better], error[better]
    return np.clip(np.round(parts / best), -top, top).astype(np.int8), best.astype(np.float32)


def store_weights(
    model: onnx.ModelProto,
    *,
    bits: int,
    block: int | None = None,
    nodes: Collection[str] | None = None,
) -> list[str]:
    """Store the weights of layers as integers, in place.

    Convolutions over a single channel (depthwise ones, and the first of a grey image) keep 8 bits
    where 4 are asked for: their kernels have 9 to 49 numbers, so 4 bits save next to nothing.

    Args:
        model: float32 graph.
        bits: 4 or 8.
        block: Weights that share a scale along a row; None: a whole output channel.
        nodes: Names of the layers; None: all.

    Returns:
        Names of the layers whose weights are now integers of `bits` bits.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    done: list[str] = []
    stored: set[str] = set()
    first: list[onnx.NodeProto] = []
    for node in graph.node:
        wanted = node.op_type in LAYERS and (nodes is None or node.name in nodes)
        if not wanted or len(node.input) < 2 or node.input[1] not in values:
            continue
        name = node.input[1]
        array = numpy_helper.to_array(values[name])
        if array.dtype != np.float32 or array.ndim < 2 or array.size < SMALLEST:
            continue
        taken = 8 if node.op_type == "Conv" and array.shape[1] == 1 else bits
        if name not in stored:
            first += _integers(graph, name, array, node, taken, block if taken < 8 else None)
            graph.initializer.remove(values[name])
            stored.add(name)
        if taken == bits:
            done.append(node.name)
    onnx_graph.insert_first(graph, first)
    if bits < 8 and done:
        _raise_opset(model, INT4_OPSET)
    return done


def _row_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a layer's weights that counts its outputs."""
    if node.op_type == "MatMul":
        return rank - 1
    if node.op_type == "Gemm":
        return 0 if onnx_graph.attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _integers(
    graph: onnx.GraphProto,
    name: str,
    array: NDArray[np.float32],
    node: onnx.NodeProto,
    bits: int,
    block: int | None,
) -> list[onnx.NodeProto]:
    """Initializers for one weight, and the nodes that make its floats again under its name."""
    axis = _row_axis(node, array.ndim)
    moved = np.moveaxis(array, axis, 0)
    columns = moved[0].size
    integers, scales = block_quantize(moved.reshape(len(moved), -1), bits, block)
    kind = onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.INT4
    numbers = helper.make_tensor(f"{name}.integers", kind, integers.shape, integers.ravel())
    if bits == 8:
        numbers = numpy_helper.from_array(integers, f"{name}.integers")
    graph.initializer.extend([numbers, numpy_helper.from_array(scales, f"{name}.scales")])
    steps = [
        helper.make_node("Cast", [numbers.name], [f"{name}.cast"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.cast", f"{name}.scales"], [f"{name}.blocks"]),
    ]
    last = f"{name}.blocks"

    def add(kind: str, **inputs: NDArray[Any]) -> None:
        nonlocal last
        names = [f"{name}.{key}" for key in inputs]
        graph.initializer.extend(
            numpy_helper.from_array(v, n) for n, v in zip(names, inputs.values(), strict=True)
        )
        following = f"{name}.{kind.lower()}{len(steps)}"
        steps.append(helper.make_node(kind, [last, *names], [following]))
        last = following

    if integers[0].size != columns:
        add("Reshape", rows=np.array([len(moved), -1], np.int64))
        ends = np.array([columns], np.int64)
        add("Slice", starts=np.zeros(1, np.int64), ends=ends, axes=np.ones(1, np.int64))
    add("Reshape", shape=np.array(moved.shape, np.int64))
    if axis:
        order = list(range(1, array.ndim))
        order.insert(axis, 0)
        steps.append(helper.make_node("Transpose", [last], [name], perm=order))
    else:
        steps[-1].output[0] = name
    return steps


def pack_matmuls(model: onnx.ModelProto, *, block: int) -> list[str]:
    """Replace matrix products by constants with 4-bit kernels (MatMulNBits), in place.

    Here the weights stay packed at run time too. `block` must be a power of two, 16 or more.

    Returns:
        Names of the nodes replaced.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    done: list[str] = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in values:
            continue
        array = numpy_helper.to_array(values[node.input[1]])
        if array.dtype != np.float32 or array.ndim != 2 or array.size < SMALLEST:
            continue
        depth, width = array.shape
        padded = np.zeros((width, -(-depth // block) * block), np.float32)
        padded[:, :depth] = array.T
        integers, scales = block_quantize(padded, 4, block)
        # two numbers per byte, the first in the low half, stored as 8 above their value
        nibbles = (integers + 8).astype(np.uint8)
        packed = nibbles[:, :, 0::2] | (nibbles[:, :, 1::2] << 4)
        names = [f"{node.output[0]}.packed", f"{node.output[0]}.scales"]
        graph.initializer.extend(
            [
                numpy_helper.from_array(packed, names[0]),
                numpy_helper.from_array(scales.ravel(), names[1]),
            ]
        )
        sizes = {"K": depth, "N": width, "bits": 4, "block_size": block}
        node.CopyFrom(
            helper.make_node(
                "MatMulNBits",
                [node.input[0], *names],
                list(node.output),
                name=node.name,
                domain=MICROSOFT,
                **sizes,
            )
        )
        done.append(node.name)
    if done and all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return done


def _raise_opset(model: onnx.ModelProto, version: int) -> None:
    """Operators used here mean the same from opset 13 on, so the number alone is raised."""
    for item in model.opset_import:
        if item.domain == "":
            item.version = max(item.version, version)
    model.ir_version = max(model.ir_version, 10)
