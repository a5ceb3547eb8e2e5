"""What a data set is, once it has been read: a list of items, each with its label."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from clinipress.errors import DataError
from clinipress.records.candidate import Task
from clinipress.records.item import ImageItem
from clinipress.records.result import LeftOut
from clinipress.text import JOINERS, joined, not_used

__all__ = [
    "ANOTHER_SPLIT",
    "HIDDEN",
    "MAY_NAME_PATIENT",
    "NOT_READ",
    "ONE_LABEL",
    "SPLIT_NAMES",
    "Contradictions",
    "Dataset",
    "FolderLook",
    "Labelling",
    "Layout",
    "LeftOuts",
    "Listed",
    "ReaderRule",
    "Task",
    "Unsaid",
    "drawn",
    "left_out_lines",
    "loosely",
    "natural",
    "one_spelling",
    "patient_columns",
    "spelling",
    "split_name",
]


Layout = Literal["class folders", "split/class folders", "manifest", "npz"]


MAY_NAME_PATIENT = "may name the patient: no group"  # the reason of a column that nobody explains
ANOTHER_SPLIT = "names splits: no group"
# Reasons of what lies in most folders and is never missed
HIDDEN, NOT_READ = "hidden or made by a system", "is not read as an image"

# Cyrillic and Greek letters that look like Latin ones, small or as capitals; the small mu does not
_LOOKS_LIKE = str.maketrans("авекмнорстухіјѕԁһԛԝαβεζηικνορτυχ", "abekmhopctyxijsdhqwabezhiknoptyx")
_CAPITAL_MU = re.compile(
    "\N{GREEK CAPITAL LETTER MU}(?=[A-Za-z])|(?<=[A-Za-z])\N{GREEK CAPITAL LETTER MU}"
)
# Characters that nobody sees, wherever they stand
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))

SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


Unsaid = Literal["unknown", "absent", "present"]
ReaderRule = Literal["any", "majority"]
Contradictions = Literal["refuse", "note"]


@dataclass(frozen=True)
class Labelling:
    """What the labels of a set are to be read as.

    Attributes:
        task: One class for each image, or any of several findings; None: as the set itself has it.
        classes: Classes, or findings, in the order of the logits; None: all that are there.
        blank: Where each finding has a column, what an empty cell says.
        uncertain: And what -1 says.
        split_column: Column of a table that holds the published splits; None: by its name.
        readers: Which answer counts where several readers of an image differ; None: not declared.
        contradictions: Whether rows that name a finding and "No Finding" are refused or noted.
        judged: The findings of which they count, as `loosely` has them; None: all.
    """

    task: Task | None = "multiclass"
    classes: tuple[str, ...] | None = None
    blank: Unsaid = "unknown"
    uncertain: Unsaid = "unknown"
    split_column: str | None = None
    readers: ReaderRule | None = None
    contradictions: Contradictions = "refuse"
    judged: frozenset[str] | None = None


ONE_LABEL = Labelling()


@dataclass(frozen=True)
class Dataset:
    """All pictures of a set.

    Attributes:
        root: The folder that keys are relative to.
        layout: How it was laid out.
        classes: Class names in the order of the logits; findings, where an image may show several.
        items: Sorted by key, numbers in names by value.
        group_columns: Names of the columns in `ImageItem.groups`.
        left_out: What lies there and is not used.
        notes: What a reader of the set should know about how it was read, one sentence each.
        task: "multilabel" where an image may show several findings at once, or none.
        differing: Images whose readers differ; None: nobody read one twice.
    """

    root: Path
    layout: Layout
    classes: tuple[str, ...]
    items: tuple[ImageItem, ...]
    group_columns: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    task: Task = "multiclass"
    differing: int | None = None


class FolderLook(NamedTuple):
    """Folders and possible images directly in a folder, and what is passed over there."""

    folders: list[Path]
    files: list[Path]
    passed_over: list[tuple[Path, str, str]]


class LeftOuts:
    """The account of what is passed over below `root`: each thing once, with its first reason.

    Folders that bear one of the names in `classes` are not passed over, whatever they look like.
    """

    def __init__(self, root: Path, classes: Iterable[str] = ()) -> None:
        self.root, self.classes = root, frozenset(classes)
        # what was listed is not listed again: folders, and files by their names
        self.looked: dict[Path, FolderLook] = {}
        self.by_name: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
        self._reasons: dict[str, tuple[str, str, int]] = {}
        self._used: set[str] = set()

    def aside(self) -> LeftOuts:
        """Another account of the same folder, for a look that counts for nothing."""
        other = LeftOuts(self.root, self.classes)
        other.looked, other.by_name = self.looked, self.by_name
        return other

    def add(self, path: Path | str, kind: str, reason: str, count: int = 1) -> None:
        """`path` is below the root or relative to it; see `LeftOut` for the rest."""
        self._reasons.setdefault(self._name(path), (kind, reason, count))

    def use(self, path: Path | str) -> None:
        """It is used after all."""
        self._used.add(self._name(path))

    def reject(self, path: Path, kind: str, reason: str, count: int = 1) -> None:
        """What was taken for an image is none, or not all of it is."""
        self._used.discard(self._name(path))
        self._reasons[self._name(path)] = (kind, reason, count)

    def records(self) -> tuple[LeftOut, ...]:
        """In order of kind, reason and name."""
        rows = [(*why, path) for path, why in self._reasons.items() if path not in self._used]
        return tuple(
            LeftOut(path=path, kind=kind, reason=reason, count=count)
            for kind, reason, count, path in sorted(
                rows, key=lambda row: (row[0], row[1], natural(row[3]))
            )
        )

    def name(self, path: Path) -> str:
        """Relative to the root where it is below it, with forward slashes."""
        return path.as_posix().removeprefix(f"{self.root.as_posix()}/")

    def _name(self, path: Path | str) -> str:
        # records are written as JSON, which has no place for a name that is not UTF-8
        name = path if isinstance(path, str) else self.name(path)
        return name.encode(errors="backslashreplace").decode()


@dataclass
class Listed:
    """The items of one layout before files with several pictures are opened.

    `names` are those of folders and labels as they are there, before `class_map`.
    """

    layout: Layout
    root: Path
    items: list[ImageItem]
    group_columns: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    task: Task = "multiclass"
    cells: bool = False  # of several findings: a cell names those that are present
    complete: bool = False  # and what it does not name is absent
    differing: int | None = None  # images whose readers differ


def patient_columns(left_out: Iterable[LeftOut]) -> list[str]:
    """Names of columns that may be the patient's and were not taken, in quotes."""
    columns = (e.path.partition(": ")[2] for e in left_out if e.reason == MAY_NAME_PATIENT)
    return [f"'{name}'" for name in dict.fromkeys(columns)]


def left_out_lines(left_out: Iterable[LeftOut]) -> list[str]:
    """What is not used and may be missed: a sentence for each kind and reason."""
    return not_used(
        (entry.path, entry.kind, entry.reason, entry.count)
        for entry in left_out
        if entry.kind != "column" and not entry.reason.endswith((HIDDEN, NOT_READ))
    )


def drawn(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Some items of a set, as many of each class as its share of the whole; at least one of each.

    Patients and near-duplicates may lose images; those that are left still belong together. A set
    of no more than `count` images is given back as it is.
    """
    if count >= len(dataset.items):
        return dataset
    random = Random(seed)
    kept: set[str] = set()
    several = dataset.task == "multilabel"
    groups = dict.fromkeys(item.label for item in dataset.items) if several else dataset.classes
    for label in groups:
        keys = [item.key for item in dataset.items if item.label == label]
        share = max(not several, round(count * len(keys) / len(dataset.items)))
        kept |= set(random.sample(keys, min(share, len(keys))))
    items = tuple(item for item in dataset.items if item.key in kept)
    return replace(dataset, items=items)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sorting key with numbers by value: "x2" before "x10".

    Example:
        >>> sorted(["x10", "x2", "a"], key=natural)
        ['a', 'x2', 'x10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(p), p) if p.isdigit() else (1, 0, p) for p in parts)


def split_name(text: str) -> str | None:
    """The split a folder or cell names, in any case: "Training" is "train"; None for no split.

    Raises:
        DataError: A text that names none.
    """
    text = text.strip()
    if not text:
        return None
    if text.casefold() not in SPLIT_NAMES:
        raise DataError(f"a split named {', '.join(SPLIT_NAMES)} or nothing", f"'{text}'")
    return SPLIT_NAMES[text.casefold()]


def spelling(name: str) -> str:
    """A name as everyone writes it: composed letters, single spaces, none unseen, "1.0" as "1".

    Two names that are the same here are the same to the eye, whatever made them differ on disk.
    """
    name = " ".join(unicodedata.normalize("NFC", name.translate(_UNSEEN)).split())
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", name)


def loosely(name: str, letters: Mapping[int, int] = _LOOKS_LIKE) -> str:
    """What is left without case, accents, scripts, leading zeros and the marks between words.

    A sign at the end or the beginning stays: "ER+" is not "ER-", and "-1" is not "1".
    """
    plain = unicodedata.normalize("NFKD", spelling(name))
    plain = (_CAPITAL_MU.sub("M", plain) if letters else plain).casefold()
    unseen = JOINERS if letters else ""
    plain = "".join(c for c in plain if not unicodedata.combining(c) and c not in unseen)
    plain = plain.translate(letters)
    plain = re.sub(r"(?<=[^\W_])[\s_.\-]+(?=[^\W_])", "", plain)
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", plain)


def one_spelling(
    items: list[ImageItem], chosen: Iterable[str] = ()
) -> tuple[list[ImageItem], list[str]]:
    """Join labels that look the same, and name those that differ in little.

    Args:
        items: Their labels are looked at.
        chosen: Labels that the user named, which are left as they are.

    Returns:
        The items, and a sentence for each class that has several spellings.
    """
    counts = Counter(item.label for item in items)
    notes: list[str] = []
    renamed: dict[str, str] = {}
    for same in _alike([label for label in counts if label not in set(chosen)], spelling):
        best = max(same, key=lambda label: (counts[label], label == spelling(label), label))
        renamed |= dict.fromkeys(same, best)
        shown = joined([f"{label!a}" for label in sorted(same)])
        notes.append(f"{shown} are one class, spelled in {len(same)} ways: read as '{best}'")
    if renamed:
        items = [replace(i, label=renamed.get(i.label, i.label)) for i in items]
    counts = Counter(item.label for item in items)
    for near in _alike(list(counts), loosely):
        same_to_the_eye = len({loosely(label, {}) for label in near}) > 1
        quoted = ascii if same_to_the_eye else "'{}'".format
        shown = joined([f"{quoted(label)} ({counts[label]:,})" for label in sorted(near)])
        notes.append(
            f"the classes {shown} differ in spelling only: if they are one, join them with "
            "class_map (--class-map)"
        )
    return items, notes


def _alike(labels: list[str], key: Callable[[str], str]) -> list[list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        groups[key(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]
