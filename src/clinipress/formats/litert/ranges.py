"""Ranges of the activations of a LiteRT graph: the runtime's own calibration, or given ones.

Given ranges carry the names of an ONNX file; tensors that hold the same values for the same images
are the same tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert.float import GreyLevels
from clinipress.formats.litert.run import interpreter, silence
from clinipress.formats.matching import connected, match_tensors
from clinipress.formats.onnx.values import prepared_values
from clinipress.formats.ranges import quiet

__all__ = ["calibrated", "extremes", "placed", "settled"]

Ranges = dict[str, tuple[float, float]]
PROBES = 2  # images that tensors are matched on
SIGNATURE = "serving_default"  # the converter's name for a network's one function
# Operators whose result has the grid of what goes in.
HANDS_ON = ("CONCATENATION", "PAD", "PADV2", "MAX_POOL_2D", "RESHAPE")


def calibrated(
    graph: bytes, quantizer: Any, levels: GreyLevels, images: NDArray[np.uint8]
) -> Ranges:
    """What the quantizer's own calibration finds: moving averages of the extremes of each image.

    Args:
        graph: The float32 graph.
        quantizer: An ``ai_edge_quantizer.quantizer.Quantizer`` of it.
        levels: Of its input.
        images: uint8 ``[n, c, h, w]``.

    Returns:
        Tensor -> (low, high), for every tensor that gets a grid.
    """
    samples = [{litert_graph.INPUT_NAME: image[None]} for image in levels.inputs(images)]
    with silence(), quiet():
        statistics = quantizer.calibrate({SIGNATURE: samples}, num_threads=1)
    computed = _names(graph)
    return {
        name: (float(np.min(ends["min"])), float(np.max(ends["max"])))
        for name, ends in statistics.items()
        if name in computed and ends
    }


def extremes(graph: bytes, levels: GreyLevels, images: NDArray[np.uint8]) -> Ranges:
    """The least and the greatest value of each computed tensor over all images."""
    ranges: Ranges = {}
    for values in _each(graph, levels.inputs(images)):
        for name, array in values.items():
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    return ranges


def settled(graph: bytes, measured: Ranges, fixed: Ranges) -> Ranges:
    """One range for all tensors that share a grid.

    Padding, pooling, reshaping and joining move values about; where what goes in and what comes out
    have one grid, they move bytes.

    Args:
        graph: The float32 graph.
        measured: Tensor -> (low, high), calibrated.
        fixed: The same, known better.

    Returns:
        `measured` with, for each such group, the range that spans its fixed ones, and of the others
        those whose values are handed on to none of these; or all where none is fixed.
    """
    model = litert_graph.read(graph)
    tensors = model.subgraphs[0].tensors
    settled = measured | fixed
    for numbers in _groups(model):
        names = [tensors[number].name.decode() for number in numbers]
        handed_on = _handed_on(model, numbers)
        sources = set(numbers).difference(*handed_on.values())
        known = [name for name in names if name in fixed]
        if known:  # what is joined with them must fit, too
            known += [
                tensors[number].name.decode()
                for number in sorted(sources)
                if not any(tensors[n].name.decode() in fixed for n in _behind(number, handed_on))
            ]
        known = [name for name in known or names if name in settled]
        ends = [settled[name] for name in known]
        if ends:
            span = min(low for low, _ in ends), max(high for _, high in ends)
            settled.update(dict.fromkeys(names, span))
    return settled


def _handed_on(model: Any, numbers: list[int]) -> dict[int, set[int]]:
    """Tensor of a group -> those that an operator hands its values on to."""
    edges: dict[int, set[int]] = {}
    for item in model.subgraphs[0].operators:
        if litert_graph.operator_name(model, item) in HANDS_ON:
            outputs = {int(n) for n in item.outputs} & set(numbers)
            for number in {int(n) for n in item.inputs} & set(numbers):
                edges.setdefault(number, set()).update(outputs)
    return edges


def _behind(number: int, handed_on: Mapping[int, set[int]]) -> set[int]:
    """A tensor and all that its values end up in."""
    reached, left = set(), [number]
    while left:
        if (last := left.pop()) not in reached:
            reached.add(last)
            left += handed_on.get(last, ())
    return reached


def _groups(model: Any) -> list[list[int]]:
    pairs: list[tuple[int, int]] = []
    for item in model.subgraphs[0].operators:
        if litert_graph.operator_name(model, item) in HANDS_ON:
            numbers = [int(number) for number in (*item.inputs, *item.outputs)]
            computed = [n for n in numbers if not litert_graph.stored(model, n)]
            pairs += [(number, computed[0]) for number in computed]
    return connected(pairs)


def _names(graph: bytes) -> list[str]:
    model = litert_graph.read(graph)
    tensors = model.subgraphs[0].tensors
    return [tensors[number].name.decode() for number in litert_graph.activations(model)]


def placed(
    graph: bytes,
    levels: GreyLevels,
    source: Path,
    images: NDArray[np.uint8],
    ranges: Mapping[str, tuple[float, float]],
) -> dict[str, tuple[str, tuple[float, float]]]:
    """Where given ranges belong.

    Args:
        graph: The float32 graph.
        levels: Of its input.
        source: The float32 ONNX file.
        images: uint8 ``[n, c, h, w]``; the first are looked at.
        ranges: (low, high) by tensor of `source`, or of what `quantize.prepare` makes of it.

    Returns:
        Tensor of the graph -> (name in `ranges`, its range); those without a partner left out.
    """
    probes = images[:PROBES]
    there, clamps, _ = prepared_values(source, ranges, probes)
    # the ONNX file does not round the normalisation's zero
    parts = list(_each(graph, levels.inputs(probes, exact=True)))
    here = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    pairs: dict[str, list[str]] = {}
    for name, partners in match_tensors(there, here).items():
        for partner in partners:
            pairs.setdefault(partner, []).append(name)
    # a convolution here has its clamp within: of two equal tensors there, the clamp's is meant
    chosen = {
        name: min(originals, key=lambda original: original not in clamps)
        for name, originals in pairs.items()
    }
    return {name: (other, ranges[other]) for name, other in chosen.items()}


def _each(graph: bytes, inputs: NDArray[np.float32]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What the graph computes inside for one input after the other: tensor -> its values."""
    engine = interpreter(graph, 1, experimental_preserve_all_tensors=True)
    numbers = {item["name"]: item["index"] for item in engine.get_tensor_details()}
    names = _names(graph)
    for pixels in inputs:
        engine.set_tensor(numbers[litert_graph.INPUT_NAME], pixels[None])
        engine.invoke()
        yield {name: np.array(engine.get_tensor(numbers[name])) for name in names}
