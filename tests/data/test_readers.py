"""A10: a row for each image, reader and finding; an image is one case however many rows it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from clinipress.data.sources import read_dataset
from clinipress.errors import DataError, RecipeError
from clinipress.study.propose import write_study
from clinipress.study.read import parse_study
from kit.folders import folder_of, left, table

NAMES = [f"{n:02d}.png" for n in range(20)]
READERS = ("R1", "R2", "R3")
DIFFER = 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", NAMES)


def answers(n: int, reader: int) -> dict[str, int]:
    """Of 20 pictures the third reader sees no mass on the first 5, and the others do."""
    return {"Mass": int(n < 10 and not (n < DIFFER and reader == 2)), "Edema": int(n % 4 == 0)}


def rows(form: str) -> list[str]:
    """60 rows, or 120 with one for each finding."""
    found = {(n, r): answers(n, r) for n in range(20) for r in range(3)}
    lines = {
        "findings": [
            f"{NAMES[n]},{READERS[r]},{name},{value}"
            for (n, r), known in found.items()
            for name, value in known.items()
        ],
        "columns": [
            f"{NAMES[n]},{READERS[r]},{k['Mass']},{k['Edema']}" for (n, r), k in found.items()
        ],
        "cells": [
            f"{NAMES[n]},{READERS[r]},{'|'.join(name for name, there in k.items() if there)}"
            for (n, r), k in found.items()
        ],
    }  # fmt: skip
    heads = {
        "findings": "path,reader,finding,value",
        "columns": "path,rad_id,Mass,Edema",
        "cells": "path,Annotator,labels",
    }
    nameless = {
        "findings without readers": "findings",
        "columns without readers": "columns",
        "cells without readers": "cells",
    }
    like = nameless.get(form, form)
    head, chosen = heads[like], lines[like]
    if form in nameless:
        drop = [0, *range(2, head.count(",") + 1)]
        chosen = [",".join(line.split(",")[i] for i in drop) for line in chosen]
        head = ",".join(head.split(",")[i] for i in drop)
    return [head, *chosen]


FORMS = ("findings", "columns", "cells")
ALL_FORMS = (*FORMS, *(f"{form} without readers" for form in FORMS))


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize(("rule", "masses"), [("any", 10), ("majority", 10)])
def test_a10_sixty_rows_are_twenty_cases(root, form, rule, masses):
    table(root / "manifest.csv", rows(form))
    dataset = read_dataset(root, task="multilabel", readers=rule)
    assert len(dataset.items) == len({item.key for item in dataset.items}) == 20
    assert dataset.classes == ("Edema", "Mass")
    shown = Counter(name for item in dataset.items for name in item.present)
    assert shown == {"Mass": masses, "Edema": 5}
    assert all(set(item.findings) == {"Edema", "Mass"} for item in dataset.items)
    assert dataset.differing == DIFFER
    assert any(f"who differ on 5: data.readers: {rule} decides" in n for n in dataset.notes)
    assert dataset.group_columns == ()


@pytest.mark.parametrize("form", ALL_FORMS)
def test_a10_without_a_rule_one_line_names_it(root, form):
    table(root / "manifest.csv", rows(form))
    with pytest.raises(DataError, match=r"5 images of 20 .*data\.readers: majority, or any") as e:
        read_dataset(root, task="multilabel")
    assert "\n" not in str(e.value)


def test_a10_a_reader_alone_and_a_majority_differ(root):
    lines = [
        f"{n},{r},Mass,{int(i < 2 and r == 'R3')}" for i, n in enumerate(NAMES) for r in READERS
    ]
    table(root / "manifest.csv", ["path,reader,finding,value", *lines])
    some = {
        rule: read_dataset(root, task="multilabel", readers=rule) for rule in ("any", "majority")
    }
    assert sum("Mass" in item.present for item in some["any"].items) == 2
    assert sum("Mass" in item.present for item in some["majority"].items) == 0


def test_a10_a_tie_is_unknown_and_never_absent(root):
    lines = [f"{n},{r},{'Mass' if r == 'R1' or i > 1 else 'Edema'}" for i, n in enumerate(NAMES)
             for r in READERS[:2]]  # fmt: skip
    table(root / "manifest.csv", ["path,reader,labels", *lines])
    dataset = read_dataset(root, task="multilabel", readers="majority")
    assert [dict(item.findings) for item in dataset.items[:3]] == [
        {}, {}, {"Edema": False, "Mass": True},
    ]  # fmt: skip
    assert any("4 without a majority: never counted" in note for note in dataset.notes)


def test_a10_blank_of_one_reader_is_no_answer(root):
    lines = [f"{n},{r},Mass,{'' if r == 'R2' else 1 - i % 2}" for i, n in enumerate(NAMES)
             for r in READERS[:2]]  # fmt: skip
    table(root / "manifest.csv", ["path,reader,finding,value", *lines])
    dataset = read_dataset(root, task="multilabel")
    assert sum("Mass" in item.present for item in dataset.items) == 10
    assert dataset.differing == 0


def test_a10_one_label_of_each_reader(root):
    lines = [f"{n},{r},{'normal' if i >= 10 or (i < DIFFER and r == 'R3') else 'sick'},{r}-{n}"
             for i, n in enumerate(NAMES) for r in READERS]  # fmt: skip
    table(root / "manifest.csv", ["path,reader,label,minutes", *lines])
    dataset = read_dataset(root, readers="majority")
    assert Counter(item.label for item in dataset.items) == {"sick": 10, "normal": 10}
    assert dataset.differing == DIFFER
    assert any("20 images, read by up to 3 readers, who differ on 5" in n for n in dataset.notes)
    with pytest.raises(DataError, match=r"5 images of 20 .*\(sick and normal\).*data\.readers"):
        read_dataset(root)
    # two readers who differ have no majority
    table(root / "manifest.csv", ["path,reader,label,minutes",
                                  *[line for line in lines if ",R1," not in line]])  # fmt: skip
    dataset = read_dataset(root, readers="majority")
    assert len(dataset.items) == 15
    assert len(left(dataset)["image", "no label has a majority of its readers"]) == DIFFER


def test_a10_readers_who_agree_need_no_rule(root):
    lines = [f"{n},{r},{'ab'[i % 2]}" for i, n in enumerate(NAMES) for r in READERS]
    table(root / "manifest.csv", ["path,reader,label", *lines])
    dataset = read_dataset(root)
    assert len(dataset.items) == 20
    assert dataset.differing == 0
    assert dataset.group_columns == ()


def test_a_finding_in_each_row_as_vindr_and_rsna_have_them(root):
    lines = []
    for i, name in enumerate(NAMES):
        for reader in READERS[:2]:
            found = [] if i % 2 else ["Nodule/Mass", "Cardiomegaly", "Cardiomegaly"][: 1 + i % 3]
            boxes = [f"{name},{f},{n},{reader},{i},{n},9,9" for n, f in enumerate(found)]
            lines += boxes or [f"{name},No finding,14,{reader},,,,"]
    table(
        root / "manifest.csv",
        ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", *lines],
    )
    dataset = read_dataset(root, task=None)
    assert dataset.task == "multilabel"
    assert dataset.classes == ("Cardiomegaly", "Nodule/Mass")
    assert len(dataset.items) == 20
    assert Counter(name for item in dataset.items for name in item.present) == {
        "Nodule/Mass": 10, "Cardiomegaly": 6,
    }  # fmt: skip
    assert dataset.differing == 0
    assert dataset.group_columns == ()


def test_boxes_of_one_label_are_one_case(root):
    lines = [f"{name},{x},5,9,9,{i % 2}" for i, name in enumerate(NAMES) for x in range(1 + i % 3)]
    table(root / "manifest.csv", ["path,x,y,width,height,label", *lines])
    dataset = read_dataset(root)
    assert len(dataset.items) == 20
    assert Counter(item.label for item in dataset.items) == {"0": 10, "1": 10}
    assert "x" not in dataset.group_columns


ONE_LINE = {
    "one reader, two answers": (
        ["path,reader,finding,value", "00.png,R1,Mass,1", "00.png,R1,Mass,0", "01.png,R1,Mass,0"],
        r"reader 'R1'.* Mass present and Mass absent for '00\.png'",
    ),
    "no finding beside one": (
        ["path,reader,finding", "00.png,R1,No finding", "00.png,R1,Mass", "01.png,R1,Edema"],
        r"reader 'R1'.* no finding and Mass for '00\.png'",
    ),
    "so without readers": (
        ["path,finding", "00.png,No finding", "00.png,Mass", "01.png,Edema"],
        "name who read in a column 'reader'",
    ),
    "two splits": (
        ["path,split,finding", "00.png,train,Mass", "00.png,test,Edema", "01.png,test,Edema"],
        r"one split .*'train' and 'test' for '00\.png'",
    ),
    "two patients": (
        ["path,patient_id,finding", "00.png,a,Mass", "00.png,b,Edema", "01.png,c,Edema"],
        r"one patient .*'a' and 'b' for '00\.png'",
    ),
    "no answer": (
        ["path,finding,value", "00.png,Mass,1", "00.png,Edema,maybe", "01.png,Mass,0"],
        r"'maybe' in line 3",
    ),
}


@pytest.mark.parametrize("form", ONE_LINE)
def test_what_does_not_fit_together_is_one_line(root, form):
    lines, words = ONE_LINE[form]
    table(root / "manifest.csv", lines)
    with pytest.raises(DataError, match=words) as caught:
        read_dataset(root, task="multilabel")
    assert "\n" not in str(caught.value)


def test_a_slip_in_a_table_of_one_class_is_no_second_finding(root):
    lines = [f"{name},{'abc'[i % 3]}" for i, name in enumerate(NAMES)]
    table(root / "manifest.csv", ["path,label", *lines, "00.png,b"])
    with pytest.raises(DataError, match=r"'00\.png' in 2 rows .*task: multilabel.*data\.readers"):
        read_dataset(root, task=None)


def test_tables_of_which_one_has_several_readers_are_one_set(root):
    table(
        root / "train.csv",
        ["path,reader,labels", "00.png,R1,Mass", "00.png,R2,", "01.png,R1,Mass|Edema"],
    )
    table(root / "test.csv", ["path,reader,labels", "02.png,R1,Gas|Mass", "03.png,R1,"])
    dataset = read_dataset(root, task="multilabel", readers="majority")
    known = [dict(item.findings) for item in dataset.items]
    assert known[0] == {"Edema": False, "Gas": False}  # one of two saw a mass
    assert known[2] == {"Edema": False, "Gas": True, "Mass": True}
    assert known[3] == dict.fromkeys(("Edema", "Gas", "Mass"), False)


def test_init_asks_for_the_rule(root, tmp_path):
    table(root / "manifest.csv", rows("findings"))
    write_study(root, tmp_path / "study.yaml", weights="none")
    text = (tmp_path / "study.yaml").read_text()
    assert "readers:   # any or majority: readers differ on 5 images" in text
    assert yaml.safe_load(text)["data"]["readers"] is None


def test_any_is_for_several_findings():
    data = {"readers": "any"}
    with pytest.raises(RecipeError, match="majority decides"):
        parse_study({"name": "x", "reference": {"model": "resnet18"}, "data": data})
