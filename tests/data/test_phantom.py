import csv
import hashlib

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from clinipress.data.audit.audit import audit
from clinipress.data.drawn import phantom
from clinipress.data.drawn.phantom import CLASSES, MARK, Body, Canvas, Ellipse, draw_phantoms
from clinipress.data.sources import read_dataset
from clinipress.errors import InputError, StorageError


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_phantoms(tmp_path_factory.mktemp("phantoms"), patients=60, seed=0, size=32)


def test_set_reads_as_a_manifest(drawn):
    dataset = read_dataset(drawn)
    assert dataset.layout == "manifest"
    assert set(dataset.classes) == set(CLASSES)
    assert {"sex", "age", "scanner"} <= set(dataset.group_columns)
    by_patient = {}
    for item in dataset.items:
        by_patient.setdefault(item.patient, []).append(item)
    assert len(by_patient) == 60
    assert {len(items) for items in by_patient.values()} == {1, 2, 3}
    for items in by_patient.values():
        assert len({(i.label, i.groups["scanner"], i.groups["age"]) for i in items}) == 1


def test_every_image_says_that_it_is_synthetic(drawn):
    files = sorted((drawn.parent / "images").iterdir())
    for path in files:
        with Image.open(path) as picture:
            assert picture.text["Comment"] == MARK
            assert (picture.mode, picture.size) == ("L", (32, 32))
    assert MARK.startswith("SYNTHETIC")
    with drawn.open(newline="") as file:
        assert all(row["patient_id"].startswith("SYNTHETIC") for row in csv.DictReader(file))


def test_same_seed_same_bytes(drawn, tmp_path):
    draw_phantoms(tmp_path / "again", patients=60, seed=0, size=32)
    assert digests(tmp_path / "again") == digests(drawn.parent)
    draw_phantoms(tmp_path / "other", patients=60, seed=1, size=32)
    assert digests(tmp_path / "other") != digests(drawn.parent)


def test_patients_do_not_depend_on_how_many_there_are(drawn, tmp_path):
    draw_phantoms(tmp_path, patients=6, seed=0, size=32)
    few, many = digests(tmp_path / "images"), digests(drawn.parent / "images")
    assert few.items() <= many.items()


@pytest.mark.slow
def test_the_audit_finds_no_shortcut_and_no_duplicate(tmp_path):
    found, _ = audit(read_dataset(draw_phantoms(tmp_path, patients=400, seed=0, size=64)))
    assert found.exact_duplicates == found.near_duplicates == 0
    # a finding is tissue, so its picture is a little brighter: a weak sign, and no strong one
    assert [w for w in found.warnings if "AUROC" in w or "a strong shortcut" in w] == []
    assert max(one.auroc.value for one in found.shortcuts) < 0.7
    counts = list(found.classes.values())
    assert max(counts) < 1.3 * min(counts)


def body(**changes):
    facts = {
        "wide": 0.8, "deep": 0.6, "fat": 0.05, "lungs": (0.26, 0.42), "heart": 0.2, "bone": 0.86,
        "side": 1, "position": (0.2, 0.0), "radius": 0.08, "contrast": 1.0,
    }  # fmt: skip
    return Body(**(facts | changes))


def mean_slice(label, side, n=40):
    draw = np.random.default_rng(0)
    slices = [phantom.draw_slice(label, body(side=side), "A", 48, draw) for _ in range(n)]
    return np.mean(slices, axis=0)


@pytest.mark.parametrize("label", ["nodule", "opacity"])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_finding_brightens_the_lung_it_is_in(label, side):
    # the noise and vessels of 40 slices average out; what is left is the finding
    extra = mean_slice(label, side) - mean_slice("normal", side)
    left, right = extra[14:34, 8:20].max(), extra[14:34, 28:40].max()
    here, there = (left, right) if side < 0 else (right, left)
    assert here > 15
    assert here > 2 * there


def test_scanners_differ_in_noise():
    def roughness(scanner):
        draw = np.random.default_rng(0)
        air = [phantom.draw_slice("normal", body(), scanner, 48, draw)[:4] for _ in range(20)]
        return np.std(air)

    assert roughness("B") > 1.3 * roughness("A")


@pytest.mark.parametrize(
    "one",
    [Ellipse(0.1, -0.2, 0.5, 0.3), Ellipse(-0.1, 0.3, 0.4, 0.2, 0.7), Ellipse(0.9, 0, 0.3, 0.2)],
)
def test_cover_has_the_area_and_the_box_of_the_ellipse(one):
    canvas = Canvas(256)
    mask = canvas.mask(one)
    axis = (np.arange(256) + 0.5) / 128 - 1
    y, x = axis[:, None] - one.y, axis[None] - one.x
    along = x * np.cos(one.angle) + y * np.sin(one.angle)
    across = y * np.cos(one.angle) - x * np.sin(one.angle)
    inside = (along / one.a) ** 2 + (across / one.b) ** 2 <= 1
    assert mask.sum() == pytest.approx(inside.sum(), rel=0.01)
    # half-covered pixels lie on the rim: thresholding gives the ellipse back
    assert ((mask > 0.5) != inside).mean() < 0.002


def test_paint_covers_and_leaves_the_rest():
    canvas = Canvas(64)
    canvas.paint(0.5, Ellipse(0, 0, 0.5, 0.5))
    assert canvas.image[32, 32] == 0.5
    assert canvas.image[0, 0] == 0
    canvas.paint(0.25, Ellipse(0, 0, 0.9, 0.9))
    assert canvas.image[32, 32] == 0.25


def test_an_ellipse_outside_paints_nothing():
    canvas = Canvas(32)
    canvas.paint(1.0, Ellipse(3, 3, 0.2, 0.2))
    assert not canvas.image.any()


@pytest.mark.parametrize("sigma", [0.55, 0.8, 2.0])
def test_blur_as_scipy(sigma):
    image = np.random.default_rng(0).random((20, 20), dtype=np.float32)
    expected = gaussian_filter(image, sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))
    # float32 sums of a dozen terms
    np.testing.assert_allclose(phantom._smoothed(image, sigma), expected, atol=1e-6)


def test_too_few_patients_or_pixels(tmp_path):
    with pytest.raises(InputError, match="3 patients"):
        draw_phantoms(tmp_path, patients=2, seed=0)
    with pytest.raises(InputError, match="16 pixels"):
        draw_phantoms(tmp_path, patients=9, seed=0, size=8)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="full disk"):
        draw_phantoms(tmp_path, patients=3, seed=0, size=32)
    assert not (tmp_path / "manifest.csv").exists()
