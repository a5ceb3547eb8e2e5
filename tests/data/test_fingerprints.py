import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.data.audit.fingerprints import content_digests, read_all
from clinipress.data.layouts.items import Dataset
from clinipress.data.sources import read_dataset
from clinipress.records.item import ImageItem


def of(*paths):
    items = tuple(ImageItem(key=p.name, path=p, label="a") for p in paths)
    return Dataset(Path(), "class folders", ("a",), items)


@pytest.fixture
def picture(tmp_path):
    """128x64, left half black, right half white, with its path."""
    pixels = np.zeros((64, 128), dtype=np.uint8)
    pixels[:, 64:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    return tmp_path / "half.png"


def test_facts_of_a_known_picture(picture):
    found = read_all(of(picture), threads=1)
    features, names = found.table()
    row = dict(zip(names, features[0].tolist(), strict=True))
    assert (row["width"], row["height"], row["aspect ratio"]) == (128, 64, 2)
    assert (row["channels"], row["bits per value"]) == (1, 8)
    assert row["file bytes"] == picture.stat().st_size
    assert row["mean intensity"] == pytest.approx(0.5, abs=0.01)
    assert row["intensity deviation"] == pytest.approx(0.5, abs=0.01)
    assert row["border brightness"] == pytest.approx(0.5, abs=0.01)
    assert row["black share"] == pytest.approx(0.5, abs=0.02)
    assert row["white share"] == pytest.approx(0.5, abs=0.02)
    assert found.sha256 == [hashlib.sha256(picture.read_bytes()).hexdigest()]
    assert found.thumbnails.shape == (1, 32, 32)
    assert found.readable.tolist() == [True]


def test_border_is_the_border(tmp_path):
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[:2] = pixels[-2:] = 255
    pixels[:, :2] = pixels[:, -2:] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    features, names = read_all(of(tmp_path / "x.png")).table()
    assert features[0, names.index("border brightness")] == 1


def test_what_cannot_be_read_is_set_aside(picture, tmp_path):
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:60])
    (tmp_path / "text.png").write_text("not an image")
    missing = tmp_path / "gone.png"
    found = read_all(of(tmp_path / "text.png", picture, tmp_path / "cut.png", missing))
    assert found.readable.tolist() == [False, True, False, False]
    assert [one.path for one in found.unreadable] == ["cut.png", "gone.png", "text.png"]
    assert all(one.reason.startswith("expected") for one in found.unreadable)
    # what is no picture is not read whole here; `content_digests` notices when it changes
    assert [bool(digest) for digest in found.sha256] == [False, True, False, False]
    # what is no picture has content all the same: a study must notice when it changes
    listed = of(tmp_path / "text.png", picture, tmp_path / "cut.png", missing)
    digests = content_digests(listed, threads=1)
    assert [bool(digests[item.key]) for item in listed.items] == [True, True, True, False]
    assert found.features[0].tolist() == [0] * 11


def test_formats_become_features_only_where_they_differ(picture, tmp_path):
    Image.open(picture).save(tmp_path / "x.jpg")
    assert not any(n.startswith("format") for n in read_all(of(picture)).table()[1])
    features, names = read_all(of(picture, tmp_path / "x.jpg")).table()
    assert features[:, names.index("format JPEG")].tolist() == [0, 1]
    assert features[:, names.index("format PNG")].tolist() == [1, 0]


def test_members_of_an_archive(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = generator.integers(0, 256, (4, 28, 20), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array([[0], [1], [0], [1]])
    np.savez(tmp_path / "set.npz", **arrays)
    found = read_all(read_dataset(tmp_path / "set.npz"))
    assert found.readable.all()
    assert len(set(found.sha256)) == 12
    features, names = found.table()
    assert features[:, names.index("width")].tolist() == [20] * 12


def test_threads_and_chunks_give_the_same(tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(70)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (12, 12), dtype=np.uint8)).save(path)
    one, four = read_all(of(*paths), threads=1), read_all(of(*paths), threads=4)
    single = read_all(of(paths[50]))
    assert one.sha256 == four.sha256
    assert np.array_equal(one.features, four.features)
    assert np.array_equal(one.thumbnails, four.thumbnails)
    assert single.dhash[0] == one.dhash[50]
