from __future__ import annotations

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clinipress.errors import ModelError
from clinipress.formats.litert import float as litert_float
from clinipress.formats.litert import graph as litert_graph
from clinipress.formats.litert import make as to_litert
from clinipress.formats.litert import packing as litert_packing
from clinipress.formats.litert import ranges as litert_ranges
from clinipress.formats.litert import rewrites as litert_rewrites
from clinipress.formats.litert.float import float_graph, levels_of
from clinipress.formats.litert.graph import GraphEditor, schema
from clinipress.formats.litert.make import apply_litert, count_operators, plan_litert, weight_bytes
from clinipress.formats.litert.run import LiteRtCandidate, interpreter
from clinipress.formats.onnx.int8 import plan_int8
from clinipress.formats.parity import PARITY_TOLERANCE, parity
from clinipress.models.classifier import TorchCandidate
from clinipress.recipe.study import ExportRecipe
from kit.candidates import INTEGER_MEAN as MEAN
from kit.candidates import ODD_MEAN, SIZE, float_file, wrapped
from kit.candidates import PER_CHANNEL as COLOURS
from kit.litert_nets import empty_model, finished
from kit.pixels import smooth


class Net(nn.Module):
    """One of everything that XNNPACK does not take in 8 bits, and what comes with it."""

    def __init__(self, channels, rounds=6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * n), nn.ReLU(), nn.Conv2d(8 + 4 * n, 4, 3, 1, 1))
            for n in range(rounds)
        )
        width = 8 + 4 * rounds
        self.narrow = nn.Sequential(nn.Conv2d(width, 16, 1), nn.Hardswish(), nn.AvgPool2d(2))
        self.gate = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        parts = [self.pool(self.stem(x))]
        for part in self.parts:
            parts.append(part(torch.cat(parts, 1)))
        x = self.narrow(torch.cat(parts, 1))
        x = x + x * self.gate(x.mean((2, 3), keepdim=True))
        return self.head(x.mean((2, 3)))


class Plain(nn.Module):
    """A strided stem, a depthwise convolution, a residual sum, a head."""

    def __init__(self, channels, kernel=3, stride=2, padding=1):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, kernel, stride, padding)
        self.wide = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + F.relu6(self.wide(x))
        return self.head(x.mean((2, 3)))


def candidate(net=Net, channels=1, in_channels=1, mean=MEAN, seed=0):
    # the name is part of the digest, by which graphs are remembered
    return wrapped(net, channels, in_channels, mean, seed=seed, name=net.__qualname__)


def recipe(precision, **options):
    return ExportRecipe(format="litert", precision=precision, **options)


def exported(parent, path, precision, *, source=None, ranges=None, **options):
    """The file of a parent, opened, and its plan."""
    asked = recipe(precision, **options)
    images = smooth(24, parent.card.input.channels)
    plan = plan_litert(asked, parent, source or path, images, ranges=ranges)
    plan = json.loads(json.dumps(plan))
    apply_litert(asked, parent, source or path, path, plan, parent.card)
    return LiteRtCandidate.load(path, parent.card, threads=1), plan


def operators(content):
    model = litert_graph.read(content)
    return [litert_graph.operator_name(model, item) for item in model.subgraphs[0].operators]


def partitions(content):
    """Graphs that XNNPACK took, and operators it left."""
    details = interpreter(content, 1)._get_ops_details()
    return sum(item["op_name"] == "DELEGATE" for item in details)


def answers(content, inputs):
    """What a float graph gives for each input."""
    engine = interpreter(content, 1)
    found = []
    for one in inputs:
        engine.set_tensor(engine.get_input_details()[0]["index"], one[None])
        engine.invoke()
        found.append(engine.get_tensor(engine.get_output_details()[0]["index"])[0])
    return np.array(found)


@pytest.fixture(scope="module")
def parent():
    return candidate()


@pytest.fixture(scope="module")
def source(parent, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    float_file(parent, path)
    return path


# ------------------------------------------------------------------ float32


@pytest.mark.parametrize(
    ("channels", "in_channels", "mean"),
    [(1, 1, ODD_MEAN), (1, 3, MEAN), (3, 3, MEAN), (3, 3, COLOURS), (1, 3, COLOURS)],
)
def test_the_file_answers_like_the_network(tmp_path, channels, in_channels, mean):
    network = candidate(Plain, channels, in_channels, mean)
    file, plan = exported(network, tmp_path / "net.tflite", "float32")
    assert plan == {}
    assert parity(network, file, smooth(20, channels)).max_logit_difference < 1e-5
    content = (tmp_path / "net.tflite").read_bytes()
    assert "TRANSPOSE" not in operators(content)
    assert partitions(content) == 1


def test_grey_is_not_copied_to_three_channels():
    content = float_graph(candidate(Plain, 1, 3), levels=False)
    model = litert_graph.read(content)
    assert "CONCATENATION" not in operators(content)
    stem = next(t for t in model.subgraphs[0].tensors if list(t.shape)[1:3] == [3, 3])
    assert 1 in (stem.shape[0], stem.shape[3])  # one input channel, in either layout


def test_grey_that_is_read_twice_stays_three_channels(tmp_path):
    class Twice(Plain):
        def forward(self, x):
            return super().forward(x) + x.mean((2, 3))

    network = candidate(Twice, 1, 3)
    file, _ = exported(network, tmp_path / "net.tflite", "float32")
    assert parity(network, file, smooth()).max_logit_difference < 1e-5


def test_a_network_that_cannot_be_converted_is_one_line(tmp_path):
    class Branching(Plain):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(ModelError, match="a network that litert_torch can convert") as caught:
        exported(candidate(Branching), tmp_path / "net.tflite", "float32")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_answers_otherwise_is_refused(monkeypatch):
    class Off(TorchCandidate):
        def predict(self, images):
            return super().predict(images) + np.float32(2 * PARITY_TOLERANCE)

    network = candidate(Plain, seed=3)
    with pytest.raises(ModelError, match=r"a difference of 0\.002"):
        float_graph(Off(network.card, network.module), levels=False)


def test_converting_is_quiet_and_leaves_the_network_alone(tmp_path, capfd, caplog):
    network = candidate(Plain, seed=4)
    network.module.train()
    before = network.digest
    exported(network, tmp_path / "net.tflite", "int8")
    assert network.module.training
    assert network.digest == before
    assert tuple(capfd.readouterr()) == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int8-dynamic"])
def test_equal_networks_give_equal_bytes_without_traces(tmp_path, precision):
    exported(candidate(Plain), tmp_path / "a.tflite", precision)
    litert_float._graphs.clear()
    exported(candidate(Plain), tmp_path / "b.tflite", precision)
    content = (tmp_path / "a.tflite").read_bytes()
    assert (tmp_path / "b.tflite").read_bytes() == content
    for trace in (b"torch", b"clinipress.models", b".py", b"/work", b"/home", b"test_to"):
        assert trace not in content
    exported(candidate(Plain, seed=1), tmp_path / "c.tflite", precision)
    assert (tmp_path / "c.tflite").read_bytes() != content


# ------------------------------------------------------------------ smaller weights


def test_float16_halves_the_weights(parent, tmp_path):
    half, _ = exported(parent, tmp_path / "half.tflite", "float16")
    exported(parent, tmp_path / "float.tflite", "float32")
    sizes, whole = (weight_bytes(tmp_path / f"{n}.tflite") for n in ("half", "float"))
    assert sizes["float16"] > 0.4 * whole["float32"]
    assert 0 < parity(parent, half, smooth()).max_logit_difference < 0.01
    assert count_operators(tmp_path / "half.tflite") == count_operators(tmp_path / "float.tflite")


def test_dynamic_files_compute_layers_in_8_bits(parent, tmp_path):
    file, _ = exported(parent, tmp_path / "net.tflite", "int8-dynamic")
    counts = count_operators(tmp_path / "net.tflite")
    assert counts["Gemm int8"] == 1
    assert counts["Gemm float32"] == counts["Conv float32"] == 0
    found = parity(parent, file, smooth())
    assert 0 < found.mean_logit_difference < 0.1 * parent.predict(smooth()).std()


def test_4_bit_weights_are_stored_and_unpacked(parent, tmp_path):
    file, _ = exported(parent, tmp_path / "net.tflite", "int4-weights")
    sizes, counts = weight_bytes(tmp_path / "net.tflite"), count_operators(tmp_path / "net.tflite")
    assert sizes["int4"] > sizes["int8"] > 0  # depthwise convolutions keep 8 bits
    assert counts["Conv int8"] == counts["Gemm int8"] == 0
    spread = parent.predict(smooth()).std()
    assert 0 < parity(parent, file, smooth()).mean_logit_difference < 0.5 * spread


# ------------------------------------------------------------------ int8


@pytest.mark.parametrize(
    ("channels", "in_channels", "mean"),
    [(1, 1, MEAN), (1, 3, MEAN), (3, 3, MEAN), (3, 3, COLOURS), (1, 3, COLOURS)],
)
def test_integer_files_answer_nearly_like_their_parent(tmp_path, channels, in_channels, mean):
    network, source = candidate(Plain, channels, in_channels, mean), tmp_path / "float.onnx"
    float_file(network, source)
    ranges = plan_int8(source, smooth(24, channels), method="minmax").ranges
    file, _ = exported(network, tmp_path / "net.tflite", "int8", source=source, ranges=ranges)
    images = smooth(64, channels, seed=1)
    spread = network.predict(images).std()
    assert 0 < parity(network, file, images).mean_logit_difference < 0.03 * spread


def test_the_quantizer_s_own_calibration_is_the_one_without_ranges(parent, source):
    """Moving averages of each image's extremes: narrower than the extremes themselves."""
    plan = plan_litert(recipe("int8"), parent, source, smooth())
    graph = to_litert.integer_graph(parent)
    widest = litert_ranges.extremes(graph, levels_of(parent.module), smooth())
    assert set(plan["ranges"]) == set(widest)
    assert plan["facts"] == {"calibrated_by_runtime": len(plan["ranges"])}
    low, high = plan["ranges"]["logits"]
    assert widest["logits"][0] < low < high < widest["logits"][1]


@pytest.mark.parametrize("mean", [MEAN, ODD_MEAN])
def test_the_input_has_the_grid_of_the_grey_levels(tmp_path, mean):
    network = candidate(Plain, mean=mean)
    exported(network, tmp_path / "net.tflite", "int8")
    engine = interpreter(tmp_path / "net.tflite", 1)
    (image,), (logits,) = engine.get_input_details(), engine.get_output_details()
    assert (image["dtype"], logits["dtype"]) == (np.int8, np.int8)
    scale, zero = image["quantization"]
    assert scale == pytest.approx(1 / (255 * 0.25), rel=1e-6)
    assert zero == round(255 * mean) - 128


def test_everything_is_integers_in_one_graph_of_xnnpack(parent, tmp_path):
    exported(parent, tmp_path / "net.tflite", "int8")
    content, counts = (
        (tmp_path / "net.tflite").read_bytes(),
        count_operators(tmp_path / "net.tflite"),
    )
    assert partitions(content) == 1
    assert not [key for key, number in counts.items() if number and "int8" not in key]
    assert set(weight_bytes(tmp_path / "net.tflite")) == {"int8", "int32"}


def test_without_the_rewrites_xnnpack_would_take_it_in_parts(parent, tmp_path, monkeypatch):
    for name in ("pad_pools_with_zeros", "nest_concats", "spell_out_hard_swish"):
        monkeypatch.setattr(litert_rewrites, name, lambda _: None)
    monkeypatch.setattr(litert_rewrites, "convolve_average_pools", lambda _: None)
    monkeypatch.setattr(litert_float, "_graphs", {})
    exported(parent, tmp_path / "net.tflite", "int8")
    assert partitions((tmp_path / "net.tflite").read_bytes()) > 3


def test_weights_have_one_scale_per_output_channel(tmp_path):
    exported(candidate(Plain), tmp_path / "net.tflite", "int8")
    model = litert_graph.read((tmp_path / "net.tflite").read_bytes())
    tensors = model.subgraphs[0].tensors
    stored = [t for number, t in enumerate(tensors) if litert_graph.stored(model, number)]
    weights = [t for t in stored if t.type == schema.TensorType.INT8]
    assert sorted(len(t.quantization.scale) for t in weights) == [3, 8, 8]
    assert not any(np.any(t.quantization.zeroPoint) for t in weights)


def test_calibration_needs_images_and_depends_on_them(parent, source, tmp_path):
    with pytest.raises(ModelError, match="expected calibration images, got none"):
        plan_litert(recipe("int8"), parent, source, smooth(0))
    plans = [plan_litert(recipe("int8"), parent, source, smooth() // dark) for dark in (1, 8)]
    assert plans[0]["ranges"] != plans[1]["ranges"]
    assert plans[0]["ranges"]["image"] == plans[1]["ranges"]["image"]


# ------------------------------------------------------------------ given ranges


@pytest.mark.parametrize("mean", [MEAN, ODD_MEAN])
def test_given_ranges_find_their_places(tmp_path, mean):
    parent, source = candidate(mean=mean), tmp_path / "float.onnx"
    float_file(parent, source)
    ranges = plan_int8(source, smooth(), method="percentile").ranges
    file, plan = exported(parent, tmp_path / "net.tflite", "int8", source=source, ranges=ranges)
    facts = plan["facts"]
    assert facts["given_ranges"] == len(ranges)
    assert facts["places_given"] + facts["places_calibrated"] == facts["places"]
    assert facts["places_given"] > 0.6 * facts["places"]
    spread = parent.predict(smooth(64, seed=1)).std()
    assert parity(parent, file, smooth(64, seed=1)).mean_logit_difference < 0.1 * spread


def test_a_given_range_is_the_file_s_own(parent, source, tmp_path):
    last = onnx.load(source).graph.output[0].name
    _, plan = exported(
        parent, tmp_path / "net.tflite", "int8", source=source, ranges={last: (-7.0, 9.0)}
    )
    assert plan["facts"]["given_ranges_used"] == 1
    assert plan["ranges"]["logits"] == [-7.0, 9.0]
    scale, zero = interpreter(tmp_path / "net.tflite", 1).get_output_details()[0]["quantization"]
    assert scale == pytest.approx(16 / 255)
    assert zero == round(-128 + 7 / scale)


def test_a_range_that_belongs_nowhere_is_counted_and_left(parent, source, tmp_path):
    plan = plan_litert(recipe("int8"), parent, source, smooth(), ranges={"elsewhere": (0.0, 1.0)})
    assert plan["facts"]["given_ranges_used"] == plan["facts"]["places_given"] == 0


def test_of_equal_tensors_the_clamp_s_range_is_meant(tmp_path):
    class Bright(Plain):  # what the stem gives is above zero anyway: its ReLU does nothing
        def __init__(self, channels):
            super().__init__(channels)
            nn.init.constant_(self.stem.weight, 0.01)
            nn.init.constant_(self.stem.bias, 5.0)

    network, path = candidate(Bright), tmp_path / "float.onnx"
    float_file(network, path)
    nodes = onnx.load(path).graph.node
    stem = next(node for node in nodes if node.op_type == "Conv").output[0]
    relu = next(node for node in nodes if stem in node.input).output[0]
    for ranges in ({stem: (0.0, 3.0), relu: (0.0, 8.0)}, {relu: (0.0, 8.0), stem: (0.0, 3.0)}):
        plan = plan_litert(recipe("int8"), network, path, smooth(), ranges=ranges)
        assert [0.0, 8.0] in plan["ranges"].values()
        assert [0.0, 3.0] not in plan["ranges"].values()


def test_what_shares_a_grid_has_the_range_that_is_known_better():
    graph = float_graph(candidate(Plain), levels=True)
    levels = levels_of(candidate(Plain).module)
    found = litert_ranges.extremes(graph, levels, smooth())
    pad = next(name for name in found if name.startswith("PAD"))
    settled = litert_ranges.settled(graph, found, {"image": (-1.0, 2.0)})
    assert settled["image"] == settled[pad] == (-1.0, 2.0)
    wider = litert_ranges.settled(graph, found | {pad: (-9.0, 9.0)}, {})
    assert wider["image"] == wider[pad] == (-9.0, 9.0)


def test_f3_what_is_joined_with_what_is_known_fits_too():
    model = empty_model([1, 2, 2, 3], schema.TensorType.FLOAT32)
    maker = GraphEditor(model)
    sum_, joined = maker.computed([1, 2, 2, 3]), maker.computed([1, 2, 2, 6])
    one = maker.constant(np.ones(1, np.float32))
    options = schema.ConcatenationOptionsT()
    options.axis = 3
    model.subgraphs[0].operators += [
        maker.operator("ADD", [0, one], sum_, schema.AddOptionsT()),
        maker.operator("CONCATENATION", [0, sum_], joined, options),
    ]
    graph = finished(model, joined)
    written = litert_graph.read(graph)
    (group,) = litert_ranges._groups(written)
    first, second, both = (written.subgraphs[0].tensors[n].name.decode() for n in group)
    measured = {first: (0.0, 1.0), second: (-9.0, 9.0), both: (-9.0, 9.0)}
    settled = litert_ranges.settled(graph, measured, {first: (0.0, 0.5)})
    assert set(settled.values()) == {(-9.0, 9.0)}
    # a range that was given for all that is joined says enough
    settled = litert_ranges.settled(graph, measured, {both: (-3.0, 3.0)})
    assert set(settled.values()) == {(-3.0, 3.0)}


def test_extremes_are_those_of_all_images():
    graph, levels = float_graph(candidate(Plain), levels=True), levels_of(candidate(Plain).module)
    found = litert_ranges.extremes(graph, levels, smooth())
    exact = candidate(Plain).predict(smooth())
    assert found["logits"] == pytest.approx((min(exact.min(), 0), max(exact.max(), 0)), abs=1e-4)


# ------------------------------------------------------------------ rewrites are exact


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"),
    [(1, 7, 2, 3), (1, 3, 2, 1), (3, 3, 2, 1), (3, 7, 2, 3), (1, 4, 4, 0), (1, 5, 2, 2)],
)
def test_packing_the_first_convolution_changes_no_answer(channels, kernel, stride, padding):
    network = candidate(lambda c: Plain(c, kernel, stride, padding), channels, channels)
    before = float_graph(network, levels=True)
    model = litert_graph.read(before)
    litert_packing.pack_first_convolution(model)
    after = litert_graph.pack(model)
    assert operators(after)[:3] == ["RESHAPE", "PAD", "CONV_2D"]
    shape = (8, SIZE, SIZE, channels)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(answers(after, inputs), answers(before, inputs), atol=1e-5)


def test_a_first_convolution_that_cannot_gain_is_left():
    content = float_graph(candidate(lambda c: Plain(c, 1, 1, 0)), levels=True)
    model = litert_graph.read(content)
    litert_packing.pack_first_convolution(model)
    assert litert_graph.pack(model) == content


def test_a_normalisation_per_colour_is_packed_too(tmp_path):
    network = candidate(Plain, 3, 3, COLOURS)
    exported(network, tmp_path / "net.tflite", "int8")
    content = (tmp_path / "net.tflite").read_bytes()
    assert operators(content)[:2] == ["RESHAPE", "DEPTHWISE_CONV_2D"]
    (image,) = interpreter(content, 1).get_input_details()
    assert image["quantization"] == (pytest.approx(1 / 255), -128)


def chain(*links, activation=0):
    """Bytes of a graph of elementwise operators with constants: (name, values, constant first)."""
    model = empty_model([1, 2, 2, 3], schema.TensorType.FLOAT32)
    maker, tensor = GraphEditor(model), 0
    kinds = {"ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT, "MUL": schema.MulOptionsT}
    for place, (name, values, first) in enumerate(links):
        result = maker.computed([1, 2, 2, 3])
        inputs = [tensor, maker.constant(np.array(values, np.float32))]
        options = kinds[name]()
        if place == len(links) - 1:
            options.fusedActivationFunction = activation
        item = maker.operator(name, inputs[::-1] if first else inputs, result, options)
        model.subgraphs[0].operators.append(item)
        tensor = result
    return finished(model, tensor)


A, B = [[[[1.0, -2.0, 3.0]]]], [0.5, 4.0, -1.0]
RELU = schema.ActivationFunctionType.RELU


@pytest.mark.parametrize(
    ("links", "made"),
    [
        ([("SUB", A, False), ("MUL", B, False)], ["DEPTHWISE_CONV_2D"]),
        ([("SUB", A, True), ("MUL", B, True), ("ADD", 2.0, False)], ["DEPTHWISE_CONV_2D"]),
        ([("MUL", B, False), ("ADD", A, False), ("SUB", 1.0, True)], ["DEPTHWISE_CONV_2D"]),
        ([("MUL", 2.0, False), ("ADD", 1.0, False)], ["MUL", "ADD"]),  # nothing per channel
        ([("MUL", B, False)], ["MUL"]),
    ],
)
def test_chains_of_sums_and_products_become_one_convolution(links, made):
    before = chain(*links, activation=RELU)
    model = litert_graph.read(before)
    litert_rewrites.convolve_affine(model)
    after = litert_graph.pack(model)
    assert operators(after) == made
    inputs = np.random.default_rng(0).normal(size=(5, 2, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(answers(after, inputs), answers(before, inputs), atol=1e-5)
    assert answers(after, inputs).min() == 0


def test_each_rewrite_keeps_the_answers(parent, monkeypatch):
    """Net has one of everything; the rewrites leave nothing of it that XNNPACK lacks."""
    names = ("pad_pools_with_zeros", "nest_concats", "convolve_affine", "average_in_place")
    inputs = np.random.default_rng(0).normal(size=(6, SIZE, SIZE, 1)).astype(np.float32)
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(litert_rewrites, name, lambda _: None)
        patch.setattr(litert_float, "_graphs", {})
        before = float_graph(parent, levels=True)
    after = to_litert.integer_graph(parent)
    here, there = operators(before), operators(after)
    for name in ("PADV2", "HARD_SWISH", "AVERAGE_POOL_2D"):
        assert name in here
        assert name not in there
    for name in ("SUB", "TRANSPOSE"):
        assert here.count(name) > 0 == there.count(name)
    model = litert_graph.read(after)
    graph = model.subgraphs[0]
    joins = [i for i in graph.operators if litert_graph.operator_name(model, i) == "CONCATENATION"]
    assert {len(item.inputs) for item in joins} == {2}
    np.testing.assert_allclose(answers(after, inputs), answers(before, inputs), atol=1e-4)


def test_a_pool_of_negative_values_keeps_its_padding():
    class Signed(Plain):
        def forward(self, x):
            return self.head(F.max_pool2d(self.stem(x) - 9, 3, 2, 1).mean((2, 3)))

    assert "PADV2" in operators(float_graph(candidate(Signed), levels=False))


def test_many_tensors_are_joined_five_at_a_time():
    model = empty_model([1, 2, 2, 3], schema.TensorType.FLOAT32)
    maker, graph, parts = GraphEditor(model), model.subgraphs[0], []
    for number in range(12):
        parts.append(maker.computed([1, 2, 2, 3]))
        inputs = [0, maker.constant(np.array(number, np.float32))]
        graph.operators.append(maker.operator("ADD", inputs, parts[-1], schema.AddOptionsT()))
    joined = maker.computed([1, 2, 2, 36])
    options = schema.ConcatenationOptionsT(axis=3)
    graph.operators.append(maker.operator("CONCATENATION", parts, joined, options))
    before = finished(model, joined)
    model = litert_graph.read(before)
    litert_rewrites.nest_concats(model)
    after = litert_graph.pack(model)
    assert operators(after).count("CONCATENATION") == 3
    inputs = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(answers(after, inputs), answers(before, inputs))


def test_equal_zero_points_are_written_once(parent, tmp_path):
    """Every channel has one of eight bytes, in the weights and again in the biases."""
    exported(parent, tmp_path / "net.tflite", "int8")
    content = (tmp_path / "net.tflite").read_bytes()
    model = litert_graph.read(content)
    builder = schema.flatbuffers.Builder(2**16)  # writes each vector where it stands
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    plain = bytes(builder.Output())
    tensors = [tensor.quantization for tensor in model.subgraphs[0].tensors]
    points = Counter(tuple(one.zeroPoint) for one in tensors if one and one.zeroPoint is not None)
    again = sum(8 * len(point) * (count - 1) for point, count in points.items())
    assert again > 0
    assert len(plain) - len(content) >= again
    kind = interpreter(content, 1).get_input_details()[0]["dtype"]
    inputs = smooth().transpose(0, 2, 3, 1).view(kind)
    np.testing.assert_array_equal(answers(content, inputs), answers(plain, inputs))


def test_reading_and_packing_again_changes_nothing(parent):
    content = to_litert.integer_graph(parent)
    assert litert_graph.pack(litert_graph.read(content)) == content


def test_names_are_short_and_by_place(parent):
    model = litert_graph.read(to_litert.integer_graph(parent))
    names = [tensor.name.decode() for tensor in model.subgraphs[0].tensors]
    assert {"image", "logits"} <= set(names)
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= len("DEPTHWISE_CONV_2D_100.1")
