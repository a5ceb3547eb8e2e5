"""An ONNX file that also shows its last feature map, for Score-CAM.

The map is the input of what pools it, found from the logits backwards, so that it is the same one
in a float32, float16 or int8 file and in a pruned network. In an int8 file it comes out of a
DequantizeLinear: real values, rounded to the file's own grid.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference

from clinipress.errors import ModelError
from clinipress.formats.onnx.graph import constants, find_normalisation, replace_nodes
from clinipress.records.candidate import BATCH, Card, Floats

__all__ = ["FEATURES", "GraphWithFeatures", "OnnxNetwork", "open_features", "show_features"]

FEATURES = "features"
FLOATS = ("float32", "float16")
POOLS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")


@dataclass(frozen=True)
class GraphWithFeatures:
    """A graph with a second output.

    Attributes:
        content: The ONNX file's bytes: input ``image``, outputs ``logits`` and ``features``.
        tensor: Name of the feature map in the graph it was made from.
        channels: Of the map.
        height: Likewise.
        width: Likewise.
    """

    content: bytes
    tensor: str
    channels: int
    height: int
    width: int


def show_features(path: Path, precision: str) -> GraphWithFeatures:
    """Add the last feature map to a file's outputs, in memory.

    Args:
        path: An ONNX file of ours.
        precision: Of its card. A float file is also made to take float32 grey levels, since masked
            images are not whole numbers; an int8 file goes on taking uint8, as it was shipped.

    Raises:
        ModelError: There is no map with more than one cell before the logits, as in a transformer
            that pools tokens, or in a network that is too deep for its image.
    """
    model = onnx.load(path)
    shapes = _shapes(model)
    tensor, channels_last = _last_map(model.graph, shapes, path)
    if precision in FLOATS:
        _take_floats(model)
    shape, shown = shapes[tensor], tensor
    if channels_last:
        shape, shown = [shape[0], shape[3], *shape[1:3]], f"{FEATURES}.channels_last"
        move = helper.make_node("Transpose", [tensor], [shown], perm=(0, 3, 1, 2))
        model.graph.node.append(move)
    made = helper.make_node("Cast", [shown], [FEATURES], to=TensorProto.FLOAT)
    model.graph.node.append(made)
    _, channels, height, width = shape
    sides = ("n", channels, height, width)
    model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, sides))
    return GraphWithFeatures(model.SerializeToString(), tensor, channels, height, width)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shape of every tensor that has one; 0 for a side that is free."""
    graph = shape_inference.infer_shapes(model).graph
    named = [*graph.input, *graph.value_info, *graph.output]
    return {item.name: [d.dim_value for d in item.type.tensor_type.shape.dim] for item in named}


def _last_map(graph: onnx.GraphProto, shapes: dict[str, list[int]], path: Path) -> tuple[str, bool]:
    """From the logits backwards: the first tensor that still has places; are channels its last?"""
    makers = {name: node for node in graph.node for name in node.output}
    constant = {tensor.name for tensor in graph.initializer}
    waiting, seen = [graph.output[0].name], set[str]()
    one_cell = False  # pooled from a single cell: only a dense layer may stand before it
    while waiting:
        name = waiting.pop(0)
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        one_cell |= node.op_type in POOLS and shapes.get(node.input[0], [])[2:] == [1, 1]
        for given in node.input:
            shape = shapes.get(given, [])
            if given in constant or (given not in makers and given != graph.input[0].name):
                continue
            if len(shape) == 4 and shape[2] * shape[3] > 1 and _is_learnt(given, makers):
                if one_cell and not _is_dense(node, shape):
                    waiting.clear()
                    break
                return _real_values(given, makers), _pools_rows_and_columns(node, graph)
            if len(shape) == 3 and shape[1] > 1:
                raise ModelError(
                    f"a feature map with rows and columns before the logits of '{path.name}'",
                    "a sequence of tokens: Score-CAM is not measured for transformers",
                )
            waiting.append(given)
    raise ModelError(
        f"a feature map of more than one cell before the logits of '{path.name}'",
        "none: nothing is left to say where the network looks",
        "use larger images, or a convolutional network",
    )


def _is_learnt(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a layer with weights stands before a tensor, which is else the image itself."""
    waiting, seen = [name], set[str]()
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        if any(kind in node.op_type for kind in ("Conv", "MatMul", "Gemm")):
            return True
        seen.add(node.output[0])
        waiting += node.input
    return False


def _pools_rows_and_columns(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a pooling is over the second and third axis, as where channels come last (Swin)."""
    if node.op_type not in ("ReduceMean", "ReduceMax"):
        return False
    axes = [list(item.ints) for item in node.attribute if item.name == "axes"]
    axes += [constants(graph)[name].tolist() for name in node.input[1:2]]
    return any(sorted(axis % 4 for axis in reduced) == [1, 2] for reduced in axes)


def _is_dense(node: onnx.NodeProto, shape: list[int]) -> bool:
    """Whether a convolution sees its whole input at once, as the first of VGG's dense layers."""
    attributes = {item.name: list(item.ints) for item in node.attribute}
    return (
        node.op_type == "Conv"
        and attributes.get("kernel_shape") == shape[2:]
        and attributes.get("strides", [1, 1]) == [1, 1]
        and not any(attributes.get("pads", []))
    )


def _real_values(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """What a quantized map means: in front of QuantizeLinear where the pooling reads bytes."""
    node = makers[name]
    return node.input[0] if node.op_type == "QuantizeLinear" else name


def _take_floats(model: onnx.ModelProto) -> None:
    graph = model.graph
    image = graph.input[0]
    first = next(node for node in graph.node if image.name in node.input)
    normalisation = find_normalisation(graph)
    if first.op_type == "DequantizeLinear" and normalisation is not None:
        # it takes whole numbers only; this is the same function of any: (pixel - zero) x scale
        kind = constants(graph)[first.input[1]].dtype
        levels = {"grey.zero": normalisation.zero, "grey.scale": normalisation.scale}
        for name, value in levels.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        new = [
            helper.make_node("Sub", [image.name, "grey.zero"], ["grey.shifted"]),
            helper.make_node("Mul", ["grey.shifted", "grey.scale"], ["grey.scaled"]),
            helper.make_node(
                "Cast",
                ["grey.scaled"],
                [normalisation.output],
                to=helper.np_dtype_to_tensor_dtype(kind),
            ),
        ]
        replace_nodes(graph, normalisation.nodes, new)
    elif first.op_type != "Cast":
        return
    image.type.tensor_type.elem_type = TensorProto.FLOAT


class OnnxNetwork:
    """An ONNX file with its last feature map as a second output.

    Args:
        path: The file; read once.
        precision: Of its card.
        threads: CPU threads of one call; None: as many as there are cores.

    Raises:
        ModelError: No feature map can be shown.
    """

    def __init__(self, path: Path, precision: str, threads: int | None = None) -> None:

        from clinipress.formats.onnx.run import images_per_call, session

        shown = show_features(path, precision)
        self.layer = shown.tensor
        with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
            file = Path(folder) / "shown.onnx"
            file.write_bytes(shown.content)
            self._session = session(file, threads)
        image = self._session.get_inputs()[0]
        self._image, self._floats = image.name, image.type == "tensor(float)"
        self._batch = images_per_call(self._session, BATCH)

    def look(self, images: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Logits and feature maps."""
        parts = [self._run(part, None) for part in self._parts(images)]
        logits, maps = (np.concatenate(each) for each in zip(*parts, strict=True))
        return logits, maps

    def answer(self, images: Floats) -> Floats:
        """Logits."""
        return np.concatenate([self._run(part, ["logits"])[0] for part in self._parts(images)])

    def _parts(self, images: NDArray[Any]) -> list[NDArray[Any]]:
        return [images[s : s + self._batch] for s in range(0, len(images), self._batch)]

    def _run(self, images: NDArray[Any], outputs: list[str] | None) -> list[Floats]:
        pixels = images if self._floats else np.rint(images)
        taken = pixels.astype(np.float32 if self._floats else np.uint8, copy=False)
        results: list[Floats] = self._session.run(outputs, {self._image: taken})
        return results


def open_features(path: Path, card: Card, threads: int | None) -> OnnxNetwork:
    """A file with its last feature map as a second output; arguments as of every format."""
    return OnnxNetwork(path, card.precision, threads)
