"""Tables of findings as hospitals and contests publish them: right, or one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clinipress.data.audit.audit import audit
from clinipress.data.sources import read_dataset
from clinipress.data.splits import make_split
from clinipress.data.study import open_study_data
from clinipress.errors import DataError
from clinipress.recipe.study import DataRecipe, SplitRecipe
from clinipress.records.store import Store
from kit.folders import folder_of, table

NAMES = [f"{n}.png" for n in range(8)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", NAMES)


def present(dataset) -> list[list[str]]:
    return [sorted(item.present) for item in dataset.items]


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Pneumonia"


def chexpert(tmp_path: Path, patients: int = 8) -> Path:
    """Two images of each patient, whom only the path names."""
    names = [f"train/patient{p:05d}/study1/view{v}.jpg" for p in range(patients) for v in (1, 2)]
    root = folder_of(tmp_path / "chexpert", names)
    rows = [
        f"CheXpert-v1.0-small/{name},F,68,Frontal,AP,,{n % 2}.0,{['-1.0', ''][n % 2]},{n // 8}.0"
        for n, name in enumerate(names)
    ]
    table(root / "train.csv", [CHEXPERT, *rows])
    return root


def test_folders_of_chexpert_name_the_patients(tmp_path):
    dataset = read_dataset(chexpert(tmp_path), task="multilabel")
    assert [item.patient for item in dataset.items] == [f"patient{n // 2:05d}" for n in range(16)]
    assert any(
        "folders in 'Path' name the patients, such as 'patient00000'" in n for n in dataset.notes
    )
    split = make_split(dataset, audit(dataset)[1], SplitRecipe(fractions=(0.5, 0.25, 0.25)), 0)
    assert split.by == "patient"
    held = Counter((i.patient, split.assignment[i.key]) for i in dataset.items)
    assert set(held.values()) == {2}


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (
            [f"files/p10/p1000{n:04d}/s5/{n}.png" for n in range(4)],
            [f"p1000{n:04d}" for n in range(4)],
        ),
        ([f"sub-{n:02d}/anat/{n}.png" for n in range(1, 5)], [f"sub-{n:02d}" for n in range(1, 5)]),
        ([f"images/p{n}/{n}.png" for n in range(4)], [None] * 4),  # pages, parts, plates
        (["patient1/0.png", "patient1/1.png", "2.png", "patient3/3.png"], [None] * 4),
        ([f"patient7/{n}.png" for n in range(4)], [None] * 4),
    ],
)  # fmt: skip
def test_only_folders_that_are_persons_name_them(tmp_path, names, patients):
    root = folder_of(tmp_path / "set", names)
    table(
        root / "manifest.csv", ["path,label", *(f"{n},{'ab'[i % 2]}" for i, n in enumerate(names))]
    )
    assert [item.patient for item in read_dataset(root).items] == patients
    head = "path,label,patient_id"  # a column says more
    table(root / "manifest.csv", [head, *(f"{n},{'ab'[i % 2]},q{i}" for i, n in enumerate(names))])
    assert {item.patient for item in read_dataset(root).items} == {f"q{n}" for n in range(4)}


def test_a_patient_of_one_rare_combination_stays_a_patient(root):
    rows = ["0.png,Patient 1,A|B", "1.png,Patient 2,A", "2.png,Patient 1,A", "3.png,Patient 3,C"]
    table(root / "manifest.csv", ["path,patient_id,labels", *rows])
    dataset = read_dataset(root, task="multilabel")
    assert [item.patient for item in dataset.items] == [f"Patient {n}" for n in (1, 2, 1, 3)]


def test_the_published_table_of_nih_is_read_with_its_broken_header(root):
    head = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    )
    labels = ["Cardiomegaly", "Cardiomegaly|Emphysema", "No Finding", "Hernia"]
    rows = [f"{n}.png,{x},0,{n + 1},058Y,M,PA,2682,2749,0.143,0.143," for n, x in enumerate(labels)]
    table(root / "Data_Entry_2017.csv", [head, *rows])
    dataset = read_dataset(root, task=None)
    assert present(dataset) == [["Cardiomegaly"], ["Cardiomegaly", "Emphysema"], [], ["Hernia"]]
    assert [item.patient for item in dataset.items] == ["1", "2", "3", "4"]


def test_a_column_y_is_the_label_where_nothing_else_is(root):
    table(root / "manifest.csv", ["path,y", *(f"{n},{i % 3}" for i, n in enumerate(NAMES))])
    assert read_dataset(root).classes == ("0", "1", "2")


def test_boxes_of_rsna_have_one_label(root):
    head = "path,x,y,width,height,Target"
    rows = ["0,264.0,152.0,213.0,379.0,1", "0,562.0,152.0,256.0,453.0,1", "1,,,,,0", "2,,,,,0"]
    table(root / "manifest.csv", [head, *rows])
    dataset = read_dataset(root)
    assert [item.label for item in dataset.items] == ["1", "0", "0"]
    assert "'manifest.csv': 4 rows are 3 images" in dataset.notes
    assert dataset.differing is None


def test_classes_of_rsna_and_its_own_file_names(root):
    table(root / "manifest.csv", ["patientId,Target", "0,1", "1,0"])
    with pytest.raises(
        DataError, match=r"no column of paths .*patientId, Target\); call it 'path'"
    ):
        read_dataset(root)
    other = "No Lung Opacity / Not Normal"
    rows = ["0,Lung Opacity", "0,Lung Opacity", "1,Normal", f"2,{other}", f"3,{other}"]
    table(root / "manifest.csv", ["path,class", *rows])
    dataset = read_dataset(root, task=None)
    assert dataset.task == "multiclass"
    assert dataset.classes == ("Lung Opacity", other, "Normal")
    assert Counter(item.label for item in dataset.items) == {
        "Lung Opacity": 1,
        "Normal": 1,
        other: 2,
    }


def test_haemorrhages_of_rsna_in_the_name_of_the_image_are_one_line(root):
    rows = [f"ID_{n}_{kind},0" for n in range(2) for kind in ("any", "epidural", "subdural")]
    table(root / "manifest.csv", ["ID,Label", *rows])
    with pytest.raises(DataError, match=r"none of the files it names is there \(6 rows\)"):
        read_dataset(root, task="multilabel")


LISTS = {
    "padchest": ["['pleural effusion', 'cardiomegaly']", "['normal']", "['cardiomegaly ', '']"],
    "padchest with blanks": ["[' pleural effusion', ' cardiomegaly']", "[]", "['cardiomegaly']"],
    "sets": ["{'pleural effusion', 'cardiomegaly'}", "set()", "{'cardiomegaly'}"],
    "tuples": ["('pleural effusion', 'cardiomegaly')", "()", "('cardiomegaly',)"],
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_of_strings(root, form):
    rows = [f'{n}.png,p{n},"{cell}"' for n, cell in enumerate(LISTS[form])]
    table(root / "manifest.csv", ["ImageID,PatientID,Labels", *rows])
    dataset = read_dataset(root, task=None)
    assert dataset.classes == ("cardiomegaly", "pleural effusion")
    assert present(dataset) == [["cardiomegaly", "pleural effusion"], [], ["cardiomegaly"]]


@pytest.mark.parametrize("mark", ["+", " + ", "/", " & ", ", "])
def test_other_marks_part_names_that_stand_alone_elsewhere(root, mark):
    table(root / "manifest.csv", ["path\tlabel", f"0.png\tA{mark}B", "1.png\tA", "2.png\tB"])
    dataset = read_dataset(root, task=None)
    assert present(dataset) == [["A", "B"], ["A"], ["B"]]
    # what stands alone nowhere is a name: "Nodule/Mass", "T+"
    table(root / "manifest.csv", ["path\tlabel", f"0.png\tA{mark}B", "1.png\tA", "2.png\tC"])
    assert read_dataset(root, task=None).task == "multiclass"
    table(root / "manifest.csv", ["path\tlabel", f"0.png\tA{mark}B", "1.png\tA", "2.png\tB"])
    with pytest.raises(DataError, match="set task: multilabel"):
        read_dataset(root, task="multiclass")


def test_findings_of_brset_are_named_and_the_rest_are_groups(root):
    head = (
        "image_id,patient_id,camera,patient_age,diabetes,exam_eye,DR_ICDR,"
        "diabetic_retinopathy,macular_edema,scar"
    )
    rows = [
        f"{n},p{n // 2},Canon,{50 + n},{'yes' if n % 2 else 'no'},{1 + n % 2},{n % 5},"
        f"{int(n % 5 > 0)},{int(n % 4 == 0)},{int(n == 3)}"
        for n in range(8)
    ]
    table(root / "labels_brset.csv", [head, *rows])
    dataset = read_dataset(root, task=None)
    assert dataset.classes == ("diabetic_retinopathy", "macular_edema", "scar")
    assert dataset.group_columns == ("camera", "patient_age", "diabetes", "exam_eye", "DR_ICDR")
    assert len({item.patient for item in dataset.items}) == 4


def test_a_row_for_both_eyes_as_odir_has_it_is_one_line(tmp_path):
    root = folder_of(tmp_path / "set", [f"{n}_{eye}.jpg" for n in range(3) for eye in ("l", "r")])
    rows = [f"{n},{n}_l.jpg,{n}_r.jpg,{n % 2},{n // 2},0" for n in range(3)]
    table(root / "manifest.csv", ["ID,Left-Fundus,Right-Fundus,N,D,G", *rows])
    with pytest.raises(DataError, match="none of the files it names is there") as caught:
        read_dataset(root, task="multilabel")
    assert "\n" not in str(caught.value)


def test_what_no_image_of_one_table_shows_is_absent_there(root):
    head = "path,No Finding,Edema,Hernia,Mass"
    table(root / "train.csv", [head, "0.png,0,1,0,1", "1.png,0,0,1,0", "2.png,1,,,"])
    table(root / "test.csv", [head, "3.png,0,1,0,0", "4.png,0,1,0,1", "5.png,0,0,0.0,1"])
    dataset = read_dataset(root, task="multilabel")
    assert [item.findings["Hernia"] for item in dataset.items] == [False, True, *[False] * 4]
    assert "Hernia" not in dataset.group_columns


def test_what_no_image_shows_is_not_learnt_and_said(tmp_path):
    root = folder_of(tmp_path / "set", [f"{n:02d}.png" for n in range(40)])
    rows = [f"{n:02d}.png,{n % 2},{n // 2 % 2},0,{n // 4 % 2}" for n in range(40)]
    table(root / "manifest.csv", ["path,A,B,Hernia,C", *rows])
    recipe = DataRecipe(task="multilabel")
    opened = open_study_data(root, recipe, Store(tmp_path / "run"), seed=0)
    assert opened.classes == ("A", "B", "C")
    assert "no image shows Hernia: not learnt" in opened.dataset.notes
    assert all(set(item.findings) == {"A", "B", "C"} for item in opened.dataset.items)
    recipe = DataRecipe(task="multilabel", classes=("A", "Hernia"))
    with pytest.raises(DataError, match="images with and without 'Hernia'"):  # who asks for it
        open_study_data(root, recipe, Store(tmp_path / "other"), seed=0)
