"""Published layouts, as they are on disk, to rows: one image, its class, split and unit each.

A reader takes what is there, whole or not, and says what it left out; how much is missing is found
by comparing counts (`clinipress.data.named.prepare`).
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from clinipress.data.layouts.folders import image_files
from clinipress.data.layouts.manifests import is_table, read_table
from clinipress.data.named.matlab import read_figshare
from clinipress.data.named.rows import (
    ListedImage,
    Listing,
    class_folders,
    files_named,
    one_file,
    read_text_table,
)
from clinipress.data.named.sets import NamedSet
from clinipress.data.named.workbook import read_workbook
from clinipress.errors import DataError
from clinipress.progress import SILENT, Progress

__all__ = ["read_layout"]


def read_layout(
    wanted: NamedSet, where: Path, work: Path, *, progress: Progress = SILENT
) -> Listing:
    """List the images of a set that was unpacked to `where` or a folder in it; no rows without it.

    Files that have to be made of the published ones are written to `work`.

    Raises:
        DataError: Two copies of it, or a table that cannot be read.
        MissingExtraError: Reading its files needs a package that is not installed.
    """
    if not where.is_dir():
        return Listing()
    if wanted.adapter == "figshare":
        return read_figshare(where, work, progress=progress)
    return _READERS[wanted.adapter](wanted, where)


def _folders(wanted: NamedSet, where: Path) -> Listing:
    folders = class_folders(where, wanted.folders)
    rows = [
        ListedImage(path, label, split)
        for (split, label), folder in folders.items()
        for path in image_files(folder)
    ]
    return Listing(tuple(rows))


# COVID-CT ------------------------------------------------------------------------------------

_CT_FOLDERS: Mapping[str, tuple[str | None, str]] = {
    "ct_covid": (None, "CT_COVID"),
    "ct_noncovid": (None, "CT_NonCOVID"),
}


def _covid_ct(_: NamedSet, where: Path) -> Listing:
    """By a manifest where one lies beside the folders, else by the published lists and workbook."""
    table = where / "manifest.csv"
    if table.is_file() and is_table(table):
        items = read_table(table, {}).items
        return Listing(
            tuple(ListedImage(i.path, i.label, i.split, i.patient, groups=i.groups) for i in items)
        )
    splits = {
        (f"CT_{kind}", name.strip()): split
        for kind in ("COVID", "NonCOVID")
        for part, split in (("train", "train"), ("val", "validation"), ("test", "test"))
        for file in files_named(where, f"{part}CT_{kind}.txt")[:1]
        for name in file.read_text(encoding="utf-8", errors="replace").split("\n")
        if name.strip()
    }
    book = one_file(where, "COVID-CT-MetaInfo.xlsx")
    known = _patients(book) if book else {}
    rows = [
        replace(
            _ct_row(path, label, known.get(path.name, {})), split=splits.get((label, path.name))
        )
        for (_none, label), folder in class_folders(where, _CT_FOLDERS).items()
        for path in image_files(folder)
    ]
    notes = []
    by_figure = sum(path_row.path.name not in known for path_row in rows)
    if by_figure:
        notes.append(f"{by_figure} images without patient: those cut from one figure stay together")
    unlisted = sum(row.split is None for row in rows)
    if rows and unlisted:
        notes.append(f"{unlisted} images are in none of the lists of Data-split")
    return Listing(tuple(rows), tuple(notes))


def _ct_row(path: Path, label: str, facts: Mapping[str, str]) -> ListedImage:
    figure = path.stem.rpartition("%")[0] or path.stem
    patient = facts.get("patient")
    groups = {name: facts[name] for name in ("age", "sex") if facts.get(name)}
    kind = "patient" if patient else "figure"
    return ListedImage(path, label, unit=patient or figure, unit_kind=kind, groups=groups)


def _patients(book: Path) -> dict[str, dict[str, str]]:
    columns = {"file name": "file", "patient id": "patient", "age": "age", "gender": "sex"}
    patients = {}
    for row in read_workbook(book):
        facts = {columns[k.casefold()]: v for k, v in row.items() if k.casefold() in columns}
        if facts.get("file"):
            patients[facts["file"]] = facts
    return patients


# COVID-QU-Ex ---------------------------------------------------------------------------------


def _covid_qu_ex(wanted: NamedSet, where: Path) -> Listing:
    """Images of the lung part; the masks of both parts beside them, never as images of a class."""
    infections = _infection_masks(wanted, where)
    rows, other = [], 0
    for (split, label), folder in class_folders(where, wanted.folders).items():
        lungs = _by_stem(folder.parent / "lung masks")
        for path in image_files(folder):
            masks = {"lung": lungs[path.stem]} if path.stem in lungs else {}
            image, mask = infections.get((label, path.stem), (None, None))
            if image is not None and mask is not None:
                # a name is no proof: the mask counts only where both parts hold the same picture
                if filecmp.cmp(image, path, shallow=False):
                    masks["infection"] = mask
                else:
                    other += 1
            rows.append(ListedImage(path, label, split, masks=masks))
    lacking = sum("lung" not in row.masks for row in rows)
    notes = [f"{lacking} images without lung mask"] if lacking else []
    if other:
        notes.append(f"{other} infection masks left out: their picture differs in the lung part")
    return Listing(tuple(rows), tuple(notes))


def _infection_masks(
    wanted: NamedSet, where: Path
) -> dict[tuple[str, str], tuple[Path | None, Path | None]]:
    """(class, stem) -> the image in the infection part, and its infection mask."""
    patterns = {p.replace("lung seg", "infection seg", 1): k for p, k in wanted.folders.items()}
    infections: dict[tuple[str, str], tuple[Path | None, Path | None]] = {}
    for (_, label), folder in class_folders(where, patterns).items():
        masks = _by_stem(folder.parent / "infection masks")
        for path in image_files(folder):
            infections[label, path.stem] = (path, masks.get(path.stem))
    return infections


def _by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in image_files(folder)} if folder.is_dir() else {}


# LC25000 -------------------------------------------------------------------------------------

_GROUPS = "lc25000_image_groups.csv"


def _lc25000(wanted: NamedSet, where: Path) -> Listing:
    """Class folders, and the tile that each image was made of.

    Without the file of groups there are no rows: a split would tear siblings apart, and no search
    for near-duplicates finds them all.
    """
    plain = _folders(wanted, where)
    table = one_file(where, _GROUPS)
    if not plain.rows:
        return plain
    if table is None:
        return Listing(
            notes=(
                f"{len(plain.rows)} images, none of them used: without {_GROUPS} about 99 % of them"
                " would have a sibling on the other side of a split",
            )
        )
    known = {row.get("stem", ""): row for row in read_text_table(table)}
    labels: dict[str, str] = {}
    rows = []
    for row in plain.rows:
        facts = known.get(row.path.stem)
        if facts is None or not facts.get("group_id"):
            continue
        tile = facts["group_id"]
        if labels.setdefault(tile, row.label) != row.label or facts.get("label") != row.label:
            raise DataError(
                f"one class per tile in '{table}'", f"tile {tile} in {row.label} and another"
            )
        tissue = row.label.split("_")[0]
        rows.append(replace(row, unit=tile, unit_kind="tile", groups={"tissue": tissue}))
    lost = len(plain.rows) - len(rows)
    note = f"{lost} images left out: their tile is not known, so a sibling could be anywhere"
    return Listing(tuple(rows), (note,) if lost else ())


# HAM10000 ------------------------------------------------------------------------------------

_HAM_OWN = ("lesion_id", "image_id", "dx")


def _ham10000(_: NamedSet, where: Path) -> Listing:
    table = one_file(where, "HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
    if table is None:
        return Listing()
    files: dict[str, Path] = {}
    twice = 0
    for path in image_files(where):
        twice += path.stem in files
        files.setdefault(path.stem, path)
    rows, missing = [], 0
    for facts in read_text_table(table):
        image = files.get(facts.get("image_id", ""))
        if image is None or not facts.get("dx"):
            missing += 1
            continue
        groups = {k: v for k, v in facts.items() if k and k not in _HAM_OWN and v}
        lesion = facts.get("lesion_id") or None
        rows.append(ListedImage(image, facts["dx"], unit=lesion, unit_kind="lesion", groups=groups))
    notes = [f"{missing} rows of {table.name} have no image"] if missing else []
    if twice:
        notes.append(f"{twice} images lie in two folders; one of each is used")
    return Listing(tuple(rows), tuple(notes))


_READERS: Mapping[str, Callable[[NamedSet, Path], Listing]] = {
    "folders": _folders,
    "covid-ct": _covid_ct,
    "covid-qu-ex": _covid_qu_ex,
    "lc25000": _lc25000,
    "ham10000": _ham10000,
}
