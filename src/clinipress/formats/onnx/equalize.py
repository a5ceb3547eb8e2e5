"""Making a network easier to quantize without changing its function.

    equalize         weights of neighbouring layers get channels of like size (Nagel et al. 2019)
    smooth           large channels behind a LayerNorm move into the next weights (Xiao et al. 2023)
    correct_biases   the mean error that rounded weights make is taken off the bias (Nagel et al.)

Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight Equalization and Bias
Correction, arXiv:1906.04721. Xiao et al.: SmoothQuant, arXiv:2211.10438.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.graph import attribute
from clinipress.formats.onnx.run import INPUT_NAME, images_per_call, session

__all__ = ["correct_biases", "equalize", "smooth", "smoothing_factors"]

Array = NDArray[np.float32]

ROUNDS = 20
CONVERGED = 1e-3
PROBE_BATCH = 16
# Factors outside of this would move a dead channel's rounding noise about for nothing.
LARGEST_FACTOR = 1e4


class _Graph:
    """Who makes and who reads each tensor, and the float weights, which can be replaced.

    What is replaced is kept beside the model until `write`: protobuf frees no tensor before the
    whole model, and rounds of equalization would pile up copies of all weights.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.outputs = {output.name for output in self.graph.output}
        self._replaced: dict[str, Array] = {}

    def only_reader(self, tensor: str) -> onnx.NodeProto | None:
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def own_weight(self, node: onnx.NodeProto, position: int) -> bool:
        """True when the input is a float constant that this node alone reads."""
        name = node.input[position] if len(node.input) > position else ""
        return name in self.tensors and len(self.readers[name]) == 1

    def value(self, name: str) -> Array:
        replaced = self._replaced.get(name)
        if replaced is None:
            replaced = np.array(numpy_helper.to_array(self.tensors[name]), np.float32)
        return replaced

    def replace(self, name: str, value: NDArray[Any]) -> None:
        self._replaced[name] = value.astype(np.float32)

    def write(self) -> None:
        """What was replaced into the model."""
        for name, value in self._replaced.items():
            self.tensors[name].CopyFrom(numpy_helper.from_array(value, name))


def equalize(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Cross-layer equalization, in place: the float function stays the same.

    For two convolutions with a ReLU or nothing between, channel i of the first is divided by s_i
    and input i of the second multiplied by it, ``s_i = sqrt(r1_i r2_i) / r2_i`` (equation 11 of the
    paper, r being half the range of the channel's weights), over all pairs in turn until nothing
    moves. A ReLU6 or hard-swish is not positively homogeneous, so such pairs are left alone; the
    paper replaces ReLU6 by ReLU, which changes the function.

    Returns:
        Names of the layers of each pair; empty where the network has none.
    """
    graph = _Graph(model)
    pairs = list(_pairs(graph))
    for _ in range(ROUNDS):
        moved = max((_equalize_pair(graph, *pair) for pair in pairs), default=0.0)
        if moved < CONVERGED:
            break
    graph.write()
    return [(first.name, second.name) for first, second in pairs]


def _pairs(graph: _Graph) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    for first in graph.graph.node:
        if first.op_type != "Conv" or not graph.own_weight(first, 1):
            continue
        if len(first.input) > 2 and not graph.own_weight(first, 2):
            continue
        second = graph.only_reader(first.output[0])
        if second is not None and second.op_type == "Relu":
            second = graph.only_reader(second.output[0])
        if second is None or second.op_type != "Conv" or not graph.own_weight(second, 1):
            continue
        weights, following = graph.value(first.input[1]), graph.value(second.input[1])
        if weights.ndim != 4 or following.ndim != 4:
            continue
        channels = weights.shape[0]
        if attribute(second, "group", 1) in (1, channels):
            yield first, second


def _equalize_pair(graph: _Graph, first: onnx.NodeProto, second: onnx.NodeProto) -> float:
    """Balance one pair; returns the largest change of a factor from 1."""
    weights, next_weights = graph.value(first.input[1]), graph.value(second.input[1])
    depthwise = attribute(second, "group", 1) > 1
    axis = 0 if depthwise else 1
    if depthwise and next_weights.shape[0] != weights.shape[0]:  # several outputs per channel
        return 0.0
    spans = np.abs(weights).reshape(len(weights), -1).max(axis=1).astype(np.float64)
    rows = np.moveaxis(next_weights, axis, 0)
    next_spans = np.abs(rows).reshape(len(rows), -1).max(axis=1).astype(np.float64)
    alive = (spans > 0) & (next_spans > 0)
    factor = np.ones(len(weights))
    factor[alive] = np.sqrt(spans[alive] / next_spans[alive])
    factor = np.clip(factor, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    graph.replace(first.input[1], weights / factor.reshape(-1, 1, 1, 1))
    if len(first.input) > 2:
        graph.replace(first.input[2], graph.value(first.input[2]) / factor)
    shape = [1] * next_weights.ndim
    shape[axis] = -1
    graph.replace(second.input[1], next_weights * factor.reshape(shape))
    return float(np.abs(factor - 1).max())


def _smoothable(graph: _Graph) -> Iterator[tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """Layer norms all of whose readers are matrix products by constants."""
    for node in graph.graph.node:
        own = (
            node.op_type == "LayerNormalization"
            and len(node.input) > 1  # factors go into its scale
            and all(graph.own_weight(node, position) for position in range(1, len(node.input)))
        )
        readers = graph.readers.get(node.output[0], []) if own else []
        fit = all(
            reader.op_type == "MatMul"
            and reader.input[0] == node.output[0]
            and graph.own_weight(reader, 1)
            and graph.value(reader.input[1]).ndim == 2
            for reader in readers
        )
        if readers and fit and node.output[0] not in graph.outputs:
            yield node, readers


def smoothing_factors(
    model: onnx.ModelProto, images: NDArray[np.uint8], alpha: float
) -> dict[str, Array]:
    """SmoothQuant's factors ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`` (its equation 4).

    Args:
        model: float32 graph; it is not touched.
        images: uint8 ``[n, c, h, w]``, calibration images.
        alpha: 0 leaves the difficulty with the activations, 1 moves all of it to the weights.

    Returns:
        Output of a LayerNormalization -> float32 ``[channels]``; empty where there is none in front
        of matrix products.
    """
    graph = _Graph(model)
    norms = list(_smoothable(graph))
    tops = _probe(
        model,
        images,
        {node.output[0]: ("ReduceMax", "Abs", node.output[0]) for node, _ in norms},
        np.maximum,
    )
    factors = {}
    for node, readers in norms:
        weights = np.max([np.abs(graph.value(r.input[1])).max(axis=1) for r in readers], axis=0)
        largest = np.maximum(tops[node.output[0]], 1e-5)
        factor = largest**alpha / np.maximum(weights, 1e-5) ** (1 - alpha)
        limited = np.clip(factor, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
        factors[node.output[0]] = limited.astype(np.float32)
    return factors


def smooth(model: onnx.ModelProto, factors: Mapping[str, Array]) -> None:
    """Divide what layer norms give by factors, multiply the next weights by them, in place."""
    graph = _Graph(model)
    for node, readers in list(_smoothable(graph)):
        if node.output[0] not in factors:
            continue
        factor = np.asarray(factors[node.output[0]], np.float64)
        for position in range(1, len(node.input)):
            graph.replace(node.input[position], graph.value(node.input[position]) / factor)
        for reader in readers:
            graph.replace(reader.input[1], graph.value(reader.input[1]) * factor[:, None])
    graph.write()


def correct_biases(
    model: onnx.ModelProto, quantized: onnx.ModelProto, images: NDArray[np.uint8]
) -> dict[str, list[float]]:
    """What to add to each bias so that rounded weights make no mean error.

    With rounding error e of the weights, a layer's output is off by ``E[e x]`` on average
    (equation 17 of the paper); here the expectation is over the calibration images and over every
    output place, padding included, with x from the float network. So layers do not have to be
    corrected one after the other; the error of rounded activations is not in it.

    Args:
        model: The float graph.
        quantized: The same with its layers quantized, node names kept.
        images: uint8 ``[n, c, h, w]``, calibration images.

    Returns:
        Layer -> one number per output channel.
    """
    graph, rounded = _Graph(model), _rounded_weights(quantized)
    probes: dict[str, tuple[str, ...]] = {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for node in graph.graph.node:
        if node.name not in rounded or node.input[1] not in graph.tensors:
            continue
        if graph.value(node.input[1]).ndim != {"Conv": 4, "Gemm": 2}[node.op_type]:
            continue
        error = rounded[node.name] - graph.value(node.input[1])
        names = [f"{node.name}.error", f"{node.name}.mistake"]
        probe.graph.initializer.append(numpy_helper.from_array(error, names[0]))
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        del twin.input[1:]
        twin.input.append(names[0])
        twin.output[0], twin.name = names[1], names[1]
        probe.graph.node.append(twin)
        probes[node.name] = ("ReduceMean", node.op_type, names[1])
    means = _probe(probe, images, probes, np.add)
    return {name: [float(v) for v in -means[name] / len(images)] for name in probes}


def _rounded_weights(quantized: onnx.ModelProto) -> dict[str, Array]:
    values = onnx_graph.constants(quantized.graph)
    makers = {node.output[0]: node for node in quantized.graph.node}
    weights = {}
    for node in quantized.graph.node:
        maker = makers.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in values:
            continue
        integers, scale = values[maker.input[0]].astype(np.float32), values[maker.input[1]]
        shape = [1] * integers.ndim
        if scale.ndim:
            shape[attribute(maker, "axis", 1)] = -1
        weights[node.name] = (integers * scale.reshape(shape)).astype(np.float32)
    return weights


def _probe(
    model: onnx.ModelProto, images: NDArray[np.uint8], probes: Mapping[str, Any], join: np.ufunc
) -> dict[str, Array]:
    """Statistics per channel of some tensors, computed inside the graph, over batches of images.

    A probe is ("ReduceMax", "Abs", tensor): over all axes but the last, joined by the maximum; or
    ("ReduceMean", "Conv" or "Gemm", tensor): over all but axis 1, times the images of the batch,
    joined by addition.
    """
    if not probes:
        return {}
    work = onnx.ModelProto()
    work.CopyFrom(model)
    del work.graph.output[:]
    shapes = {info.name: len(info.type.tensor_type.shape.dim) for info in model.graph.value_info}
    for number, (reduce, kind, tensor) in enumerate(probes.values()):
        rank = {"Conv": 4, "Gemm": 2}.get(kind) or shapes[tensor]
        axes = [a for a in range(rank) if a != (1 if reduce == "ReduceMean" else rank - 1)]
        name, source = f"probe_{number}", tensor
        work.graph.initializer.append(numpy_helper.from_array(np.array(axes), f"{name}.axes"))
        if kind == "Abs":
            work.graph.node.append(helper.make_node("Abs", [tensor], [f"{name}.abs"]))
            source = f"{name}.abs"
        node = helper.make_node(reduce, [source, f"{name}.axes"], [name], keepdims=0)
        work.graph.node.append(node)
        work.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    statistics: dict[str, Array] = {}
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "probe.onnx"
        onnx.save(work, path)
        opened = session(path, 1)
        size = images_per_call(opened, PROBE_BATCH)
        for start in range(0, len(images), size):
            batch = np.ascontiguousarray(images[start : start + size])
            for name, value in zip(probes, opened.run(None, {INPUT_NAME: batch}), strict=True):
                share = value * len(batch) if join is np.add else value
                statistics[name] = join(statistics[name], share) if name in statistics else share
    return statistics
