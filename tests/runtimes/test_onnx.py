from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from clinipress.errors import BundleError, ModelError, StorageError
from clinipress.formats.onnx.run import CARD_KEY, OnnxCandidate, runtime_name
from clinipress.records.candidate import Candidate, Card, InputSpec
from kit.pixels import noise

SIZE = 8
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE * SIZE, 3)).astype(np.float32)
CARD = Card(
    name="linear", classes=("a", "b", "c"), input=InputSpec(height=SIZE, width=SIZE), format="onnx"
)


def write_linear(path, card=CARD, weights=WEIGHTS, size=SIZE, kind=onnx.TensorProto.UINT8):
    """A linear classifier of the pixels: the referee is one line of numpy."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", kind, ["n", 1, size, size])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if card is not None:
        text = card if isinstance(card, str) else card.model_dump_json()
        helper.set_model_props(model, {CARD_KEY: text})
    onnx.save(model, path)
    return path


@pytest.fixture
def file(tmp_path):
    return write_linear(tmp_path / "linear.onnx")


def pixels(count, seed=1):
    return noise(count, SIZE, seed=seed)


def test_logits_are_those_of_the_graph(file):
    images = pixels(150)  # more than two batches
    found = OnnxCandidate.load(file, threads=1).predict(images)
    assert found.dtype == np.float32
    assert found.shape == (150, 3)
    expected = images.reshape(150, -1).astype(np.float64) @ WEIGHTS
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_it_is_a_candidate_with_the_card_from_inside_the_file(file):
    candidate = OnnxCandidate.load(file)
    assert isinstance(candidate, Candidate)
    assert candidate.card == CARD
    assert candidate.runtime == runtime_name()
    assert runtime_name().startswith("onnxruntime ")


def test_a_given_card_goes_before_the_one_inside(file):
    other = CARD.model_copy(update={"name": "renamed"})
    assert OnnxCandidate.load(file, card=other).card.name == "renamed"


def test_digest_and_size_are_the_files(file):
    candidate = OnnxCandidate.load(file)
    assert candidate.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert candidate.file_bytes == len(file.read_bytes())


def test_no_images_give_no_logits(file):
    assert OnnxCandidate.load(file).predict(pixels(0)).shape == (0, 3)


def test_memory_of_a_call_does_not_grow_with_the_images(file, monkeypatch):
    candidate = OnnxCandidate.load(file, threads=1)
    seen = []

    class Spy:
        def run(self, outputs, inputs, *options):
            seen.append(len(inputs["image"]))
            return [np.zeros((len(inputs["image"]), 3), np.float32)]

    monkeypatch.setattr(candidate, "_opened", Spy())
    candidate.predict(pixels(1000))
    assert sum(seen) == 1000
    assert max(seen) <= 64


def test_a_view_with_strides_is_read_rightly(file):
    wide = np.random.default_rng(2).integers(0, 256, (4, 1, SIZE, 2 * SIZE), np.uint8)
    candidate = OnnxCandidate.load(file)
    view = wide[:, :, :, ::2]
    np.testing.assert_array_equal(candidate.predict(view), candidate.predict(view.copy()))


@pytest.mark.parametrize(
    "images",
    [
        pixels(2).astype(np.float32),
        pixels(2)[:, 0],
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((2, 1, SIZE, SIZE + 1), np.uint8),
    ],
    ids=["float", "no channel axis", "three channels", "another width"],
)
def test_an_array_the_card_does_not_describe_is_refused(file, images):
    with pytest.raises(BundleError, match=r"expected uint8 images of shape \[n, 1, 8, 8\], got"):
        OnnxCandidate.load(file).predict(images)


def test_nan_logits_are_never_handed_out(tmp_path):
    weights = WEIGHTS.copy()
    weights[0, 1] = np.nan
    candidate = OnnxCandidate.load(write_linear(tmp_path / "nan.onnx", weights=weights))
    with pytest.raises(ModelError, match="NaN or infinity for 2 of 2 images"):
        candidate.predict(pixels(2))


def test_a_file_cut_short_is_one_line(file):
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ModelError, match="expected a whole ONNX file") as caught:
        OnnxCandidate.load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model at all" * 40, b"\x89PNG\r\n\x1a\n"])
def test_something_else_is_one_line_and_nothing_on_stderr(tmp_path, capfd, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="expected") as caught:
        OnnxCandidate.load(path)
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_no_file_there(tmp_path):
    with pytest.raises(ModelError, match="expected an ONNX file, got nothing at"):
        OnnxCandidate.load(tmp_path / "none.onnx")


def test_a_file_without_a_card_says_so_and_opens_when_one_is_passed(tmp_path):
    path = write_linear(tmp_path / "foreign.onnx", card=None)
    with pytest.raises(ModelError, match="an ONNX file without one, made by something else"):
        OnnxCandidate.load(path)
    assert OnnxCandidate.load(path, card=CARD).card == CARD


def test_a_card_that_cannot_be_read_says_where(tmp_path):
    path = write_linear(tmp_path / "odd.onnx", card='{"name": "x"}')
    with pytest.raises(ModelError, match="expected a card of this version of clinipress"):
        OnnxCandidate.load(path)


@pytest.mark.parametrize(
    "change",
    [{"classes": ("a", "b")}, {"input": InputSpec(height=16, width=SIZE)}],
    ids=["classes", "input size"],
)
def test_a_card_of_another_file_is_refused(tmp_path, change):
    path = write_linear(tmp_path / "other.onnx", card=CARD.model_copy(update=change))
    with pytest.raises(ModelError, match="the card belongs to another file"):
        OnnxCandidate.load(path)


def test_a_graph_that_takes_floats_is_refused(tmp_path):
    path = write_linear(tmp_path / "float.onnx", kind=onnx.TensorProto.FLOAT)
    with pytest.raises(ModelError, match=r"tensor\(float\)"):
        OnnxCandidate.load(path)


def test_save_copies_file_and_card(file, tmp_path):
    candidate = OnnxCandidate.load(file)
    candidate.save(tmp_path / "out")
    again = OnnxCandidate.load(tmp_path / "out" / "model.onnx")
    assert again.digest == candidate.digest
    assert Card.model_validate_json((tmp_path / "out" / "card.json").read_text()) == CARD


def test_save_refuses_a_file_that_was_changed_since(file, tmp_path):
    candidate = OnnxCandidate.load(file)
    write_linear(file, weights=WEIGHTS + 1)
    with pytest.raises(StorageError, match="a file that was changed since"):
        candidate.save(tmp_path / "out")
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_importing_the_module_imports_no_engine():
    code = (
        "import sys, clinipress.formats.onnx.run\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicting_needs_neither_torch_nor_onnx(file):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from clinipress.formats.onnx.run import OnnxCandidate\n"
        "found = OnnxCandidate.load(Path(sys.argv[1])).predict(np.zeros((1, 1, 8, 8), np.uint8))\n"
        "print(found.tolist(), sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[[0.0, 0.0, 0.0]] []"
