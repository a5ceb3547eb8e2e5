"""The first convolution of an 8-bit LiteRT graph, which reads one or three channels of eight."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.litert.graph import (
    GraphEditor,
    activation_of,
    constant,
    operator_name,
    readers_of,
    schema,
)

__all__ = ["pack_first_convolution"]

LANES = 8  # input channels that XNNPACK's 8-bit kernels multiply at a time; fewer cost as much
TILES = 16  # pixels that are normalised side by side, at most


def pack_first_convolution(model: Any) -> None:
    """Let the first convolution read pixels of a row several at a time, as channels of one.

    An 8-bit kernel multiplies `LANES` input channels at once and the image has one or three. Side
    by side in memory, pixels are channels already: the kernel reads groups of them, with zeros
    where the window does not reach, and gives as many neighbours of a row as fall to a group.
    Fewer, fuller products: ResNet-18's 7 x 7 window on grey is 21 of them instead of 49.
    """
    graph = model.subgraphs[0]
    image, before = _tile_normalisation(model, int(graph.inputs[0]))
    gone = list(before)
    if (first := _first_convolution(model, image)) is not None:
        pad, item, window = first
        packing = window.best()
        weights, bias = (constant(model, int(number)) for number in item.inputs[1:])
        if packing is not None and weights is not None and bias is not None:
            if operator_name(model, item) == "DEPTHWISE_CONV_2D":  # of one channel: [1, kh, kw, o]
                weights = weights.transpose(3, 1, 2, 0)
            before += _packed_operators(model, image, item, window, packing, weights, bias)
            gone += [pad, item]
    kept = [other for other in graph.operators if not any(other is item for item in gone)]
    graph.operators = before + kept


def _tile_normalisation(model: Any, image: int) -> tuple[int, list[Any]]:
    """Let a 1x1 depthwise convolution that reads the image read pixels of a row side by side.

    Returns:
        The tensor that the next convolution reads, and the operators that make it.
    """
    graph = model.subgraphs[0]
    item = _only_reader(graph, readers_of(graph), image)
    if item is None or operator_name(model, item) != "DEPTHWISE_CONV_2D":
        return image, []
    options = item.builtinOptions
    if len(item.inputs) != 3 or (options.strideH, options.strideW) != (1, 1):
        return image, []
    weights, bias = (constant(model, int(number)) for number in item.inputs[1:])
    result = int(item.outputs[0])
    rows, columns, channels = (int(side) for side in graph.tensors[image].shape[1:])
    if weights is None or bias is None or weights.shape[1:3] != (1, 1):
        return image, []
    tiles = next(n for n in range(TILES, 0, -1) if columns % n == 0)
    if weights.shape[3] != channels or tiles == 1:  # one channel becomes three: no depthwise kernel
        return result, [item]
    editor = GraphEditor(model)
    side_by_side = [1, rows, columns // tiles, channels * tiles]
    taken, given = editor.computed(side_by_side), editor.computed(side_by_side)
    item.inputs = [
        taken,
        editor.constant(np.tile(weights, tiles)),
        editor.constant(np.tile(bias, tiles)),
    ]
    item.outputs = [given]
    return result, [_reshape(editor, image, taken), item, _reshape(editor, given, result)]


def _packed_operators(
    model: Any,
    image: int,
    item: Any,
    window: _Window,
    packing: _Packing,
    weights: NDArray[Any],
    bias: NDArray[Any],
) -> list[Any]:
    """Group the pixels, pad, convolve, and take the results of a group apart again."""
    editor, graph = GraphEditor(model), model.subgraphs[0]
    result = int(item.outputs[0])
    group, phases, depth = packing.group, packing.phases, packing.group * window.channels
    rows, height = (int(graph.tensors[number].shape[1]) for number in (image, result))
    groups = window.width // group
    margins = [[0, 0], [window.above, window.below], [packing.left, packing.right], [0, 0]]
    grouped = editor.computed([1, rows, groups, depth])
    padded = editor.computed(
        [1, rows + sum(margins[1]), groups + packing.left + packing.right, depth]
    )
    wide = result
    if phases > 1:
        wide = editor.computed([1, height, window.results // phases, phases * len(bias)])
    weight = editor.constant(window.packed(weights, packing))
    options = schema.Conv2DOptionsT(
        padding=schema.Padding.VALID,
        strideH=window.down,
        strideW=1,
        fusedActivationFunction=activation_of(item),
    )
    sides = editor.constant(np.array(margins, np.int32))
    inputs = [padded, weight, editor.constant(np.tile(bias, phases))]
    made = [
        _reshape(editor, image, grouped),
        editor.operator("PAD", [grouped, sides], padded, schema.PadOptionsT()),
        editor.operator("CONV_2D", inputs, wide, options),
    ]
    return made if phases == 1 else [*made, _reshape(editor, wide, result)]


class _Packing(NamedTuple):
    """Pixels of a row per group, results of a row per group, and groups the window spans."""

    group: int
    phases: int
    units: int
    left: int
    right: int


class _Window(NamedTuple):
    """The first convolution's window, and the image's padding."""

    rows: int
    columns: int
    channels: int
    down: int
    across: int
    above: int
    below: int
    left: int
    width: int  # of the image
    results: int  # in a row

    def best(self) -> _Packing | None:
        """The packing with the fewest products, if any has fewer than none at all."""
        best, least = None, float(self.columns * -(-self.channels // LANES))
        for group in range(self.across, 4 * LANES, self.across):
            phases = group // self.across
            if self.width % group or self.results % phases:
                continue
            first = -self.left // group
            last = (self.across * (phases - 1) + self.columns - 1 - self.left) // group
            packing = _Packing(
                group,
                phases,
                last - first + 1,
                -first,
                self.results // phases + last - self.width // group,
            )
            cost = packing.units * -(-group * self.channels // LANES)
            if packing.right >= 0 and cost < least:
                best, least = packing, cost
        return best

    def packed(self, weights: NDArray[Any], packing: _Packing) -> NDArray[np.float32]:
        """Weights ``[o, rows, columns, channels]`` as those of the packed convolution."""
        count = len(weights)
        made = np.zeros(
            (packing.phases, count, self.rows, packing.units * packing.group, self.channels),
            np.float32,
        )
        for phase in range(packing.phases):
            start = self.across * phase - self.left + packing.left * packing.group
            made[phase, :, :, start : start + self.columns] = weights
        return made.reshape(packing.phases * count, self.rows, packing.units, -1)


def _first_convolution(model: Any, number: int) -> tuple[Any, Any, _Window] | None:
    """The padding and the plain convolution that alone read tensor `number`, the image."""
    graph, readers = model.subgraphs[0], readers_of(model.subgraphs[0])
    pad = None
    item = _only_reader(graph, readers, number)
    sides = np.zeros((4, 2), int)
    if item is not None and operator_name(model, item) == "PAD":
        pad, known = item, constant(model, int(item.inputs[1]))
        if known is None or known[0].any() or known[3].any():
            return None
        sides, item = known, _only_reader(graph, readers, int(item.outputs[0]))
    if item is None or not _plain(model, item, int(graph.tensors[number].shape[-1])):
        return None
    shape = graph.tensors[item.inputs[1]].shape  # [o, kh, kw, c] or [1, kh, kw, o]
    image, result = graph.tensors[number].shape, graph.tensors[item.outputs[0]].shape
    return (
        pad,
        item,
        _Window(
            rows=int(shape[1]),
            columns=int(shape[2]),
            channels=int(image[3]),
            down=int(item.builtinOptions.strideH),
            across=int(item.builtinOptions.strideW),
            above=int(sides[1][0]),
            below=int(sides[1][1]),
            left=int(sides[2][0]),
            width=int(image[2]),
            results=int(result[2]),
        ),
    )


def _only_reader(graph: Any, readers: Counter[int], number: int) -> Any | None:
    if readers[number] != 1:
        return None
    return next((item for item in graph.operators if number in item.inputs), None)


def _plain(model: Any, item: Any, channels: int) -> bool:
    """A convolution of all channels, without padding of its own, not dilated, with a bias."""
    name, options = operator_name(model, item), item.builtinOptions
    if name not in ("CONV_2D", "DEPTHWISE_CONV_2D") or len(item.inputs) != 3:
        return False
    if name == "DEPTHWISE_CONV_2D" and channels != 1:
        return False
    if name == "CONV_2D" and int(model.subgraphs[0].tensors[item.inputs[1]].shape[3]) != channels:
        return False  # in groups
    dilated = options.dilationHFactor > 1 or options.dilationWFactor > 1
    return options.padding == schema.Padding.VALID and not dilated


def _reshape(editor: GraphEditor, source: int, target: int) -> Any:
    shape = np.array(editor.graph.tensors[target].shape, np.int32)
    options = schema.ReshapeOptionsT(newShape=shape)
    return editor.operator("RESHAPE", [source, editor.constant(shape)], target, options)
