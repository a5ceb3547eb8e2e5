"""Labels as people write them: names that are one, rows of one image, cells in other words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clinipress.data.layouts.findings import matched_findings
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from kit.folders import folder_of, table

NAMES = [f"{n}.png" for n in range(9)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", NAMES)


def read(root: Path, head: str, *rows: str, **how):
    """The set of a table with a row for each of the first images."""
    lines = [f"path,{head}", *(f"{n},{row}" for n, row in zip(NAMES, rows, strict=False))]
    table(root / "manifest.csv", lines)
    return read_dataset(root, **{"task": "multilabel", **how})


def column(dataset, name: str) -> list[bool | None]:
    return [item.findings.get(name) for item in dataset.items]


PAIRS = ["1,1", "1,0", "1,", "0,0", "0,", ",0", ",", "0,1", ",1"]
TOGETHER = [True, True, True, False, None, None, None, True, True]


def test_two_findings_read_as_one_stay_unknown_where_one_is(root):
    rows = [f"{pair},{n % 2}" for n, pair in enumerate(PAIRS)]
    mapped = read(root, "Mass,Nodule,Cyst", *rows, class_map={"Mass": "Nodule"})
    assert column(mapped, "Nodule") == TOGETHER
    assert any("'Mass' and 'Nodule' are read as one finding, 'Nodule'" in n for n in mapped.notes)
    # a model trained with that map reads the same set in the same way
    plain = read(root, "Mass,Nodule,Cyst", *rows)
    dataset, notes = matched_findings(plain, ("Nodule", "Cyst"), {"Mass": "Nodule"})
    assert column(dataset, "Nodule") == TOGETHER
    assert any("are read as one finding" in note for note in notes)


def test_spellings_of_one_finding_are_known_wherever_one_of_them_is(root):
    lines = [f"{n},{'Effusion' if i % 2 else 'EFFUSION'},{i % 3 % 2}"
             for i, n in enumerate(NAMES)]  # fmt: skip
    table(root / "manifest.csv", ["path,finding,value", *lines, "0.png,Mass,1"])
    dataset = read_dataset(root, task="multilabel", class_map={"EFFUSION": "Effusion"})
    assert column(dataset, "Effusion") == [bool(i % 3 % 2) for i in range(9)]
    assert not any("are read as one" in note for note in dataset.notes)


def test_findings_that_differ_in_spelling_only_are_named(root):
    dataset = read(root, "labels", "Effusion", "effusion |Mass", "Pleural_Effusion", "")
    (note,) = (note for note in dataset.notes if "spelling only" in note)
    assert "'Effusion' (1) and 'effusion' (1)" in note
    assert "class_map" in note
    joined = read(root, "labels", "Effusion", "effusion |Mass", "", class_map={
        "effusion": "Effusion"})  # fmt: skip
    assert column(joined, "Effusion")[:3] == [True, True, False]
    assert not any("spelling only" in note for note in joined.notes)


@pytest.mark.parametrize("key", ["Pleural Effusion", "pleural_effusion", "PLEURAL  effusion"])
def test_keys_of_a_map_are_matched_as_names_are(root, key):
    how = {"class_map": {key: "Effusion"}}
    dataset = read(root, "labels", "Pleural effusion", "Mass", "", **how)
    assert dataset.classes == ("Effusion", "Mass")
    assert not any("class_map has names" in note for note in dataset.notes)
    two = read(root, "labels", "Pleural effusion", "pleural-Effusion", "Mass", **how)
    assert "Effusion" not in two.classes  # of two that are alike none is meant
    assert any("class_map has names" in note for note in two.notes)


def test_a_target_that_the_model_does_not_know_is_refused(root):
    dataset = read(root, "labels", "Effusion", "Mass", "", class_map={"Effusion": "Pleura"})
    with pytest.raises(DataError, match=r"'Pleura' of --class-map.*it knows .*Effusion") as e:
        matched_findings(dataset, ("Pleural Effusion", "Mass"), {}, ["Pleura"])
    assert "\n" not in str(e.value)
    dataset = read(
        root, "labels", "Effusion", "Mass", "", class_map={"Effusion": "pleural_effusion"}
    )
    matched, _ = matched_findings(dataset, ("Pleural Effusion", "Mass"), {}, ["pleural_effusion"])
    assert Counter(n for i in matched.items for n in i.present) == {
        "Pleural Effusion": 1,
        "Mass": 1,
    }
