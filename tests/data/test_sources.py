from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset as Header
from pydicom.dataset import FileMetaDataset

from clinipress.data.layouts.items import natural, split_name
from clinipress.data.sources import decode_item, item_bytes, item_facts, read_dataset
from clinipress.data.units import best_unit
from clinipress.errors import DataError, ImageError
from clinipress.kinds.image.read import decode
from clinipress.records.candidate import InputSpec

SPEC = InputSpec(channels=1, height=8, width=8)
VALUES = np.random.default_rng(8).integers(0, 256, (8, 8)).astype(np.uint8)


def png(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(VALUES // 2 + level).save(path, "PNG")
    return path


def dicom(path: Path, patient: str = "", frames: int = 1) -> Path:
    header = Header()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    header.Rows = header.Columns = 8
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PatientID = patient
    if frames > 1:
        header.NumberOfFrames = frames
    header.PixelData = b"".join((VALUES // 2 + n).astype(np.uint8).tobytes() for n in range(frames))
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return path


def nifti(path: Path, slices: int = 3) -> Path:
    values = np.stack([VALUES // 2 + n for n in range(slices)], -1).astype(np.uint8)
    values[..., 0] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def test_items_are_sorted_with_numbers_by_value(tmp_path: Path) -> None:
    for name in ("b/x10.png", "b/x2.png", "a/y.png"):
        png(tmp_path / name)
    dataset = read_dataset(tmp_path)
    assert [item.key for item in dataset.items] == ["a/y.png", "b/x2.png", "b/x10.png"]
    assert dataset.classes == ("a", "b")
    assert dataset.root == tmp_path
    assert dataset == read_dataset(tmp_path)


def test_natural_order_and_names_of_splits() -> None:
    assert sorted(["a10", "a9", "a", "10", "9", "b"], key=natural) == [
        "9",
        "10",
        "a",
        "a9",
        "a10",
        "b",
    ]
    assert [split_name(t) for t in ("", " Train ", "DEV", "testing")] == [
        None, "train", "validation", "test"
    ]  # fmt: skip
    with pytest.raises(DataError, match="holdout"):
        split_name("holdout")


def test_class_order_and_class_map(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "c/1.png"):
        png(tmp_path / name)
    dataset = read_dataset(tmp_path, classes=("z", "b"), class_map={"a": "z", "c": "z"})
    assert dataset.classes == ("z", "b")
    assert [item.label for item in dataset.items] == ["z", "b", "z"]


@pytest.mark.parametrize(
    ("classes", "class_map", "message"),
    [
        (("a",), {}, "the classes a, got a, b"),
        (("a", "b", "c"), {}, "the classes a, b, c"),
        (("a", "b", "b"), {}, "the classes a, b, b"),
        (None, {"b": "a"}, "two classes or more.*only 'a'"),
        (None, {"bb": "beta"}, "'beta' of class_map"),
    ],
)
def test_classes_that_do_not_fit(
    tmp_path: Path, classes: tuple[str, ...] | None, class_map: dict[str, str], message: str
) -> None:
    for name in ("a/1.png", "b/1.png"):
        png(tmp_path / name)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path, classes=classes, class_map=class_map)


def test_nothing_to_read(tmp_path: Path) -> None:
    for path, message in [(tmp_path / "gone", "nothing at"), (tmp_path, "empty folder")]:
        with pytest.raises(DataError, match=message):
            read_dataset(path)
    for path, message in [(png(tmp_path / "one.png"), "the file"), (tmp_path, "no sub-folders")]:
        with pytest.raises(DataError, match=message):
            read_dataset(path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="images in class folders"):
        read_dataset(tmp_path)
    png(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="two classes or more"):
        read_dataset(tmp_path)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    png(tmp_path / "b" / "1.png").rename(os.fsdecode(os.fsencode(tmp_path / "b") + b"/\xff.png"))
    with pytest.raises(DataError, match="UTF-8"):
        read_dataset(tmp_path)


def test_a_folder_with_a_manifest_is_read_by_it(tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.png", "x/3.png"):
        png(tmp_path / name)
    lines = ["path,label,split,patient_id,sex", "x/1.png,sick,train,p,f", "x/2.png,well,test,q,"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.classes) == ("manifest", ("sick", "well"))
    assert dataset.group_columns == ("sex",)
    assert [i.patient for i in dataset.items] == ["p", "q"]
    assert read_dataset(tmp_path / "manifest.csv") == dataset


def test_pixels_bytes_and_facts_of_an_ordinary_file(tmp_path: Path) -> None:
    path = png(tmp_path / "a" / "1.png")
    png(tmp_path / "b" / "1.png")
    item = read_dataset(tmp_path).items[0]
    np.testing.assert_array_equal(decode_item(item, SPEC)[0], VALUES // 2)
    assert item_bytes(item) == path.read_bytes()
    assert (item_facts(item).width, item_facts(item).format) == (8, "PNG")
    path.unlink()
    for read in (item_bytes, item_facts, lambda i: decode_item(i, SPEC)):
        with pytest.raises(ImageError, match=r"1\.png"):
            read(item)


def test_an_archive(tmp_path: Path) -> None:
    images = np.stack([VALUES, VALUES[::-1]])
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=[[4], [10]])
    dataset = read_dataset(tmp_path / "set.npz")
    assert (dataset.layout, dataset.classes) == ("npz", ("4", "10"))
    item = dataset.items[1]
    np.testing.assert_array_equal(decode_item(item, SPEC)[0], VALUES[::-1])
    assert item_bytes(item) == images[1].tobytes()
    assert (item_facts(item).width, item_facts(item).channels) == (8, 1)


def test_volumes_become_slices_and_the_file_is_their_unit(tmp_path: Path) -> None:
    nifti(tmp_path / "a" / "v.nii.gz")
    nifti(tmp_path / "b" / "w.nii", 2)
    dataset = read_dataset(tmp_path)
    assert {i.patient for i in dataset.items} == {None}  # the header names none
    assert [(i.key, i.index, i.unit("file")) for i in dataset.items] == [
        ("a/v.nii.gz#1", 1, "a/v.nii.gz"),
        ("a/v.nii.gz#2", 2, "a/v.nii.gz"),
        ("b/w.nii#1", 1, "b/w.nii"),
    ]
    item = dataset.items[1]
    np.testing.assert_array_equal(decode_item(item, SPEC)[0], np.rot90(VALUES // 2 + 2))
    assert item_bytes(item) == (VALUES // 2 + 2).tobytes()
    assert item_bytes(dataset.items[0]) == item_bytes(dataset.items[2])  # the same picture


def test_dicom_files_bring_their_patient_and_frames(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "one.dcm", "P1")
    dicom(tmp_path / "a" / "two", "P2")
    dicom(tmp_path / "b" / "cine.dcm", frames=2)
    dataset = read_dataset(tmp_path)
    assert [(i.key, i.index, i.patient) for i in dataset.items] == [
        ("a/one.dcm", None, "P1"),
        ("a/two", None, "P2"),
        ("b/cine.dcm#0", 0, None),
        ("b/cine.dcm#1", 1, None),
    ]
    assert {i.unit("file") for i in dataset.items} == {None, "b/cine.dcm"}
    np.testing.assert_array_equal(decode_item(dataset.items[3], SPEC)[0], VALUES // 2 + 1)
    assert item_bytes(dataset.items[2]) != item_bytes(dataset.items[3])


def test_one_identifier_for_all_is_a_placeholder(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "one.dcm", "ANONYMOUS")
    dicom(tmp_path / "b" / "two.dcm", "ANONYMOUS")
    assert [i.patient for i in read_dataset(tmp_path).items] == [None, None]


def test_the_manifests_patient_comes_first(tmp_path: Path) -> None:
    dicom(tmp_path / "one.dcm", "P1")
    nifti(tmp_path / "v.nii", 2)
    lines = ["path,label,patient_id", "one.dcm,x,mine", "v.nii,y,yours"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    assert [i.patient for i in read_dataset(tmp_path).items] == ["mine", "yours"]


def test_broken_files_stay_for_the_audit(tmp_path: Path) -> None:
    png(tmp_path / "a" / "1.png")
    data = nifti(tmp_path / "b" / "v.nii").read_bytes()
    (tmp_path / "b" / "v.nii").write_bytes(data[:400])
    (tmp_path / "b" / "w.dcm").write_bytes(dicom(tmp_path / "x.dcm").read_bytes()[:200])
    (tmp_path / "b" / "z.nii.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "b" / "odd").write_bytes(b"hello")
    dataset = read_dataset(tmp_path)
    keys = [item.key for item in dataset.items]
    assert keys == ["a/1.png", "b/odd", "b/v.nii", "b/w.dcm", "b/z.nii.gz"]
    for item in dataset.items[1:]:
        assert item.index is None
        with pytest.raises(ImageError):
            decode_item(item, SPEC)
        assert item_bytes(item) == item.path.read_bytes()


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "layout", "classes", "splits"),
    [
        ("brain-mri", "split/class folders", 4, {"train": 2870, "test": 394}),
        ("chest-ctscan", "split/class folders", 4, {"train": 613, "validation": 72, "test": 259}),
        ("covid-ct", "manifest", 2, {"train": 425, "validation": 118, "test": 203}),
        ("ham10000", "manifest", 7, {None: 5984}),
    ],
)
def test_published_sets(
    realdata: Path, name: str, layout: str, classes: int, splits: dict[str | None, int]
) -> None:
    dataset = read_dataset(realdata / name)
    assert dataset.layout == layout
    assert len(dataset.classes) == classes
    assert Counter(item.split for item in dataset.items) == splits
    for item in dataset.items[:: len(dataset.items) // 20]:
        np.testing.assert_array_equal(decode_item(item, SPEC), decode(item_bytes(item), SPEC))
    if name in ("covid-ct", "ham10000"):
        kind = {"covid-ct": "patient", "ham10000": "lesion"}[name]
        assert best_unit(dataset.items) == (kind, 0)
        assert "sex" in dataset.group_columns


@pytest.mark.realdata
def test_real_dicom_in_class_folders(realdata: Path, tmp_path: Path) -> None:
    readers = realdata / "readers"
    for name, folder in (("ct", "dicom-torchio-series"), ("odd", "dicom-pydicom")):
        (tmp_path / name).symlink_to(readers / folder)
    dataset = read_dataset(tmp_path)
    by_class = Counter(item.label for item in dataset.items)
    assert by_class["ct"] >= 17
    frames = [item for item in dataset.items if "2frame" in item.key]
    assert [item.index for item in frames] == [0, 1]
    assert not np.array_equal(*(decode_item(item, SPEC) for item in frames))
