"""Several findings in one image: tables and arrays as people write them, right or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinipress.data.layouts import arrays
from clinipress.data.layouts.items import drawn
from clinipress.data.named.medmnist import CHEST
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from kit.folders import folder_of, table

NAMES = [f"{n}.png" for n in range(6)]
YES, NO = True, False


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", NAMES)


def read(root: Path, head: str, *rows: str, mark: str = ",", **how):
    """The set of a table with a row for each of the first images."""
    lines = [f"path{mark}{head}"]
    lines += [f"{n}{mark}{row}" for n, row in zip(NAMES, rows, strict=False)]
    table(root / "manifest.csv", lines)
    return read_dataset(root, **{"task": None, **how})


def known(dataset) -> list[dict[str, bool]]:
    return [dict(item.findings) for item in dataset.items]


CELLS = {
    "pipes": ("labels", ["Edema|Mass", "", "Mass"], ",", ""),
    "semicolons": ("labels", ["Edema;Mass", "", "Mass"], ",", ""),
    "blanks around": ("labels", [" Edema | Mass ", "  ", "Mass"], ",", ""),
    "a list": ("labels", ["\"['Edema', 'Mass']\"", "[]", "['Mass']"], ",", ""),
    "a list of quotes": ("labels", ['"[""Edema"", ""Mass""]"', '""', "Mass"], ",", ""),
    "commas": ("labels", ["Edema,Mass", "Edema", "Mass"], ";", "Edema"),
    "NIH": ("Finding Labels", ["Edema|Mass", "No Finding", "Mass"], ",", ""),
    "none in small letters": ("Finding Labels", ["Edema|Mass", "no finding", "Mass"], ",", ""),
    "normal": ("labels", ["Edema|Mass", "Normal", "Mass"], ",", ""),
    "nan": ("labels", ["Edema|Mass", "nan", "Mass"], ",", ""),
    "twice": ("labels", ["Edema|Mass|Edema", "", "Mass"], ",", ""),
    "a bar too many": ("labels", ["Edema|Mass|", "", "|Mass"], ",", ""),
}


@pytest.mark.parametrize("form", CELLS)
def test_a_cell_that_names_what_is_present(root, form):
    head, rows, mark, second = CELLS[form]
    dataset = read(root, head, *rows, mark=mark)
    assert dataset.task == "multilabel"
    assert dataset.classes == ("Edema", "Mass")
    both, none, one = known(dataset)
    assert both == {"Edema": YES, "Mass": YES}
    assert none == {"Edema": second == "Edema", "Mass": NO}
    assert one == {"Edema": NO, "Mass": YES}
    assert next(item.label for item in dataset.items) == "Edema|Mass"


def test_codes_stay_whole(root):
    # another library took cells letter by letter: classes "0..9", "V", "|"
    dataset = read(root, "label", "25000|2720|4019", "038.9", "V290|V053", "4019")
    assert dataset.classes == ("038.9", "2720", "4019", "25000", "V053", "V290")
    assert known(dataset)[1]["038.9"] is YES
    assert sum(row["4019"] for row in known(dataset)) == 2


CHEXPERT = "Sex,Frontal/Lateral,No Finding,Edema,Pneumonia,Support Devices"


def test_a_column_for_each_finding_with_blanks_and_minus_one(root):
    dataset = read(
        root, CHEXPERT, "F,Frontal,1.0,,,", "M,Frontal,,1.0,-1.0,0.0", "F,Lateral,,0.0,,1.0"
    )
    assert dataset.classes == ("Edema", "Pneumonia", "Support Devices")
    healthy, second, third = known(dataset)
    # "No Finding" is no finding of its own; what is blank beside it is absent, devices apart
    assert healthy == {"Edema": NO, "Pneumonia": NO}
    assert second == {"Edema": YES, "Support Devices": NO}
    assert third == {"Edema": NO, "Support Devices": YES}
    assert dataset.group_columns == ("Sex", "Frontal/Lateral")
    text = " ".join(dataset.notes)
    assert "empty, read as unknown" in text
    assert "-1 (uncertain), read as unknown: never counted" in text


@pytest.mark.parametrize(
    ("how", "edema", "pneumonia"),
    [
        ({"blank": "absent"}, [NO, YES, NO], [NO, None, NO]),
        ({"uncertain": "present"}, [NO, YES, NO], [NO, YES, None]),
        ({"uncertain": "absent", "blank": "absent"}, [NO, YES, NO], [NO, NO, NO]),
    ],
)
def test_blank_and_uncertain_are_read_as_declared(root, how, edema, pneumonia):
    dataset = read(root, CHEXPERT, "F,F,1,,,", "M,F,,1,-1,0", "F,L,,0,,1", **how)
    assert [row.get("Edema") for row in known(dataset)] == edema
    assert [row.get("Pneumonia") for row in known(dataset)] == pneumonia


ONE_LINE = {
    "no finding beside one": ("Finding Labels", ["No Finding|Mass", "Mass", "Edema"], "not both"),
    "so with columns": ("No Finding,Mass,Edema", ["1,1,0", "0,0,1", "0,1,1"], "not both"),
    "a cell that is no answer": ("Mass,Edema,Cyst", ["1,0,1", "1,1,0", "0,0,2"], "'2' in line 4"),
    "nothing in any row": ("labels", ["", "", ""], "none in any row"),
}


@pytest.mark.parametrize("form", ONE_LINE)
def test_contradictions_are_one_line(root, form):
    head, rows, words = ONE_LINE[form]
    wanted = head.split(",") if "," in head and "No" not in head else None
    with pytest.raises(DataError, match=words) as caught:
        read(root, head, *rows, task="multilabel", classes=wanted)
    assert "\n" not in str(caught.value)


def test_only_the_findings_asked_for_are_used_and_the_others_are_said(root):
    rows = ["1,0,1", "1,1,0", "0,0,"]
    dataset = read(root, "A,B,smoker", *rows, classes=["B", "A"])
    assert dataset.classes == ("B", "A")
    assert dataset.group_columns == ("smoker",)
    listed = read(root, "labels", "A|C", "B", "", classes=["A", "B"])
    assert "2 of 3 findings are used; not C" in listed.notes
    assert known(listed)[0] == {"A": YES, "B": NO}
    with pytest.raises(DataError, match="no word of 'D'"):
        read(root, "labels", "A|C", "B", "", classes=["A", "D"])
    with pytest.raises(DataError, match="'maybe' in line 3"):
        read(root, "A,B,C", "1,0,1", "maybe,1,0", "0,0,1", classes=["A", "B", "C"])


def test_two_names_of_one_finding_are_joined(root):
    dataset = read(
        root, "labels", "Lesion|Cyst", "Lung Lesion", "", class_map={"Lesion": "Lung Lesion"}
    )
    assert dataset.classes == ("Cyst", "Lung Lesion")
    assert [row["Lung Lesion"] for row in known(dataset)] == [YES, YES, NO]


def test_one_label_for_each_image_stays_so(root):
    assert read(root, "label", "a", "b", "a").task == "multiclass"
    assert read(root, "a,b,c", "1,0,0", "0,1,0", "0,0,1").task == "multiclass"
    asked = read(root, "label", "a", "b", "a", task="multilabel")
    assert known(asked)[0] == {"a": YES, "b": NO}
    with pytest.raises(DataError, match="set task: multilabel"):
        read(root, "labels", "a|b", "b", "a", task="multiclass")
    with pytest.raises(DataError, match="one class for each image"):
        read_dataset(folder_of(root / "sub", ["x/1.png", "y/2.png"]), task="multilabel")


def test_tables_for_each_split_are_one_set(root):
    table(root / "train.csv", ["path,labels", "0.png,A|B", "1.png,"])
    table(root / "test.csv", ["path,labels", "2.png,C", "3.png,A"])
    dataset = read_dataset(root, task=None)
    assert dataset.classes == ("A", "B", "C")
    assert known(dataset)[1] == {"A": NO, "B": NO, "C": NO}
    assert [item.split for item in dataset.items] == ["train", "train", "test", "test"]
    table(root / "test.csv", ["path,A,B,C", "2.png,1,1,1", "3.png,1,,-1"])
    with pytest.raises(DataError, match="name findings in the same way"):
        read_dataset(root, task=None)


def test_arrays_of_several_columns(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 0, -1], [0, 1, 0]])
    np.savez(tmp_path / "chest.npz", train_images=images, train_labels=labels)
    dataset = read_dataset(tmp_path / "chest.npz", task=None)
    assert dataset.task == "multilabel"
    assert known(dataset)[0] == {"0": NO, "1": YES, "2": YES}
    assert known(dataset)[2] == {"0": YES, "1": NO}
    named = read_dataset(
        tmp_path / "chest.npz", task="multilabel", class_map={"0": "mass", "1": "cyst", "2": "gas"}
    )
    assert named.classes == ("cyst", "gas", "mass")
    np.savez(tmp_path / "odd.npz", train_images=images, train_labels=labels + 3)
    with pytest.raises(DataError, match="0, 1 or -1"):
        read_dataset(tmp_path / "odd.npz", task="multilabel")


def chest(path: Path, counts=(4, 3, 2)) -> Path:
    """An archive as chestmnist's, smaller. SYNTHETIC."""
    random = np.random.default_rng(0)
    np.savez(path, **{
        f"{part}_{what}": random.integers(0, high, (n, *shape), np.uint8)
        for part, n in zip(("train", "val", "test"), counts, strict=True)
        for what, high, shape in (("images", 256, (28, 28)), ("labels", 2, (14,)))
    })  # fmt: skip
    return path


@pytest.mark.parametrize("name", ["chestmnist.npz", "chestmnist_64.npz"])
def test_the_columns_of_chestmnist_have_their_names(tmp_path, name):
    path = chest(tmp_path / name)
    dataset = read_dataset(path, task=None)
    assert set(dataset.classes) == set(CHEST)
    with np.load(path) as archive:
        row = archive["train_labels"][1]
    item = next(i for i in dataset.items if i.key.endswith("train#1"))
    assert item.findings == dict(zip(CHEST, map(bool, row), strict=True))
    assert dataset.notes == (f"the columns of '{name}' are named as MedMNIST has them",)
    # whoever calls them by number goes on doing so
    numbers = tuple(map(str, range(14)))
    assert read_dataset(path, task=None, classes=numbers).classes == numbers
    mapped = read_dataset(path, task=None, class_map={"4": "tumour"}).classes
    assert set(mapped) == {*numbers, "tumour"} - {"4"}


def test_other_arrays_of_fourteen_columns_have_numbers(tmp_path, monkeypatch):
    path = chest(tmp_path / "mine.npz")
    assert read_dataset(path, task=None).classes == tuple(map(str, range(14)))
    monkeypatch.setattr(arrays, "CHEST_IMAGES", {"train": 4, "val": 3, "test": 2})
    assert set(read_dataset(path, task=None).classes) == set(CHEST)  # by its counts


def test_a_sample_keeps_the_shares_of_what_is_shown(root):
    dataset = read(root, "labels", "A|B", "", "A", "B", "", "A")
    assert len(drawn(dataset, 3, seed=0).items) <= 4
    assert drawn(dataset, 6, seed=0) is dataset
