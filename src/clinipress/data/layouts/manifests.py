"""Tables that name the images: which column says what, and which file a cell means."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from clinipress.data.finding import propose_positive
from clinipress.data.layouts.findings import (
    FindingRows,
    from_cells,
    from_columns,
    from_values,
    is_answer,
    is_no,
    is_none,
    is_yes_or_no,
    joint,
    joint_mark,
    label_text,
)
from clinipress.data.layouts.folders import image_files, inner_folders
from clinipress.data.layouts.items import (
    ANOTHER_SPLIT,
    MAY_NAME_PATIENT,
    ONE_LABEL,
    SPLIT_NAMES,
    Labelling,
    LeftOuts,
    Listed,
    spelling,
    split_name,
)
from clinipress.data.layouts.readers import ReadRows, by_image, is_box, reader_column
from clinipress.data.layouts.tables import (
    TABLE_SUFFIXES,
    TextTable,
    named,
    open_quote,
    read_header,
    read_text,
)
from clinipress.errors import DataError
from clinipress.records.item import UNIT_COLUMNS, ImageItem
from clinipress.text import counted, joined

__all__ = ["find_tables", "is_table", "read_table", "read_tables"]

# Names of columns without case and marks, the clearest first
_PATHS = (
    "path", "filepath", "imagepath", "imgpath", "filename", "imagefilename", "imagefile", "file",
    "files", "image", "images", "img", "imagename", "imgname", "imageid", "imgid", "imageindex",
    "isicid", "dicomid", "sopinstanceuid", "idcode", "id",
)  # fmt: skip
_LABELS = (
    "label", "labels", "class", "classes", "classname", "classlabel", "labelname", "category",
    "target", "diagnosis", "dx", "finding", "findings", "findinglabels", "pathology", "disease",
    "benignmalignant", "groundtruth", "grade", "level", "severity", "y",
)  # fmt: skip
_SPLITS = ("split", "set", "subset", "partition", "phase", "datasplit")
_PATIENTS = (
    "patientid", "patient", "subjectid", "subject", "participantid", "pid", "patid",
)  # fmt: skip
_CODE = (
    "(u?u?id|guid|no|nr|num|number|nummer|numer|numero|name|code|kode|codigo|codice|cod|key|index|"
    "barcode|identifi(er|ant|cativo)|identificador|kennung|pseudonym|ref|hash)"
)
_PERSON = (
    "(patient(e|en|in)?|pa[cz]iente|pacjenta?|pasient|subj(ect)?|participante?|proband(en|in)?)"
)
# other names of the patient: "Patienten-Nr", "id_paciente", "bcr_patient_barcode", "MRN"
_PATIENT = re.compile(
    rf"(anon\w*|deid\w*|pseudo\w*|bcr|research)?({_PERSON}{_CODE}?"
    rf"|(pat|pt|person|sujeto?|soggetto|partecipante){_CODE})"
    rf"|{_CODE}(del?|do|da|du|della)?({_PERSON}|persona?|sujeto?|soggetto|partecipante)"
    r"|mrn|e?mpi|(hospital|medicalrecord|nhs)number"
)
# what may be the patient, and a visit or a sample as well: UK Biobank's "eid", "case_id"
_PERHAPS = re.compile(
    rf"(case|caso|donor|individual|volunteer|pseudonym){_CODE}?|(fall|sample|client|person){_CODE}"
    r"|eid|nhc|prontuario"
)
# what no group can be: a person, a study, the number of a row. A whole word: "thyroid" is none
_IDENTIFIER = re.compile(
    r"(^|[\W_])(u?u?id|guid|idx|mrn)$"
    r"|^(patient|subject|study|series|scan|exam|visit|case|record|sample|row|sop|lesion)"
    r"[\W_]?(instance)?[\W_]?(u?id|number|name)$|^(index|unnamed: [0-9]+|name)$|accession",
    re.IGNORECASE,
)
_IDENTIFIER_CASED = re.compile(r"[a-z](U?ID|U?Id)$")  # "StudyUID", and not "COVID"
_NOT_GIVEN = frozenset({"nan", "n/a", "#n/a", "<na>", "null", "na"})
_YES = frozenset({"1", "1.0", "1,0", "true"})
_ABSENT = frozenset({"0", "0.0", "0,0", "false"})
_MINUS = frozenset({"-1", "-1.0", "-1,0"})
_NO = _ABSENT | _MINUS | {""}
# columns that say whether the finding that a row names is there
_VALUES = frozenset(
    {"value", "present", "presence", "ispresent", "answer", "response", "status", "state", "result"}
)
_SEVERAL = 0.02  # of the images, named with several findings in rows of their own: not a slip
# folders that are a person's: CheXpert's "patient00001", MIMIC's "p10000032", BIDS' "sub-01"
_PATIENT_FOLDER = re.compile(
    r"(patient|subject|sub|pat|person)[-_ ]?[0-9]+|p[0-9]{5,}", re.IGNORECASE
)
_PLURAL = frozenset({"labels", "findings", "findinglabels"})
_FEWEST_VALUES = 12  # from which a column with another value in every row identifies the row


@dataclass(frozen=True)
class _Roles:
    """The columns by what they say.

    `one_hot` are classes with 1 or 0 for each image, `flags` two such columns that are none.
    """

    paths: tuple[str, ...]
    label: str | None
    one_hot: tuple[str, ...]
    flags: tuple[str, ...]
    split: str | None
    patient: str | None
    groups: tuple[str, ...]


def find_tables(folder: Path, left_out: LeftOuts, labelling: Labelling = ONE_LABEL) -> list[Path]:
    """The tables that name the images of `folder`: one, or one for each split.

    They lie in the folder, or in folders named like splits. What looks like a table and cannot be
    used is left out with its reason.

    Raises:
        DataError: There are several and none is a split's.
    """
    usable = _usable(folder, left_out, labelling) or [
        table
        for inner in inner_folders(folder, left_out)
        if inner.name.casefold() in SPLIT_NAMES
        for table in _usable(inner, left_out, labelling)
    ]
    if len(usable) > 1 and None in (splits := [_split_of(table, folder) for table in usable]):
        names = joined([table.name for table in usable])
        raise DataError(
            "one manifest, or one for each split (train.csv, test.csv)",
            f"{names} in '{folder}'",
            "name the one to use",
        )
    if len(usable) > 1 and len(set(splits)) < len(splits):
        names = joined([table.relative_to(folder).as_posix() for table in usable])
        raise DataError("one manifest for each split", f"{names} in '{folder}'")
    return usable


def is_table(path: Path) -> bool:
    """True when the columns name images and their classes."""
    try:
        return _refusal(path, LeftOuts(path.parent)) is None
    except DataError:
        return False


def read_tables(
    paths: Sequence[Path],
    root: Path,
    class_map: Mapping[str, str],
    left_out: LeftOuts,
    labelling: Labelling = ONE_LABEL,
) -> Listed:
    """Items of the tables of one folder; those of several bring their split by their names."""
    listed = [
        read_table(path, class_map, root=root, left_out=left_out, labelling=labelling)
        for path in paths
    ]
    several = [part.task == "multilabel" for part in listed]
    if labelling.task is None and any(several) and not all(several):
        # of one with few rows it may not be seen that an image can show several
        asked = replace(labelling, task="multilabel")
        return read_tables(paths, root, class_map, left_out, asked)
    _check_one_task(listed, paths)
    if len(paths) > 1:
        for path, part in zip(paths, listed, strict=True):
            split = _split_of(path, root)
            part.items = [replace(item, split=item.split or split) for item in part.items]
    names = frozenset().union(*(part.names for part in listed))
    complete = all(part.complete for part in listed)
    if listed[0].cells and not complete:  # what one table never names is absent there
        for part in listed:
            absent = dict.fromkeys(names if part.complete else names - part.names, False)
            part.items = [
                replace(item, findings={**absent, **(item.findings or {})}) for item in part.items
            ]
    items = _distinct([item for part in listed for item in part.items], str(root), left_out)
    columns = tuple(dict.fromkeys(name for part in listed for name in part.group_columns))
    notes = list(dict.fromkeys(note for part in listed for note in part.notes))
    counts = [part.differing for part in listed if part.differing is not None]
    differing = sum(counts) if counts else None
    first = listed[0]
    return Listed(
        "manifest", root, items, columns, notes, names, first.task, first.cells, complete, differing
    )


def _check_one_task(listed: Sequence[Listed], paths: Sequence[Path]) -> None:
    """Tables of one set are all of several findings, and written alike, or none is."""
    kinds = [(part.task, part.cells) for part in listed]
    if len(set(kinds)) > 1:
        other = next(n for n, kind in enumerate(kinds) if kind != kinds[0])
        raise DataError(
            "tables of one set that name findings in the same way",
            f"'{paths[0].name}' and '{paths[other].name}', which differ",
            "give both one column of names, or one column for each finding",
        )


def read_table(
    path: Path,
    class_map: Mapping[str, str],
    *,
    root: Path | None = None,
    left_out: LeftOuts | None = None,
    labelling: Labelling = ONE_LABEL,
) -> Listed:
    """Items and group columns of a table.

    A manifest has the columns ``path`` (relative to it) and ``label``, may have ``split`` and
    ``patient_id``, and every other column is a group, unless it names each image or patient.
    Names that other tables have for these are read too, and one column of 0 and 1 per class.
    Columns of other units than patients are read as what they are: HAM10000's ``lesion_id``.

    Raises:
        DataError: Missing columns, empty cells, several labels for an image, unknown splits,
            images that are not there.
    """
    root = root or path.parent
    account = left_out if left_out is not None else LeftOuts(root)
    table = read_text(path)
    roles = _roles(table, labelling)
    refusal = _missing_columns(roles, table, labelling)
    if refusal:
        raise DataError(f"the columns path and label in '{path}'", *refusal)
    files = _Files(path.parent, account.aside())
    column = _path_column(table, roles, files)
    reader = reader_column([(name, _plain(name)) for name in table.columns])
    value = _value_column(table, roles, labelling, column)
    findings = _findings(table, roles, labelling, column, reader, value)
    names: Sequence[str] = _labels(table, roles, class_map) if findings is None else findings.names
    labels = (
        list(names) if findings is None else [label_text(r, findings.names) for r in findings.rows]
    )
    _check_quotes(table, column, files)
    in_path = [] if roles.patient else _patient_folders(table.column(column))
    patients = table.column(roles.patient) if roles.patient else in_path or [""] * len(table.rows)
    units = {
        kind: table.column(name)
        for name in table.columns
        if (kind := UNIT_COLUMNS.get(_plain(name))) and name not in {*roles.paths[:1], roles.label}
    }
    splits = table.column(roles.split) if roles.split else [""] * len(table.rows)
    groups = {name: table.column(name) for name in _kept_groups(table, roles, labels, account)}
    items = []
    rows = zip(table.rows, table.column(column), labels, splits, patients, strict=True)
    for number, ((line, _), cell, label, split, patient) in enumerate(rows):
        where = f"in line {line} of '{path}'"
        if not cell:
            raise DataError("a path in every row", f"none {where}")
        try:
            part = split_name(split)
        except DataError as problem:
            fix = f"or give the column '{roles.split}' another name"
            raise DataError(problem.expected, f"{problem.got} {where}", fix) from None
        image = files.named(cell) or path.parent / cell.replace("\\", "/")
        items.append(
            ImageItem(
                key=account.name(image),
                path=image,
                label=class_map.get(label, label) if findings is None else label,
                findings=None if findings is None else findings.rows[number],
                split=part,
                patient=patient or None,
                units={kind: cells[number] for kind, cells in units.items() if cells[number]},
                groups={
                    c: cells[number] for c, cells in groups.items() if _is_given(cells[number])
                },
            )
        )
    if not items:
        raise DataError("rows in the manifest", f"none in '{path}'")
    _check_there(path, items, files)
    each = "classes" if findings is None else "findings"
    notes = [*_reading_notes(table, roles, column, each), *(findings.notes if findings else ())]
    if in_path:
        notes.append(f"folders in '{column}' name the patients, such as '{in_path[0]}'")
    said = ReadRows(
        readers=table.column(reader) if reader else None,
        judged=labelling.judged,
        noted=labelling.contradictions == "note",
    )
    if findings is not None:
        several = roles.label is not None and joint(table.column(roles.label))
        said = replace(
            said, names=findings.names, complete=findings.complete, nothing=findings.nothing,
            joint=several,
        )  # fmt: skip
    columns = tuple(name for name in groups if name not in {reader, value})
    columns = tuple(groups) if len({item.key for item in items}) == len(items) else columns
    once = by_image(items, said, labelling.readers, columns, path, account)
    return Listed(
        "manifest",
        root,
        _distinct(once.items, str(path), account),
        once.columns,
        [*notes, *once.notes],
        frozenset(names),
        "multiclass" if findings is None else "multilabel",
        findings is not None and findings.complete,
        once.complete,
        once.differing,
    )


# ------------------------------------------------------------------------------ which table


def _usable(folder: Path, left_out: LeftOuts, labelling: Labelling) -> list[Path]:
    usable = []
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.casefold()
        if path.name.startswith(".") or not path.is_file():
            continue
        if suffix in (".xlsx", ".xls", ".ods", ".parquet", ".jsonl"):
            left_out.add(path, "table", f"{suffix} is not read: save it as .csv")
        elif suffix in TABLE_SUFFIXES:
            reason = _refusal(path, left_out, labelling)
            if reason is None:
                usable.append(path)
            else:
                left_out.add(path, "table", reason)
    return usable


def _refusal(path: Path, left_out: LeftOuts, labelling: Labelling = ONE_LABEL) -> str | None:
    """Why a table is none that names images and classes; None for one that does.

    Raises:
        DataError: Its columns say that it does, and its rows cannot be read.
    """
    header = read_header(path)
    names = [_plain(name) for name in header]
    if not any(name in names for name in _PATHS):
        return _columns_found("no column of paths", header)
    table = read_text(path)
    paths = [name for name in table.columns if _plain(name) in _PATHS]
    files = _Files(path.parent, left_out.aside())
    # an "id" is anything's: a table that names no file here is about something else
    if table.rows and not any(_plain(name) == "path" for name in paths):
        cells = (cell for name in paths for cell in table.column(name) if cell)
        if all(files.named(cell) is None for cell in cells):
            return f"none of the files it names is there ({counted(len(table.rows), 'row')})"
    if any(name in names for name in _LABELS) or (roles := _roles(table, labelling)).one_hot:
        return None
    # a reason is shown in reports: it quotes no cell
    odd = _odd_cell(table, roles, quoted=False) if labelling.task == "multilabel" else ""
    return _columns_found("no column of labels", header, odd or _class_hint(roles))


def _columns_found(what: str, columns: Sequence[str], hint: str = "") -> str:
    name = "path" if "paths" in what else "label"
    hint = hint or f"call it '{name}'"
    return f"{what} (columns: {named(columns)}); {hint}"


def _class_hint(roles: _Roles) -> str:
    names = joined([f"'{name}'" for name in roles.flags], "or")
    several = (
        "if an image may show both, they are findings: task: multilabel under 'data', or "
        "--task multilabel"
    )
    return f"if {names} says the class, call it 'label'; {several}" if names else ""


def _split_of(table: Path, folder: Path) -> str | None:
    """The split that a table's name or folder speaks of."""
    if table.parent != folder:
        return SPLIT_NAMES.get(table.parent.name.casefold())
    words = {
        SPLIT_NAMES[w] for w in re.findall("[a-z]+", table.stem.casefold()) if w in SPLIT_NAMES
    }
    return words.pop() if len(words) == 1 else None


# ----------------------------------------------------------------------------- which column


def _plain(name: str) -> str:
    """Without case, blanks and marks: "Patient ID", "patient_id" and "PatientID" are one."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", name)).casefold()


def _is_identifier(table: TextTable, column: str) -> bool:
    if _IDENTIFIER.search(column) or _IDENTIFIER_CASED.search(column):
        return True
    # "case" may also say case or control
    return bool(_PERHAPS.fullmatch(_plain(column))) and len({*table.column(column)} - {""}) > 2


def _names_patient(table: TextTable, column: str) -> bool:
    """By its name; "patient" beside "control" is a class."""
    plain = _plain(column)
    known = plain in _PATIENTS or _PATIENT.fullmatch(plain)
    return bool(known) and (plain.endswith("id") or not _is_yes_or_no(table.column(column)))


def _patient_column(table: TextTable) -> str | None:
    """The clearest name of a patient's column that says something in any row."""
    columns = [name for name in table.columns if _names_patient(table, name)]
    order = {name: number for number, name in enumerate(_PATIENTS)}
    columns.sort(key=lambda name: order.get(_plain(name), len(order)))
    given = (name for name in columns if any(map(_is_given, table.column(name))))
    return next(given, columns[0] if columns else None)


def _patient_folders(paths: Sequence[str]) -> list[str]:
    """The innermost folder of each path that is a person's; none where one has no such folder."""
    named = [
        next((part for part in reversed(parts) if _PATIENT_FOLDER.fullmatch(part)), "")
        for parts in (re.split(r"[/\\]", path)[:-1] for path in paths)
    ]
    return named if all(named) and len({*named}) > 1 else []


def _is_given(cell: str) -> bool:
    return bool(cell) and cell.casefold() not in _NOT_GIVEN


def _roles(table: TextTable, labelling: Labelling = ONE_LABEL) -> _Roles:
    plain = {_plain(name): name for name in reversed(table.columns) if name}
    paths = tuple(plain[name] for name in _PATHS if name in plain)
    patient = _patient_column(table)
    split = _split_column(table, plain, labelling.split_column)
    taken = {*paths, patient, split, ""}
    names = [name for name in _LABELS if name in plain]
    # "y" is a place, too: RSNA's boxes, and NIH's "OriginalImagePixelSpacing[x,y]"
    names = [name for name in names if name != "y" or names == ["y"]]
    label = _label_column(table, [plain[name] for name in names])
    free = [
        name
        for name in table.columns
        if name not in taken
        and _plain(name) not in UNIT_COLUMNS
        and not _names_patient(table, name)
        and not _is_identifier(table, name)
    ]
    wanted = {spelling(name) for name in labelling.classes or ()}
    if labelling.task != "multiclass" and len(wanted & {*map(spelling, free)}) > 1:
        # the findings are named: the others may be anything, also where a label stands beside
        chosen = tuple(n for n in free if spelling(n) in wanted or is_none(n))
        groups = tuple(name for name in free if name not in {label, *chosen})
        return _Roles(paths, None, chosen, (), split, patient, groups)
    flags = [] if label else [name for name in free if _is_flag(table.column(name))]
    # and what no image of this table shows
    if flags and (labelling.task == "multilabel" or (labelling.task is None and len(flags) > 2)):
        flags = [n for n in free if n in flags or _is_no(table.column(n))]
    # two of them may be anything of the image, and classes only where one is the other's absence,
    # or in Roboflow's table of classes
    known = propose_positive(flags) is not None or table.path.stem.casefold() == "_classes"
    asked = labelling.task == "multilabel" and bool(flags)
    classes = len(flags) > 2 or (len(flags) == 2 and known) or asked
    if not flags and label is None and labelling.task == "multilabel":  # in words: yes, nein
        cells = {name: [c for c in table.column(name) if c] for name in free}
        flags = [name for name in free if is_yes_or_no(cells[name])]
        flags = [name for name in free if name in flags or (flags and is_no(cells[name]))]
        classes = bool(flags)
    one_hot = tuple(flags) if classes else ()
    groups = tuple(name for name in free if name not in {label, *flags})
    two = tuple(flags) if len(flags) == 2 and not classes else ()
    return _Roles(paths, label, one_hot, two, split, patient, groups)


def _split_column(table: TextTable, plain: Mapping[str, str], asked: str | None) -> str | None:
    """The one that was asked for, else one of a name that says so.

    Raises:
        DataError: It is not there, or holds anything but splits.
    """
    if asked is None:
        return next(
            (
                plain[name]
                for name in _SPLITS
                if name in plain and (name == "split" or _all_splits(table.column(plain[name])))
            ),
            None,
        )
    column = asked if asked in table.columns else plain.get(_plain(asked))
    alike = [name for name in table.columns if name and _all_splits(table.column(name))]
    fix = f"columns of splits: {joined(alike) or 'none'}"
    if column is None:
        wanted = f"the column '{asked}' of data.split.column in '{table.path}'"
        raise DataError(wanted, named(table.columns), fix)
    if not _all_splits(table.column(column)):
        counts = Counter(table.column(column))
        shown = [f"'{cell:.30}' ({count:,})" for cell, count in counts.most_common(4)]
        more = f" and {len(counts) - len(shown):,} more" if len(counts) > len(shown) else ""
        raise DataError(
            f"train, validation or test in each cell of '{column}' of '{table.path}'",
            f"{', '.join(shown)}{more}",
            fix,
        )
    return column


def _all_splits(cells: Sequence[str]) -> bool:
    return any(cells) and all(cell.casefold() in SPLIT_NAMES for cell in cells if cell)


def _is_flag(cells: Sequence[str]) -> bool:
    """1 and 0, also where none is 1 and some are uncertain, as a rare finding's may be."""
    values = {cell.casefold() for cell in cells}
    return _is_yes_or_no(cells) or (bool(values & _MINUS) and values <= _YES | _NO)


def _is_no(cells: Sequence[str]) -> bool:
    """0 wherever it says anything."""
    values = {cell.casefold() for cell in cells}
    return bool(values & _ABSENT) and values <= _NO


def _is_yes_or_no(cells: Sequence[str]) -> bool:
    values = {cell.casefold() for cell in cells}
    return bool(values & _YES) and values <= _YES | _NO


def _label_column(table: TextTable, candidates: Sequence[str]) -> str | None:
    """The clearest name; of several that are as clear, the one all others follow from.

    Raises:
        DataError: Several that say different things.
    """
    if not candidates or _plain(candidates[0]) == "label":
        return candidates[0] if candidates else None
    cells = {name: table.column(name) for name in candidates}
    same = [
        name
        for name in candidates
        if len({*zip(cells[candidates[0]], cells[name], strict=True)})
        == len({*cells[name]})
        == len({*cells[candidates[0]]})
    ]
    if len(same) < len(candidates):
        raise DataError(
            f"one column of labels in '{table.path}'",
            named(candidates),
            "call the one to use 'label'",
        )
    words = [name for name in same if not all(c.replace(".", "").isdigit() for c in cells[name])]
    return (words or same)[0]


def _missing_columns(
    roles: _Roles, table: TextTable, labelling: Labelling
) -> tuple[str, str] | None:
    """What was found instead, and what to do; None where nothing is missing."""
    if roles.paths and (roles.label or roles.one_hot):
        return None
    missing = [
        *([] if roles.paths else ["'path'"]),
        *([] if roles.label or roles.one_hot else ["'label'"]),
    ]
    fix = f"name the columns of files and classes in the first line; missing: {joined(missing)}"
    odd = _odd_cell(table, roles) if roles.paths and labelling.task == "multilabel" else ""
    return named(table.columns), odd or "; ".join(filter(None, (fix, _class_hint(roles))))


def _odd_cell(table: TextTable, roles: _Roles, *, quoted: bool = True) -> str:
    """Where columns look like findings' and are none: the first cell that cannot be read as one."""
    for name in roles.groups:
        cells = table.column(name)
        numbers = all(re.fullmatch(r"[-+]?[01]?([.,][0-9]+)?", cell) for cell in cells)
        words = sum(is_answer(cell) and (len(cell) > 1 or cell.isdigit()) for cell in cells)
        odd = next((n for n, cell in enumerate(cells) if not is_answer(cell)), None)
        if odd is not None and (numbers or 2 * words > len(cells)):
            cell = f"'{cells[odd]:.40}'" if quoted else "a cell"
            return (
                f"{cell} of column '{name}' (line {table.rows[odd][0]}) cannot be read: a "
                "finding's column says 1, 0, -1 (uncertain) or nothing"
            )
    return ""


def _path_column(table: TextTable, roles: _Roles, files: _Files) -> str:
    """The clearest column that names files which are there; else the clearest."""
    for name in roles.paths:
        cells = table.column(name)
        if cells and sum(files.named(cell) is not None for cell in cells) > len(cells) / 2:
            return name
    return roles.paths[0]


def _check_quotes(table: TextTable, column: str, files: _Files) -> None:
    """Refuse cells that hold whole rows: a quote was left open, and the next one closed it.

    Texts of several lines are right; lines of as many cells as columns that name a file are none.
    """
    place = table.columns.index(column)
    for line, cells in table.rows:
        for text in (text for cell in cells if "\n" in cell for text in cell.splitlines()[1:]):
            parts = [part.strip(" '\"") for part in text.split(table.mark)]
            if len(parts) >= min(len(table.columns), place + 2) and files.named(parts[place]):
                raise open_quote(table.path, line)
        if "\n" in cells[place]:
            raise open_quote(table.path, line)


def _kept_groups(
    table: TextTable, roles: _Roles, labels: Sequence[str], left_out: LeftOuts
) -> list[str]:
    """Columns to look at results by; no identifiers, which are as many as there are patients."""
    patients = table.column(roles.patient) if roles.patient else []
    kept = []
    for name in roles.groups:
        cells = table.column(name)
        values = {cell for cell in cells if _is_given(cell)}
        where = f"{table.path.name}: {name}"
        follows = len({*zip(cells, labels, strict=True)}) == len({*cells}) == len({*labels}) > 1
        numbers = all(re.fullmatch(r"-?[0-9]*[.,]?[0-9]+", value) for value in values)
        if len(values) >= _FEWEST_VALUES and not numbers and len(values) == len(cells):
            left_out.add(where, "column", "another value in every row: no group")
        elif (
            len(values) >= _FEWEST_VALUES
            and not numbers
            and len(values) == len({*zip(cells, patients, strict=False)}) == len({*patients})
        ):
            left_out.add(where, "column", "another value for every patient: no group")
        elif _all_splits(cells):
            left_out.add(where, "column", ANOTHER_SPLIT)
        elif follows and _plain(name) in _LABELS:
            left_out.add(where, "column", "the label again: no group")
        else:
            kept.append(name)
    for name in table.columns:
        used = {*roles.paths[:1], roles.label, roles.split, roles.patient, *roles.one_hot}
        used |= {name for name in table.columns if _plain(name) in UNIT_COLUMNS}
        if name and name not in used and name not in roles.groups:
            cells = [cell for cell in table.column(name) if _is_given(cell)]
            known = is_box(name) or reader_column([(name, _plain(name))]) is not None
            shared = len({*cells}) < len(cells) or _PERHAPS.fullmatch(_plain(name))
            likely = shared and not known and not roles.patient
            reason = MAY_NAME_PATIENT if likely else "an identifier: no group"
            left_out.add(f"{table.path.name}: {name}", "column", reason)
    return kept


def _reading_notes(table: TextTable, roles: _Roles, path: str, each: str) -> Iterator[str]:
    """What was taken for what, where a name is not ours; columns of 0 and 1 are `each`."""
    own = {"path", "label", "split", "patientid"}
    pairs = [
        (name, role)
        for name, role in (
            (path, "path"),
            (roles.label, "label"),
            (roles.split, "split"),
            (roles.patient, "patient_id"),
        )
        if name and _plain(name) not in own
    ]
    if roles.one_hot:
        ends = dict.fromkeys((roles.one_hot[0], roles.one_hot[-1]))
        pairs.append(("' to '".join(ends), each))
    if pairs:
        shown = joined([f"'{name}' as {role}" for name, role in pairs])
        columns = "column" if len(pairs) == 1 and not roles.one_hot else "columns"
        yield f"'{table.path.name}' is read with the {columns} {shown}"
    yield from _slips(table, roles, each)
    if table.encoding == "cp1252":
        yield f"'{table.path.name}' is not UTF-8: read as Windows-1252; check names with accents"


def _slips(table: TextTable, roles: _Roles, each: str) -> Iterator[str]:
    """Columns that stand beside those of `each`, say much the same and are none of them.

    No cell is quoted: notes are shown in reports.
    """
    for name in roles.groups if roles.one_hot else ():
        cells = zip(table.rows, table.column(name), strict=True)
        given = [(line, cell) for (line, _), cell in cells if _is_given(cell)]
        lines = [line for line, cell in given if not is_answer(cell)]
        why = ""
        if 0 < 2 * len(lines) < len(given):
            many = f"{len(lines):,} of {counted(len(given), 'cell')}"
            why = f"line {lines[0]} says neither 1 nor 0 ({many})"
        elif is_yes_or_no([cell for _, cell in given]):
            why = "it says yes and no, they say 1 and 0"
        if why:
            yield f"'{table.path.name}': column '{name}' is a group, none of the {each}: {why}"


# ---------------------------------------------------------------------------------- labels


def _value_column(table: TextTable, roles: _Roles, labelling: Labelling, column: str) -> str | None:
    """Of a table with a row for each finding: the column that says whether it is there."""
    images = table.column(column)
    if roles.label is None or labelling.task == "multiclass" or len({*images}) == len(images):
        return None
    names = (name for name in table.columns if _plain(name) in _VALUES)
    return next((n for n in names if 2 * sum(map(is_answer, table.column(n))) > len(images)), None)


def _finding_in_each_row(
    labels: Sequence[str], images: Sequence[str], readers: Sequence[str] | None
) -> bool:
    """Whether images are listed once for each of their findings, by one reader each."""
    named: dict[tuple[str, str], set[str]] = defaultdict(set)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if _is_given(label) and not is_none(label):
            named[image, readers[number] if readers else ""].add(label)
    count = sum(len(several) > 1 for several in named.values())
    return len({*labels}) > 2 and count >= max(2, _SEVERAL * len({*images}))


def _findings(
    table: TextTable,
    roles: _Roles,
    labelling: Labelling,
    column: str,
    reader: str | None,
    value: str | None,
) -> FindingRows | None:
    """Several findings for each row; None where it has one label.

    Args:
        table: The table.
        roles: Its columns by what they say.
        labelling: As what they are to be read.
        column: The column of paths.
        reader: That of who read them.
        value: That of whether the finding of a row is there.

    Raises:
        DataError: Cells that contradict each other or cannot be read.
    """
    if labelling.task == "multiclass":
        return None
    lines = [line for line, _ in table.rows]
    asked = labelling.task == "multilabel"
    if roles.label is None:
        columns = {name: table.column(name) for name in roles.one_hot}
        several = [
            sum(c.casefold() in _YES for c in row) for row in zip(*columns.values(), strict=True)
        ]
        unsaid = any(cell in _MINUS for cells in columns.values() for cell in cells)
        if not asked and not unsaid and all(number == 1 for number in several):
            return None
        return from_columns(columns, lines, table.path, labelling=labelling)
    cells = table.column(roles.label)
    readers = table.column(reader) if reader else None
    if value is not None:
        cases = [*zip(table.column(column), readers or [""] * len(lines), strict=True)]
        return from_values(
            cells, table.column(value), lines, table.path, column=value, cases=cases,
            labelling=labelling,
        )  # fmt: skip
    plural = _plain(roles.label) in _PLURAL
    if not (
        asked
        or _joint_labels({*cells}, {}, plural=plural)
        or joint(cells)
        or _finding_in_each_row(cells, table.column(column), readers)
    ):
        return None
    return from_cells(cells, lines, table.path, column=roles.label, labelling=labelling)


def _labels(table: TextTable, roles: _Roles, class_map: Mapping[str, str]) -> list[str]:
    """One for each row.

    Raises:
        DataError: A row without one, or rows with several.
    """
    if roles.label is None:
        return _one_hot(table, roles.one_hot)
    labels = table.column(roles.label)
    several = _joint_labels({*labels}, class_map, plural=_plain(roles.label) == "labels")
    if several:
        rows = [(line, x) for (line, _), x in zip(table.rows, labels, strict=True) if x in several]
        raise _several_labels(len(rows), len(labels), f"'{rows[0][1]}'", rows[0][0], table.path)
    for (line, _), label in zip(table.rows, labels, strict=True):
        if label not in class_map and not _is_given(label):
            raise DataError(
                "a label in every row",
                f"{label or 'none'} in line {line} of '{table.path}'",
                "write one, or take the row out",
            )
    return labels


def _joint_labels(labels: set[str], class_map: Mapping[str, str], *, plural: bool) -> set[str]:
    """Labels such as "Effusion|Mass", of parts that are labels elsewhere too.

    In a column whose name is `plural` they need not be.
    """
    parts = {label: re.split(r"\s*[|;]\s*", label) for label in labels - {*class_map}}
    mark = joint_mark(labels)
    counts = Counter(part for label in labels for part in parts.get(label, [label]))
    return {
        label
        for label, names in parts.items()
        if (plural and "|" in label)
        or (len(names) > 1 and max(counts[name] for name in names) > 1)
        or (mark and mark in label and {*map(str.strip, label.split(mark))} <= labels)
    }


def _one_hot(table: TextTable, names: Sequence[str]) -> list[str]:
    columns = [table.column(name) for name in names]
    labels, several = [], []
    for number, (line, _) in enumerate(table.rows):
        given = [n for n, c in zip(names, columns, strict=True) if c[number].casefold() in _YES]
        if not given:
            raise DataError(
                f"a 1 in one of the columns {named(names)} in every row",
                f"none in line {line} of '{table.path}'",
                "write one, or give a column 'label'",
            )
        if len(given) > 1:
            several.append((line, joined(given)))
        labels.append(given[0])
    if several:
        line, shown = several[0]
        raise _several_labels(len(several), len(labels), shown, line, table.path)
    return labels


def _several_labels(number: int, of: int, shown: str, line: int, path: Path) -> DataError:
    return DataError(
        "one label for each image",
        f"several for {number:,} of {counted(of, 'row')} of '{path}', the first in line {line} "
        f"({shown:.100})",
        "set task: multilabel under 'data' if an image may show several; else keep one, in a "
        "column 'label'",
    )


def _distinct(items: list[ImageItem], where: str, left_out: LeftOuts) -> list[ImageItem]:
    """Each image once; rows that say the same twice count as one.

    Raises:
        DataError: Two rows of one image say different things.
    """
    seen: dict[str, ImageItem] = {}
    again: Counter[str] = Counter()
    for item in items:
        first = seen.setdefault(item.key, item)
        if first is item:
            continue
        if (first.label, first.findings) != (item.label, item.findings):
            count = sum(other.key == item.key for other in items)
            raise DataError(
                "one label for each image",
                f"'{item.key}' in {count} rows of '{where}', as {first.label} and {item.label}",
                "keep one row; where an image may show several findings, set task: multilabel; "
                "where several readers saw it, declare data.readers",
            )
        if first != item:
            raise DataError(
                "one row per image",
                f"'{item.key}' in several rows of '{where}' that differ",
                "keep one of them",
            )
        again[item.key] += 1
    for key, count in again.items():
        left_out.add(key, "row", "says the same as another row", count)
    return list(seen.values())


# ----------------------------------------------------------------------------------- files


class _Files:
    """The image that a cell means: its path, or the end of it, with or without its suffix."""

    def __init__(self, folder: Path, account: LeftOuts) -> None:
        self._folder, self._account = folder, account
        self._known: dict[str, Path | None] = {}

    def named(self, cell: str) -> Path | None:
        """None where no file, or more than one, is meant."""
        if cell not in self._known:
            self._known[cell] = self._find(cell)
        return self._known[cell]

    def candidates(self, cell: str) -> list[Path]:
        """All that a cell may mean, the best alone where there is a best."""
        parts = tuple(self._folded(part) for part in PurePosixPath(cell.replace("\\", "/")).parts)
        parts = tuple(part for part in parts if part not in ("/", ".", "..") and part[-1:] != ":")
        if not parts or not cell:
            return []
        ranked = defaultdict(list)
        for place, path in self._index().get(parts[-1], ()):
            inner = min(len(place), len(parts)) - 1
            if place[-1 - inner : -1] == parts[-1 - inner : -1]:
                # the name as it stands goes before the name without its suffix, what lies beside
                # the table before what lies elsewhere
                beside = self._folder == self._account.root or path.is_relative_to(self._folder)
                ranked[inner, place[-1] == parts[-1], beside].append(path)
        return ranked[max(ranked)] if ranked else []

    def nearest(self, cell: str) -> str | None:
        """A name that is there and much alike."""
        name = self._folded(PurePosixPath(cell.replace("\\", "/")).name)
        names = difflib.get_close_matches(name, list(self._index())[:5000], n=1, cutoff=0.75)
        return self._index()[names[0]][0][1].name if names else None

    def _find(self, cell: str) -> Path | None:
        for name in dict.fromkeys((cell, cell.replace("\\", "/"))):
            if name and _is_file(self._folder / name):
                return self._below_root(self._folder / name)
        several = self.candidates(cell)
        return several[0] if len(several) == 1 else None

    def _below_root(self, path: Path) -> Path:
        """The path as the images of the root are listed, however the cell leads there."""
        root = self._account.root
        if path.is_relative_to(root) and ".." not in path.parts:
            return path
        for place in (Path(os.path.normpath(path.absolute())), path.parent.resolve() / path.name):
            for base in (Path(os.path.normpath(root.absolute())), root.resolve()):
                if place.is_relative_to(base) and _is_file(root / place.relative_to(base)):
                    return root / place.relative_to(base)
        return path

    def _index(self) -> dict[str, list[tuple[tuple[str, ...], Path]]]:
        """Name of a file, with its suffix and without -> where such files are."""
        index = self._account.by_name
        for path in image_files(self._account.root, self._account) if not index else ():
            place = tuple(map(self._folded, self._account.name(path).split("/")))
            bare = place[-1].rpartition(".")[0].removesuffix(".nii")
            for name in {place[-1], bare or place[-1]}:
                index.setdefault(name, []).append((place, path))
        return index

    @staticmethod
    def _folded(name: str) -> str:
        return (name if name.isascii() else unicodedata.normalize("NFC", name)).casefold()


def _is_file(path: Path) -> bool:
    """False for a name that is too long, or that nobody may look at, as well."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _check_there(table: Path, items: Sequence[ImageItem], files: _Files) -> None:
    missing = [item for item in items if not _is_file(item.path)]
    if not missing:
        return
    first = missing[0].key
    several = [LeftOuts(table.parent).name(path) for path in files.candidates(first)]
    near = files.nearest(first)
    fix = "paths are relative to the manifest"
    if len(several) > 1:
        fix = f"it may be {joined(several[:3], 'or')}: write the folder too"
    elif near:
        fix += f"; did you mean '{near}'?"
    raise DataError(
        f"the images that '{table}' names",
        f"{len(missing)} of {len(items)} not there, first '{first:.200}'",
        fix,
    )
