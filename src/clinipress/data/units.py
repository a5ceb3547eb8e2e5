"""What images are parts of: patients, lesions, studies, files; what names none; what unit is known.

Everything that is known of an image keeps it with its like, whatever is known of the others. An
identifier that names nobody ("ANON", "nan", one for the whole set) would tie strangers together,
and hides that nobody is named: it is set aside, and said.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clinipress.data.grouping import numbered
from clinipress.data.layouts.items import spelling
from clinipress.records.item import UNIT_KINDS, ImageItem, plural_of
from clinipress.text import counted

__all__ = ["CLUSTER", "HEADER_PATIENT", "best_unit", "checked_units", "labelings"]

CLUSTER = "near-duplicate cluster"
# The patient of a file's header, until `checked_units` has brought it together with the table's.
HEADER_PATIENT = "PatientID"
_NOBODY_WORDS = """
anon anonym anonymous anonymus anonymize anonymized anonymise anonymised anonyme anonimo deid
anonymisiert deidentified pseudonym pseudonymized pseudonymised unknown unbekannt inconnu
desconocido sconosciuto none null nil nan na notavailable notapplicable noid noname unnamed removed
deleted masked hidden redacted dummy default missing empty undefined unspecified patient patientid
test xxx
"""
_NOBODY = frozenset(_NOBODY_WORDS.split())
# How much a unit may hold of better ones.
_MOST_INSIDE: Mapping[str, Mapping[str, int]] = {
    "study": {"patient": 3},
    "series": {"patient": 3},
    "folder": {"patient": 1, "lesion": 10, "record": 10, "study": 10},
}
_BY_FILE = frozenset({"file", "folder"})  # named by where they lie, not by people
_FEWEST_FOLDERS = 5  # in each class, from which on its folders are taken for units


def labelings(items: Sequence[ImageItem]) -> list[NDArray[np.int64]]:
    """For each kind of unit that is known at all, int64 ``[items]``: numbers, -1 for unknown."""
    kinds = [kind for kind in UNIT_KINDS if any(item.unit(kind) for item in items)]
    return [numbered([item.unit(kind) for item in items]) for kind in kinds]


def best_unit(items: Sequence[ImageItem]) -> tuple[str, int]:
    """What the units are called, and how many images name none of that kind.

    The first kind of `UNIT_KINDS` that half of the images name, else the one that most do; where
    none is known, the near-duplicate cluster.
    """
    known = {kind: sum(item.unit(kind) is not None for item in items) for kind in UNIT_KINDS}
    most = max(known, key=lambda kind: known[kind])
    if not known[most]:
        return CLUSTER, 0
    best = next((kind for kind, count in known.items() if 2 * count >= len(items)), most)
    return best, len(items) - known[best]


def checked_units(items: Sequence[ImageItem]) -> tuple[list[ImageItem], tuple[str, ...]]:
    """Items without identifiers that name nobody, and a sentence for each of these.

    A patient of a file's header goes by the table's name where one image has both. Folders inside
    those of the classes are units where every class has at least five. Names that look the same are
    one, "1" and "1.0" too; those that differ only in case or leading zeros stay apart.
    """
    items, notes = _one_spelling_each(_folders(items))
    for kind in (*UNIT_KINDS, HEADER_PATIENT):
        items, more = _without_placeholders(items, kind)
        notes += more
    items = _one_name_each(items)
    for kind, limits in _MOST_INSIDE.items():
        items, shared = _without_shared(items, kind, limits)
        if shared and kind != "folder":
            notes.append(
                f"{counted(shared, f'{kind} is', f'{plural_of(kind)} are')} of several "
                "patients each: treated as unknown"
            )
    return items, (*notes, *_nearly_same(items), *_owners(items))


def _one_spelling_each(items: Sequence[ImageItem]) -> tuple[list[ImageItem], list[str]]:
    """All identifiers as everyone writes them, and how many units of a kind that joined."""
    ways: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    result = []
    for item in items:
        named = {k: v for k, v in item.units.items() if k not in _BY_FILE}
        known = {**named, **({"patient": item.patient} if item.patient is not None else {})}
        plain = {kind: spelling(value) for kind, value in known.items()}
        for kind, value in known.items():
            ways["patient" if kind == HEADER_PATIENT else kind][plain[kind]].add(value)
        if plain != known:
            patient = plain.pop("patient", None)
            item = replace(item, patient=patient, units={**item.units, **plain})
        result.append(item)
    counts = {kind: sum(len(w) > 1 for w in names.values()) for kind, names in ways.items()}
    return result, [
        f"{counted(count, f'{kind} is', f'{plural_of(kind)} are')} written in several ways "
        "(such as 1 and 1.0, or with other blanks): read as one each"
        for kind, count in counts.items()
        if count
    ]


def _nearly_same(items: Sequence[ImageItem]) -> Iterable[str]:
    """A sentence for each kind of unit; an identifier is a person's, and is not written out."""
    for kind in UNIT_KINDS:
        first = {name: i.key for i in reversed(items) if (name := i.unit(kind)) is not None}
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for name, key in first.items() if kind not in _BY_FILE else ():
            plain = re.sub(r"(?<![0-9.])0+(?=[0-9])", "", name.casefold())
            alike[plain].append(key)
        near = [sorted(keys) for keys in alike.values() if len(keys) > 1]
        if near:
            yield (
                f"{counted(sum(map(len, near)), kind, plural_of(kind))} differ from another only "
                f"in case or leading zeros, such as those of '{min(near)[0]}' and "
                f"'{min(near)[1]}': if they are one, write them alike, or they may stand on both "
                "sides of a split"
            )


def _folders(items: Sequence[ImageItem]) -> list[ImageItem]:
    """The outermost folders that are many enough: class/patient/study/x.png goes by the patient."""
    deepest = max((item.units.get("folder", "").count("/") for item in items), default=0)
    for depth in range(1, deepest + 2):
        names = ["/".join(item.units.get("folder", "").split("/")[:depth]) for item in items]
        held: dict[str, set[str]] = {item.label: set() for item in items}
        for item, name in zip(items, names, strict=True):
            held[item.label].add(name)
        if all(len(inside - {""}) >= _FEWEST_FOLDERS for inside in held.values()):
            return [
                replace(item, units={**item.units, "folder": name}) if name else item
                for item, name in zip(items, names, strict=True)
            ]
    return [_without(item, "folder") if "folder" in item.units else item for item in items]


def _without_placeholders(
    items: list[ImageItem], kind: str
) -> tuple[list[ImageItem], Iterable[str]]:
    counts = Counter(value for item in items if (value := item.unit(kind)) is not None)
    of_class: dict[str, set[str | None]] = {}
    for item in items:
        if item.findings is None:  # combinations of findings are no classes, and some have one unit
            of_class.setdefault(item.label, set()).add(item.unit(kind))
    what = "patient" if kind == HEADER_PATIENT else kind
    nobody: dict[str, str] = {}
    # identifiers are written out only where they are known to be none: others are people's
    for label, values in of_class.items():
        value = next(iter(values))
        if len(values) == 1 and value and kind != "folder" and _NOBODY & {*_words(value)}:
            text = (
                f"all {counts[value]:,} images of class '{label}' name one {what}, an anonymous one"
            )
            nobody[value] = text
    for value, count in counts.items():
        if count == len(items) and len({item.path for item in items}) > 1:
            nobody[value] = f"all {count:,} images name the same {what}"
        elif _is_placeholder(value, counts):
            nobody[value] = f"the {what} '{value:.60}' of {count:,} images names nobody"
    if not nobody:
        return items, ()
    notes = (f"{text}: treated as unknown" for text in list(nobody.values())[:5])
    return [_without(item, kind) if item.unit(kind) in nobody else item for item in items], notes


def _without(item: ImageItem, kind: str) -> ImageItem:
    if kind == "patient":
        return replace(item, patient=None)
    return replace(item, units={k: v for k, v in item.units.items() if k != kind})


def _words(value: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", value.casefold())


def _is_placeholder(value: str, counts: Mapping[str, int]) -> bool:
    plain = "".join(re.findall(r"[^\W_]+", value.casefold()))
    if not plain or plain in _NOBODY:
        return True
    if plain.strip("0"):
        return False
    # 0 may be a number like others, where patients are numbered from 0
    others = [count for name, count in counts.items() if name.strip().isdigit() and name != value]
    return len(others) < 2 or counts[value] > 2 * max(others)


def _one_name_each(items: Sequence[ImageItem]) -> list[ImageItem]:
    """The header's name for a patient gives way to the table's; both of one person are one."""
    names: dict[str, set[str]] = {}
    for item in items:
        header = item.unit(HEADER_PATIENT)
        if header is not None and item.patient is not None:
            names.setdefault(header, set()).add(item.patient)
    result = []
    for item in items:
        header = item.unit(HEADER_PATIENT)
        if header is not None:
            known = names.get(header, set())
            name = min(known) if len(known) == 1 else header
            item = replace(_without(item, HEADER_PATIENT), patient=item.patient or name)
        result.append(item)
    return result


def _without_shared(
    items: Sequence[ImageItem], kind: str, limits: Mapping[str, int]
) -> tuple[list[ImageItem], int]:
    """Without units that hold too much to be one, and how many these are.

    A folder of several patients is a site or a shelf; a study of more than a misspelt patient or
    two has a placeholder for its identifier.
    """
    held: dict[tuple[str, str], set[str]] = {}
    for item in items:
        for inner in limits:
            unit, name = item.units.get(kind), item.unit(inner)
            if unit is not None and name is not None:
                held.setdefault((unit, inner), set()).add(name)
    shared = {unit for (unit, inner), names in held.items() if len(names) > limits[inner]}
    return [_without(i, kind) if i.units.get(kind) in shared else i for i in items], len(shared)


def _owners(items: Sequence[ImageItem]) -> list[str]:
    """Patients who own a whole class, where each class has one: more often a name than a person."""
    patients: dict[str, set[str | None]] = {}
    if any(item.findings is not None for item in items):  # combinations of findings are no classes
        return []
    for item in items:
        patients.setdefault(item.label, set()).add(item.patient)
    if len(patients) < 2 or any(len(p) > 1 or None in p for p in patients.values()):
        return []
    return [
        f"each class is of one patient, such as '{min(patients)}': if its identifier is a name for "
        "the class and not for a person, take it out of the table or the headers"
    ]
