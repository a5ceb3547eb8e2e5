import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from clinipress.data.audit import audit as module
from clinipress.data.audit.audit import audit
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from clinipress.records.result import Audit
from kit.dicoms import made, written
from kit.folders import folder_of, table


def save(path, seed, *, side=32, darker=0):
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(40, 256, (6, 6), dtype=np.uint8) - darker
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def published(tmp_path):
    """Two classes, 20 train and 8 test images of each, no duplicate."""
    root = tmp_path / "set"
    for s, split in enumerate(("train", "test")):
        for c, label in enumerate(("a", "b")):
            for i in range((20, 8)[s]):
                save(root / split / label / f"{i}.png", 1000 * s + 100 * c + i)
    return root


def of(root, **options):
    return audit(read_dataset(root), threads=2, **options)[0]


def test_a_clean_set(published):
    found, prints = audit(read_dataset(published), threads=2)
    assert found.images == 56
    assert found.classes == {"a": 28, "b": 28}
    assert found.splits == {"train": {"a": 20, "b": 20}, "test": {"a": 8, "b": 8}}
    assert (found.exact_duplicates, found.near_duplicates, found.clusters) == (0, 0, 56)
    assert (found.leaks, found.patients, found.unreadable) == ({}, None, ())
    assert found.majority_accuracy == 0.5
    assert found.seconds > 0
    assert not any("duplicate" in w or "AUROC" in w for w in found.warnings)
    assert prints.clusters.tolist() == list(range(56))
    assert prints.keys == tuple(item.key for item in read_dataset(published).items)
    assert Audit.model_validate_json(found.model_dump_json()) == found


def test_duplicates_and_leaks(published):
    train, test = published / "train", published / "test"
    shutil.copy(train / "a" / "0.png", test / "a" / "copy.png")
    shutil.copy(train / "a" / "0.png", test / "a" / "copy2.png")
    picture = Image.open(train / "b" / "1.png")
    picture.point(lambda v: min(v + 3, 255)).save(test / "b" / "near.png")
    shutil.copy(train / "a" / "2.png", train / "a" / "2 again.png")
    found = of(published)
    assert (found.exact_duplicates, found.near_duplicates, found.clusters) == (3, 1, 56)
    assert found.leaks == {"test->train": 3}
    assert set(found.leaked_images["test->train"]) == {
        "test/a/copy.png",
        "test/a/copy2.png",
        "test/b/near.png",
    }
    assert any("3 of 19 test images are also in train" in w for w in found.warnings)
    assert sum(pair.exact for pair in found.duplicate_pairs) == 3
    near = next(pair for pair in found.duplicate_pairs if not pair.exact)
    assert {near.split_a, near.split_b} == {"train", "test"}
    assert 0.995 <= near.correlation <= 1
    assert found.conflicting_labels == ()


def test_one_picture_under_two_labels(published):
    shutil.copy(published / "train" / "a" / "0.png", published / "train" / "b" / "x.png")
    found = of(published)
    (pair,) = found.conflicting_labels
    assert {pair.a, pair.b} == {"train/a/0.png", "train/b/x.png"}
    assert {pair.label_a, pair.label_b} == {"a", "b"}
    assert any("1 pair of the same picture carries two labels" in w for w in found.warnings)


def test_copies_contradict_each_other_in_what_is_known_of_both(tmp_path):
    root = folder_of(tmp_path / "set", [f"{n}.png" for n in range(6)])
    for copy in ("same", "unknown", "less", "other"):
        shutil.copy(root / "0.png", root / f"{copy}.png")
    rows = {"0": "1,0,", "same": "1,0,", "unknown": ",,", "less": ",0,1", "other": "1,1,0"}
    lines = [f"{name}.png,{row}" for name, row in rows.items()]
    lines += [f"{n}.png,0,1,-1" for n in range(1, 6)]
    table(root / "manifest.csv", ["path,Edema,Mass,Gas", *lines])
    found = audit(read_dataset(root, task="multilabel"))[0]
    # of Gas nothing is known in the first of them
    pairs = {(pair.a, pair.b): pair.findings for pair in found.conflicting_labels}
    assert pairs == {("0.png", "other.png"): ("Mass",), ("less.png", "other.png"): ("Gas", "Mass")}
    assert found.exact_duplicates == 4
    assert any(
        "2 pairs of the same picture carry findings that contradict each other (Mass (2), Gas "
        "(1)), such "
        "as '0.png' (Edema) and 'other.png' (Edema|Mass)" in warning
        for warning in found.warnings
    )
    assert "findings" not in found.duplicate_pairs[-1].model_dump()


def test_lists_are_cut_and_counts_are_full(published, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 2)
    monkeypatch.setattr(module, "MOST_LEAKED", 3)
    for i in range(5):
        shutil.copy(published / "train" / "a" / f"{i}.png", published / "test" / "b" / f"c{i}.png")
    found = of(published)
    assert found.leaks == {"test->train": 5}
    assert len(found.leaked_images["test->train"]) == 3
    assert (len(found.duplicate_pairs), len(found.conflicting_labels)) == (2, 2)
    assert found.exact_duplicates == 5
    assert any("at least 2 pairs of the same picture" in w for w in found.warnings)


def test_unreadable_files_are_set_aside(published):
    (published / "train" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    found, prints = audit(read_dataset(published))
    assert [one.path for one in found.unreadable] == ["train/a/0.png"]
    assert found.images == 56
    assert found.clusters == 55
    assert prints.readable.sum() == 55
    assert any("1 file cannot be read" in w for w in found.warnings)


def test_nothing_readable(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_text("no")
    with pytest.raises(DataError, match="readable images"):
        of(tmp_path)


def test_a_planted_shortcut_is_found(tmp_path):
    for label, side in (("a", 32), ("b", 40)):
        for i in range(60):
            save(tmp_path / label / f"{i}.png", 100 * side + i, side=side)
    found = of(tmp_path)
    width = next(one for one in found.shortcuts if one.feature == "width")
    assert width.auroc.value == 1
    assert width.auroc.low < 1
    assert width.warning
    assert found.baseline_accuracy.value > 0.95
    assert any(w.startswith("width alone tells 'a'") for w in found.warnings)
    assert any(w.startswith("facts of the files alone") for w in found.warnings)


def test_patients_groups_and_balance(tmp_path):
    lines = ["path,label,split,patient_id,sex,age"]
    for i in range(48):
        save(tmp_path / f"{i}.png", i)
        label, split = "ab"[i % 6 == 0], ("train", "test")[i % 4 == 0]
        patient = "shared" if i < 5 else f"p{i}"
        lines.append(f"{i}.png,{label},{split},{patient},{'FM'[i % 2] if i else ''},{20 + i}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    found = of(tmp_path / "manifest.csv")
    assert found.patients == 44
    assert found.patient_leaks == {"test->train": 1}
    assert found.groups["sex"] == {"F": 23, "M": 24, "not known": 1}
    assert found.groups["age"] == {
        "20 to 29": 10, "30 to 39": 10, "40 to 49": 10, "50 to 59": 10, "60 to 69": 8,
    }  # fmt: skip
    warnings = "\n".join(found.warnings)
    assert "1 patient stands in both test and train" in warnings
    assert "'a' has 5.0 times the images of 'b'" in warnings
    assert "class 'b' has 8 images only" in warnings
    assert "no patient is named" not in warnings


def test_many_words_in_a_group_are_cut(tmp_path):
    lines = ["path,label,site"]
    for i in range(60):
        save(tmp_path / f"{i}.png", i)
        lines.append(f"{i}.png,{'ab'[i % 2]},site {i if i < 25 else 25}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    table = of(tmp_path / "manifest.csv").groups["site"]
    assert len(table) == 21
    assert table["site 25"] == 35
    assert sum(table.values()) == 60
    assert table["other"] == 6


@pytest.mark.realdata
def test_brain_mri(realdata):
    """259 of 394 are known to be in both; a warning for width, which gives no_tumor away."""
    found = of(realdata / "brain-mri")
    assert found.images == 3264
    assert found.leaks["test->train"] >= 255
    assert found.conflicting_labels
    width = next(s for s in found.shortcuts if (s.feature, s.target) == ("width", "no_tumor"))
    assert width.warning
    assert 0.80 < width.auroc.value < 0.88


@pytest.mark.realdata
def test_chest_ctscan(realdata):
    """153 surplus copies; intensity deviation alone gives the normal scans away."""
    train = realdata / "chest-ctscan" / "train"
    long_names = {p.name: p.name.split("_")[0] for p in train.iterdir() if "_" in p.name}
    dataset = read_dataset(realdata / "chest-ctscan", class_map=long_names)
    found, _ = audit(dataset)
    assert found.exact_duplicates == 153
    assert found.leaks["test->train"] >= 46
    assert found.leaks["validation->train"] == 10
    assert len(found.conflicting_labels) >= 1
    deviation = next(
        s for s in found.shortcuts if (s.feature, s.target) == ("intensity deviation", "normal")
    )
    assert deviation.warning
    assert deviation.auroc.value > 0.95


@pytest.mark.parametrize(("darker", "grade"), [(10, "weak"), (40, "strong")])
def test_a13_the_warning_says_how_strong_the_shortcut_is(tmp_path, darker, grade):
    for i in range(120):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", i, darker=darker * (i % 2))
    found = of(tmp_path)
    assert found.baseline_accuracy.low > found.majority_accuracy
    said = [w for w in found.warnings if w.startswith("facts of the files alone")]
    assert [w.endswith(f": a {grade} shortcut") for w in said] == [True]


def test_f8_slices_in_different_planes_are_said(tmp_path):
    """DICOM by its orientation, thick NIfTI stacks by how they were acquired."""
    directions = {"axial": [1, 0, 0, 0, 1, 0], "sagittal": [0, 1, 0, 0, 0, -1]}
    random = np.random.default_rng(0)
    for label, planes in (("a", ("axial", "axial")), ("b", ("axial", "sagittal"))):
        (tmp_path / label).mkdir()
        for number, plane in enumerate(planes):
            values = random.integers(0, 4096, (16, 16)).astype("u2")
            dataset = made(values, ImageOrientationPatient=directions[plane])
            (tmp_path / label / f"{number}.dcm").write_bytes(written(dataset))
    record, _ = audit(read_dataset(tmp_path))
    assert any("(3 axial, 1 sagittal)" in warning for warning in record.warnings)
    (tmp_path / "b" / "1.dcm").unlink()
    values = random.integers(0, 99, (16, 16, 3)).astype("i2")
    volume = nibabel.Nifti1Image(values, np.diag([1, 1, 5, 1]))
    for name in ("b/x.nii", "a/x.nii"):
        nibabel.save(volume, tmp_path / name)
    record, _ = audit(read_dataset(tmp_path))
    assert not any("different planes" in warning for warning in record.warnings)
    turned = nibabel.Nifti1Image(values.transpose(2, 0, 1), np.diag([5, 1, 1, 1]))
    nibabel.save(turned, tmp_path / "b" / "y.nii")
    record, _ = audit(read_dataset(tmp_path))
    assert any("different planes" in warning for warning in record.warnings)
