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

from clinipress.formats.matching import connected
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.graph import attribute

__all__ = [
    "clip_to_gates",
    "convolve_average_pools",
    "drop_bias_zeros",
    "joined_by_concat",
    "pack_first_convolution",
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
        plain = (
            attribute(node, "ceil_mode", 0) == 0
            and attribute(node, "auto_pad", b"") in (b"", b"NOTSET", b"VALID")
            and set(attribute(node, "dilations", [1])) == {1}
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
        if min(attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)) <= 0:
            continue  # both become scales
        _saturate(graph, node, before, quantize, values, first)
        done += 1
    onnx_graph.insert_first(graph, first)
    return done


def _reads_bytes(dequantize: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> bool:
    zero = values.get(dequantize.input[2]) if len(dequantize.input) > 2 else None
    single = zero is not None and zero.dtype == np.uint8 and zero.size == 1
    return single and dequantize.input[1] in values


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
    index = next(i for i, other in enumerate(graph.node) if other.output[0] == name)
    graph.node.insert(index, reading)


def pack_first_convolution(model: onnx.ModelProto) -> bool:
    """Let the first convolution read 2 x 2 pixels as four channels, in place.

    An 8-bit convolution of one or three channels gathers its windows byte by byte: in ResNet-18 at
    half its width a quarter of the whole time, for a tenth of the arithmetic. With SpaceToDepth
    before it, a kernel of k x k and stride 2 becomes one of (k + 1) / 2 and stride 1 on four times
    the channels, over whole words. The taps that fill the larger kernel up are 0 and the padding is
    the image's zero point as before: every sum of integers, and so every byte, stays the same.
    (The transform of Shao et al.'s and MLPerf's TPU ResNet-50, known as "space-to-depth stem".)

    The graph must begin image -> DequantizeLinear -> Conv, stride 2, sides of an even length.

    Returns:
        True when it was rewritten.
    """
    graph = model.graph
    stem = _first_convolution(graph)
    if stem is None:
        return False
    reading, node, weights = stem
    pads = list(attribute(node, "pads", [0] * 4))
    sides = [dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim[2:]]
    stored = numpy_helper.to_array(weights)
    begins, ends, packed = [], [], stored
    for axis, side in enumerate(sides):
        kernel, before, after = stored.shape[2 + axis], pads[axis], pads[2 + axis]
        begin = (before + 1) // 2
        phase = 2 * begin - before  # where the first tap lies within its pair of pixels
        taps = (phase + kernel + 1) // 2
        outputs = (side + before + after - kernel) // 2 + 1
        begins.append(begin)
        ends.append(outputs - 1 + taps - side // 2 - begin)
        fill = [(0, 0)] * 4
        fill[2 + axis] = (phase, 2 * taps - phase - kernel)
        packed = np.pad(packed, fill)
    if min(ends) < 0:  # the last pixels are read by nobody: a negative padding, not worth a crop
        return False
    out, channels, height, width = packed.shape
    pairs = packed.reshape(out, channels, height // 2, 2, width // 2, 2)
    # SpaceToDepth's order of channels: row within the pair, column within the pair, channel
    packed = pairs.transpose(0, 3, 5, 1, 2, 4).reshape(out, 4 * channels, height // 2, width // 2)
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(packed), weights.name))
    kept = [a for a in node.attribute if a.name not in ("pads", "strides", "kernel_shape")]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(helper.make_attribute("pads", [*begins, *ends]))
    node.attribute.append(helper.make_attribute("strides", [1, 1]))
    node.attribute.append(helper.make_attribute("kernel_shape", list(packed.shape[2:])))
    image = graph.input[0].name
    reading.input[0] = f"{image}.pairs"
    # shapes noted for the tensors between are no longer true
    stale = [info for info in graph.value_info if info.name in (reading.output[0], node.input[1])]
    for info in stale:
        graph.value_info.remove(info)
    pack = helper.make_node("SpaceToDepth", [image], [f"{image}.pairs"], blocksize=2)
    onnx_graph.insert_first(graph, [pack])
    return True


def _first_convolution(
    graph: onnx.GraphProto,
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.TensorProto] | None:
    """The node that reads the image's bytes, the convolution behind it, and its stored weights."""
    readers = [node for node in graph.node if graph.input[0].name in node.input]
    if [node.op_type for node in readers] != ["DequantizeLinear"]:
        return None
    reading = readers[0]
    following = [node for node in graph.node if reading.output[0] in node.input]
    if [node.op_type for node in following] != ["Conv"]:
        return None
    node = following[0]
    sides = [dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim[2:]]
    plain = (
        list(attribute(node, "strides", [1, 1])) == [2, 2]
        and list(attribute(node, "dilations", [1, 1])) == [1, 1]
        and attribute(node, "group", 1) == 1
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and len(sides) == 2
        and all(side and side % 2 == 0 for side in sides)
    )
    scaling = next((n for n in graph.node if node.input[1] in n.output), None)
    if not plain or scaling is None or scaling.op_type != "DequantizeLinear":
        return None
    zero = onnx_graph.constants(graph).get(scaling.input[2]) if len(scaling.input) > 2 else None
    stored = next((t for t in graph.initializer if t.name == scaling.input[0]), None)
    if stored is None or (zero is not None and zero.any()):
        return None
    names = (scaling.input[0], scaling.output[0])
    if any(sum(name in n.input for n in graph.node) != 1 for name in names):
        return None  # another layer has the same weights
    return reading, node, stored


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
    clipped = dict(ranges)
    outputs = {output.name for output in graph.output}
    for gate in graph.node:
        if gate.op_type not in ("HardSigmoid", "Sigmoid") or gate.input[0] not in ranges:
            continue
        if gate.input[0] in outputs or attribute(gate, "alpha", 0.2) <= 0:
            continue
        floor, ceiling = _gate_span(gate)
        name = gate.input[0]
        others = [node for node in readers[name] if node is not gate]
        low, high = clipped[name]
        if not others:
            clipped[name] = min(max(low, floor), 0.0), max(min(high, ceiling), 0.0)
        elif all(n.op_type == "Mul" and set(n.input) == {name, gate.output[0]} for n in others):
            clipped[name] = min(max(low, floor), 0.0), high
    return clipped


def _gate_span(gate: onnx.NodeProto) -> tuple[float, float]:
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
    shared = dict(ranges)
    for names in joined_by_concat(graph, ranges):
        low = min(0.0, *(ranges[name][0] for name in names))
        high = max(0.0, *(ranges[name][1] for name in names))
        shared |= dict.fromkeys(names, (low, high))
    return shared


def joined_by_concat(graph: onnx.GraphProto, known: Container[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of tensors that chains of concatenations join, among the known ones."""
    pairs: list[tuple[str, str]] = []
    for node in graph.node:
        if node.op_type == "Concat" and all(n in known for n in (*node.input, *node.output)):
            pairs += [(name, node.output[0]) for name in node.input]
    return tuple(tuple(names) for names in connected(pairs))
