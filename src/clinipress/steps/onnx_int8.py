"""Rewrites that give ONNX Runtime 8-bit kernels where it has none, or slow ones.

Each makes another graph of the same function, up to rounding; `onnx_graph` holds those that every
precision uses.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from clinipress.steps import onnx_graph
from clinipress.steps.onnx_graph import attribute

__all__ = [
    "clip_to_gates",
    "convolve_average_pools",
    "drop_bias_zeros",
    "joined_by_concat",
    "saturate_hard_sigmoids",
    "share_concat_ranges",
]

# Beyond this a sigmoid is 0 or 1 for 8 bits.
SIGMOID_REACH = 8.0


def convolve_average_pools(model: onnx.ModelProto) -> int:
    """Turn average pooling without padding into depthwise convolutions, in place.

    ONNX Runtime's 8-bit average pooling is written for no layout in particular: three of them took
    2.9 of DenseNet-121's 17.9 ms at 224 px.

    Returns:
        How many were rewritten.
    """
    graph = model.graph
    shapes = {info.name: info.type.tensor_type.shape for info in graph.value_info}
    done = 0
    for number, node in enumerate(graph.node):
        if node.op_type != "AveragePool" or any(attribute(node, "pads", [0])):
            continue
        shape = shapes.get(node.input[0])
        kernel = list(attribute(node, "kernel_shape", []))
        plain = attribute(node, "ceil_mode", 0) == 0 and attribute(node, "auto_pad", b"") in (
            *(b"", b"NOTSET", b"VALID"),
        )
        if shape is None or len(shape.dim) != 4 or not shape.dim[1].dim_value or not plain:
            continue
        channels, area = shape.dim[1].dim_value, int(np.prod(kernel))
        weight = np.full((channels, 1, *kernel), 1 / area, np.float32)
        name = f"pool_{number}.weight"
        graph.initializer.append(numpy_helper.from_array(weight, name))
        node.CopyFrom(
            helper.make_node(
                "Conv",
                [node.input[0], name],
                list(node.output),
                name=node.name,
                group=channels,
                kernel_shape=kernel,
                strides=list(attribute(node, "strides", [1] * len(kernel))),
            )
        )
        done += 1
    return done


def saturate_hard_sigmoids(model: onnx.ModelProto) -> int:
    """Let a hard sigmoid between two 8-bit tensors be one saturating addition, in place.

    ``clip(a x + b, 0, 1)``: the bytes of x read with scale ``a s`` instead of s are ``a x``; b is
    added; and a result stored with scale 1/255 and zero point 0 cannot leave [0, 1]. ONNX Runtime
    runs it as one QLinearAdd, where it would convert to float, call HardSigmoid and convert back.

    Returns:
        How many were rewritten.
    """
    graph = model.graph
    values = onnx_graph.constants(graph)
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    first: list[onnx.NodeProto] = []
    done = 0
    for node in graph.node:
        if node.op_type != "HardSigmoid":
            continue
        before, after = makers.get(node.input[0]), readers.get(node.output[0], [])
        if before is None or before.op_type != "DequantizeLinear" or len(after) != 1:
            continue
        quantize = after[0]
        if quantize.op_type != "QuantizeLinear" or not _reads_bytes(before, values):
            continue
        _saturate(graph, node, before, quantize, values, first)
        done += 1
    onnx_graph.insert_first(graph, first)
    return done


def _reads_bytes(dequantize: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> bool:
    zero = values.get(dequantize.input[2]) if len(dequantize.input) > 2 else None
    return zero is not None and zero.dtype == np.uint8 and dequantize.input[1] in values


def _saturate(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    before: onnx.NodeProto,
    quantize: onnx.NodeProto,
    values: dict[str, NDArray[Any]],
    first: list[onnx.NodeProto],
) -> None:
    """Rewrite one: node becomes an Add of its own reading of the bytes and a constant byte."""
    name = node.output[0]
    slope, offset = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    numbers: dict[str, NDArray[Any]] = {
        "slope": np.asarray(values[before.input[1]] * np.float32(slope), np.float32),
        "one": np.array(1, np.uint8),
        "offset": np.array(offset, np.float32),
        "nought": np.array(0, np.uint8),
        # the result's own scale, made what saturation needs
        "unit": np.array(1 / 255, np.float32),
    }
    graph.initializer.extend(
        numpy_helper.from_array(v, f"{name}.{key}") for key, v in numbers.items()
    )
    reading = helper.make_node(
        "DequantizeLinear",
        [before.input[0], f"{name}.slope", before.input[2]],
        [f"{name}.scaled"],
        name=f"{node.name}.reading",
    )
    first.append(
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.one", f"{name}.offset", f"{name}.nought"],
            [f"{name}.constant"],
        )
    )
    quantize.input[1], quantize.input[2] = f"{name}.unit", f"{name}.nought"
    for reader in graph.node:  # whoever reads the bytes of the result, reads them as 0..1
        if reader.op_type == "DequantizeLinear" and reader.input[0] == quantize.output[0]:
            reader.input[1], reader.input[2] = f"{name}.unit", f"{name}.nought"
    node.CopyFrom(
        helper.make_node("Add", [f"{name}.scaled", f"{name}.constant"], [name], name=node.name)
    )
    place = next(i for i, other in enumerate(graph.node) if other.output[0] == name)
    graph.node.insert(place, reading)


def drop_bias_zeros(model: onnx.ModelProto) -> int:
    """Leave out the zero points of int32 biases, which are all 0, in place.

    They are as large as the biases: 3 % of an 8-bit MobileNetV3-Small. Those of weights stay: ONNX
    Runtime finds fewer 8-bit kernels without them.

    Returns:
        How many were left out.
    """
    values = onnx_graph.constants(model.graph)
    done = 0
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        number, zero = values.get(node.input[0]), values.get(node.input[2])
        if number is not None and zero is not None and number.dtype == np.int32 and not zero.any():
            del node.input[2:]
            done += 1
    return done


def clip_to_gates(
    graph: onnx.GraphProto, ranges: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Ranges without the values that a gate makes 0 anyway.

    A hard sigmoid ``clip(a x + b, 0, 1)`` gives 0 below ``-b / a`` and 1 above ``(1 - b) / a``. A
    tensor that only a gate reads needs no more than that span; one that is read by a gate and
    multiplied by it (hard-swish) is 0 below it. Clipping there changes no value behind the gate,
    and doubles the resolution of a symmetric tensor. A sigmoid never gets to 0 or 1: at -8 and 8 it
    is within 0.0004 of them, a tenth of the step of its 8-bit result.

    Args:
        graph: The float graph.
        ranges: Tensor -> (low, high).

    Returns:
        The same, narrower where a gate allows it.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = dict(ranges)
    for gate in graph.node:
        if gate.op_type not in ("HardSigmoid", "Sigmoid") or gate.input[0] not in ranges:
            continue
        floor, ceiling = _gate_span(gate)
        name = gate.input[0]
        others = [node for node in readers[name] if node is not gate]
        low, high = found[name]
        if not others:
            found[name] = min(max(low, floor), 0.0), max(min(high, ceiling), 0.0)
        elif all(n.op_type == "Mul" and set(n.input) == {name, gate.output[0]} for n in others):
            found[name] = min(max(low, floor), 0.0), high
    return found


def _gate_span(gate: onnx.NodeProto) -> tuple[float, float]:
    """Where a gate leaves 0 and where it reaches 1."""
    if gate.op_type == "Sigmoid":
        return -SIGMOID_REACH, SIGMOID_REACH
    slope, offset = float(attribute(gate, "alpha", 0.2)), float(attribute(gate, "beta", 0.5))
    return -offset / slope, (1 - offset) / slope


def share_concat_ranges(
    graph: onnx.GraphProto, ranges: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """One range for all that a chain of concatenations joins.

    With equal scales ONNX Runtime's 8-bit concatenation copies bytes; else it converts each input
    to the result's scale. The result is stored with the widest range in any case.

    Args:
        graph: The float graph.
        ranges: Tensor -> (low, high).

    Returns:
        The same with the joined ones widened to one another.
    """
    found = dict(ranges)
    for names in joined_by_concat(graph, ranges):
        low = min(0.0, *(ranges[name][0] for name in names))
        high = max(0.0, *(ranges[name][1] for name in names))
        found |= dict.fromkeys(names, (low, high))
    return found


def joined_by_concat(graph: onnx.GraphProto, known: Container[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of tensors that chains of concatenations join, among the known ones."""
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    for node in graph.node:
        if node.op_type == "Concat" and all(n in known for n in (*node.input, *node.output)):
            for name in node.input:
                group[root(name)] = root(node.output[0])
    joined: dict[str, list[str]] = {}
    for name in group:
        joined.setdefault(root(name), []).append(name)
    return tuple(tuple(names) for names in joined.values())
