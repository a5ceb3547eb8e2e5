"""LiteRT files (.tflite): float32, and what its quantizer makes of that.

    plan_litert       ranges of activations for "int8": calibrated, or given by name of an ONNX file
    apply_litert      writes the file of a plan
    count_operators   what XNNPACK really runs
    weight_bytes      what the file really holds

    float32        uint8 pixels in, normalisation inside
    float16        the same with weights in float16, computed in float32
    int8-dynamic   8-bit weights, activations rounded at run time
    int4-weights   4-bit weights of convolutions and linear layers, one scale per output channel
                   (the runtime knows no smaller blocks there); depthwise ones in 8 bits
    int8           integers throughout: the pixels less 128 in, int8 logits out

Of the graph that is quantized to int8, `litert_graph` has taken what would end an integer graph of
XNNPACK and begin another: MobileNetV3-Small at 96 px, one thread, 0.13 ms against 0.64 ms with the
quantizer's defaults and 0.22 ms in float32.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.file import first_line
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert import rewrites as litert_rewrites
from clinipress.formats.litert.float import float_graph, levels_of
from clinipress.formats.litert.packing import pack_first_convolution
from clinipress.formats.litert.ranges import calibrated, extremes, placed, settled
from clinipress.formats.litert.rewrites import BIASES
from clinipress.formats.litert.run import silence
from clinipress.formats.precision import is_float_layer, zero_counts
from clinipress.formats.ranges import quiet
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import write_atomically

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = [
    "apply_litert",
    "count_operators",
    "float_layers",
    "plan_integers",
    "plan_litert",
    "quantized",
    "weight_bytes",
]

Ranges = Mapping[str, tuple[float, float]]

# LiteRT operator -> the ONNX operator it computes.
NAMES = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "TRANSPOSE_CONV": "ConvTranspose",
    "FULLY_CONNECTED": "Gemm",
    "BATCH_MATMUL": "MatMul",
    "ADD": "Add",
    "SUB": "Sub",
    "MUL": "Mul",
    "DIV": "Div",
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "AVERAGE_POOL_2D": "AveragePool",
    "MAX_POOL_2D": "MaxPool",
    "CONCATENATION": "Concat",
    "PAD": "Pad",
    "PADV2": "Pad",
    "LOGISTIC": "Sigmoid",
    "HARD_SWISH": "HardSwish",
    "SOFTMAX": "Softmax",
    "RELU": "Relu",
    "RELU6": "Clip",
    "GELU": "Gelu",
    "TANH": "Tanh",
}
CONVERSIONS = {"CAST": "Cast", "QUANTIZE": "QuantizeLinear", "DEQUANTIZE": "DequantizeLinear"}
# Moving values about costs little in any type and says nothing about precision.
MOVES = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SHAPE"}
LARGEST_BIAS = 2**30  # of int32, with as much left for the sum of products
LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def plan_litert(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    images: NDArray[np.uint8],
    *,
    ranges: Ranges | None = None,
) -> dict[str, Any]:
    """Measure what the recipe's precision needs.

    Returns:
        For "int8": "ranges", tensor of the file's float32 graph -> (low, high), and "facts", how
        many of them were given and how many calibrated; else {}.

    Raises:
        ModelError: The network cannot be converted, or there are no images to calibrate with.
    """
    if recipe.precision != "int8":
        return {}
    return plan_integers(parent, source, images, ranges, integer_graph(parent))


def apply_litert(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    target: Path,
    plan: Mapping[str, Any],
    card: Card,
) -> None:
    """Write the file of a plan; its bytes depend on the network and the plan alone.

    Raises:
        ModelError: The network cannot be converted or quantized.
        StorageError: The disk is full or cannot be written.
    """
    if recipe.precision == "int8":
        content = quantized(integer_graph(parent), plan["ranges"])
    else:
        content = float_graph(parent, levels=False)
        if recipe.precision != "float32":
            content = _quantize(content, _weights_alone(recipe.precision), {})
    write_atomically(target, content)


def integer_graph(parent: TorchCandidate) -> bytes:
    """The float32 graph that is quantized to int8 for XNNPACK."""
    model = litert_graph.read(float_graph(parent, levels=True))
    litert_rewrites.spell_out_hard_swish(model)
    litert_rewrites.convolve_average_pools(model)
    pack_first_convolution(model)
    litert_graph.name_by_place(model)
    return litert_graph.pack(model)


def plan_integers(
    parent: TorchCandidate,
    source: Path,
    images: NDArray[np.uint8],
    ranges: Ranges | None,
    graph: bytes,
) -> dict[str, Any]:
    """The plan of an integer file, from the float32 graph that is to be quantized."""
    if not len(images):
        raise ModelError("calibration images", "none", "set calibration_images to 1 or more")
    levels = levels_of(parent.module)
    low = -levels.zero * levels.scale
    fixed = {litert_graph.INPUT_NAME: (low, low + 255 * levels.scale)}
    if ranges is None:
        measured = calibrated(graph, _quantizer(graph, _integers()), levels, images)
        facts = {"calibrated_by_runtime": len(measured)}
    else:
        measured = extremes(graph, levels, images)
        given = placed(graph, levels, source, images, ranges)
        fixed = {name: ends for name, (_, ends) in given.items()} | fixed
        used = len({name for name, _ in given.values()})
        facts = {"given_ranges": len(ranges), "given_ranges_used": used, "places": len(measured)}
        facts |= {"places_given": len(given), "places_calibrated": len(measured) - len(given)}
    measured = settled(graph, measured, fixed)
    return {"ranges": {name: list(ends) for name, ends in measured.items()}, "facts": facts}


def quantized(graph: bytes, ranges: Ranges) -> bytes:
    """The integer file of a float32 graph and the ranges of its tensors."""
    model = litert_graph.read(_quantize(graph, _integers(), ranges))
    _fit_biases(model, litert_graph.read(graph))
    return litert_graph.pack(model)


def _fit_biases(model: Any, floats: Any) -> None:
    """Coarser steps for channels of weights so small that their biases would not fit, in place.

    A bias is an int32 in steps of the input's times the weights'; one that is cut off moves its
    channel by any amount.

    Args:
        model: The integer file.
        floats: The float32 graph it is of.
    """
    layers = [
        [i for i in m.subgraphs[0].operators if litert_graph.operator_name(m, i) in BIASES]
        for m in (model, floats)
    ]
    tensors = model.subgraphs[0].tensors
    for item, original in zip(*layers, strict=True):
        position = BIASES[litert_graph.operator_name(model, item)]
        given = original.inputs[1], *original.inputs[position : position + 1]
        exact = [litert_graph.constant(floats, int(number)) for number in given]
        if len(exact) < 2 or exact[0] is None or exact[1] is None:
            continue
        weight, bias = (tensors[int(item.inputs[place])] for place in (1, position))
        if bias.type != litert_graph.schema.TensorType.INT32 or bias.quantization is None:
            continue
        steps = np.asarray(bias.quantization.scale, np.float64)
        beyond = np.abs(exact[1].astype(np.float64)).reshape(-1) / (LARGEST_BIAS * steps)
        if len(steps) != len(np.asarray(weight.quantization.scale)) or beyond.max() <= 1:
            continue
        factor = np.maximum(beyond, 1) if len(steps) > 1 else np.maximum(beyond.max(), 1)[None]
        inputs = [int(number) for number in item.inputs]
        shape = [1] * exact[0].ndim
        shape[weight.quantization.quantizedDimension] = -1
        for place, tensor, values, sides in ((1, weight, exact[0], shape),
                                             (position, bias, exact[1], [-1])):  # fmt: skip
            made = copy.deepcopy(tensor)
            scale = np.asarray(made.quantization.scale, np.float64) * factor
            made.quantization.scale = scale.astype(np.float32)
            kind = np.int8 if place == 1 else np.int32
            rounded = np.round(values / scale.reshape(sides)).astype(kind)
            model.buffers.append(
                litert_graph.schema.BufferT(data=np.frombuffer(rounded.tobytes(), np.uint8))
            )
            made.buffer = len(model.buffers) - 1
            tensors.append(made)
            inputs[place] = len(tensors) - 1
        item.inputs = inputs


def _quantizer(graph: bytes, recipe: list[dict[str, Any]]) -> Any:
    with silence(), quiet():
        engine = require("ai_edge_quantizer.quantizer", extra="litert")
        return engine.Quantizer(graph, recipe)


def _quantize(
    graph: bytes, recipe: list[dict[str, Any]], ranges: Mapping[str, tuple[float, float]]
) -> bytes:
    tensors = litert_graph.read(graph).subgraphs[0].tensors
    ranks = {
        tensor.name.decode(): len(tensor.shape) for tensor in tensors if tensor.shape is not None
    }
    statistics = {
        name: {
            side: np.full([1] * ranks[name], end, np.float32)
            for side, end in zip(("min", "max"), ends, strict=True)
        }
        for name, ends in ranges.items()
    }
    try:
        with silence(), quiet():
            made = _quantizer(graph, recipe).quantize(
                statistics or None, enable_progress_bar=False, enable_progress_report=False
            )
    except (ValueError, RuntimeError, KeyError) as problem:
        raise ModelError(
            "a network that ai_edge_quantizer can quantize",
            first_line(problem),
            "choose another precision or format",
        ) from problem
    return litert_graph.pack(litert_graph.read(bytes(made.quantized_model)))


def _rule(operation: str, kind: str, bits: int, *, algorithm: str, **config: Any) -> dict[str, Any]:
    """One entry of the quantizer's recipe, in its JSON form."""
    weights = {"num_bits": bits, "symmetric": True, "dtype": kind, "granularity": "CHANNELWISE"}
    return {
        "regex": ".*",
        "operation": operation,
        "algorithm_key": algorithm,
        "op_config": {
            "weight_tensor_config": weights,
            "skip_checks": False,
            "min_weight_elements": 0,
            **config,
        },
    }


MINMAX, CASTING = "min_max_uniform_quantize", "float_casting"


def _integers() -> list[dict[str, Any]]:
    activations = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"}
    return [
        _rule(
            "*",
            "INT",
            8,
            algorithm=MINMAX,
            activation_tensor_config=activations,
            compute_precision="INTEGER",
            explicit_dequantize=False,
        )
    ]


def _weights_alone(precision: str) -> list[dict[str, Any]]:
    inside = {"compute_precision": "FLOAT", "explicit_dequantize": True}
    if precision == "float16":
        operations = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_2D_TRANSPOSE")
        return [_rule(name, "FLOAT", 16, algorithm=CASTING, **inside) for name in operations]
    if precision == "int8-dynamic":
        dynamic = {"compute_precision": "INTEGER", "explicit_dequantize": False}
        return [_rule("*", "INT", 8, algorithm=MINMAX, **dynamic)]
    return [
        _rule("*", "INT", 8, algorithm=MINMAX, **inside),
        _rule("CONV_2D", "INT", 4, algorithm=MINMAX, **inside),
        _rule("FULLY_CONNECTED", "INT", 4, algorithm=MINMAX, **inside),
        _rule("BATCH_MATMUL", "INT", 4, algorithm=MINMAX, **inside),
    ]


def count_operators(path: Path) -> dict[str, int]:
    """What the runtime computes in which type, by ONNX's names.

    The type is that of an operator's data; of layers with 8-bit weights whose data is float, which
    round it at run time, that of the weights. Weights that are unpacked when the file is loaded
    (float16, 4 bits) count as what they are unpacked to.

    Returns:
        Operator and type -> number: {"Conv float32": 0, "Conv int8": 52, ...}; "conversion ..." for
        each one that is computed at run time.
    """
    counts = zero_counts()
    counts.update(key for _, key in _operators(path))
    return dict(sorted(counts.items()))


def float_layers(path: Path) -> list[str]:
    """Names, by operator and place in the file, of the layers that compute in float."""
    return [name for name, key in _operators(path) if is_float_layer(key)]


def _operators(path: Path) -> Iterator[tuple[str, str]]:
    """Each operator that computes something: its name by place, and the key it counts under."""
    model = litert_graph.read(path.read_bytes())
    for index, item in enumerate(model.subgraphs[0].operators):
        operator = litert_graph.operator_name(model, item)
        first = int(item.inputs[0])
        if operator in MOVES or (operator in CONVERSIONS and litert_graph.stored(model, first)):
            continue
        if operator in CONVERSIONS:
            yield operator, f"conversion {CONVERSIONS[operator]}"
            continue
        name = NAMES.get(operator, operator)
        kind = litert_graph.type_name(model, first)
        if name in LAYERS and litert_graph.type_name(model, int(item.inputs[1])) == "int8":
            kind = "int8"
        yield f"{operator}_{index}", f"{name} {kind}"


def blamed(path: Path, message: str) -> str | None:
    """The operators that touch the tensor an engine's message names: " (TRANSPOSE_CONV)"."""
    match = re.search(r"[Tt]ensor (\d+)", message)
    if match is None:
        return None
    model, number = litert_graph.read(path.read_bytes()), int(match[1])
    names = [
        litert_graph.operator_name(model, item)
        for item in model.subgraphs[0].operators
        if number in [*item.inputs, *item.outputs]
    ]
    return f" ({', '.join(dict.fromkeys(names))})" if names else None


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of the stored weights by type: {"int8": 2236682, "int32": 9160}."""
    model = litert_graph.read(path.read_bytes())
    sizes: Counter[str] = Counter()
    seen = set()
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        if litert_graph.stored(model, number) and tensor.buffer not in seen:
            seen.add(tensor.buffer)
            data = model.buffers[tensor.buffer].data
            sizes[litert_graph.type_name(model, number)] += len(data)
    return dict(sorted(sizes.items()))
