"""Calibration images that excite a network far beyond the others, and would spoil its ranges.

A data set can hold images of another kind: CT slices in a set of MRI gave a MobileNetV3-Small
activations six times those of the other images in most layers, and three hundred times in some.
Three of them among 200 calibration images took an int8 file from 82 % to 44 % accuracy, whatever
the method: in a late layer, with few values per image, a single image is more than any share of
outliers that percentiles cut off. Ranges are found without such images; on them the file saturates.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from clinipress.formats.onnx.run import INPUT_NAME, images_per_call, session
from clinipress.formats.ranges import CALIBRATION_BATCH

__all__ = ["excitation", "outliers"]

LAYERS = {"Conv", "Gemm", "MatMul"}
# Ordinary images reached 1.8 in five networks on brain-mri, images of another kind 2.1 to 6.4.
BEYOND = 2.0
MOST = 0.05  # more than this share are no outliers but a part of the data
FEWEST = 20  # images below which nobody can say what is usual


def outliers(model: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers of the images that should not decide about ranges.

    Args:
        model: A float32 graph of ours; not touched.
        images: uint8 ``[n, c, h, w]``.

    Returns:
        int64 ``[m]``, increasing; empty where more than `MOST` of the images would be named, or
        there are fewer than `FEWEST`.
    """
    if len(images) < FEWEST:
        return np.empty(0, dtype=np.int64)
    numbers = np.flatnonzero(excitation(model, images) > BEYOND)
    return numbers if len(numbers) <= MOST * len(images) else np.empty(0, dtype=np.int64)


def excitation(model: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far each image excites the network, 1 being usual.

    Per layer, the image's largest magnitude over the median of that over all images; of these
    ratios the median over the layers.

    Returns:
        float64 ``[n]``.
    """
    largest = _largest(model, images)
    usual = np.median(largest, axis=0)
    alive = usual > 0
    if not alive.any():
        return np.ones(len(images))
    ratios: NDArray[np.float64] = np.median(largest[:, alive] / usual[alive], axis=1)
    return ratios


def _largest(model: onnx.ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Largest magnitude per image and layer, ``[n, layers]``; found inside the runtime."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    # the reduction took its axes as an attribute before opset 18, as an input since
    new = max(entry.version for entry in opened.opset_import if not entry.domain) >= 18
    axes = numpy_helper.from_array(np.array([1]), "excitation.axes")
    names = [n.output[0] for n in graph.node if n.op_type in LAYERS]
    results = [f"excitation.{number}" for number in range(len(names))]
    for name, result in zip(names, results, strict=True):
        reduce = helper.make_node("ReduceMax", [f"{result}.flat"], [result], keepdims=0)
        if new:
            reduce.input.append(axes.name)
        else:
            reduce.attribute.append(helper.make_attribute("axes", [1]))
        absolute = helper.make_node("Abs", [name], [f"{result}.abs"])
        flat = helper.make_node("Flatten", [f"{result}.abs"], [f"{result}.flat"], axis=1)
        graph.node.extend([absolute, flat, reduce])
        graph.output.append(helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None))
    if new:
        graph.initializer.append(axes)
    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        path = Path(folder) / "opened.onnx"
        onnx.save(opened, path)
        running = session(path, None)
        rows = []
        size = images_per_call(running, CALIBRATION_BATCH)
        for start in range(0, len(images), size):
            part = np.ascontiguousarray(images[start : start + size])
            values = running.run(results, {INPUT_NAME: part})
            # some attention lays the pieces of all images side by side: no figure per image there
            rows.append(np.stack([layer for layer in values if len(layer) == len(part)], axis=1))
    return np.concatenate(rows).astype(np.float64)
