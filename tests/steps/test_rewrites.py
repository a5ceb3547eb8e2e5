"""Each rewrite of a graph leaves alone what it was not written for, and keeps the answers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from clinipress.formats.executorch import make as to_executorch
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert import packing as litert_packing
from clinipress.formats.litert import rewrites as litert_rewrites
from clinipress.formats.litert.graph import GraphEditor, schema
from clinipress.formats.onnx import equalize as onnx_equalize
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx import int8_rewrites as onnx_int8
from kit.litert_nets import empty_model, finished

FLOAT, UINT8, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8, onnx.TensorProto.INT64
CHANNELS = 4


def graph(nodes, tensors, shape, kind=FLOAT):
    """A model of nodes (operator, inputs, outputs, attributes) from "x" to "y"."""
    made = helper.make_graph(
        [helper.make_node(op, i, o, name=o[0], **attributes) for op, i, o, attributes in nodes],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    sets = [helper.make_opsetid("", 20)]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(made, opset_imports=sets, ir_version=10)
    )


def answer(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


NORM = {
    "gamma": draw(CHANNELS, seed=1) + 2,
    "beta": draw(CHANNELS, seed=2),
    "mean": draw(CHANNELS, seed=3),
    "variance": np.abs(draw(CHANNELS, seed=4)) + 0.5,
}


def norm(source, target="y", **attributes):
    return ("BatchNormalization", [source, *NORM], [target], attributes)


def operators(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 5, 3)])
def test_f2_a_norm_of_any_rank_becomes_a_convolution_of_the_same_function(shape):
    model, x = graph([norm("x")], NORM, ["n", *shape[1:]]), draw(*shape)
    before = answer(model, x)
    onnx_graph.convolve_batch_norms(model)
    onnx.checker.check_model(model, full_check=True)
    assert "Conv" in operators(model)
    assert "BatchNormalization" not in operators(model)
    np.testing.assert_allclose(answer(model, x), before, atol=1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(CHANNELS,), (1,), (1, CHANNELS), None])
def test_f2_a_norm_behind_a_gemm_is_part_of_it(transposed, bias):
    tensors = NORM | {"w": draw(4, 3) if transposed else draw(3, 4)}
    tensors |= {} if bias is None else {"b": draw(*bias, seed=5)}
    gemm = ("Gemm", ["x", "w", *(["b"] if bias else [])], ["g"], {"transB": transposed})
    model, x = graph([gemm, norm("g")], tensors, ["n", 3]), draw(5, 3)
    before = answer(model, x)
    onnx_graph.convolve_batch_norms(model)
    assert operators(model) == ["Gemm"]
    np.testing.assert_allclose(answer(model, x), before, atol=1e-5)


READ_TWICE = [("Gemm", ["x", "w", "b"], ["g"], {}), norm("g", "z"), ("Add", ["g", "z"], ["y"], {})]


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        (READ_TWICE, {"w": draw(3, 4), "b": draw(4)}),
        ([("Gemm", ["x", "w", "b"], ["g"], {"alpha": 0.5}), norm("g")],
         {"w": draw(3, 4), "b": draw(4)}),
        ([("Gemm", ["x", "w", "b"], ["g"], {"beta": 2.0}), norm("g")],
         {"w": draw(3, 4), "b": draw(4)}),
        ([("MatMul", ["x", "w"], ["g"], {}), norm("g")], {"w": draw(3, 4)}),
    ],
)  # fmt: skip
def test_f2_a_layer_whose_result_a_norm_does_not_own_keeps_its_weights(nodes, tensors):
    model, x = graph(nodes, NORM | tensors, ["n", 3]), draw(5, 3)
    before = answer(model, x)
    onnx_graph.convolve_batch_norms(model)
    assert "Conv" in operators(model)
    np.testing.assert_allclose(answer(model, x), before, atol=1e-5)


def cast(kind):
    return ("Cast", ["x"], ["c"], {"to": kind})


W4, W3 = draw(4, 3, 1, 1), draw(4, 3, 1)
CONVOLUTION = {"kernel_shape": [1, 1]}
LINE = {"one": np.float32([0.5])}
HARD = [
    ("DequantizeLinear", ["x", "s", "z"], ["d"], {}),
    ("HardSigmoid", ["d"], ["h"], {"alpha": -0.2, "beta": 0.5}),
    ("QuantizeLinear", ["h", "s", "z"], ["q"], {}),
    ("DequantizeLinear", ["q", "s", "z"], ["y"], {}),
]
GRID = {"s": np.float32(0.05), "z": np.uint8(128)}
UNTOUCHED = {
    "norm of five axes": (
        onnx_graph.convolve_batch_norms, graph([norm("x")], NORM, [1, 4, 2, 2, 2])),
    "norm by its batch": (
        onnx_graph.convolve_batch_norms,
        graph([("BatchNormalization", ["x", *NORM], ["y", "m", "v"], {"training_mode": 1})],
              NORM, [2, 4, 3, 3])),
    "mean over three axes": (
        onnx_graph.pool_means,
        graph([("ReduceMean", ["x", "a"], ["y"], {})], {"a": np.array([2, 3])}, [1, 2, 3, 4, 5])),
    "mean of tokens": (
        onnx_graph.pool_means,
        graph([("ReduceMean", ["x", "a"], ["y"], {})], {"a": np.array([-2, -1])}, [2, 3, 4])),
    "image cast to integers": (
        onnx_graph.shorten_normalisation,
        graph([cast(INT64), ("Cast", ["c"], ["y"], {"to": FLOAT})], {}, [1, 1, 4, 4], UINT8)),
    "mask of the image": (
        onnx_graph.halve_first_cast,
        graph([cast(onnx.TensorProto.BOOL), ("Cast", ["c"], ["y"], {"to": FLOAT})], {},
              [1, 1, 4, 4], UINT8)),
    "three copies of a signal": (
        onnx_graph.fold_grey_to_rgb,
        graph([("Concat", ["x", "x", "x"], ["r"], {"axis": -3}),
               ("Conv", ["r", "w"], ["y"], {"kernel_shape": [1]})], {"w": W3}, [1, 1, 4])),
    "dilated pooling": (
        onnx_int8.convolve_average_pools,
        graph([("AveragePool", ["x"], ["y"], {"kernel_shape": [2, 2], "dilations": [2, 2]})], {},
              [1, 4, 8, 8])),
    "falling hard sigmoid": (
        onnx_int8.saturate_hard_sigmoids, graph(HARD, GRID, [1, 4, 2, 2], UINT8)),
    "convolutions of signals": (
        onnx_equalize.equalize,
        graph([("Conv", ["x", "w"], ["c"], {"kernel_shape": [1]}),
               ("Conv", ["c", "v"], ["y"], {"kernel_shape": [1]})],
              {"w": W3, "v": draw(2, 4, 1)}, [1, 3, 8])),
    "grid per channel": (
        onnx_graph.shorten_normalisation,
        graph([("DequantizeLinear", ["x", "s", "z"], ["y"], {"axis": 1})],
              {"s": np.float32([0.1, 0.2]), "z": np.uint8([3, 4])}, [1, 2, 4, 4], UINT8)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOUCHED)
def test_f2_a_rewrite_leaves_alone_what_it_was_not_written_for(name):
    rewrite, model = UNTOUCHED[name]
    before = model.SerializeToString()
    rewrite(model)
    assert model.SerializeToString() == before


def test_f2_weights_of_two_layers_are_not_packed_for_one():
    image = [("DequantizeLinear", ["x", "s", "z"], ["d"], {})]
    weight = [("DequantizeLinear", ["w", "s"], ["f"], {})]
    layer = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    nodes = [*image, *weight, ("Conv", ["d", "f"], ["a"], layer),
             ("Conv", ["a", "f"], ["y"], layer)]  # fmt: skip
    tensors = GRID | {"w": np.ones((1, 1, 3, 3), np.int8)}
    model = graph(nodes, tensors, [1, 1, 8, 8], UINT8)
    before = model.SerializeToString()
    assert not onnx_int8.pack_first_convolution(model)
    assert model.SerializeToString() == before


def test_f2_a_falling_gate_clips_nothing():
    nodes = [("HardSigmoid", ["x"], ["y"], {"alpha": -0.2, "beta": 0.5})]
    made = graph(nodes, {}, [1, 4]).graph
    assert onnx_int8.clip_to_gates(made, {"x": (-9.0, 9.0)}) == {"x": (-9.0, 9.0)}


def test_f2_what_is_an_answer_too_is_not_clipped_to_its_gate():
    made = graph([("Relu", ["x"], ["y"], {}), ("Sigmoid", ["y"], ["z"], {})], {}, [1, 4]).graph
    assert onnx_int8.clip_to_gates(made, {"y": (-9.0, 9.0)}) == {"y": (-9.0, 9.0)}


# ------------------------------------------------------------------ LiteRT


def pooled(value):
    """Padding by `value` before a maximum of what a ReLU gives."""
    model = empty_model([1, 4, 4, 2], schema.TensorType.FLOAT32)
    maker, operators = GraphEditor(model), model.subgraphs[0].operators
    first, second, last = (maker.computed([1, side, side, 2]) for side in (4, 6, 3))
    sides = maker.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    pool = schema.Pool2DOptionsT(strideH=2, strideW=2, filterHeight=2, filterWidth=2, padding=1)
    operators += [
        maker.operator("RELU", [0], first, schema.PadOptionsT()),
        maker.operator(
            "PADV2",
            [first, sides, maker.constant(np.array(value, np.float32))],
            second,
            schema.PadV2OptionsT(),
        ),
        maker.operator("MAX_POOL_2D", [second], last, pool),
    ]
    return litert_graph.read(finished(model, last))


@pytest.mark.parametrize(("value", "name"), [(-np.inf, "PAD"), (5.0, "PADV2"), (-1.0, "PADV2")])
def test_f2_only_padding_that_no_maximum_takes_becomes_zeros(value, name):
    model = pooled(value)
    litert_rewrites.pad_pools_with_zeros(model)
    names = [litert_graph.operator_name(model, item) for item in model.subgraphs[0].operators]
    assert names[1] == name


def test_f2_a_first_convolution_in_groups_is_not_packed():
    model = empty_model([1, 8, 8, 4], schema.TensorType.FLOAT32)
    maker = GraphEditor(model)
    result = maker.computed([1, 6, 6, 8])
    inputs = [0, maker.constant(draw(8, 3, 3, 2)), maker.constant(draw(8))]
    options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=1, strideW=1)
    model.subgraphs[0].operators = [maker.operator("CONV_2D", inputs, result, options)]
    model = litert_graph.read(finished(model, result))
    before = litert_graph.pack(model)
    litert_packing.pack_first_convolution(model)
    assert litert_graph.pack(model) == before


# ------------------------------------------------------------------ ExecuTorch


class Spread(nn.Module):
    """A row spread over a map before a convolution: an expansion of places, not of channels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.layer(x[:, :, :1].expand(-1, -1, 8, -1))


class Wide(nn.Module):
    """A convolution in groups of three copies."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, groups=3)

    def forward(self, x):
        return self.layer(x.expand(-1, 3, -1, -1))


class Computed(nn.Module):
    """Three copies, and weights that are computed."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        weight = self.layer.weight / self.layer.weight.norm()
        return nn.functional.conv2d(x.expand(-1, 3, -1, -1), weight, self.layer.bias)


@pytest.mark.parametrize("kind", [Spread, Wide, Computed])
def test_f2_only_three_equal_channels_are_folded_into_one(kind):
    torch.manual_seed(0)
    network, x = kind().eval(), torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        program = torch.export.export(network, (x,)).module()
        to_executorch._fold_grey(program)
        program.recompile()
        torch.testing.assert_close(program(x), network(x))
