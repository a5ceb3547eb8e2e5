"""A linear classifier as an ONNX file, and bundles made of it: small, exact and without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clinipress.edge.bundle import write_bundle
from clinipress.records import Card, InputSpec


def weights(spec: InputSpec, classes: int, seed: int = 0) -> NDArray[np.float32]:
    """float32 [channels * height * width, classes]; logits of noise images have a spread near 3."""
    count = spec.channels * spec.height * spec.width
    drawn = np.random.default_rng(seed).standard_normal((count, classes))
    return (drawn * 10 / np.sqrt(count)).astype(np.float32)


def write_linear(path: Path, spec: InputSpec, classes: int, seed: int = 0) -> Path:
    """logits = flatten(image / 255) @ weights."""
    pixels = [spec.channels, spec.height, spec.width]
    constants = [
        numpy_helper.from_array(np.float32(255), "scale"),
        numpy_helper.from_array(weights(spec, classes, seed), "weights"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Flatten", ["unit"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *pixels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def noise(spec: InputSpec, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [channels, height, width] of noise."""
    drawn = np.random.default_rng(seed).integers(
        0, 256, (spec.channels, spec.height, spec.width), dtype=np.uint8
    )
    return np.asarray(drawn)


def clear_noise(spec: InputSpec, classes: int) -> NDArray[np.uint8]:
    """The noise image with the clearest answer among 20."""
    images = np.stack([noise(spec, seed) for seed in range(20)])
    logits = images.reshape(20, -1) / 255 @ weights(spec, classes)
    best = np.sort(logits, axis=1)
    return np.asarray(images[np.argmax(best[:, -1] - best[:, -2])])


@pytest.fixture
def card() -> Card:
    return Card(
        name="tiny",
        classes=("glioma", "normal", "pituitary"),
        input=InputSpec(channels=1, height=16, width=24),
        format="onnx",
        temperature=1.7,
        uncertain_below=0.6,
        intended_use="tests",
    )


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle for a card; keyword arguments go to write_bundle."""

    def make(card: Card, name: str = "bundle", **options) -> Path:
        classes = len(card.classes)
        model = write_linear(tmp_path / f"{name}.onnx", card.input, classes)
        return write_bundle(
            tmp_path / name,
            model,
            card,
            sample=options.pop("sample", clear_noise(card.input, classes)),
            evidence=options.pop("evidence", {"test": {"accuracy": 0.9}}),
            licence=options.pop("licence", "Apache-2.0"),
            **options,
        )

    return make


@pytest.fixture
def bundle_folder(card: Card, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(card)
