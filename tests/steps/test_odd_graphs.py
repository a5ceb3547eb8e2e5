"""8-bit and half-precision files of graphs that are not the usual convolution first, Gemm last."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from clinipress.errors import ModelError
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert import rewrites as litert_rewrites
from clinipress.formats.litert.graph import GraphEditor, schema
from clinipress.formats.litert.make import quantized
from clinipress.formats.litert.run import interpreter
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx import int8
from clinipress.formats.onnx.count import count_low_precision
from clinipress.formats.onnx.float import export_onnx, to_float16
from clinipress.formats.onnx.placement import signal_to_noise
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.openvino.make import apply_openvino, plan_openvino
from clinipress.formats.openvino.run import OpenVinoCandidate
from clinipress.recipe.study import ExportRecipe
from clinipress.steps.qat.network import QuantizedNetwork, Schedule
from clinipress.steps.qat.places import find_places
from kit.candidates import wrapped
from kit.litert_nets import empty_model, finished
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


@pytest.mark.parametrize("name", NECKS)
def test_f2_norms_of_vectors_are_quantized_in_openvino(tmp_path, name):
    source = saved(small_net(neck=NECKS[name], tensors=NORM | DENSE), tmp_path / "f.onnx")
    parent: Any = SimpleNamespace(spec=SimpleNamespace(ranges=None))
    recipe, card = ExportRecipe(format="openvino"), OnnxCandidate.load(source).card
    plan = plan_openvino(recipe, parent, source, pixels(24))
    target = tmp_path / "model.xml"
    apply_openvino(recipe, parent, source, target, plan, card)
    assert agrees(OpenVinoCandidate.load(target, card=card, threads=1), source, 25)


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
    places, _, missed = find_places(owner, images, "percentile")
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


# ------------------------------------------------------------------ F7: small weights, large biases


def test_f7_a_bias_behind_small_weights_is_not_cut_off_in_onnx(tmp_path):
    depthwise, head = draw(8, 1, 3, 3, seed=4), draw(3, 8, seed=2) * 3
    depthwise[2], head[0] = 1e-9, 1e-9
    head[1] = np.eye(8)[2]
    tensors = {"deep.w": depthwise, "deep.b": draw(8, seed=5)}
    tensors["deep.b"][2] = 5
    model = small_net(tensors=tensors)
    convolved = convolution("deep", "relu", depthwise, group=8)
    position = [node.name for node in model.graph.node].index("mean")
    model.graph.node.insert(position, convolved)
    model.graph.node[position + 1].input[0] = "deep.out"
    values = {"head.w": head, "head.b": np.float32([5, 0, 0])}
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(np.float32),
                                                    tensor.name))  # fmt: skip
    source = saved(model, tmp_path / "f.onnx")
    for per_channel in (True, False):
        file = to_int8(source, tmp_path / "q.onnx", pixels(24), per_channel=per_channel)
        logits, exact = (
            opened.predict(pixels(8, 9)) for opened in (file, OnnxCandidate.load(source))
        )
        level = (exact.max() - min(exact.min(), 0)) / 255
        assert np.abs(logits - exact)[:, :2].max() < 1.5 * level + 1e-3
        assert exact[:, :2] == pytest.approx(5, abs=1e-3)


def layer(name, weights, bias, result, options, *first):
    """A graph of one layer from float32 [1, 4, 4, 8] or [1, 8]."""
    shape = [1, 8] if name == "FULLY_CONNECTED" else [1, 4, 4, 8]
    model = empty_model(shape, schema.TensorType.FLOAT32)
    maker = GraphEditor(model)
    output = maker.computed(result)
    given = [maker.constant(part) for part in (*first, weights)]
    inputs = [*given, 0] if first else [0, *given]
    inputs.append(maker.constant(bias))
    model.subgraphs[0].operators = [maker.operator(name, inputs, output, options)]
    return finished(model, output), shape


def run_graph(content, x):
    """What a graph of one input gives for float32 x, whatever the grids at its ends."""
    engine = interpreter(content, 1)
    (taken,), (given,) = engine.get_input_details(), engine.get_output_details()
    scale, zero = taken["quantization"]
    sent = x if taken["dtype"] == np.float32 else np.round(x / scale + zero).astype(np.int8)
    engine.set_tensor(taken["index"], sent)
    engine.invoke()
    answers = engine.get_tensor(given["index"])
    scale, zero = given["quantization"]
    return answers if given["dtype"] == np.float32 else (answers.astype(float) - zero) * scale


VALID = schema.Padding.VALID
KINDS = {
    "DEPTHWISE_CONV_2D": ((1, 3, 3, 8), -1, [1, 2, 2, 8], schema.DepthwiseConv2DOptionsT(
        padding=VALID, strideH=1, strideW=1, depthMultiplier=1)),
    "FULLY_CONNECTED": ((8, 8), 0, [1, 8], schema.FullyConnectedOptionsT()),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_f7_a_bias_behind_small_weights_is_not_cut_off_in_litert(name):
    shape, axis, result, options = KINDS[name]
    weights, bias = draw(*shape, seed=1), draw(8, seed=2)
    np.moveaxis(weights, axis, 0)[2] = 1e-9
    bias[2] = 5
    graph, given = layer(name, weights, bias, result, options)
    x = np.random.default_rng(0).uniform(-1, 1, given).astype(np.float32)
    exact = run_graph(graph, x)
    ends = float(min(exact.min(), 0)), float(exact.max())
    found = run_graph(quantized(graph, {"image": (-1.0, 1.0), "logits": ends}), x)
    level = (ends[1] - ends[0]) / 255
    assert np.abs(found - exact)[..., 2].max() < level
    assert np.abs(found - exact).max() < 4 * level


# ------------------------------------------------------------------ F11: files that do not open


def test_f11_a_transposed_convolution_has_a_bias_of_one_axis():
    options = schema.TransposeConvOptionsT(padding=VALID, strideH=2, strideW=2)
    sides = np.array([1, 8, 8, 6], np.int32)
    weights, bias = draw(6, 2, 2, 8), draw(6, seed=2).reshape(1, 1, 1, 6)
    graph, given = layer("TRANSPOSE_CONV", weights, bias, [1, 8, 8, 6], options, sides)
    x = np.random.default_rng(0).uniform(-1, 1, given).astype(np.float32)
    exact = run_graph(graph, x)
    ranges = {"image": (-1.0, 1.0), "logits": (float(exact.min()), float(exact.max()))}
    model = litert_graph.read(graph)
    litert_rewrites.flatten_biases(model)
    flat = litert_graph.pack(model)
    np.testing.assert_allclose(run_graph(flat, x), exact, atol=1e-5)
    with pytest.raises(ValueError, match="num_scales"):
        run_graph(quantized(graph, ranges), x)
    assert (
        signal_to_noise(exact.reshape(1, -1), run_graph(quantized(flat, ranges), x).reshape(1, -1))
        > 30
    )


# ------------------------------------------------------------------ F18: what is learnt


class Attention(nn.Module):
    """Tokens with attention of two heads, a mask, layer norms, GELU and residual sums."""

    def __init__(self, channels, width=16):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.three, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.register_buffer("mask", torch.linspace(-1, 1, 256).reshape(16, 16))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        n, tokens, width = x.shape
        parts = self.three(self.norms[0](x)).reshape(n, tokens, 3, 2, width // 2)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)
        x = x + self.out(y.transpose(1, 2).reshape(n, tokens, width))
        x = x + self.narrow(F.gelu(self.wide(self.norms[1](x))))
        return self.head(x.mean(1))


def test_f18_every_place_of_attention_is_learnt():
    owner, images = wrapped(Attention), pixels(24)
    places, _, missed = find_places(owner, images, "percentile")
    assert not missed
    network = QuantizedNetwork(owner.module, list(places.values()), Schedule(1, 1)).eval()
    with torch.no_grad():
        rounded = network(torch.from_numpy(images)).numpy()
    assert signal_to_noise(owner.predict(images), rounded) > 20


class Blocks(nn.Module):
    """Attention whose tensors have so many dimensions: NesT's have five."""

    leading: tuple[int, ...] = ()

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Conv2d(channels, 32, 4, 4)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        tokens = self.stem(x).flatten(2).mT
        parts = tokens.reshape(len(x), *self.leading, -1, 32)
        parts = F.scaled_dot_product_attention(parts, parts, parts.roll(1, -2))
        return self.head(parts.reshape(len(x), -1, 32).mean(1))


@pytest.mark.parametrize("leading", [(), (2, 2), (2, 1, 2)])
def test_attention_of_other_than_four_dimensions(tmp_path, leading):
    owner = wrapped(type("Net", (Blocks,), {"leading": leading}))
    file = export_onnx(owner, tmp_path / "model.onnx")
    for count in (1, 5):
        images = pixels(count)
        np.testing.assert_allclose(file.predict(images), owner.predict(images), atol=1e-4)


class ImageByImage(Blocks):
    def forward(self, x):
        return torch.cat([super(ImageByImage, self).forward(image[None]) for image in x])


def test_a_batch_that_the_graph_fixes_is_said(tmp_path):
    with pytest.raises(ModelError, match="any number of images at once"):
        export_onnx(wrapped(ImageByImage), tmp_path / "model.onnx")


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride)


class Dynamic(nn.Module):
    """Weights computed of their own parameters, of the image, and of a transposed convolution."""

    def __init__(self, channels):
        super().__init__()
        self.first = Standardised(channels, 8, 3, 2)
        self.second = weight_norm(nn.Conv2d(8, 8, 3))
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.drop = nn.Dropout2d(0.5)
        self.mixed = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(torch.relu(self.up(torch.relu(self.second(torch.relu(self.first(x)))))))
        y = x.mean((2, 3))
        return self.head(F.linear(y, self.mixed.weight * y.mean()))


def test_f18_computed_weights_are_rounded_and_what_is_not_is_named():
    torch.manual_seed(0)
    owner = wrapped(Dynamic)
    network = QuantizedNetwork(owner.module, [], Schedule(1, 1)).eval()
    assert set(network.unrounded.values()) == {
        "a transposed convolution",
        "its weights depend on the image",
    }
    assert "up" in network.unrounded
    x = torch.from_numpy(pixels(4))
    backbone = owner.module.backbone

    def fixed(weight):
        scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        return (weight / scale).round() * scale

    with torch.no_grad():
        first, second = backbone.first, backbone.second
        own = fixed(first.weight - first.weight.mean((1, 2, 3), keepdim=True))
        y = F.conv2d((x.float() - owner.module.shift) / owner.module.scale, own, first.bias, 2)
        z = F.conv2d(torch.relu(y), fixed(second.weight), second.bias)
        z = backbone.up(torch.relu(z)).relu().mean((2, 3))
        z = F.linear(z, backbone.mixed.weight * z.mean())
        weight = backbone.head.weight
        scale = weight.abs().amax(1, keepdim=True) / 127
        exact = F.linear(z, (weight / scale).round() * scale, backbone.head.bias)
        torch.testing.assert_close(network(x), exact, atol=1e-4, rtol=1e-4)
    network.train()
    assert not torch.equal(network(x), network(x))  # dropout of whole maps is at work
    network(x).square().mean().backward()
    assert all(p.grad is not None for p in owner.module.parameters())


class Multiplied(nn.Module):
    """Tokens multiplied by a matrix that is no layer's, and by one behind an einsum."""

    def __init__(self, channels):
        super().__init__()
        self.patches = nn.Conv2d(channels, 8, 4, 4)
        self.matrix, self.other = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) @ self.matrix
        return self.head(torch.einsum("ntc,cd->ntd", x, self.other).mean(1))


def test_f18_a_constant_matrix_is_rounded_or_named():
    owner = wrapped(Multiplied)
    backbone = owner.module.backbone
    network = QuantizedNetwork(copy.deepcopy(owner.module), [], Schedule(1, 1)).eval()
    assert list(network.unrounded.values()) == ["a product by constants other than a matrix"]
    with torch.no_grad():
        for weight in (backbone.patches.weight, backbone.head.weight, backbone.matrix.T):
            scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True) / 127
            weight.copy_((weight / scale).round() * scale)
        x = torch.from_numpy(pixels(4))
        torch.testing.assert_close(network(x), owner.module(x), atol=1e-4, rtol=1e-4)
