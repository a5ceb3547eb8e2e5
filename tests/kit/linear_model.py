"""A linear classifier as an ONNX file: small, and its logits are one matrix product in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clinipress.records.candidate import InputSpec


def weights(spec: InputSpec, classes: int, seed: int = 0) -> NDArray[np.float32]:
    """float32 [channels * height * width, classes]; logits of noise spread over some units."""
    count = spec.channels * spec.height * spec.width
    drawn = np.random.default_rng(seed).standard_normal((count, classes))
    return np.asarray(drawn * 10 / np.sqrt(count), np.float32)


def logits_of(images: NDArray[np.uint8], matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """What `write_linear`'s file answers, computed by numpy."""
    flat = images.reshape(len(images), -1).astype(np.float64) / 255
    return np.asarray(flat @ matrix.astype(np.float64))


def write_linear(path: Path, spec: InputSpec, matrix: NDArray[np.float32]) -> Path:
    """logits = flatten(image / 255) @ matrix."""
    pixels, classes = [spec.channels, spec.height, spec.width], matrix.shape[1]
    constants = [
        numpy_helper.from_array(np.array(255, np.float32), "scale"),
        numpy_helper.from_array(matrix, "matrix"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Flatten", ["unit"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *pixels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def noise(spec: InputSpec, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [channels, height, width]."""
    shape = (spec.channels, spec.height, spec.width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def clear_noise(spec: InputSpec, matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The noise image with the clearest answer among 20."""
    images = np.stack([noise(spec, seed) for seed in range(20)])
    ordered = np.sort(logits_of(images, matrix), axis=1)
    return images[int(np.argmax(ordered[:, -1] - ordered[:, -2]))]
