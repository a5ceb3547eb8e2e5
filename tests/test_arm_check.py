"""The check on an emulated Arm: what it compares, writes and says; no emulator is needed here."""

import importlib.util
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from clinipress.edge.bundle import write_bundle
from clinipress.records.candidate import Card, InputSpec
from kit.linear_model import clear_noise, weights, write_linear

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
FACTS = {"cpu": "cortex-a76", "emulator": "qemu 10.0.2", "system": "Debian trixie, Python 3.13"}


@pytest.fixture(scope="module")
def tool():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPTS))
    loader = SourceFileLoader("arm_check", str(SCRIPTS / "arm_check"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("arm_check", loader))
    loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def result(tool):
    return sys.modules["arm_result"]


@pytest.fixture(scope="module")
def system(tool):
    return sys.modules["arm_system"]


def said(label="a", logits=(1.0, -1.0), pixels="00", refused=None):
    return {
        "file": "f",
        "label": label,
        "logits": None if logits is None else list(logits),
        "pixels": pixels,
        "refused": refused,
    }


def written(answers, runtime="onnxruntime 2", self_test=0.0):
    return {
        "side": {"runtime": runtime, "self_test": self_test},
        "bundle": {"name": "n", "format": "onnx", "precision": "int8", "sha256": "ab"},
        "answers": answers,
    }


# --- comparing


def test_equal_answers_are_counted_as_equal(result):
    one = [said(), said("b", (0.0, 3.0))]
    assert result.compare(one, one) == {
        "pixels_equal": 2,
        "labels_equal": 2,
        "logits_bit_equal": 2,
        "largest_logit_difference": 0.0,
        "logit_range": 2.5,
    }


def test_each_kind_of_difference_is_seen(result):
    one = [said()] * 4
    other = [said("b"), said(logits=(1.0, -1.25)), said(pixels="01"), said()]
    found = result.compare(one, other)
    assert found["labels_equal"] == 3
    assert found["logits_bit_equal"] == 3
    assert found["largest_logit_difference"] == 0.25
    assert found["pixels_equal"] == 3


def test_an_image_refused_by_one_side_alone_is_a_difference(result):
    refused = said(label=None, logits=None, pixels=None, refused="blank")
    assert result.compare([refused], [refused])["labels_equal"] == 1
    assert result.compare([refused], [said()])["labels_equal"] == 0
    assert result.compare([refused], [refused])["logit_range"] is None


def test_sides_that_answered_other_numbers_of_images_are_never_compared(result):
    with pytest.raises(ValueError, match="zip"):
        result.compare([said()], [said(), said()])


def test_one_label_that_differs_fails_the_check(result):
    same = result.summary(written([said()] * 3), written([said()] * 3), None, FACTS)
    assert same["passed"]
    other = written([said(), said("b"), said()])
    assert not result.summary(written([said()] * 3), other, None, FACTS)["passed"]


def test_a_self_test_that_fails_on_arm_fails_the_check(result):
    arm = written([said()], self_test="expected 'a', got 'b'")
    found = result.summary(written([said()]), arm, None, FACTS)
    assert not found["passed"]
    assert "self-test failed there: expected 'a', got 'b'" in found["sentence"]


def test_version_and_processor_are_told_apart(result):
    here = written([said()], "onnxruntime 3")
    same = written([said(logits=(1.0, -1.5))])
    arm = written([said(logits=(1.0, -1.75))])
    found = result.summary(here, arm, same, FACTS)
    gaps = {name: c["largest_logit_difference"] for name, c in found["comparisons"].items()}
    assert gaps == {"processor": 0.25, "version": 0.5, "both": 0.75}
    assert found["largest_logit_difference"] == 0.75
    assert (found["runtime_here"], found["runtime_arm"]) == ("onnxruntime 3", "onnxruntime 2")


def test_the_sentence_says_every_figure(result):
    arm = written([said(), said(logits=(1.0, -1.25))])
    found = result.summary(written([said(), said()]), arm, None, FACTS)
    assert found["sentence"] == (
        "On an emulated cortex-a76 with onnxruntime 2 the bundle gave the same label as here for "
        "2 of 2 images and the same logits to the last bit for 1; the largest difference of a "
        "logit was 0.25, where an image's logits span 2."
    )
    equal = result.summary(written([said()]), written([said()]), None, FACTS)
    assert "difference" not in equal["sentence"]


def test_the_first_tensor_that_differs_is_named(result):
    here = {"0|a": np.array([1, 2], np.uint8), "0|b": np.array([0, 255, 9], np.uint8)}
    arm = here | {"0|b": np.array([0, 253, 9], np.uint8)}
    made_by = {"a": "Conv", "b": "Add"}
    assert result.first_difference(here, arm, made_by, 0) == {
        "tensor": "b",
        "operator": "Add",
        "values": 3,
        "different": 1,
        "levels": 2,
    }
    assert result.first_difference(here, here, made_by, 0) is None


# --- choosing and finding


def test_images_are_spread_over_all(tool):
    files = [Path(str(number)) for number in range(10)]
    assert tool.choose(files, 4) == [Path(n) for n in ("0", "2", "5", "7")]
    assert tool.choose(files, 100) == files


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("deb http://mirror.test/debian bookworm main\n", "http://mirror.test/debian"),
        ("Types: deb\nURIs: https://mirror.test/debian/\n", "https://mirror.test/debian"),
        ("# deb http://old.test/debian x\ndeb http://a.test/debian-security x main", None),
        ("deb [signed-by=/k] http://a.test/debian x main", "http://a.test/debian"),
        ("", None),
    ],
)
def test_the_mirror_comes_from_the_machines_own_sources(system, text, mirror):
    assert system.mirror_of([text]) == mirror


def test_pins_take_the_place_of_what_the_package_asks_for(system):
    project = {"project": {"dependencies": ["numpy>=2.0,<2.5", "rich>=13"]}}
    pins = {"numpy": "2.4.1", "ai-edge-litert": "2.3.0"}
    found = system.base_requirements(project, pins)
    assert found == ["ai-edge-litert==2.3.0", "numpy==2.4.1", "rich>=13"]


def test_a_missing_program_is_named_with_its_package(system, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name, path=None: None)
    with pytest.raises(system.CannotRunError, match="apt-get install debootstrap"):
        system.tool("debootstrap")


def test_a_program_that_fails_is_quoted_by_its_own_error(system):
    command = [sys.executable, "-c", "import sys; sys.exit('E: no such suite')"]
    with pytest.raises(system.CannotRunError, match=r"^fetching failed: E: no such suite$"):
        system.run(command, "fetching")


def test_a_package_that_is_not_here_is_named(system):
    with pytest.raises(system.CannotRunError, match="no-such-package"):
        system.installed("no-such-package")


def test_what_a_side_said_last_becomes_one_line(tool):
    assert tool.last_words(["Traceback", "clinipress.errors.BundleError: expected x"], 1) == (
        "expected x"
    )
    assert "qemu of version 10" in tool.last_words(["qemu: uncaught target signal 11"], 139)
    assert "pip install" in tool.last_words(["ModuleNotFoundError: No module named 'PIL'"], 1)
    assert "exit code 3" in tool.last_words([], 3)


# --- the whole check, a second process of this machine in the place of the emulated one

TAMPER = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
if sys.argv[1] == "answer":
    tree = json.load(open(sys.argv[3]))
    answer = tree["answers"][0]
    CHANGE
    json.dump(tree, open(sys.argv[3], "w"))
"""


@pytest.fixture
def bundle(tmp_path):
    spec = InputSpec(channels=1, height=16, width=24)
    card = Card(name="tiny", classes=("a", "b", "c"), input=spec, format="onnx", precision="int8")
    matrix = weights(spec, 3)
    model = write_linear(tmp_path / "m.onnx", spec, matrix)
    sample = clear_noise(spec, matrix)
    return write_bundle(tmp_path / "bundle", model, card, sample=sample, evidence={})


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    Image.new("L", (48, 32)).save(folder / "blank.png")
    return folder


@pytest.fixture
def check(tool, bundle, images, tmp_path, monkeypatch):
    """Run the script with a stand-in for the Arm side that changes the first answer."""

    def run(change="pass", *extra):
        program = tmp_path / "stand_in.py"
        program.write_text(TAMPER.replace("CHANGE", change))
        source = {"PYTHONPATH": str(SCRIPTS.parent / "src")}
        side = tool.Side("arm", [sys.executable, str(program)], source, 60)
        monkeypatch.setattr(tool, "arm_side", lambda *_arguments: (side, dict(FACTS)))
        target = tmp_path / "arm_check.json"
        options = ["--work", str(tmp_path / "work"), "--json", str(target), *extra]
        code = tool.main([str(bundle), str(images), *options])
        return code, json.loads(target.read_text()) if target.is_file() else None

    return run


def test_the_whole_check_on_two_equal_sides(check, capsys):
    code, found = check()
    assert code == 0
    assert found["kind"] == "clinipress arm check"
    assert (found["images"], found["labels_equal"], found["logits_bit_equal"]) == (6, 6, 6)
    assert (found["refused"], found["pixels_equal"]) == (1, 6)
    assert len(found["bundle_sha256"]) == 64
    assert found["sides"]["arm"]["self_test"] == 0.0
    assert capsys.readouterr().err.endswith(found["sentence"] + "\n")


def test_another_label_on_the_other_side_gives_exit_code_1(check):
    code, found = check("answer['label'] = 'none'")
    assert code == 1
    assert not found["passed"]
    assert found["labels_equal"] == 5


def test_other_logits_alone_do_not_fail_and_are_counted(check):
    code, found = check("answer['logits'][0] += 0.5")
    assert code == 0
    assert found["logits_bit_equal"] == 5
    assert found["largest_logit_difference"] == pytest.approx(0.5)
    assert found["first_difference"] == []  # no 8-bit tensor in this graph


def test_fewer_images_can_be_asked_for(check):
    assert check("pass", "--count", "2")[1]["images"] == 2


@pytest.mark.parametrize("damage", ["bundle", "images"])
def test_what_cannot_be_run_gives_one_line_and_exit_code_2(check, bundle, images, capsys, damage):
    if damage == "bundle":
        (bundle / "model.onnx").write_bytes(b"x")
    else:
        for path in images.iterdir():
            path.unlink()
    code, found = check()
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert found is None
    assert len(lines) == 1
    assert lines[0].startswith("arm_check: ")


def test_a_side_that_takes_too_long_is_stopped(tool):
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(tool.CannotRunError, match=r"stopped after 0\.3 seconds"):
        tool.Side("arm", slow, {}, 0.3).start("answer")


def test_the_tensors_of_an_8_bit_graph_are_given_out_and_compared(tool, tmp_path):
    helper = onnx.helper
    one, zero = np.float32(1), np.uint8(0)
    nodes = [
        helper.make_node("DequantizeLinear", ["image", "one", "zero"], ["x"]),
        helper.make_node("Add", ["x", "x"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["relu"]),
        helper.make_node("QuantizeLinear", ["relu", "one", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "one", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in (("one", one), ("zero", zero))],
    )
    made_by = tool.expose(graph, helper.make_empty_tensor_value_info)
    assert made_by == {"levels": "Add"}
    assert [output.name for output in graph.output] == ["logits", "levels"]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    image = np.array([[[[1, 2], [3, 200]]]], np.uint8)
    levels = session.run(["levels"], {"image": image})[0]
    assert levels.ravel().tolist() == [2, 4, 6, 255]
