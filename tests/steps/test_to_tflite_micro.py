from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from torch import nn
from torch.nn import functional as F

from clinipress.errors import ModelError
from clinipress.formats.litert.run import LiteRtCandidate, interpreter
from clinipress.formats.onnx.float import export_onnx
from clinipress.formats.onnx.int8 import plan_int8
from clinipress.formats.parity import parity
from clinipress.formats.tflite_micro.make import (
    apply_tflite_micro,
    arena_bytes,
    count_operators,
    plan_tflite_micro,
    weight_bytes,
)
from clinipress.formats.tflite_micro.run import TfliteMicroCandidate
from clinipress.kinds.image.read import decode
from clinipress.recipe.study import ExportRecipe
from kit.candidates import wrapped
from kit.pixels import smooth

SIZE = 32
CLASSES = ("glioma", 'no "tumour"', "hypophysé", "a\\b?")
RECIPE = ExportRecipe(format="tflite-micro", precision="int8")


class Net(nn.Module):
    """What small networks are made of: strides, pools, depthwise, residual, hard-swish, gates."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.wide = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Hardswish())
        self.gate = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU6())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.pool(self.stem(x))
        y = self.wide(x)
        x = x + y * self.gate(F.adaptive_avg_pool2d(y, 1))
        return self.head(F.adaptive_avg_pool2d(self.down(x), 1).flatten(1))


class Gelu(Net):
    def forward(self, x):
        return super().forward(F.gelu(x))


def candidate(net=Net):
    return wrapped(lambda _: net(), size=SIZE, classes=CLASSES, name=net.__name__, affine=False)


def pixels(count=24, seed=0):
    return smooth(count, seed=seed, side=SIZE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The network, its plan, and the file."""
    folder, network = tmp_path_factory.mktemp("micro"), candidate()
    source = folder / "float.onnx"
    export_onnx(network, source)
    ranges = plan_int8(source, pixels(), method="minmax").ranges
    plan = plan_tflite_micro(RECIPE, network, source, pixels(), ranges=ranges)
    plan = json.loads(json.dumps(plan))
    path = folder / "out" / "model.tflite"
    apply_tflite_micro(RECIPE, network, source, path, plan, network.card)
    return network, plan, path


def test_it_answers_nearly_like_its_parent(made):
    network, _, path = made
    images = pixels(64, seed=1)
    found = parity(network, TfliteMicroCandidate.load(path, network.card), images)
    assert 0 < found.mean_logit_difference < 0.05 * network.predict(images).std()


def reference(path, card):
    """LiteRT with the kernels that microcontrollers have as well."""
    from ai_edge_litert.interpreter import OpResolverType

    opened = interpreter(path, 1, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    return LiteRtCandidate(path, card, opened, 1)


def steps_apart(network, path, other, images):
    """Differences in steps of the output's grid."""
    found = TfliteMicroCandidate.load(path, network.card).predict(images)
    assert len(np.unique(found)) > 10
    text = path.with_name("model_data.h").read_text(encoding="utf-8")
    step = float(re.search(r"kOutputScale = ([0-9.e+-]+)f", text).group(1))
    return np.abs(np.round((found - other.predict(images)) / step))


def test_answers_are_those_of_litert_s_reference_kernels(made):
    """Bit for bit up to the last layer, whose kernels break ties in two ways: 1 value in 240."""
    network, _, path = made
    images = np.concatenate([pixels(30, seed=2), np.full((1, 1, SIZE, SIZE), 255, np.uint8)])
    found = steps_apart(network, path, reference(path, network.card), images)
    assert found.max() <= 1
    assert found.mean() < 0.02


def test_xnnpack_rounds_a_little_otherwise(made):
    """Each of its kernels may be one step off, and the steps add up over the layers."""
    network, _, path = made
    fast = LiteRtCandidate.load(path, network.card, threads=1)
    assert steps_apart(network, path, fast, pixels(30, seed=2)).max() < 8


@pytest.mark.realdata
def test_so_are_those_for_real_images(made, realdata):
    network, _, path = made
    found = sorted((realdata / "brain-mri" / "Testing").rglob("*.jpg"))[::20]
    images = np.stack([decode(file, network.card.input) for file in found])
    found = steps_apart(network, path, reference(path, network.card), images)
    assert found.max() <= 1
    assert found.mean() < 0.05


def test_the_arena_is_in_the_plan_the_facts_and_the_header(made):
    _, plan, path = made
    assert plan["arena"] == plan["facts"]["arena_bytes"] == arena_bytes(path)
    text = path.with_name("model_data.h").read_text(encoding="utf-8")
    assert f"kArenaSize = {plan['arena']};" in text


def test_everything_is_integers_and_hard_swish_one_operator(made):
    _, _, path = made
    counts = count_operators(path)
    assert counts["HardSwish int8"] == 1
    assert not [key for key, number in counts.items() if number and "int8" not in key]
    assert set(weight_bytes(path)) == {"int8", "int32"}


def test_the_header_holds_the_file(made):
    _, _, path = made
    text, content = path.with_name("model_data.h").read_text(encoding="utf-8"), path.read_bytes()
    array = text[text.index("kModelData[") :]
    assert bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2})", array)) == content
    assert f"sha256 {hashlib.sha256(content).hexdigest()}" in text
    assert f"kModelSize = {len(content)};" in text
    assert f"kInputHeight = {SIZE};" in text
    assert "kInputZeroPoint = -77;" in text  # 51 - 128
    (logits,) = interpreter(path, 1).get_output_details()
    scale, zero = logits["quantization"]
    assert np.float32(re.search(r"kOutputScale = ([0-9.e+-]+)f", text).group(1)) == scale
    assert f"kOutputZeroPoint = {zero};" in text


CHECK = """
#include <cstdio>
#include "model_data.h"
static_assert(alignof(decltype(kModelData)) >= 1 && sizeof(kModelData) == kModelSize, "whole");
int main() {
  for (const char* name : kClasses) std::printf("%s\\n", name);
  std::printf("%d %d %.9g %d\\n", kInputHeight, kInputChannels, kInputScale, kInputZeroPoint);
  std::printf("%d\\n", int(reinterpret_cast<unsigned long long>(&kModelData[0]) % 16));
}
"""


def test_a_compiler_reads_the_header_as_it_was_meant(made, tmp_path):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler on this machine")
    _, _, path = made
    (tmp_path / "check.cc").write_text(CHECK)
    program = tmp_path / "check"
    command = [compiler, "-std=c++17", "-Wall", "-Werror", f"-I{path.parent}", "-o", str(program)]
    subprocess.run([*command, str(tmp_path / "check.cc")], check=True)
    done = subprocess.run([str(program)], capture_output=True, check=True)
    lines = done.stdout.decode("utf-8").splitlines()
    assert tuple(lines[:4]) == CLASSES
    assert lines[4].split() == [str(SIZE), "1", f"{np.float32(1 / (255 * 0.25)):.9g}", "-77"]
    assert lines[5] == "0"


def test_the_same_plan_gives_the_same_bytes(made, tmp_path):
    network, plan, path = made
    apply_tflite_micro(RECIPE, network, path, tmp_path / "model.tflite", plan, network.card)
    for name in ("model.tflite", "model_data.h"):
        assert (tmp_path / name).read_bytes() == path.with_name(name).read_bytes()


def test_an_operator_that_it_has_not_is_named(tmp_path):
    with pytest.raises(ModelError, match="the operator GELU, which it has not") as caught:
        plan_tflite_micro(RECIPE, candidate(Gelu), tmp_path / "none.onnx", pixels())
    assert "\n" not in str(caught.value)


def test_planning_and_writing_are_quiet(tmp_path, capfd):
    network = candidate()
    plan = plan_tflite_micro(RECIPE, network, tmp_path / "none.onnx", pixels(4))
    apply_tflite_micro(RECIPE, network, tmp_path, tmp_path / "m.tflite", plan, network.card)
    TfliteMicroCandidate.load(tmp_path / "m.tflite", network.card).predict(pixels(2))
    assert tuple(capfd.readouterr()) == ("", "")
