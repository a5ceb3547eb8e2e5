"""Files for ExecuTorch out of the network: one ``.pte``, for XNNPACK's kernels on the CPU.

    float32    the network as it is
    int8       int8 weights, one scale per output channel; int8 activations

The engine's own quantizer decides where an int8 program rounds; ranges that were learnt or measured
for the ONNX file find their places by value: the same images run through both, and tensors that are
equal are the same tensor. What the quantizer would not give is given here: an int8 program reads
the image's bytes as its first layer's input, on the grid of the grey levels, with no float before.
Hard-swish and hard sigmoids have no 8-bit kernels there and stay in float between conversions.

Everything that was measured is in the plan; `apply_executorch` needs no images.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from clinipress.errors import ModelError
from clinipress.extras import require
from clinipress.formats.file import first_line
from clinipress.formats.matching import match_tensors
from clinipress.formats.onnx.values import prepared_values
from clinipress.formats.precision import is_float_layer, zero_counts
from clinipress.formats.ranges import quiet, with_zero
from clinipress.recipe.study import ExportRecipe
from clinipress.records.candidate import Card
from clinipress.records.store import write_atomically

if TYPE_CHECKING:
    from clinipress.models.classifier import TorchCandidate

__all__ = ["apply_executorch", "count_operators", "float_layers", "plan_executorch", "weight_bytes"]

LOWEST, HIGHEST = -128, 127
PROBES = 2  # images that tensors are matched on
# The quantizer's own smallest step is 2**-12, for weights too: channels whose largest weight is
# below 0.03 would lose most of their bits. XNNPACK takes any above this.
SMALLEST_STEP = 2.0**-32
CLOSE = 1e-3  # of a step: float32 rounding of scales
LARGEST_BIAS = 2**30  # of int32, with as much left for the sum of products
LAYERS = re.compile(r"aten\.(conv\d?d|conv_transpose\d?d|convolution|linear)\.")
MEANS = (torch.ops.aten.mean.dim, torch.ops.aten.adaptive_avg_pool2d.default)
CLAMPS = re.compile(r"aten\.(relu|relu6|hardtanh|clamp|clamp_min)_?\.")


def plan_executorch(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    images: NDArray[np.uint8],
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Decide on which grids an int8 program rounds.

    Returns:
        {} or "ranges": place of the engine's quantizer -> (low, high); "given", "found": how many
        ranges were given and how many of them found a place; "calibrated": how many grids are
        the engine's own.

    Raises:
        ModelError: There are no images, or torch cannot export the network.
    """
    if recipe.precision != "int8":
        return {}
    if not len(images):
        raise ModelError("at least one calibration image", "none", "raise calibration_images")
    with _calm():
        program = _prepared(parent)
        groups = _groups(program)
        named = _find(program, source, images[:PROBES], ranges or {}, parent)
        whole = [_covered(program, observers, named) for observers in groups]
        # weights are looked at by the way; histograms take most of the time of a plan
        for image in images[:1] if all(whole) else images:
            _run(program, image[None], parent)
        grids: dict[str, list[float]] = {}
        for observers, covered in zip(groups, whole, strict=True):
            # one grid for all that is joined: it has to hold every member's values
            ends = [(ranges or {})[named[name]] for name in observers if name in named]
            ends += [] if covered else [_calibrated(program, observers)]
            lows, highs = zip(*ends, strict=True)
            grids |= {name: list(with_zero(min(lows), max(highs))) for name in observers}
    return {
        "ranges": grids,
        "given": len(ranges or {}),
        "found": len(set(named.values())),
        "calibrated": len(groups) - sum(whole),
    }


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """No gradients, no prints, no warnings of the engine about its own parts."""
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------ the program


def _bytes_grid(parent: TorchCandidate) -> tuple[float, int] | None:
    """Scale and zero point of the image's bytes less 128; None where channels differ."""
    module = parent.module
    if module.shift.numel() != 1 or module.scale.numel() != 1:
        return None
    zero = round(float(module.shift)) + LOWEST
    return (1 / float(module.scale), zero) if LOWEST <= zero <= HIGHEST else None


def _example(parent: TorchCandidate, images: NDArray[np.uint8] | None, signed: bool) -> Any:
    """Pixels as the program takes them, uint8 or int8 ``[1, c, h, w]``; None: black."""
    spec = parent.card.input
    if images is None:
        images = np.zeros((1, spec.channels, spec.height, spec.width), np.uint8)
    pixels = (images ^ np.uint8(-LOWEST)).view(np.int8) if signed else images
    return torch.from_numpy(np.ascontiguousarray(pixels))


def _exported(network: Any, example: Any) -> Any:
    """`torch.export`'s program of one image.

    Raises:
        ModelError: It cannot follow the network.
    """
    try:
        return torch.export.export(network, (example,))
    except Exception as problem:  # its exceptions share no base but Exception
        raise ModelError(
            "a network that torch.export can follow",
            first_line(problem),
            "export it for another engine",
        ) from None


def _float_network(parent: TorchCandidate) -> Any:
    network = copy.deepcopy(parent.module).cpu().eval()
    return network.to(memory_format=torch.contiguous_format)


def _levels_network(parent: TorchCandidate, grid: tuple[float, int]) -> Any:
    """The network from int8 pixels: normalisation is the reading of bytes on their grid."""
    network = _float_network(parent)
    wide = network.repeats * network.input_spec.channels

    class FromLevels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = network.backbone

        def forward(self, levels: Any) -> Any:
            pixels = torch.ops.quantized_decomposed.dequantize_per_tensor(
                levels, *grid, LOWEST, HIGHEST, torch.int8
            )
            return self.backbone(pixels.expand(-1, wide, -1, -1)).float()

    return FromLevels().eval()


def _prepared(parent: TorchCandidate) -> Any:
    """The program with the quantizer's observers where an int8 program rounds."""
    require("executorch", extra="executorch")
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as engine

    require("torchao", extra="executorch")
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    grid = _bytes_grid(parent)
    network = _levels_network(parent, grid) if grid else _float_network(parent)
    example = _example(parent, None, grid is not None)
    program = _tidied(network, example)
    options = engine.get_symmetric_quantization_config(is_per_channel=True)
    prepared = prepare_pt2e(program, engine.XNNPACKQuantizer().set_global(options))
    _own_grids_of_means(prepared)
    return prepared


def _own_grids_of_means(program: Any) -> None:
    """Give means over a map, and what they are handed on to, another grid than the map's, in place.

    The quantizer lets both share one, as if a mean were as wide as what it is of: behind a ReLU6 a
    MobileNetV2's vector has few of the 256 levels. The kernel converts by the way. What a
    concatenation joins to others keeps the grid it has to share with them.
    """
    observers = dict(_observed(program))

    for node, name in observers.items():
        shared = getattr(program, name)
        if node.target not in MEANS or not _observed_sources(node, observers):
            continue
        moved, waiting = {node}, [node]
        while waiting:
            readers = {r for r in _read_by(waiting.pop()) if r in observers} - moved
            readers = {r for r in readers if getattr(program, observers[r]) is shared}
            moved |= readers
            waiting += readers
        handed_on = moved - {node}
        if all(s in moved for part in handed_on for s in _observed_sources(part, observers)):
            own = copy.deepcopy(shared)
            for part in moved:
                setattr(program, observers[part], own)


def _tidied(network: Any, example: Any) -> Any:
    """The program of one image, in the operators that the engine has kernels for."""
    program = _exported(network, example).module()
    _fold_grey(program)
    _own_weights(program)
    _keep_means_flat(program)
    program.graph.eliminate_dead_code()
    program.recompile()
    return _exported(program, example).module()  # shapes of what was put in


def _keep_means_flat(program: Any) -> None:
    """Let means over height and width keep these axes, and drop them afterwards, in place.

    XNNPACK has a kernel for that; else each is a call of the engine's slow portable kernel.
    """
    aten = torch.ops.aten
    for node in list(program.graph.nodes):
        if node.target is not aten.mean.dim or len(node.args[0].meta["val"].shape) != 4:
            continue
        axes, *kept = node.args[1:]
        if any(kept) or node.kwargs or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        with program.graph.inserting_before(node):
            mean = program.graph.call_function(aten.mean.dim, (node.args[0], axes, True))
            flat = program.graph.call_function(aten.flatten.using_ints, (mean, 1))
        node.replace_all_uses_with(flat)


def _fold_grey(program: Any) -> None:
    """Let the first convolution read one grey channel instead of three copies of it, in place.

    A convolution over equal channels is one over a single channel with the sum of its weights.
    """
    aten = torch.ops.aten
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target is not aten.expand.default:
            continue
        value, layers = node.args[0], list(node.users)
        before, after = (list(item.meta["val"].shape) for item in (value, node))
        if before == after:
            node.replace_all_uses_with(value)
            continue
        if len(after) != 4 or before != [after[0], 1, *after[2:]] or not layers:
            continue
        if all(_plain_convolution(user, node) for user in layers):
            for user in layers:
                _sum_weight(program, user)
            node.replace_all_uses_with(value)


def _plain_convolution(layer: Any, source: Any) -> bool:
    """A convolution of `source` in one group, by weights that are stored as they are."""
    return (
        layer.target is torch.ops.aten.conv2d.default
        and layer.args[0] is source
        and layer.args[1].op == "get_attr"
        and (len(layer.args) < 7 or layer.args[6] == 1)
    )


def _sum_weight(program: Any, layer: Any) -> None:
    weight = _stored(program, layer.args[1]).double().sum(1, keepdim=True).float()
    _store(program, layer, 1, weight, "grey")


def _own_weights(program: Any) -> None:
    """Give each of several layers that share weights or biases its own, in place.

    The engine's tools fold a batch norm into the weights before it; of two norms behind one
    convolution both would change the same weights, and no file of that opens.
    """
    seen: Counter[str] = Counter()
    for layer in list(program.graph.nodes):
        if not LAYERS.match(str(layer.target)):
            continue
        for position, value in enumerate(layer.args[1:3], 1):
            if isinstance(value, fx.Node) and value.op == "get_attr":
                name = str(value.target)
                if seen[name]:
                    copied = _stored(program, value).clone()
                    _store(program, layer, position, copied, f"of{seen[name]}")
                seen[name] += 1


def _stored(program: Any, node: Any) -> Any:
    """The tensor that a node of a program reads."""
    holder, _, name = node.target.rpartition(".")
    return getattr(program.get_submodule(holder), name).detach()


def _store(program: Any, layer: Any, position: int, value: Any, suffix: str) -> None:
    """Let a layer read another tensor, which is stored beside the one it read."""
    holder, _, name = layer.args[position].target.rpartition(".")
    parameter = torch.nn.Parameter(value, requires_grad=False)
    setattr(program.get_submodule(holder), f"{name}_{suffix}", parameter)
    with program.graph.inserting_before(layer):
        node = program.graph.get_attr(f"{holder}.{name}_{suffix}".lstrip("."))
    layer.update_arg(position, node)


# ------------------------------------------------------------------ ranges


def _observed(program: Any) -> list[tuple[Any, str]]:
    """(node whose result is rounded, observer) of every activation, in the order of the graph."""
    require("torchao", extra="executorch")
    from torchao.quantization.pt2e import ObserverBase, PerChannelMinMaxObserver

    observed = []
    for node in program.graph.nodes:
        observer = getattr(program, node.target, None) if node.op == "call_module" else None
        if isinstance(observer, ObserverBase) and not isinstance(
            observer, PerChannelMinMaxObserver
        ):
            observed.append((node.args[0], str(node.target)))
    return observed


def _groups(program: Any) -> list[list[str]]:
    """Observers by the grid they share: what a pooling or a concatenation joins has one."""
    groups: dict[int, list[str]] = {}
    for _, name in _observed(program):
        groups.setdefault(id(getattr(program, name)), []).append(name)
    return list(groups.values())


def _run(program: Any, image: NDArray[np.uint8], parent: TorchCandidate) -> None:
    program(_example(parent, image, _bytes_grid(parent) is not None))


def _calibrated(program: Any, observers: list[str]) -> tuple[float, float]:
    """The range that the engine's observers chose for tensors of one grid.

    A layer and the ReLU6 behind it have one grid, found for both. What the clamp takes away needs
    no levels: the layer's result may be cut off where the clamp's is.
    """
    scale, zero = (float(n) for n in getattr(program, observers[0]).calculate_qparams())
    low, high = (LOWEST - zero) * scale, (HIGHEST - zero) * scale
    nodes = [node for node, observer in _observed(program) if observer in observers]
    for node in nodes:
        bounds = _clamp_bounds(node)
        others = [other for other in nodes if other is not node]
        if bounds and all(_read_by(other) == {node} for other in others):
            low, high = max(low, bounds[0]), min(high, bounds[1])
    return low, high


def _read_by(node: Any) -> set[Any]:
    return {
        reader
        for user in node.users
        for reader in (user.users if user.op == "call_module" else [user])
    }


def _find(
    program: Any,
    source: Path,
    images: NDArray[np.uint8],
    ranges: Mapping[str, tuple[float, float]],
    parent: TorchCandidate,
) -> dict[str, str]:
    """Observer -> the tensor of the ONNX file that it rounds, of those with a range.

    A layer is left out whose one reader, a clamp, is found: what that cuts off needs no levels.
    """
    if not ranges:
        return {}
    wanted, clamped, _ = prepared_values(source, ranges, images)
    values, clamps = _values(program, images, parent)
    pairs = match_tensors(values, wanted)
    tensors: dict[str, str] = {}
    for observer in values:
        # a clamp that does nothing on these images gives what it takes
        same = [(name in clamped, name) for name in pairs.get(observer, ())]
        right = [name for clamp, name in same if clamp == (observer in clamps)]
        if right or same:
            tensors[observer] = (right or [name for _, name in same])[0]
    observers = dict(_observed(program))
    for node, observer in observers.items():
        readers = [observers.get(reader, "") for reader in _read_by(node)]
        if len(readers) == 1 and readers[0] in clamps & tensors.keys():
            tensors.pop(observer, None)
    return tensors


def _covered(program: Any, observers: list[str], named: Mapping[str, str]) -> bool:
    """Whether every member of a group has a range, itself or in what it is handed on to.

    Or in all that it is made of: members of one grid pool, clamp, join or reshape, which makes no
    value that lies beyond.
    """
    nodes = {node: observer for node, observer in _observed(program) if observer in observers}

    def covered(node: Any) -> bool:
        return nodes[node] in named or any(covered(r) for r in _read_by(node) if r in nodes)

    def made_of_covered(node: Any) -> bool:
        sources = _observed_sources(node, nodes)
        return bool(sources) and all(covered(s) or made_of_covered(s) for s in sources)

    return all(covered(node) or made_of_covered(node) for node in nodes)


def _observed_sources(node: Any, nodes: Container[Any]) -> list[Any]:
    """Those of some nodes whose observed values a node takes."""
    inputs = [part.args[0] for part in node.all_input_nodes if part.op == "call_module"]
    return [part for part in inputs if part in nodes]


def _values(
    program: Any, images: NDArray[np.uint8], parent: TorchCandidate
) -> tuple[dict[str, NDArray[np.float32]], set[str]]:
    """What each observer sees for the images, and those that see the result of a clamp."""
    looked_at = _observed(program)
    parts: dict[str, list[NDArray[np.float32]]] = {observer: [] for _, observer in looked_at}
    shift, scale = parent.module.shift.cpu(), parent.module.scale.cpu()
    reading = torch.ops.quantized_decomposed.dequantize_per_tensor.default

    class Reader(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.target is reading:
                value = (image - shift) / scale  # exactly: the bytes' grid rounds its zero
            for node, observer in looked_at:
                if node is n:
                    parts[observer].append(np.atleast_1d(value.detach().numpy().copy()))
            return value

    for number in range(len(images)):
        image = torch.from_numpy(images[number : number + 1].astype(np.float32))
        Reader(program).run(
            _example(parent, images[number : number + 1], _bytes_grid(parent) is not None)
        )
    clamps = {observer for node, observer in looked_at if CLAMPS.match(str(node.target))}
    return {observer: np.concatenate(seen) for observer, seen in parts.items()}, clamps


# ------------------------------------------------------------------ writing


def apply_executorch(
    recipe: ExportRecipe,
    parent: TorchCandidate,
    source: Path,
    target: Path,
    plan: dict[str, Any],
    card: Card,
) -> None:
    """Write the file of a plan; the same bytes every time.

    Raises:
        ModelError: torch cannot export the network.
        StorageError: The disk is full or cannot be written.
    """
    signed = recipe.precision == "int8" and _bytes_grid(parent) is not None
    with _calm():
        require("executorch", extra="executorch")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        if recipe.precision == "int8":
            program = _converted(parent, plan)
        else:
            program = _tidied(_float_network(parent), _example(parent, None, False))
        lowered = to_edge_transform_and_lower(
            _exported(program, _example(parent, None, signed)), partitioner=[XnnpackPartitioner()]
        )
        content = bytes(lowered.to_executorch().buffer)
    write_atomically(target, content)


def _converted(parent: TorchCandidate, plan: Mapping[str, Any]) -> Any:
    require("torchao", extra="executorch")
    from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    program = _prepared(parent)
    for observer in program.modules():
        if isinstance(observer, PerChannelMinMaxObserver):
            observer.eps.fill_(SMALLEST_STEP)
    # the observers of weights look at them
    program(_example(parent, None, _bytes_grid(parent) is not None))
    _fit_biases(program, plan["ranges"])
    for name, (low, high) in plan["ranges"].items():
        observer = MinMaxObserver(
            dtype=torch.int8,
            quant_min=LOWEST,
            quant_max=HIGHEST,
            qscheme=torch.per_tensor_affine,
            eps=SMALLEST_STEP,
        )
        observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)
        setattr(program, name, observer)
    program = convert_pt2e(program)
    _read_levels(program)
    _drop_clamps(program)
    program.graph.eliminate_dead_code()
    program.recompile()
    return program


def _fit_biases(program: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Coarser steps for channels of weights so small that their biases would not fit, in place.

    A bias is an int32 in steps of the input's times the weights'.
    """
    require("torchao", extra="executorch")
    from torchao.quantization.pt2e import PerChannelMinMaxObserver

    for layer in program.graph.nodes:
        if not LAYERS.match(str(layer.target)) or len(layer.args) < 3 or layer.args[2] is None:
            continue
        x, weight, bias = layer.args[:3]
        observer = getattr(program, str(weight.target), None)
        known = x.op == "call_module" and str(x.target) in ranges and bias.op == "get_attr"
        if known and isinstance(observer, PerChannelMinMaxObserver):
            low, high = ranges[str(x.target)]
            least = _stored(program, bias).abs() * HIGHEST / (LARGEST_BIAS * (high - low) / 255)
            if least.shape == observer.max_val.shape:
                observer.max_val = torch.maximum(observer.max_val, least)


def _read_levels(program: Any) -> None:
    """Let the first layer read the program's int8 input itself, in place.

    The quantizer rounds what the reading of the levels gives, to a grid found on images; the levels
    are that rounding already.
    """
    decomposed = torch.ops.quantized_decomposed
    first = next(node for node in program.graph.nodes if node.op == "placeholder")
    for reading in list(first.users):
        if reading.target is not decomposed.dequantize_per_tensor.default:
            continue
        for rounding in list(reading.users):
            if rounding.target is not decomposed.quantize_per_tensor.default:
                continue
            for again in list(rounding.users):
                if again.target is reading.target:
                    again.args = (first, *reading.args[1:])


def _drop_clamps(program: Any) -> None:
    """Take out clamps to no less than the grid that follows them, in place.

    What lies beyond the grid ends up at its ends anyway. The engine fuses a ReLU into the layer
    before, but runs one kernel for each ReLU6: 35 in a MobileNetV2.
    """
    decomposed = torch.ops.quantized_decomposed
    for node in list(program.graph.nodes):
        bounds = _clamp_bounds(node)
        readers = list(node.users)
        if bounds is None or any(
            reader.target is not decomposed.quantize_per_tensor.default for reader in readers
        ):
            continue
        ends = [
            ((level - reader.args[2]) * reader.args[1], reader.args[1])
            for reader in readers
            for level in (LOWEST, HIGHEST)
        ]
        if all(bounds[0] - CLOSE * step <= end <= bounds[1] + CLOSE * step for end, step in ends):
            node.replace_all_uses_with(node.args[0])
    for node in list(program.graph.nodes):  # what was rounded to this very grid before
        if node.target is not decomposed.quantize_per_tensor.default:
            continue
        reading = node.args[0]
        known = reading.target is decomposed.dequantize_per_tensor.default
        if known and reading.args[1:] == node.args[1:]:
            node.replace_all_uses_with(reading.args[0])


def _clamp_bounds(node: Any) -> tuple[float, float] | None:
    """(low, high) of a clamp by numbers; None for any other node."""
    match = CLAMPS.match(str(node.target))
    if node.op != "call_function" or match is None:
        return None
    if match[1] in ("relu", "relu6"):
        return 0.0, 6.0 if match[1] == "relu6" else math.inf
    usual = [-1.0, 1.0] if match[1] == "hardtanh" else [None, None]
    low, high = (*node.args[1:3], *usual[len(node.args) - 1 :])[:2]
    if not all(end is None or isinstance(end, int | float) for end in (low, high)):
        return None
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


# ------------------------------------------------------------------ what a file holds and runs

TYPES = {
    "fp32": "float32",
    "fp16": "float16",
    "qint8": "int8",
    "qcint8": "int8",
    "bf16": "bfloat16",
}
# XNNPACK's nodes -> ONNX's operators; others go by XNNPACK's own name.
SAME = {
    "AvgPooling2d": "AveragePool",
    "BatchMatrixMultiply": "MatMul",
    "Clamp": "Clip",
    "ConvTranspose2d": "ConvTranspose",
    "Conv2d": "Conv",
    "DepthwiseConv2d": "Conv",
    "FullyConnected": "Gemm",
    "GlobalAvgPooling2d": "GlobalAveragePool",
    "Hardswish": "HardSwish",
    "MaxPooling2d": "MaxPool",
    "Multiply": "Mul",
    "ScaledDotProductAttention": "Attention",
    "Subtract": "Sub",
}
# Moving values about costs little in any type and says nothing about precision.
MOVES = {"StaticReshape", "StaticTranspose", "StaticSlice"}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "qint8": 1, "qcint8": 1, "qint32": 4, "qcint32": 4}
STORED = {"qint32": "int32", "qcint32": "int32", **TYPES}


def count_operators(path: Path) -> dict[str, int]:
    """What the engine runs in which precision, read from the program itself.

    A ``.pte`` names every kernel: those of XNNPACK's graphs, and those of the engine's own.

    Args:
        path: The ``.pte`` file.

    Returns:
        Operator and type -> number: {"Conv float32": 0, "Conv int8": 52, ...}; changes of type are
        "conversion ...".
    """
    counts = zero_counts()
    counts.update(key for _, key in _operators(path))
    return dict(sorted(counts.items()))


def float_layers(path: Path) -> list[str]:
    """Names, by operator and place in the file, of the layers that compute in float."""
    return [name for name, key in _operators(path) if is_float_layer(key)]


def _operators(path: Path) -> Iterator[tuple[str, str]]:
    """Each operator that computes something: its name by place, and the key it counts under."""
    program, graphs = _opened(path)
    for plan in program.execution_plan:
        for step in (step.instr_args for chain in plan.chains for step in chain.instructions):
            if hasattr(step, "op_index"):
                name = plan.operators[step.op_index].name.partition("::")[2]
                kind = f"conversion {name}" if "copy" in name else f"{name} float32"
                yield name, kind
    for place, graph in enumerate(graphs):
        types = {number: kind for number, kind, _ in map(_tensor, graph["xvalues"])}
        for number, node in enumerate(graph["xnodes"]):
            name = node["xnode_union_type"].removeprefix("XNN")
            name = "Concat" if name.startswith("Concatenate") else SAME.get(name, name)
            kind = types[node["xnode_union"]["output_id"]]
            if name not in MOVES:
                key = f"{name} {TYPES.get(kind, kind)}"
                yield (
                    f"{name}_{place}.{number}",
                    "conversion Convert" if name == "Convert" else key,
                )


def weight_bytes(path: Path) -> dict[str, int]:
    """Bytes of the stored weights by type: {"float32": 6115328} or {"float32": ..., "int8": ...}.

    Args:
        path: The ``.pte`` file.
    """
    sizes: Counter[str] = Counter()
    for graph in _opened(path)[1]:
        seen: set[int] = set()
        for value in graph["xvalues"]:
            _, kind, tensor = _tensor(value)
            scales = value["xvalue_union"].get("quant_params", {})
            if tensor["constant_buffer_idx"] and tensor["constant_buffer_idx"] not in seen:
                sizes[STORED.get(kind, kind)] += int(np.prod(tensor["dims"])) * BYTES[kind]
                seen.add(tensor["constant_buffer_idx"])
            if scales.get("scale_buffer_idx", 0) and scales["scale_buffer_idx"] not in seen:
                sizes["float32"] += 4 * scales["num_scales"]
                seen.add(scales["scale_buffer_idx"])
    return dict(sorted(sizes.items()))


def _tensor(value: Mapping[str, Any]) -> tuple[int, str, Mapping[str, Any]]:
    """Number, type and facts of a value of XNNPACK's graph."""
    held = value["xvalue_union"]
    tensor = held.get("tensor_value", held)
    return tensor["id_out"], tensor["datatype"].removeprefix("xnn_datatype_"), tensor


def _opened(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The program of a file, and XNNPACK's graphs in it as plain data."""
    with _calm():
        require("executorch", extra="executorch")
        from executorch.exir._serialize import _program

        content = path.read_bytes()
        program = _program.deserialize_pte_binary(content).program
        graphs: list[dict[str, Any]] = []
        while True:
            payload = _program._extract_delegate_payload(content, "xnnpack", len(graphs))
            if payload is None:
                return program, graphs
            graphs.append(_graph(payload))


def _graph(payload: bytes) -> dict[str, Any]:
    require("executorch", extra="executorch")
    from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as xnnpack
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    head = xnnpack.XNNHeader.from_bytes(payload[: xnnpack.XNNHeader.EXPECTED_LENGTH])
    end = head.flatbuffer_offset + head.flatbuffer_size
    with tempfile.TemporaryDirectory(prefix="clinipress-") as directory:
        folder = Path(directory)
        (folder / "schema.fbs").write_bytes(xnnpack._get_schema_bytes())
        (folder / "graph.bin").write_bytes(payload[head.flatbuffer_offset : end])
        names = [str(folder / name) for name in ("schema.fbs", "graph.bin")]
        _flatc_decompile(directory, *names, ["--raw-binary"])
        text = (folder / "graph.json").read_text(encoding="utf-8")
    # infinite ends of clamps, as Python's JSON spells them
    graph: dict[str, Any] = json.loads(re.sub(r":\s(-?)inf\b", r": \1Infinity", text))
    return graph
