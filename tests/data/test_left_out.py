"""What a folder holds and is not used, and layouts that are no class folders."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from clinipress.cli.commands import app, main
from clinipress.data.audit.audit import audit
from clinipress.data.sources import read_dataset
from clinipress.errors import ClinipressError, DataError
from clinipress.records.result import Audit
from kit.folders import folder_of, left, picture, table

CLASSES = [f"{c}/{n}.png" for c in ("benign", "malignant") for n in range(6)]


def names(count: int, pattern: str) -> list[str]:
    return [pattern.format(n) for n in range(count)]


# --------------------------------------------------------------------------- F3: guesses


@pytest.mark.parametrize(
    "files",
    [
        [*names(6, "train/I{}.jpg"), *names(4, "test/I{}.jpg")],
        [*names(6, "train_images/I{}.jpg"), *names(4, "test_images/I{}.jpg")],
        [*names(6, "TrainImages/I{}.jpg"), *names(4, "ValidationImages/I{}.jpg")],
        [f"images_{n:03}/images/{n}.png" for n in range(5)],
        [*names(4, "images/{}.png"), *names(4, "labels/{}.png"), *names(4, "raw/{}.png")],
        [*names(4, "train/{}.png"), *names(4, "valid/{}.png"), *names(4, "test/{}.png")],
        [f"fold_{n}/{c}/1.png" for n in range(3) for c in "AB"],
        [*names(4, "SE0/{}.png"), *names(4, "SE1/{}.png")],
        [*names(4, "sub-01/anat/{}.png"), *names(4, "sub-02/anat/{}.png")],
        [*names(4, "HAM10000_images_part_1/{}.png"), *names(4, "HAM10000_images_part_2/{}.png")],
        [f"{site}/{c}/1.png" for site in ("Ulm", "Bonn") for c in ("normal", "sick")],
    ],
)
def test_f3_folders_that_are_no_classes_are_refused(tmp_path: Path, files: list[str]) -> None:
    with pytest.raises(DataError, match=r"one folder for each class.*manifest.*class_map"):
        read_dataset(folder_of(tmp_path, files))
    folders = {name.split("/")[0] for name in files}
    chosen = read_dataset(tmp_path, class_map={name: f"class {name}" for name in folders})
    assert len(chosen.classes) >= 2  # who says that they are classes is believed
    assert len(chosen.items) == len(files)


@pytest.mark.parametrize(
    "folders",
    [
        ("test", "control"), ("case", "control"), ("0", "1", "2"), ("grade_1", "grade_2"),
        ("class1", "class2"), ("T1", "T2"), ("KL0", "KL1"), ("mask", "no mask"),
        ("with_mask", "without_mask"), ("positive", "negative"), ("image_good", "image_bad"),
    ],
)  # fmt: skip
def test_f3_classes_are_still_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    found = read_dataset(folder_of(tmp_path, [f"{f}/{n}.png" for f in folders for n in range(3)]))
    assert found.classes == tuple(sorted(folders))
    assert len(found.items) == 3 * len(folders)


def test_f3_the_table_beside_train_and_test_is_used(tmp_path: Path) -> None:
    folder_of(tmp_path, [*names(6, "train/I{}.jpg"), *names(3, "test/J{}.jpg")])
    lines = [f"I{n},P{n // 2},{n // 2 % 2}" for n in range(6)]
    table(tmp_path / "train.csv", ["image_name,patient_id,target", *lines])
    found = read_dataset(tmp_path)
    assert (found.classes, len(found.items)) == (("0", "1"), 6)
    assert len({item.patient for item in found.items}) == 3
    assert left(found)["file", "not in the table"] == names(3, "test/J{}.jpg")


def test_f3_roboflow_and_hugging_face_tables_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        folder_of(tmp_path, names(2, f"{split}/{{}}.png"))
        lines = ["image id, sick, well", "0, 1, 0", "1.png, 0, 1"]
        table(tmp_path / split / "_classes.csv", lines)
    found = read_dataset(tmp_path)
    assert found.classes == ("sick", "well")
    assert Counter(item.split for item in found.items) == {"train": 2, "validation": 2, "test": 2}
    table(tmp_path / "test" / "_classes.csv", ["filename,sick,well", "0.png,1,1"])
    with pytest.raises(DataError, match="several for 1 of 1 row"):
        read_dataset(tmp_path)


def test_f3_images_and_masks_beside_a_table(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{part}/{n}.png" for part in ("images", "masks") for n in range(4)])
    table(tmp_path / "labels.csv", ["image,label", *(f"{n}.png,{'ab'[n % 2]}" for n in range(4))])
    found = read_dataset(tmp_path)
    assert [item.key for item in found.items] == names(4, "images/{}.png")
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"two classes or more.*only 'images'"):
        read_dataset(tmp_path)


def test_f3_splits_inside_classes_are_splits(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{c}/{s}/{n}.png" for c in "AB" for s in ("Train", "test") for n in "12"])
    found = read_dataset(tmp_path)
    assert (found.layout, found.classes) == ("split/class folders", ("A", "B"))
    assert Counter(item.split for item in found.items) == {"train": 4, "test": 4}


def test_f3_the_same_folders_in_every_class_are_said(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{c}/{m}X/1.png" for c in ("benign", "malignant") for m in (40, 100)])
    found = read_dataset(tmp_path)
    assert found.classes == ("benign", "malignant")
    assert any("the same folders (100X, 40X)" in note for note in found.notes)


def test_f25_a_test_folder_without_classes_has_no_labels(tmp_path: Path) -> None:
    folder_of(tmp_path, [*(f"train/{name}" for name in CLASSES), *names(3, "test/{}.png")])
    found = read_dataset(tmp_path)
    assert (found.classes, len(found.items)) == (("benign", "malignant"), 12)
    assert left(found)["folder", "no class folders in it: 3 images without a label"] == ["test"]


def test_f25_a_class_that_one_split_lacks_is_no_dead_end(tmp_path: Path) -> None:
    folder_of(
        tmp_path, ["train/pneumonia/1.png", "train/pneumonia_viral/1.png", "test/pneumonia/1.png"]
    )
    assert read_dataset(tmp_path).classes == ("pneumonia", "pneumonia_viral")
    folder_of(
        tmp_path, ["train/lesion_left/1.png", "train/lesion_right/1.png", "test/lesion/1.png"]
    )
    result = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert "class_map" in str(result.exception)
    study = tmp_path / "study.yaml"
    mapping = "lesion=lesion_left,pneumonia_viral=pneumonia"
    result = CliRunner().invoke(app, ["audit", str(tmp_path), "--json", "--class-map", mapping])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["classes"] == {
        "lesion_left": 2, "lesion_right": 1, "pneumonia": 3
    }  # fmt: skip
    options = ["--class-map", mapping, "--out", str(study)]
    result = CliRunner().invoke(app, ["init", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    written = yaml.safe_load(study.read_text())["data"]["class_map"]
    assert written == {"lesion": "lesion_left", "pneumonia_viral": "pneumonia"}


def test_f25_names_of_class_map_that_are_not_there_are_said(tmp_path: Path) -> None:
    folder_of(tmp_path, CLASSES)
    found = read_dataset(tmp_path, class_map={"benign": "calm", "bening": "calm"})
    assert found.notes == ("class_map has names that no folder or label has: bening",)
    table(tmp_path / "m.csv", ["path,label", "benign/0.png,a", "benign/1.png,b"])
    found = read_dataset(tmp_path, class_map={"a": "calm", "A": "calm"})
    assert found.notes == ("class_map has names that no folder or label has: A",)


def test_f15_accents_do_not_part_a_class_across_splits(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        [
            "train/Me\u0301lanome/1.png",
            "test/Mélanome/2.png",
            "train/nevus/3.png",
            "test/Nevus/4.png",
        ],
    )
    assert len(read_dataset(tmp_path).classes) == 2


# ------------------------------------------------------------------- F7, F16, F26: left out


def test_f7_masks_beside_their_images(tmp_path: Path) -> None:
    for c in ("benign", "malignant"):
        folder_of(
            tmp_path / c,
            [f"{c} ({n}){end}.png" for n in range(4) for end in ("", "_mask", "_mask_1")],
        )
    folder_of(tmp_path / "benign", ["BraTS_1_t1.png", "BraTS_1_seg.png", "segment.png"])
    found = read_dataset(tmp_path)
    assert len(found.items) == 10
    masks = left(found)["mask", "a mask beside its image"]
    assert len(masks) == 17
    assert "benign/BraTS_1_seg.png" in masks
    assert any("17 masks not used" in w for w in audit(found, threads=1)[0].warnings)


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ([*names(3, "A/images/{}.png"), *names(3, "A/ground truth/{}.png"), "B/1.png"], 4),
        ([*names(3, "A/{}.png"), *names(3, "A_masks/{}.png"), "B/1.png"], 4),
        (["A/image.png", "A/mask.png", "B/p/image.png", "B/p/mask.png"], 2),
        (["mask/1_mask.png", "mask/2_mask.png", "none/3.png"], 3),  # no image beside them
        (["A/v_seg.png", "A/w.png", "B/1.png"], 3),
    ],
)
def test_f7_masks_in_other_places(tmp_path: Path, files: list[str], kept: int) -> None:
    assert len(read_dataset(folder_of(tmp_path, files)).items) == kept


def test_f16_linked_folders_are_followed_and_loops_are_said(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", CLASSES)
    folder_of(tmp_path / "store", ["p1/1.png", "p2/1.png", "p2/deep/2.png"])
    for patient in ("p1", "p2"):
        (root / "benign" / patient).symlink_to(tmp_path / "store" / patient)
    (root / "malignant" / "again").symlink_to(root / "malignant")
    (tmp_path / "store" / "p2" / "deep" / "up").symlink_to(tmp_path / "store" / "p2")
    (tmp_path / "store" / "p2" / "other").symlink_to(tmp_path / "store" / "p1")
    (root / "malignant" / "gone.png").symlink_to(root / "nowhere.png")
    found = read_dataset(root)
    assert len(found.items) == 12 + 3
    assert left(found) == {
        ("link", "leads back to a folder that it lies in"): [
            "benign/p2/deep/up", "malignant/again"
        ],
        ("link", "leads to a folder that another link leads to"): ["benign/p2/other"],
        ("link", "leads nowhere"): ["malignant/gone.png"],
    }  # fmt: skip


def test_f16_many_links_to_one_another_end(tmp_path: Path) -> None:
    root = folder_of(tmp_path, [f"a/{n}/x.png" for n in range(8)] + ["b/1.png"])
    for n in range(8):
        for other in range(8):
            (root / "a" / str(n) / f"to {other}").symlink_to(root / "a" / str(other))
    found = read_dataset(root)
    assert 9 <= len(found.items) <= 17


def test_f16_f26_what_is_there_and_not_used_is_counted(tmp_path: Path) -> None:
    root = folder_of(
        tmp_path, [*CLASSES, "stray.png", "benign/@eaDir/1.png/thumb.jpg", "malignant/.cache/1.png"]
    )
    (root / "suspicious").mkdir()
    (root / "arrays").mkdir()
    np.save(root / "arrays" / "1.npy", np.zeros(3))
    (root / "README.md").write_text("x")
    (root / "benign" / "Thumbs.db").write_text("x")
    os.mkfifo(root / "benign" / "pipe.png")
    found = read_dataset(root)
    assert len(found.items) == 12
    assert left(found) == {
        ("file", ".md is not read as an image"): ["README.md"],
        ("file", ".npy is not read as an image"): ["arrays/1.npy"],
        ("file", "hidden or made by a system"): ["benign/Thumbs.db"],
        ("file", "in no class folder"): ["stray.png"],
        ("file", "no ordinary file"): ["benign/pipe.png"],
        ("folder", "hidden or made by a system"): ["benign/@eaDir", "malignant/.cache"],
        ("folder", "no images in it"): ["arrays", "suspicious"],
    }
    record = audit(found, threads=1)[0]
    assert {(entry.kind, entry.path) for entry in record.left_out} >= {("folder", "arrays")}
    said = "\n".join(record.warnings)
    assert "2 folders not used: no images in it ('arrays', 'suspicious')" in said
    assert "1 file not used: in no class folder ('stray.png')" in said
    assert "hidden" not in said
    assert ".md" not in said


def test_f16_f22_folders_that_nobody_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path, [*CLASSES, "malignant/closed/1.png"])
    real = os.scandir

    def scandir(path: os.PathLike[str]) -> object:
        if os.fspath(path).endswith(shut):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    shut = "closed"
    found = read_dataset(root)
    assert left(found)["folder", "cannot be opened (Permission denied)"] == ["malignant/closed"]
    assert len(found.items) == 12
    shut = str(root)
    with pytest.raises(DataError, match=r"(can be opened|can be read), got .*Permission denied"):
        read_dataset(root)


def test_f16_objects_that_are_no_pictures_and_empty_volumes(tmp_path: Path) -> None:
    def dicom(path: Path, uid: str, modality: str = "OT") -> None:
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID = uid, generate_uid()
        header.Modality, header.PatientID = modality, path.stem
        header.Rows = header.Columns = 8
        header.SamplesPerPixel, header.PixelRepresentation = 1, 0
        header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
        header.PhotometricInterpretation = "MONOCHROME2"
        header.PixelData = np.random.default_rng(len(path.stem)).bytes(64)
        header.save_as(path, enforce_file_format=True)

    root = folder_of(tmp_path, CLASSES)
    storage = "1.2.840.10008.5.1.4.1.1."
    objects = {
        "481.2": "a radiotherapy dose", "66.4": "a segmentation", "66": "raw data",
        "88.11": "a report", "11.1": "a presentation state", "104.1": "a document",
        "481.3": "radiotherapy structures",
    }  # fmt: skip
    for number in (*objects, "2", "7", "481.1", "77.1.6", "30"):
        dicom(root / "benign" / f"{number}.dcm", storage + number)
    dicom(root / "benign" / "seg.dcm", "1.2.3", "SEG")
    for name, value in (("empty", 0), ("half", 1)):
        volume = np.zeros((8, 8, 4), np.uint8)
        volume[2:4, 2:4, 2:] = value
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / "malignant" / f"{name}.nii")
    found = read_dataset(root)
    entries = {entry.path: (entry.kind, entry.reason, entry.count) for entry in found.left_out}
    for number, what in objects.items():
        assert entries.pop(f"benign/{number}.dcm") == ("object", f"DICOM, {what}", 1)
    assert entries == {
        "benign/seg.dcm": ("object", "DICOM, a segmentation", 1),
        "malignant/empty.nii": ("file", "a volume of one single value", 1),
        "malignant/half.nii": ("page", "of one single value", 2),
    }
    assert len(found.items) == 12 + 5 + 2


def test_f17_pages_that_are_not_read_are_counted(tmp_path: Path) -> None:
    root = folder_of(tmp_path, CLASSES)
    pages = [Image.open(picture(tmp_path / f"p{n}.png", n)) for n in range(3)]
    pages[0].save(root / "benign" / "moving.gif", save_all=True, append_images=pages[1:])
    record = audit(read_dataset(root), threads=1)[0]
    [page] = [entry for entry in record.left_out if entry.kind == "page"]
    assert (page.path, page.count) == ("benign/moving.gif", 2)
    assert any("2 pages not used" in warning for warning in record.warnings)


def test_arrays_of_an_archive_that_are_not_used(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=[0, 1, 0, 1], notes=[1])
    assert left(read_dataset(tmp_path / "set.npz")) == {
        ("array", "not images with labels"): ["set.npz#notes"]
    }


# ----------------------------------------------------------------------------- the command


def test_b8_most_files_unreadable_is_exit_2(tmp_path: Path) -> None:
    for n in range(8):
        for c in "ab":
            path = tmp_path / c / f"{n}.mjs"
            path.parent.mkdir(exist_ok=True)
            path.write_text("export default 1")
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "1.png", 1)
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["audit", str(tmp_path), *options])
        assert isinstance(result.exception, ClinipressError)
        assert "16 of 18 that cannot" in str(result.exception)
        assert "18" in result.stdout
    assert Audit.model_validate_json(result.stdout).images == 18


def test_b8_csv_holds_every_list(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", CLASSES)
    (root / "malignant" / "copy.png").write_bytes((root / "benign" / "0.png").read_bytes())
    (root / "benign" / "bad.png").write_text("x")
    (root / "notes, old.csv").write_text("a,b\n")
    out = tmp_path / "lists.csv"
    result = CliRunner().invoke(app, ["audit", str(root), "--csv", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 table not used: no column of paths" in result.stdout
    assert f"next: clinipress init {root}" in result.stdout.replace("\n", "")
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert Counter(row["list"] for row in rows) == {
        "table not used": 1, "unreadable": 1, "two labels": 1, "duplicate": 1
    }  # fmt: skip
    assert rows[0]["path"] == "notes, old.csv"


def test_f22_what_the_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "set", CLASSES)
    inside_a_file = root / "benign" / "0.png" / "lists.csv"
    monkeypatch.setattr("sys.argv", ["clinipress", "audit", str(root), "--csv", str(inside_a_file)])
    with pytest.raises(SystemExit) as problem:
        main()
    assert problem.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("clinipress: expected")
    assert error.count("\n") == 1


def test_the_list_of_what_is_left_out_is_cut_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path, [*CLASSES, *names(9, "stray{}.png")])
    monkeypatch.setattr("clinipress.data.audit.audit.MOST_LEFT_OUT", 4)
    record = audit(read_dataset(root), threads=1)[0]
    assert [entry.path for entry in record.left_out] == [*names(4, "stray{}.png"), "..."]
    assert sum(entry.count for entry in record.left_out) == 9


def test_f22_names_that_are_too_long(tmp_path: Path) -> None:
    for command in ("audit", "init"):
        result = CliRunner().invoke(
            app,
            [
                command,
                "x" * 5000,
                *(["--out", str(tmp_path / "s.yaml")] if command == "init" else []),
            ],
        )
        assert isinstance(result.exception, ClinipressError), result.exception
        assert len(str(result.exception)) < 600
