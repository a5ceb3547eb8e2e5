"""A study's own images are recognised in another set: exact, near, in a run and in a bundle."""

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clinipress.data.audit.audit import audit
from clinipress.data.audit.fingerprints import Fingerprints, read_all
from clinipress.data.audit.overlap import Seen
from clinipress.data.drawn.phantom import draw_phantoms
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from clinipress.kinds.image.twins import fine_hashes


def fingerprints(folder):
    return audit(read_dataset(folder))[1]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """SYNTHETIC."""
    return draw_phantoms(tmp_path_factory.mktemp("own"), patients=60, seed=1, size=96)


@pytest.fixture(scope="module")
def seen(own):
    return Seen.of(fingerprints(own))


def altered(own, folder, alter, count=40):
    """Some of the study's images under other names, each altered, beside as many others."""
    for row, item in enumerate(read_dataset(own).items[:count]):
        target = folder / ("a", "b")[row % 2] / f"copy-{row}"
        target.parent.mkdir(parents=True, exist_ok=True)
        alter(item.path, target)
    return folder


def same_bytes(source, target):
    target.with_suffix(".png").write_bytes(source.read_bytes())


def saved_again(source, target):
    with Image.open(source) as image:
        image.save(target.with_suffix(".bmp"))


def smaller_and_lossy(source, target):
    with Image.open(source) as image:
        size = [side * 3 // 4 for side in image.size]
        image.convert("L").resize(size, Image.Resampling.BILINEAR).save(
            target.with_suffix(".jpg"), quality=80
        )


@pytest.mark.parametrize("anonymous", [False, True])
def test_a4_exact_copies_are_found(own, seen, tmp_path, anonymous):
    others = fingerprints(altered(own, tmp_path, same_bytes))
    known = seen.anonymous() if anonymous else seen
    twins = known.twins(others)
    assert twins.exact.all()
    assert not twins.near.any()
    assert (twins.twin >= 0).all()


def test_a4_the_same_pixels_in_another_file_are_the_same(own, seen, tmp_path):
    others = fingerprints(altered(own, tmp_path, saved_again))
    assert seen.twins(others).exact.all()
    assert seen.anonymous().twins(others).near.all()


@pytest.mark.parametrize("anonymous", [False, True])
def test_a4_smaller_and_lossy_copies_are_near(own, seen, tmp_path, anonymous):
    others = fingerprints(altered(own, tmp_path, smaller_and_lossy))
    twins = (seen.anonymous() if anonymous else seen).twins(others)
    assert not twins.exact.any()
    assert twins.near.mean() >= 0.9
    if not anonymous:
        rows = {key: row for row, key in enumerate(seen.keys)}
        order = [rows[item.key] for item in read_dataset(own).items[:40]]
        numbers = [int(key.split("-")[1].split(".")[0]) for key in others.keys]
        found = [(twin, order[n]) for twin, n in zip(twins.twin, numbers, strict=True) if twin >= 0]
        assert np.mean([a == b for a, b in found]) > 0.9


@pytest.mark.parametrize("anonymous", [False, True])
def test_a4_other_patients_are_not(seen, tmp_path, anonymous):
    others = fingerprints(draw_phantoms(tmp_path, patients=60, seed=7, size=96))
    twins = (seen.anonymous() if anonymous else seen).twins(others)
    assert twins.exact.sum() == 0
    assert twins.near.mean() <= 0.02


def test_a4_what_travels_in_a_bundle_holds_no_picture_no_name_and_no_order(seen):
    content = seen.anonymous().to_bytes()
    with np.load(io.BytesIO(content)) as file:
        assert set(file.files) == {"digests", "fine"}
        assert np.all(np.diff(file["digests"].astype(float)) >= 0)
    assert not any(key.encode() in content for key in seen.keys)
    assert len(content) <= 80 * len(seen) + 1000


def test_a4_fingerprints_are_read_back(seen, tmp_path):
    path = tmp_path / "f.npz"
    assert Seen.load(path) is None
    path.write_bytes(seen.to_bytes())
    again = Seen.load(path)
    assert again.keys == seen.keys
    assert np.array_equal(again.fine, seen.fine)
    for damage in (seen.to_bytes()[:100], b"", b"PK"):
        path.write_bytes(damage)
        with pytest.raises(DataError, match="fingerprints"):
            Seen.load(path)


def test_a4_unreadable_files_have_no_twin(own, seen, tmp_path):
    folder = altered(own, tmp_path, same_bytes)
    (folder / "a" / "broken.png").write_bytes(b"no picture")
    others = fingerprints(folder)
    twins = seen.twins(others)
    row = others.keys.index("a/broken.png")
    assert twins.twin[row] == -1
    assert twins.exact.sum() == 40


# ------------------------------------------------------------- mirrored, rotated, inverted copies

TURNS = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "rotated": lambda pixels: np.rot90(pixels),
    "rotated by 180": lambda pixels: pixels[::-1, ::-1],
    "rotated by 270": lambda pixels: np.rot90(pixels, 3),
    "mirrored and rotated": lambda pixels: pixels.T,
    "inverted": lambda pixels: 255 - pixels,
    "mirrored and inverted": lambda pixels: 255 - pixels[:, ::-1],
    "rotated and inverted": lambda pixels: 255 - np.rot90(pixels),
}


def turning(turn, lossy):
    def alter(source, target):
        with Image.open(source) as image:
            picture = Image.fromarray(turn(np.asarray(image.convert("L"))))
        if lossy:
            picture.resize((80, 80)).save(target.with_suffix(".jpg"), quality=80)
        else:
            picture.save(target.with_suffix(".png"))

    return alter


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize("kind", TURNS)
def test_17_turned_copies_are_found_and_named(own, seen, tmp_path, kind, anonymous):
    alter = turning(TURNS[kind], lossy=anonymous)
    others = fingerprints(altered(own, tmp_path, alter, count=20))
    twins = (seen.anonymous() if anonymous else seen).twins(others)
    assert twins.near.mean() >= 0.9
    assert not twins.exact.any()
    words = {"upside down": "mirrored"}.get(kind, kind.partition(" by ")[0])
    assert {how for how, near in zip(twins.turned, twins.near, strict=True) if near} == {words}
    if not anonymous:
        numbers = [int(key.split("-")[1].split(".")[0]) for key in others.keys]
        rows = {key: row for row, key in enumerate(seen.keys)}
        items = read_dataset(own).items
        found = [
            t == rows[items[n].key] for t, n in zip(twins.twin, numbers, strict=True) if t >= 0
        ]
        assert np.mean(found) > 0.9


def test_17_direct_copies_are_not_called_turned(own, seen, tmp_path):
    twins = seen.twins(fingerprints(altered(own, tmp_path, smaller_and_lossy)))
    assert set(twins.turned) == {""}


def test_17_blank_pictures_are_no_turned_copies():
    """Without edges no sign differs, however the picture is turned."""
    thumbnails = np.zeros((3, 32, 32), np.uint8)
    thumbnails[1, 20, 8] = 200
    thumbnails[2, 8, 20] = 200
    fine = fine_hashes(thumbnails[:2])
    twin, how = Seen(np.zeros(2, np.uint64), fine)._turned(thumbnails[2:])
    assert twin.tolist() == [-1]
    assert how.tolist() == [""]


@pytest.mark.realdata
@pytest.mark.parametrize("anonymous", [False, True])
def test_17_no_brain_is_a_turned_copy_of_another(brains, anonymous):
    """Brains are nearly symmetric: the published test images beside those of training."""
    here = np.asarray([key.startswith("Training") for key in brains.keys])
    study, others = (chosen(brains, part & brains.readable) for part in (here, ~here))
    seen = Seen.of(study)
    start = time.process_time()
    twins = (seen.anonymous() if anonymous else seen).twins(others)
    assert time.process_time() - start < 20  # 1 s on the machine it was written on
    assert set(twins.turned) == {""}
    mirrored = replace(
        others, thumbnails=others.thumbnails[:, :, ::-1], sha256=["0" * 64] * len(others.keys)
    )
    mirrored = replace(mirrored, dhash=~others.dhash)
    again = (seen.anonymous() if anonymous else seen).twins(mirrored)
    assert set(again.turned) == {"", "mirrored"}
    assert again.turned.count("mirrored") >= 0.9 * (twins.twin >= 0).sum()  # some are symmetric
    assert (again.twin >= 0).sum() >= 0.95 * (twins.twin >= 0).sum() > 200


def chosen(fingerprints, rows):
    numbers = np.flatnonzero(rows)
    return replace(
        fingerprints,
        keys=tuple(fingerprints.keys[n] for n in numbers),
        sha256=[fingerprints.sha256[n] for n in numbers],
        **{name: getattr(fingerprints, name)[numbers] for name in ROWS},
    )


ROWS = ("readable", "dhash", "thumbnails", "features", "clusters")


@pytest.fixture(scope="module")
def brains(realdata):
    dataset = read_dataset(realdata / "brain-mri")
    read = read_all(dataset)
    features, names = read.table()
    return Fingerprints(
        tuple(item.key for item in dataset.items), read.readable, read.sha256, read.dhash,
        read.thumbnails, features, names, np.zeros(len(dataset.items), np.int64),
    )  # fmt: skip
