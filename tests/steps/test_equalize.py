from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from clinipress.formats.onnx import equalize
from clinipress.formats.onnx.int8 import Int8Plan, _insert_conversions
from kit.onnx_nets import SIZE, conv_net, convolution, graph_model, pixels


def answer(model, images, *names):
    opened = onnxruntime.InferenceSession(model.SerializeToString())
    return opened.run(list(names) or None, {"image": images})


def weights(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_equalizing_keeps_the_function_and_balances_the_channels():
    model = conv_net(spread=3.0)
    before, images = weights(model), pixels(16)
    expected = answer(model, images)[0]
    pairs = equalize.equalize(model)
    assert pairs == [("stem", "wide"), ("wide", "narrow")]
    np.testing.assert_allclose(answer(model, images)[0], expected, rtol=1e-4, atol=1e-4)
    after = weights(model)
    one = np.abs(after["stem.w"]).max((1, 2, 3))
    two = np.abs(after["wide.w"]).max((1, 2, 3))
    # equation 10 of the paper: at the optimum the ranges of a pair are equal, channel by channel
    np.testing.assert_allclose(one, two, rtol=1e-2)
    np.testing.assert_allclose(two, np.abs(after["narrow.w"]).max((0, 2, 3)), rtol=1e-2)
    spread = np.ptp(np.log(np.abs(before["stem.w"]).max((1, 2, 3))))
    assert np.ptp(np.log(one)) < spread / 2


def test_equalizing_makes_whole_tensor_scales_cost_less():
    """What the paper is for: one scale per tensor over channels of very unlike size."""

    def rounded(model):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim == 4:
                step = np.abs(array).max() / 127
                tensor.CopyFrom(
                    numpy_helper.from_array(
                        (np.round(array / step) * step).astype(np.float32), tensor.name
                    )
                )
        return copy

    model, images = conv_net(spread=3.0), pixels(32)
    expected = answer(model, images)[0]
    plain = np.abs(answer(rounded(model), images)[0] - expected).mean()
    equalize.equalize(model)
    balanced = np.abs(answer(rounded(model), images)[0] - expected).mean()
    assert balanced < plain / 2


@pytest.mark.parametrize("between", ["Clip", "HardSwish", "Relu read twice"])
def test_pairs_that_are_not_homogeneous_are_left_alone(between):
    random = np.random.default_rng(0)
    tensors = {
        "one.w": random.normal(size=(3, 1, 1, 1)).astype(np.float32),
        "one.b": np.ones(3, np.float32),
        "two.w": random.normal(size=(3, 3, SIZE, SIZE)).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(6),
        "shape": np.array([-1, 3], np.int64),
    }
    kind = between.split()[0]
    act = helper.make_node(kind, ["one.out", *(["low", "high"] if kind == "Clip" else [])], ["act"])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=1),
        convolution("one", "pixels", tensors["one.w"]),
        act,
        convolution("two", "act", tensors["two.w"], bias=False),
        helper.make_node("Reshape", ["two.out", "shape"], ["flat"]),
    ]
    if between == "Relu read twice":
        nodes.append(helper.make_node("GlobalAveragePool", ["act"], ["again"]))
        nodes.append(helper.make_node("Reshape", ["again", "shape"], ["flat2"]))
        nodes.append(helper.make_node("Add", ["flat", "flat2"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["flat"], ["logits"]))
    model = graph_model(nodes, tensors)
    before = weights(model)
    assert equalize.equalize(model) == []
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, before[name])


def coarse_plan():
    names = ("pixels", "stem.out", "stem.relu", "wide.out", "wide.relu", "narrow.out")
    return Int8Plan(
        ranges=dict.fromkeys(names, (-8.0, 8.0)), per_channel=False, operators=("Conv",)
    )


def test_bias_correction_takes_the_mean_error_away_exactly():
    """Referee: the layer by numpy, on the float network's own inputs."""
    model = onnx.shape_inference.infer_shapes(conv_net(spread=2.0))
    images = pixels(20)
    quantized = _insert_conversions(copy_of(model), coarse_plan())
    found = equalize.correct_biases(model, quantized, images)
    assert set(found) == {"stem", "wide", "narrow"}
    rounded = equalize._rounded_weights(quantized)
    probe = copy_of(model)
    probe.graph.output.append(helper.make_tensor_value_info("wide.relu", 1, None))
    inputs = answer(probe, images, "wide.relu")[0]
    exact, w = weights(model)["narrow.w"][:, :, 0, 0], rounded["narrow"][:, :, 0, 0]
    mistake = np.einsum("oc,nchw->nohw", w - exact, inputs)
    assert np.abs(mistake.mean((0, 2, 3))).max() > 1e-4
    np.testing.assert_allclose(found["narrow"], -mistake.mean((0, 2, 3)), rtol=1e-3, atol=1e-6)
    left = mistake + np.reshape(found["narrow"], (1, -1, 1, 1))
    np.testing.assert_allclose(left.mean((0, 2, 3)), 0, atol=1e-5)


def copy_of(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def transformer(outlier=50.0):
    random = np.random.default_rng(0)
    scale = np.ones(16, np.float32)
    scale[3] = outlier
    tensors = {
        "shape": np.array([0, 16, 16], np.int64),
        "gain": scale,
        "shift": random.normal(size=16).astype(np.float32),
        "w1": random.normal(size=(16, 8)).astype(np.float32),
        "w2": random.normal(size=(16, 8)).astype(np.float32),
        "w3": random.normal(size=(8, 3)).astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=1),
        helper.make_node("Reshape", ["pixels", "shape"], ["tokens"]),
        helper.make_node("LayerNormalization", ["tokens", "gain", "shift"], ["norm"], axis=-1),
        helper.make_node("MatMul", ["norm", "w1"], ["q"]),
        helper.make_node("MatMul", ["norm", "w2"], ["k"]),
        helper.make_node("Add", ["q", "k"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w3"], ["all"]),
        helper.make_node("ReduceMean", ["all", "axes"], ["logits"], keepdims=0),
    ]
    return onnx.shape_inference.infer_shapes(graph_model(nodes, tensors))


def test_smoothing_keeps_the_function_and_follows_its_equation():
    model, images = transformer(), pixels(8)
    expected = answer(model, images)[0]
    probe = copy_of(model)
    probe.graph.output.append(helper.make_tensor_value_info("norm", 1, None))
    normed = answer(probe, images, "norm")[0]
    factors = equalize.smoothing_factors(model, images, 0.5)
    held = weights(model)
    tops = np.abs(np.concatenate([held["w1"], held["w2"]], axis=1)).max(1)
    np.testing.assert_allclose(
        factors["norm"], np.sqrt(np.abs(normed).max((0, 1)) / tops), rtol=1e-4
    )
    equalize.smooth(model, factors)
    np.testing.assert_allclose(answer(model, images)[0], expected, rtol=1e-3, atol=1e-3)
    probe = copy_of(model)
    probe.graph.output.append(helper.make_tensor_value_info("norm", 1, None))
    smoothed = np.abs(answer(probe, images, "norm")[0]).max((0, 1))
    assert np.ptp(smoothed) < np.ptp(np.abs(normed).max((0, 1))) / 3


def test_a_net_without_layer_norms_has_nothing_to_smooth():
    assert equalize.smoothing_factors(conv_net(), pixels(2), 0.5) == {}
