from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from clinipress.errors import ModelError, StorageError
from clinipress.formats.file import digest_of_files
from clinipress.formats.openvino import make as to_openvino
from clinipress.formats.openvino.make import (
    apply_openvino,
    count_operators,
    plan_openvino,
    weight_bytes,
)
from clinipress.formats.openvino.run import OpenVinoCandidate, compiled, read
from clinipress.formats.parity import parity
from clinipress.recipe.study import ExportRecipe
from kit.candidates import INTEGER_MEAN, ODD_MEAN, wrapped
from kit.candidates import float_file as made_file
from kit.pixels import smooth

RECIPES = {name: ExportRecipe(format="openvino", precision=name) for name in
           ("float32", "float16", "int8")}  # fmt: skip


class Net(nn.Module):
    """Hard-swish, depthwise convolution, squeeze-and-excitation, a residual sum, ReLU6, a head."""

    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.BatchNorm2d(16))
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1)
        )
        self.narrow, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = nn.functional.hardswish(self.stem(x))
        y = nn.functional.relu6(self.wide(x))
        y = y * nn.functional.hardsigmoid(self.gate(y))
        x = self.narrow(y)
        x = x + self.last(x)
        return self.head(x.mean((2, 3)))


def candidate(channels=1, in_channels=1, mean=INTEGER_MEAN, seed=0, ranges=None):
    return wrapped(Net, channels, in_channels, mean, seed=seed, affine=False, ranges=ranges)


def float_file(folder, network):
    return made_file(network, folder / "float.onnx").path


def card_of(network, precision):
    return network.card.model_copy(
        update={"format": "openvino", "precision": precision, "model": None}
    )


def make(folder, network, precision, ranges=None, images=None):
    """Export, plan, apply: the opened file and its plan."""
    source = float_file(folder, network)
    images = smooth(channels=network.card.input.channels) if images is None else images
    plan = plan_openvino(RECIPES[precision], network, source, images, ranges=ranges)
    plan = json.loads(json.dumps(plan))  # as a run keeps it
    target = folder / precision / "model.xml"
    card = card_of(network, precision)
    apply_openvino(RECIPES[precision], network, source, target, plan, card)
    return OpenVinoCandidate.load(target, card=card, threads=1), plan


@pytest.fixture(scope="module")
def parent():
    return candidate()


@pytest.fixture(scope="module")
def small(parent, tmp_path_factory):
    """An int8 file and its plan."""
    return make(tmp_path_factory.mktemp("int8"), parent, "int8")


def nodes(path, kind):
    return {n.get_friendly_name(): n for n in read(path).get_ops() if n.get_type_name() == kind}


def ends(node):
    """(low, high) of a FakeQuantize, each float64 ``[channels or 1]``."""
    found = [node.input_value(i).get_node().data.astype(np.float64).ravel() for i in range(1, 5)]
    np.testing.assert_array_equal(found[:2], found[2:])
    return found[0], found[1]


@pytest.mark.parametrize(
    ("channels", "in_channels", "mean"),
    [(1, 1, INTEGER_MEAN), (1, 3, ODD_MEAN), (3, 3, ODD_MEAN), (3, 3, (0.485, 0.456, 0.406))],
)
def test_files_answer_like_the_network(tmp_path, channels, in_channels, mean):
    network = candidate(channels, in_channels, mean)
    images = smooth(40, channels, seed=1)
    spread = network.predict(images).std()
    exact = parity(network, make(tmp_path, network, "float32")[0], images)
    half = parity(network, make(tmp_path, network, "float16")[0], images)
    low = parity(network, make(tmp_path, network, "int8")[0], images)
    assert exact.max_logit_difference < 1e-4
    assert 1e-5 < half.max_logit_difference < 1e-2
    assert half.mean_logit_difference < low.mean_logit_difference < 0.1 * spread


def test_float16_halves_the_weights_and_computes_in_float32(tmp_path, parent):
    full, _ = make(tmp_path, parent, "float32")
    half, plan = make(tmp_path, parent, "float16")
    stored = weight_bytes(half.path)
    assert plan == {}
    assert stored["float16"] == pytest.approx(weight_bytes(full.path)["float32"] / 2, rel=0.05)
    assert stored.get("float32", 0) < 0.05 * stored["float16"]
    for path in (full.path, half.path):
        counts = count_operators(path)
        assert counts["Conv float32"] == 6
        assert counts["Conv int8"] == counts["Conv float16"] == 0
        assert not any("bfloat16" in name for name in counts)


def test_weights_beyond_float16_are_refused(tmp_path, parent):
    network = candidate()
    with torch.no_grad():
        network.module.backbone.head.bias[0] = 1e6
    with pytest.raises(ModelError, match=r"weights up to 65504 .* got a weight of 1e\+06"):
        make(tmp_path, network, "float16")


def test_every_layer_of_an_int8_file_runs_in_8_bits(small):
    counts = count_operators(small[0].path)
    assert (counts["Conv int8"], counts["Conv float32"]) == (6, 0)
    assert (counts["Gemm int8"], counts["Gemm float32"]) == (1, 0)
    assert not any(name.endswith("float32") and number for name, number in counts.items())
    changes = {name: n for name, n in counts.items() if name.startswith("conversion")}
    assert sum(changes.values()) <= 1, f"beside the image's own: {changes}"


def test_int8_weights_are_the_largest_of_each_channel_over_127(parent, small):
    stored = weight_bytes(small[0].path)
    layers = [part for part in parent.module.modules() if hasattr(part, "kernel_size")]
    assert (
        stored["int8"]
        == sum(part.weight.numel() for part in layers if isinstance(part, nn.Conv2d))
        + parent.module.backbone.head.weight.numel()
    )
    layer = nodes(small[0].path, "Multiply")
    weight = parent.module.backbone.gate[1].weight.detach().numpy()
    levels, scales = next(
        [node.input_value(0).get_node().input_value(0).get_node().data,
         node.input_value(1).get_node().data]
        for node in layer.values()
        if list(node.shape) == list(weight.shape)
    )  # fmt: skip
    expected = np.abs(weight).max((1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(scales, expected, rtol=1e-6)
    np.testing.assert_array_equal(levels, np.round(weight / scales))


def test_zero_is_a_level_of_every_grid(small):
    found = nodes(small[0].path, "FakeQuantize")
    assert len(found) - 1 == len(small[1]["places"]) > 5  # and the image's own grey levels
    for node in found.values():
        low, high = ends(node)
        zero = -low * 255 / (high - low)
        np.testing.assert_allclose(zero, np.round(zero), atol=1e-3)
        assert (low <= 0).all()
        assert (high >= 0).all()


def test_a_hard_sigmoid_is_the_engines_own_and_fills_0_to_1(small):
    assert not nodes(small[0].path, "HardSigmoid")
    (gate,) = nodes(small[0].path, "HSigmoid")
    low, high = ends(nodes(small[0].path, "FakeQuantize")[f"{gate}.rounded"])
    np.testing.assert_allclose([low, high], [[0], [1]])


def test_given_ranges_take_the_places_of_their_tensors(tmp_path, parent, small):
    sources = [place["source"][0] for place in small[1]["places"] if place["shape"] == []]
    assert len(sources) > 3
    given = {f"{name}.out": (-0.3 - n, 1.7 + n) for n, name in enumerate(sources)}
    file, plan = make(tmp_path, parent, "int8", given | {"nowhere": (0.0, 1.0)})
    assert (plan["given"], plan["found"]) == (len(given) + 1, len(given))
    assert plan["calibrated"] == len(plan["places"]) - len(given)
    rounded = nodes(file.path, "FakeQuantize")
    for name in sources:
        low, high = ends(rounded[f"{name}.rounded"])
        wanted = given[f"{name}.out"]
        step = (wanted[1] - wanted[0]) / 255
        assert abs(low[0] - wanted[0]) <= 0.51 * step
        assert high[0] - low[0] == pytest.approx(wanted[1] - wanted[0], rel=1e-5)


def test_channels_keep_their_own_grids_within_measured_ranges_but_not_within_learnt_ones(
    tmp_path, small
):
    place = next(place for place in small[1]["places"] if place["shape"])
    name = place["source"][0]
    limits = (min(place["low"]) / 2, max(place["high"]) / 2)
    given = {f"{name}.out": limits}
    measured, _ = make(tmp_path / "measured", candidate(), "int8", given)
    low, high = ends(nodes(measured.path, "FakeQuantize")[f"{name}.rounded"])
    step = (limits[1] - limits[0]) / 255
    assert len(set(high)) > 1
    assert high.max() <= limits[1] + step
    assert low.min() >= limits[0] - step
    learnt, _ = make(tmp_path / "learnt", candidate(ranges=given), "int8", given)
    low, high = ends(nodes(learnt.path, "FakeQuantize")[f"{name}.rounded"])
    assert len(high) == 1
    assert high[0] - low[0] == pytest.approx(limits[1] - limits[0], rel=1e-5)


def test_the_same_plan_gives_the_same_bytes(tmp_path, parent, small):
    source, again = float_file(tmp_path, parent), tmp_path / "again" / "model.xml"
    for precision in RECIPES:
        plan = small[1] if precision == "int8" else {}
        digests = set()
        for _ in range(2):
            apply_openvino(RECIPES[precision], parent, source, again, plan, parent.card)
            digests.add(digest_of_files((again, again.with_suffix(".bin"))))
        assert len(digests) == 1
        if precision == "int8":
            assert digests == {small[0].digest}
        content = again.read_bytes()
        for trace in (b"/tmp", b"/work", b"/home", b"Runtime", b"2026", str(tmp_path).encode()):
            assert trace not in content


def test_the_same_images_give_the_same_plan(tmp_path, parent, small):
    assert make(tmp_path, parent, "int8")[1] == small[1]


def test_a_plan_is_applied_without_nncf(tmp_path, parent, small, monkeypatch):
    source = float_file(tmp_path, parent)
    monkeypatch.setitem(sys.modules, "nncf", None)
    target = tmp_path / "model.xml"
    apply_openvino(RECIPES["int8"], parent, source, target, small[1], parent.card)
    assert digest_of_files((target, target.with_suffix(".bin"))) == small[0].digest


def test_both_files_or_neither(tmp_path, parent, monkeypatch):
    source, target = float_file(tmp_path, parent), tmp_path / "out" / "model.xml"
    real = to_openvino.write_atomically

    def full(path, content):
        if path.suffix == ".xml":
            raise StorageError("room on the disk", "a full disk")
        real(path, content)

    monkeypatch.setattr(to_openvino, "write_atomically", full)
    with pytest.raises(StorageError):
        apply_openvino(RECIPES["float32"], parent, source, target, {}, parent.card)
    assert [path.name for path in target.parent.iterdir()] == []


def test_given_ranges_do_not_fit_changed_weights(tmp_path, parent):
    recipe = ExportRecipe(format="openvino", equalize=True)
    with pytest.raises(ModelError, match="'equalize' with given ranges"):
        plan_openvino(recipe, parent, tmp_path / "none.onnx", smooth(), ranges={"x": (0.0, 1.0)})


def test_no_images_are_refused(tmp_path, parent):
    with pytest.raises(ModelError, match="at least one calibration image"):
        plan_openvino(RECIPES["int8"], parent, tmp_path / "none.onnx", smooth(0))


def test_equalized_weights_give_another_file_of_the_same_function(tmp_path, parent, small):
    source, target = float_file(tmp_path, parent), tmp_path / "model.xml"
    recipe = ExportRecipe(format="openvino", equalize=True)
    plan = plan_openvino(recipe, parent, source, smooth())
    apply_openvino(recipe, parent, source, target, plan, parent.card)
    images = smooth(40, seed=1)
    found = parity(parent, OpenVinoCandidate.load(target, card=card_of(parent, "int8")), images)
    assert found.mean_logit_difference < 0.1 * parent.predict(images).std()


def test_planning_and_writing_are_quiet(tmp_path, parent, capfd):
    make(tmp_path, parent, "int8")
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_compiled_file_keeps_no_cache_on_the_disk(tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compiled(small[0].path, 1)
    assert list(tmp_path.iterdir()) == []


NOTHING_SENT = """
import socket, sys, threading
from pathlib import Path
def refuse(*a, **k): raise SystemExit("tried to reach the network")
socket.socket.connect = socket.getaddrinfo = refuse
import numpy as np
from clinipress.models.classifier import TorchCandidate
from clinipress.formats.openvino.make import plan_openvino
from clinipress.recipe.study import ExportRecipe
from types import SimpleNamespace
parent = SimpleNamespace(spec=SimpleNamespace(ranges=None))
images = np.load(sys.argv[2])
plan_openvino(ExportRecipe(format="openvino"), parent, Path(sys.argv[1]), images)
loaded = [m for m in sys.modules if m.startswith("openvino_telemetry") and sys.modules[m]]
assert not loaded, loaded
names = [t.name for t in threading.enumerate()]
assert not [name for name in names if "ThreadPoolExecutor" in name], names
"""


def test_nncf_sends_nothing_outside_of_tests(tmp_path, parent):
    # under pytest nncf leaves its telemetry out by itself: this needs a process of its own
    source, images, home = float_file(tmp_path, parent), tmp_path / "images.npy", tmp_path / "home"
    np.save(images, smooth(2))
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_SENT, str(source), str(images)],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(home), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert not (home / "intel").exists()
