"""One image in, one answer out."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from clinipress.edge.answers import Prediction
from clinipress.edge.bundle import Bundle, load_bundle
from clinipress.errors import MissingExtraError
from clinipress.kinds.image.read import decode
from clinipress.records.candidate import Card, InputSpec
from clinipress.stats import metrics
from kit.linear_model import logits_of, noise, weights


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder, threads=1)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_probabilities_against_scipy(temperature: float):
    logits = np.random.default_rng(0).normal(0, 30, (50, 7)).astype(np.float32)
    expected = softmax(logits.astype(np.float64) / temperature, axis=1)
    assert np.allclose(metrics.softmax(logits, temperature), expected, rtol=1e-12, atol=0)


def test_probabilities_bear_huge_logits():
    found = metrics.softmax(np.array([3e38, 0, -3e38], np.float32), 0.01)
    assert found.tolist() == [1, 0, 0]


def test_an_answer_is_the_calibrated_softmax(bundle: Bundle, card: Card, tmp_path: Path):
    pixels = noise(card.input, 3)
    found = bundle.classify(save(tmp_path / "a.png", pixels[0]))
    logits = logits_of(pixels[None], weights(card.input, 3))[0]
    expected = softmax(logits / card.temperature)
    assert list(found.probabilities) == list(card.classes)
    assert list(found.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    assert found.label == card.classes[int(np.argmax(logits))]
    assert found.probability == pytest.approx(expected.max(), abs=1e-5)
    assert found.file == str(tmp_path / "a.png")
    assert found.refused is None


def test_path_text_bytes_and_pixels_agree(bundle: Bundle, card: Card, tmp_path: Path):
    pixels = np.random.default_rng(4).integers(0, 256, (50, 70), dtype=np.uint8)
    path = save(tmp_path / "a.png", pixels)
    answers = [bundle.classify(source) for source in (path, str(path), path.read_bytes(), pixels)]
    assert len({tuple(found.probabilities.items()) for found in answers}) == 1
    assert [found.file for found in answers] == [str(path), str(path), "", ""]
    ready = decode(path, card.input)
    assert bundle.classify(ready).probabilities == answers[0].probabilities


def test_colour_pixels_are_read_as_rgb(make_bundle):
    spec = InputSpec(channels=3, height=16, width=24)
    card = Card(name="rgb", classes=("a", "b"), input=spec, format="onnx")
    bundle = load_bundle(make_bundle(card))
    pixels = noise(spec, 7)
    assert bundle.classify(pixels) == bundle.classify(pixels.transpose(1, 2, 0))
    swapped = bundle.classify(pixels[::-1].transpose(1, 2, 0))
    assert swapped.probabilities != bundle.classify(pixels).probabilities


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((16, 24), np.float32),
        np.zeros((16, 24, 4), np.uint8),
        np.zeros((2, 16, 24, 3), np.uint8),
        np.zeros(16, np.uint8),
        np.zeros((0, 24), np.uint8),
        np.zeros((1, 16, 24), np.int64),
    ],
    ids=["float", "four channels", "batch", "row", "empty", "int64"],
)
def test_pixels_that_are_no_picture(bundle: Bundle, pixels: np.ndarray):
    assert "expected" in str(bundle.classify(pixels).refused)


def test_uncertain(bundle: Bundle, card: Card, make_bundle):
    pixels = noise(card.input, 3)
    top = bundle.classify(pixels).probability
    assert top is not None
    for limit, expected in ((top + 1e-6, True), (top, False), (None, None)):
        other = make_bundle(card.model_copy(update={"uncertain_below": limit}))
        assert load_bundle(other).classify(pixels).uncertain is expected


def test_refused_answers_say_why_and_nothing_else(bundle: Bundle, tmp_path: Path):
    save(tmp_path / "blank.png", np.full((40, 60), 7, np.uint8))
    found = bundle.classify(tmp_path / "blank.png")
    assert found.to_dict() == {
        "file": str(tmp_path / "blank.png"),
        "label": None,
        "probability": None,
        "probabilities": {},
        "uncertain": None,
        "refused": found.refused,
    }
    assert "blank" in str(found.refused)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG\r\n\x1a\n", b"text", b"\xff\xd8\xff\xe0" + b"\0" * 50, gzip.compress(b"x")],
    ids=["empty", "png head", "text", "jpeg head", "gzip"],
)
def test_unreadable_files_are_refused(bundle: Bundle, tmp_path: Path, content: bytes):
    (tmp_path / "a.png").write_bytes(content)
    for source in (tmp_path / "a.png", content):
        assert "expected" in str(bundle.classify(source).refused)


def test_a_truncated_picture_is_refused(bundle: Bundle, card: Card, tmp_path: Path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:2000])
    assert "undamaged" in str(bundle.classify(path).refused)


def test_what_is_no_file_is_refused_without_waiting(bundle: Bundle, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        assert "no regular file" in str(bundle.classify(path).refused)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_to_a_grey_model_is_refused_in_any_mode(bundle: Bundle, tmp_path: Path, mode: str):
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :30, 0] = 250
    Image.fromarray(red).convert(mode).save(tmp_path / "a.png")
    assert "colour" in str(bundle.classify(tmp_path / "a.png").refused)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA"])
def test_grey_in_any_mode_is_accepted_by_a_grey_model(bundle: Bundle, tmp_path: Path, mode: str):
    grey = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    assert bundle.classify(tmp_path / "a.png").label is not None


def test_grey_to_a_model_made_for_colour(make_bundle):
    spec = InputSpec(channels=3, height=16, width=24)
    card = Card(name="rgb", classes=("a", "b"), input=spec, format="onnx")
    grey = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    assert "grey" in str(load_bundle(make_bundle(card)).classify(grey).refused)


def test_grey_to_a_model_of_three_channels_made_with_grey(make_bundle, tmp_path: Path):
    spec = InputSpec(channels=3, height=16, width=24)
    card = Card(name="grey", classes=("a", "b"), input=spec, format="onnx")
    levels = np.random.default_rng(1).integers(0, 256, (16, 24), dtype=np.uint8)
    bundle = load_bundle(make_bundle(card, sample=np.repeat(levels[None], 3, axis=0)))
    assert not bundle.manifest.self_test.colourful
    assert bundle.classify(levels[:, ::-1].copy()).label is not None


def test_a_file_of_several_pictures_needs_a_number(bundle: Bundle, tmp_path: Path):
    draw = np.random.default_rng(0).integers(0, 256, (3, 40, 60), dtype=np.uint8)
    pages = [Image.fromarray(page) for page in draw]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert "a file of 3" in str(bundle.classify(path).refused)
    for number, page in enumerate(draw):
        found = bundle.classify(f"{path}#{number}")
        assert found.probabilities == bundle.classify(page).probabilities
        assert found.file == f"{path}#{number}"
    assert "0 to 2" in str(bundle.classify(f"{path}#3").refused)


def test_a_model_that_overflows_refuses_the_image(card: Card, make_bundle):
    matrix = weights(card.input, 3)
    matrix[:2] = np.finfo(np.float32).max  # both first pixels white: infinity
    sample = noise(card.input)
    sample[0, 0, :2] = 0
    bundle = load_bundle(make_bundle(card, matrix=matrix, sample=sample))
    assert bundle.classify(sample).label is not None
    sample[0, 0, :2] = 255
    assert "finite" in str(bundle.classify(sample).refused)


def test_a_missing_reader_is_a_reason_not_a_crash(bundle: Bundle, tmp_path: Path, monkeypatch):
    def missing(_source: object) -> None:
        raise MissingExtraError("reading DICOM", "dicom")

    monkeypatch.setattr("clinipress.kinds.image.accept.facts", missing)
    (tmp_path / "a.dcm").write_bytes(b"x")
    assert "clinipress[dicom]" in str(bundle.classify(tmp_path / "a.dcm").refused)


def test_text_is_one_line_whatever_the_name():
    found = Prediction("a\nb\udcff.png", "normal", {"normal": 1.0}, None)
    assert found.to_text() == "a b?.png: normal 100.0 %"
    assert Prediction("x", refused="why").to_text() == "x: refused, why"


@pytest.mark.realdata
def test_dicom_goes_through_the_same_door(realdata: Path, bundle: Bundle):
    found = bundle.classify(realdata / "readers" / "dicom-pydicom" / "CT_small.dcm")
    assert found.label is not None
    broken = bundle.classify(realdata / "readers" / "dicom-pydicom" / "MR_truncated.dcm")
    assert broken.label is None
