"""ONNX files that others made: read with care, and what they say of themselves.

Nothing of a file is run before its operators were looked at: no library of custom operators is
loaded, weights are taken from the file's own folder alone.
"""

from __future__ import annotations

import ast
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from clinipress.errors import ModelError
from clinipress.formats.file import first_line, not_whole
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.run import CARD_KEY, engine, session
from clinipress.formats.ranges import quiet
from clinipress.recipe.steps import OnnxRecipe
from clinipress.records.candidate import Task
from clinipress.records.store import strange_content

__all__ = [
    "Foreign",
    "examine",
    "is_ours",
    "is_quantized",
    "own_files",
    "read_foreign",
    "serialized",
]

Array = NDArray[Any]

LARGEST = 2**31 - 1  # bytes that one protobuf message can hold
INITIALIZERS_ALONE = 4  # version of the format since which weights need not be inputs as well
OPSET = 20  # of our own files: what is put between a file's nodes is written in it
BUILT_IN = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))  # ONNX Runtime's own
WIDE = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))
WHOLE = frozenset((TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64))
PASSED = frozenset(
    ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose")
)
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer", "MatMulNBits", "QGemm")
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # of channels
PROBES = 3
SAME = 1e-3  # of the range of the answers: sums in another order
ROUGHLY = 2e-2  # likewise, of what was computed in 16 bits
UNIT = 1e-3  # distance of a sum of probabilities from 1, in float16 too

# Name -> what is taken off pixels in [0, 1], and what the rest is divided by. "caffe" is of BGR.
# ONNX's own metadata of images, and where makers of files put sizes and names of classes
RANGES = {"NominalRange_0_255": "0..255", "Normalized_0_1": "0..1", "Normalized_1_1": "-1..1"}
ORDERS = {"Rgb8": "RGB", "Bgr8": "BGR"}
NAMES = ("names", "classes", "class_names", "labels", "id2label", "pathologies", "targets")


@dataclass(frozen=True)
class Foreign:
    """A classifier's file as others made it, its softmax or sigmoid cut off.

    Attributes:
        name: Of the file.
        model: The graph: float32 inside, of opset `OPSET` or later.
        image: Name of its input.
        kind: Type of its input, `TensorProto.FLOAT` or a whole number's.
        layout: "NCHW" or "NHWC".
        channels: 1 or 3.
        height: Of its input.
        width: Likewise.
        output: Name of what it answers.
        shape: Of the answer to one image: a class for each place of one axis.
        ending: What the answers are: "logits", as they are or because what stood behind them is cut
            off; or "probabilities".
        cut: The operator that was cut off, or "".
        names: Classes by the file's own metadata, or None.
        scale: A name of `formats.trials.SCALES` where the file says it, or None.
        order: "RGB" or "BGR" where the file says it, or None.
        single: It takes one image at a time.
        task: "multilabel": each of its outputs is about a finding of its own.
        precision: "int8" where it computes in whole numbers, else "float32".
        widened: "float16" and the like, where it was stored so.
    """

    name: str
    model: onnx.ModelProto
    image: str
    kind: int
    layout: Literal["NCHW", "NHWC"]
    channels: int
    height: int
    width: int
    output: str
    shape: tuple[int, ...]
    ending: Literal["logits", "probabilities"]
    cut: str
    names: tuple[str, ...] | None
    scale: str | None
    order: str | None
    single: bool
    precision: str
    widened: str
    task: Task = "multiclass"

    @property
    def outputs(self) -> int:
        """Numbers it answers with."""
        return int(np.prod(self.shape))

    @property
    def classes(self) -> int:
        """Classes it tells apart: one number tells two."""
        return self.outputs if self.task == "multilabel" else max(2, self.outputs)


# ------------------------------------------------------------------ reading


def is_ours(path: Path) -> bool:
    """True where a file holds a card of clinipress, so that nothing of it need be found out."""
    return any(item.key == CARD_KEY for item in _parsed(path).metadata_props)


def read_foreign(path: Path) -> onnx.ModelProto:
    """The graph of a file, with its weights; refused unread where it could not be run safely.

    Raises:
        ModelError: It is not whole, too large, in training mode, or of operators nobody knows.
    """
    model = _parsed(path)
    _take_weights(model, path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    for node in _nodes(model.graph):
        if node.domain not in BUILT_IN:
            raise ModelError(
                f"operators of ONNX's own in '{path.name}'",
                f"'{node.op_type}' of '{node.domain}', which would need a library of its maker",
                "export the network without custom operators",
            )
    _check_training(model.graph, path)
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [item for item in model.graph.input if item.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(given)
    return model


def own_files(path: Path) -> tuple[Path, ...]:
    """A file, and those beside it that hold its weights."""
    model = _parsed(path)
    beside = {
        entry.value
        for tensor in _tensors(model.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path.parent / name for name in sorted(beside) if Path(name).name == name]
    return (path, *(file for file in files if file.is_file()))


def is_quantized(graph: onnx.GraphProto) -> bool:
    """True where a graph computes in whole numbers already."""
    return any(word in node.op_type for node in graph.node for word in QUANTIZED)


def serialized(model: onnx.ModelProto, what: str) -> bytes:
    """The bytes of a model.

    Raises:
        ModelError: One message cannot hold them.
    """
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except Exception:  # the message library's own, of no common base
        raise _too_large(what) from None
    if len(content) > LARGEST:
        raise _too_large(what)
    return content


def _too_large(what: str) -> ModelError:
    return ModelError(
        f"'{what}' of less than 2 GB, all weights together", "more than one ONNX file can hold"
    )


def _parsed(path: Path) -> onnx.ModelProto:
    """The file alone; what it keeps elsewhere is not read."""
    if not path.is_file():
        raise ModelError("an ONNX file", f"nothing at '{path}'", "check the path")
    if path.stat().st_size > LARGEST:
        raise _too_large(path.name)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as problem:  # the message library's own, of no common base
        reason = strange_content(path) or f"one that cannot be read ({first_line(problem)})"
        raise not_whole(f"ONNX file at '{path}'", reason) from None
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise not_whole(f"ONNX file at '{path}'", "one without a graph")
    return model


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in (item.g, *item.graphs) if item.HasField("g") else item.graphs:
                yield from _graphs(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for part in _graphs(graph):
        yield from part.node


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for part in _graphs(graph):
        yield from part.initializer
        for node in part.node:
            for item in node.attribute:
                yield from (item.t, *item.tensors) if item.HasField("t") else item.tensors


def _take_weights(model: onnx.ModelProto, path: Path) -> None:
    """Read the weights that a file keeps beside it, from its own folder alone."""
    total = path.stat().st_size
    kept = [t for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    kept += [
        item.t
        for function in model.functions
        for node in function.node
        for item in node.attribute
        if item.t.data_location == TensorProto.EXTERNAL
    ]
    for tensor in kept:
        place = {entry.key: entry.value for entry in tensor.external_data}
        location = place.get("location", "")
        file = path.parent / location
        parts = Path(location.replace("\\", "/")).parts
        outside = not parts or Path(location).is_absolute() or ".." in parts or ":" in parts[0]
        if outside or path.parent.resolve() not in file.resolve().parents:
            raise ModelError(
                f"the weights of '{path.name}' in its own folder",
                f"'{location}'",
                "save the model again with its weights beside it",
            )
        if not file.is_file():
            raise ModelError(
                f"the weights of '{path.name}' beside it",
                f"no '{location}'",
                "copy that file there too, under this very name",
            )
        size = file.stat().st_size
        try:
            offset = int(place.get("offset", 0))
            length = int(place.get("length", size - offset))
        except ValueError:
            offset, length = -1, -1
        if offset < 0 or length < 0 or offset + length > size:
            raise not_whole(f"file with weights at '{file}'", f"{size:,} bytes, which are too few")
        total += length
        if total > LARGEST:
            raise _too_large(path.name)
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _check_training(graph: onnx.GraphProto, path: Path) -> None:
    values = onnx_graph.constants(graph)
    for node in _nodes(graph):
        trains = node.op_type == "BatchNormalization" and (
            onnx_graph.attribute(node, "training_mode", 0) or len([*filter(None, node.output)]) > 3
        )
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            trains = bool(np.any(values.get(node.input[2], np.array(True))))
        if trains:
            raise ModelError(
                f"'{path.name}' exported for use",
                f"a '{node.op_type}' in training mode: answers would hang on chance or the batch",
                "export it again after model.eval()",
            )


def _raised(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The graph in an opset that everything here knows."""
    version = next((s.version for s in model.opset_import if s.domain in ("", "ai.onnx")), 0)
    if version >= OPSET:
        return model
    if model.ir_version < INITIALIZERS_ALONE:  # inputs they had to be were taken off
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.ir_version = INITIALIZERS_ALONE
    try:
        with quiet():
            raised: onnx.ModelProto = onnx.version_converter.convert_version(model, OPSET)
    except Exception as problem:  # the converter's own, of no common base
        raise ModelError(
            f"'{name}' of opset {OPSET} or later, or one that onnx can raise to it",
            f"opset {version} ({first_line(problem)})",
            f"export it again with opset_version={OPSET} or later",
        ) from None
    raised.ir_version = max(raised.ir_version, 7)
    raised.metadata_props.extend(m for m in model.metadata_props if not raised.metadata_props)
    return raised


def _check_raised(
    written: onnx.ModelProto, model: onnx.ModelProto, probes: Array, path: Path
) -> None:
    """Refuse a graph that answers otherwise since it was raised; the engine runs both."""
    kind = helper.tensor_dtype_to_np_dtype(written.graph.input[0].type.tensor_type.elem_type)
    copy = onnx.ModelProto.FromString(written.SerializeToString())
    del copy.graph.output[:]
    copy.graph.output.extend(model.graph.output)
    copy.graph.output[0].type.tensor_type.ClearField("elem_type")
    try:
        first = _opened(copy, path.name)(probes[:1].astype(kind))
        second = _opened(model, path.name)(probes[:1])
    except Exception:  # the engine's own: told where the file is run by itself
        return
    allowed = SAME if kind in (np.float32, np.uint8) else ROUGHLY
    if first.shape != second.shape or not _gap(first, second) <= allowed:
        raise ModelError(
            f"'{path.name}' to answer alike in opset {OPSET}",
            "other answers since onnx raised it",
            f"export it again with opset_version={OPSET} or later",
        )


def _unbranched(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A graph without branches: those whose condition is a constant are decided by the engine."""
    if len([*_graphs(model.graph)]) == 1:
        return model
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(serialized(model, name))
        onnxruntime = engine()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(after)
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(before, options, providers=["CPUExecutionProvider"])
            model = onnx.load(after)
        except Exception:  # told when it is run
            pass
    inner = next((n for n in model.graph.node for a in n.attribute if a.HasField("g")), None)
    if inner is not None:
        raise ModelError(
            f"'{name}' without branches and loops",
            f"'{inner.op_type}'",
            "export the network again, traced rather than scripted",
        )
    return model


def _widened(model: onnx.ModelProto) -> str:
    """Turn other floats into float32, in place; what they were, or ""."""
    kinds = {tensor.data_type for tensor in _tensors(model.graph)}
    kinds |= {item.type.tensor_type.elem_type for item in model.graph.input}
    found = kinds & WIDE
    if not found:
        return ""
    for tensor in _tensors(model.graph):
        if tensor.data_type in WIDE:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in _nodes(model.graph):
        for item in node.attribute:
            if item.name in ("to", "dtype", "output_dtype") and item.i in WIDE:
                item.i = TensorProto.FLOAT
    for part in (model.graph.input, model.graph.output):
        for info in part:
            if info.type.tensor_type.elem_type in WIDE:
                info.type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.value_info[:]
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(min(found))))


# ------------------------------------------------------------------ what it says of itself


def examine(
    path: Path,
    recipe: OnnxRecipe,
    size: tuple[int, int] | None = None,
    task: Task | None = "multiclass",
) -> Foreign:
    """What a file says of itself, with what was declared; nothing is guessed.

    Args:
        path: The file.
        recipe: What was declared of it.
        size: Height and width where file and recipe leave them free.
        task: Whether its outputs exclude one another; None: several sigmoids at its end do not.

    Raises:
        ModelError: It is no image classifier that can be run, its answers hang on chance or on the
            batch, or what it leaves open was not declared.
    """
    written = read_foreign(path)
    model = _unbranched(_raised(written, path.name), path.name)
    changed = model is not written
    widened = _widened(model)
    facts = {item.key: item.value for item in model.metadata_props}
    graph = model.graph
    image = _input(graph, path)
    kind = image.type.tensor_type.elem_type
    first = _first_layer(graph, image.name)
    layout, channels, height, width = _shape(image, first, recipe, facts, size, path)
    batch = _batch(image)
    output = _output(graph, recipe, path)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    onnx_graph.drop_unused(graph)
    sides = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    probes = _probes(kind, sides)
    if changed:
        _check_raised(written, model, probes[: max(1, batch)], path)
    cut = _cut(graph, recipe, task, path)
    output = graph.output[0].name
    answers, single = _answers(model, image, batch, probes, path)
    shape = _classes_axis(answers.shape[1:], path)
    rows = answers.reshape(len(answers), -1)
    if task is None:
        task = "multilabel" if cut == "Sigmoid" and rows.shape[1] > 1 else "multiclass"
    ending = _ending(rows, cut, recipe, task, path)
    scale = facts.get("Image.NominalPixelRange", "")
    declared = recipe.scale if recipe.mean is None else "mean and std"
    known = RANGES.get(scale) or _own_scale(graph, image, layout)
    if known == "0..255" and kind in WHOLE and declared not in (None, known):
        raise ModelError(f"scale 0..255 for '{path.name}', which takes bytes", f"'{declared}'")
    return Foreign(
        name=path.name,
        model=model,
        image=image.name,
        kind=kind,
        layout=layout,
        channels=channels,
        height=height,
        width=width,
        output=output,
        shape=shape,
        ending=ending,
        cut=cut,
        names=_names(facts, rows.shape[1] if task == "multilabel" else max(2, rows.shape[1]), task),
        task=task,
        scale=known,
        order=ORDERS.get(facts.get("Image.BitmapPixelFormat", "")),
        single=single,
        precision="int8" if is_quantized(graph) else "float32",
        widened=widened,
    )


def _input(graph: onnx.GraphProto, path: Path) -> onnx.ValueInfoProto:
    named = ", ".join(f"'{item.name}'" for item in graph.input) or "none"
    if len(graph.input) != 1:
        raise ModelError(f"one input, the image, in '{path.name}'", named)
    image: onnx.ValueInfoProto = graph.input[0]
    kind = image.type.tensor_type.elem_type
    if not image.type.HasField("tensor_type") or kind not in {TensorProto.FLOAT, *WHOLE}:
        what = TensorProto.DataType.Name(kind) if kind else "no tensor"
        raise ModelError(f"pixels as the input {named} of '{path.name}'", what)
    return image


def _dimensions(item: onnx.ValueInfoProto) -> list[int] | None:
    """Sides of a tensor, 0 for a free one; None where not even their number is known."""
    kind = item.type.tensor_type
    return [max(0, d.dim_value) for d in kind.shape.dim] if kind.HasField("shape") else None


def _batch(image: onnx.ValueInfoProto) -> int:
    sides = _dimensions(image)
    return sides[0] if sides else 0


def _first_layer(graph: onnx.GraphProto, image: str) -> tuple[int, bool] | None:
    """Channels that the first convolution takes, and whether they were moved in front of it."""
    values = onnx_graph.constants(graph)
    waiting, seen = [(image, False)], {image}
    while waiting:
        name, moved = waiting.pop(0)
        for node in graph.node:
            if name not in node.input[:1]:
                continue
            if node.op_type == "Conv":
                weight = _weight(node.input[1], graph, values)
                if weight is None:
                    return None
                return weight[1] * onnx_graph.attribute(node, "group", 1), moved
            turned = node.op_type == "Transpose" and onnx_graph.attribute(node, "perm", []) in (
                TO_FIRST,
            )
            for made in node.output[:1]:
                if made not in seen:
                    seen.add(made)
                    waiting.append((made, moved or turned))
    return None


def _weight(name: str, graph: onnx.GraphProto, values: dict[str, Array]) -> tuple[int, ...] | None:
    """Shape of a weight, stored as it is or to be dequantized, turned or cast first."""
    for _ in range(4):
        if name in values:
            return values[name].shape
        maker = next((node for node in graph.node if name in node.output), None)
        if maker is None or maker.op_type not in ("DequantizeLinear", "Cast", "Identity"):
            return None
        name = maker.input[0]
    return None


def _shape(
    image: onnx.ValueInfoProto,
    first: tuple[int, bool] | None,
    recipe: OnnxRecipe,
    facts: dict[str, str],
    size: tuple[int, int] | None,
    path: Path,
) -> tuple[Literal["NCHW", "NHWC"], int, int, int]:
    """Layout, channels, height and width of the input."""
    sides = _dimensions(image)
    sides = [0, 0, 0, 0] if sides is None else sides
    if len(sides) != 4:
        raise ModelError(
            f"an input [n, channels, height, width] or [n, height, width, channels] in "
            f"'{path.name}'",
            f"{len(sides)} axes",
        )
    fits = [
        name
        for name, axis in (("NCHW", 1), ("NHWC", 3))
        if sides[axis] in ((0, first[0]) if first else (0, 1, 3))
    ]
    layout = recipe.layout or (fits[0] if len(fits) == 1 else None)
    if layout is None and fits and first is not None:
        layout = "NHWC" if first[1] else "NCHW"
    if layout is None:
        raise _asked("layout", path, "NCHW or NHWC")
    known: Literal["NCHW", "NHWC"] = "NCHW" if layout == "NCHW" else "NHWC"
    axis = 1 if layout == "NCHW" else 3
    channels = sides[axis] or (first[0] if first else 0)
    if channels not in (1, 3):
        raise ModelError(
            f"grey or colour images, of 1 or 3 channels, for '{path.name}'",
            f"an input {sides} of {channels} channels" if channels else f"an input {sides}",
            None if recipe.layout else "declare 'layout' where it is misread",
        )
    height, width = (sides[2], sides[3]) if layout == "NCHW" else (sides[1], sides[2])
    declared = (recipe.size,) * 2 if isinstance(recipe.size, int) else recipe.size
    if not (height and width):
        free = declared or _size_of(facts) or size
        if free is None:
            raise _asked("size", path, "pixels, for example 224")
        height, width = height or free[0], width or free[1]
    if declared is not None and declared != (height, width):
        raise ModelError(
            f"{height} x {width} pixels, as '{path.name}' takes", f"size {declared}", "leave it out"
        )
    return known, channels, height, width


def _size_of(facts: dict[str, str]) -> tuple[int, int] | None:
    size = _read_literal(facts.get("imgsz", ""))
    if isinstance(size, int):
        size = [size, size]
    if isinstance(size, list | tuple) and len(size) == 2 and all(type(s) is int for s in size):
        return size[0], size[1]
    return None


def _asked(key: str, path: Path, values: str) -> ModelError:
    return ModelError(f"'{key}' of '{path.name}', which the file leaves open", "none", values)


def _output(graph: onnx.GraphProto, recipe: OnnxRecipe, path: Path) -> str:
    every: list[str] = [item.name for item in graph.output]
    if recipe.output is not None:
        if recipe.output not in every:
            raise ModelError(f"an output of '{path.name}': {', '.join(every)}", recipe.output)
        return recipe.output
    floats: list[str] = [
        item.name
        for item in graph.output
        if item.type.HasField("tensor_type")
        and item.type.tensor_type.elem_type in (0, TensorProto.FLOAT)
        and _dimensions(item) != []
    ]
    if len(floats) == 1:
        return floats[0]
    described = ", ".join(f"'{item.name}' ({_kind(item)})" for item in graph.output)
    fix = (
        "name the right one with 'output'" if floats else "export it with plain scores (no ZipMap)"
    )
    raise ModelError(f"one output of class scores in '{path.name}'", described, fix)


def _kind(item: onnx.ValueInfoProto) -> str:
    if not item.type.HasField("tensor_type"):
        return str(item.type.WhichOneof("value")).removesuffix("_type")
    kind = TensorProto.DataType.Name(item.type.tensor_type.elem_type).lower()
    return f"{kind} {_dimensions(item) or ''}".strip()


def _cut(graph: onnx.GraphProto, recipe: OnnxRecipe, task: Task | None, path: Path) -> str:
    """Cut off the softmax or sigmoid that the answers come out of; its name, or "".

    What stands behind it moves values about and means the same for logits.
    """
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in PASSED:
        node = makers.get(node.input[0])
    endings = ("Softmax", "LogSoftmax", "Sigmoid")
    if node is None or node.op_type not in endings or onnx_graph.attribute(node, "axis", 1) == 0:
        return ""
    if task == "multilabel" and node.op_type != "Sigmoid":
        raise _one_of_several(path, f"a {node.op_type}")
    if recipe.answers == "logits" and node.op_type != "LogSoftmax":
        raise ModelError(
            f"answers: probabilities, as the {node.op_type} at the end of '{path.name}' makes them",
            "logits",
            "leave 'answers' out",
        )
    if node.op_type == "Sigmoid" and recipe.answers == "probabilities" and task != "multilabel":
        return ""  # of several, whatever they are: `_ending` looks at them
    name: str = node.op_type
    if node.output[0] == graph.output[0].name:
        graph.output[0].name = node.input[0]
    for other in graph.node:
        for position, given in enumerate(other.input):
            if given == node.output[0]:
                other.input[position] = node.input[0]
    onnx_graph.drop_unused(graph)
    return name


def _probes(kind: int, sides: tuple[int, ...]) -> Array:
    """Pictures of noise, unlike one another, or a mean over the batch is the image's own."""
    noise = np.random.default_rng(0).random((PROBES, *sides))
    noise *= np.linspace(1, 0.2, PROBES).reshape(-1, 1, 1, 1)
    if kind in WHOLE:
        largest = 127 if kind == TensorProto.INT8 else 255
        return (largest * noise).astype(helper.tensor_dtype_to_np_dtype(kind))
    return noise.astype(np.float32)


Run = Callable[[Array], Array]


def _opened(model: onnx.ModelProto, name: str) -> Run:
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(serialized(model, name))
        opened = session(file, None)
    image = opened.get_inputs()[0].name
    return lambda images: np.asarray(opened.run(None, {image: images})[0])


def _answers(
    model: onnx.ModelProto, image: onnx.ValueInfoProto, batch: int, probes: Array, path: Path
) -> tuple[Array, bool]:
    """Answers to the probes, each alone; and whether it takes one image at a time.

    A batch that is baked in is freed, in place, where the answers then stay what they were.
    """
    try:
        run = _opened(model, path.name)
        if batch > 1:
            probes = np.resize(probes, (batch, *probes.shape[1:]))
            first = run(probes)
        else:
            first = np.concatenate([run(one[None]) for one in probes])
            again = np.concatenate([run(one[None]) for one in probes])
            _check_same(first, again, path, "between two looks at the same images")
    except ModelError:
        raise
    except Exception as problem:  # the engine's own, of no common base
        raise ModelError(
            f"answers from '{path.name}'", f"an engine that gave up ({first_line(problem)})"
        ) from None
    if len(first) != len(probes):
        raise ModelError(
            f"an answer for each image from '{path.name}'", f"the shape {list(first.shape)}"
        )
    # its ranges follow what is in the batch, as all dynamically quantized files' do
    if any(node.op_type == "DynamicQuantizeLinear" for node in _nodes(model.graph)):
        image.type.tensor_type.shape.dim[0].dim_value = 1
        return first, True
    if batch == 0 and (together := _together(run, probes)) is not None:
        _check_same(first, together, path, "alone and in a batch")
        return first, False
    freed = onnx.ModelProto.FromString(model.SerializeToString())
    _free_batch(freed, batch or 1)
    with contextlib.suppress(Exception):  # what is baked in may be beyond that
        run = _opened(freed, path.name)
        together = _together(run, probes)
        alone = np.concatenate([run(one[None]) for one in probes])
        if together is not None and max(_gap(first, together), _gap(first, alone)) <= SAME:
            model.CopyFrom(freed)
            return first, False
    if batch > 1:
        raise ModelError(
            f"'{path.name}' to take images one by one or in any number",
            f"a batch of {batch}, baked into it",
            "export it with a dynamic batch axis",
        )
    image.type.tensor_type.shape.dim[0].dim_value = 1
    return first, True


def _together(run: Run, probes: Array) -> Array | None:
    try:
        answers = run(probes)
    except Exception:  # the engine's own: it does not take so many
        return None
    return answers if len(answers) == len(probes) else None


def _free_batch(model: onnx.ModelProto, batch: int) -> None:
    """Let the first axis of the input, and of every reshape to that many, be any."""
    graph = model.graph
    kind = graph.input[0].type.tensor_type
    if kind.HasField("shape"):
        kind.shape.dim[0].dim_param = "n"
    del graph.value_info[:]
    del graph.output[0].type.tensor_type.shape.dim[:]
    graph.output[0].type.tensor_type.ClearField("shape")
    values = onnx_graph.constants(graph)
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or node.input[1] not in values:
            continue
        sides = values[node.input[1]].astype(np.int64)
        if len(sides) and sides[0] == batch and node.input[0] not in values:
            name = f"freed_{number}.shape"
            graph.initializer.append(numpy_helper.from_array(np.r_[0, sides[1:]], name))
            node.input[1] = name


def _gap(first: Array, second: Array) -> float:
    scale = max(float(np.ptp(first)), float(np.abs(first).max()), 1e-12)
    return float(np.abs(first.astype(np.float64) - second).max()) / scale


def _check_same(first: Array, second: Array, path: Path, when: str) -> None:
    if first.shape != second.shape or not _gap(first, second) <= SAME:
        raise ModelError(
            f"one answer of '{path.name}' to an image",
            f"answers that differ {when}",
            "export it again after model.eval(), computing over each image by itself",
        )


def _classes_axis(shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    if sum(side > 1 for side in shape) > 1:
        raise ModelError(
            f"a score for each class from '{path.name}'",
            f"answers of shape {['n', *shape]}: a map, not a class",
        )
    return shape


def _one_of_several(path: Path, ending: str) -> ModelError:
    return ModelError(
        f"an answer about each finding from '{path.name}', for task: multilabel",
        f"{ending} over all of them, as if one excluded the others",
        "take a file that ends in a sigmoid for each, or in logits; classes that exclude one "
        "another are task: multiclass",
    )


def _ending(
    rows: Array, cut: str, recipe: OnnxRecipe, task: Task, path: Path
) -> Literal["logits", "probabilities"]:
    """Whether the answers are logits, by their signs and sums."""
    if not np.isfinite(rows).all():
        raise ModelError(f"finite answers from '{path.name}'", "NaN or infinity for noise")
    positive, several = bool((rows >= 0).all() and (rows <= 1 + UNIT).all()), rows.shape[1] > 1
    sums = positive and several and bool((np.abs(rows.sum(1) - 1) < UNIT).all())
    if several and not cut and (rows >= 0).all():
        _check_shares(rows, path)
    if task == "multilabel" and sums:
        raise _one_of_several(path, "shares of 1, a softmax")
    if task == "multilabel" and positive and not cut and recipe.answers is None:
        shifted = "probabilities (torchxrayvision's too: 0.5 is then its makers' operating point)"
        raise _asked("answers", path, f"logits, or {shifted}")
    if cut == "Sigmoid" and several and task != "multilabel":
        raise ModelError(
            f"one class of several from '{path.name}'",
            f"{rows.shape[1]} sigmoids, each an answer of its own",
            "set task: multilabel where they are findings; where the classes exclude one another, "
            "declare answers: probabilities",
        )
    if recipe.answers == "probabilities" and not cut and not positive:
        raise ModelError(f"probabilities from '{path.name}', as declared", "values beyond 0 and 1")
    if recipe.answers == "logits" and sums:
        raise ModelError(f"logits from '{path.name}', as declared", "values whose sum is 1")
    if sums or (recipe.answers == "probabilities" and not cut):
        return "probabilities"
    if positive and not several and not cut and recipe.answers is None:
        raise _asked("answers", path, "logits or probabilities")
    return "logits"


def _check_shares(rows: Array, path: Path) -> None:
    """Refuse what is no score of a class: shares of another whole than 1, and bare decisions."""
    totals = rows.sum(1)
    whole, largest = float(totals.mean()), rows.max(1)
    varied = float(np.abs(rows - rows.mean(0)).max()) > 10 * UNIT * whole
    same = bool((np.abs(totals - whole) < UNIT * whole).all())
    if varied and same and whole > 0 and abs(whole - 1) > UNIT:
        raise ModelError(
            f"logits or probabilities from '{path.name}'",
            f"values of 0 and more whose sum is {whole:.4g} for each image",
            "export it with the probabilities as they are, or with what comes before them",
        )
    if bool((largest == 1).all() and (totals == 1).all()):
        raise ModelError(
            f"a score for each class from '{path.name}'",
            "decisions: 1 for a class and 0 for every other",
            "export it with what comes before the argmax",
        )


def _read_literal(text: str) -> Any:
    """A value written as JSON or as Python writes it; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _names(facts: dict[str, str], count: int, task: Task) -> tuple[str, ...] | None:
    """Names of the classes in the order of the outputs, where the metadata holds as many.

    One of several findings may have none, as what torchxrayvision's networks were not trained for.
    """
    for key in NAMES:
        text = facts.get(key, "")
        value = _read_literal(text)
        if isinstance(value, dict):
            by_number = {str(k): v for k, v in value.items()}
            value = [by_number.get(str(number)) for number in range(len(value))]
        if value is None and text.strip():
            value = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
        if isinstance(value, list | tuple) and len(value) == count:
            names = tuple(str(name or "") for name in value)
            if len(set(names)) == count and all(names):
                return names
            known = [name for name in names if name]
            if task == "multilabel" and known and len(set(known)) == len(known):
                return names
    return None


def _own_scale(graph: onnx.GraphProto, image: onnx.ValueInfoProto, layout: str) -> str | None:
    """Grey levels where the input is bytes, or the graph itself brings them down to about 1."""
    if image.type.tensor_type.elem_type in WHOLE:
        return "0..255"
    values = onnx_graph.constants(graph)
    name = image.name
    for _ in range(6):
        following = [node for node in graph.node if name in node.input]
        if len(following) != 1:
            return None
        node = following[0]
        other = next((values[g] for g in node.input if g in values), None)
        if node.op_type in ("Mul", "Div") and other is not None and other.size in (1, 3):
            factor = float(np.abs(other).mean())
            factor = 1 / factor if node.op_type == "Div" and factor else factor
            return "0..255" if 1 / 300 < factor < 1 / 40 else None
        if node.op_type not in ("Transpose", "Cast", "Identity", "Sub", "Add"):
            return None
        name = node.output[0]
    return None
