"""A hierarchy of findings: what is declared fills what is unknown, and nothing is assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinipress.data.sources import read_dataset
from clinipress.errors import DataError, RecipeError
from clinipress.study.read import parse_study
from kit.folders import folder_of, table

PARENTS = {"COVID-19": "Viral", "Viral": "Pneumonia", "Bacterial": "Pneumonia"}
HEAD = "path,COVID-19,Viral,Bacterial,Pneumonia,Edema"
# what is filled stands in brackets
ROWS = {
    "1,,,,": "1 (1) . (1) .",
    ",,,0,": "(0) (0) (0) 0 .",
    ",1,,,1": ". 1 . (1) 1",
    ",0,,1,": "(0) 0 . 1 .",
    "0,,1,,0": "0 . 1 (1) 0",
    "1,1,0,1,": "1 1 0 1 .",
    ",,,,": ". . . . .",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", [f"{n}.png" for n in range(8)])


def test_unknown_parents_and_children_are_filled(root):
    table(root / "manifest.csv", [HEAD, *(f"{n}.png,{row}" for n, row in enumerate(ROWS))])
    plain = read_dataset(root, task="multilabel")
    dataset = read_dataset(root, task="multilabel", parents=PARENTS)
    names = HEAD.split(",")[1:]
    for before, after, words in zip(plain.items, dataset.items, ROWS.values(), strict=True):
        cells = dict(zip(names, words.split(), strict=True))
        assert after.findings == {n: "1" in cell for n, cell in cells.items() if cell != "."}
        assert before.findings == {n: cell == "1" for n, cell in cells.items() if cell in "01"}
    assert dataset.notes[-1] == (
        "'data.parents' fills unknown findings: 4 as present (Pneumonia (3), Viral (1)) and 4 as "
        "absent (Bacterial (1), COVID-19 (2), Viral (1))"
    )


def test_cells_that_name_a_child_name_its_parents(root):
    table(root / "manifest.csv", ["path,labels", "0.png,COVID-19|Edema", "1.png,Pneumonia",
                                  "2.png,", "3.png,Viral", "4.png,Bacterial|Viral"])  # fmt: skip
    dataset = read_dataset(root, task="multilabel", parents=PARENTS)
    assert [sorted(item.present) for item in dataset.items] == [
        ["COVID-19", "Edema", "Pneumonia", "Viral"],
        ["Pneumonia"],
        [],
        ["Pneumonia", "Viral"],
        ["Bacterial", "Pneumonia", "Viral"],
    ]
    assert all(len(item.findings) == 5 for item in dataset.items)
    assert dataset.items[0].label == "COVID-19|Edema|Pneumonia|Viral"
    assert "4 as present (Pneumonia (3), Viral (1))" in dataset.notes[-1]
    assert not read_dataset(root, task="multilabel").items[0].present & {"Viral", "Pneumonia"}


def test_a_parent_that_is_not_learnt_still_links(root):
    table(root / "manifest.csv", [HEAD, *(f"{n}.png,{row}" for n, row in enumerate(ROWS))])
    chosen = ["COVID-19", "Pneumonia"]
    dataset = read_dataset(root, task="multilabel", classes=chosen, parents=PARENTS)
    assert dict(dataset.items[0].findings) == {"COVID-19": True, "Pneumonia": True}
    assert dict(dataset.items[3].findings) == {"COVID-19": False, "Pneumonia": True}


def test_names_of_the_study_are_meant(root):
    table(
        root / "manifest.csv", ["path,labels", "0.png,sars", "1.png,virus", "2.png,lung", "3.png,"]
    )
    dataset = read_dataset(
        root,
        task="multilabel",
        class_map={"sars": "COVID-19", "virus": "Viral", "lung": "Pneumonia"},
        parents={"COVID-19": "Viral", "Viral": "Pneumonia"},
    )
    assert sorted(dataset.items[0].present) == ["COVID-19", "Pneumonia", "Viral"]


def test_contradictions_are_one_line_with_the_first_images(root):
    rows = ["1,0,,,", ",1,,0,", ",,1,0,", "1,,,0,", ",,,1,1"]
    table(root / "manifest.csv", [HEAD, *(f"{n}.png,{row}" for n, row in enumerate(rows))])
    words = (
        r"4 of 5 images otherwise: '0\.png' \(COVID-19 without Viral\), '1\.png' \(Viral without "
        r"Pneumonia\), '2\.png' \(Bacterial without Pneumonia\)"
    )
    with pytest.raises(DataError, match=words) as caught:
        read_dataset(root, task="multilabel", parents=PARENTS)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_one_line(root):
    table(root / "manifest.csv", ["path,labels", "0.png,Viral", "1.png,Edema", "2.png,"])
    with pytest.raises(DataError, match=r"'data\.parents' of Edema and Viral, got 'Pneumonia'"):
        read_dataset(root, task="multilabel", parents={"Viral": "Pneumonia"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"task": "multilabel", "parents": {"a": "b", "b": "c", "c": "a"}}, "a -> b -> c -> a"),
        ({"task": "multilabel", "parents": {"a": "a"}}, "a -> a"),
        ({"task": "multilabel", "parents": {"x": "a", "a": "b", "b": "a"}}, "x -> a -> b -> a"),
        ({"parents": {"a": "b"}}, "task: multilabel"),
    ],
)
def test_circles_and_single_classes_are_one_line(data, words):
    with pytest.raises(RecipeError, match=words):
        parse_study({"name": "x", "reference": {"model": "resnet18"}, "data": data})
