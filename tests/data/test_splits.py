import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clinipress.data import splits
from clinipress.data.audit.audit import Fingerprints
from clinipress.data.layouts.items import Dataset
from clinipress.data.splits import Split, make_split, repair_lines, units
from clinipress.errors import DataError, StorageError
from clinipress.recipe.study import SplitRecipe
from clinipress.records.item import ImageItem
from clinipress.records.result import TestOpening


def dataset(n=120, *, classes=("a", "b", "c"), patients=None, splits=None):
    """`n` images, labels in turn; `patients` and `splits` are functions of the number."""
    items = [
        ImageItem(
            key=f"{i:04d}.png",
            path=Path(f"{i:04d}.png"),
            label=classes[i % len(classes)],
            patient=patients(i) if patients else None,
            split=splits(i) if splits else None,
        )
        for i in range(n)
    ]
    return Dataset(Path(), "class folders", tuple(classes), tuple(items))


def prints(data, clusters=None, unreadable=()):
    """Fingerprints with given clusters; nothing else of them matters here."""
    n = len(data.items)
    readable = np.array([i not in unreadable for i in range(n)])
    found = np.arange(n) if clusters is None else np.asarray(clusters)
    return Fingerprints(
        keys=tuple(item.key for item in data.items),
        readable=readable,
        sha256=[""] * n,
        dhash=np.zeros(n, np.uint64),
        thumbnails=np.zeros((n, 32, 32), np.uint8),
        features=np.zeros((n, 0), np.float32),
        feature_names=(),
        clusters=np.where(readable, found, -1),
    )


def split_of(data, clusters=None, by="auto", seed=0, unreadable=(), **options):
    recipe = SplitRecipe(by=by, **options)
    return make_split(data, prints(data, clusters, unreadable), recipe, seed)


def torn(split, unit_of):
    """Units that stand in more than one split."""
    held = {}
    for key, name in split.assignment.items():
        held.setdefault(unit_of(key), set()).add(name)
    return [unit for unit, names in held.items() if len(names) > 1]


def test_by_cluster_when_no_patient_is_known():
    clusters = np.arange(120) // 6  # each holds two images of each class
    split = split_of(dataset(), clusters)
    assert split.by == "near-duplicate cluster"
    assert "patient" in split.reason
    assert torn(split, lambda key: int(key[:4]) // 6) == []
    counts = Counter(split.assignment.values())
    assert counts == {"train": 78, "validation": 18, "test": 24}


def test_the_checker_of_torn_units_can_fail():
    split = split_of(dataset(), np.arange(120) // 6, by="image")
    assert torn(split, lambda key: int(key[:4]) // 6)
    assert "image" in split.reason
    assert "flatter" in split.reason


def test_by_patient_merged_with_clusters():
    data = dataset(patients=lambda i: f"p{i // 3}")
    clusters = np.arange(120)
    clusters[3] = clusters[2]  # one picture of patient 0 is also filed under patient 1
    split = split_of(data, clusters)
    assert split.by == "patient"
    assert torn(split, lambda key: max(int(key[:4]) // 3, 1)) == []
    numbers = units(data, prints(data, clusters), "patient")
    assert numbers[0] == numbers[5] != numbers[6]
    assert numbers.max() == 38


def test_patients_that_are_not_all_known():
    data = dataset(patients=lambda i: f"p{i}" if i else None)
    with pytest.raises(DataError, match="1 of 120 images without one"):
        split_of(data, by="patient")
    split = split_of(data)
    assert split.by == "patient"
    assert "119 of 120 images name their patient" in split.reason


def test_a_cluster_split_does_not_use_patients():
    data = dataset(patients=lambda i: f"p{i // 60}")
    assert split_of(data, by="cluster").by == "near-duplicate cluster"


def test_each_class_has_its_share():
    split = split_of(dataset(999), fractions=(0.5, 0.2, 0.3))
    counts = Counter((int(key[:4]) % 3, name) for key, name in split.assignment.items())
    for label in range(3):
        for name, share in zip(("train", "validation", "test"), (0.5, 0.2, 0.3), strict=True):
            assert abs(counts[label, name] - share * 333) <= 1


def test_order_of_listing_does_not_matter():
    data = dataset(patients=lambda i: f"p{i // 4}")
    order = list(range(120))
    random.Random(5).shuffle(order)
    other = Dataset(Path(), "class folders", data.classes, tuple(data.items[i] for i in order))
    one, two = split_of(data, seed=3), split_of(other, seed=3)
    assert one.assignment == two.assignment
    assert one.digest == two.digest


def test_seed_matters_and_repeats():
    assert split_of(dataset(), seed=1) == split_of(dataset(), seed=1)
    assert split_of(dataset(), seed=1).assignment != split_of(dataset(), seed=2).assignment


def test_unreadable_images_are_dropped_with_the_reason():
    split = split_of(dataset(), unreadable=[7])
    assert split.dropped == {"0007.png": "could not be read"}
    assert "0007.png" not in split.assignment
    assert len(split.assignment) == 119


def test_a_class_that_cannot_reach_every_split():
    data = dataset(90)
    clusters = np.where(np.arange(90) % 3 == 2, 2, np.arange(90))  # class c: one cluster
    with pytest.raises(DataError, match=r"'c' in validation.*1 separate.*class_map"):
        split_of(data, clusters)


def published(i):
    return "test" if i % 5 == 0 else "train"


def test_published_drops_what_leaks_and_carves_validation():
    data = dataset(300, splits=published)
    clusters = np.arange(300)
    clusters[1] = clusters[5]  # train image 1 is a twin of test image 5
    split = split_of(data, clusters, by="published")
    assert set(split.dropped) == {"0001.png"}
    assert "'0005.png'" in split.dropped["0001.png"]
    assert all(name == "test" for k, name in split.assignment.items() if int(k[:4]) % 5 == 0)
    counts = Counter(split.assignment.values())
    assert counts["test"] == 60
    assert counts["validation"] == pytest.approx(239 * 0.15 / 0.8, abs=2)
    assert "1 image" in split.reason
    assert "carved" in split.reason


def test_published_keeps_a_published_validation():
    def role(i):
        return ("train", "train", "validation", "test")[i // 3 % 4]

    data = dataset(120, splits=role)
    clusters = np.arange(120)
    clusters[[0, 6]] = 0  # train twin of a validation image
    clusters[[7, 9]] = 7  # validation twin of a test image
    split = split_of(data, clusters, by="published")
    assert set(split.dropped) == {"0000.png", "0007.png"}
    assert "validation" in split.dropped["0000.png"]
    assert "test" in split.dropped["0007.png"]
    kept = {item.key: item.split for item in data.items if item.key not in split.dropped}
    assert split.assignment == kept
    assert "carved" not in split.reason


def test_published_drops_training_images_of_test_patients():
    data = dataset(120, splits=published, patients=lambda i: f"p{i // 2 if i < 20 else i}")
    split = split_of(data, by="published")
    assert set(split.dropped) == {"0001.png", "0004.png", "0011.png", "0014.png"}
    assert "patient" in split.dropped["0001.png"]


def test_shared_patients_are_counted_in_the_reason_and_named_in_the_line():
    role = dict(enumerate(["train"] * 3 + ["validation"] * 3 + ["test"] * 4))
    data = dataset(
        120, classes=("a", "b"), splits=lambda i: role[i % 10], patients=lambda i: f"p{i:03d}"
    )
    items = list(data.items)
    for n, patient in ((10, "p007"), (13, "p007"), (20, "p003"), (21, "p003"), (33, "p018")):
        items[n] = type(items[n])(**{**vars(items[n]), "patient": patient})
    data = type(data)(**{**vars(data), "items": tuple(items)})
    split = split_of(data, by="published")
    assert set(split.dropped) == {f"00{n}.png" for n in (10, 13, 20, 21, 33)}
    assert split.dropped["0010.png"] == (
        "shares its patient 'p007' with the published test image '0007.png'"
    )
    assert split.dropped["0020.png"].endswith(
        "'p003' with the published validation image '0003.png'"
    )
    assert split.reason == (
        "the data set's own splits were asked for; 3 patients stand in more than one: 1 in train "
        "and test, 2 in validation and test and 2 in train and validation; repaired: 5 images that "
        "share a patient or near-duplicate across them left out of train and validation, the test "
        "split kept whole"
    )
    assert "1 in train and test ('p007')" in (line := repair_lines(data, split)[0])
    assert "2 in validation and test ('p007' and 'p018')" in line
    assert split.shared_with_test == 3


def test_a_patient_is_named_though_a_near_duplicate_links_another():
    # train 1 is a patient of test 5, and nearly the same picture as test 0 of somebody else
    data = dataset(
        60,
        splits=lambda i: "test" if i % 5 == 0 else "train",
        patients=lambda i: "p5" if i in (1, 5) else f"p{i}",
    )
    clusters = np.arange(60)
    clusters[1] = 0
    split = split_of(data, clusters, by="published")
    assert split.dropped == {
        "0001.png": "shares its patient 'p5' with the published test image '0005.png'"
    }


def test_nothing_shared_is_nothing_repaired():
    data = dataset(60, splits=lambda i: "test" if i % 5 == 0 else "train")
    split = split_of(data, by="published")
    assert "0 images that share a near-duplicate across them left out" in split.reason
    assert "repaired" not in split.reason
    assert repair_lines(data, split) == []


@pytest.mark.parametrize("by", ["published", "patient", "cluster"])
def test_what_is_said_to_be_kept_whole_is_checked(monkeypatch, by):
    data = dataset(
        60, patients=lambda i: f"p{i // 2}", splits=lambda i: ("train", "test")[i // 6 % 2]
    )
    clusters = np.arange(60) // 2
    split_of(data, clusters, by=by)
    torn = {item.key: splits.SPLITS[n % 4 % 3] for n, item in enumerate(data.items)}
    monkeypatch.setattr(splits._Table, "dealt", lambda *_: torn)
    with pytest.raises(DataError, match=rf"in one split, as the division by .*'{'.*'}' in train"):
        split_of(data, clusters, by=by)


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (lambda i: None if i == 4 else "train", "1 of 120 images without one"),
        (lambda i: "train", "without test"),
        (lambda i: "test", "without train"),
    ],
)
def test_published_needs_splits(role, message):
    with pytest.raises(DataError, match=message):
        split_of(dataset(splits=role), by="published")


def test_test_split_is_sealed(tmp_path):
    split = split_of(dataset())
    with pytest.raises(DataError, match="sealed"):
        split.keys("test")
    with pytest.raises(DataError, match="'train' or 'validation'"):
        split.keys("testing")
    log = tmp_path / "sub" / "log.jsonl"
    keys = split.open_test(log, candidates=("int8",), reason="finalist")
    assert list(keys) == sorted(k for k, name in split.assignment.items() if name == "test")
    split.open_test(log, candidates=("a", "b"), reason="again")
    lines = [TestOpening.model_validate_json(line) for line in log.read_text().splitlines()]
    assert [line.candidates for line in lines] == [("int8",), ("a", "b")]
    assert lines[0].when <= lines[1].when


def test_opening_needs_candidates_a_reason_and_a_log(tmp_path):
    split = split_of(dataset())
    with pytest.raises(DataError):
        split.open_test(tmp_path / "log", candidates=(), reason="x")
    with pytest.raises(DataError):
        split.open_test(tmp_path / "log", candidates=("x",), reason=" ")
    assert not (tmp_path / "log").exists()
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(StorageError):
            split.open_test(full, candidates=("x",), reason="y")


def test_saved_and_loaded(tmp_path):
    split = split_of(dataset(), unreadable=[3])
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    text = (tmp_path / "split.json").read_text()
    assert '\n  "0004.png"' in text
    assert [p.name for p in tmp_path.iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["train"].append(t["test"].pop()), "digest"),
        (lambda t: t["train"].append(t["test"][0]), "twice"),
        (lambda t: t.update(extra=1), "extra"),
        (lambda t: t.pop("reason"), "reason"),
        (lambda t: t.update(seed=9), "digest"),
        (lambda t: t.update(format="clinipress split 7"), "split file"),
    ],
)
def test_changed_files_are_refused(tmp_path, change, message):
    path = tmp_path / "split.json"
    split_of(dataset()).save(path)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=message):
        Split.load(path)


def test_a_file_is_used_as_it_is(tmp_path):
    data = dataset()
    split = split_of(data, seed=5)
    split.save(tmp_path / "s.json")
    assert split_of(data, file=str(tmp_path / "s.json")) == split


def test_a_file_must_fit_the_data(tmp_path):
    file = str(tmp_path / "s.json")
    split_of(dataset(120)).save(Path(file))
    with pytest.raises(DataError, match="every image"):
        split_of(dataset(121), file=file)
    with pytest.raises(DataError, match="images of this data set only"):
        split_of(dataset(119), file=file)
    with pytest.raises(DataError, match=r"readable images.*0003"):
        split_of(dataset(120), file=file, unreadable=[3])


def test_units_of_a_file_that_tears_them_are_named(tmp_path):
    data, clusters = dataset(), np.arange(120) // 6
    split_of(data, by="image").save(tmp_path / "s.json")
    found = split_of(data, clusters, file=str(tmp_path / "s.json"))
    assert "stand in more than one split" in found.reason


def test_summary_counts():
    data = dataset(patients=lambda i: f"p{i // 4}")
    split = split_of(data, unreadable=[0])
    numbers = units(data, prints(data, unreadable=[0]), split.by)
    assert numbers[0] == -1
    found = split.summary(data, numbers)
    assert sum(sum(c.values()) for c in found.counts.values()) == 119
    assert sum(found.units.values()) == 30
    assert (found.dropped, found.digest, found.by) == (1, split.digest, "patient")


def test_unknown_unit():
    with pytest.raises(DataError, match="'scanner'"):
        units(dataset(), prints(dataset()), "scanner")
