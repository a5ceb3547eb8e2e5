from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from clinipress.errors import BundleError, ModelError
from clinipress.formats import ranges
from clinipress.formats.onnx import graph as onnx_graph
from clinipress.formats.onnx.count import count_low_precision, weight_bytes
from clinipress.formats.onnx.float import export_onnx, to_float16
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.formats.onnx.write import stamp
from clinipress.formats.parity import PARITY_TOLERANCE, parity
from clinipress.models.classifier import TorchCandidate
from clinipress.records.candidate import Card, InputSpec, ModelSpec
from kit.candidates import INTEGER_MEAN, ODD_MEAN, SIZE, wrapped
from kit.candidates import float_file as made_file
from kit.onnx_nets import to_int8
from kit.pixels import smooth


class Tiny(nn.Module):
    """Convolution, depthwise convolution, a residual sum, a squeeze, a head: one of each kind."""

    def __init__(self, channels, act=nn.ReLU):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), act())
        self.wide = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), act())
        self.norm = nn.Sequential(nn.BatchNorm2d(8), act(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.wide(x)
        x = self.norm(x)
        return self.head(x.mean((2, 3), keepdim=True).flatten(1))


def candidate(channels=1, in_channels=1, mean=INTEGER_MEAN, net=Tiny, seed=0):
    return wrapped(net, channels, in_channels, mean, seed=seed, name="tiny")


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.fixture(scope="module")
def parent():
    return candidate()


@pytest.fixture(scope="module")
def float_file(parent, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    made_file(parent, path)
    return path


# ------------------------------------------------------------------ float32


@pytest.mark.parametrize("mean", [INTEGER_MEAN, ODD_MEAN])
@pytest.mark.parametrize(("channels", "in_channels"), [(1, 1), (1, 3), (3, 3)])
def test_the_file_answers_like_the_network(tmp_path, channels, in_channels, mean):
    network = candidate(channels, in_channels, mean)
    exported = export_onnx(network, tmp_path / "net.onnx")
    found = parity(network, exported, smooth(40, channels))
    assert found.images == 40
    assert found.max_logit_difference < 1e-5
    assert found.label_flips == 0


def test_a_mean_per_channel_is_kept_in_every_precision(tmp_path):
    means = (0.485, 0.456, 0.406)
    network = candidate(3, 3, means)
    exported = export_onnx(network, tmp_path / "net.onnx")
    assert parity(network, exported, smooth(40, 3)).max_logit_difference < 1e-5
    half = to_float16(tmp_path / "net.onnx", tmp_path / "half.onnx")
    assert 0 < parity(network, half, smooth(40, 3)).max_logit_difference < 0.02
    small = to_int8(tmp_path / "net.onnx", tmp_path / "int8.onnx", smooth(24, 3))
    spread = network.predict(smooth(40, 3)).std()
    assert 0 < parity(network, small, smooth(40, 3)).mean_logit_difference < 0.1 * spread


def test_interface_of_the_file(float_file):
    model = onnx.load(float_file)
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    shape = [side.dim_param or side.dim_value for side in image.type.tensor_type.shape.dim]
    assert shape == ["n", 1, SIZE, SIZE]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_batch_gives_each_image_its_own_answer(float_file, count):
    loaded, images = OnnxCandidate.load(float_file, threads=1), smooth(7)
    alone = np.concatenate([loaded.predict(image[None]) for image in images])
    np.testing.assert_allclose(loaded.predict(images[:count]), alone[:count], atol=1e-5)


def test_card_of_the_file(parent, float_file):
    card = OnnxCandidate.load(float_file).card
    assert (card.format, card.precision, card.model) == ("onnx", "float32", None)
    assert (card.name, card.classes, card.input) == ("tiny", ("a", "b", "c"), parent.card.input)


def test_equal_networks_give_equal_bytes_without_traces(tmp_path, float_file):
    export_onnx(candidate(), tmp_path / "again.onnx")
    content = float_file.read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == content
    for trace in (b"stack_trace", b".py", b"site-packages", b"/work", b"/home", b"test_export"):
        assert trace not in content
    export_onnx(candidate(seed=1), tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_bytes() != content


def test_exporting_is_quiet_and_leaves_the_network_alone(tmp_path, capfd):
    network = candidate()
    network.module.train()
    before = network.digest
    export_onnx(network, tmp_path / "net.onnx")
    assert network.module.training
    assert network.digest == before
    assert tuple(capfd.readouterr()) == ("", "")


def test_normalisation_by_an_integer_mean_is_one_node(tmp_path, float_file):
    assert operators(float_file)[:2] == ["DequantizeLinear", "Conv"]
    made_file(candidate(mean=ODD_MEAN), tmp_path / "odd.onnx")
    assert operators(tmp_path / "odd.onnx")[:4] == ["Cast", "Sub", "Mul", "Conv"]


def test_grey_is_not_copied_to_three_channels(tmp_path):
    export_onnx(candidate(1, 3), tmp_path / "net.onnx")
    assert operators(tmp_path / "net.onnx")[:2] == ["DequantizeLinear", "Conv"]
    weights = numpy_helper.to_array(onnx.load(tmp_path / "net.onnx").graph.initializer[2])
    assert weights.shape == (8, 1, 3, 3)


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path):
    class Off(TorchCandidate):
        def predict(self, images):
            return super().predict(images) + np.float32(2 * PARITY_TOLERANCE)

    network = candidate()
    with pytest.raises(ModelError, match=r"a difference of 0\.002"):
        export_onnx(Off(network.card, network.module), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path):
    class Branching(Tiny):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ModelError, match=r"a network that torch\.onnx can export") as caught:
        export_onnx(candidate(net=Branching), tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_parity_is_what_it_says():
    class Fixed:
        card = SimpleNamespace(task="multiclass")

        def __init__(self, logits):
            self.logits = np.array(logits, np.float32)

        def predict(self, images):
            return self.logits

    found = parity(Fixed([[1, 0], [0, 3]]), Fixed([[1, 0.5], [4, 3]]), smooth(2))
    assert found.max_logit_difference == 4
    assert found.mean_logit_difference == pytest.approx(4.5 / 4)
    assert (found.label_flips, found.images) == (1, 2)


def test_stamp_changes_the_card_and_nothing_else(tmp_path, float_file):
    path = tmp_path / "net.onnx"
    path.write_bytes(float_file.read_bytes())
    card = OnnxCandidate.load(path).card
    stamp(path, card)
    assert path.read_bytes() == float_file.read_bytes()
    stamp(path, card.model_copy(update={"name": "shipped"}))
    assert OnnxCandidate.load(path).card.name == "shipped"
    assert onnx.load(path).graph == onnx.load(float_file).graph


# ------------------------------------------------------------------ float16


@pytest.mark.parametrize("mean", [INTEGER_MEAN, ODD_MEAN])
def test_float16_halves_the_weights_and_keeps_the_interface(tmp_path, mean):
    network = candidate(mean=mean)
    made_file(network, tmp_path / "float.onnx")
    half = to_float16(tmp_path / "float.onnx", tmp_path / "half.onnx")
    sizes = weight_bytes(tmp_path / "half.onnx")
    assert "float32" not in sizes
    assert sizes["float16"] == pytest.approx(
        weight_bytes(tmp_path / "float.onnx")["float32"] / 2, abs=32 * 2
    )
    assert half.card.precision == "float16"
    found = parity(network, half, smooth())
    # 11 bits of mantissa through five layers; and not zero, or nothing was converted
    assert 0 < found.max_logit_difference < 0.02


def test_weights_beyond_float16_are_refused_not_clamped(tmp_path):
    network = candidate()
    with torch.no_grad():
        network.module.backbone.head.weight.mul_(1e6)
    export_onnx(network, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match=r"expected weights up to 65504 .* export it as float32"):
        to_float16(tmp_path / "float.onnx", tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


# ------------------------------------------------------------------ int8


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_int8_answers_nearly_like_its_parent(parent, tmp_path, float_file, method, per_channel):
    small = to_int8(
        float_file, tmp_path / "int8.onnx", smooth(), method=method, per_channel=per_channel
    )
    found = parity(parent, small, smooth(64, seed=1))
    spread = parent.predict(smooth(64, seed=1)).std()
    assert 0 < found.mean_logit_difference < 0.1 * spread
    assert found.label_flips <= 6
    assert small.card.precision == "int8"
    assert small.card.format == "onnx"


def test_every_convolution_is_int8_with_symmetric_weights(tmp_path, float_file):
    path = tmp_path / "int8.onnx"
    to_int8(float_file, path, smooth())
    counts = count_low_precision(path)
    assert counts["Conv float32"] == 0
    assert counts["Gemm float32"] == 0
    assert counts["Gemm int8"] == 1
    # three convolutions, and the batch normalisation that follows none of them
    assert counts["Conv int8"] == 4
    assert counts["conversion DequantizeLinear"] == 1
    graph = onnx.load(path).graph
    values = onnx_graph.constants(graph)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            weights = values[node.input[0]]
            assert not any(values[name].any() for name in node.input[2:])
            assert weights.dtype in (np.int8, np.int32)
        elif node.op_type == "QuantizeLinear":
            assert values[node.input[2]].dtype == np.uint8


def test_one_scale_per_channel_or_per_tensor(tmp_path, float_file):
    def scale_sizes(per_channel):
        path = tmp_path / "int8.onnx"
        to_int8(float_file, path, smooth(), per_channel=per_channel)
        graph = onnx.load(path).graph
        values = onnx_graph.constants(graph)
        weights = {name for name, value in values.items() if value.dtype == np.int8 and value.ndim}
        return [
            values[node.input[1]].size
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in weights
        ]

    assert set(scale_sizes(per_channel=False)) == {1}
    assert set(scale_sizes(per_channel=True)) >= {8}


@pytest.mark.parametrize("mean", [INTEGER_MEAN, ODD_MEAN])
def test_the_first_layer_reads_the_bytes_of_the_image(tmp_path, mean):
    made_file(candidate(mean=mean), tmp_path / "float.onnx")
    to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", smooth())
    graph = onnx.load(tmp_path / "int8.onnx").graph
    (pairs,) = [node for node in graph.node if "image" in node.input]
    assert pairs.op_type == "SpaceToDepth"  # moves bytes, changes none
    readers = [node for node in graph.node if pairs.output[0] in node.input]
    assert [node.op_type for node in readers] == ["DequantizeLinear"]
    assert "Cast" not in operators(tmp_path / "int8.onnx")


@pytest.mark.parametrize("mean", [INTEGER_MEAN, ODD_MEAN])
def test_reading_bytes_directly_changes_no_logit(tmp_path, monkeypatch, mean):
    made_file(candidate(mean=mean), tmp_path / "float.onnx")
    short = to_int8(tmp_path / "float.onnx", tmp_path / "short.onnx", smooth())
    monkeypatch.setattr(onnx_graph, "read_bytes_directly", lambda _: False)
    long = to_int8(tmp_path / "float.onnx", tmp_path / "long.onnx", smooth())
    # an integer mean is one DequantizeLinear, which the quantizer must not take for its own (it
    # would wait for it for ever); bytes that are read directly are read in pairs
    more = Counter(operators(tmp_path / "long.onnx"))
    more.subtract(operators(tmp_path / "short.onnx"))
    odd = {"Cast": 1, "Sub": 1, "Mul": 1, "QuantizeLinear": 1, "SpaceToDepth": -1}
    whole = {"DequantizeLinear": 1, "QuantizeLinear": 1, "SpaceToDepth": -1}
    assert {k: v for k, v in more.items() if v} == (whole if mean == INTEGER_MEAN else odd)
    every_grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for images in (every_grey, smooth(16, seed=3)):
        np.testing.assert_array_equal(short.predict(images), long.predict(images))


def test_quantizing_is_quiet_and_repeatable(tmp_path, float_file, capfd, caplog):
    for name in ("a", "b"):
        to_int8(float_file, tmp_path / f"{name}.onnx", smooth())
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert tuple(capfd.readouterr()) == ("", "")
    assert not caplog.records


def test_calibration_images_matter(tmp_path, float_file):
    bright = to_int8(float_file, tmp_path / "a.onnx", smooth(), method="minmax")
    dark = to_int8(float_file, tmp_path / "b.onnx", smooth() // 8, method="minmax")
    assert bright.digest != dark.digest


@pytest.mark.parametrize("count", [1, 8, 21])
def test_calibration_batches_are_small_and_complete(count):
    images = smooth(count)
    batches = ranges.Batches(images)
    seen = []
    for start in range(len(batches)):
        batches.set_range(start_index=start, end_index=start + 1)
        seen.append(batches.get_next()["image"])
        assert batches.get_next() is None
    assert max(len(batch) for batch in seen) <= 8
    np.testing.assert_array_equal(np.concatenate(seen), images)


def test_what_is_not_quantized_is_counted_as_float(tmp_path, float_file):
    assert count_low_precision(float_file)["Conv int8"] == 0
    assert count_low_precision(float_file)["Conv float32"] >= 3
    to_int8(float_file, tmp_path / "head.onnx", smooth(), operators=("Gemm",))
    counts = count_low_precision(tmp_path / "head.onnx")
    assert counts["Conv int8"] == 0
    assert counts["Conv float32"] >= 3
    assert counts["Gemm int8"] == 1


def test_excluded_nodes_stay_float(tmp_path, float_file):
    first = next(n.name for n in onnx.load(float_file).graph.node if n.op_type == "Conv")
    to_int8(float_file, tmp_path / "int8.onnx", smooth(), exclude=(first,))
    counts = count_low_precision(tmp_path / "int8.onnx")
    assert (counts["Conv float32"], counts["Conv int8"]) == (1, 3)


def test_weight_bytes_are_those_of_the_arrays(float_file, tmp_path):
    expected = sum(
        numpy_helper.to_array(tensor).nbytes
        for tensor in onnx.load(float_file).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    assert weight_bytes(float_file)["float32"] == expected
    to_int8(float_file, tmp_path / "int8.onnx", smooth())
    sizes = weight_bytes(tmp_path / "int8.onnx")
    # 4x2x2x8 (3x3x8 on pairs of pixels) + 3x3x8 + 8 (the normalisation) + 8x8 + 8x3 weights, one
    # byte each, and zero points
    assert 296 <= sizes["int8"] <= 296 + 60


def test_no_calibration_images(tmp_path, float_file):
    with pytest.raises(ModelError, match="at least one calibration image"):
        to_int8(float_file, tmp_path / "int8.onnx", smooth(0))


def test_calibration_images_of_another_size(tmp_path, float_file):
    with pytest.raises(BundleError, match="expected uint8 images"):
        to_int8(float_file, tmp_path / "int8.onnx", np.zeros((2, 1, 8, 8), np.uint8))


def test_squeeze_and_hard_swish_survive_all_precisions(tmp_path):
    network = candidate(net=lambda channels: Tiny(channels, nn.Hardswish))
    export_onnx(network, tmp_path / "float.onnx")
    half = to_float16(tmp_path / "float.onnx", tmp_path / "half.onnx")
    small = to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", smooth())
    assert parity(network, half, smooth()).max_logit_difference < 0.02
    spread = network.predict(smooth()).std()
    assert parity(network, small, smooth()).mean_logit_difference < 0.15 * spread


@pytest.mark.nightly
def test_mobilenet_v3_small_at_64_pixels(tmp_path):
    from clinipress.models.classifier import build

    spec = InputSpec(height=64, width=64)
    model = ModelSpec(
        name="mobilenetv3_small_100", num_classes=4, in_channels=1, mean=INTEGER_MEAN, std=0.25
    )
    torch.manual_seed(0)
    card = Card(name="small", classes=tuple("abcd"), input=spec, model=model)
    network = TorchCandidate(card, build(model, spec).eval())
    images = np.kron(smooth(16), np.ones((1, 1, 4, 4), np.uint8))
    exported = export_onnx(network, tmp_path / "float.onnx")
    assert parity(network, exported, images).max_logit_difference <= PARITY_TOLERANCE
    half = to_float16(tmp_path / "float.onnx", tmp_path / "half.onnx")
    small = to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", images)
    assert half.file_bytes == pytest.approx(exported.file_bytes / 2, rel=0.05)
    assert small.file_bytes < 0.3 * exported.file_bytes
    counts = count_low_precision(tmp_path / "int8.onnx")
    assert (counts["Conv int8"], counts["Conv float32"]) == (53, 0)


# ------------------------------------------------------------------ graph rewrites


def graph_of(nodes, tensors, channels=1):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", channels, 8, 8])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opset, ir_version=10)
    )


def answer(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": images})[0]


def cast(output="x"):
    return helper.make_node("Cast", ["image"], [output], to=onnx.TensorProto.FLOAT)


NORMALISATIONS = {
    "sub mul": ([("Sub", 51.0), ("Mul", 0.02)], 0.02, 51.0),
    "div sub div": ([("Div", 255.0), ("Sub", 0.2), ("Div", 0.5)], 1 / 127.5, 51.0),
    "mul add": ([("Mul", 0.01), ("Add", -0.3)], 0.01, 30.0),
    "zero out of range": ([("Sub", -3.0), ("Mul", 0.5)], 0.5, -3.0),
}


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_normalisation_is_found_and_shortened(case):
    steps, scale, zero = NORMALISATIONS[case]
    names = ["x", *(f"y{number}" for number in range(len(steps) - 1)), "logits"]
    nodes = [cast()] + [
        helper.make_node(kind, [names[number], f"c{number}"], [names[number + 1]])
        for number, (kind, _) in enumerate(steps)
    ]
    tensors = {f"c{number}": np.float32(value) for number, (_, value) in enumerate(steps)}
    model = graph_of(nodes, tensors)
    found = onnx_graph.find_normalisation(model.graph)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.zero == pytest.approx(zero, abs=1e-4)
    images = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    before = answer(model, images)
    onnx_graph.shorten_normalisation(model)
    np.testing.assert_allclose(answer(model, images), before, rtol=1e-5, atol=1e-5)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == (["Cast", "Sub", "Mul"] if zero < 0 else ["DequantizeLinear"])


def test_a_mean_per_channel_is_left_as_it_is():
    mean = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
    nodes = [cast(), helper.make_node("Sub", ["x", "mean"], ["logits"])]
    model = graph_of(nodes, {"mean": mean}, channels=3)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    before = answer(model, images)
    onnx_graph.shorten_normalisation(model)
    np.testing.assert_array_equal(answer(model, images), before)
    assert "Sub" in [node.op_type for node in model.graph.node]


def test_means_over_the_picture_become_pooling_and_others_do_not():
    nodes = [
        cast(),
        helper.make_node("ReduceMean", ["x", "picture"], ["a"], keepdims=1),
        helper.make_node("ReduceMean", ["a", "channels"], ["logits"], keepdims=1),
    ]
    axes = {"picture": np.array([-1, 2], np.int64), "channels": np.array([1], np.int64)}
    model = graph_of(nodes, axes, channels=3)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8)
    before = answer(model, images)
    onnx_graph.pool_means(model)
    assert [n.op_type for n in model.graph.node] == ["Cast", "GlobalAveragePool", "ReduceMean"]
    np.testing.assert_allclose(answer(model, images), before, rtol=1e-6)


def test_a_batch_normalisation_is_the_convolution_it_becomes():
    random = np.random.default_rng(0)
    tensors = {name: random.uniform(0.5, 2, 3).astype(np.float32) for name in ("g", "b", "m", "v")}
    normalise = helper.make_node(
        "BatchNormalization", ["x", "g", "b", "m", "v"], ["logits"], epsilon=0.01
    )
    model = graph_of([cast(), normalise], tensors, channels=3)
    images = random.integers(0, 256, (2, 3, 8, 8), np.uint8)
    before = answer(model, images)
    onnx_graph.convolve_batch_norms(model)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv"]
    np.testing.assert_allclose(answer(model, images), before, rtol=1e-5)


@pytest.mark.parametrize("kind", ["Concat", "Tile", "Expand"])
def test_three_copies_of_grey_are_one_channel_of_summed_weights(kind):
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    tensors = {"w": weights}
    if kind == "Concat":
        repeat = helper.make_node("Concat", ["x", "x", "x"], ["rgb"], axis=1)
    else:
        tensors["shape"] = np.array([1, 3, 1, 1], np.int64)
        repeat = helper.make_node(kind, ["x", "shape"], ["rgb"])
    convolve = helper.make_node("Conv", ["rgb", "w"], ["logits"], pads=[1, 1, 1, 1])
    model = graph_of([cast(), repeat, convolve], tensors)
    images = np.random.default_rng(1).integers(0, 256, (2, 1, 8, 8), np.uint8)
    before = answer(model, images)
    onnx_graph.fold_grey_to_rgb(model)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Conv"]
    np.testing.assert_allclose(answer(model, images), before, rtol=1e-4, atol=1e-2)
    onnx_graph.canonical(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["w.grey"]


def test_canonical_drops_what_no_output_needs_and_keeps_the_answer():
    nodes = [
        cast(),
        helper.make_node("Mul", ["x", "unused"], ["dead"]),
        helper.make_node("Add", ["x", "used"], ["logits"]),
    ]
    model = graph_of(nodes, {"unused": np.float32(2), "used": np.float32(3)})
    model.graph.node[0].doc_string = "written in /some/where.py"
    images = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    before = answer(model, images)
    onnx_graph.canonical(model)
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("Cast", "Cast_0"),
        ("Add", "Add_1"),
    ]
    assert [tensor.name for tensor in model.graph.initializer] == ["used"]
    assert b"where.py" not in model.SerializeToString()
    np.testing.assert_array_equal(answer(model, images), before)
