from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from clinipress.errors import BundleError, ModelError, StorageError
from clinipress.formats.litert.run import LiteRtCandidate, as_input, logits_of, silence
from clinipress.formats.open import open_file
from clinipress.records.candidate import Candidate, Card, InputSpec
from kit.litert_nets import (
    CLASSES,
    SCALE,
    SIZE,
    ZERO,
    card_of,
    integers,
    linear,
    pixels,
    weights_of,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "linear.tflite"
    path.write_bytes(linear())
    (tmp_path / "card.json").write_text(card_of().model_dump_json())
    return path


def expected(images, weights):
    return images.transpose(0, 2, 3, 1).reshape(len(images), -1).astype(np.float64) @ weights


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_are_those_of_the_graph(tmp_path, channels):
    path, images = tmp_path / "linear.tflite", pixels(70, channels)
    path.write_bytes(linear(channels))
    found = LiteRtCandidate.load(path, card_of(channels), threads=1).predict(images)
    assert found.dtype == np.float32
    assert found.shape == (70, 3)
    np.testing.assert_allclose(found, expected(images, weights_of(channels)), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_integer_file_reads_the_grey_levels_themselves(tmp_path, channels):
    path, images = tmp_path / "linear.tflite", pixels(20, channels)
    path.write_bytes(integers(channels))
    found = LiteRtCandidate.load(path, card_of(channels), threads=1).predict(images)
    exact = SCALE * expected(images.astype(np.float64) - ZERO, weights_of(channels))
    # a step of the output is 8 / 255; weights are rounded to one of 127
    assert np.abs(found - np.clip(exact, -4, 4)).max() < 2 * 8 / 255
    assert len(np.unique(found)) > 10


def test_every_grey_level_is_its_own_byte_less_128():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    found = as_input(levels, np.int8)
    assert found.shape == (1, 16, 16, 1)
    np.testing.assert_array_equal(found.ravel(), np.arange(-128, 128))
    assert as_input(levels, np.uint8).tobytes() == levels.tobytes()


def test_integer_logits_are_scaled_about_their_zero_point():
    found = logits_of(np.array([[-128, 5, 127]], np.int8), 0.5, 5)
    np.testing.assert_array_equal(found, [[-66.5, 0, 61]])
    assert found.dtype == np.float32


def test_it_is_a_candidate_with_the_card_beside_the_file(file):
    candidate = LiteRtCandidate.load(file)
    assert isinstance(candidate, Candidate)
    assert candidate.card == card_of()
    assert candidate.runtime.startswith("litert ")
    assert isinstance(open_file(file), LiteRtCandidate)


def test_a_given_card_goes_before_the_one_beside(file):
    assert LiteRtCandidate.load(file, card_of(name="renamed")).card.name == "renamed"


def test_digest_and_size_are_the_files(file):
    candidate = LiteRtCandidate.load(file)
    assert candidate.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert candidate.file_bytes == len(file.read_bytes())


def test_no_images_give_no_logits(file):
    assert LiteRtCandidate.load(file).predict(pixels(0)).shape == (0, 3)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads_change_nothing(file, threads):
    found = LiteRtCandidate.load(file, threads=threads).predict(pixels(5))
    np.testing.assert_allclose(found, expected(pixels(5), weights_of()), atol=1e-3)


def test_answers_do_not_depend_on_earlier_calls(file):
    candidate, images = LiteRtCandidate.load(file, threads=1), pixels(9)
    first = candidate.predict(images[:1])
    candidate.predict(images)
    np.testing.assert_array_equal(candidate.predict(images[:1]), first)


def test_a_view_with_strides_is_read_rightly(file):
    wide = np.random.default_rng(2).integers(0, 256, (4, 1, SIZE, 2 * SIZE), np.uint8)
    candidate, view = LiteRtCandidate.load(file), wide[:, :, :, ::2]
    np.testing.assert_array_equal(candidate.predict(view), candidate.predict(view.copy()))


def test_an_array_the_card_does_not_describe_is_refused(file):
    with pytest.raises(BundleError, match=r"expected uint8 images of shape \[n, 1, 8, 8\], got"):
        LiteRtCandidate.load(file).predict(pixels(2).astype(np.float32))


def test_nan_logits_are_never_handed_out(tmp_path):
    weights = weights_of()
    weights[0, 1] = np.nan
    path = tmp_path / "nan.tflite"
    path.write_bytes(linear(weights=weights))
    with pytest.raises(ModelError, match="NaN or infinity for 2 of 2 images"):
        LiteRtCandidate.load(path, card_of()).predict(pixels(2))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_short_is_one_line(file, share, capfd):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"expected a whole \.tflite file") as caught:
        LiteRtCandidate.load(file)
    assert "\n" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("content", [b"", b"not a model at all" * 40, b"\x89PNG\r\n\x1a\n"])
def test_something_else_is_one_line(tmp_path, content, capfd):
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"expected a whole \.tflite file") as caught:
        LiteRtCandidate.load(path, card_of())
    assert "\n" not in str(caught.value)
    assert tuple(capfd.readouterr()) == ("", "")


def test_no_file_there(tmp_path):
    with pytest.raises(ModelError, match=r"expected a \.tflite file, got nothing at"):
        LiteRtCandidate.load(tmp_path / "none.tflite")


def test_a_file_without_a_card_says_so(file):
    (file.parent / "card.json").unlink()
    with pytest.raises(ModelError, match=r"expected a card \('card.json'\) beside"):
        LiteRtCandidate.load(file)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("a", "b")},
        {"input": InputSpec(height=16, width=SIZE)},
        {"input": InputSpec(channels=3, height=SIZE, width=SIZE)},
    ],
    ids=["classes", "height", "channels"],
)
def test_a_card_of_another_file_is_refused(file, change):
    with pytest.raises(ModelError, match="the card belongs to another file"):
        LiteRtCandidate.load(file, card_of(**change))


def test_a_graph_that_takes_floats_is_refused(tmp_path):
    path = tmp_path / "float.tflite"
    path.write_bytes(linear(cast=False))
    with pytest.raises(ModelError, match=r"expected the input uint8 or int8 .* got \[\('float32'"):
        LiteRtCandidate.load(path, card_of())


def test_save_copies_file_and_card(file, tmp_path):
    candidate = LiteRtCandidate.load(file)
    candidate.save(tmp_path / "out")
    again = LiteRtCandidate.load(tmp_path / "out" / "model.tflite")
    assert again.digest == candidate.digest
    assert Card.model_validate_json((tmp_path / "out" / "card.json").read_text()) == card_of()
    file.write_bytes(linear(weights=weights_of(seed=1)))
    with pytest.raises(StorageError, match="a file that was changed since"):
        candidate.save(tmp_path / "out")


def test_silence_swallows_both_streams_at_both_levels_and_ends(capfd):
    with silence():
        sys.stdout.write("python out")
        sys.stderr.write("python err")
        os.write(1, b"c out")
        os.write(2, b"c err")
        warnings.warn("of an engine", UserWarning, stacklevel=1)
    assert tuple(capfd.readouterr()) == ("", "")
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"
    with pytest.raises(KeyError), silence():
        raise KeyError("errors come through")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_importing_the_module_imports_no_engine():
    code = (
        "import sys, clinipress.formats.litert.run\n"
        "print(sorted({'torch', 'onnx', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_predicting_needs_no_torch_and_says_nothing(file):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from clinipress.formats.litert.run import LiteRtCandidate\n"
        "candidate = LiteRtCandidate.load(Path(sys.argv[1]))\n"
        "found = candidate.predict(np.zeros((1, 1, 8, 8), np.uint8))\n"
        "print(found.tolist(), sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[{[0.0] * len(CLASSES)}] []"
    assert done.stderr == ""
