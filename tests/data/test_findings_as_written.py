"""Labels as people write them: names that are one, rows of one image, cells in other words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from clinipress.data.audit.audit import audit
from clinipress.data.finding import propose_order
from clinipress.data.layouts.findings import matched_findings
from clinipress.data.layouts.items import Labelling
from clinipress.data.sources import read_dataset
from clinipress.data.study import whole_dataset
from clinipress.errors import DataError
from clinipress.progress import Silent
from clinipress.records.candidate import InputSpec
from clinipress.study.propose import write_study
from kit.folders import folder_of, table

SPEC = InputSpec(channels=1, height=24, width=24)
NAMES = [f"{n}.png" for n in range(9)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", NAMES)


def read(root: Path, head: str, *rows: str, **how):
    """The set of a table with a row for each of the first images."""
    lines = [f"path,{head}", *(f"{n},{row}" for n, row in zip(NAMES, rows, strict=False))]
    table(root / "manifest.csv", lines)
    return read_dataset(root, **{"task": "multilabel", **how})


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


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


DEVICES = "No Finding,Edema,Mass,Support Devices"
BESIDE = ["1,,0,1", "1,-1,,", ",1,0,1", ",0,1,", "1,1,0,0"]


def test_devices_and_doubts_have_a_place_beside_no_finding(root):
    for uncertain in ("unknown", "present"):
        dataset = read(root, DEVICES, *BESIDE[:4], uncertain=uncertain)
        assert column(dataset, "Support Devices") == [True, None, True, None]
        assert column(dataset, "Edema") == [False, None, True, False]
    assert column(read(root, DEVICES, *BESIDE[:4], uncertain="absent"), "Edema")[1] is False
    rows = ["0.png,a,Edema,-1", "0.png,a,No Finding,1", "1.png,a,Edema,-1", "1.png,a,Mass,1"]
    table(root / "manifest.csv", ["path,reader,finding,value", *rows])
    dataset = read_dataset(root, task="multilabel", uncertain="present")
    assert column(dataset, "Edema") == [False, True]  # as an empty cell: absent
    table(root / "manifest.csv", ["path,reader,finding", "0.png,a,No Finding", "1.png,a,Mass",
                                  "0.png,a,support_devices", "1.png,a,Edema"])  # fmt: skip
    assert column(read_dataset(root, task="multilabel"), "support_devices") == [True, False]


CONTRADICTORY = {
    "columns": (DEVICES, BESIDE),
    "cells": ("Finding Labels", ["No Finding|Edema", "Mass", "Edema|Mass", "No Finding", ""]),
}


@pytest.mark.parametrize("form", CONTRADICTORY)
def test_a_finding_beside_no_finding_counts_where_it_is_judged(root, form):
    head, rows = CONTRADICTORY[form]
    line = 2 if form == "cells" else 6
    for task in ("multilabel", None):
        with pytest.raises(DataError, match=rf"1 row, the first in line {line} .*'classes'"):
            read(root, head, *rows, task=task)
        noted = read(root, head, *rows, task=task, contradictions="note")
        (note,) = (note for note in noted.notes if "with both no finding and" in note)
        assert (
            f"1 row of 'manifest.csv' with both no finding and a finding, the first in line {line}"
            in note
        )
        assert column(noted, "Edema")[line - 2] is True
    assert read(root, head, *rows, classes=["Mass"]).classes == ("Mass",)  # what the advice says
    elsewhere = read(root, head, *rows, judged=["Mass"])
    assert any("with both no finding and" in note for note in elsewhere.notes)
    with pytest.raises(DataError, match=r"correct them$"):
        read(root, head, *rows, judged=["edema", "Mass"])
    with pytest.raises(DataError, match="both in 1 row"):  # a name that a map makes one of them
        read(root, head, *rows, judged=["Oedema", "Mass"], class_map={"Edema": "Oedema"})


def test_init_writes_what_a_run_would_refuse(root, tmp_path):
    read(root, DEVICES, *BESIDE, contradictions="note")
    write_study(root, tmp_path / "study.yaml", weights="none")
    text = (tmp_path / "study.yaml").read_text()
    assert "  # 1 row of 'manifest.csv' with both no finding and a finding" in text
    assert "leave out with 'classes'" in text


def findings_in_rows(root: Path, *more: str) -> None:
    """18 rows of the letters A, B and C, up to three for an image; nobody is named who read."""
    rows = [f"{name},{letter}" for n, name in enumerate(NAMES) for letter in "ABC"[n % 3 :]]
    table(root / "manifest.csv", ["path,label", *rows, *more])


def test_rows_of_a_finding_each_are_taken_together_whoever_asks(root, tmp_path):
    findings_in_rows(root)
    for how in ({"task": "multilabel"}, {"task": None, "readers": "majority"}, {"readers": "any"}):
        dataset = read_dataset(root, **{"task": None, **how})
        shown = Counter(name for item in dataset.items for name in item.present)
        assert shown == {"A": 3, "B": 6, "C": 9}
        assert not dataset.differing
        assert all(set(item.findings) == {"A", "B", "C"} for item in dataset.items)
    write_study(root, tmp_path / "study.yaml", weights="none")
    assert "readers:" not in (tmp_path / "study.yaml").read_text()
    # a row that is there twice makes no readers of the others
    findings_in_rows(root, "0.png,A")
    dataset = read_dataset(root, task=None, readers="majority")
    assert Counter(n for item in dataset.items for n in item.present) == {"A": 3, "B": 6, "C": 9}
    with pytest.raises(DataError, match="as A and B"):
        read_dataset(root, task="multiclass")


def test_rows_that_say_the_same_again_are_of_readers(root):
    rows = [f"{name},{label}" for n, name in enumerate(NAMES)
            for label in ("A", "A" if n else "B", "B" if n % 2 else "A")]  # fmt: skip
    table(root / "manifest.csv", ["path,label", *rows, "8.png,C"])
    dataset = read_dataset(root, task="multilabel", readers="majority")
    assert all(set(item.present) == {"A"} for item in dataset.items)


def test_of_one_class_for_each_image_only_a_majority_is_offered(root):
    rows = [f"{n},{r},{'ab'[r == 'x']}" for n in NAMES for r in "xyz"]
    table(root / "manifest.csv", ["path,reader,label", *rows])
    with pytest.raises(DataError, match=r"declare data\.readers: majority; of a set"):
        read_dataset(root)


def test_warnings_are_of_findings_that_the_set_knows(root):
    known = read(root, "A,B,C", *(f"1,{n % 2},{int(n == 0)}" for n in range(9)))
    dataset, _ = matched_findings(known, ("A", "B", "Atelectasis"))
    record, _ = audit(dataset)
    text = " ".join(record.warnings)
    assert "Atelectasis" not in text
    assert "'B' has 4 images only" in text
    text = " ".join(audit(known)[0].warnings)
    assert "'A' has 9.0 times the images of 'C'" in text
    assert "'C' has 1 image only" in text


@pytest.mark.parametrize("task", ["multilabel", None])
def test_a_column_of_zeros_beside_findings_is_one_that_nobody_shows(root, tmp_path, task):
    rows = [f"{n % 2},{int(n < 3)},{int(n > 4)},0,m" for n in range(9)]
    dataset = read(root, "A,B,C,Never,sex", *rows, task=task)
    assert dataset.task == "multilabel"
    assert dataset.classes == ("A", "B", "C", "Never")
    assert dataset.group_columns == ("sex",)
    write_study(root, tmp_path / "study.yaml", weights="none")
    text = (tmp_path / "study.yaml").read_text()
    assert yaml.safe_load(text)["data"]["classes"] == ["A", "B", "C"]
    assert "no image shows Never" in text


@pytest.mark.parametrize("form", ["{}", "{}.0", "grade {}.0", "{}.00"])
def test_grades_written_as_decimals_are_numbers(form):
    names = [form.format(n) for n in range(5)]
    assert propose_order(names[::-1]) == (tuple(names), "grade" in form)
    assert propose_order(["0.5", "1.5", "2.5"]) == ((), False)


def elsewhere(root: Path, tmp_path: Path, classes, class_map=None, **how):
    return whole_dataset(root, SPEC, classes, class_map or {}, tmp_path / "cache", **how)


def test_equal_numbers_are_one_class(root, tmp_path):
    read(root, "label", *(f"{n % 3}.0" for n in range(9)), task="multiclass")
    told = Told()
    _, rows, _, _ = elsewhere(root, tmp_path, ("0", "1", "2"), progress=told)
    assert rows.labels.tolist() == [n % 3 for n in range(9)]
    assert "classes of equal numbers: '0.0' as 0, '1.0' as 1 and '2.0' as 2" in told.lines
    # a number that two names are says nothing
    with pytest.raises(DataError, match=r"1\.0"):
        elsewhere(root, tmp_path, ("0", "01", "1"))


def test_advice_names_the_entry_of_the_map(root, tmp_path):
    read(root, "label", *"012012012", task="multiclass")
    with pytest.raises(DataError, match="correct --class-map 2=5"):
        elsewhere(root, tmp_path, ("0", "1", "2"), {"2": "5"})


@pytest.mark.parametrize("word", ["val", "Validation", "valid", "dev", "validation"])
def test_a_split_is_asked_for_as_tables_write_it(root, tmp_path, word):
    rows = [f"{'ab'[n % 2]},{('train', 'val', 'test')[n % 3]}" for n in range(9)]
    read(root, "label,split", *rows, task="multiclass")
    _, rows, _, _ = elsewhere(root, tmp_path, ("a", "b"), split=word)
    assert rows.keys == ("1.png", "4.png", "7.png")
    with pytest.raises(DataError, match=r"--split train, .*validation.*'third'"):
        elsewhere(root, tmp_path, ("a", "b"), split="third")


WORDS = [("ja", "nein"), ("oui", "non"), ("Yes", "No"), ("sí", "no"), ("true", "false"), ("y", "n"),
         ('"1,0"', '"0,0"'), ("positive", "negative")]  # fmt: skip


@pytest.mark.parametrize(("yes", "no"), WORDS)
def test_columns_of_findings_in_words(root, yes, no):
    rows = [",".join(yes if bit else no for bit in (n % 2, n < 3)) for n in range(8)]
    dataset = read(root, "sex,A,B", *(f"m,{row}" for row in rows), "m,,")
    assert dataset.classes == ("A", "B")
    assert column(dataset, "B") == [True] * 3 + [False] * 5 + [None]
    assert dataset.group_columns == ("sex",)


def test_words_beside_columns_of_numbers_are_of_a_group(root):
    dataset = read(root, "A,B,C,smoker", *(f"1,{n % 2},0,{('yes', 'no')[n % 2]}" for n in range(9)))
    assert dataset.classes == ("A", "B", "C")
    assert dataset.group_columns == ("smoker",)


@pytest.mark.parametrize("cells", [("0.8", "0.1"), ("maybe", "maybe"), ("0,8", "0,1")])
def test_the_cell_that_cannot_be_read_is_named(root, cells):
    rows = [",".join(f'"{cells[k]}"' if n == 1 else str(n % 2) for k in range(2)) for n in range(9)]
    with pytest.raises(DataError, match=r" of column '[AB]' \(line 3\) cannot be read") as e:
        read(root, "A,B", *rows)
    assert "one class for each image" not in str(e.value)
    assert "call it" not in str(e.value)
    with pytest.raises(DataError, match=r"' of column '[AB]' \(line 3\) cannot be read"):
        read_dataset(root / "manifest.csv", task="multilabel")


@pytest.mark.parametrize("name", ["rad_id", "reader_id", "class_id", "annotator_id"])
def test_who_read_and_the_number_of_a_class_are_no_patients(root, name):
    rows = [f"{('A', 'B|A', '')[n % 3]},{n % 3}" for n in range(9)]
    record, _ = audit(read(root, f"labels,{name}", *rows))
    assert "call it patient_id" not in " ".join(record.warnings)
    record, _ = audit(read(root, "labels,case_id", *rows))
    assert "'case_id' names the patient" in " ".join(record.warnings)


def test_what_was_read_as_one_is_said_of_a_set_from_elsewhere(root, tmp_path):
    rows = [f"{pair},{n % 2}" for n, pair in enumerate(PAIRS)]
    read(root, "Mass,Nodule,Cyst", *rows)
    how = {"labelling": Labelling("multilabel")}
    _, found, record, _ = elsewhere(
        root, tmp_path, ("Nodule", "Cyst"), {"mass": "Nodule", "Cist": "Cyst"}, **how
    )
    values = {True: 1, False: 0, None: -1}
    assert found.labels[:, 0].tolist() == [values[there] for there in TOGETHER]
    text = " ".join(record.warnings)
    assert "'Mass' and 'Nodule' are read as one finding, 'Nodule'" in text
    assert "class_map has names that no folder or label has: Cist" in text
    with pytest.raises(DataError, match="'Pleura' of --class-map"):
        elsewhere(root, tmp_path, ("Nodule", "Cyst"), {"Mass": "Pleura"}, **how)


def test_a_model_of_two_spellings_keeps_them_apart(root):
    dataset = read(root, "labels", "Mass", "mass", "Mass|mass", "")
    matched, _ = matched_findings(dataset, ("Mass", "mass"))
    assert column(matched, "Mass") == [True, False, True, False]
    assert column(matched, "mass") == [False, True, True, False]


@pytest.mark.parametrize("task", ["multilabel", None])
def test_a_slip_in_a_column_beside_findings_is_told_without_its_cell(root, task):
    rows = [
        f"{n % 2},{n % 3 // 2},1,{'Ann said' if n == 4 else n % 2},{30 + n},{('no', 'yes')[n % 2]}"
        for n in range(9)
    ]
    dataset = read(root, "A,B,D,C,age,E", *rows, task=task)
    assert dataset.classes == ("A", "B", "D")
    text = " ".join(dataset.notes)
    assert "column 'C' is a group, none of the findings: line 6 says neither 1 nor 0" in text
    assert "(1 of 9 cells)" in text
    assert "column 'E' is a group, none of the findings: it says yes and no" in text
    assert "Ann" not in text
    assert "'age'" not in text


def test_the_reason_of_a_table_left_out_quotes_no_cell(root):
    table(root / "clinic.csv", ["path,consent", "0.png,yes", "1.png,yes", "2.png,Ann withdrew"])
    dataset = read(root, "A,B", "1,0", "0,1", "1,1")
    reasons = " ".join(entry.reason for entry in dataset.left_out)
    assert "column 'consent' (line 4) cannot be read" in reasons
    assert "Ann" not in reasons


def test_of_findings_in_words_one_that_nobody_shows_is_absent(root):
    dataset = read(root, "A,B,C", "yes,no,no", "no,yes,no", "yes,yes,", "no,no,no")
    assert dataset.classes == ("A", "B", "C")
    assert column(dataset, "C") == [False, False, None, False]


def test_a_reader_who_says_both_is_noted_where_nothing_is_learnt(root):
    rows = ["a.png,No Finding,1,x", "a.png,Fracture,1,x", "b.png,Fracture,0,x", "b.png,Mass,1,x"]
    for number in (0, 1):
        (root / f"{number}.png").rename(root / f"{'ab'[number]}.png")
    table(root / "manifest.csv", ["path,finding,value,reader", *rows])
    with pytest.raises(DataError, match="no finding"):
        read_dataset(root, task="multilabel")
    dataset = read_dataset(root, task="multilabel", contradictions="note")
    assert "1 image of 'manifest.csv' with both no finding and a finding" in str(dataset.notes)
    judged = read_dataset(root, task="multilabel", judged=frozenset({"mass"}))
    assert column(judged, "Fracture") == [True, False]


def test_what_is_uncertain_of_devices_beside_no_finding_is_as_declared(root):
    rows = ("1,,-1,-1", "0,1,0,0")
    dataset = read(root, "No Finding,Mass,Nodule,Support Devices", *rows, uncertain="present")
    assert column(dataset, "Support Devices") == [True, False]
    assert column(dataset, "Nodule") == [None, False]
    assert column(dataset, "Mass") == [False, True]
