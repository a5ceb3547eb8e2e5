"""What is refused, and that no real image is refused by a model of its own kind."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.edge.answers import answer
from clinipress.formats.onnx.run import OnnxCandidate
from clinipress.kinds.image.read import decode, facts
from clinipress.kinds.image.refuse import (
    colour_refusal,
    contrast_refusal,
    is_colourful,
    size_refusal,
)
from clinipress.records.candidate import Card, InputSpec
from kit.linear_model import weights, write_linear

SPEC = InputSpec(channels=1, height=128, width=128)
SETS = {"brain-mri": 1, "covid-ct": 1, "chest-ctscan": 1, "ham10000": 3}


@pytest.mark.parametrize(
    ("width", "height", "refused"),
    [
        (128, 128, False),
        (16, 16, False),
        (15, 128, True),
        (128, 15, True),
        (400, 100, False),
        (401, 100, True),
        (100, 401, True),
        (5000, 4000, False),
    ],
)
def test_size(width: int, height: int, refused: bool):
    assert (size_refusal(width, height, SPEC) is not None) == refused


def test_the_shape_is_judged_against_the_models_own():
    strip = InputSpec(channels=1, height=32, width=256)
    assert size_refusal(800, 100, strip) is None
    assert size_refusal(100, 800, strip) is not None
    assert size_refusal(200, 100, strip) is None


@pytest.mark.parametrize(("deviation", "refused"), [(0, True), (1, True), (2, False), (3, False)])
def test_contrast(deviation: int, refused: bool):
    pixels = np.full((1, 16, 16), 100 - deviation, np.uint8)
    pixels[:, ::2] = 100 + deviation  # half of the rows: the standard deviation is `deviation`
    assert pixels.std() == deviation
    assert (contrast_refusal(pixels) is not None) == refused


def test_black_white_and_flat_are_blank():
    for level in (0, 77, 255):
        assert "blank" in str(contrast_refusal(np.full((1, 16, 16), level, np.uint8)))


def test_one_colour_that_varies_is_not_blank():
    pixels = np.full((3, 16, 16), 100, np.uint8)
    pixels[2, :8] = 140
    assert contrast_refusal(pixels) is None


def coloured(chroma: int) -> np.ndarray:
    pixels = np.full((3, 16, 16), 100, np.uint8)
    pixels[0] += chroma
    return pixels


def test_colour_to_a_grey_model():
    assert colour_refusal(coloured(20), model_sees_colour=False) is None
    assert "colour" in str(colour_refusal(coloured(21), model_sees_colour=False))


def test_grey_to_a_colour_model():
    assert colour_refusal(coloured(2), model_sees_colour=True) is None
    assert "grey" in str(colour_refusal(coloured(1), model_sees_colour=True))


def test_colour_marks_on_a_grey_image_are_allowed():
    pixels = np.full((3, 64, 64), 100, np.uint8)
    pixels[:, 4:12, 4:40] = np.array([255, 0, 0], np.uint8)[:, None, None]  # 7 % of it pure red
    assert colour_refusal(pixels, model_sees_colour=False) is None


def test_colourful_samples():
    assert is_colourful(coloured(11))
    assert not is_colourful(coloured(10))


# --- real images


def sample_of(realdata: Path, name: str, count: int) -> list[Path]:
    suffixes = {".jpg", ".jpeg", ".png"}
    files = sorted(p for p in (realdata / name).rglob("*") if p.suffix.lower() in suffixes)
    assert len(files) >= count
    return random.Random(0).sample(files, count)


def linear(folder: Path, channels: int, side: int) -> tuple[OnnxCandidate, Card]:
    spec = InputSpec.model_validate({"channels": channels, "height": side, "width": side})
    card = Card(name="linear", classes=("a", "b"), input=spec, format="onnx")
    path = write_linear(folder / "m.onnx", spec, weights(spec, 2))
    return OnnxCandidate.load(path, card, threads=1), card


@pytest.mark.realdata
@pytest.mark.parametrize("side", [96, 224])
@pytest.mark.parametrize("name", sorted(SETS))
def test_no_real_image_is_refused_by_its_own_kind(
    realdata: Path, tmp_path: Path, name: str, side: int
):
    candidate, card = linear(tmp_path, SETS[name], side)
    refused = {}
    for path in sample_of(realdata, name, 200):
        found = answer(candidate, card, path, colourful=SETS[name] == 3)
        if found.refused:
            refused[path.name] = found.refused
    assert refused == {}


@pytest.mark.realdata
def test_most_skin_images_are_refused_by_a_grey_model(realdata: Path, tmp_path: Path):
    candidate, card = linear(tmp_path, 1, 96)
    files = sample_of(realdata, "ham10000", 200)
    refused = [answer(candidate, card, path, colourful=False).refused for path in files]
    assert all(reason is None or "colour" in reason for reason in refused)
    assert sum(reason is not None for reason in refused) >= 180


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["brain-mri", "covid-ct", "chest-ctscan"])
def test_all_grey_scans_are_refused_by_a_skin_model(realdata: Path, tmp_path: Path, name: str):
    candidate, card = linear(tmp_path, 3, 96)
    for path in sample_of(realdata, name, 50):
        assert "grey" in str(answer(candidate, card, path, colourful=True).refused)


@pytest.mark.realdata
def test_real_images_keep_their_distance_from_the_limits(realdata: Path):
    """The margins that checks.py names, measured on a sample; a limit moved close fails here."""
    for name, channels in SETS.items():
        spec = InputSpec.model_validate({"channels": channels, "height": 128, "width": 128})
        for path in sample_of(realdata, name, 100):
            about = facts(path)
            assert max(about.width / about.height, about.height / about.width) < 3
            assert decode(path, spec).std(axis=(1, 2)).max() > 8


@pytest.mark.realdata
def test_real_scans_cut_to_a_strip_or_a_stamp_are_refused(realdata: Path, tmp_path: Path):
    candidate, card = linear(tmp_path, 1, 96)
    with Image.open(sample_of(realdata, "brain-mri", 1)[0]) as image:
        image.resize((10, 10)).save(tmp_path / "stamp.png")
        image.resize((600, 100)).save(tmp_path / "strip.png")
        Image.new("L", image.size, 3).save(tmp_path / "blank.png")
    reasons = {
        name: str(answer(candidate, card, tmp_path / f"{name}.png", colourful=False).refused)
        for name in ("stamp", "strip", "blank")
    }
    assert "far too small" in reasons["stamp"]
    assert "long and narrow" in reasons["strip"]
    assert "blank" in reasons["blank"]
