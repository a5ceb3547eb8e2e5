"""A table in any usual form gives what the plain one gives, or is refused with the fix."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from clinipress.data.audit.audit import audit
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from kit.folders import folder_of, left, picture, rows_of, table

IMAGES = [f"{'AB'[i % 2]}/im {i}.png" for i in range(12)]
SPLITS = ("train", "validation", "test")
HEAD = ["path", "label", "split", "patient_id", "sex"]
ROWS = [
    [name, ("bénin", "malin")[i % 2], SPLITS[i // 2 % 3], f"P{i // 2}", "fm"[i % 2]]
    for i, name in enumerate(IMAGES)
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "set", IMAGES)


def written(rows: list[list[str]], head: list[str] = HEAD, mark: str = ",") -> list[str]:
    return [mark.join(cells) for cells in (head, *rows)]


def plain(root: Path) -> list[tuple[object, ...]]:
    path = table(root / "manifest.csv", written(ROWS))
    rows = rows_of(read_dataset(root))
    path.unlink()
    assert len(rows) == 12
    assert rows[0][3:] == ("train", "P0", {"sex": "f"})
    return rows


def cells(change: Callable[[str], str], column: int = 0) -> list[list[str]]:
    return [[change(c) if n == column else c for n, c in enumerate(row)] for row in ROWS]


FORMS: dict[str, tuple[str, list[str], str]] = {
    "semicolons": ("manifest.csv", written(ROWS, mark=";"), "utf-8"),
    "tabs": ("manifest.csv", written(ROWS, mark="\t"), "utf-8"),
    "bars": ("manifest.csv", written(ROWS, mark="|"), "utf-8"),
    "tsv": ("manifest.tsv", written(ROWS, mark="\t"), "utf-8"),
    "utf-16": ("manifest.csv", written(ROWS), "utf-16"),
    "utf-16 without mark": ("manifest.csv", written(ROWS), "utf-16-le"),
    "utf-16 big": ("manifest.csv", written(ROWS), "utf-16-be"),
    "utf-32": ("manifest.csv", written(ROWS), "utf-32"),
    "utf-8 with mark": ("manifest.csv", written(ROWS), "utf-8-sig"),
    "cp1252": ("manifest.csv", written(ROWS), "cp1252"),
    "capitals": ("m.csv", written(ROWS, ["PATH", "LABEL", "SPLIT", "PATIENT_ID", "sex"]), "utf-8"),
    "words": (
        "labels.csv", written(ROWS, ["Path", "Label", "Split", "PatientID", "sex"]), "utf-8"
    ),
    "file_name": (
        "metadata.csv", written(ROWS, ["file_name", "class", "set", "Patient ID", "sex"]), "utf-8"
    ),
    "filename, labels": ("m.csv", written(ROWS, ["filename", "labels", *HEAD[2:]]), "utf-8"),
    "image_id without suffix": (
        "m.csv",
        written(cells(lambda c: c[2:-4]), ["image_id", "dx", *HEAD[2:]]),
        "utf-8",
    ),
    "names only": ("m.csv", written(cells(lambda c: c[2:])), "utf-8"),
    "missing suffix": ("m.csv", written(cells(lambda c: c[:-4])), "utf-8"),
    "other case": ("m.csv", written(cells(str.upper)), "utf-8"),
    "Windows": ("m.csv", written(cells(lambda c: "C:\\data\\" + c.replace("/", "\\"))), "utf-8"),
    "other machine": ("m.csv", written(cells(lambda c: "/home/me/set/" + c)), "utf-8"),
    "dots": ("m.csv", written(cells(lambda c: "./" + c)), "utf-8"),
    "Excel": ("m.csv", ["sep=;", *written(ROWS, mark=";")], "utf-8"),
    "trailing": ("m.csv", [line + ";;" for line in written(ROWS, mark=";")], "utf-8"),
    "blank lines": ("m.csv", ["", *"\n\n".join(written(ROWS)).split("\n"), ",,,,"], "utf-8"),
    "quotes": ("m.csv", ['"' + '", "'.join(row) + '"' for row in (HEAD, *ROWS)], "utf-8"),
    "index": (
        "m.csv",
        written([[str(n), *row] for n, row in enumerate(ROWS)], ["", *HEAD]),
        "utf-8",
    ),
    "apart": ("m.csv", [unicodedata.normalize("NFD", line) for line in written(ROWS)], "utf-8"),
    "one column per class": (
        "m.csv",
        written(
            [[r[0], str(int(r[1] == "bénin")), f"{r[1] == 'malin':.1f}", *r[2:]] for r in ROWS],
            ["image", "bénin", "malin", *HEAD[2:]],
        ),
        "utf-8",
    ),
    "rows twice": ("m.csv", written([*ROWS, ROWS[3], ROWS[3]]), "utf-8"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_f2_any_usual_form_gives_what_the_plain_table_gives(root: Path, form: str) -> None:
    name, lines, encoding = FORMS[form]
    expected = plain(root)
    path = table(root / name, lines, encoding)
    for given in (root, path):
        found = read_dataset(given)
        assert found.layout == "manifest"
        rows = [
            (key, unicodedata.normalize("NFC", str(label)), *rest)
            for key, label, *rest in rows_of(found)
        ]
        assert rows == expected
        assert not any(kind in ("table", "file") for kind, _ in left(found))
    columns = [names for (kind, _), names in left(found).items() if kind == "column"]
    assert columns == []


def test_f2_old_macintosh_lines_and_single_quotes(root: Path) -> None:
    expected = plain(root)
    (root / "m.csv").write_bytes("\r".join(written(ROWS)).encode())
    assert rows_of(read_dataset(root)) == expected
    table(root / "m.csv", ["'" + "','".join(row) + "'" for row in (HEAD, *ROWS)])
    assert rows_of(read_dataset(root)) == expected


def test_f2_cp1252_and_foreign_names_of_columns_are_said(root: Path) -> None:
    table(root / "m.csv", written(ROWS, ["image", "target", *HEAD[2:]]), "cp1252")
    notes = read_dataset(root).notes
    assert any("'image' as path and 'target' as label" in note for note in notes)
    assert any("not UTF-8" in note for note in notes)
    table(root / "m.csv", written(ROWS))
    assert read_dataset(root).notes == ()


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        ("notes.csv", ["case,remark", "1,none"], "no column of paths (columns: case, remark)"),
        ("patients.csv", ["path,sex", "A/im 0.png,f"], "no column of labels (columns: path, sex)"),
        ("other.csv", ["id,class", "7,x", "8,y"], "none of the files it names is there (2 rows)"),
        ("empty.csv", [""], "no column of paths (columns: none)"),
        ("book.xlsx", ["PK"], ".xlsx is not read: save it as .csv"),
        ("rows.jsonl", ['{"path": 1}'], ".jsonl is not read: save it as .csv"),
    ],
)
def test_f2_a_table_that_is_not_used_is_named_with_its_reason(
    root: Path, name: str, lines: list[str], reason: str
) -> None:
    table(root / name, lines)
    found = read_dataset(root)
    assert found.layout == "class folders"
    [entry] = [entry for entry in found.left_out if entry.kind == "table"]
    assert entry.path == name
    assert entry.reason.startswith(reason)


def test_f2_a_folder_without_classes_says_why_its_table_was_not_used(tmp_path: Path) -> None:
    folder_of(tmp_path, ["1.png", "2.png"])
    table(tmp_path / "list.csv", ["file,kind", "1.png,a", "2.png,b"])
    with pytest.raises(DataError, match=r"'list\.csv' is not used: no column of labels.*'label'"):
        read_dataset(tmp_path)


def test_f2_train_and_test_tables_bring_the_split(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"im/{n}.png" for n in range(6)])
    table(tmp_path / "train.csv", ["image,label", *(f"{n},{'ab'[n % 2]}" for n in range(4))])
    table(tmp_path / "test_labels.csv", ["image,label", "4,a", "5,b"])
    table(tmp_path / "val.csv", ["image", "5"])
    found = read_dataset(tmp_path)
    assert [item.split for item in found.items] == ["train"] * 4 + ["test"] * 2
    assert [entry.path for entry in found.left_out] == ["val.csv"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", 'im/0.png,"a', "im/1.png,b", "im/2.png,a"], "not closed.*line 2"),
        (["path,label", 'im/0.png,"a', 'im/1.png,b"', "im/2.png,a"], "not closed.*line 2"),
        (["path,label,n", 'im/0.png,a,"x', 'im/1.png,b,"y', "im/2.png,a,"], "not closed.*line 2"),
        (["path,label,n", 'im/0.png,a,"x', 'im/1.png,b,y"', "im/2.png,a,"], "not closed.*line 2"),
        (["label,path", 'a,im/0.png', 'b,"im/1.png', 'a,im/2.png"'], "not closed.*line 3"),
        (["image,diagnosis,target", "0,a,1", "1,b,1", "2,a,0"],
         "one column of labels.*target, diagnosis.*'label'"),
        (["path,label", "im/0.png,a", "im/1.png,nan", "im/2.png,b"], "nan in line 3.*take the row"),
        (["path,label", "im/0.png,a", "im/9.png,b"], "1 of 2 not there, first 'im/9.png'.*did you"),
        (["path,label", "im/0.png,a", f"{'x' * 300}.png,b"], "1 of 2 not there, first 'xxx"),
        (["path,label", "im/0.png,a", "im/\x00.png,b"], "UTF-8, UTF-16 or Windows-1252"),
    ],
)  # fmt: skip
def test_f2_f22_f25_what_is_wrong_is_said_with_the_line_and_the_fix(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    folder_of(tmp_path, [f"im/{n}.png" for n in range(3)])
    table(tmp_path / "m.csv", lines)
    for given in (tmp_path, tmp_path / "m.csv"):
        with pytest.raises(DataError, match=message) as problem:
            read_dataset(given)
        assert "\n" not in str(problem.value)
        assert len(str(problem.value)) < 800


def test_f25_texts_of_several_lines_are_no_open_quote(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"im/{n}.png" for n in range(3)])
    rows = [f'im/{n}.png,{"ab"[n % 2]},"text {n},\nof, several, lines\n,,,"' for n in range(3)]
    table(tmp_path / "m.csv", ["path,label,report", *rows])
    assert len(read_dataset(tmp_path).items) == 3


def test_f25_a_folder_with_an_archive_names_it(tmp_path: Path) -> None:
    (tmp_path / "set.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"give the archive itself: '.*set\.npz'"):
        read_dataset(tmp_path)


def test_f25_two_files_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    folder_of(tmp_path, ["a/1.png", "b/1.png", "b/2.png"])
    table(tmp_path / "m.csv", ["path,label", "1.png,x", "2.png,y"])
    with pytest.raises(DataError, match=r"it may be a/1\.png or b/1\.png: write the folder too"):
        read_dataset(tmp_path)
    table(tmp_path / "m.csv", ["path,label", "c/1.png,x", "2.png,y"])
    with pytest.raises(DataError, match="1 of 2 not there"):  # of another folder than it says
        read_dataset(tmp_path)


def test_f7_a_name_without_suffix_means_the_photograph_and_not_its_mask(tmp_path: Path) -> None:
    names = [f"{part}/ISIC_{n}.png" for part in ("images", "segmentations") for n in range(4)]
    folder_of(tmp_path, [*names, "images/ISIC_0_segmentation.png"])
    lines = ["lesion_id,image_id,dx", *(f"L{n},ISIC_{n},{'ab'[n % 2]}" for n in range(4))]
    table(tmp_path / "HAM10000_metadata.csv", lines)
    found = read_dataset(tmp_path)
    assert [item.key for item in found.items] == [f"images/ISIC_{n}.png" for n in range(4)]
    assert left(found)["folder", "masks beside images"] == ["segmentations"]


def test_f14_columns_that_nearly_are_ours(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"im/{n}.png" for n in range(30)])
    head = "Unnamed: 0,path,label,Split,PatientID,StudyUID,site,remark,target,age"
    lines = [
        f"{n},im/{n}.png,{'ab'[n % 2]},{('Train', 'Test')[n // 20]},P{n // 2},1.2.{n // 2},"
        f"{'xyz'[n % 3]},note of {n},{n % 2},{30 + n // 2}"
        for n in range(30)
    ]
    table(tmp_path / "m.csv", [head, *lines])
    found = read_dataset(tmp_path)
    assert found.group_columns == ("site", "age")
    assert len({item.patient for item in found.items}) == 15
    assert len({item.units["study"] for item in found.items}) == 15
    assert {item.split for item in found.items} == {"train", "test"}
    columns = {entry.path: entry.reason for entry in found.left_out if entry.kind == "column"}
    assert columns == {
        "m.csv: Unnamed: 0": "an identifier: no group",
        "m.csv: remark": "another value in every row: no group",
        "m.csv: target": "the label again: no group",
    }


def test_f14_a_word_that_ends_like_an_identifier_is_none(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(4)])
    lines = ["image,COVID,thyroid,sarcoid", "0,1,0,0", "1,0,1,0", "2,0,0,1", "3,1,0,0"]
    table(tmp_path / "m.csv", lines)
    assert read_dataset(tmp_path).classes == ("COVID", "sarcoid", "thyroid")


def test_f15_several_labels_for_one_image_get_one_line(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(4)])
    table(
        tmp_path / "m.csv",
        ["Image Index,Finding Labels", "0.png,Effusion|Mass", "1.png,Mass", "2.png,Effusion"],
    )
    with pytest.raises(DataError, match=r"several for 1 of 3 rows.*line 2 \('Effusion\|Mass'\)"):
        read_dataset(tmp_path)
    table(tmp_path / "m.csv", ["path,labels", "0.png,", "1.png,A|B", "2.png,C"])
    with pytest.raises(DataError, match=r"several for 1 of 3 rows.*line 3 \('A\|B'\)"):
        read_dataset(tmp_path)
    table(
        tmp_path / "m.csv",
        ["filename,Effusion,Mass,None", "0.png,1,1,0", "1.png,0,1,0", "2.png,0,0,1"],
    )
    with pytest.raises(DataError, match=r"several for 1 of 3 rows.*line 2 \(Effusion and Mass\)"):
        read_dataset(tmp_path)
    table(
        tmp_path / "m.csv",
        ["filename,Effusion,Mass,None", "0.png,0,0,0", "1.png,0,1,0", "2.png,0,0,1"],
    )
    with pytest.raises(DataError, match="none in line 2"):
        read_dataset(tmp_path)
    table(tmp_path / "m.csv", ["path,label", "0.png,Mass", "0.png,Effusion", "1.png,Mass"])
    with pytest.raises(DataError, match=r"'0\.png' in 2 rows of .*, as Mass and Effusion"):
        read_dataset(tmp_path)
    table(tmp_path / "m.csv", ["path,label", "0.png,NV|MEL", "1.png,BCC"])  # a name, no list
    assert read_dataset(tmp_path).classes == ("BCC", "NV|MEL")


def test_f15_patients_that_are_not_given_are_no_patient(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(6)])
    table(
        tmp_path / "m.csv",
        [
            "path,label,patient_id,site",
            *(
                f"{n}.png,{'ab'[n % 2]},{cell},NA"
                for n, cell in enumerate(("P1", "nan", "None", "", "N/A", "P2"))
            ),
        ],
    )
    found = read_dataset(tmp_path)
    assert [item.patient for item in found.items] == ["P1", None, None, None, None, "P2"]
    assert not any(item.groups for item in found.items)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("0", "0.0", "1", "1.0"), ("0", "1")),
        (("Me\u0301lanome", "Mélanome", "naevus", " naevus"), ("Mélanome", "naevus")),
        (("a  b", "a b", "c", "c"), ("a b", "c")),
    ],
)
def test_f15_names_that_look_the_same_are_one_class(
    tmp_path: Path, labels: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(8)])
    lines = [f'{n}.png,"{labels[n % 4]}"' for n in range(7)]
    table(tmp_path / "m.csv", ["path,label", *lines, f"7.png,{classes[0]}"])
    found = read_dataset(tmp_path)
    assert found.classes == classes
    assert any("are one class" in note for note in found.notes)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("Benign", "benign", "x", "x"), "'Benign' (2) and 'benign' (2)"),
        (("COVID-19", "covid 19", "x", "x"), "'COVID-19' (2) and 'covid 19' (2)"),
        (("Mélanome", "melanome", "x", "x"), "'Mélanome' (2) and 'melanome' (2)"),
        (("01", "1", "2", "2"), "'01' (2) and '1' (2)"),
        (("Benign", "B\u0435nign", "x", "x"), r"'Benign' (2) and 'B\u0435nign' (2)"),  # Cyrillic
        (("Melanoma", "\u039celan\u03bfma", "x", "x"), r"'Melanoma' (2) and '\u039celan\u03bfma'"),
        (("COVID", "\uff23\uff2f\uff36\uff29\uff24", "x", "x"), "'COVID' (2) and '\uff23"),  # wide
        (("no\u200crmal", "normal", "x", "x"), r"'normal' (2) and 'no\u200crmal' (2)"),
        (("\u041d\u043e\u0440\u043c\u0430", "\u043d\u043e\u0440\u043c\u0430", "x", "x"), "'\u041d"),
        (("5 \u00b5m", "5 mm", "T\u0410", "TB"), None),
        (("ER+", "ER-", "-1", "1"), None),
        (("grade 1", "grade 2", "T1", "T2"), None),
    ],
)
def test_f15_names_that_differ_in_little_are_noticed(
    tmp_path: Path, labels: tuple[str, ...], names: str | None
) -> None:
    root = folder_of(tmp_path, [f"{labels[n % 4]}/{n}.png" for n in range(8)])
    notes = [note for note in read_dataset(root).notes if "differ in spelling" in note]
    assert [names in note for note in notes] == ([True] if names else [])
    if names:
        apart = read_dataset(root, class_map={labels[0]: labels[1]})
        assert apart.notes == ()


@pytest.mark.parametrize(
    "odd", ["mali\u200bn", "\ufeffmalin", "ma\u00adlin", "malin\u00a0", "malin\u2060"]
)
def test_r2_characters_that_nobody_sees_make_no_class(root: Path, odd: str) -> None:
    rows = cells(lambda label: odd if label == "malin" else label, 1)
    table(root / "m.csv", written([*ROWS[:8], *rows[8:]]))
    found = read_dataset(root)
    assert found.classes == ("bénin", "malin")
    # nor a patient
    rows = cells(lambda patient: patient.replace("P", "P\u200b") if patient == "P1" else patient, 3)
    table(root / "m.csv", written([*ROWS[:3], *rows[3:]]))
    assert {i.patient for i in read_dataset(root).items} == {f"P{n}" for n in range(6)}


WORDS = {
    "cp1251": ("Меланома", "норма"), "koi8-r": ("Меланома", "норма"), "gb18030": ("恶性", "正常"),
    "shift_jis": ("悪性", "ヘルニア"), "cp932": ("ヘルニア", "ポリープ"),
    "euc_kr": ("악성", "정상"), "big5": ("惡性", "正常"), "cp1253": ("μελάνωμα", "υγιής"),
    "cp1255": ("ממאיר", "תקין"),
    "cp1256": ("خبيث", "سليم"),
}  # fmt: skip


@pytest.mark.parametrize("encoding", WORDS)
def test_r3_a_table_in_another_encoding_is_refused_with_the_fix(root: Path, encoding: str) -> None:
    # names of images and patients are plain, and so are most cells
    rows = [[*row[:1], WORDS[encoding][n % 2], *row[2:]] for n, row in enumerate(ROWS)]
    path = table(root / "m.csv", written(rows), encoding)
    with pytest.raises(
        DataError, match=r"UTF-8, UTF-16 or Windows-1252.*save it as 'CSV UTF-8'"
    ) as said:
        read_dataset(root)
    assert "\n" not in str(said.value)
    path.unlink()
    table(root / "m.csv", written(rows))
    assert read_dataset(root).classes == tuple(sorted(WORDS[encoding]))


def test_r3_utf8_that_broke_in_one_place_is_refused(root: Path) -> None:
    data = "\n".join(written(ROWS)).encode()
    (root / "m.csv").write_bytes(data + b"\n" + "A/im 0.png,malin,,Müller,f".encode("cp1252"))
    with pytest.raises(DataError, match=r"another encoding \(line 2 would read 'bÃ©nin'\)"):
        read_dataset(root)


@pytest.mark.parametrize(
    "labels",
    [
        ("bénin", "évolué"), ("Mélanome à", "naïve"), ("Lungenentzündung", "Größe"),
        ("ÜBERGRÖSSE", "Öl"), ("ñandú", "coração"), ("São João", "MALIGNIDADE ÇÃO"),
        ("Ærø", "Blåbærgrød"), ("Þórður", "Ångström"),
        ("«bénin»", "“malin”"), ("µm²", "±5°"), ("Ñ", "œdème"), ("Á", "É"),
    ],
)  # fmt: skip
def test_r3_western_names_are_still_read(root: Path, labels: tuple[str, str]) -> None:
    rows = [[*row[:1], labels[n % 2], *row[2:]] for n, row in enumerate(ROWS)]
    table(root / "m.csv", written(rows), "cp1252")
    found = read_dataset(root)
    assert found.classes == tuple(sorted(labels))
    assert any("read as Windows-1252" in note for note in found.notes)


GIVEN = ["set", "./set", "link", "up/../set", "set/manifest.csv", "link/A/.."]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("written_as", ["real", "link", "up", "dots"])
def test_r7_cells_and_data_meet_however_each_is_given(
    root: Path, monkeypatch: pytest.MonkeyPatch, given: str, written_as: str
) -> None:
    expected = plain(root)
    above = root.parent
    monkeypatch.chdir(above)
    (above / "link").symlink_to(root, target_is_directory=True)
    (above / "up").mkdir()
    starts = {
        "real": f"{root}/", "link": f"{above}/link/", "up": f"{above}/up/../set/", "dots": "A/../"
    }  # fmt: skip
    table(root / "manifest.csv", written(cells(lambda cell: starts[written_as] + cell)))
    found = read_dataset(Path(given))
    assert rows_of(found) == expected
    assert ("file", "not in the table") not in left(found)


def test_g_a_column_labels_is_a_label(root: Path) -> None:
    table(root / "m.csv", written(ROWS, ["path", "labels", *HEAD[2:]]))
    assert read_dataset(root).classes == ("bénin", "malin")


def test_f2_images_that_no_row_names_are_counted(root: Path) -> None:
    picture(root / "C" / "odd.png", 77)
    picture(root / "A" / "more.png", 78)
    table(root / "m.csv", written(ROWS))
    assert left(read_dataset(root))["file", "not in the table"] == ["A/more.png", "C/odd.png"]
    # a table that is named itself may lie among other things
    found = read_dataset(root / "m.csv")
    assert left(found)["file", "not in the table"] == ["A/more.png"]


def people(root: Path, column: str) -> Path:
    """24 images of 8 people, named in a column of that name. SYNTHETIC."""
    folder_of(root, [f"{n}.png" for n in range(24)])
    lines = [f"{n}.png,{'ab'[n % 2]},K-{n // 3}x,{'fm'[n % 2]}" for n in range(24)]
    return table(root / "m.csv", [f"path,label,{column},sex", *lines])


@pytest.mark.parametrize(
    "column",
    ["patient_no", "patient_code", "PatientKey", "ptid", "hospital_number", "participant",
     "participant_id", "id_patient", "mrn", "MRN", "Patient Number", "patient_uid", "Patienten-ID",
     "Patientennummer", "person_id", "subject", "subj", "paciente", "id_paciente", "numero_patient",
     "Número de paciente", "code patient", "codice_paziente", "Patient #", "pat_no",
     "bcr_patient_barcode", "anon_patient_id", "NHS number", "empi", "Patient Name",
     "sujeto_id"],
)  # fmt: skip
def test_f3_columns_that_clearly_name_the_patient_are_read_as_patients(
    tmp_path: Path, column: str
) -> None:
    found = read_dataset(people(tmp_path, column))
    assert [item.patient for item in found.items] == [f"K-{n // 3}x" for n in range(24)]
    assert found.group_columns == ("sex",)
    assert not found.left_out
    assert any(f"'{column}' as patient_id" in note for note in found.notes)


@pytest.mark.parametrize(
    "column",
    ["case", "case_id", "Case No", "eid", "donor_id", "caso", "Fallnummer", "accession", "id"],
)
def test_f3_columns_that_may_name_the_patient_are_no_groups_and_said(
    tmp_path: Path, column: str
) -> None:
    found = read_dataset(people(tmp_path, column))
    assert found.group_columns == ("sex",)
    assert {item.patient for item in found.items} == {None}
    record, _ = audit(found, threads=1)
    [warning] = [text for text in record.warnings if "no patient is named" in text]
    assert f"if column '{column}' names the patient, call it patient_id" in warning


@pytest.mark.parametrize(
    "column",
    ["patient_age", "patients", "person_type", "pt", "n_patients", "hospital_id", "casein"],
)
def test_f3_what_is_said_of_a_patient_is_no_patient(tmp_path: Path, column: str) -> None:
    found = read_dataset(people(tmp_path, column))
    assert {item.patient for item in found.items} == {None}


def test_f3_the_clearest_column_with_values_names_the_patient(tmp_path: Path) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(6)])
    lines = [f"{n}.png,{'ab'[n % 2]},,N{n // 2},M{n // 3},C{n}" for n in range(6)]
    table(tmp_path / "m.csv", ["path,label,patient_id,patient_no,mrn,case", *lines])
    found = read_dataset(tmp_path)
    assert [item.patient for item in found.items] == [f"N{n // 2}" for n in range(6)]
    columns = {e.path: e.reason for e in found.left_out if e.kind == "column"}
    assert set(columns.values()) == {"an identifier: no group"}
    assert set(columns) == {"m.csv: patient_id", "m.csv: mrn", "m.csv: case"}


@pytest.mark.parametrize("names", ["case,control", "patient,control", "Patient,Healthy"])
def test_f3_classes_called_case_and_patient_are_classes(tmp_path: Path, names: str) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(4)])
    lines = [f"{n},{n % 2},{1 - n % 2}" for n in range(4)]
    table(tmp_path / "m.csv", [f"image,{names}", *lines])
    assert set(read_dataset(tmp_path).classes) == set(names.split(","))


@pytest.mark.parametrize(
    "names", ["malignant,smoker", "smoker,malignant", "Effusion,Mass", "male,flipped"]
)
def test_f15_two_columns_of_0_and_1_are_no_classes(tmp_path: Path, names: str) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(4)])
    lines = [f"{n},{n % 2},{1 - n % 2}" for n in range(4)]
    path = table(tmp_path / "m.csv", [f"image,{names}", *lines])
    first, second = names.split(",")
    fix = f"'{first}' or '{second}'.*call it 'label'"
    for given in (path, tmp_path):
        with pytest.raises(DataError, match=fix):
            read_dataset(given)


@pytest.mark.parametrize(
    "names", ["malignant,benign", "normal,pneumonia", "COVID,NonCOVID", "no_tumor,tumor"]
)
def test_f15_two_columns_of_which_one_says_none_are_classes(tmp_path: Path, names: str) -> None:
    folder_of(tmp_path, [f"{n}.png" for n in range(4)])
    lines = [f"{n},{n % 2},{1 - n % 2}" for n in range(4)]
    table(tmp_path / "m.csv", [f"image,{names}", *lines])
    assert set(read_dataset(tmp_path).classes) == set(names.split(","))
