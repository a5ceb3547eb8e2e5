import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinipress.data import cache as module
from clinipress.data.cache import Cache, build_cache
from clinipress.data.sources import decode_item
from clinipress.errors import DataError, ImageError, StorageError
from clinipress.records.candidate import InputSpec
from clinipress.records.item import ImageItem

SPEC = InputSpec(channels=1, height=8, width=12)
CLASSES = ("a", "b")


@pytest.fixture
def items(tmp_path):
    generator = np.random.default_rng(0)
    found = []
    for i in range(10):
        path = tmp_path / f"{i}.png"
        Image.fromarray(generator.integers(0, 256, (16, 24), dtype=np.uint8)).save(path)
        found.append(ImageItem(key=path.name, path=path, label=CLASSES[i % 2]))
    return found


@pytest.fixture
def counted(monkeypatch):
    """Names of the images that were decoded, in no order."""
    names = []

    def decode(item, spec):
        names.append(item.key)
        return decode_item(item, spec)

    monkeypatch.setattr(module, "decode_item", decode)
    return names


def listing(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "lock")


def test_rows_are_the_decoded_images(items, tmp_path):
    cache = build_cache(items, CLASSES, SPEC, tmp_path / "c", threads=2)
    assert cache.shape == (10, 1, 8, 12)
    assert len(cache) == 10
    assert cache.keys == tuple(item.key for item in items)
    assert cache.labels.tolist() == [0, 1] * 5
    assert cache.labels.dtype == np.int64
    assert (cache.spec, cache.classes) == (SPEC, CLASSES)
    order = np.array([7, 0, 7, 3])
    expected = np.stack([decode_item(items[i], SPEC) for i in order])
    taken = cache.take(order)
    assert taken.dtype == np.uint8
    assert np.array_equal(taken, expected)
    assert listing(tmp_path / "c") == ["cache.json", "images.u8"]


def test_taken_rows_belong_to_the_caller(items, tmp_path):
    cache = build_cache(items, CLASSES, SPEC, tmp_path / "c")
    first = cache.take(np.arange(10))
    first[:] = 0
    cache.release()
    assert cache.take(np.arange(10)).any()
    assert cache.take(np.arange(0)).shape == (0, 1, 8, 12)


def test_a_cache_travels_to_another_process_as_its_path(items, tmp_path):
    cache = build_cache(items, CLASSES, SPEC, tmp_path / "cache")
    packed = pickle.dumps(cache)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    rows = np.arange(len(cache))
    np.testing.assert_array_equal(again.take(rows), cache.take(rows))


def test_colour(items, tmp_path):
    spec = InputSpec(channels=3, height=8, width=8)
    cache = build_cache(items, CLASSES, spec, tmp_path / "c")
    assert cache.take(np.arange(2)).shape == (2, 3, 8, 8)


def test_where(items, tmp_path):
    cache = build_cache(items, CLASSES, SPEC, tmp_path / "c")
    assert cache.where(["3.png", "0.png"]).tolist() == [3, 0]
    with pytest.raises(DataError, match=r"x\.png"):
        cache.where(["x.png"])


def test_a_finished_cache_is_reopened(items, tmp_path, counted):
    build_cache(items, CLASSES, SPEC, tmp_path / "c")
    assert sorted(counted) == sorted(item.key for item in items)
    build_cache(items, CLASSES, SPEC, tmp_path / "c")
    assert len(counted) == 10


@pytest.mark.parametrize("change", ["file", "spec", "label", "order", "fewer", "sidecar", "short"])
def test_a_cache_of_something_else_is_made_again(items, tmp_path, counted, change):
    build_cache(items, CLASSES, SPEC, tmp_path / "c")
    spec, classes = SPEC, CLASSES
    if change == "file":
        Image.new("L", (9, 9), 7).save(items[3].path)
    elif change == "spec":
        spec = InputSpec(channels=1, height=12, width=8)  # the same number of bytes
    elif change == "label":
        classes = ("b", "a")
    elif change == "order":
        items = items[::-1]
    elif change == "fewer":
        items = items[:5]
    elif change == "sidecar":
        (tmp_path / "c" / "cache.json").write_text("{")
    else:
        (tmp_path / "c" / "images.u8").write_bytes(bytes(959))
        with pytest.raises(DataError, match="960 bytes"):
            Cache(tmp_path / "c")
    cache = build_cache(items, classes, spec, tmp_path / "c")
    assert len(counted) == 10 + len(items)
    expected = np.stack([decode_item(item, spec) for item in items])
    assert np.array_equal(cache.take(np.arange(len(items))), expected)
    assert cache.labels.tolist() == [classes.index(item.label) for item in items]


def test_a_killed_build_goes_on_from_its_last_mark(items, tmp_path, monkeypatch, counted):
    monkeypatch.setattr(module, "MARK_BYTES", 3 * 96)  # a mark every three images
    whole = module.decode_item

    def dies(item, spec):
        if item.key == "7.png":
            raise KeyboardInterrupt
        return whole(item, spec)

    monkeypatch.setattr(module, "decode_item", dies)
    with pytest.raises(KeyboardInterrupt):
        build_cache(items, CLASSES, SPEC, tmp_path / "c", threads=1)
    assert listing(tmp_path / "c") == ["images.u8.part", "marks.json"]
    with pytest.raises(DataError):
        Cache(tmp_path / "c")
    # what was written beyond the mark is not trusted
    with (tmp_path / "c" / "images.u8.part").open("ab") as file:
        file.write(b"\xff" * 50)
    monkeypatch.setattr(module, "decode_item", whole)
    counted.clear()
    cache = build_cache(items, CLASSES, SPEC, tmp_path / "c")
    assert sorted(counted) == ["6.png", "7.png", "8.png", "9.png"]
    expected = np.stack([decode_item(item, SPEC) for item in items])
    assert np.array_equal(cache.take(np.arange(10)), expected)
    assert listing(tmp_path / "c") == ["cache.json", "images.u8"]


def test_marks_of_other_images_are_not_used(items, tmp_path, counted):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "images.u8.part").write_bytes(bytes(960))
    (folder / "marks.json").write_text(json.dumps({"of": "something else", "rows": 9}))
    assert build_cache(items, CLASSES, SPEC, folder).take(np.arange(1)).any()
    assert len(counted) == 10


def test_full_disk_leaves_nothing(items, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "images.u8.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="full disk"):
        build_cache(items, CLASSES, SPEC, folder)
    assert listing(folder) == []
    assert len(build_cache(items, CLASSES, SPEC, folder)) == 10


def test_too_little_room_is_refused_before_decoding(items, tmp_path, monkeypatch, counted):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="free some space"):
        build_cache(items, CLASSES, SPEC, tmp_path / "c")
    assert counted == []


def test_a_damaged_image_is_named(items, tmp_path):
    items[4].path.write_bytes(items[4].path.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"4\.png"):
        build_cache(items, CLASSES, SPEC, tmp_path / "c")


def test_wrong_labels_and_no_images(items, tmp_path):
    with pytest.raises(DataError, match=r"'b' at '1\.png'"):
        build_cache(items, ("a", "c"), SPEC, tmp_path / "c")
    with pytest.raises(DataError, match="no image"):
        build_cache([], CLASSES, SPEC, tmp_path / "c")


def test_several_at_once_build_it_once(items, tmp_path, counted):
    threads = [
        threading.Thread(target=build_cache, args=(items, CLASSES, SPEC, tmp_path / "c"))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 10


RESIDENT = """
import sys
from pathlib import Path
import numpy as np
from clinipress.data.cache import Cache

def resident():
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) // 1024

cache = Cache(Path(sys.argv[1]))
if sys.argv[2] == "leaky":
    cache.release = lambda: None
order = np.random.default_rng(0).permutation(len(cache))
cache.take(order[:32])
start = most = resident()
for block in np.array_split(order, len(order) // 32):
    cache.take(block)
    most = max(most, resident())
print(most - start)
"""


@pytest.mark.parametrize(("how", "bounded"), [("releasing", True), ("leaky", False)])
def test_resident_memory_is_bounded(tmp_path, how, bounded):
    """100 MB are read; the second case shows that the measurement would notice."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc on this system")
    n, spec = 400, InputSpec(channels=1, height=512, width=512)
    with (tmp_path / "images.u8").open("wb") as file:
        for _ in range(n):
            file.write(bytes(512 * 512))
    facts = {"keys": [str(i) for i in range(n)], "labels": [0] * n, "classes": ["a"]}
    (tmp_path / "cache.json").write_text(json.dumps(facts | {"spec": spec.model_dump()}))
    command = [sys.executable, "-c", RESIDENT, str(tmp_path), how]
    grown = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (grown < 75) is bounded
