"""Rewrites of a LiteRT graph: functions on its model object, in place, no files.

All are exact up to the rounding of float32. They make a graph that XNNPACK takes whole, in 8 bits
too, out of what the converter writes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.litert.graph import (
    NO_ACTIVATION,
    GraphEditor,
    activation_of,
    constant,
    makers_of,
    operator_name,
    readers_of,
    schema,
)

__all__ = [
    "BIASES",
    "average_in_place",
    "convolve_affine",
    "convolve_average_pools",
    "flatten_biases",
    "nest_concats",
    "pad_pools_with_zeros",
    "spell_out_hard_swish",
]

RELU6 = schema.ActivationFunctionType.RELU6
LOWEST = float(np.finfo(np.float32).min)  # what maxima are padded with; or -infinity
MOST_JOINED = 5  # tensors in one CONCATENATION of XNNPACK
# Fused activations after which nothing is below zero.
NOT_NEGATIVE = (schema.ActivationFunctionType.RELU, RELU6)
# Operators whose result has no value that their input had not, but for zeros.
KEEPS_SIGN = ("RELU", "RELU6", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "RESHAPE", "CONCATENATION")


def pad_pools_with_zeros(model: Any) -> None:
    """Pad maxima of values that are never negative with zeros instead of with -infinity.

    XNNPACK has no PADV2: it would run the graph in two halves with a slow operator between.
    """
    graph, makers = model.subgraphs[0], makers_of(model.subgraphs[0])
    options = schema.PadOptionsT()
    for index, item in enumerate(graph.operators):
        if operator_name(model, item) != "PADV2":
            continue
        readers = [other for other in graph.operators if item.outputs[0] in other.inputs]
        if {operator_name(model, other) for other in readers} != {"MAX_POOL_2D"}:
            continue
        value = constant(model, int(item.inputs[2]))
        lowest = value is not None and value.size == 1 and float(value.ravel()[0]) <= LOWEST
        if lowest and _never_negative(model, makers, int(item.inputs[0])):
            new = GraphEditor(model).operator(
                "PAD", list(item.inputs[:2]), item.outputs[0], options
            )
            graph.operators[index] = new


def _never_negative(model: Any, makers: dict[int, Any], number: int) -> bool:
    maker = makers.get(number)
    if maker is None:
        return False
    if activation_of(maker) in NOT_NEGATIVE:
        return True
    name = operator_name(model, maker)
    if name in ("RELU", "RELU6", "LOGISTIC"):
        return True
    computed = [int(n) for n in maker.inputs if constant(model, int(n)) is None]
    return name in KEEPS_SIGN and all(_never_negative(model, makers, n) for n in computed)


class _Affine(NamedTuple):
    """One link of a chain: ``factor * x + addend``, per channel."""

    source: int
    factor: NDArray[np.float64]
    addend: NDArray[np.float64]
    wide: bool  # a number for each channel, not one for all


def _affine(model: Any, item: Any) -> _Affine | None:
    """What an elementwise operator with a constant does to its other operand."""
    name = operator_name(model, item)
    if name not in ("ADD", "SUB", "MUL"):
        return None
    values = [constant(model, int(number)) for number in item.inputs]
    if (values[0] is None) == (values[1] is None):
        return None
    side = 0 if values[0] is None else 1
    source, other = int(item.inputs[side]), values[1 - side]
    shape = model.subgraphs[0].tensors[source].shape
    if other is None or shape is None or len(shape) != 4 or other.size not in (1, shape[-1]):
        return None
    if other.size > 1 and other.shape[-1] != other.size:
        return None
    numbers = np.broadcast_to(other.reshape(-1).astype(np.float64), (int(shape[-1]),))
    ones = np.ones_like(numbers)
    wide = other.size > 1
    if name == "MUL":
        return _Affine(source, numbers, 0 * ones, wide)
    if name == "ADD":
        return _Affine(source, ones, numbers, wide)
    return _Affine(source, ones if side == 0 else -ones, -numbers if side == 0 else numbers, wide)


def convolve_affine(model: Any) -> None:
    """Make one depthwise 1x1 convolution of each chain of sums and products per channel.

    A batch normalisation that follows no convolution comes as four operators in a row (DenseNet has
    62 of them), a mean and deviation per colour as two.
    """
    graph = model.subgraphs[0]
    readers, makers, editor = readers_of(graph), makers_of(graph), GraphEditor(model)
    replaced: dict[int, Any] = {}
    gone: set[int] = set()
    for item in reversed(graph.operators):
        chain = [] if id(item) in gone else _chain(model, item, makers, readers)
        if len(chain) < 2 or not any(link.wide for _, link in chain):
            continue
        gone.update(id(other) for other, _ in chain)
        factor, addend = np.ones(()), np.zeros(())
        for _, link in chain:  # from the last to the first
            factor, addend = factor * link.factor, addend + factor * link.addend
        weights = factor.reshape(1, 1, 1, -1)
        replaced[id(item)] = _depthwise(editor, chain[-1][1].source, item, weights, addend)
    graph.operators = [
        replaced.get(id(item), item)
        for item in graph.operators
        if id(item) in replaced or id(item) not in gone
    ]


def _chain(
    model: Any, item: Any, makers: dict[int, Any], readers: Counter[int]
) -> list[tuple[Any, _Affine]]:
    """The affine operators that end in `item`, last first."""
    links: list[tuple[Any, _Affine]] = []
    while (link := _affine(model, item)) is not None:
        links.append((item, link))
        before = makers.get(link.source)
        if before is None or readers[link.source] != 1 or activation_of(before) != NO_ACTIVATION:
            break
        item = before
    return links


def _depthwise(
    editor: GraphEditor,
    source: int,
    last: Any,
    weights: Any,
    bias: Any,
    down: int = 1,
    right: int = 1,
) -> Any:
    """A depthwise convolution without padding, with the activation and the result of `last`."""
    options = schema.DepthwiseConv2DOptionsT(
        padding=schema.Padding.VALID,
        strideW=right,
        strideH=down,
        depthMultiplier=1,
        fusedActivationFunction=activation_of(last),
    )
    inputs = [int(source), editor.constant(weights), editor.constant(bias)]
    return editor.operator("DEPTHWISE_CONV_2D", inputs, int(last.outputs[0]), options)


def average_in_place(model: Any) -> None:
    """Take means over height and width where the channels are, last, not where they are moved to.

    The converter does so itself for a pooling module, but not for ``x.mean((2, 3))``.
    """
    graph = model.subgraphs[0]
    makers, readers = makers_of(graph), readers_of(graph)
    for item in graph.operators:
        mover = makers.get(int(item.inputs[0]))
        if operator_name(model, item) != "MEAN" or item.builtinOptions.keepDims or mover is None:
            continue
        axes = constant(model, int(item.inputs[1]))
        order = constant(model, int(mover.inputs[-1]))
        if operator_name(model, mover) != "TRANSPOSE" or axes is None or order is None:
            continue
        over = {int(axis) % len(order) for axis in axes.reshape(-1)}
        left = [int(side) for position, side in enumerate(order) if position not in over]
        if left != sorted(left) or readers[int(item.inputs[0])] != 1:
            continue
        moved = np.array(sorted(int(order[axis]) for axis in over), np.int32)
        item.inputs = [int(mover.inputs[0]), GraphEditor(model).constant(moved)]
        graph.operators = [other for other in graph.operators if other is not mover]


def convolve_average_pools(model: Any) -> None:
    """Make a depthwise convolution of each average pool: XNNPACK has none in 8 bits."""
    graph, editor = model.subgraphs[0], GraphEditor(model)
    for index, item in enumerate(graph.operators):
        old = item.builtinOptions
        if operator_name(model, item) != "AVERAGE_POOL_2D" or old.padding != schema.Padding.VALID:
            continue
        channels, size = int(graph.tensors[item.inputs[0]].shape[-1]), old.filterHeight
        weights = np.full((1, size, old.filterWidth, channels), 1 / (size * old.filterWidth))
        graph.operators[index] = _depthwise(
            editor, item.inputs[0], item, weights, np.zeros(channels), old.strideH, old.strideW
        )


# Layer -> position of its bias.
BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


def flatten_biases(model: Any) -> None:
    """Let every layer's bias have one axis: the quantizer puts its scales on the first.

    Of a transposed convolution the converter writes ``[1, 1, 1, channels]``; with a scale for each
    channel on an axis of length 1 no engine opens the file.
    """
    editor = GraphEditor(model)
    for item in model.subgraphs[0].operators:
        position = BIASES.get(operator_name(model, item))
        if position is None or len(item.inputs) <= position:
            continue
        bias = constant(model, int(item.inputs[position]))
        if bias is not None and bias.ndim > 1 and bias.size == bias.shape[-1]:
            inputs = [int(number) for number in item.inputs]
            inputs[position] = editor.constant(bias.reshape(-1))
            item.inputs = inputs


def spell_out_hard_swish(model: Any) -> None:
    """Write ``x * relu6(x + 3) / 6`` as a sum and two products.

    XNNPACK has no 8-bit HARD_SWISH: each of them would end its graph and begin another one. (In
    float32, and on microcontrollers in 8 bits, the one operator is faster: leave it there.)
    """
    graph, editor = model.subgraphs[0], GraphEditor(model)
    operators: list[Any] = []
    for item in graph.operators:
        if operator_name(model, item) != "HARD_SWISH":
            operators.append(item)
            continue
        source = int(item.inputs[0])
        shape = graph.tensors[source].shape
        shifted, gate = editor.computed(shape), editor.computed(shape)
        three, sixth = (editor.constant(np.array(value)) for value in (3.0, 1 / 6))
        clamp = schema.AddOptionsT(fusedActivationFunction=RELU6)
        operators += [
            editor.operator("ADD", [source, three], shifted, clamp),
            editor.operator("MUL", [shifted, sixth], gate, schema.MulOptionsT()),
            editor.operator("MUL", [source, gate], int(item.outputs[0]), schema.MulOptionsT()),
        ]
    graph.operators = operators


def nest_concats(model: Any) -> None:
    """Join what was joined before with what is new, instead of all parts again.

    XNNPACK joins at most five tensors (DenseNet joins up to 33), and copies fewer so.
    """
    graph, editor = model.subgraphs[0], GraphEditor(model)
    known: dict[tuple[int, ...], int] = {}
    operators: list[Any] = []
    for item in graph.operators:
        operators.append(item)
        if operator_name(model, item) != "CONCATENATION" or activation_of(item) != NO_ACTIVATION:
            continue
        axis, parts = item.builtinOptions.axis, tuple(int(number) for number in item.inputs)
        before = [n for n in range(len(parts), 1, -1) if (axis, *parts[:n]) in known]
        if before:
            item.inputs = [known[(axis, *parts[: before[0]])], *parts[before[0] :]]
        known[(axis, *parts)] = int(item.outputs[0])
        while len(item.inputs) > MOST_JOINED:
            first = [int(number) for number in item.inputs[:MOST_JOINED]]
            options = schema.ConcatenationOptionsT(axis=axis)
            joined = editor.computed(_joined_shape(graph, first, axis))
            operators.insert(-1, editor.operator("CONCATENATION", first, joined, options))
            item.inputs = [joined, *item.inputs[MOST_JOINED:]]
    graph.operators = operators


def _joined_shape(graph: Any, numbers: list[int], axis: int) -> NDArray[np.int32]:
    shapes = [graph.tensors[number].shape for number in numbers]
    shape = np.array(shapes[0], np.int32)
    shape[axis] = sum(int(part[axis]) for part in shapes)
    return shape
