"""Rewrites of an ONNX graph: pure functions on a ModelProto, in place, no files.

All are exact up to the rounding of float32. They make a graph that ONNX Runtime can run and
quantize well out of what the exporter writes, and bytes that depend on the network alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = [
    "Normalisation",
    "canonical",
    "constants",
    "convolve_batch_norms",
    "drop_identities",
    "drop_unused",
    "find_normalisation",
    "fold_grey_to_rgb",
    "fold_norms_forward",
    "halve_first_cast",
    "insert_first",
    "opened",
    "pool_means",
    "ranks",
    "read_bytes_directly",
    "rounded",
    "rounded_constants",
    "shorten_normalisation",
    "spell_out_normalisation",
    "turn_channels",
]

SCALAR_OPERATORS = {"Sub", "Add", "Mul", "Div"}
# Largest distance of 255 x mean from an integer that counts as one: below the rounding of float32.
INTEGER_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Normalisation:
    """What stands between the image and the first layer: ``scale * (pixel - zero)``.

    Attributes:
        nodes: The nodes that compute it, first one reads the graph's input.
        output: Name of the normalised tensor.
        scale: Factor, from 0..255 pixels.
        zero: The pixel value that becomes 0: 255 times the mean.
    """

    nodes: tuple[onnx.NodeProto, ...]
    output: str
    scale: float
    zero: float


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Initializers and outputs of Constant nodes by name."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Number of axes of each tensor where it can be told."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    named = [*graph.input, *graph.value_info, *graph.output]
    types = {item.name: item.type.tensor_type for item in named}
    return {n: len(kind.shape.dim) for n, kind in types.items() if kind.HasField("shape")}


def _consumers(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if tensor in node.input]


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute, or `default` when it is not there."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def find_normalisation(graph: onnx.GraphProto) -> Normalisation | None:
    """The chain Cast, then additions and multiplications by single numbers, that reads the input.

    Returns:
        The chain, or None when the graph starts in another way (a mean per channel, say).
    """
    values = constants(graph)
    tensor = graph.input[0].name
    nodes: list[onnx.NodeProto] = []
    scale, shift = 1.0, 0.0
    while True:
        following = _consumers(graph, tensor)
        if not nodes:  # a class's token is copied for each image, as many as their shape says
            following = [node for node in following if node.op_type != "Shape"]
        if len(following) != 1:
            break
        step = _affine(following[0], tensor, values, first=not nodes)
        if step is None:
            break
        factor, addend = step
        scale, shift = scale * factor, shift * factor + addend
        nodes.append(following[0])
        tensor = following[0].output[0]
    if not nodes or scale <= 0:
        return None
    return Normalisation(tuple(nodes), tensor, scale, -shift / scale)


def _affine(
    node: onnx.NodeProto, tensor: str, values: dict[str, NDArray[Any]], *, first: bool
) -> tuple[float, float] | None:
    """(factor, addend) of one node of the chain, or None when it is no part of it."""
    if first:
        if node.op_type == "DequantizeLinear":
            numbers = [values.get(name) for name in node.input[1:3]]
            if len(numbers) < 2 or any(n is None or n.size != 1 for n in numbers):
                return None  # a grid per channel
            factor, zero = (float(n.ravel()[0]) for n in numbers if n is not None)
            return factor, -factor * zero
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        return (1.0, 0.0) if node.op_type == "Cast" and attribute(node, "to", 0) in floats else None
    if node.op_type not in SCALAR_OPERATORS or node.input[0] != tensor:
        return None
    other = values.get(node.input[1])
    if other is None or other.size != 1:
        return None
    number = float(other.ravel()[0])
    return {
        "Sub": (1.0, -number),
        "Add": (1.0, number),
        "Mul": (number, 0.0),
        "Div": (1.0 / number if number else 0.0, 0.0),
    }[node.op_type]


def spell_out_normalisation(model: onnx.ModelProto) -> None:
    """Replace the normalisation by Cast, Sub, Mul, whatever it was."""
    shorten_normalisation(model, spelled_out=True)


def shorten_normalisation(model: onnx.ModelProto, *, spelled_out: bool = False) -> None:
    """Replace the normalisation by one DequantizeLinear, or by Cast, Sub, Mul.

    DequantizeLinear computes ``scale * (pixel - zero)`` with an integer zero: the same function
    when 255 x mean is an integer, in one pass over the image instead of three or four.
    With `read_bytes_directly` it saves 2 % (float32) and 4 % (int8) of MobileNetV3-Small on RGB at
    224 px, one thread; nothing that can be measured on grey at 128 px.
    """
    graph = model.graph
    normalisation = find_normalisation(graph)
    if normalisation is None:
        return
    image = graph.input[0].name
    scale = numpy_helper.from_array(np.array(normalisation.scale, np.float32), "normalise.scale")
    exact = (
        abs(normalisation.zero - round(normalisation.zero)) < INTEGER_TOLERANCE
        and 0 <= round(normalisation.zero) < 256
    )
    if exact and not spelled_out:
        zero = numpy_helper.from_array(
            np.array(round(normalisation.zero), np.uint8), "normalise.zero"
        )
        names = [image, scale.name, zero.name]
        nodes = [helper.make_node("DequantizeLinear", names, [normalisation.output])]
    else:
        zero = numpy_helper.from_array(np.array(normalisation.zero, np.float32), "normalise.zero")
        nodes = [
            helper.make_node("Cast", [image], ["normalise.cast"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Sub", ["normalise.cast", zero.name], ["normalise.sub"]),
            helper.make_node("Mul", ["normalise.sub", scale.name], [normalisation.output]),
        ]
    for number, node in enumerate(nodes):
        node.name = f"normalise.{number}"
    replace_nodes(graph, normalisation.nodes, nodes)
    for tensor in list(graph.initializer):  # of the chain that was here before
        if tensor.name in (scale.name, zero.name):
            graph.initializer.remove(tensor)
    graph.initializer.extend([scale, zero])


def replace_nodes(
    graph: onnx.GraphProto, old: tuple[onnx.NodeProto, ...], new: list[onnx.NodeProto]
) -> None:
    """Take nodes out and put others at the head of the graph."""
    gone = {id(node) for node in old}
    kept = [node for node in graph.node if id(node) not in gone]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in (*new, *kept)]
    del graph.node[:]
    graph.node.extend(copies)


def insert_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes that read constants alone at the head of the graph."""
    replace_nodes(graph, (), nodes)


def read_bytes_directly(model: onnx.ModelProto) -> bool:
    """Feed the uint8 image to the first quantized layer as it is.

    A quantized graph normalises, then quantizes: image -> normalise -> QuantizeLinear ->
    DequantizeLinear -> Conv. When that QuantizeLinear has the normalisation's own scale and zero
    point, its output is the image itself, byte for byte, so everything before it can go.

    Returns:
        True when the graph was of that form and was shortened.
    """
    graph = model.graph
    normalisation = find_normalisation(graph)
    following = _consumers(graph, normalisation.output) if normalisation else []
    if normalisation is None or [node.op_type for node in following] != ["QuantizeLinear"]:
        return False
    quantize = following[0]
    values = constants(graph)
    scale, zero = (values[name] for name in quantize.input[1:3])
    if scale.size != 1 or zero.size != 1:
        return False
    same = (
        np.isclose(float(scale), normalisation.scale, rtol=1e-5)
        and abs(int(zero) - normalisation.zero) < 0.5
    )
    if zero.dtype != np.uint8 or not same:
        return False
    for node in _consumers(graph, quantize.output[0]):
        for position, name in enumerate(node.input):
            if name == quantize.output[0]:
                node.input[position] = graph.input[0].name
    replace_nodes(graph, (*normalisation.nodes, quantize), [])
    return True


def rounded(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    """The activations that a quantized graph rounds, each with the range of its own grid.

    A tensor that takes over the grid of another one (the result of a MaxPool or a Flatten) has no
    range of its own and is left out.

    Returns:
        Tensor -> (low, high), in the order of the graph; names as before quantization.
    """
    values, seen = constants(graph), set()
    ranges: dict[str, tuple[float, float]] = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[1] in seen:
            continue
        seen.add(node.input[1])
        scale, zero = (float(values[name]) for name in node.input[1:3])
        name = node.output[0].removesuffix("_QuantizeLinear_Output")
        ranges[name] = (-zero * scale, (255 - zero) * scale)
    return ranges


def rounded_constants(graph: onnx.GraphProto) -> list[str]:
    """Tensors of the float graph, such as a bias added to tokens, that its 8-bit form rounds whole.

    They have one grid for all their values, as activations have; weights of layers have one per
    channel, and single numbers are exact.
    """
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [
        name.removesuffix("_quantized")
        for name, value in stored.items()
        if name in read and value.dtype == np.uint8 and value.size > 1
    ]


def drop_identities(graph: onnx.GraphProto) -> None:
    """Let what reads an Identity or a Dropout at rest read what stands before it."""
    outputs = {item.name for item in graph.output}
    gone = []
    for node in graph.node:
        if node.op_type not in ("Identity", "Dropout") or len([*filter(None, node.output)]) > 1:
            continue
        old, new = node.output[0], node.input[0]
        maker = next((other for other in graph.node if new in other.output), None)
        if old in outputs:  # the maker takes over the name
            if maker is None or new in outputs:
                continue
            old, new = new, old
            maker.output[:] = [new if name == old else name for name in maker.output]
        for other in graph.node:
            other.input[:] = [new if name == old else name for name in other.input]
        gone.append(node)
    replace_nodes(graph, tuple(gone), [])


def turn_channels(model: onnx.ModelProto) -> None:
    """Let the first convolution take its channels in another order: none need be moved."""
    graph = model.graph
    values = constants(graph)
    for node in graph.node:
        if node.op_type != "Gather" or attribute(node, "axis", 0) != 1:
            continue
        following, order = _consumers(graph, node.output[0]), values.get(node.input[1])
        plain = following and all(_plain_convolution(item, values) for item in following)
        if order is None or order.shape != (3,) or not plain:
            continue
        for convolution in following:
            name = f"{convolution.input[1]}.turned"
            turned = values[convolution.input[1]][:, np.argsort(order)]
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(turned), name))
            convolution.input[0], convolution.input[1] = node.input[0], name
        replace_nodes(graph, (node,), [])
        return


def pool_means(model: onnx.ModelProto) -> None:
    """Turn means over height and width into GlobalAveragePool, which has an int8 kernel."""
    values, axes_of = constants(model.graph), ranks(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean":
            continue
        # the axes were an attribute before opset 18, are an input since
        given = values.get(node.input[1]) if len(node.input) == 2 else attribute(node, "axes", [])
        axes = sorted(int(axis) % 4 for axis in (() if given is None else given))
        maps = axes_of.get(node.input[0]) == 4
        if maps and axes == [2, 3] and attribute(node, "keepdims", 1) == 1:
            node.op_type = "GlobalAveragePool"
            del node.input[1:]
            del node.attribute[:]


def convolve_batch_norms(model: onnx.ModelProto) -> None:
    """Turn batch normalisations that follow no convolution into layers that have int8 kernels.

    One behind a Gemm becomes part of it (``[n, c]``). The others become depthwise 1x1 convolutions:
    networks that normalise before they convolve (DenseNet) have them on maps, fast.ai's head on
    vectors, which get two axes of length 1 for it. One of any other rank, or one that uses the
    statistics of its batch, is left as it is.
    """
    graph = model.graph
    values = constants(graph)
    norms = [
        (number, node)
        for number, node in enumerate(graph.node)
        if node.op_type == "BatchNormalization"
        and all(name in values for name in node.input[1:])
        and not attribute(node, "training_mode", 0)
    ]
    axes_of = ranks(model) if norms else {}
    around: dict[str, tuple[onnx.NodeProto, onnx.NodeProto]] = {}
    for number, node in norms:
        rank = axes_of.get(node.input[0], 0)
        factor, addend = _affine_of(node, values)
        if rank not in (2, 3, 4) or (rank == 2 and _fold_into_gemm(graph, node, factor, addend)):
            continue
        name = f"normalise_{number}"
        tensors = {"weight": factor.reshape(-1, 1, 1, 1), "bias": addend}
        graph.initializer.extend(
            numpy_helper.from_array(array.astype(np.float32), f"{name}.{key}")
            for key, array in tensors.items()
        )
        source, target = node.input[0], node.output[0]
        convolution = helper.make_node(
            "Conv",
            [source, f"{name}.weight", f"{name}.bias"],
            [target],
            name=node.name or name,
            group=len(factor),
            kernel_shape=[1, 1],
        )
        if rank < 4:
            axes = numpy_helper.from_array(np.arange(rank, 4), f"{name}.axes")
            graph.initializer.append(axes)
            convolution.input[0], convolution.output[0] = f"{name}.map", f"{name}.normalised"
            around[convolution.name] = (
                helper.make_node("Unsqueeze", [source, axes.name], [f"{name}.map"]),
                helper.make_node("Squeeze", [f"{name}.normalised", axes.name], [target]),
            )
        node.CopyFrom(convolution)
    nodes = [
        other
        for node in graph.node
        for other in (
            (around[node.name][0], node, around[node.name][1]) if node.name in around else (node,)
        )
    ]
    if around:
        replace_nodes(graph, tuple(graph.node), nodes)


def _fold_into_gemm(
    graph: onnx.GraphProto, norm: onnx.NodeProto, factor: NDArray[Any], addend: NDArray[Any]
) -> bool:
    """Make a normalisation part of the Gemm before it, in place; False where it cannot be."""
    values, x = constants(graph), norm.input[0]
    gemm = next((node for node in graph.node if x in node.output), None)
    if gemm is None or gemm.op_type != "Gemm" or len(_consumers(graph, x)) != 1:
        return False
    scaled = any(attribute(gemm, name, 1.0) != 1.0 for name in ("alpha", "beta"))
    shown = any(output.name == x for output in graph.output)
    weight = values.get(gemm.input[1])
    bias = values.get(gemm.input[2]) if len(gemm.input) > 2 else np.zeros(len(factor))
    if scaled or shown or weight is None or bias is None or bias.size not in (1, len(factor)):
        return False
    rows = factor[:, None] if attribute(gemm, "transB", 0) else factor
    arrays = {"weight": weight * rows, "bias": bias.reshape(-1) * factor + addend}
    names = [f"{norm.output[0]}.{key}" for key in arrays]
    graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in zip(names, arrays.values(), strict=True)
    )
    gemm.input[:] = [gemm.input[0], *names]
    gemm.output[0] = norm.output[0]
    replace_nodes(graph, (norm,), [])
    return True


def opened(source: Path) -> onnx.ModelProto:
    """The graph of a file."""
    return onnx.load(source)


def fold_norms_forward(model: onnx.ModelProto) -> None:
    """Make normalisations of vectors part of the one Gemm that reads them, in place."""
    graph = model.graph
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        values, readers = constants(graph), _consumers(graph, norm.output[0])
        shown = any(output.name == norm.output[0] for output in graph.output)
        if len(readers) != 1 or shown or attribute(norm, "training_mode", 0):
            continue
        gemm = readers[0]
        plain = gemm.op_type == "Gemm" and list(gemm.input).index(norm.output[0]) == 0
        names = [*norm.input[1:], *gemm.input[1:]] if plain else [""]
        scaled = any(attribute(gemm, name, 1.0) != 1.0 for name in ("alpha", "beta"))
        if scaled or attribute(gemm, "transA", 0) or any(name not in values for name in names):
            continue
        factor, addend = _affine_of(norm, values)
        weight = values[gemm.input[1]].astype(np.float64)
        by_input = attribute(gemm, "transB", 0) == 1
        moved = weight @ addend if by_input else addend @ weight
        bias = values[gemm.input[2]].reshape(-1) if len(gemm.input) > 2 else 0.0
        weight = weight * (factor if by_input else factor[:, None])
        name = norm.output[0]
        arrays = {f"{name}.weight": weight, f"{name}.bias": moved + bias}
        graph.initializer.extend(
            numpy_helper.from_array(array.astype(np.float32), key) for key, array in arrays.items()
        )
        gemm.input[:] = [norm.input[0], *arrays]
        replace_nodes(graph, (norm,), [])


def _affine_of(
    norm: onnx.NodeProto, values: dict[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Factor and addend of each channel of a batch normalisation."""
    gamma, beta, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:])
    factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return factor, beta - mean * factor


def halve_first_cast(model: onnx.ModelProto) -> None:
    """Let the Cast that reads the image give float16, as the layers behind it expect."""
    for node in _consumers(model.graph, model.graph.input[0].name):
        for item in node.attribute:
            floats = node.op_type == "Cast" and item.i == onnx.TensorProto.FLOAT
            if floats and item.name == "to":
                item.i = onnx.TensorProto.FLOAT16


def fold_grey_to_rgb(model: onnx.ModelProto) -> None:
    """Let the first convolution read one grey channel instead of three copies of it.

    A convolution over equal channels is one over a single channel with the sum of its weights.
    """
    graph = model.graph
    values = constants(graph)
    for node in graph.node:
        if not _repeats_grey(node, graph, values):
            continue
        following = _consumers(graph, node.output[0])
        if not following or any(not _plain_convolution(item, values) for item in following):
            continue
        for convolution in following:
            name = f"{convolution.input[1]}.grey"
            summed = values[convolution.input[1]].sum(axis=1, keepdims=True, dtype=np.float64)
            graph.initializer.append(numpy_helper.from_array(summed.astype(np.float32), name))
            convolution.input[0], convolution.input[1] = node.input[0], name
        replace_nodes(graph, (node,), [])
        return


def _repeats_grey(
    node: onnx.NodeProto, graph: onnx.GraphProto, values: dict[str, NDArray[Any]]
) -> bool:
    """True for the node that makes three equal channels of a one-channel image."""
    if graph.input[0].type.tensor_type.shape.dim[1].dim_value != 1:
        return False
    if node.op_type == "Concat":
        return len(node.input) == 3 and len(set(node.input)) == 1 and _axis_is_channel(node)
    if node.op_type not in {"Expand", "Tile"}:
        return False
    normalisation = find_normalisation(graph)
    beginning = {graph.input[0].name, normalisation.output if normalisation else ""}
    if node.input[0] not in beginning:
        return False
    if node.op_type == "Tile":
        return list(values.get(node.input[1], np.zeros(0))) == [1, 3, 1, 1]
    # Expand may read its shape from the image at run time (the batch is free): the result's own
    # shape says what it did.
    shapes = {info.name: info.type.tensor_type.shape for info in graph.value_info}
    shape = shapes.get(node.output[0])
    return shape is not None and len(shape.dim) == 4 and shape.dim[1].dim_value == 3


def _axis_is_channel(node: onnx.NodeProto) -> bool:
    return attribute(node, "axis", 0) in (1, -3)


def _plain_convolution(node: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> bool:
    if node.op_type != "Conv" or node.input[1] not in values or attribute(node, "group", 1) != 1:
        return False
    weight = values[node.input[1]]
    return weight.ndim == 4 and weight.shape[1] == 3


def canonical(model: onnx.ModelProto) -> None:
    """Strip everything that is not computation, and name what is left by its place.

    The exporter writes stack traces with paths, counters and the versions of its parts; without
    them, equal networks give equal bytes. Nodes and initializers nobody uses go too.
    """
    graph = model.graph
    drop_unused(graph)
    for holder in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    for cleared in ("value_info", "quantization_annotation"):
        graph.ClearField(cleared)
    for cleared in ("metadata_props", "doc_string", "training_info", "model_version", "domain"):
        model.ClearField(cleared)
    graph.name, model.producer_name = "classifier", "clinipress"
    model.ClearField("producer_version")
    _drop_unused_domains(model)
    outputs = {output.name for output in graph.output}
    renamed: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        for position, name in enumerate(node.output):
            if name and name not in outputs:
                suffix = f".{position}" if position else ""
                renamed[name] = f"{node.op_type}_{number}.out{suffix}"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove what no output depends on; initializers in the order of their first use."""
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    if len(kept) < len(graph.node):
        gone = {id(node) for node in kept}
        replace_nodes(graph, tuple(node for node in graph.node if id(node) not in gone), [])
    order = {
        name: position for position, name in enumerate(n for node in graph.node for n in node.input)
    }
    tensors = sorted(
        (tensor for tensor in graph.initializer if tensor.name in order),
        key=lambda tensor: (order[tensor.name], tensor.name),
    )
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    used = {node.domain for node in model.graph.node} | {""}
    kept = sorted((item.domain, item.version) for item in model.opset_import if item.domain in used)
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in kept)
