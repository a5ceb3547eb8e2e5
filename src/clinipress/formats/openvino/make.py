"""Files for OpenVINO out of the float32 ONNX file: ``model.xml`` and ``model.bin``.

    float32    the graph as it is
    float16    weights stored in float16; the engine computes in float32
    int8       int8 weights, one scale per output channel; 8-bit activations

NNCF decides where an int8 graph rounds activations: its rules follow the engine's kernels. The
grids are ours. Ranges that were learnt or measured for the ONNX file find their places by the names
of tensors, which OpenVINO keeps; NNCF's calibration gives the others. Weights are rounded as in
every int8 file of ours: the largest magnitude of each output channel over 127. What NNCF does
besides is left out, because it loses (signal to noise of the logits of a trained ResNet-18 of half
width, brain MRI at 128 px):

- ranges up to the mean over images of the extremes: 17 dB, up to the extremes themselves 31 dB;
- its fast bias correction on top of these: 21 dB;
- 7-bit weights in the first layer, against sums that saturate on processors without VNNI: 27 dB.

Everything that was measured is in the plan, and `apply_openvino` writes the conversions into the
graph by itself: it needs neither the images nor NNCF.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.equalize import smoothing_factors
from clinipress.formats.onnx.int8 import prepare
from clinipress.formats.openvino.run import TELEMETRY, compiled, engine, read
from clinipress.formats.precision import check_float16, is_float_layer, zero_counts
from clinipress.formats.ranges import quiet, with_zero
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import write_atomically

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = ["apply_openvino", "count_operators", "float_layers", "plan_openvino", "weight_bytes"]

LEVELS = 256
GATES, UNIT = {"HardSigmoid", "Sigmoid"}, (0.0, 1.0)  # operators that fill 0 to 1
LARGEST_WEIGHT = 127  # of int8, so that the grid is symmetric
# A channel whose values on the calibration images span less than this share of the tensor's range
# gets this share: it was all but silent there, and must not be cut off where it speaks.
NARROWEST = 1 / 256


def plan_openvino(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    images: NDArray[np.uint8],
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Decide where an int8 file rounds, and on which grids.

    Returns:
        {} or "places": where activations are rounded and on which grids; "weights": layer -> shape
        of its scales; "zero": the grey level that is 0, where the image's own grey levels are the
        grid of the first layer; "given", "found", "calibrated": how many ranges were given, how
        many places took one, and how many took the engine's own; "smoothing", "equalize": as in
        `steps.quantize`; "left_out": images not used.

    Raises:
        ModelError: There are no images, or the recipe changes weights that ranges were found for.
    """
    if recipe.precision != "int8":
        return {}
    _check(recipe, images, ranges)
    smoothing: dict[str, list[float]] = {}
    if recipe.smooth is not None:
        factors = smoothing_factors(prepare(source), images, recipe.smooth)
        smoothing = {name: [float(f) for f in values] for name, values in factors.items()}
    changed = {"equalize": bool(recipe.equalize), "smoothing": smoothing}
    model = _float_model(source, changed)
    quantized, zero = _nncf(model, images), _grey_zero(model)
    image = None if zero is None else [_normalised(model)[-1].get_friendly_name(), 0]
    known, conversions, used = dict(ranges or {}), [], set()
    for node in _of_type(quantized, "FakeQuantize"):
        conversion, names = _conversion(node)
        if conversion["source"] == image:
            continue
        name = next((name for name in names if name in known), None)
        given = known.get(name or "", UNIT if _source(node).get_type_name() in GATES else None)
        conversions.append(_grids(conversion, given, per_channel=parent.spec.ranges is None))
        used |= {name} - {None}
    return changed | {
        "places": conversions,
        "weights": _weighted(quantized),
        "zero": zero,
        "given": len(known),
        "found": len(used),
        "calibrated": len(conversions) - len(used),
    }


def _check(
    recipe: ExportRecipe,
    images: NDArray[np.uint8],
    ranges: Mapping[str, tuple[float, float]] | None,
) -> None:
    if not len(images):
        raise ModelError("at least one calibration image", "none", "raise calibration_images")
    if ranges and (recipe.equalize or recipe.smooth is not None):
        raise ModelError(
            "weights as they were when the ranges were found",
            f"'{'equalize' if recipe.equalize else 'smooth'}' with given ranges",
            "leave it out, or set calibration_method: runtime",
        )


# ------------------------------------------------------------------ the float graph


def _float_model(source: Path, plan: Mapping[str, Any]) -> Any:
    """The ONNX file as an OpenVINO graph of one image, its nodes named by their tensors or places.

    Names the engine makes up count everything the process has ever made; with those, equal networks
    would not give equal bytes.
    """
    engine()  # before any other part of openvino
    transformations = require("openvino._offline_transformations", extra="openvino")
    if plan.get("equalize") or plan.get("smoothing"):
        changed = prepare(source, equalized=plan["equalize"], smoothing=plan["smoothing"])
    else:
        changed = onnx_graph.opened(source)
    # an 8-bit FullyConnected that has a norm and the next rounding fused into it answers with what
    # lies in memory
    onnx_graph.fold_norms_forward(changed)
    model = read(io.BytesIO(changed.SerializeToString()))
    shape = model.inputs[0].get_partial_shape()
    shape[0] = 1
    model.reshape(shape)
    # what OpenVINO's own converter does behind every frontend: constants folded, patterns fused
    transformations.apply_moc_transformations(model, cf=True, smart_reshape=False)
    _name(model, set())
    return model


def _name(model: Any, kept: set[str]) -> None:
    """Name nodes by what they compute or by their place, but for those of the kept names."""
    for number, node in enumerate(model.get_ordered_ops()):
        kind, tensors = node.get_type_name(), sorted(node.output(0).get_names())
        if node.get_friendly_name() not in kept and kind not in ("Parameter", "Result"):
            position = f"{'new.' if kept else ''}{kind}.{number}"
            node.set_friendly_name(tensors[0].removesuffix(".out") if tensors else position)


def _names(model: Any) -> set[str]:
    return {node.get_friendly_name() for node in model.get_ops()}


def _of_type(model: Any, *names: str) -> list[Any]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() in names]


def _source(node: Any, port: int = 0) -> Any:
    return node.input_value(port).get_node()


def _readers(node: Any, port: int = 0) -> list[Any]:
    """The inputs that read an output, in an order that does not depend on addresses."""
    inputs = node.output(port).get_target_inputs()
    return sorted(inputs, key=lambda i: (i.get_node().get_friendly_name(), i.get_index()))


def _normalised(model: Any) -> list[Any]:
    """The chain that reads the image's bytes: a conversion, then a shift and a factor if any."""
    chain: list[Any] = []
    node = model.inputs[0].get_node()
    while len(readers := _readers(node)) == 1:
        following = readers[0].get_node()
        kind = following.get_type_name()
        order = ["Convert", "Subtract", "Multiply"]
        done = [link.get_type_name() for link in chain]
        if kind not in order or kind in done or (kind != "Convert" and _number(following) is None):
            break
        chain.append(following)
        node = following
    return chain


def _number(node: Any) -> float | None:
    """The second input, where that is one constant number."""
    other = _source(node, 1)
    if other.get_type_name() == "Convert":
        other = _source(other)
    single = other.get_type_name() == "Constant" and other.data.size == 1
    return float(other.data.ravel()[0]) if single else None


def _grey_zero(model: Any) -> int | None:
    """The grey level that normalisation makes 0, to the nearest; None where there is none.

    Read on that grid, the image's bytes are the first layer's 8-bit input as they are.
    """
    chain = {node.get_type_name(): node for node in _normalised(model)}
    if "Convert" not in chain or "Multiply" not in chain:
        return None
    zero = round((_number(chain["Subtract"]) if "Subtract" in chain else None) or 0)
    return zero if 0 <= zero < LEVELS else None


# ------------------------------------------------------------------ where NNCF rounds


def _nncf(model: Any, images: NDArray[np.uint8]) -> Any:
    """The graph with NNCF's conversions and ranges; `model` is left as it is."""
    engine()  # before nncf, which then finds no telemetry
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = require("nncf", extra="openvino")
        from nncf.quantization import advanced_parameters as advanced
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
        from nncf.telemetry import decorator
        from nncf.telemetry.wrapper import NNCFTelemetryStub

        if sys.modules.get(TELEMETRY) is not None:  # openvino was imported before us
            decorator.telemetry = NNCFTelemetryStub()
        attention = _of_type(model, "Softmax", "ScaledDotProductAttention")
        return nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in np.ascontiguousarray(images)]),
            # unsigned with a zero point: behind a hard-swish half of a signed grid lies idle
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
            advanced_parameters=advanced.AdvancedQuantizationParameters(
                overflow_fix=advanced.OverflowFix.DISABLE,
                disable_bias_correction=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(-1, -1),
            ),
        )


def _conversion(node: Any) -> tuple[dict[str, Any], list[str]]:
    """One conversion of NNCF's: what it rounds, who reads the result; and the tensor's names."""
    value = node.input_value(0)
    low, high = (_source(node, port).data for port in (1, 2))
    conversion = {
        "source": [value.get_node().get_friendly_name(), value.get_index()],
        "readers": [[i.get_node().get_friendly_name(), i.get_index()] for i in _readers(node)],
        "shape": list(low.shape),
        "low": [float(number) for number in low.ravel()],
        "high": [float(number) for number in high.ravel()],
    }
    return conversion, sorted(value.get_names())


def _grids(
    conversion: dict[str, Any], given: tuple[float, float] | None, *, per_channel: bool
) -> dict[str, Any]:
    """The place with ends of 256 levels, one of which is 0, within the given range if any.

    Where NNCF has a range per channel (inputs of depthwise convolutions), each channel keeps its
    own inside of a given one: a MobileNetV3-Small agrees with float32 on 96.4 % of images instead
    of 94.2 %, and takes 5 % longer. Ranges learnt in training need no such help, and stay as they
    were learnt.
    """
    ends = list(zip(conversion["low"], conversion["high"], strict=True))
    if given and (len(ends) == 1 or not per_channel):
        ends = [given]
        conversion = conversion | {"shape": []}
    elif given:
        ends = [_within(own, given) for own in ends]
    grids = [with_zero(*pair) for pair in ends]
    return conversion | {"low": [low for low, _ in grids], "high": [high for _, high in grids]}


def _within(own: tuple[float, float], given: tuple[float, float]) -> tuple[float, float]:
    low, high = max(own[0], given[0]), min(own[1], given[1])
    least = NARROWEST * (given[1] - given[0])
    if high - low >= least:
        return low, high
    return (low, low + least) if given[1] > 0 else (high - least, high)


def _weighted(model: Any) -> dict[str, list[Any]]:
    """Layers whose weights NNCF stores in int8 -> [input, shape of the scales]."""
    layers: dict[str, list[Any]] = {}
    for node in model.get_ordered_ops():
        for port in range(node.get_input_size()):
            scaled = _source(node, port)
            if scaled.get_type_name() != "Multiply":
                continue
            stored, scale = _source(scaled), _source(scaled, 1)
            if stored.get_type_name() == "Convert" and _type(_source(stored)) == "int8":
                layers[node.get_friendly_name()] = [port, list(scale.data.shape)]
    return layers


def _type(node: Any) -> str:
    """Numpy's name for what a constant holds; "" for any other node."""
    return str(node.data.dtype) if node.get_type_name() == "Constant" else ""


# ------------------------------------------------------------------ writing


def apply_openvino(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    target: Path,
    plan: dict[str, Any],
    card: Card,
) -> None:
    """Write the two files of a plan; the same bytes every time.

    Raises:
        ModelError: A weight is beyond float16.
        StorageError: The disk is full or cannot be written.
    """
    openvino, model = engine(), _float_model(source, plan)
    named = _names(model)
    if recipe.precision == "int8":
        _round(model, plan, named)
    if recipe.precision == "float16":
        check_float16((node.data for node in _of_type(model, "Constant")), source)
    _fuse_hard_sigmoids(model)
    model.validate_nodes_and_infer_types()
    _name(model, named)
    model.set_friendly_name("classifier")
    weights = target.with_suffix(".bin")
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=recipe.precision == "float16")
        graph, _, _ = path.read_text(encoding="utf-8").rpartition("</edges>")
        content = path.with_suffix(".bin").read_bytes()
    target.unlink(missing_ok=True)  # never a new half beside an old one
    write_atomically(weights, content)
    try:
        # behind the edges stand the engine's version and the ONNX file's card
        write_atomically(target, f"{graph}</edges>\n</net>\n")
    except BaseException:
        weights.unlink()
        raise


def _round(model: Any, plan: Mapping[str, Any], named: set[str]) -> None:
    """Write the conversions of a plan into the float graph, in place; their names are added."""
    opset8 = require("openvino.opset8", extra="openvino")
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    if plan["zero"] is not None:
        _read_grey(model, plan["zero"])
    for conversion in plan["places"]:
        name, port = conversion["source"]
        low, high = (
            opset8.constant(np.array(conversion[end], np.float32).reshape(conversion["shape"]))
            for end in ("low", "high")
        )
        rounded = opset8.fake_quantize(nodes[name].output(port), low, high, low, high, LEVELS)
        rounded.set_friendly_name(f"{name}.rounded")
        named.add(f"{name}.rounded")
        for reader, position in conversion["readers"]:
            nodes[reader].input(position).replace_source_output(rounded.output(0))
    for name, (port, shape) in plan["weights"].items():
        weight = _source(nodes[name], port)
        stored, scale = _weight_levels(weight.data, tuple(shape))
        levels = opset8.convert(opset8.constant(stored), "f32")
        scaled = opset8.multiply(levels, opset8.constant(scale))
        nodes[name].input(port).replace_source_output(scaled.output(0))


def _weight_levels(
    weight: NDArray[Any], shape: tuple[int, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    axes = tuple(axis for axis, side in enumerate(shape) if side == 1)
    largest = np.abs(weight).max(axis=axes[-weight.ndim :], keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / LARGEST_WEIGHT).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def _read_grey(model: Any, zero: int) -> None:
    """Round the normalised image to its own grey levels, which changes no byte of it.

    The first layer then computes in 8 bits. Its reading the bytes without this FakeQuantize gives
    the same answers on x86 in 0.5 to 2 % less time, and a file that the Arm plugin refuses.
    """
    opset8 = require("openvino.opset8", extra="openvino")
    chain = {node.get_type_name(): node for node in _normalised(model)}
    last = chain["Multiply"]
    scale = _number(last) or 1.0
    readers = _readers(last)
    low, high = (
        opset8.constant(np.full((1, 1, 1, 1), (level - zero) * scale, np.float32))
        for level in (0, LEVELS - 1)
    )
    rounded = opset8.fake_quantize(last.output(0), low, high, low, high, LEVELS)
    rounded.set_friendly_name(f"{last.get_friendly_name()}.rounded")
    for reader in readers:
        reader.replace_source_output(rounded.output(0))


def _fuse_hard_sigmoids(model: Any) -> None:
    """Replace ``clip(x / 6 + 0.5, 0, 1)`` by the operator of that name, in place.

    The engine computes it within the layer before; for any other slope it has a slow reference
    kernel, between two conversions: a clamp of a sum is as fast. This comes after NNCF, which knows
    a squeeze-and-excitation by its HSigmoid and leaves it in float: twice the bytes of an int8
    MobileNetV3-Small, and no faster.
    """
    opset8 = require("openvino.opset8", extra="openvino")
    for node in _of_type(model, "HardSigmoid"):
        slope, offset = (float(_source(node, port).data.ravel()[0]) for port in (1, 2))
        value = node.input_value(0)
        if np.isclose(slope, 1 / 6) and np.isclose(offset, 0.5):
            gate = opset8.hsigmoid(value)
        else:
            line = opset8.multiply(value, opset8.constant(np.float32(slope)))
            gate = opset8.clamp(opset8.add(line, opset8.constant(np.float32(offset))), 0.0, 1.0)
        gate.set_friendly_name(node.get_friendly_name())
        for reader in _readers(node):
            reader.replace_source_output(gate.output(0))


# ------------------------------------------------------------------ what a file holds and runs

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "int8", "i8": "int8"}
# The engine's kinds of layers -> ONNX's operator; any other goes by the name of its node in the
# ONNX file ("Add_13"), and where that is gone by the engine's own kind.
SAME = {
    "Convolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "Gemm",
    "MatMul": "MatMul",
    "ScaledDotProductAttention": "Attention",
}
# Moving values about costs little in any type and says nothing about precision.
MOVES = {"Broadcast", "Const", "Input", "Output", "Reshape", "ShapeOf", "StridedSlice", "Transpose"}
CONVERSIONS = {"Cast", "DequantizeLinear", "Sub"}  # of the image: all that stands before layers
NAMED = re.compile(r"([A-Z][A-Za-z]+)_\d+(\.rounded)?$")


def count_operators(path: Path) -> dict[str, int]:
    """What the engine really runs in which precision on this machine, from its compiled graph.

    Args:
        path: The ``.xml`` file.

    Returns:
        Operator and type -> number: {"Conv float32": 0, "Conv int8": 52, ...}; a kernel that runs
        several operators in one counts as the first. Changes of type are "conversion ...".
    """
    counts = zero_counts()
    for keys, _ in _kernels(path):
        counts.update(keys)
    return dict(sorted(counts.items()))


def float_layers(path: Path) -> list[str]:
    """Names, in the file, of the layers that the engine computes in float here."""
    return [
        next((name for name in made_of if NAMED.match(name)), made_of[0] if made_of else keys[0])
        for keys, made_of in _kernels(path)
        if any(is_float_layer(key) for key in keys)
    ]


def _kernels(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Each kernel of the compiled graph: the keys it counts under, the nodes it is made of."""
    # the engine's own rewrites bring in nodes with names like ours
    known = _names(read(path))
    for node in compiled(path, 1).get_runtime_model().get_ordered_ops():
        facts = {key: str(value.value) for key, value in node.get_rt_info().items()}
        if facts["layerType"] not in MOVES:
            made_of = [name for name in facts["originalLayersNames"].split(",") if name in known]
            yield _counted(facts, made_of), made_of


def _counted(facts: Mapping[str, str], made_of: list[str]) -> list[str]:
    """The keys, one or none, under which a kernel counts."""
    kind, taken, given = (facts[k] for k in ("layerType", "runtimePrecision", "outputPrecisions"))
    if kind in ("Reorder", "Convert"):  # a reorder without a change of type moves values about
        return [f"conversion {kind}"] * (TYPES.get(taken, taken) != TYPES.get(given, given))
    matches = [match for match in map(NAMED.match, made_of) if match]
    name = SAME.get(kind) or (matches[0][1] if matches else kind)
    if kind not in SAME and (name in CONVERSIONS or all(match[2] for match in matches)):
        return [f"conversion {name if name in CONVERSIONS else 'FakeQuantize'}"]
    # what the kernel computes in; the type it takes may be that of stored weights
    computed = facts["primitiveType"].rpartition("_")[2].lower()
    return [f"{name} {TYPES.get(computed, computed)}"]


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of the stored weights by type: {"float32": 6115328} or {"float32": ..., "int8": ...}.

    Args:
        path: The ``.xml`` file.
    """
    sizes: Counter[str] = Counter()
    for node in _of_type(read(path), "Constant"):
        sizes[str(node.data.dtype)] += node.data.nbytes
    return dict(sorted(sizes.items()))
