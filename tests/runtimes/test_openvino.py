from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from clinipress.errors import BundleError, ModelError
from clinipress.formats.file import digest_of_files
from clinipress.formats.open import open_file
from clinipress.formats.openvino.run import OpenVinoCandidate, compiled, engine
from clinipress.records.candidate import Candidate, Card, InputSpec
from kit.pixels import noise

SIZE = 8
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE * SIZE, 3)).astype(np.float32)
CARD = Card(
    name="linear",
    classes=("a", "b", "c"),
    input=InputSpec(height=SIZE, width=SIZE),
    format="openvino",
)


def write_linear(folder, weights=WEIGHTS, size=SIZE, kind=np.uint8, card=CARD, batch=1):
    """A linear classifier of the pixels: the referee is one line of numpy."""
    openvino = engine()
    from openvino import opset8

    image = opset8.parameter([batch, 1, size, size], kind, name="image")
    image.output(0).get_tensor().set_names({"image"})
    flat = opset8.reshape(opset8.convert(image, "f32"), np.array([0, -1]), special_zero=True)
    logits = opset8.matmul(flat, opset8.constant(weights), False, False)
    logits.output(0).get_tensor().set_names({"logits"})
    path = folder / "model.xml"
    openvino.save_model(openvino.Model([logits], [image]), path, compress_to_fp16=False)
    if card is not None:
        (folder / "card.json").write_text(card.model_dump_json())
    return path


@pytest.fixture
def file(tmp_path):
    return write_linear(tmp_path)


def pixels(count, seed=1):
    return noise(count, SIZE, seed=seed)


def test_logits_are_those_of_the_graph(file):
    images = pixels(50)
    found = OpenVinoCandidate.load(file, threads=1).predict(images)
    assert (found.dtype, found.shape) == (np.float32, (50, 3))
    expected = images.reshape(50, -1).astype(np.float64) @ WEIGHTS
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)


def test_logits_of_one_call_are_not_changed_by_the_next(file):
    candidate = OpenVinoCandidate.load(file, threads=1)
    first = candidate.predict(pixels(1))
    kept = first.copy()
    candidate.predict(pixels(1, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_it_is_a_candidate_with_the_card_from_beside_the_file(file):
    candidate = OpenVinoCandidate.load(file)
    assert isinstance(candidate, Candidate)
    assert candidate.card == CARD
    assert candidate.runtime.startswith("openvino 20")
    assert type(open_file(file)) is OpenVinoCandidate


def test_digest_and_size_are_those_of_both_files(file):
    both = (file, file.with_suffix(".bin"))
    candidate = OpenVinoCandidate.load(file)
    assert candidate.files == both
    assert candidate.digest == digest_of_files(both)
    assert candidate.file_bytes == sum(len(path.read_bytes()) for path in both)


def test_a_saved_copy_answers_alike(file, tmp_path):
    candidate = OpenVinoCandidate.load(file)
    candidate.save(tmp_path / "copy")
    again = OpenVinoCandidate.load(tmp_path / "copy" / "model.xml")
    assert again.digest == candidate.digest
    np.testing.assert_array_equal(again.predict(pixels(3)), candidate.predict(pixels(3)))


@pytest.mark.parametrize("threads", [1, 2, None])
def test_the_engine_is_given_its_threads_and_float32(file, threads):
    opened = compiled(file, threads)
    if threads:
        assert opened.get_property("INFERENCE_NUM_THREADS") == threads
    assert opened.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert opened.get_property("NUM_STREAMS") == 1


def test_no_images_give_no_logits(file):
    assert OpenVinoCandidate.load(file).predict(pixels(0)).shape == (0, 3)


def test_an_array_the_card_does_not_describe_is_refused(file):
    with pytest.raises(BundleError, match=r"expected uint8 images of shape \[n, 1, 8, 8\], got"):
        OpenVinoCandidate.load(file).predict(pixels(2).astype(np.float32))


def test_nan_logits_are_never_handed_out(tmp_path):
    weights = WEIGHTS.copy()
    weights[0, 1] = np.nan
    candidate = OpenVinoCandidate.load(write_linear(tmp_path, weights))
    with pytest.raises(ModelError, match="NaN or infinity for 2 of 2 images"):
        candidate.predict(pixels(2) | 1)


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_one_of_the_two_files_missing_is_one_line(file, suffix):
    file.with_suffix(suffix).unlink()
    with pytest.raises(ModelError, match=f"nothing at '.*model{suffix}'") as caught:
        OpenVinoCandidate.load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_file_cut_short_is_one_line_and_nothing_is_printed(file, suffix, capfd):
    short = file.with_suffix(suffix)
    short.write_bytes(short.read_bytes()[:-40])
    with pytest.raises(ModelError, match="expected a whole OpenVINO file") as caught:
        OpenVinoCandidate.load(file)
    assert "\n" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("content", [b"", b"not a model at all" * 40, b"<xml/>", b"\x89PNG\r\n"])
def test_something_else_is_one_line(file, content, capfd):
    file.write_bytes(content)
    with pytest.raises(ModelError, match="expected a whole OpenVINO file") as caught:
        OpenVinoCandidate.load(file)
    assert "\n" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_file_without_a_card_is_one_line(file):
    (file.parent / "card.json").unlink()
    with pytest.raises(ModelError, match="a card"):
        OpenVinoCandidate.load(file)
    assert OpenVinoCandidate.load(file, card=CARD).card == CARD


@pytest.mark.parametrize(
    ("change", "side"),
    [
        ({"size": SIZE + 1, "weights": np.zeros(((SIZE + 1) ** 2, 3), np.float32)}, "input"),
        ({"kind": np.float32}, "input"),
        ({"batch": -1}, "input"),
        ({"weights": WEIGHTS[:, :2]}, "output"),
    ],
    ids=["another size", "float pixels", "a free batch", "two classes"],
)
def test_a_graph_that_does_not_fit_its_card_is_refused(tmp_path, change, side):
    path = write_linear(tmp_path, **change)
    with pytest.raises(ModelError, match=f"expected the {side} .* as its card says"):
        OpenVinoCandidate.load(path)


QUIET_IMPORT = """
import socket, sys, threading
class Refused(socket.socket):
    def connect(self, *a): raise SystemExit("tried to connect")
socket.socket = Refused
socket.getaddrinfo = lambda *a, **k: (_ for _ in ()).throw(SystemExit("tried to look up"))
from pathlib import Path
from clinipress.formats.openvino.run import OpenVinoCandidate
OpenVinoCandidate.load(Path(sys.argv[1]))
loaded = [m for m in sys.modules if m.startswith("openvino_telemetry") and sys.modules[m]]
assert not loaded, loaded
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert "torch" not in sys.modules
"""


def test_nothing_is_sent_and_no_number_of_the_client_is_written(file, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", QUIET_IMPORT, str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(home), "PATH": ""},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []
