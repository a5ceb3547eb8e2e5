from __future__ import annotations

from pathlib import Path

import pytest

from clinipress.data.layouts.items import LeftOuts
from clinipress.data.layouts.manifests import find_tables, is_table, read_table
from clinipress.errors import DataError


def manifest(folder: Path, *lines: str, images: tuple[str, ...] = ("a/1.png", "b/1.png")) -> Path:
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_column_finds_its_place(tmp_path: Path) -> None:
    path = manifest(
        tmp_path,
        "\ufeffsex,path, label,split,patient_id,scanner",
        "f,a/1.png,sick,Training,p1,",
        "",
        'm,b/1.png,well,val,,"A, B"',
    )
    listed = read_table(path, {"well": "healthy"})
    assert listed.group_columns == ("sex", "scanner")
    first, second = listed.items
    assert (first.key, first.label, first.split, first.patient) == (
        "a/1.png",
        "sick",
        "train",
        "p1",
    )
    assert first.groups == {"sex": "f"}
    assert first.path == tmp_path / "a/1.png"
    assert (second.label, second.split, second.patient) == ("healthy", "validation", None)
    assert second.groups == {"sex": "m", "scanner": "A, B"}


def test_paths_outside_the_folder_and_from_windows(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    path = manifest(inner, "path,label", f"{tmp_path}/out.png,x", "a\\1.png,y")
    (tmp_path / "out.png").touch()
    items = read_table(path, {}).items
    assert [item.key for item in items] == [f"{tmp_path}/out.png".lstrip("\\"), "a/1.png"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,kind", "a/1.png,x"], "columns path and label.*path, kind: .*missing: 'label'"),
        (["name;label", "a/1.png;x"], "name, label: .*missing: 'path'"),
        (["path,label", "a/1.png,x", "c/9.png,y", "c/8.png,y"], "2 of 3 not there.*c/9.png"),
        (["path,label", "a/1.png,x", "a/1.png,y"], "'a/1.png' in 2 rows"),
        (["path,label", "a/1.png,x", "b/1.png,"], "label in every row.*line 3"),
        (["path,label", ",x"], "path in every row.*line 2"),
        (["path,label,split", "a/1.png,x,holdout"], "'holdout' in line 2"),
        (["path,label", "a/1.png,x,y"], "2 cells.*3 in line 2.*quotes"),
        (["path,label,label", "a/1.png,x,y"], "different names"),
        (["path,label"], "rows in the manifest"),
        ([""], "columns path and label"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as problem:
        read_table(manifest(tmp_path, *lines), {})
    assert "\n" not in str(problem.value)


def test_a_table_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,x\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(path, {})
    assert not is_table(tmp_path / "gone.csv")


def test_the_one_table_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("number,name\n")
    left_out = LeftOuts(tmp_path)
    assert find_tables(tmp_path, left_out) == []
    [entry] = left_out.records()
    assert (entry.path, entry.kind) == ("other.csv", "table")
    assert "no column of paths (columns: number, name)" in entry.reason
    path = manifest(tmp_path, "path,label")
    assert find_tables(tmp_path, left_out) == [path]
    (tmp_path / "second.csv").write_text("label,path\n")
    with pytest.raises(DataError, match=r"manifest\.csv and second\.csv"):
        find_tables(tmp_path, left_out)


def test_ham10000_is_read_with_lesions_that_are_no_patients(tmp_path: Path) -> None:
    for name in ("HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    table = tmp_path / "HAM10000_metadata.csv"
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    lines += ["HAM_7,ISIC_1,nv,histo,45.0,male,trunk", "HAM_8,ISIC_2,mel,histo,,female,face"]
    table.write_text("\n".join(lines))
    listed = read_table(table, {"mel": "melanoma"})
    items = listed.items
    assert listed.group_columns == ("dx_type", "age", "sex", "localization")
    assert {i.patient for i in items} == {None}
    assert [(i.key, i.label, i.unit("lesion")) for i in items] == [
        ("HAM10000_images_part_1/ISIC_1.jpg", "nv", "HAM_7"),
        ("HAM10000_images_part_2/ISIC_2.jpg", "melanoma", "HAM_8"),
    ]
    assert items[1].groups == {"dx_type": "histo", "sex": "female", "localization": "face"}
    table.write_text("\n".join([*lines, "HAM_9,ISIC_3,nv,histo,1,male,trunk"]))
    with pytest.raises(
        DataError, match=r"1 of 3 not there, first 'ISIC_3'.*did you mean 'ISIC_\d.jpg'"
    ):
        read_table(table, {})
