"""Small ONNX files made by hand, in the form `export_onnx` gives them: no exporter to wait for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from clinipress.formats.onnx.int8 import apply_int8, plan_int8
from clinipress.formats.onnx.write import write
from clinipress.records.candidate import Card, InputSpec
from kit.pixels import smooth

SIZE = 16
CLASSES = ("a", "b", "c")


def pixels(count, seed=0):
    """Smooth grey pictures, uint8 ``[count, 1, 16, 16]``."""
    return smooth(count, seed=seed, side=SIZE)


def convolution(name, source, weight, bias=True, **attributes):
    inputs = [source, f"{name}.w", *([f"{name}.b"] if bias else [])]
    return helper.make_node(
        "Conv", inputs, [f"{name}.out"], name=name, kernel_shape=weight.shape[2:], **attributes
    )


def graph_model(nodes, tensors, opset=20):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", len(CLASSES)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    sets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def saved(model, path, **fields):
    """Write a model with a card in it, which may have more fields."""
    card = Card(name="net", classes=CLASSES, input=InputSpec(height=SIZE, width=SIZE), **fields)
    write(model, path, card)
    return path


def conv_net(seed=0, spread=1.0, gain=2.0):
    """Stem, depthwise, pointwise, hard-swish, mean, head.

    `spread` makes channels unequal, `gain` is the size of what goes into the hard-swish.
    """
    random = np.random.default_rng(seed)

    def draw(*shape):
        fan = max(1, int(np.prod(shape[1:])))
        return (random.normal(size=shape) / np.sqrt(fan)).astype(np.float32)

    unequal = np.exp(np.linspace(-spread, spread, 16)).astype(np.float32)
    tensors = {
        "scale": np.float32(1 / 64),
        "zero": np.uint8(51),
        "stem.w": draw(16, 1, 3, 3) * unequal.reshape(-1, 1, 1, 1),
        "stem.b": draw(16) * 0.1,
        "wide.w": draw(16, 1, 3, 3) / unequal.reshape(-1, 1, 1, 1),
        "wide.b": draw(16) * 0.1,
        "narrow.w": draw(24, 16, 1, 1) * np.float32(gain),
        "narrow.b": draw(24) * 0.1,
        "head.w": draw(3, 24) * 3,
        "head.b": draw(3),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["image", "scale", "zero"], ["pixels"]),
        convolution("stem", "pixels", tensors["stem.w"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["stem.out"], ["stem.relu"], name="relu1"),
        convolution("wide", "stem.relu", tensors["wide.w"], group=16, pads=[1] * 4),
        helper.make_node("Relu", ["wide.out"], ["wide.relu"], name="relu2"),
        convolution("narrow", "wide.relu", tensors["narrow.w"]),
    ]
    last, gate = "narrow.out", {"alpha": 1 / 6, "beta": 0.5}
    nodes += [
        helper.make_node("HardSigmoid", [last], ["gate"], name="gate", **gate),
        helper.make_node("Mul", [last, "gate"], ["swish"], name="swish"),
        helper.make_node("GlobalAveragePool", ["swish"], ["mean"], name="mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "head.w", "head.b"], ["logits"], name="head", transB=1),
    ]
    return graph_model(nodes, tensors)


def to_int8(source, target, images, *, card=None, **options):
    """An 8-bit file of a plan with these options."""
    return apply_int8(source, target, plan_int8(source, images, **options), card=card)
