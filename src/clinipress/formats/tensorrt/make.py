"""ONNX files that TensorRT takes: rules checked one by one, and a script that builds the engine.

TensorRT builds its engine on the very GPU that runs it, from an ONNX file. Parsers of the boards in
use (TensorRT 8.2 on a Jetson Nano, 8.5 to 11 on an Orin) take less than ONNX Runtime does; `RULES`
says what, and `broken_rules` reads each off a file. The evidence of such a file is of its
arithmetic under ONNX Runtime; time and memory of the engine are measured where there is one.

Sources: TensorRT support matrices 8.2.5 to 11 (opsets, types); onnx-tensorrt docs/operators.md
(operators); TensorRT documentation, "Explicit Quantization" (symmetric 8-bit grids in strongly
typed networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from clinipress.errors import ModelError
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.count import weight_bytes
from clinipress.formats.onnx.float import halve
from clinipress.formats.onnx.int8 import plan_int8, symmetric_graph
from clinipress.formats.onnx.write import write
from clinipress.formats.precision import zero_counts
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import write_atomically

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = [
    "RULES",
    "apply_tensorrt",
    "broken_rules",
    "count_operators",
    "plan_tensorrt",
    "weight_bytes",
]

OPSET = 13  # the latest that TensorRT 8.2's parser knows; per-channel DequantizeLinear begins there
SCRIPT = "build_engine.py"
# Of onnx-tensorrt's operators.md at 8.2: what classifiers are made of.
OPERATORS = frozenset(
    (
        *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv"),
        *("ConvTranspose", "DequantizeLinear", "Div", "Elu", "Erf", "Exp", "Expand", "Flatten"),
        *("Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "Identity"),
        *("LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Pow", "QuantizeLinear", "ReduceMean"),
        *("Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze"),
        *("Sub", "Tanh", "Transpose", "Unsqueeze"),
    )
)
# Attributes that later opsets added, and the value that means what opset 13 does.
ADDED = MappingProxyType(
    {
        ("Cast", "saturate"): 1,
        ("BatchNormalization", "training_mode"): 0,
        ("Shape", "start"): 0,
        ("DequantizeLinear", "block_size"): 0,
        ("QuantizeLinear", "block_size"): 0,
        ("QuantizeLinear", "saturate"): 1,
        ("QuantizeLinear", "output_dtype"): 0,
    }
)


def plan_tensorrt(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    images: NDArray[np.uint8],
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Ranges of activations for an int8 file; {} for the others."""
    if recipe.precision != "int8":
        return {}
    plan = plan_int8(source, images, ranges=ranges)
    return {"ranges": {name: list(ends) for name, ends in plan.ranges.items()}}


def apply_tensorrt(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    target: Path,
    plan: Mapping[str, Any],
    card: Card,
) -> None:
    """Write the ONNX file and ``build_engine.py`` beside it.

    Raises:
        ModelError: The network breaks a rule that cannot be mended.
        StorageError: The disk is full or cannot be written.
    """
    model = onnx.load(source)  # its batch norms as they are: TensorRT has a layer for them
    _take_floats(model)
    _lower_opset(model)
    if recipe.precision == "int8":
        ranges = {name: (low, high) for name, (low, high) in plan["ranges"].items()}
        model = symmetric_graph(model, ranges)
    elif recipe.precision == "float16":
        model = halve(model, source)
    onnx_graph.drop_unused(model.graph)
    broken = broken_rules(model)
    if broken:
        raise ModelError(
            f"a network that TensorRT takes ('{parent.card.name}')",
            broken[0],
            "export it as 'onnx', or choose another network",
        )
    write(model, target, card)
    script = (
        resources.files("clinipress.formats.tensorrt").joinpath(SCRIPT).read_text(encoding="utf-8")
    )
    write_atomically(target.parent / SCRIPT, script)


def _take_floats(model: onnx.ModelProto) -> None:
    """Let the graph take float32 pixels 0 to 255: TensorRT before 8.5 has no uint8."""
    graph = model.graph
    image = graph.input[0]
    normalisation = onnx_graph.find_normalisation(graph)
    image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    if normalisation is None:  # a mean per channel: it begins with a Cast, which becomes nothing
        casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] == image.name]
        same = {node.output[0]: image.name for node in casts}
        onnx_graph.replace_nodes(graph, tuple(casts), [])
        for node in graph.node:
            node.input[:] = [same.get(name, name) for name in node.input]
        return
    numbers = {"normalise.zero32": normalisation.zero, "normalise.scale32": normalisation.scale}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in numbers.items()
    )
    zero, scale = numbers
    nodes = [
        helper.make_node("Sub", [image.name, zero], ["normalise.sub32"]),
        helper.make_node("Mul", ["normalise.sub32", scale], [normalisation.output]),
    ]
    onnx_graph.replace_nodes(graph, normalisation.nodes, nodes)


def _lower_opset(model: onnx.ModelProto) -> None:
    """Say the same in opset 13, where it can be said; `broken_rules` finds what could not."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        make = EXPANSIONS.get(node.op_type)
        nodes += make(node, graph) if make else [node]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    values = onnx_graph.constants(graph)
    for node in copies:
        kept = [item for item in node.attribute if not _says_nothing(node, item, values)]
        copied = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in kept]
        del node.attribute[:]
        node.attribute.extend(copied)
    del graph.node[:]
    graph.node.extend(copies)
    if all(_known_at(node, OPSET) for node in graph.node):
        for item in model.opset_import:
            if item.domain == "":
                item.version = OPSET
        model.ir_version = min(model.ir_version, 8)


def _says_nothing(
    node: onnx.NodeProto, item: onnx.AttributeProto, values: Mapping[str, NDArray[Any]]
) -> bool:
    """An attribute of a later opset with the value that opset 13 means anyway."""
    value = helper.get_attribute_value(item)
    if item.name == "allowzero" and node.op_type == "Reshape":
        shape = values.get(node.input[1])  # it only matters for axes of length 0
        return value == 0 or (shape is not None and bool((shape != 0).all()))
    if item.name == "dilations" and node.op_type == "AveragePool":
        return all(step == 1 for step in value)
    key = (node.op_type, item.name)
    return key in ADDED and bool(ADDED[key] == value)


def _known_at(node: onnx.NodeProto, opset: int) -> bool:
    """True when opset has the operator with these attributes."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset)
    return all(item.name in schema.attributes for item in node.attribute) and (
        len(node.input) <= schema.max_input
    )


def _hard_swish(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """``x * hard_sigmoid(x)`` (opset 14 has it as one)."""
    gate = f"{node.output[0]}.gate"
    return [
        helper.make_node("HardSigmoid", [node.input[0]], [gate], alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [node.input[0], gate], [node.output[0]]),
    ]


def _shape(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Some axes of a shape: the whole of it, sliced (opset 15 does it at once)."""
    start = onnx_graph.attribute(node, "start", 0)
    end = onnx_graph.attribute(node, "end", None)
    if start == 0 and end is None:
        return [node]
    out = node.output[0]
    ends = {"first": start, "last": 2**31 - 1 if end is None else end}
    for name, value in ends.items():
        tensor = numpy_helper.from_array(np.array([value], np.int64), f"{out}.{name}")
        graph.initializer.append(tensor)
    return [
        helper.make_node("Shape", [node.input[0]], [f"{out}.whole"]),
        helper.make_node("Slice", [f"{out}.whole", f"{out}.first", f"{out}.last"], [out]),
    ]


def _reduce_mean(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Axes as an attribute (opset 18 made them an input)."""
    if len(node.input) < 2:
        return [node]
    axes = onnx_graph.constants(graph).get(node.input[1])
    if axes is None:
        return [node]
    kept = int(onnx_graph.attribute(node, "keepdims", 1))
    numbers = [int(axis) for axis in axes.ravel()]
    made = helper.make_node(
        "ReduceMean", [node.input[0]], list(node.output), axes=numbers, keepdims=kept
    )
    return [made]


def _gelu(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """``x / 2 * (1 + erf(x / sqrt 2))``, exact (opset 20 has it as one)."""
    if onnx_graph.attribute(node, "approximate", b"none") != b"none":
        return [node]
    x, out = node.input[0], node.output[0]
    names = {"root": 1 / math.sqrt(2), "one": 1.0, "half": 0.5}
    for name, value in names.items():
        tensor = numpy_helper.from_array(np.array(value, np.float32), f"{out}.{name}")
        graph.initializer.append(tensor)
    return [
        helper.make_node("Mul", [x, f"{out}.root"], [f"{out}.a"]),
        helper.make_node("Erf", [f"{out}.a"], [f"{out}.b"]),
        helper.make_node("Add", [f"{out}.b", f"{out}.one"], [f"{out}.c"]),
        helper.make_node("Mul", [x, f"{out}.half"], [f"{out}.d"]),
        helper.make_node("Mul", [f"{out}.d", f"{out}.c"], [out]),
    ]


def _layer_norm(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Mean, variance, scale and shift over the last axis (opset 17 has it as one)."""
    if onnx_graph.attribute(node, "axis", -1) != -1 or len(node.output) > 1:
        return [node]
    x, out = node.input[0], node.output[0]
    epsilon = np.array(onnx_graph.attribute(node, "epsilon", 1e-5), np.float32)
    graph.initializer.append(numpy_helper.from_array(epsilon, f"{out}.epsilon"))
    nodes = [
        helper.make_node("ReduceMean", [x], [f"{out}.mean"], axes=[-1], keepdims=1),
        helper.make_node("Sub", [x, f"{out}.mean"], [f"{out}.centred"]),
        helper.make_node("Mul", [f"{out}.centred", f"{out}.centred"], [f"{out}.square"]),
        helper.make_node("ReduceMean", [f"{out}.square"], [f"{out}.var"], axes=[-1], keepdims=1),
        helper.make_node("Add", [f"{out}.var", f"{out}.epsilon"], [f"{out}.safe"]),
        helper.make_node("Sqrt", [f"{out}.safe"], [f"{out}.deviation"]),
        helper.make_node("Div", [f"{out}.centred", f"{out}.deviation"], [f"{out}.normal"]),
    ]
    scaled = out if len(node.input) < 3 else f"{out}.scaled"
    nodes.append(helper.make_node("Mul", [f"{out}.normal", node.input[1]], [scaled]))
    if len(node.input) > 2:
        nodes.append(helper.make_node("Add", [scaled, node.input[2]], [out]))
    return nodes


Expansion = Callable[[onnx.NodeProto, onnx.GraphProto], list[onnx.NodeProto]]
EXPANSIONS: Mapping[str, Expansion] = MappingProxyType(
    {
        "HardSwish": _hard_swish,
        "Gelu": _gelu,
        "LayerNormalization": _layer_norm,
        "ReduceMean": _reduce_mean,
        "Shape": _shape,
    }
)


# ------------------------------------------------------------------ the rules


def _opset(model: onnx.ModelProto) -> str | None:
    version = max(item.version for item in model.opset_import if item.domain == "")
    return None if version <= OPSET else f"opset {version}, above {OPSET}"


def _domains(model: onnx.ModelProto) -> str | None:
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    return f"operators of {foreign[0]}" if foreign else None


def _operators(model: onnx.ModelProto) -> str | None:
    unknown = sorted({node.op_type for node in model.graph.node} - OPERATORS)
    return f"the operator {unknown[0]}" if unknown else None


def _types(model: onnx.ModelProto) -> str | None:
    """No uint8 or double, neither at the ends nor inside."""
    barred = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.DOUBLE: "double"}
    ends = [*model.graph.input, *model.graph.output]
    kinds = [(info.name, info.type.tensor_type.elem_type) for info in ends]
    kinds += [(tensor.name, tensor.data_type) for tensor in model.graph.initializer]
    barred_tensor = next(((name, barred[kind]) for name, kind in kinds if kind in barred), None)
    return f"{barred_tensor[1]} in '{barred_tensor[0]}'" if barred_tensor else None


def _symmetric(model: onnx.ModelProto) -> str | None:
    """Grids of QuantizeLinear and DequantizeLinear: constant, positive, zero point 0, int8."""
    values = onnx_graph.constants(model.graph)
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = values.get(node.input[1])
        zero = values.get(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.int8)
        if scale is None or zero is None:
            return f"a grid of {node.name or node.op_type} that is computed"
        if not (scale > 0).all() or zero.dtype != np.int8 or zero.any():
            return f"a zero point or type other than int8 0 in {node.name or node.op_type}"
    return None


def _plain_biases(model: onnx.ModelProto) -> str | None:
    """Biases of convolutions stay in float: TensorRT adds them before it rounds."""
    made = {node.output[0]: node.op_type for node in model.graph.node}
    for node in model.graph.node:
        bias = node.input[2] if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 else ""
        if made.get(bias) == "DequantizeLinear":
            return f"a quantized bias in {node.name or node.op_type}"
    return None


def _fixed_size(model: onnx.ModelProto) -> str | None:
    """All axes of the image but the batch are numbers."""
    axes = model.graph.input[0].type.tensor_type.shape.dim
    return None if all(axis.dim_value > 0 for axis in axes[1:]) else "an image without a fixed size"


# rule -> what breaks it in a model, or None
RULES: Mapping[str, Callable[[onnx.ModelProto], str | None]] = MappingProxyType(
    {
        f"opset {OPSET} or earlier (TensorRT 8.2 support matrix)": _opset,
        "operators of ONNX alone": _domains,
        "operators that onnx-tensorrt lists (docs/operators.md)": _operators,
        "no uint8 or double tensors (TensorRT 8.2: float32, float16, int8, int32, bool)": _types,
        "8-bit grids symmetric, signed and constant (Explicit Quantization)": _symmetric,
        "biases in float (Explicit Quantization)": _plain_biases,
        "a fixed image size; the batch may vary (optimization profiles)": _fixed_size,
    }
)


def broken_rules(model: onnx.ModelProto) -> tuple[str, ...]:
    """What TensorRT would refuse, one sentence per rule.

    Args:
        model: The graph.
    """
    results = ((rule, check(model)) for rule, check in RULES.items())
    return tuple(
        f"{breach}, against the rule '{rule}'" for rule, breach in results if breach is not None
    )


def count_operators(path: Path) -> dict[str, int]:
    """Operators by the precision that the file asks of the engine.

    A convolution counts as int8 when its input and weights come from int8 grids; what the engine
    makes of it is known when it has been built on the device.
    """
    graph = onnx.load(path).graph
    made = {node.output[0]: node.op_type for node in graph.node}
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    plain = "float16" if half else "float32"
    counts = zero_counts()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            key = f"conversion {node.op_type}"
        else:
            taken = [made.get(name) for name in node.input[:2]]
            key = f"{node.op_type} " + ("int8" if set(taken) == {"DequantizeLinear"} else plain)
        counts[key] += 1
    return dict(sorted(counts.items()))
