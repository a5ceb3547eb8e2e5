"""Static 8-bit files out of a float32 ONNX file: int8 weights, uint8 activations.

    plan_int8    measures: ranges of activations, smoothing factors, bias corrections
    apply_int8   writes the file of a plan

A plan is plain data and holds everything that was measured; a file's bytes depend on its source,
the plan and the card alone. `placement` decides which layers of a plan stay in float.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clinipress.errors import ModelError
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx import int8_rewrites as onnx_int8
from clinipress.formats.onnx import packed_weights as onnx_weights
from clinipress.formats.onnx.equalize import correct_biases, equalize, smooth
from clinipress.formats.onnx.outliers import outliers
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.write import card_for, write
from clinipress.formats.ranges import Method, Ranges, find_ranges, quiet
from clinipress.records.candidate import Card

__all__ = [
    "OPERATORS",
    "Int8Plan",
    "Rounding",
    "apply_int8",
    "plan_each",
    "plan_int8",
    "prepare",
    "prepare_weights",
    "quantized_graph",
    "rounding",
    "symmetric_graph",
    "with_bias_correction",
]

# Operators that ONNX Runtime runs on 8-bit integers. With Conv and Gemm alone every ReLU stays
# between a DequantizeLinear and a QuantizeLinear: MobileNetV2 at 128 px, one thread, 3.5 ms against
# 2.1 ms with all of these (float32 3.8 ms). Softmax and LayerNormalization are left in float.
# Sigmoid is a table of 256 bytes there, HardSigmoid a saturating addition (`onnx_int8`).
OPERATORS = (
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"),
    *("HardSigmoid", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Sigmoid", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze"),
)


@dataclasses.dataclass(frozen=True)
class Int8Plan:
    """Everything that decides the bytes of an 8-bit file, besides its source.

    Attributes:
        ranges: Activation -> (low, high).
        per_channel: One weight scale per output channel instead of one per tensor.
        operators: ONNX operator types to quantize.
        exclude: Names of nodes that stay in float; weights of their layers are stored in 8 bits.
        store_excluded: False leaves those weights in float32.
        equalize: Cross-layer equalization.
        smoothing: LayerNormalization's output -> factors its channels are divided by.
        biases: Layer -> what is added to its bias.
        left_out: Numbers of the calibration images that were left out (`steps.outliers`).
        reduce_range: Weights in 7 bits: x86 processors without VNNI add pairs of products of an
            unsigned and a signed byte in 16 bits, which overflow with 8.
    """

    ranges: Ranges
    per_channel: bool = True
    operators: tuple[str, ...] = OPERATORS
    exclude: tuple[str, ...] = ()
    store_excluded: bool = False
    equalize: bool = False
    smoothing: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    biases: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    left_out: tuple[int, ...] = ()
    reduce_range: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Int8Plan:
        """The plan again, from what `to_json` gave and JSON kept."""
        fields = dict(data)
        fields["ranges"] = {name: (low, high) for name, (low, high) in data["ranges"].items()}
        for name in ("operators", "exclude", "left_out"):
            fields[name] = tuple(data[name])
        return cls(**fields)


def prepare(
    source: Path, *, equalized: bool = False, smoothing: Mapping[str, Sequence[float]] | None = None
) -> onnx.ModelProto:
    """The float graph that is quantized: batch norms folded, shapes known, nodes named.

    Activations keep the names they have in `source` wherever the node that makes them is kept.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = prepare_weights(source)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder, quiet():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)  # a file, since the preparation of a model in memory fails
        quant_pre_process(before, after, skip_symbolic_shape=True)
        model = onnx.load(after)
    onnx_int8.convolve_average_pools(model)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_prepared_{number}"
    if equalized:
        equalize(model)
    if smoothing:
        smooth(model, {name: np.asarray(f, np.float32) for name, f in smoothing.items()})
    return model


def prepare_weights(source: Path) -> onnx.ModelProto:
    """The float graph with every batch norm a convolution or part of one; names as in the file."""
    model = onnx.load(source)
    onnx_graph.convolve_batch_norms(model)
    onnx_graph.drop_unused(model.graph)
    return model


def plan_int8(
    source: Path,
    images: NDArray[np.uint8],
    *,
    method: Method = "percentile",
    per_channel: bool = True,
    operators: Sequence[str] = OPERATORS,
    exclude: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    equalized: bool = False,
    bias_correction: bool = False,
    smoothing: float | None = None,
) -> Int8Plan:
    """Measure what an 8-bit file needs: ranges, smoothing factors, bias corrections.

    Args:
        source: A file of `export_onnx`.
        images: uint8 ``[n, c, h, w]`` from the training split, un-augmented; those that excite the
            network far beyond the others are left out (`clinipress.formats.onnx.outliers`).
        method: How ranges are chosen (`clinipress.formats.ranges`).
        per_channel: One weight scale per output channel instead of one per tensor.
        operators: ONNX operator types to quantize.
        exclude: Names of nodes that stay in float.
        ranges: Ranges by name of the activation in `source` that are taken instead of measured
            ones, for example learnt in training.
        equalized: Equalize weights across layers first (Nagel et al. 2019).
        bias_correction: Take the mean error of each layer's weights off its bias (the same).
        smoothing: Exponent alpha of SmoothQuant (Xiao et al. 2023); None: none.

    Raises:
        ModelError: `source` is not one of our files, there are no images, or a learnt range names
            no activation.
        BundleError: The images are not what the card asks for.
    """
    plan = plan_each(
        source,
        images,
        (method,),
        per_channel=per_channel,
        operators=operators,
        exclude=exclude,
        ranges=ranges,
        equalized=equalized,
        smoothing=smoothing,
    )[method]
    return with_bias_correction(source, plan, images) if bias_correction else plan


def plan_each(
    source: Path,
    images: NDArray[np.uint8],
    methods: Sequence[Method],
    *,
    per_channel: bool = True,
    operators: Sequence[str] = OPERATORS,
    exclude: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    equalized: bool = False,
    smoothing: float | None = None,
) -> dict[Method, Int8Plan]:
    """A plan per method of choosing ranges, from one look at the images; arguments as `plan_int8`.

    Most of the time of a plan goes into histograms of activations, which the methods share.
    """
    from clinipress.formats.onnx.equalize import smoothing_factors

    parent = OnnxCandidate.load(source, threads=1)
    if not len(images):
        raise ModelError("at least one calibration image", "none", "raise calibration_images")
    parent.predict(images[:1])  # the card's own check of shape and type
    strange = outliers(prepare(source), images)
    images = np.delete(images, strange, axis=0)
    factors: dict[str, list[float]] = {}
    if smoothing is not None:
        arrays = smoothing_factors(prepare(source), images, smoothing)
        factors = {name: [float(f) for f in values] for name, values in arrays.items()}
    model = prepare(source, equalized=equalized, smoothing=factors)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "prepared.onnx"
        onnx.save(model, path)
        every = find_ranges(path, images, tuple(methods), tuple(operators))
    plans: dict[Method, Int8Plan] = {}
    for method, measured in every.items():
        known = _known(ranges or {}, measured)
        shared = onnx_int8.share_concat_ranges(model.graph, measured | known)
        plans[method] = Int8Plan(
            ranges=onnx_int8.clip_to_gates(model.graph, shared) | known,
            per_channel=per_channel,
            operators=tuple(operators),
            exclude=tuple(exclude),
            equalize=equalized,
            smoothing=factors,
            left_out=tuple(int(number) for number in strange),
        )
    return plans


def with_bias_correction(source: Path, plan: Int8Plan, images: NDArray[np.uint8]) -> Int8Plan:
    """The plan with each layer's mean error of rounded weights taken off its bias."""
    usual = np.delete(images, list(plan.left_out), axis=0)
    model = prepare(source, equalized=plan.equalize, smoothing=plan.smoothing)
    corrections = correct_biases(model, quantized_graph(source, plan, model), usual)
    return dataclasses.replace(plan, biases=corrections)


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How an 8-bit file rounds activations; tensors by their names in the float32 file.

    Attributes:
        ranges: Rounded activation -> calibrated (low, high), in the order of the graph.
        limits: Activation -> (low, high) that its range need not exceed, where a gate allows it.
        fixed: Activations whose grid does not depend on the images: the input's own grey levels,
            and hard sigmoids, which fill 0 to 1.
        shared: Activations that have one range together (`onnx_int8.share_concat_ranges`).
        constants: Values, by name, that the file rounds too, each on a grid from its own least to
            its largest one: biases of tokens, tables of positions.
    """

    ranges: Ranges
    limits: Ranges
    fixed: frozenset[str]
    shared: tuple[tuple[str, ...], ...]
    constants: Mapping[str, NDArray[np.float32]]


def rounding(source: Path, images: NDArray[np.uint8], *, method: Method = "percentile") -> Rounding:
    """Where the 8-bit file of `plan_int8` would round activations, and on which first grids.

    Args:
        source: A file of `export_onnx`.
        images: uint8 ``[n, c, h, w]`` from the training split, un-augmented.
        method: How ranges are chosen.
    """
    plan = plan_int8(source, images, method=method)
    prepared = prepare(source)
    graph = prepared.graph
    quantized = quantized_graph(source, plan, prepared).graph
    ranges = onnx_graph.rounded(quantized)
    everything = dict.fromkeys(ranges, (-math.inf, math.inf))
    limits = onnx_int8.clip_to_gates(graph, everything)
    values = onnx_graph.constants(graph)
    normalisation = onnx_graph.find_normalisation(graph)
    fixed = {normalisation.output} if normalisation else set()
    for node in graph.node:
        low, high = ranges.get(node.output[0], (0.0, 0.0))
        if node.op_type == "HardSigmoid" and low == 0 and math.isclose(high, 1, rel_tol=1e-6):
            fixed.add(node.output[0])
    return Rounding(
        ranges=ranges,
        limits={name: ends for name, ends in limits.items() if ends != everything[name]},
        fixed=frozenset(fixed & set(ranges)),
        shared=onnx_int8.joined_by_concat(graph, ranges),
        constants={name: values[name] for name in onnx_graph.rounded_constants(quantized)},
    )


def _known(given: Mapping[str, tuple[float, float]], measured: Ranges) -> Ranges:
    unknown = sorted(set(given) - set(measured))
    if unknown:
        raise ModelError(
            "ranges for activations of the float32 file",
            f"'{unknown[0]}', which is none ({len(unknown)} of {len(given)} unknown)",
            "the network was changed since they were learnt: train it again with 'qat'",
        )
    return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in given.items()}


def quantized_graph(
    source: Path, plan: Int8Plan, prepared: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """The 8-bit graph of a plan, in QuantizeLinear/DequantizeLinear form.

    Args:
        source: The float32 file.
        plan: The plan.
        prepared: What `prepare` makes of source and plan, when it is at hand; it is not touched.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared or prepare(source, equalized=plan.equalize, smoothing=plan.smoothing))
    _add_to_biases(model, plan.biases)
    with quiet():
        model = _insert_conversions(model, plan)
    if plan.exclude and plan.store_excluded:
        onnx_weights.store_weights(model, bits=8, nodes=plan.exclude)
    onnx_int8.saturate_hard_sigmoids(model)
    onnx_int8.drop_bias_zeros(model)
    if not onnx_graph.read_bytes_directly(model):
        onnx_graph.shorten_normalisation(model)
    return model


def _quantizer() -> Any:
    """The quantizer of onnxruntime, which would wait for ever for a grid that nobody makes."""
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    class Bounded(QDQQuantizer):  # type: ignore[misc]
        def _quantize_sharing_param_tensors(self) -> None:
            left = {
                name: getattr(tensor.quant_para_provider, "input_name", "")
                for name, tensor in self.tensors_to_quantize.items()
            }
            known = set(self.quantized_value_map)
            while made := {name for name, provider in left.items() if provider in known}:
                known |= made
                left = {name: provider for name, provider in left.items() if name not in made}
            if left:
                name, provider = next(iter(left.items()))
                raise ModelError(
                    "a graph whose tensors have grids of their own or of what they are made of",
                    f"'{name}' with that of '{provider}', which has none",
                    "export it as float16, or to another format",
                )
            super()._quantize_sharing_param_tensors()

    return Bounded


def _insert_conversions(model: onnx.ModelProto, plan: Int8Plan) -> onnx.ModelProto:
    """Run the quantizer of onnxruntime, given the ranges."""
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorData

    # the quantizer takes what a DequantizeLinear gives for quantized already
    onnx_graph.spell_out_normalisation(model)
    normalisation = onnx_graph.find_normalisation(model.graph)
    options: dict[str, Any] = {"WeightSymmetric": True}
    kept = [*plan.exclude]
    if normalisation is not None:
        kept += [node.name for node in normalisation.nodes]
        zero = round(normalisation.zero)
        if 0 <= zero <= 255:  # the image's own 256 grey levels: `read_bytes_directly` then applies
            options["TensorQuantOverrides"] = {
                normalisation.output: [
                    {
                        "quant_type": quantization.QuantType.QUInt8,
                        "scale": np.array(normalisation.scale, np.float32),
                        "zero_point": np.array(zero, np.uint8),
                    }
                ]
            }
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in plan.ranges.items()
    }
    quantizer = _quantizer()(
        model,
        plan.per_channel,
        plan.reduce_range,
        quantization.QuantType.QInt8,
        quantization.QuantType.QUInt8,
        ranges,
        [],
        kept,
        list(plan.operators),
        options,
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result


# What TensorRT runs on 8-bit integers when its inputs come from such grids.
SYMMETRIC_OPERATORS = ("Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Mul")


def symmetric_graph(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]
) -> onnx.ModelProto:
    """A graph with signed, symmetric 8-bit grids around weights and activations; biases in float.

    Args:
        model: A float graph; not touched.
        ranges: Activation -> (low, high); the grid reaches the further end both ways.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.calibrate import TensorData

    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for number, node in enumerate(copy.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    furthest = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    grids = {
        name: TensorData(lowest=np.float32(-end), highest=np.float32(end))
        for name, end in furthest.items()
    }
    made = {name for node in copy.graph.node for name in node.output}
    unknown = [
        node.name
        for node in copy.graph.node
        if node.op_type in SYMMETRIC_OPERATORS
        and any(name in made and name not in grids for name in (*node.input, *node.output))
    ]
    with quiet():
        quantizer = _quantizer()(
            copy,
            True,
            False,
            quantization.QuantType.QInt8,
            quantization.QuantType.QInt8,
            grids,
            [],
            unknown,
            list(SYMMETRIC_OPERATORS),
            {"WeightSymmetric": True, "ActivationSymmetric": True, "QuantizeBias": False},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result


def _add_to_biases(model: onnx.ModelProto, biases: Mapping[str, Sequence[float]]) -> None:
    """Add a correction per output channel, making a bias where there was none."""
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.name not in biases:
            continue
        addend = np.asarray(biases[node.name], np.float32)
        old = values.get(node.input[2]) if len(node.input) > 2 else None
        if old is not None:
            addend = addend + onnx.numpy_helper.to_array(old)
        name = f"{node.name}.corrected"
        graph.initializer.append(onnx.numpy_helper.from_array(addend.astype(np.float32), name))
        del node.input[2:]
        node.input.append(name)


def apply_int8(
    source: Path,
    target: Path,
    plan: Int8Plan,
    *,
    card: Card | None = None,
    precision: str = "int8",
    prepared: onnx.ModelProto | None = None,
) -> OnnxCandidate:
    """Write the file of a plan; opened with one thread."""
    parent = OnnxCandidate.load(source, threads=1)
    model = quantized_graph(source, plan, prepared)
    onnx_int8.pack_first_convolution(model)  # last: others compare weights layer by layer
    write(model, target, card_for(card or parent.card, precision))
    return OnnxCandidate.load(target, threads=1)
