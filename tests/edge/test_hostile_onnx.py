"""Graphs that an enemy, or a broken toolchain, put into a bundle that is signed as it should be."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clinipress.edge.bundle import load_bundle, write_bundle
from clinipress.edge.manifest import CARD, digest_of_card
from clinipress.errors import BundleError, ModelError
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.records.candidate import Card
from clinipress.records.store import read_json, sha256_of, write_atomically

CLASSES = 3


def constant(name: str, value, kind) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def write(path: Path, card: Card, nodes, constants) -> Path:
    """A file that says it takes and gives what the card says; its nodes make "logits"."""
    spec = card.input
    image = ["n", spec.channels, spec.height, spec.width]
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        constants,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def out_of_range(path: Path, card: Card) -> Path:
    """A place in a table that the pixels choose, and that is not there."""
    nodes = [
        helper.make_node("Cast", ["image"], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["whole", "axes"], ["row"], keepdims=0),
        helper.make_node("Gather", ["table", "row"], ["logits"], axis=0),
    ]
    table = constant("table", np.zeros((2, CLASSES)), np.float32)
    return write(path, card, nodes, [table, constant("axes", [1, 2, 3], np.int64)])


def other_shape(path: Path, card: Card) -> Path:
    """One answer for many images, and other classes than the card's."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "row"], ["five"]),
        helper.make_node("Shape", ["five"], ["length"]),
        helper.make_node("Concat", ["one", "length"], ["shape"], axis=0),
        helper.make_node("Reshape", ["five", "shape"], ["logits"]),
    ]
    row = constant("row", [1, 2, 3, 4, 5], np.float32)
    return write(path, card, nodes, [row, constant("one", [1], np.int64)])


def endless(path: Path, card: Card) -> Path:
    """A loop whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["state", "one"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        [constant("one", 1, np.float32)],
    )
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "row"], ["start"]),
        helper.make_node("Loop", ["most", "go0", "start"], ["logits"], body=body),
    ]
    constants = [
        constant("last", [1], np.int64),
        constant("row", [[1, 2, 3]], np.float32),
        constant("most", 2**62, np.int64),
        constant("go0", True, np.bool_),
    ]
    return write(path, card, nodes, constants)


MAKERS = {"out of range": out_of_range, "other shape": other_shape, "endless": endless}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr("clinipress.formats.onnx.run.FIRST_CALL_SECONDS", 1.0)


@pytest.mark.parametrize("name", MAKERS)
def test_attack_a_hostile_graph_is_one_line(tmp_path, card, folder, name):
    path = MAKERS[name](folder / "model.onnx", card)
    tree = read_json(folder / CARD)
    tree["files"]["model.onnx"] = sha256_of(path)
    write_atomically(folder / CARD, json.dumps(tree | {"digest": digest_of_card(tree)}))
    began = time.monotonic()
    with pytest.raises(BundleError) as refused:
        load_bundle(folder)
    assert time.monotonic() - began < 60
    assert len(str(refused.value).splitlines()) == 1
    # nor is such a bundle written
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "new", path, card, sample=folder / "sample.png", evidence={})
    # and what runs the file outside a bundle says so, too
    spec = card.input
    images = np.full((2, spec.channels, spec.height, spec.width), 9, np.uint8)
    with pytest.raises(ModelError):
        OnnxCandidate.load(path, card).predict(images)


def test_a_file_that_answered_once_is_not_limited_again(card, folder, monkeypatch):
    candidate = OnnxCandidate.load(folder / "model.onnx", card)
    images = np.zeros((1, card.input.channels, card.input.height, card.input.width), np.uint8)
    first = candidate.predict(images)
    monkeypatch.setattr("clinipress.formats.onnx.run.threading.Timer", None)
    assert (candidate.predict(images) == first).all()
