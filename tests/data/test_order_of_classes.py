"""F9: classes that are numbers come in number order; 0, 1, 10, 2 is what text makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from clinipress.data.sources import read_dataset
from clinipress.study.propose import write_study
from kit.folders import folder_of, table

NAMES = {
    "from 0": [str(n) for n in range(11)],
    "from 1": [str(n) for n in range(1, 13)],
    "grades": [f"grade {n}" for n in range(11)],
    "leading zeros": [f"{n:03d}" for n in range(0, 120, 12)],
    "words around": [f"stage{n}b" for n in range(1, 12)],
    "hundreds": ["0", "1", "2", "10", "11", "100", "101"],
}


@pytest.mark.parametrize("form", NAMES)
def test_f9_folders_of_numbers_are_in_number_order(tmp_path, form):
    wanted = tuple(NAMES[form])
    folders = folder_of(tmp_path / "set", [f"{n}/{i}.png" for n in reversed(wanted) for i in "ab"])
    assert read_dataset(folders).classes == wanted
    splits = folder_of(
        tmp_path / "splits", [f"{s}/{n}/{i}.png" for i, s in enumerate(("train", "test"))
                              for n in reversed(wanted)],
    )  # fmt: skip
    assert read_dataset(splits).classes == wanted


@pytest.mark.parametrize("form", NAMES)
def test_f9_labels_of_numbers_are_in_number_order(tmp_path, form):
    wanted = tuple(NAMES[form])
    root = folder_of(tmp_path / "set", [f"{n:02d}.png" for n in range(2 * len(wanted))])
    labels = [*reversed(wanted), *wanted]
    rows = [f"{n:02d}.png,{label}" for n, label in enumerate(labels)]
    table(root / "manifest.csv", ["path,label", *rows])
    assert read_dataset(root).classes == wanted
    # the same as findings, in one cell or with a column for each
    table(root / "manifest.csv", ["path,label", *rows[1:], f"00.png,{'|'.join(wanted[::-1])}"])
    assert read_dataset(root, task="multilabel").classes == wanted
    cells = [",".join(str(int(label == name)) for name in wanted[::-1]) for label in labels]
    rows = [f"{n:02d}.png,{cell}" for n, cell in enumerate(cells)]
    table(root / "manifest.csv", [f"path,{','.join(wanted[::-1])}", *rows])
    assert read_dataset(root).classes == wanted
    assert read_dataset(root, task="multilabel").classes == wanted


def test_f9_numbers_of_arrays_are_in_number_order(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 28, 28), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(24)[::-1] % 12)
    assert read_dataset(tmp_path / "a.npz").classes == tuple(map(str, range(12)))
    findings = np.eye(14, dtype=np.uint8)[np.arange(24) % 14]
    np.savez(tmp_path / "b.npz", train_images=images, train_labels=findings)
    assert read_dataset(tmp_path / "b.npz", task=None).classes == tuple(map(str, range(14)))


@pytest.mark.parametrize("form", ["grades", "from 0", "from 1"])
def test_f9_init_proposes_grades_in_number_order(tmp_path, form):
    wanted = NAMES[form]
    root = folder_of(tmp_path / "set", [f"{name}/{i}.png" for name in wanted for i in "ab"])
    write_study(root, tmp_path / "study.yaml", weights="none")
    text = (tmp_path / "study.yaml").read_text()
    line = f"order: [{', '.join(map(json.dumps, wanted))}]"
    assert line in text
    sure = form == "grades"  # numbers alone may be codes: a person decides
    assert ("# " + line in text) is not sure
    assert ("order" in yaml.safe_load(text)["data"]) is sure


def test_f9_names_without_numbers_are_in_the_order_of_text(tmp_path):
    names = ["Glioma", "Zoster", "meningioma", "normal", "pituitary"]
    root = folder_of(Path(tmp_path / "set"), [f"{n}/{i}.png" for n in names for i in "ab"])
    assert read_dataset(root).classes == tuple(sorted(names)) == tuple(names)
