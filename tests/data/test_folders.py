from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.data.layouts.folders import image_files, one_name_per_class, read_folders
from clinipress.errors import DataError

LONG = "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib"


def tree(root: Path, *names: str) -> Path:
    """Empty files: nothing here is opened."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root: Path, class_map: dict[str, str] | None = None) -> dict[str, tuple[str, str | None]]:
    return {
        item.key: (item.label, item.split) for item in read_folders(root, class_map or {}).items
    }


def test_class_folders(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png", "cat/deeper/2.png", "dog/1.png", "readme.png")
    assert read_folders(tmp_path, {}).layout == "class folders"
    assert found(tmp_path) == {
        "cat/1.png": ("cat", None),
        "cat/deeper/2.png": ("cat", None),
        "dog/1.png": ("dog", None),
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("val", "validation"),
        ("valid", "validation"), ("Validation", "validation"), ("dev", "validation"),
        ("test", "test"), ("Testing", "test"),
    ],
)  # fmt: skip
def test_names_of_splits(tmp_path: Path, name: str, split: str) -> None:
    tree(tmp_path, f"{name}/a/1.png", f"{name}/b/1.png")
    assert read_folders(tmp_path, {}).layout == "split/class folders"
    assert set(found(tmp_path).values()) == {("a", split), ("b", split)}


def test_single_folders_are_passed_through(tmp_path: Path) -> None:
    tree(tmp_path, "Data/Data/train/a/1.png", "Data/Data/test/b/1.png", "Data/notes.txt")
    assert found(tmp_path) == {
        "Data/Data/test/b/1.png": ("b", "test"),
        "Data/Data/train/a/1.png": ("a", "train"),
    }


def test_a_class_called_test_is_a_class(tmp_path: Path) -> None:
    tree(tmp_path, "test/1.png", "control/1.png")
    assert found(tmp_path) == {"test/1.png": ("test", None), "control/1.png": ("control", None)}


def test_long_and_short_names_across_splits_are_one_class(tmp_path: Path) -> None:
    tree(tmp_path, f"train/{LONG}/1.png", f"valid/{LONG}/1.png", "test/adenocarcinoma/1.png")
    tree(tmp_path, "train/normal/1.png", "valid/normal/1.png", "test/normal/1.png")
    assert {label for label, _ in found(tmp_path).values()} == {"adenocarcinoma", "normal"}


def test_case_does_not_part_a_class() -> None:
    names = {"train": ["Normal", "Sick"], "test": ["normal", "sick"]}
    assert one_name_per_class(names) == {
        "Normal": "Normal", "normal": "Normal", "Sick": "Sick", "sick": "Sick"
    }  # fmt: skip


def test_names_that_only_look_alike_stay_apart() -> None:
    names = {"train": ["normal", "normal2"], "test": ["normal", "abnormal"]}
    assert one_name_per_class(names) == {n: n for n in ("normal", "normal2", "abnormal")}


def test_the_same_names_everywhere_are_never_matched() -> None:
    names = {"train": ["benign", "benign_old"], "test": ["benign_old", "benign"]}
    assert one_name_per_class(names) == {"benign": "benign", "benign_old": "benign_old"}


def test_ambiguous_names_are_refused_until_the_user_decides(tmp_path: Path) -> None:
    tree(tmp_path, "train/lesion_left/1.png", "train/lesion_right/1.png", "test/lesion/1.png")
    with pytest.raises(DataError, match=r"lesion_left and lesion_right in train.*class_map"):
        read_folders(tmp_path, {})
    mapped = found(tmp_path, {"lesion_right": "right", "lesion_left": "left", "lesion": "left"})
    assert {label for label, _ in mapped.values()} == {"left", "right"}


def test_a_name_the_user_gave_is_matched_with_nothing(tmp_path: Path) -> None:
    tree(tmp_path, "train/a_b/1.png", "test/a/1.png", "test/c/1.png", "train/c_x/1.png")
    mapped = found(tmp_path, {"a_b": "a_b"})
    assert {label for label, _ in mapped.values()} == {"a_b", "a", "c"}


def test_what_is_clearly_no_image_is_passed_over(tmp_path: Path) -> None:
    tree(
        tmp_path, "a/1.png", "a/Thumbs.db", "a/.hidden.png", "a/notes.TXT", "a/x.json", "a/y.csv",
        "a/z.md", "a/w.xml", "a/.git/1.png", "a/odd.bin", "a/none", "__MACOSX/a/1.png", "b/1.png",
    )  # fmt: skip
    (tmp_path / "a/dangling.png").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "a/pipe.png")  # opening it would wait for ever
    assert set(found(tmp_path)) == {"a/1.png", "a/odd.bin", "a/none", "b/1.png"}


def test_masks_beside_images_are_left_out(tmp_path: Path) -> None:
    tree(
        tmp_path, "a/images/1.png", "a/lung masks/1.png", "a/infection_mask/1.png", "b/masked/1.png"
    )
    assert set(found(tmp_path)) == {"a/images/1.png", "b/masked/1.png"}
    assert [p.name for p in image_files(tmp_path / "b")] == ["1.png"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png"], "no sub-folders"),
        (["train/a/1.png", "test/a/1.png", "other/1.png"], "'test' beside 'other'"),
        (["val/a/1.png", "valid/a/1.png"], "one validation folder.*'val' and 'valid'"),
    ],
)
def test_layouts_that_cannot_be_told(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_folders(tree(tmp_path, *names), {})


def test_a_folder_without_images_may_stand_beside_splits(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/1.png", "test/a/1.png", "docs/readme.txt")
    assert len(found(tmp_path)) == 2


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("chest-ctscan", lambda labels: labels == {
            "adenocarcinoma", "large.cell.carcinoma", "normal", "squamous.cell.carcinoma"
        }),
        ("brain-mri", lambda labels: len(labels) == 4),
    ],
)  # fmt: skip
def test_published_folders(realdata: Path, name: str, check: Callable[[set[str]], bool]) -> None:
    listed = read_folders(realdata / name, {})
    assert listed.layout == "split/class folders"
    assert check({item.label for item in listed.items})
