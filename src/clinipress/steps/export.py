"""Files for ONNX Runtime: float32, float16 and statically quantized int8.

    export_onnx    a torch candidate -> float32 .onnx, normalisation inside, card inside
    to_float16     float32 .onnx -> float16 weights and activations; input and output as before
    to_int8        float32 .onnx -> int8 weights, uint8 activations, ranges from training images

Each function writes one whole file or none, with bytes that depend on its inputs alone, and says
nothing: the engines' prints and warnings are caught here. What a file is worth is not announced but
measured: `parity` compares it with its parent, `count_low_precision` says what the engine really
runs in low precision, and evaluation treats the file like any other candidate.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from clinipress.candidate import Candidate
from clinipress.errors import ModelError
from clinipress.records import Card, Parity
from clinipress.runtimes.onnx import CARD_KEY, INPUT_NAME, OUTPUT_NAME, OnnxCandidate
from clinipress.steps import onnx_graph
from clinipress.steps.onnx_precision import count_low_precision, weight_bytes
from clinipress.store import write_atomically

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = [
    "OPERATORS",
    "PARITY_TOLERANCE",
    "calibrate",
    "count_low_precision",
    "export_onnx",
    "parity",
    "stamp",
    "to_float16",
    "to_int8",
    "weight_bytes",
]

Method = Literal["minmax", "percentile", "entropy"]

# Largest difference of a logit between a network and its float32 file. Both compute in float32 with
# sums in another order; 1e-3 is some hundred times what that gives and far from any decision.
PARITY_TOLERANCE = 1e-3

# Operators that ONNX Runtime runs on 8-bit integers. With Conv and Gemm alone every ReLU stays
# between a DequantizeLinear and a QuantizeLinear: MobileNetV2 at 128 px, one thread, 3.5 ms against
# 2.1 ms with all of these (float32 3.8 ms). Softmax and LayerNormalization are left in float.
OPERATORS = (
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool"),
    *("MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
)
CALIBRATION_BATCH = 8
CHECK_IMAGES = 2
CALIBRATION_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def export_onnx(
    candidate: TorchCandidate,
    path: Path,
    *,
    card: Card | None = None,
    images: NDArray[np.uint8] | None = None,
) -> OnnxCandidate:
    """Write a torch candidate as float32 ONNX and check the file against it.

    Args:
        candidate: The network; it is copied, not touched.
        path: Where to write.
        card: Card of the file; None: the candidate's, with format and precision set.
        images: uint8 ``[n, c, h, w]`` to check on; None: two images of seeded noise.

    Returns:
        The file, opened with one thread.

    Raises:
        ModelError: The network cannot be exported, or its file answers differently.
        StorageError: The disk is full or cannot be written.
    """
    card = _card_for(card or candidate.card, "float32")
    model = _export_graph(candidate)
    onnx_graph.pool_means(model)
    onnx_graph.shorten_normalisation(model)
    onnx_graph.fold_grey_to_rgb(model)
    _write(model, path, card)
    exported = OnnxCandidate.load(path, threads=1)
    if images is None:
        shape = (CHECK_IMAGES, card.input.channels, card.input.height, card.input.width)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    _check(candidate, exported, images)
    return exported


def parity(a: Candidate, b: Candidate, images: NDArray[np.uint8]) -> Parity:
    """How far two candidates answer differently on the same images.

    Args:
        a: The parent.
        b: What was made of it.
        images: uint8 ``[n, c, h, w]``.

    Returns:
        Largest and mean absolute difference of the logits, and the images whose top class changed.
    """
    return _difference(a.predict(images), b.predict(images))


def _difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> Parity:
    difference = np.abs(first.astype(np.float64) - second)
    return Parity(
        images=len(first),
        max_logit_difference=float(difference.max()),
        mean_logit_difference=float(difference.mean()),
        label_flips=int((first.argmax(1) != second.argmax(1)).sum()),
    )


def _check(candidate: Candidate, exported: OnnxCandidate, images: NDArray[np.uint8]) -> None:
    """Remove the file and raise unless it answers like its parent."""
    expected = candidate.predict(images)
    found = _difference(expected, exported.predict(images))
    # logits far above the usual 10 or so are rounded in proportion
    allowed = PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max()) / 100)
    if not found.max_logit_difference <= allowed:
        exported.path.unlink()
        raise ModelError(
            f"an ONNX file with the logits of '{exported.card.name}' within {allowed:.3g}",
            f"a difference of {found.max_logit_difference:.3g}",
            "the network does something its export cannot follow",
        )


def to_float16(source: Path, target: Path, *, card: Card | None = None) -> OnnxCandidate:
    """Halve the weights of a float32 file: float16 weights and activations.

    Input stays uint8, logits stay float32. ONNX Runtime on a CPU without float16 kernels turns
    the weights back into float32 when it loads the file: smaller on disk, not faster.

    Raises:
        ModelError: `source` is not one of our files, or has weights beyond float16.
    """
    from onnxconverter_common import float16

    parent = OnnxCandidate.load(source, threads=1)
    with warnings.catch_warnings():
        # it warns of each weight below 6e-8 that becomes 0; what that costs, evaluation measures
        warnings.filterwarnings("ignore", module="onnxconverter_common")
        model = onnx.load(source)
        onnx_graph.convolve_batch_norms(model)
        _check_range(model, source)
        model = float16.convert_float_to_float16(
            model, keep_io_types=True, max_finite_val=float(np.finfo(np.float16).max)
        )
    onnx_graph.halve_first_cast(model)
    _write(model, target, _card_for(card or parent.card, "float16"))
    return OnnxCandidate.load(target, threads=1)


def _check_range(model: onnx.ModelProto, source: Path) -> None:
    """Refuse weights that the conversion would silently clamp."""
    limit = float(np.finfo(np.float16).max)
    values = [array for array in onnx_graph.constants(model.graph).values() if array.size]
    largest = max(float(np.abs(array).max()) for array in values if array.dtype.kind == "f")
    if largest > limit:
        raise ModelError(
            f"weights up to {limit:g} in '{source.name}' for float16",
            f"a weight of {largest:g}",
            "export it as float32 or int8",
        )


def to_int8(
    source: Path,
    target: Path,
    images: NDArray[np.uint8],
    *,
    method: Method = "percentile",
    per_channel: bool = True,
    operators: Sequence[str] = OPERATORS,
    exclude: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    card: Card | None = None,
) -> OnnxCandidate:
    """Quantize a float32 file: int8 weights, uint8 activations, int32 sums.

    Args:
        source: A file of `export_onnx`.
        target: Where to write.
        images: uint8 ``[n, c, h, w]`` from the training split, un-augmented, to find the ranges of
            activations. They pass in small batches: memory does not grow with their number.
        method: "minmax" keeps every value in range; "percentile" drops the outermost 0.001 %;
            "entropy" takes the range with the least Kullback-Leibler divergence.
        per_channel: One weight scale per output channel instead of one per tensor.
        operators: ONNX operator types to quantize.
        exclude: Names of nodes that stay float.
        ranges: (low, high) of activations by tensor of `source`, learnt in training; they take the
            place of what calibration finds.
        card: Card of the file; None: the source's, with the precision set.

    Returns:
        The file, opened with one thread.

    Raises:
        ModelError: `source` is not one of our files, there are no images, or a range is of a
            tensor that `source` does not have.
        BundleError: The images are not what the card asks for.
    """
    parent = OnnxCandidate.load(source, threads=1)
    if not len(images):
        raise ModelError("at least one calibration image", "none", "raise calibration_images")
    parent.predict(images[:1])  # the card's own check of shape and type
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        with _quiet():
            _quantize(
                *(source, prepared, quantized, images, method, per_channel, operators, exclude),
                ranges or {},
            )
        model = onnx.load(quantized)
    onnx_graph.read_bytes_directly(model)
    _write(model, target, _card_for(card or parent.card, "int8"))
    return OnnxCandidate.load(target, threads=1)


def calibrate(
    source: Path, images: NDArray[np.uint8], *, method: Method = "percentile"
) -> dict[str, tuple[float, float]]:
    """The activations that `to_int8` would round and the ranges it would give them.

    Args:
        source: A file of `export_onnx`.
        images: uint8 ``[n, c, h, w]`` from the training split, un-augmented.
        method: As in `to_int8`.

    Returns:
        Tensor of `source` -> (low, high), in the order of the graph.
    """
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        with _quiet():
            names = _quantize(
                *(source, prepared, quantized, images, method, True, OPERATORS, ()), {}
            )
        found = onnx_graph.rounded(onnx.load(quantized).graph)
    back = {ours: theirs for theirs, ours in names.items()}
    return {back[name]: ends for name, ends in found.items()}


def stamp(path: Path, card: Card) -> None:
    """Put another card into a file; the digest of the file changes with it."""
    _write(onnx.load(path), path, card)


def _card_for(card: Card, precision: str) -> Card:
    """The card of an exported file: what it was built from stays in its history."""
    return card.model_copy(update={"format": "onnx", "precision": precision, "model": None})


def _write(model: onnx.ModelProto, path: Path, card: Card) -> None:
    """Check, strip and write a graph with its card, whole or not at all."""
    onnx_graph.canonical(model)
    onnx.helper.set_model_props(model, {CARD_KEY: card.model_dump_json()})
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what engines print on stdout; errors still come as exceptions."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _export_graph(candidate: TorchCandidate) -> onnx.ModelProto:
    """The exporter's own graph, as it came."""
    import torch

    spec = candidate.card.input
    module = copy.deepcopy(candidate.module).cpu().eval()
    module = module.to(memory_format=torch.contiguous_format)
    # two images: with one, the exporter takes the batch for a constant
    images = torch.zeros((2, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    try:
        with _quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("n", min=1, max=65535)},),
            )
    except torch.onnx.errors.OnnxExporterError as problem:
        raise ModelError(
            f"a network that torch.onnx can export ('{candidate.card.name}')",
            str(problem.__cause__ or problem).strip().splitlines()[0][:200],
            "see the operators that torch.onnx supports",
        ) from problem
    if program is None:  # only without dynamo
        raise ModelError("a graph from torch.onnx", "none", "report this as a bug")
    return program.model_proto


class _Batches:
    """Calibration images a few at a time, in the form of onnxruntime's CalibrationDataReader.

    With a stride of one batch the calibrator condenses each batch into ranges or histograms before
    it asks for the next; else it keeps every activation of every image (gigabytes).
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images
        self._rows: Iterator[int] = iter(())

    def __len__(self) -> int:
        return -(-len(self._images) // CALIBRATION_BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rows = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        number = next(self._rows, None)
        if number is None:
            return None
        start = number * CALIBRATION_BATCH
        batch = self._images[start : start + CALIBRATION_BATCH]
        return {INPUT_NAME: np.ascontiguousarray(batch)}


def _quantize(
    source: Path,
    prepared: Path,
    quantized: Path,
    images: NDArray[np.uint8],
    method: Method,
    per_channel: bool,
    operators: Sequence[str],
    exclude: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> dict[str, str]:
    """Prepare and quantize with onnxruntime, from file to file.

    Returns:
        Name of a tensor in `source` -> its name in `quantized`.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    before = [name for node in model.graph.node for name in node.output]
    onnx_graph.convolve_batch_norms(model)
    onnx_graph.canonical(model)
    after = [name for node in model.graph.node for name in node.output]
    names = dict(zip(before, after, strict=True))
    onnx.save(model, quantized)  # a file, since the preparation of a model in memory fails
    quant_pre_process(quantized, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    normalisation = onnx_graph.find_normalisation(graph)
    options: dict[str, Any] = {
        "WeightSymmetric": True,
        "CalibStridedMinMax": 1,
        "TensorQuantOverrides": _pinned(ranges, names, source),
    }
    kept = list(exclude)
    if normalisation is not None:
        kept += [node.name for node in normalisation.nodes]
        zero = round(normalisation.zero)
        if 0 <= zero <= 255:  # the image's own 256 grey levels: `read_bytes_directly` then applies
            options["TensorQuantOverrides"][normalisation.output] = [
                {
                    "quant_type": quantization.QuantType.QUInt8,
                    "scale": np.array(normalisation.scale, np.float32),
                    "zero_point": np.array(zero, np.uint8),
                }
            ]
    quantization.quantize_static(
        prepared,
        quantized,
        _Batches(images),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(operators),
        per_channel=per_channel,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=kept,
        calibrate_method=getattr(quantization.CalibrationMethod, CALIBRATION_METHODS[method]),
        extra_options=options,
    )
    return names


def _pinned(
    ranges: Mapping[str, tuple[float, float]], names: Mapping[str, str], source: Path
) -> dict[str, list[dict[str, Any]]]:
    """Learnt ranges as onnxruntime's TensorQuantOverrides."""
    unknown = [name for name in ranges if name not in names]
    if unknown:
        raise ModelError(
            f"learnt ranges of tensors in '{source.name}'",
            f"one of '{unknown[0]}'",
            "the network was changed since they were learnt: train it again with 'qat'",
        )
    return {
        names[name]: [{"rmin": np.array(low, np.float32), "rmax": np.array(high, np.float32)}]
        for name, (low, high) in ranges.items()
    }
