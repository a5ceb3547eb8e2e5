from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from clinipress.errors import ModelError
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx import int8_rewrites as onnx_int8
from clinipress.formats.onnx.count import count_low_precision, weight_bytes
from clinipress.formats.onnx.int8 import Int8Plan, apply_int8, plan_int8
from clinipress.formats.onnx.packed_weights import block_quantize, pack_matmuls, store_weights
from clinipress.formats.onnx.placement import signal_to_noise
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.weight_only import to_int4, to_int8_dynamic
from clinipress.formats.precision import not_quantized, quantized_layers
from kit.onnx_nets import SIZE, conv_net, graph_model, pixels, saved, to_int8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(conv_net(), tmp_path_factory.mktemp("quantize") / "float.onnx")


def answer(model, images, output=None):
    opened = onnxruntime.InferenceSession(model.SerializeToString())
    return opened.run(output and [output], {"image": images})[0]


def decibels(source, file):
    images = pixels(64, seed=9)
    exact = OnnxCandidate.load(source, threads=1).predict(images)
    return signal_to_noise(exact, file.predict(images))


# ------------------------------------------------------------------ plans


def test_a_plan_survives_json_and_alone_decides_the_bytes(tmp_path, source):
    plan = plan_int8(source, pixels(16), equalized=True, bias_correction=True)
    read = Int8Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert read == plan
    first = apply_int8(source, tmp_path / "a.onnx", plan)
    assert apply_int8(source, tmp_path / "b.onnx", read).digest == first.digest
    other = plan_int8(source, pixels(16))
    assert apply_int8(source, tmp_path / "c.onnx", other).digest != first.digest


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_every_method_makes_a_working_file(tmp_path, source, method):
    file = to_int8(source, tmp_path / "int8.onnx", pixels(32), method=method)
    assert decibels(source, file) > 20


def test_corrections_do_not_hurt(tmp_path, source):
    plain = apply_int8(
        source, tmp_path / "a.onnx", plan_int8(source, pixels(32), per_channel=False)
    )
    plan = plan_int8(source, pixels(32), per_channel=False, equalized=True, bias_correction=True)
    better = apply_int8(source, tmp_path / "b.onnx", plan)
    assert decibels(source, better) > decibels(source, plain)


def test_given_ranges_are_taken_and_unknown_ones_refused(tmp_path, source):
    name = [n.output[0] for n in onnx.load(source).graph.node if n.op_type == "Conv"][-1]
    plan = plan_int8(source, pixels(8), ranges={name: (-2.5, 2.6)})
    assert plan.ranges[name] == (-2.5, 2.6)
    apply_int8(source, tmp_path / "int8.onnx", plan)
    scales = [
        float(value)
        for value in onnx_graph.constants(onnx.load(tmp_path / "int8.onnx").graph).values()
        if value.dtype == np.float32 and value.size == 1
    ]
    assert any(s == pytest.approx(5.1 / 255, rel=1e-4) for s in scales)
    with pytest.raises(ModelError, match="'nowhere', which is none"):
        plan_int8(source, pixels(8), ranges={"nowhere": (0, 1)})


def test_ranges_that_clip_everything_collapse_and_are_seen(tmp_path, source):
    """The checker can fail: a file that answers one class for all has no agreement left."""
    names = [n.output[0] for n in onnx.load(source).graph.node if n.op_type == "Conv"]
    file = to_int8(source, tmp_path / "a.onnx", pixels(8), ranges=dict.fromkeys(names, (0, 1e-6)))
    assert decibels(source, file) < 3


# ------------------------------------------------------------------ dynamic and 4 bits


def test_dynamic_says_that_no_convolution_was_quantized(tmp_path, source, caplog, capfd):
    to_int8_dynamic(source, tmp_path / "dynamic.onnx")
    counts = count_low_precision(tmp_path / "dynamic.onnx")
    layers = quantized_layers(counts)
    assert layers["convolutions"] == (0, 3)
    assert layers["linear"] == (1, 1)
    said = not_quantized(counts, {}, "int8-dynamic")
    assert said == "0 of 3 convolutions and 1 of 1 linear quantized"
    assert not caplog.records
    assert capfd.readouterr().out == ""


def test_a_file_that_holds_what_it_promises_has_no_warning(tmp_path, source):
    to_int8(source, tmp_path / "int8.onnx", pixels(8))
    counts, sizes = count_low_precision(source), weight_bytes(source)
    assert not_quantized(count_low_precision(tmp_path / "int8.onnx"), {}, "int8") is None
    assert not_quantized(counts, sizes, "int8") == (
        "0 of 3 convolutions and 0 of 1 linear quantized"
    )
    assert "0% of the weights' bytes" in not_quantized(counts, sizes, "mixed")
    assert not_quantized(counts, sizes, "float32") is None


def test_int4_file_answers_nearly_like_its_parent_and_counts_its_bytes(tmp_path, source):
    file = to_int4(source, tmp_path / "int4.onnx")
    sizes = weight_bytes(tmp_path / "int4.onnx")
    assert sizes["int4"] == 24 * 16 // 2 + 3 * 24 // 2
    assert sizes["int8"] == 2 * 16 * 9  # kernels over a single channel
    assert count_low_precision(tmp_path / "int4.onnx")["Conv float32"] == 3
    assert decibels(source, file) > 10


def test_a_net_without_layers_to_store_is_refused(tmp_path):
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=1),
        helper.make_node("Reshape", ["pixels", "shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "zero", "three", "one"], ["logits"]),
    ]
    tensors = {
        "shape": np.array([0, SIZE * SIZE], np.int64),
        "zero": np.array([0], np.int64),
        "three": np.array([3], np.int64),
        "one": np.array([1], np.int64),
    }
    path = saved(graph_model(nodes, tensors), tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="none whose weights 4 bits could hold"):
        to_int4(path, tmp_path / "int4.onnx")
    assert not (tmp_path / "int4.onnx").exists()


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_by_hand(bits):
    """Referee: one block after the other, every scale tried in a plain loop."""
    rows = np.random.default_rng(0).normal(size=(3, 37)).astype(np.float32)
    integers, scales = block_quantize(rows, bits, 16)
    assert integers.shape == (3, 3, 16)
    top = 2 ** (bits - 1) - 1
    for row in range(3):
        for block in range(3):
            part = rows[row, 16 * block : 16 * (block + 1)].astype(np.float64)
            errors = []
            for shrink in np.linspace(1, 0.6, 17) if bits == 4 else [1.0]:
                step = np.abs(part).max() / top * shrink
                errors.append(
                    ((np.clip(np.round(part / step), -top, top) * step - part) ** 2).sum()
                )
            mine = integers[row, block, : len(part)] * scales[row, block]
            assert ((mine - part) ** 2).sum() == pytest.approx(min(errors), rel=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_stored_weights_are_folded_into_constants_by_the_engine(tmp_path, bits):
    """The point of Cast and Mul: a call pays nothing for the small file."""
    model = conv_net()
    done = store_weights(model, bits=bits, block=32)
    assert done == (["stem", "wide", "narrow", "head"] if bits == 8 else ["narrow", "head"])
    path = saved(model, tmp_path / "stored.onnx")
    counts = count_low_precision(path)
    assert counts.get("conversion Cast", 0) == 0
    assert counts.get("Mul float32", 0) == 0
    assert counts["Conv float32"] == 3


def test_packed_matrix_products_answer_like_the_float_ones():
    random = np.random.default_rng(0)
    tensors = {
        "shape": np.array([0, SIZE * SIZE], np.int64),
        "w": random.normal(size=(SIZE * SIZE, 3)).astype(np.float32),
        "scale": np.float32(1 / 255),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=1),
        helper.make_node("Mul", ["cast", "scale"], ["pixels"]),
        helper.make_node("Reshape", ["pixels", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"], name="product"),
    ]
    model = graph_model(nodes, tensors)
    images = pixels(8)
    exact = answer(model, images)
    integers, scales = block_quantize(np.ascontiguousarray(tensors["w"].T), 4, 32)
    rounded = (integers * scales).reshape(3, -1).T
    assert pack_matmuls(model, block=32) == ["product"]
    onnx_graph.drop_unused(model.graph)
    flat = images.reshape(8, -1).astype(np.float32) / 255
    np.testing.assert_allclose(answer(model, images), flat @ rounded, rtol=1e-3, atol=1e-3)
    assert signal_to_noise(exact, answer(model, images)) > 15


# ------------------------------------------------------------------ 8-bit rewrites


def test_hard_swish_is_computed_in_8_bits(tmp_path, source):
    to_int8(source, tmp_path / "int8.onnx", pixels(16))
    counts = count_low_precision(tmp_path / "int8.onnx")
    assert counts.get("HardSigmoid float32", 0) == 0
    assert counts["Add int8"] == 1
    assert counts.get("conversion QuantizeLinear", 0) == 0


def test_saturating_addition_is_the_hard_sigmoid_of_every_byte():
    """All 256 bytes against numpy's clip."""
    scale, zero = np.float32(0.05), np.uint8(128)
    tensors = {
        "s": scale,
        "z": zero,
        "s2": np.float32(1 / 200),
        "z2": np.uint8(3),
        "shape": np.array([0, SIZE * SIZE], np.int64),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["image", "s", "z"], ["x"]),
        helper.make_node("HardSigmoid", ["x"], ["y"], alpha=1 / 6, beta=0.5),
        helper.make_node("QuantizeLinear", ["y", "s2", "z2"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s2", "z2"], ["back"]),
        helper.make_node("Reshape", ["back", "shape"], ["logits"]),
    ]
    model = graph_model(nodes, tensors)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = SIZE * SIZE
    assert onnx_int8.saturate_hard_sigmoids(model) == 1
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, SIZE, SIZE)
    x = (np.arange(256) - 128) * 0.05
    np.testing.assert_allclose(
        answer(model, every).ravel(), np.clip(x / 6 + 0.5, 0, 1), atol=0.5 / 255 + 1e-6
    )


@pytest.mark.parametrize(("strides", "rewritten"), [([2, 2], 1), ([1, 1], 1)])
def test_average_pooling_is_the_convolution_it_becomes(strides, rewritten):
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=1),
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=strides),
        helper.make_node("Flatten", ["p"], ["logits"]),
    ]
    model = onnx.shape_inference.infer_shapes(graph_model(nodes, {}))
    before = answer(model, pixels(3))
    assert onnx_int8.convolve_average_pools(model) == rewritten
    np.testing.assert_allclose(answer(model, pixels(3)), before, rtol=1e-5)


def test_padded_average_pooling_is_left_alone():
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=1),
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["p"], ["logits"]),
    ]
    model = onnx.shape_inference.infer_shapes(graph_model(nodes, {}))
    assert onnx_int8.convolve_average_pools(model) == 0


def test_ranges_stop_where_a_gate_does():
    gate = {"alpha": 1 / 6, "beta": 0.5}
    nodes = [
        helper.make_node("HardSigmoid", ["swish in"], ["g"], **gate),
        helper.make_node("Mul", ["g", "swish in"], ["swish"]),
        helper.make_node("HardSigmoid", ["alone"], ["g2"], **gate),
        helper.make_node("HardSigmoid", ["read twice"], ["g3"], **gate),
        helper.make_node("Add", ["read twice", "g3"], ["sum"]),
        helper.make_node("Sigmoid", ["silu in"], ["g4"]),
        helper.make_node("Mul", ["silu in", "g4"], ["silu"]),
    ]
    names = ("swish in", "alone", "read twice", "silu in")
    found = onnx_int8.clip_to_gates(
        graph_model(nodes, {}).graph, dict.fromkeys(names, (-20.0, 11.0))
    )
    assert found["swish in"] == pytest.approx((-3, 11))
    assert found["alone"] == pytest.approx((-3, 3))
    assert found["read twice"] == (-20, 11)
    assert found["silu in"] == (-8, 11)
    x = np.linspace(-20, 11, 10_001)

    def swish(v):
        return v * np.clip(v / 6 + 0.5, 0, 1)

    np.testing.assert_allclose(swish(np.clip(x, -3, 11)), swish(x), atol=1e-12)  # nothing is lost


def test_clipping_to_a_gate_halves_the_error_behind_it():
    """A symmetric tensor in front of a hard-swish, rounded by numpy over either range."""
    x = np.random.default_rng(0).normal(0, 6, 20_000)

    def swish(v):
        return v * np.clip(v / 6 + 0.5, 0, 1)

    def error(low, high):
        step = (high - low) / 255
        zero = np.round(-low / step)
        rounded = (np.clip(np.round(x / step) + zero, 0, 255) - zero) * step
        return np.sqrt(((swish(rounded) - swish(x)) ** 2).mean())

    high = np.abs(x).max()
    assert error(-3, high) / error(-high, high) == pytest.approx((high + 3) / (2 * high), rel=0.1)


def test_a_plan_clips_to_gates_unless_ranges_are_given(tmp_path):
    source = saved(conv_net(gain=12), tmp_path / "float.onnx")  # far below -3 in many channels
    narrow = [n.output[0] for n in onnx.load(source).graph.node if n.op_type == "Conv"][-1]
    assert plan_int8(source, pixels(8)).ranges[narrow][0] == pytest.approx(-3)
    learnt = plan_int8(source, pixels(8), ranges={narrow: (-7.0, 9.0)})
    assert learnt.ranges[narrow] == (-7, 9)


def test_biases_carry_no_zero_points_and_nothing_changes(tmp_path, source, monkeypatch):
    short = to_int8(source, tmp_path / "short.onnx", pixels(8))
    monkeypatch.setattr(onnx_int8, "drop_bias_zeros", lambda _: 0)
    long = to_int8(source, tmp_path / "long.onnx", pixels(8))
    assert short.file_bytes < long.file_bytes
    np.testing.assert_array_equal(short.predict(pixels(32, 1)), long.predict(pixels(32, 1)))
    assert count_low_precision(short.path) == count_low_precision(long.path)


def test_concatenations_share_the_widest_range():
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Concat", ["c", "d"], ["e"], axis=1),
        helper.make_node("Relu", ["e"], ["f"]),
    ]
    graph = graph_model(nodes, {}).graph
    ranges = {"a": (-1.0, 1.0), "b": (0.0, 5.0), "c": (-1.0, 5.0), "d": (-3.0, 0.0)}
    ranges |= {"e": (-3.0, 5.0), "f": (0.0, 5.0)}
    found = onnx_int8.share_concat_ranges(graph, ranges)
    assert {found[name] for name in "abcde"} == {(-3.0, 5.0)}
    assert found["f"] == (0.0, 5.0)


def test_weights_of_a_plan_are_symmetric_8_bit_numbers(tmp_path, source):
    to_int8(source, tmp_path / "int8.onnx", pixels(8))
    values = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer]
    large = [v for v in values if v.size >= 64]
    assert {v.dtype for v in large} == {np.dtype(np.int8)}


# ------------------------------------------------- the first convolution reads pairs of pixels


def first_convolution(channels, kernel, pads, size, **attributes):
    """image -> bytes -> convolution with stored 8-bit weights -> bytes, and its own answer."""
    random = np.random.default_rng(1)
    stored = random.integers(-127, 128, (5, channels, kernel, kernel)).astype(np.int8)
    tensors = {
        "s": np.float32(1 / 64), "z": np.uint8(51), "s2": np.float32(0.5), "z2": np.uint8(128),
        "w": stored, "wz": np.zeros(5, np.int8),
        "ws": np.linspace(0.01, 0.03, 5).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["image", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["weight"], axis=0),
        helper.make_node(
            "Conv",
            ["x", "weight"],
            ["c"],
            **({"kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": pads} | attributes),
        ),
        helper.make_node("QuantizeLinear", ["c", "s2", "z2"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s2", "z2"], ["d"]),
        helper.make_node("Flatten", ["d"], ["logits"]),
    ]
    model = graph_model(nodes, tensors)
    for number, value in ((1, channels), (2, size), (3, size)):
        model.graph.input[0].type.tensor_type.shape.dim[number].dim_value = value
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("channels", "kernel", "pads"),
    [
        (1, 7, [3] * 4), (3, 7, [3] * 4), (1, 3, [1] * 4), (3, 3, [1] * 4), (1, 3, [0, 0, 1, 1]),
        (3, 5, [2] * 4), (1, 4, [1] * 4), (2, 2, [0] * 4), (1, 6, [2, 1, 2, 3]),
        (3, 3, [0, 1, 1, 0]),
    ],
)  # fmt: skip
def test_pairs_of_pixels_give_the_same_bytes(channels, kernel, pads):
    model = first_convolution(channels, kernel, pads, 12)
    images = np.random.default_rng(2).integers(0, 256, (4, channels, 12, 12)).astype(np.uint8)
    before = answer(model, images)
    assert len(np.unique(before)) > 50
    assert onnx_int8.pack_first_convolution(model)
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node].count("SpaceToDepth") == 1
    np.testing.assert_array_equal(answer(model, images), before)
    assert not onnx_int8.pack_first_convolution(model)


@pytest.mark.parametrize(
    ("size", "attributes"),
    [(13, {}), (12, {"strides": [1, 1]}), (12, {"dilations": [2, 2]}), (12, {"strides": [4, 4]})],
)
def test_what_cannot_be_packed_into_pairs_is_left_alone(size, attributes):
    model = first_convolution(1, 3, [1] * 4, size, **attributes)
    before = model.SerializeToString()
    assert not onnx_int8.pack_first_convolution(model)
    assert model.SerializeToString() == before


def test_an_8_bit_file_packs_its_first_convolution(tmp_path, source, monkeypatch):
    packed = to_int8(source, tmp_path / "a.onnx", pixels(16))
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [n.input[0] for n in graph.node if n.op_type == "SpaceToDepth"] == ["image"]
    assert "Conv float32" not in {
        k for k, v in count_low_precision(tmp_path / "a.onnx").items() if v
    }
    monkeypatch.setattr(onnx_int8, "pack_first_convolution", lambda _: False)
    plain = to_int8(source, tmp_path / "b.onnx", pixels(16))
    images = pixels(8, seed=3)
    np.testing.assert_array_equal(packed.predict(images), plain.predict(images))
