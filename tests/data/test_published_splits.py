"""Published splits: which column they are in, who stands in several of them, and the repair."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from clinipress.data.audit.audit import audit
from clinipress.data.sources import read_dataset
from clinipress.data.splits import make_split
from clinipress.data.study import open_study_data
from clinipress.errors import DataError, RecipeError
from clinipress.progress import Silent
from clinipress.recipe.study import DataRecipe, SplitRecipe
from clinipress.records.store import Store
from clinipress.study.propose import write_study
from clinipress.study.read import parse_study
from kit.folders import folder_of, table

NAMES = [f"{n:02d}.png" for n in range(12)]
PUBLISHED = ["train"] * 6 + ["val"] * 2 + ["test"] * 4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", NAMES)


def written(root: Path, cells: list[str], column: str = "published_split", **more: list[str]):
    """A manifest with our own split and a published one; patients two images each."""
    own = ["train", "test"] * 6
    rows = [f"{name},{'ab'[n % 2]},{own[n]},p{n // 2},{cells[n]}" for n, name in enumerate(NAMES)]
    table(root / "manifest.csv", [f"path,label,split,patient_id,{column}", *rows])
    return root


def test_another_column_holds_the_published_splits(root):
    named = read_dataset(written(root, PUBLISHED), split_column="published_split")
    assert [item.split for item in named.items] == [
        {"val": "validation"}.get(cell, cell) for cell in PUBLISHED
    ]
    assert [i.split for i in read_dataset(root).items] == ["train", "test"] * 6
    assert read_dataset(root, split_column="Published Split").items == named.items
    # the other one is no group to look at results by
    for found, other in ((named, "split"), (read_dataset(root), "published_split")):
        assert found.group_columns == ()
        assert f"manifest.csv: {other}" in [entry.path for entry in found.left_out]


@pytest.mark.parametrize(
    ("cells", "asked", "words"),
    [
        (PUBLISHED, "fold", r"column 'fold' .*got path, label, split.*splits: split and published"),
        ([str(n % 3) for n in range(12)], "published_split", r"'0' \(4\), '1' \(4\), '2' \(4\)"),
        ([*PUBLISHED[:11], "holdout"], "published_split", r"'holdout' \(1\).*splits: split\b"),
        ([""] * 12, "published_split", r"'' \(12\)"),
    ],
)
def test_a_column_that_holds_no_splits_is_one_line_with_what_there_is(root, cells, asked, words):
    with pytest.raises(DataError, match=words) as caught:
        read_dataset(written(root, cells), split_column=asked)
    assert "\n" not in str(caught.value)


def test_a_column_needs_a_table_and_published_splits(root, tmp_path):
    folders = folder_of(tmp_path / "folders", ["a/1.png", "b/2.png"])
    with pytest.raises(DataError, match="class folders"):
        read_dataset(folders, split_column="split")
    with pytest.raises(RecipeError, match="by: published, not by: patient"):
        parse_study(
            {
                "name": "x",
                "reference": {"model": "resnet18"},
                "data": {"split": {"by": "patient", "column": "split"}},
            }
        )


def test_init_names_the_other_column(root, tmp_path):
    write_study(written(root, PUBLISHED), tmp_path / "study.yaml", weights="none")
    text = (tmp_path / "study.yaml").read_text()
    assert 'by: published, column: "published_split"' in text


class Told(Silent):
    """What was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_study_says_who_was_shared_and_writes_why_each_was_left_out(root, tmp_path):
    # p0 stands in train and test, p3 in train and validation
    written(root, ["train", "test", *["train"] * 4, "val", "train", "val", "val", "test", "test"])
    recipe = DataRecipe(positive="a", split=SplitRecipe(by="published", column="published_split"))
    progress = Told()
    opened = open_study_data(root, recipe, Store(tmp_path / "run"), seed=0, progress=progress)
    line = next(line for line in progress.lines if line.startswith("published splits: "))
    assert "2 patients stand in more than one: 1 in train and test ('p0') and 1 in" in line
    assert "repaired: 2 images that share a patient or near-duplicate" in line
    kept = json.loads((tmp_path / "run" / "split.json").read_text())
    assert kept["dropped"] == {
        "00.png": "shares its patient 'p0' with the published test image '01.png'",
        "07.png": "shares its patient 'p3' with the published validation image '06.png'",
    }
    assert kept["test"] == ["01.png", "10.png", "11.png"]
    assert "repaired" in opened.summary.reason
    assert opened.summary.dropped == 2


def by_hand(path: Path) -> tuple[dict[str, int], set[str], dict[str, str]]:
    """Patients in two splits each, those in several, and split -> images that must go."""
    with path.open(newline="") as file:
        rows = [
            (r["path"], r["patient_id"], {"valid": "validation"}.get(s := r["published_split"], s))
            for r in csv.DictReader(file)
        ]
    held: dict[str, set[str]] = {}
    for _, patient, split in rows:
        held.setdefault(split, set()).add(patient)
    pairs = {"train and test": ("train", "test"), "validation and test": ("validation", "test")}
    pairs["train and validation"] = ("train", "validation")
    counts = {name: len(held[a] & held[b]) for name, (a, b) in pairs.items()}
    several = {p for a, b in pairs.values() for p in held[a] & held[b]}
    gone = {path: "test" for path, who, s in rows if s != "test" and who in held["test"]}
    gone |= {
        path: "validation"
        for path, who, s in rows
        if s == "train" and who in held["validation"] - held["test"]
    }
    return counts, several, gone


def test_the_published_split_of_nih_is_repaired_and_its_test_kept_whole(realdata):
    folder = realdata / "nih-chest14-64"
    recipe = SplitRecipe(by="published", column="published_split")
    data = read_dataset(folder, task="multilabel", split_column="published_split")
    _, fingerprints = audit(data)
    split = make_split(data, fingerprints, recipe, 0)
    counts, several, gone = by_hand(folder / "manifest.csv")
    assert (counts["train and test"], len(several)) == (8, 30)
    assert f"{len(several)} patients stand in more than one" in split.reason
    assert all(f"{number} in {name}" in split.reason for name, number in counts.items())
    by_patient = {
        k: why for k, why in split.dropped.items() if why.startswith("shares its patient")
    }
    assert by_patient.keys() == gone.keys()
    assert all(f"the published {gone[key]} image" in why for key, why in by_patient.items())
    published = {item.key: item.split for item in data.items}
    assert {k for k, s in split.assignment.items() if s == "test"} == {
        k for k, s in published.items() if s == "test"
    }
    held: dict[str, set[str]] = {}
    for item in data.items:
        if item.key in split.assignment:
            held.setdefault(item.patient or "", set()).add(split.assignment[item.key])
    assert max(Counter(map(len, held.values()))) == 1
