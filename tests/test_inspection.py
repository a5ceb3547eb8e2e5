"""What is shipped, under worse images and by where it looks; kept: no work is done twice."""

import numpy as np
import pytest
from PIL import Image

from clinipress.data.named.rows import ListedImage
from clinipress.data.named.tables import write_masks
from clinipress.errors import DataError
from clinipress.evidence.saliency.masks import image_masks
from clinipress.kinds.image.disturb import DISTURBANCES
from clinipress.records.candidate import InputSpec
from clinipress.study.flow import run_study
from kit.studies import TRAIN, study

ASKED = {"stress": 30, "saliency": 8}
SMALL = {"steps": [], "exports": [{"precision": "int8", "calibration_images": 16}]}


def small(**evidence):
    reference = {"model": {"factory": "tiny_nets:make"}, "train": TRAIN}
    return study(**SMALL, reference=reference, evidence=ASKED | evidence)


@pytest.fixture(scope="module")
def made(phantoms, tmp_path_factory):
    run = tmp_path_factory.mktemp("inspected") / "run"
    return run, run_study(small(), phantoms, run)


def shipped(made):
    result = made[1]
    assert result.shipped, "the small study must ship something"
    return next(row for row in result.candidates if row.name == result.shipped)


def test_every_disturbance_at_every_strength_on_the_sealed_images(made):
    stress = shipped(made).judgements["test"].stress
    assert stress.images == 30
    assert [curve.kind for curve in stress.curves] == list(DISTURBANCES)
    assert all([level.strength for level in c.levels] == [1, 2, 3, 4, 5] for c in stress.curves)
    assert {"blank", "noise"} <= {probe.name for probe in stress.probes}


def test_maps_of_the_reference_the_file_and_random_weights(made):
    run, _ = made
    row = shipped(made)
    saliency = row.judgements["test"].saliency
    assert {row.name, "randomized"} <= set(saliency.similarity)
    assert set(saliency.faithfulness) >= {"reference", row.name}
    for panel in saliency.panels:
        with Image.open(run / panel.picture) as picture:
            assert picture.width > picture.height


def test_flips_have_their_pictures(made):
    run, result = made
    flips = [
        flip
        for row in result.candidates
        for found in row.judgements.values()
        if found.disagreement
        for flip in found.disagreement.flips
    ]
    for flip in flips:
        with Image.open(run / flip.picture) as picture:
            assert max(picture.size) <= 160


def test_a_second_run_computes_nothing_again(made, phantoms):
    run, result = made
    before = {path: path.stat().st_mtime_ns for path in (run / "objects").iterdir()}
    again = run_study(small(), phantoms, run)
    assert {path: path.stat().st_mtime_ns for path in (run / "objects").iterdir()} == before
    assert again.candidates == result.candidates


def test_what_is_not_asked_for_is_said(made, phantoms):
    result = run_study(small(stress=0, saliency=0), phantoms, made[0])
    row = next(row for row in result.candidates if row.name == result.shipped)
    found = row.judgements["test"]
    assert found.stress is None
    assert found.saliency is None
    assert set(found.not_measured) == {"stress", "saliency"}


def test_where_nothing_is_shipped_the_closest_says_where_it_looks(phantoms, tmp_path):
    asked = small().model_copy(update={"open_test": False})
    result = run_study(asked, phantoms, tmp_path / "run")
    assert result.shipped is None
    (row,) = result.candidates[1:]
    found = row.judgements["validation"]
    assert found.saliency.images
    assert found.stress is None
    assert found.not_measured == {"stress": "nothing is shipped"}
    assert "test" not in row.judgements


def test_masks_are_found_by_the_images_names(tmp_path):
    upper_half(tmp_path / "a" / "x.png")
    found = image_masks(str(tmp_path), None, ["a/x.jpg", "a/y.jpg"], SPEC)
    assert found[0, :8].all()
    assert not found[0, 8:].any()
    assert not found[1].any()
    with pytest.raises(DataError, match="the folder whose tree"):
        image_masks(str(tmp_path), None, ["b/z.jpg"], SPEC)


def test_masks_are_found_in_the_table_of_a_named_set(tmp_path):
    upper_half(tmp_path / "lung masks" / "x.png")
    upper_half(tmp_path / "infection masks" / "x.png")
    lung, infection = tmp_path / "lung masks" / "x.png", tmp_path / "infection masks" / "x.png"
    rows = [
        ListedImage(tmp_path / "images" / "x.png", "COVID-19", masks={"lung": lung}),
        ListedImage(tmp_path / "images" / "y.png", "Normal"),
    ]
    keys = ["images/x.png", "images/y.png"]
    table = str(write_masks(rows, tmp_path / "chest.csv", "chest"))
    for kind in (None, "lung"):
        found = image_masks(table, kind, keys, SPEC)
        assert found[0, :8].all()
        assert not found[1].any()
    with pytest.raises(DataError, match="beside the manifest"):
        image_masks(table, None, ["images/z.png"], SPEC)
    both = [ListedImage(rows[0].path, "COVID-19", masks={"lung": lung, "infection": infection})]
    table = str(write_masks(both, tmp_path / "chest.csv", "chest"))
    with pytest.raises(DataError, match=r"among infection, lung.*, got none"):
        image_masks(table, None, keys, SPEC)
    with pytest.raises(DataError, match="got 'heart'"):
        image_masks(table, "heart", keys, SPEC)


SPEC = InputSpec(channels=1, height=16, width=16)


def upper_half(path):
    mask = np.zeros((32, 32), np.uint8)
    mask[:16] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
