"""A2: names of findings and classes in sets from elsewhere: alike, as trained on, or mapped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clinipress.data.layouts.findings import matched_findings
from clinipress.data.layouts.items import Labelling
from clinipress.data.sources import read_dataset
from clinipress.data.study import whole_dataset
from clinipress.errors import DataError, InputError
from clinipress.evidence.scores import Scores
from clinipress.progress import Silent
from clinipress.records.candidate import Card, InputSpec
from clinipress.study.external import evaluate
from clinipress.study.read import parse_study
from clinipress.study.scores import calibrated
from kit.folders import folder_of, table

MODEL = ("Lung_Lesion", "Fibrosis")
OWN_NAMES = {"LL": "Lung_Lesion", "fib": "Fibrosis"}  # of the table it was trained on
SPEC = InputSpec(channels=1, height=24, width=24)
ROWS = ["0.png,lung lesion|Lesion", "1.png,fibrosis ", "2.png,Lesion|fibrosis", "3.png,"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", [f"{n}.png" for n in range(4)])


def shown(dataset) -> Counter[str]:
    return Counter(name for item in dataset.items for name in item.present)


def test_a2_case_blanks_and_underscores_are_matched_and_said(root):
    table(root / "manifest.csv", ["path,labels", *ROWS])
    dataset, notes = matched_findings(read_dataset(root, task="multilabel"), MODEL)
    assert dataset.classes == MODEL
    assert shown(dataset) == {"Lung_Lesion": 1, "Fibrosis": 2}
    text = " ".join(notes)
    assert "'lung lesion' as Lung_Lesion" in text
    assert "'fibrosis' as Fibrosis" in text
    # another name stays another finding until a map says so
    assert "does not know, left out: Lesion (map one with --class-map" in text
    mapped = read_dataset(root, task="multilabel", class_map={"Lesion": "Lung_Lesion"})
    dataset, notes = matched_findings(mapped, MODEL)
    assert shown(dataset) == {"Lung_Lesion": 2, "Fibrosis": 2}
    assert "left out" not in " ".join(notes)


def test_a2_names_of_the_training_data_are_matched_too(root):
    table(
        root / "manifest.csv",
        ["path,labels", "0.png,LL", "1.png,FIB|Lesion", "2.png,fib", "3.png,"],
    )
    there = read_dataset(root, task="multilabel")
    with pytest.raises(DataError, match="--class-map"):
        matched_findings(there, MODEL)
    dataset, notes = matched_findings(there, MODEL, OWN_NAMES)
    assert shown(dataset) == {"Lung_Lesion": 1, "Fibrosis": 2}
    assert "'LL' as Lung_Lesion" in " ".join(notes)
    assert "left out: Lesion" in " ".join(notes)


def test_a2_a_column_for_each_and_a_finding_of_two_names(root):
    rows = ["0.png,1,0,", "1.png,,1,0", "2.png,0,0,1", "3.png,0,0,"]
    table(root / "manifest.csv", ["path,LUNG  LESION,LL,Fibrosis", *rows])
    dataset, _ = matched_findings(read_dataset(root, task="multilabel"), MODEL, OWN_NAMES)
    assert [item.findings.get("Lung_Lesion") for item in dataset.items] == [
        True,
        True,
        False,
        False,
    ]
    assert [item.findings.get("Fibrosis") for item in dataset.items] == [None, False, True, None]


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a2_classes_of_the_training_data_need_no_map(tmp_path):
    root = folder_of(
        tmp_path / "set", [f"{name}/{n}.png" for name in ("CT_COVID", "clear") for n in "abc"]
    )
    own, told = {"CT_COVID": "covid", "CT_Non": "clear", "unused": "gone"}, Told()
    _, rows, _, _ = whole_dataset(
        root, SPEC, ("clear", "covid"), {}, tmp_path / "cache", own_names=own, progress=told
    )
    assert dict(zip(rows.keys, rows.labels.tolist(), strict=True)) == {
        f"{name}/{n}.png": label for name, label in (("CT_COVID", 1), ("clear", 0)) for n in "abc"
    }
    assert "classes named as in the training data: 'CT_COVID' as covid" in told.lines
    with pytest.raises(DataError, match="--class-map CT_COVID"):
        whole_dataset(root, SPEC, ("clear", "covid"), {}, tmp_path / "other")
    # what the call says goes before what the card says
    _, rows, _, _ = whole_dataset(
        root, SPEC, ("clear", "covid"), {"CT_COVID": "clear", "clear": "covid"},
        tmp_path / "third", own_names=own,
    )  # fmt: skip
    assert np.bincount(rows.labels).tolist() == [3, 3]
    assert dict(zip(rows.keys, rows.labels.tolist(), strict=True))["CT_COVID/a.png"] == 0


def test_a2_the_card_of_a_bundle_carries_the_names_of_the_study():
    tree = {"name": "x", "reference": {"model": "resnet18"}}
    study = parse_study(tree | {"data": {"task": "multilabel", "class_map": OWN_NAMES}})
    labels = np.zeros((2, len(MODEL)), np.int64)
    labels[0, 0] = 1
    seen = Scores(
        logits=labels.astype(np.float32), labels=labels, units=np.arange(2), keys=("a", "b"),
        classes=MODEL, thresholds=(0.5,) * len(MODEL),
    )  # fmt: skip
    card = Card(name="x", classes=MODEL, input=SPEC, task="multilabel")
    piece = SimpleNamespace(scores={"validation": seen}, file=SimpleNamespace(card=card))
    made = calibrated(piece, study)
    assert made.class_map == OWN_NAMES
    assert made.thresholds == (0.5, *(None,) * (len(MODEL) - 1))


def test_a2_a_card_carries_the_names_and_one_without_them_does_not_change():
    card = Card(name="x", classes=MODEL, input=SPEC, task="multilabel", class_map=OWN_NAMES)
    assert Card.model_validate_json(card.model_dump_json()).class_map == OWN_NAMES
    assert "class_map" not in Card(name="x", classes=MODEL, input=SPEC).model_dump()


def test_a_set_from_elsewhere_says_what_its_blanks_and_its_readers_mean(root, tmp_path):
    def known(number: int, **said: str) -> list[list[int]]:
        _, rows, _, _ = whole_dataset(
            root, SPEC, MODEL, {}, tmp_path / f"cache{number}",
            labelling=Labelling("multilabel", **said),
        )  # fmt: skip
        return rows.labels.tolist()

    rows = ["0.png,1,", "1.png,-1,0", "2.png,0,1", "3.png,,"]
    table(root / "manifest.csv", ["path,Lung_Lesion,Fibrosis", *rows])
    assert known(0) == [[1, -1], [-1, 0], [0, 1], [-1, -1]]
    said = {"blank": "absent", "uncertain": "present"}
    assert known(1, **said) == [[1, 0], [1, 0], [0, 1], [0, 0]]
    three = [f"0.png,{who},{seen},0" for who, seen in (("a", 1), ("b", 0), ("c", 0))]
    rows = [f"{n}.png,{who},0,{n % 2}" for n in (1, 2, 3) for who in "abc"]
    table(root / "manifest.csv", ["path,reader,Lung_Lesion,Fibrosis", *three, *rows])
    with pytest.raises(DataError, match="--readers"):
        known(2)
    assert known(3, readers="majority")[0] == [0, 0]
    assert known(4, readers="any")[0] == [1, 0]


def test_words_that_say_nothing_of_blanks_or_readers_are_refused(root):
    with pytest.raises(InputError, match=r"--blank unknown, absent or present.*'no'"):
        evaluate(root, root, blank="no")
    with pytest.raises(InputError, match=r"--readers any or majority.*'all'"):
        evaluate(root, root, readers="all")
