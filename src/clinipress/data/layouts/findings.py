"""Several findings in one image: what a table says of each, and what it leaves open.

Two forms are read. A cell that names what is present (``Effusion|Mass``; nothing: none of them),
and a column for each finding with 1, 0, -1 (uncertain) or nothing (not mentioned). What is unknown
stays unknown: it is no class, it is not learnt from and never counted.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from clinipress.data.layouts.items import (
    ONE_LABEL,
    Dataset,
    Labelling,
    Unsaid,
    loosely,
    natural,
    spelling,
)
from clinipress.errors import DataError
from clinipress.records.item import NO_FINDING, ImageItem
from clinipress.text import counted, joined, tally

__all__ = [
    "BESIDE_NOTHING",
    "NOTHING_PRESENT",
    "FindingRows",
    "Known",
    "chosen_findings",
    "from_cells",
    "from_columns",
    "from_values",
    "has_place_beside_nothing",
    "is_answer",
    "is_no",
    "is_none",
    "is_yes_or_no",
    "joint",
    "joint_mark",
    "label_text",
    "mapped_names",
    "matched_findings",
]

Known = dict[str, bool]  # finding -> present; what is unknown is not in it

NOTHING_PRESENT = "no finding known"  # some are unknown
# Names of what is no finding of its own, without case and marks
_NONE = """
nofinding nofindings none normal healthy noabnormality noabnormalities unremarkable negative
nodisease nopathology clear
"""
# What an image without a finding may show: CheXpert's "No Finding" says nothing of tubes and lines
_DEVICES = re.compile(
    "(support|medical|implanted)?devices?|(lines?(and)?tubes?|tubes?(and)?lines?)"
)
BESIDE_NOTHING = "with both no finding and a finding"
_BLANK = frozenset({"", "nan", "n/a", "#n/a", "<na>", "null", "na", "none", "?"})
_TRUE = """
1 1.0 1,0 true yes y t present positive pos ja j oui si sí sim tak wahr vrai
"""
_FALSE = """
0 0.0 0,0 false no n f absent negative neg nein non nee nej não nao nie falsch faux
"""
_YES, _NO = frozenset(_TRUE.split()), frozenset(_FALSE.split())
_UNCERTAIN = frozenset({"-1", "-1.0", "-1,0", "uncertain", "u", "equivocal", "possible"})
_PARTS = re.compile(r"\s*[|;]\s*")
_MARKS = (
    ",",
    "+",
    "/",
    "&",
)  # they stand in names as well: only where the parts are cells elsewhere


@dataclass(frozen=True)
class FindingRows:
    """The findings of a table's rows.

    Attributes:
        names: Findings in the order of the table.
        rows: For each row what is known.
        complete: What a row does not name is absent.
        notes: What a reader should know of how they were read.
        nothing: Numbers of the rows that say that there is no finding.
    """

    names: tuple[str, ...]
    rows: list[Known]
    complete: bool
    notes: tuple[str, ...] = ()
    nothing: frozenset[int] = frozenset()


def is_none(name: str) -> bool:
    """Whether a name says that there is no finding: "No Finding", "Normal"."""
    return re.sub(r"[\W_]+", "", name).casefold() in _NONE.split()


def has_place_beside_nothing(name: str) -> bool:
    """Whether it is no contradiction that a row names this and no finding: support devices."""
    return bool(_DEVICES.fullmatch(re.sub(r"[\W_]+", "", name).casefold()))


def joint(cells: Sequence[str]) -> bool:
    """Whether cells name several at once: ``a|b``, ``a;b`` or a list in brackets."""
    return any(_PARTS.search(cell) or _in_brackets(cell) for cell in cells)


def joint_mark(cells: Collection[str]) -> str:
    """A mark between names that are cells elsewhere, "a, b" beside "a" and "b"; "" for none."""
    whole = {cell.strip() for cell in cells}
    return next(
        (
            mark
            for mark in _MARKS
            if any(mark in cell and {part.strip() for part in cell.split(mark)} <= whole
                   for cell in whole)
        ),
        "",
    )  # fmt: skip


def _in_brackets(cell: str) -> bool:
    return cell == "set()" or cell[:1] + cell[-1:] in ("[]", "{}", "()")


def _named(cell: str, mark: str) -> list[str]:
    """Names in a cell, codes as they stand there: leading zeros and dots belong to them."""
    if _in_brackets(cell):
        cell, mark = cell.removeprefix("set")[1:-1], ","
    parts = re.split(rf"\s*[|;{re.escape(mark)}]\s*", cell)
    names = (spelling(part.strip().strip("'\"")) for part in parts)
    return [name for name in dict.fromkeys(names) if name.casefold() not in _BLANK - {"none"}]


def from_cells(
    cells: Sequence[str],
    lines: Sequence[int],
    path: Path,
    *,
    column: str,
    labelling: Labelling = ONE_LABEL,
) -> FindingRows:
    """Of a column that names what is present.

    Args:
        cells: One for each row.
        lines: Their lines in the file.
        path: The table.
        column: Name of the column.
        labelling: Of which findings contradictions count.

    Raises:
        DataError: A cell that says "No Finding" and names one, or a table without any.
    """
    mark = "" if joint(cells) else joint_mark({spelling(cell) for cell in cells})
    named = [_named(cell, mark) for cell in cells]
    notes = _contradictions(
        [[n for n in names if is_none(n)] for names in named],
        [[n for n in names if not is_none(n)] for names in named],
        lines, path, labelling,
    )  # fmt: skip
    rows = [{name: True for name in names if not is_none(name)} for names in named]
    counts = Counter(name for row in rows for name in row)
    if not counts:
        raise DataError(f"findings in the column '{column}' of '{path}'", "none in any row")
    empty = sum(not names for names in named)
    if empty:
        notes.append(
            f"{counted(empty, 'row')} of '{path.name}' with nothing in '{column}': read as none of "
            "the findings"
        )
    nothing = frozenset(n for n, names in enumerate(named) if any(map(is_none, names)))
    order = tuple(sorted(counts, key=natural))
    return FindingRows(order, rows, complete=True, notes=tuple(notes), nothing=nothing)


def from_values(
    names: Sequence[str],
    values: Sequence[str],
    lines: Sequence[int],
    path: Path,
    *,
    column: str,
    cases: Sequence[tuple[str, str]] = (),
    labelling: Labelling = ONE_LABEL,
) -> FindingRows:
    """Of a row for each finding: a cell names it, and another says 1, 0, -1 or nothing.

    Args:
        names: The findings.
        values: What is said of them.
        lines: Lines of the rows in the file.
        path: The table.
        column: Name of the column of values.
        cases: Image and reader of each row: beside "No Finding" what is uncertain is as if empty.
        labelling: What an empty cell and -1 say.

    Raises:
        DataError: A cell that is none of 1, 0, -1 and nothing, or no finding at all.
    """
    blank, uncertain = labelling.blank, labelling.uncertain
    said: Counter[str] = Counter()
    rows: list[Known] = []
    nothing = set()
    read = [_read(cell, column, line, path) for cell, line in zip(values, lines, strict=True)]
    healthy = {
        case for case, name, value in zip(cases, names, read, strict=False)
        if value is True and is_none(name)
    }  # fmt: skip
    for number, (name, value) in enumerate(zip(names, read, strict=True)):
        if is_none(name):
            nothing |= {number} if value is True else set[int]()
            rows.append({})
            continue
        if isinstance(value, str):
            said[value] += 1
            policy = blank if value == "blank" else uncertain
            beside = bool(cases) and cases[number] in healthy and not has_place_beside_nothing(name)
            if beside:
                policy = (
                    "absent" if (value, policy) == ("blank", "present") else _not_present(policy)
                )
            rows.append({} if policy == "unknown" else {spelling(name): policy == "present"})
        else:
            rows.append({spelling(name): value})
    order = tuple(sorted({spelling(n) for n in names if n and not is_none(n)}, key=natural))
    if not order:
        raise DataError(f"findings in '{path}'", "none in any row")
    notes = tuple(_unsaid_notes(said, blank, uncertain, path, bool(nothing)))
    return FindingRows(order, rows, complete=False, notes=notes, nothing=frozenset(nothing))


def from_columns(
    columns: Mapping[str, Sequence[str]],
    lines: Sequence[int],
    path: Path,
    *,
    labelling: Labelling = ONE_LABEL,
) -> FindingRows:
    """Of a column for each finding.

    Where a column says "No Finding", what is blank beside it is absent, and what is uncertain is
    not present: it stays unknown. Of devices it says nothing.

    Args:
        columns: Finding -> its cells.
        lines: Lines of the rows in the file.
        path: The table.
        labelling: What an empty cell and -1 say, and of which findings contradictions count.

    Raises:
        DataError: A cell that is none of 1, 0, -1 and nothing, "No Finding" beside a finding, or no
            finding at all.
    """
    none = [name for name in columns if is_none(name)]
    names = tuple(spelling(name) for name in columns if name not in none)
    if not names:
        raise DataError(f"a column for each finding in '{path}'", joined(list(columns)) or "none")
    blank, uncertain = labelling.blank, labelling.uncertain
    said: Counter[str] = Counter()
    rows: list[Known] = []
    nothing: list[list[str]] = []
    for number, line in enumerate(lines):
        healthy = [n for n in none if _read(columns[n][number], n, line, path) is True]
        nothing.append(healthy)
        row: Known = {}
        for name in columns:
            if name in none:
                continue
            value = _read(columns[name][number], name, line, path)
            if isinstance(value, str):
                said[value] += 1
                policy = blank if value == "blank" else uncertain
                if healthy and not has_place_beside_nothing(name):
                    policy = "absent" if value == "blank" else _not_present(policy)
                if policy == "unknown":
                    continue
                value = policy == "present"
            row[spelling(name)] = value
        rows.append(row)
    present = [[name for name, there in row.items() if there] for row in rows]
    notes = _contradictions(nothing, present, lines, path, labelling)
    notes += _unsaid_notes(said, blank, uncertain, path, bool(none))
    if none:
        devices = [f"'{name}'" for name in names if has_place_beside_nothing(name)]
        but = f", and of {joined(devices)} it says nothing" if devices else ""
        notes.append(
            f"'{none[0]}' is no finding of its own: where it is 1, the others are absent{but}"
        )
    return FindingRows(names, rows, complete=False, notes=tuple(notes))


def is_answer(cell: str) -> bool:
    """Whether a cell says 1, 0, -1 (uncertain) or nothing, in any of their words."""
    return cell.strip().casefold() in _YES | _NO | _UNCERTAIN | _BLANK


def is_no(cells: Sequence[str]) -> bool:
    """Whether cells say no and nothing else."""
    return bool(cells) and {cell.strip().casefold() for cell in cells} <= _NO


def is_yes_or_no(cells: Sequence[str]) -> bool:
    """Whether cells say yes in one and no in another, and nothing but answers."""
    words = {cell.strip().casefold() for cell in cells}
    return bool(words & _YES and words & _NO) and words <= _YES | _NO | _UNCERTAIN | _BLANK


def _read(cell: str, name: str, line: int, path: Path) -> bool | str:
    """Present or absent, or "blank" or "uncertain"."""
    text = cell.strip().casefold()
    if text in _YES:
        return True
    if text in _NO:
        return False
    if text in _BLANK:
        return "blank"
    if text in _UNCERTAIN:
        return "uncertain"
    raise DataError(
        f"1, 0, -1 (uncertain) or nothing in the column '{name}' of '{path}'",
        f"'{cell:.40}' in line {line}",
        "correct it, or name the findings to use in 'classes'",
    )


def _not_present(policy: Unsaid) -> Unsaid:
    """What is unsaid beside "No Finding" is not present, whatever is declared."""
    return "unknown" if policy == "present" else policy


def _unsaid_notes(
    said: Counter[str], blank: Unsaid, uncertain: Unsaid, path: Path, none: bool
) -> Iterator[str]:
    beside = " (absent where there is no finding at all)" if none and blank == "unknown" else ""
    for kind, policy, words in (
        ("blank", blank, f"empty, read as {blank}{beside}"),
        ("uncertain", uncertain, f"-1 (uncertain), read as {uncertain}"),
    ):
        if said[kind]:
            how = "never counted" if policy == "unknown" else "as data." + kind + " says"
            yield f"{counted(said[kind], 'cell')} of '{path.name}' {words}: {how}"


def _contradictions(
    nothing: Sequence[Sequence[str]],
    present: Sequence[Sequence[str]],
    lines: Sequence[int],
    path: Path,
    labelling: Labelling,
) -> list[str]:
    """Refuse rows with "No Finding" and a finding that counts; a sentence of those that do not."""
    judged, noted = labelling.judged, labelling.contradictions == "note"
    refused: list[tuple[int, list[str]]] = []
    passed: list[tuple[int, list[str]]] = []
    for line, none, some in zip(lines, nothing, present, strict=True):
        odd = [name for name in some if none and not has_place_beside_nothing(name)]
        wrong = [name for name in odd if judged is None or loosely(name) in judged]
        if odd:
            (refused if wrong and not noted else passed).append((line, [none[0], *(wrong or odd)]))
    if not refused and not passed:
        return []
    rows = refused or passed
    line, names = rows[0]
    many, where = counted(len(rows), "row"), f"the first in line {line} ({joined(names)})"
    fix = "correct them"
    if judged is None or labelling.classes is not None:
        fix += ", or leave out with 'classes' what may stand beside it"
    if refused:
        expected = f"'{names[0]}' or findings, not both, in each row of '{path}'"
        raise DataError(expected, f"both in {many}, {where}", fix)
    fix = f": 'clinipress run' refuses them; {fix}" if noted else ""
    return [f"{many} of '{path.name}' {BESIDE_NOTHING}, {where}{fix}"]


def label_text(known: Mapping[str, bool], findings: Sequence[str]) -> str:
    """What is present, for people: "Effusion|Mass"."""
    present = [name for name in findings if known.get(name)]
    if present:
        return "|".join(present)
    return NO_FINDING if len(known) >= len(findings) else NOTHING_PRESENT


def chosen_findings(
    items: Sequence[ImageItem],
    wanted: Sequence[str] | None,
    class_map: Mapping[str, str],
    *,
    complete: bool,
    parents: Mapping[str, str] = MappingProxyType({}),
) -> tuple[tuple[str, ...], list[ImageItem], list[str]]:
    """The findings of a set, in the order of the logits, and its items with these alone.

    Args:
        items: With what their rows say.
        wanted: The findings to use, in this order; None: all, sorted.
        class_map: Name in the table -> name of the finding; two of one name are one.
        complete: What a row does not name is absent.
        parents: Finding -> the one it is a kind of: a present child makes an unknown parent
            present, an absent parent an unknown child absent.

    Returns:
        Names, items and notes.

    Raises:
        DataError: A wanted finding, or one of `parents`, that no row knows; or a child that is
            present where its parent is absent.
    """
    own = sorted({name for item in items for name in item.findings or {}}, key=natural)
    maps = {name: class_map[key] for key, name in mapped_names(class_map, own).items()}
    merged, notes = _merged([item.findings or {} for item in items], maps)
    there = sorted({name for known in merged for name in known}, key=natural)
    notes += _alike(there, merged)
    missing = [name for name in wanted or () if name not in there]
    if missing:
        raise DataError(
            f"the findings {joined(list(wanted or ()))}",
            f"no word of {joined([f'{name!r}' for name in missing])}; there are {joined(there)}",
            "correct 'classes', or map names with class_map",
        )
    notes += _filled(items, merged, parents, there) if parents else []
    names = tuple(wanted or there)
    if complete:
        merged = [{name: known.get(name, False) for name in names} for known in merged]
    else:
        merged = [{name: known[name] for name in names if name in known} for known in merged]
    unused = [name for name in there if name not in names]
    if unused:
        notes.append(f"{len(names)} of {len(there)} findings are used; not {joined(unused)}")
    changed = [
        replace(item, findings=known, label=label_text(known, names))
        for item, known in zip(items, merged, strict=True)
    ]
    return names, changed, notes


def _filled(
    items: Sequence[ImageItem], known: list[Known], parents: Mapping[str, str], there: Sequence[str]
) -> list[str]:
    """Fill, in place, what a hierarchy says of unknown findings; a sentence with the counts."""
    odd = [name for pair in parents.items() for name in pair if name not in there]
    if odd:
        raise DataError(f"findings in 'data.parents' of {joined(there)}", f"'{odd[0]}'")
    above = {name: [name] for name in there}
    for name, line in above.items():  # recipes refuse cycles
        while line[-1] in parents:
            line.append(parents[line[-1]])
        above[name] = line[1:]
    wrong = [
        (item.key, child, parent)
        for item, row in zip(items, known, strict=True)
        for child, line in above.items()
        for parent in line
        if row.get(child) is True and row.get(parent) is False
    ]
    if wrong:
        shown = [f"'{key}' ({child} without {parent})" for key, child, parent in wrong[:3]]
        raise DataError(
            "a finding only where its parent of 'data.parents' is",
            f"{len({key for key, *_ in wrong}):,} of {counted(len(items), 'image')} otherwise: "
            f"{', '.join(shown)}",
            "correct the labels, or the hierarchy",
        )
    filled: Counter[tuple[str, str]] = Counter()
    for row in known:
        before = dict(row)
        for child, line in above.items():
            if before.get(child) is True:
                row |= dict.fromkeys(line, True)
            elif child not in before and any(before.get(parent) is False for parent in line):
                row[child] = False
        filled.update(("present" if row[n] else "absent", n) for n in row.keys() - before.keys())
    if not filled:
        return ["'data.parents' fills nothing: what it says is known already"]
    parts = [
        f"{sum(by_name.values()):,} as {state} ({tally(sorted(by_name.items()))})"
        for state in ("present", "absent")
        if (by_name := {name: n for (kind, name), n in filled.items() if kind == state})
    ]
    return [f"'data.parents' fills unknown findings: {joined(parts)}"]


def matched_findings(
    dataset: Dataset,
    wanted: Sequence[str],
    own_names: Mapping[str, str] = MappingProxyType({}),
    targets: Collection[str] = (),
) -> tuple[Dataset, tuple[str, ...]]:
    """A set from elsewhere with the findings of a model, by their names.

    Case, blanks and underscores do not matter. A finding that the set does not know is unknown in
    all of its images; one that the model does not know is left out.

    Args:
        dataset: The set.
        wanted: The model's findings.
        own_names: Names in the data it was trained on -> its findings, which are matched, too.
        targets: What names of the set were mapped to, which the model must know.

    Returns:
        The set with the model's findings, and what was matched, is missing and is left out.

    Raises:
        DataError: The two have no finding in common, or a target is none of the model.
    """
    known = {loosely(raw): name for raw, name in own_names.items() if name in wanted}
    mine = known | {loosely(name): name for name in wanted}
    odd = next((name for name in targets if loosely(name) not in mine), None)
    if odd is not None:
        near = difflib.get_close_matches(loosely(odd), mine, n=3, cutoff=0.4)
        raise DataError(
            f"a finding of the model for '{odd}' of --class-map",
            "none of that name",
            f"it knows {joined([*dict.fromkeys(mine[name] for name in near)] or list(wanted))}",
        )
    names = {
        name: name if name in wanted else mine[loosely(name)]
        for name in dataset.classes
        if loosely(name) in mine
    }
    if not names:
        raise DataError(
            f"some of the findings {joined(list(wanted))}",
            f"{joined(list(dataset.classes))} in '{dataset.root}'",
            "map them with --class-map theirs=ours",
        )
    own = [{n: t for n, t in (i.findings or {}).items() if n in names} for i in dataset.items]
    merged, joint_names = _merged(own, names)
    rows = [{name: row[name] for name in wanted if name in row} for row in merged]
    items = [
        replace(item, findings=row, label=label_text(row, wanted))
        for item, row in zip(dataset.items, rows, strict=True)
    ]
    others = [f"'{theirs}' as {ours}" for theirs, ours in names.items() if theirs != ours]
    missing = [name for name in wanted if name not in names.values()]
    beyond = [name for name in dataset.classes if name not in names]
    notes = [
        *([f"findings matched by their names: {joined(others)}"] if others else []),
        *joint_names,
        *([f"findings that this set does not know, never counted: {joined(missing)}"]
          if missing else []),
        *([f"findings that the model does not know, left out: {joined(beyond)} (map one with "
           "--class-map theirs=ours)"] if beyond else []),
    ]  # fmt: skip
    changed = replace(dataset, classes=tuple(wanted), items=tuple(items))
    return changed, tuple(notes)


def mapped_names(class_map: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Key of a class_map -> the finding of a set that it means: as it is, or alike and no other."""
    exact = {key: spelling(key) for key in class_map if spelling(key) in names}
    rest = [name for name in names if name not in exact.values()]
    alike = {key: [n for n in rest if loosely(n) == loosely(key)] for key in class_map}
    return exact | {k: of[0] for k, of in alike.items() if k not in exact and len(of) == 1}


def _merged(
    rows: Sequence[Mapping[str, bool]], maps: Mapping[str, str]
) -> tuple[list[Known], list[str]]:
    """Under their names of the study: present if any of one name is, absent only if all are.

    Spellings of one name are one, known wherever one of them is. Notes say what became one.
    """
    parts: dict[str, dict[str, list[str]]] = {}  # finding -> its parts -> their spellings
    for name in sorted({name for known in rows for name in known}, key=natural):
        parts.setdefault(maps.get(name, name), {}).setdefault(loosely(name), []).append(name)
    merged: list[Known] = []
    for known in rows:
        row: Known = {}
        for finding, of in parts.items():
            answers = [[known[name] for name in same if name in known] for same in of.values()]
            if any(map(any, answers)) or all(answers):
                row[finding] = any(map(any, answers))
        merged.append(row)
    notes = [
        f"{joined([repr(same[0]) for same in of.values()])} are read as one finding, '{finding}': "
        "absent only where all of them are"
        for finding, of in parts.items()
        if len(of) > 1
    ]
    return merged, notes


def _alike(names: Sequence[str], rows: Sequence[Known]) -> Iterator[str]:
    """A sentence for findings whose names differ in spelling only, as of classes."""
    counts = Counter(name for row in rows for name, there in row.items() if there)
    for key in dict.fromkeys(map(loosely, names)):
        near = [name for name in names if loosely(name) == key]
        if len(near) > 1:
            yield (
                f"the findings {joined([f'{name!r} ({counts[name]:,})' for name in near])} differ "
                "in spelling only, and one may be absent where the other is named: if they are "
                "one, join them with class_map (--class-map)"
            )
