"""8-bit and half-precision files of graphs that are not the usual convolution first, Gemm last."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from clinipress.errors import ModelError
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx import int8
from clinipress.formats.onnx.count import count_low_precision
from clinipress.formats.onnx.float import to_float16
from clinipress.formats.onnx.placement import signal_to_noise
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.steps.qat.network import QuantizedNetwork, Schedule
from clinipress.steps.qat.places import find_places
from kit.candidates import wrapped
from kit.onnx_nets import convolution, graph_model, pixels, saved, to_int8

GRID = {"scale": np.float32(1 / 64), "zero": np.uint8(51)}


def draw(*shape, seed=0):
    fan = max(1, int(np.prod(shape[1:])))
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(fan)).astype(np.float32)


def small_net(first=(), neck=(), tensors=None, zero=51):
    """DequantizeLinear, `first` ("pixels" to "in"), a convolution, a mean, `neck`, a head."""
    tensors = GRID | {"zero": np.uint8(zero)} | (tensors or {})
    tensors |= {"stem.w": draw(8, 1, 3, 3), "stem.b": draw(8, seed=1)}
    tensors |= {"head.w": draw(3, 8, seed=2) * 3, "head.b": draw(3, seed=3)}
    flat, source = ("neck" if neck else "flat"), ("in" if first else "pixels")
    return graph_model(
        [
            helper.make_node("DequantizeLinear", ["image", "scale", "zero"], ["pixels"]),
            *first,
            convolution("stem", source, tensors["stem.w"], strides=[2, 2]),
            helper.make_node("Relu", ["stem.out"], ["relu"], name="relu"),
            helper.make_node("GlobalAveragePool", ["relu"], ["mean"], name="mean"),
            helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
            *neck,
            helper.make_node("Gemm", [flat, "head.w", "head.b"], ["logits"], name="head", transB=1),
        ],
        tensors,
    )


def agrees(file, source, decibels):
    images = pixels(32, seed=9)
    exact = OnnxCandidate.load(source, threads=1).predict(images)
    return signal_to_noise(exact, file.predict(images)) > decibels


# ------------------------------------------------------------------ F2: norms of vectors

NORM = {
    "n.gamma": draw(8, seed=4) / 3 + 1,
    "n.beta": draw(8, seed=5),
    "n.mean": draw(8, seed=6) / 3,
    "n.variance": np.abs(draw(8, seed=7)) + 0.5,
}


def neck(source="flat", target="neck"):
    return helper.make_node("BatchNormalization", [source, *NORM], [target], name=target)


def linear(source="flat", target="dense"):
    return helper.make_node("Gemm", [source, "d.w", "d.b"], [target], name=target, transB=1)


DENSE = {"d.w": draw(8, 8, seed=8) * 2, "d.b": draw(8, seed=9)}
NECKS = {
    "norm": [neck()],
    "linear, norm": [linear(), neck("dense")],
    "linear, relu, norm": [
        linear(),
        helper.make_node("Relu", ["dense"], ["dense.relu"], name="dense.relu"),
        neck("dense.relu"),
    ],
}


@pytest.mark.parametrize("name", NECKS)
def test_f2_norms_of_vectors_are_quantized_and_halved(tmp_path, name):
    source = saved(small_net(neck=NECKS[name], tensors=NORM | DENSE), tmp_path / "f.onnx")
    assert agrees(to_float16(source, tmp_path / "h.onnx"), source, 40)
    file = to_int8(source, tmp_path / "q.onnx", pixels(24))
    assert agrees(file, source, 25)
    counts = count_low_precision(file.path)
    assert not {k for k, v in counts.items() if v and k.endswith("float32")}


class Head(nn.Module):
    """fast.ai's head in small: norm, linear, ReLU, norm, linear; and a linear with its norm."""

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(
            nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 12, bias=False), nn.ReLU(),
            nn.BatchNorm1d(12), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


def settled(net, **options):
    """A candidate whose norms have seen images of its own."""
    owner = wrapped(net, **options)
    for part in owner.module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = None
            part.reset_running_stats()
    owner.module.train()
    with torch.no_grad():
        owner.module(torch.from_numpy(pixels(32, seed=3)))
    owner.module.eval()
    return owner


def test_f2_norms_of_vectors_learn_with_their_linear_layers():
    owner, images = settled(Head), pixels(24)
    places, missed = find_places(owner, images, "percentile")
    assert not missed
    network = QuantizedNetwork(owner.module, list(places.values()), Schedule(1, 1))
    assert sum(layer.norm is not None for layer in network._layers) == 2
    assert len(network._layers) == 4
    assert len(network._norms) == 2
    exact = owner.predict(images)
    with torch.no_grad():
        rounded = network.eval()(torch.from_numpy(images)).numpy()
    assert signal_to_noise(exact, rounded) > 20
    network.train()(torch.from_numpy(images)).square().mean().backward()
    assert all(layer.weight.get().grad is not None for layer in network._layers)


# ------------------------------------------------------------------ F5: what comes first

PADS = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}


def moved(kind, *inputs, tensors=None, **attributes):
    node = helper.make_node(kind, ["pixels", *inputs], ["in"], name="first", **attributes)
    return [node], tensors or {}


FIRST = {
    "reflect": moved("Pad", "pads", tensors=PADS, mode="reflect"),
    "replicate": moved("Pad", "pads", tensors=PADS, mode="edge"),
    "circular": moved("Pad", "pads", tensors=PADS, mode="wrap"),
    "zeros": moved("Pad", "pads", tensors=PADS),
    "maxima": moved("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    "turned": moved("Transpose", perm=[0, 1, 3, 2]),
    "cropped": moved(
        "Slice", "starts", "ends", "axes",
        tensors={"starts": np.array([2, 2]), "ends": np.array([14, 14]), "axes": np.array([2, 3])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_f5_what_moves_pixels_may_come_first(tmp_path, name):
    nodes, tensors = FIRST[name]
    source = saved(small_net(first=nodes, tensors=tensors), tmp_path / "f.onnx")
    file = to_int8(source, tmp_path / "q.onnx", pixels(24))
    assert agrees(file, source, 25)
    assert count_low_precision(file.path)["Conv int8"] == 1


def test_f5_a_grid_that_nobody_makes_is_refused_and_not_waited_for(tmp_path, monkeypatch):
    nodes, tensors = FIRST["reflect"]
    source = saved(small_net(first=nodes, tensors=tensors), tmp_path / "f.onnx")
    monkeypatch.setattr(onnx_graph, "spell_out_normalisation", lambda _: None)
    with pytest.raises(ModelError, match="which has none"):
        to_int8(source, tmp_path / "q.onnx", pixels(24))


def test_f5_a_normalisation_that_stays_is_one_operator_again(tmp_path):
    """Where pixels are not read as they are, the graph begins as the float one does."""
    clip = [helper.make_node("Neg", ["pixels"], ["in"], name="first")]
    source = saved(small_net(first=clip), tmp_path / "f.onnx")
    plan = int8.plan_int8(source, pixels(16))
    graph = int8.quantized_graph(source, plan).graph
    assert "Cast" not in {node.op_type for node in graph.node}
