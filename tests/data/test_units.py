"""Units: what is known holds images together, whatever is not known of others."""

import time
from pathlib import Path

import numpy as np
import pytest

from clinipress.data.audit.audit import Fingerprints, audit
from clinipress.data.layouts.items import Dataset
from clinipress.data.sources import read_dataset
from clinipress.data.splits import make_split, units
from clinipress.data.units import HEADER_PATIENT, best_unit, checked_units
from clinipress.errors import DataError
from clinipress.recipe.study import SplitRecipe
from clinipress.records.item import ImageItem
from kit.folders import folder_of, table

CLASSES = ("a", "b")


def item(i, label=None, **facts):
    name = f"{i:05d}.png"
    return ImageItem(name, Path(name), label or CLASSES[i % 2], **facts)


def held(items, clusters=None):
    """A data set of checked items, and fingerprints of nothing but clusters."""
    items, notes = checked_units(items)
    n, classes = len(items), tuple(sorted({i.label for i in items}))
    data = Dataset(Path(), "manifest", classes, tuple(items), notes=notes)
    number = np.arange(n) if clusters is None else np.asarray(clusters)
    prints = Fingerprints(
        tuple(i.key for i in items), np.ones(n, bool), [""] * n, np.zeros(n, np.uint64),
        np.zeros((n, 32, 32), np.uint8), np.zeros((n, 0), np.float32), (), number,
    )  # fmt: skip
    return data, prints


def divided(items, clusters=None, by="auto"):
    data, prints = held(items, clusters)
    split = make_split(data, prints, SplitRecipe(by=by), 0)
    return split, split.summary(data, units(data, prints, split.by))


def torn(split, true_unit):
    """How many true units stand on several sides; `true_unit` takes an image's number."""
    sides = {}
    for key, side in split.assignment.items():
        sides.setdefault(true_unit(int(key[:5])), set()).add(side)
    return sum(len(seen) > 1 for seen in sides.values())


def person(i):
    return i // 4


def test_f1_one_image_without_a_patient_undoes_no_other():
    split, summary = divided(
        [item(i, patient=None if i == 7 else f"P{person(i)}") for i in range(120)]
    )
    assert torn(split, lambda i: -1 if i == 7 else person(i)) == 0
    assert (split.by, summary.unit, summary.without_unit) == ("patient", "patient", 1)
    assert "119 of 120 images name their patient" in split.reason


@pytest.mark.parametrize("known", [0.1, 0.4, 0.9])
def test_f1_the_few_that_are_known_are_kept_whole_too(known):
    items = [
        item(i, patient=f"P{person(i)}" if person(i) < 30 * known else None) for i in range(120)
    ]
    split, summary = divided(items)
    assert torn(split, lambda i: person(i) if person(i) < 30 * known else -i) == 0
    assert summary.without_unit == sum(i.patient is None for i in items)


def test_f1_an_image_without_a_patient_stays_with_its_near_duplicate_and_so_with_the_patient():
    items = [item(i, patient=None if i == 7 else f"P{person(i)}") for i in range(120)]
    clusters = np.arange(120)
    clusters[7] = clusters[100]
    split, _ = divided(items, clusters)
    assert split.assignment["00007.png"] == split.assignment["00100.png"]


def test_f1_intervals_count_the_same_units_as_the_split():
    data, prints = held([item(i, patient=None if i == 7 else f"P{person(i)}") for i in range(120)])
    assert units(data, prints, "published").max() + 1 == 31
    assert units(data, prints, "patient").max() + 1 == 31


def test_f1_a_patient_of_the_table_and_of_the_header_is_one():
    """Ten people; the table names half of each one's images, the header all."""
    items = [
        item(
            i, patient=f"M{person(i)}" if i % 4 < 2 else None, units={"PatientID": f"H{person(i)}"}
        )
        for i in range(40)
    ]
    checked, _ = checked_units(items)
    assert [i.patient for i in checked] == [f"M{person(n)}" for n in range(40)]
    assert all("PatientID" not in i.units for i in checked)


def test_f1_a_header_shared_by_two_patients_of_the_table_joins_them_not():
    items = [item(i, patient=f"M{i % 4}", units={"PatientID": f"H{i % 2}"}) for i in range(40)]
    assert {i.patient for i in checked_units(items)[0]} == {"M0", "M1", "M2", "M3"}


def test_f9_slices_of_one_study_stay_together_where_no_patient_is_named():
    split, summary = divided(
        [item(i, CLASSES[i // 6 % 2], units={"study": f"1.2.{i // 6}"}) for i in range(180)]
    )
    assert torn(split, lambda i: i // 6) == 0
    assert (split.by, summary.unit) == ("study", "study")
    assert "every image names its study" in split.reason
    assert "patients are not named" in split.reason


def test_f9_series_serve_where_there_is_no_study():
    split, summary = divided(
        [item(i, CLASSES[i // 6 % 2], units={"series": f"1.2.{i // 6}"}) for i in range(180)]
    )
    assert (torn(split, lambda i: i // 6), summary.unit) == (0, "series")


def test_f9_an_image_without_patient_stays_with_its_study():
    items = [
        item(
            i,
            CLASSES[i // 6 % 2],
            patient=None if i % 6 == 2 else f"P{i // 6}",
            units={"study": f"1.{i // 6}"},
        )
        for i in range(180)
    ]
    split, summary = divided(items)
    assert (torn(split, lambda i: i // 6), summary.unit, summary.without_unit) == (0, "patient", 30)


PLACEHOLDERS = (
    *("ANON", "anonymous", "Anonymized", "anonymised", "0", "000", "nan", "NaN", "None", "n/a"),
    *("UNKNOWN", "unbekannt", "-", "?", "***", "no id", "Patient", "de-identified", "REMOVED"),
)


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_f9_a_placeholder_is_no_patient(name):
    """Half of the images bear it, of both classes; the others name theirs."""
    items = [item(i, patient=name if person(i) % 2 else f"P{person(i)}") for i in range(80)]
    checked, notes = checked_units(items)
    assert {i.patient for i in checked if i.patient} == {f"P{n}" for n in range(0, 20, 2)}
    assert f"the patient '{name}' of 40 images" in notes[0]


@pytest.mark.parametrize(
    "names",
    [
        [str(n) for n in range(20)],
        [f"ANON_{n:03d}" for n in range(20)],
        list("abcdefghijklmnopqrst"),
        ["00", *map(str, range(1, 20))],
    ],
)
def test_f9_numbers_from_0_and_pseudonyms_are_patients(names):
    checked, notes = checked_units([item(i, patient=names[person(i)]) for i in range(80)])
    assert ({i.patient for i in checked}, notes) == (set(names), ())


def test_f9_one_name_for_all_of_a_class_is_no_patient():
    items = [item(i, patient=f"ANON_{CLASSES[i % 2].upper()}") for i in range(80)]
    data, prints = held(items)
    assert {i.patient for i in data.items} == {None}
    assert "all 40 images of class 'a' name one patient, an anonymous one" in data.notes[0]
    assert make_split(data, prints, SplitRecipe(), 0).by == "near-duplicate cluster"


def test_f9_two_people_who_may_be_two_names_are_not_torn_but_said():
    """Safety first: a real patient is never torn; the refusal names the cause."""
    data, prints = held([item(i, patient=("Smith", "Jones")[i % 2]) for i in range(80)])
    assert "each class is of one patient, such as 'a'" in data.notes[0]
    assert "Smith" not in "".join(data.notes)  # an identifier has no place in a warning
    with pytest.raises(
        DataError, match=r"1 separate patient of it.*no patient but a name for many"
    ):
        make_split(data, prints, SplitRecipe(), 0)


@pytest.mark.parametrize("kind", ["study", "series", "lesion"])
def test_f9_placeholders_of_other_kinds_are_noticed(kind):
    items, notes = checked_units([item(i, units={kind: "1.2.3"}) for i in range(80)])
    assert best_unit(items)[0] == "near-duplicate cluster"
    assert notes == (f"all 80 images name the same {kind}: treated as unknown",)


def test_f9_folders_inside_a_class_are_units_where_they_are_many(tmp_path):
    for i in range(40):
        folder = tmp_path / CLASSES[i // 4 % 2] / f"patient_{i // 4:03d}" / "axial"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").touch()
    items = read_dataset(tmp_path).items
    assert best_unit(items) == ("folder", 0)
    assert {i.unit("folder") for i in items} == {f"patient_{n:03d}" for n in range(10)}


def test_f9_a_folder_of_several_patients_is_no_unit():
    """Five sites in each class: what is known of patients is not given up for them."""
    items = [
        item(i, patient=f"P{person(i)}", units={"folder": f"site {person(i) % 5}"})
        for i in range(120)
    ]
    checked, _ = checked_units(items)
    assert best_unit(checked) == ("patient", 0)
    data, prints = held(items)
    assert units(data, prints, "patient").max() + 1 == 30


@pytest.mark.parametrize(("patients", "kept"), [(2, True), (12, False)])
def test_f9_a_study_of_many_patients_has_no_name_of_its_own(patients, kept):
    """Two names of one study are one person's, as far as one can know; twelve are not."""
    items = [
        item(i, patient=f"P{person(i)}", units={"study": f"1.{person(i) // patients}"})
        for i in range(24 * 4)
    ]
    data, prints = held(items)
    assert units(data, prints, "patient").max() + 1 == (24 // patients if kept else 24)
    assert bool(data.notes) is not kept


def test_f9_the_folder_of_one_patient_holds_an_image_that_names_none():
    items = [
        item(i, patient=None if i % 4 == 1 else f"P{person(i)}", units={"folder": f"f{person(i)}"})
        for i in range(120)
    ]
    split, summary = divided(items)
    assert (torn(split, person), summary.unit, summary.without_unit) == (0, "patient", 30)


def test_f9_a_few_folders_inside_a_class_are_no_units(tmp_path):
    for i in range(40):
        folder = tmp_path / CLASSES[i % 2] / f"site {i // 2 % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").touch()
    assert best_unit(read_dataset(tmp_path).items)[0] == "near-duplicate cluster"


def test_a3_a_lesion_is_not_called_a_patient():
    split, summary = divided([item(i, units={"lesion": f"HAM_{i // 2}"}) for i in range(120)])
    assert (split.by, summary.unit, summary.without_unit) == ("lesion", "lesion", 0)
    assert "every image names its lesion" in split.reason
    assert "patients are not named, so images of one may stand on both sides" in split.reason


@pytest.mark.parametrize(
    ("column", "kind"),
    [("lesion_id", "lesion"), ("record_id", "record"), ("tile_id", "tile"), ("study_id", "study"),
     ("slide_id", "slide"), ("StudyInstanceUID", "study"), ("SeriesInstanceUID", "series")],
)  # fmt: skip
def test_a3_columns_of_a_manifest_name_units(tmp_path, column, kind):
    lines = [f"path,label,{column},sex"]
    for i in range(12):
        (tmp_path / f"{i}.png").touch()
        lines.append(f"{i}.png,{CLASSES[i % 2]},U{i // 2},f")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    data = read_dataset(tmp_path)
    assert best_unit(data.items) == (kind, 0)
    assert data.group_columns == ("sex",)


def test_a3_asking_for_patients_where_lesions_are_named_is_refused():
    with pytest.raises(DataError, match="120 of 120 images without one"):
        divided([item(i, units={"lesion": f"HAM_{i // 2}"}) for i in range(120)], by="patient")


@pytest.mark.realdata
def test_a3_the_audit_of_ham10000_names_no_patients(realdata):
    data = read_dataset(realdata / "ham10000")
    some = Dataset(data.root, data.layout, data.classes, data.items[::40], data.group_columns)
    record, _ = audit(some, threads=1)
    assert (record.patients, record.units) == (None, {"lesion": len(some.items)})
    assert any(
        "no patient is named" in text and "lesions are kept whole" in text
        for text in record.warnings
    )


def test_f5_dividing_many_images_takes_linear_time():
    items = [item(i, patient=f"P{i // 2}") for i in range(20_000)]
    data, prints = held(items)
    start = time.process_time()
    make_split(data, prints, SplitRecipe(), 0)
    assert time.process_time() - start < 8  # 27.9 s with a set made once per image


def test_f9_published_splits_drop_what_shares_a_study_with_the_test_split():
    items = [
        item(i, units={"study": f"1.{i // 3}"}, split="test" if i % 21 == 0 else "train")
        for i in range(240)
    ]
    split, summary = divided(items, by="published")
    assert torn(split, lambda i: i // 3) == 0
    assert (split.by, summary.unit) == ("published", "study")
    assert "shares its study '1' with the published test image" in next(
        iter(split.dropped.values())
    )


def test_f1_a_patient_numbered_by_pandas_in_one_table_only_is_one(tmp_path):
    """A missing number makes a column float: 1 in train.csv is 1.0 in test.csv. SYNTHETIC."""
    folder_of(tmp_path, [f"{i}.png" for i in range(24)])
    for side, end in (("train", ""), ("test", ".0")):
        names = [i for i in range(24) if (i % 2 == 0) == (side == "train")]
        lines = [f"{i}.png,{'ab'[i // 2 % 2]},{i // 2 + 1}{end}" for i in names]
        table(tmp_path / f"{side}.csv", ["path,label,patient_id", *lines])
    data = read_dataset(tmp_path)
    assert {i.patient for i in data.items} == {f"{n}" for n in range(1, 13)}
    assert any("12 patients are written in several ways" in note for note in data.notes)
    record, _ = audit(data, threads=1)
    assert sum(record.patient_leaks.values()) == 12


@pytest.mark.parametrize("kind", ["patient", "lesion", "study", "record", HEADER_PATIENT])
@pytest.mark.parametrize(
    ("name", "other"),
    [("1", "1.0"), ("M\u00fc 1", "Mu\u0308 1"), ("A B", "A  B"), ("A B", " A\u00a0B")],
)
def test_f1_units_that_look_the_same_are_one(kind, name, other):
    values = [f"{n}-x" for n in range(10)]
    facts = [
        {"patient": v} if kind == "patient" else {"units": {kind: v}}
        for v in [name, other, *values]
    ]
    items, notes = checked_units([item(i, **fact) for i, fact in enumerate(facts)])
    shown = "patient" if kind == HEADER_PATIENT else kind
    assert [i.unit(shown) for i in items] == [name, name, *values]
    assert any(f"1 {shown} is written in several ways" in note for note in notes)
    assert not any("case or leading zeros" in note for note in notes)


@pytest.mark.parametrize("kind", ["patient", "slide", HEADER_PATIENT])
@pytest.mark.parametrize(("name", "other"), [("007", "7"), ("p7", "P7"), ("A-03-b", "a-3-B")])
def test_f1_units_that_differ_in_case_or_zeros_are_said_and_stay(kind, name, other):
    values = [f"{n}-x" for n in range(10)]
    facts = [
        {"patient": v} if kind == "patient" else {"units": {kind: v}}
        for v in [name, other, *values]
    ]
    items, notes = checked_units([item(i, **fact) for i, fact in enumerate(facts)])
    shown = "patient" if kind == HEADER_PATIENT else kind
    assert [i.unit(shown) for i in items] == [name, other, *values]
    assert [note for note in notes if "case or leading zeros" in note and shown in note]
    assert not any(name in note for note in notes if len(name) > 2)  # identifiers are people's


def test_f1_other_numbers_stay_apart_and_are_not_said():
    items, notes = checked_units(
        [item(i, patient=v) for i, v in enumerate(["1.0", "1.1", "10", "1.00.1", "1.2", "12"])]
    )
    assert len({i.patient for i in items}) == 6
    assert notes == ()
