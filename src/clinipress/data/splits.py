"""Dividing images into train, validation and a sealed test split, without tearing units apart.

Whatever is known to hold images together does: patients where they are named, lesions, studies,
series, files, and clusters of near-duplicates; an image of which nothing is known never undoes the
others' units. "published" keeps the splits a data set came with, and drops the training images that
leak into them. "image" must be asked for by name, and its reason says what that means: Yagis et al.
(2021) found slice-level splits to add 29 to 55 points of accuracy.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress.data.audit.fingerprints import Fingerprints
from clinipress.data.grouping import (
    class_counts,
    deal,
    finding_counts,
    merge,
    numbered,
    shuffled_by_key,
)
from clinipress.data.layouts.items import natural
from clinipress.data.sources import Dataset, ImageItem
from clinipress.data.units import CLUSTER, best_unit, labelings
from clinipress.errors import DataError
from clinipress.recipe.study import SplitRecipe
from clinipress.records.item import UNIT_KINDS, plural_of
from clinipress.records.result import SplitSummary, TestOpening
from clinipress.records.store import digest_of, read_json, storage, write_atomically
from clinipress.text import joined

__all__ = ["SPLITS", "Split", "log_opening", "make_split", "repair_lines", "units"]

SPLITS = ("train", "validation", "test")
# What may have seen an image, and what must not have been seen
CROSSINGS = (("train", "test"), ("validation", "test"), ("train", "validation"))
PUBLISHED = " the published "  # in the reason of what was left out for a published split's sake
FORMAT = "clinipress split 1"


@dataclass(frozen=True)
class Split:
    """Which image belongs where; the test split is sealed.

    Attributes:
        by: "patient" or another of `UNIT_KINDS`, "near-duplicate cluster", "published" or "image".
        reason: Why this unit was chosen, one sentence.
        seed: Seed of the assignment.
        assignment: Image key -> "train", "validation" or "test".
        dropped: Image key -> why it is in none.
    """

    by: str
    reason: str
    seed: int
    assignment: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)

    @property
    def shared_with_test(self) -> int:
        """Images left out since they share a unit with the test split that was given."""
        return sum(f"{PUBLISHED}test image '" in why for why in self.dropped.values())

    @property
    def digest(self) -> str:
        """sha256 over all of it; the order of the images does not matter."""
        return digest_of(self._facts() | {"assignment": dict(self.assignment)})

    def keys(self, name: Literal["train", "validation"]) -> tuple[str, ...]:
        """Sorted keys of a split that may be looked at as often as one likes.

        Raises:
            DataError: `name` is "test", which is sealed, or no split at all.
        """
        if name not in SPLITS[:2]:
            raise DataError(
                "'train' or 'validation'",
                f"'{name}'",
                "the test split is sealed: Split.open_test logs the opening and returns its keys",
            )
        return self._members(name)

    def open_test(
        self,
        log: Path,
        *,
        candidates: tuple[str, ...],
        reason: str,
        rules: str | None = None,
        kept: Path | None = None,
    ) -> tuple[str, ...]:
        """Sorted keys of the test split; the opening is on the disk before they are returned.

        Args:
            log: File with one JSON line (a `TestOpening`) per opening; made if it is not there.
            candidates: Names of the candidates that will be measured on it.
            reason: Why it is opened.
            rules: Digest of the rules in force (`SealedRules`).
            kept: The same record beside what is made of the opening; where it is there, the
                opening was interrupted and now goes on, which is no further one.

        Raises:
            DataError: No candidate or no reason is given.
            StorageError: The log cannot be written; then the split stays sealed.
        """
        if not candidates or not reason.strip():
            raise DataError("candidates and a reason to open the test split", "neither or one")
        if kept is None or not kept.is_file():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            opening = TestOpening(when=now, candidates=candidates, reason=reason, rules=rules)
            log_opening(log, opening)
            if kept is not None:
                write_atomically(kept, opening.model_dump_json())
        return self._members("test")

    def save(self, path: Path) -> None:
        """Write the split as JSON that a person can read: one key per line under its split."""
        members = {name: list(self._members(name)) for name in SPLITS}
        tree = {"format": FORMAT, "digest": self.digest, **self._facts(), **members}
        write_atomically(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Split:
        """Read a split written by `save`.

        Raises:
            DataError: It is not a split file, an image is in two splits, or it was changed since.
            InputError: The file is missing or is not JSON.
        """
        tree = read_json(path)
        wanted = {"format", "digest", "by", "reason", "seed", "dropped", *SPLITS}
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise DataError(f"a split file ('format': '{FORMAT}') in '{path}'", "something else")
        if set(tree) != wanted:
            odd = ", ".join(sorted(set(tree) ^ wanted))
            raise DataError(f"the keys {', '.join(sorted(wanted))} in '{path}'", f"not so: {odd}")
        members = _assignment(tree, path)
        split = cls(tree["by"], tree["reason"], tree["seed"], members, tree["dropped"])
        if split.digest != tree["digest"]:
            raise DataError(
                f"the split as it was written in '{path}'",
                "a changed file: its digest does not fit",
                "make the split again, or remove the file's changes",
            )
        return split

    def summary(self, dataset: Dataset, units: NDArray[np.int64]) -> SplitSummary:
        """Counts for the record; `units` are those of the items of `dataset`, in their order."""
        used = [item for item in dataset.items if item.key in self.assignment]
        unit, unnamed = best_unit(used)
        if self.by in {"image", CLUSTER}:
            unit, unnamed = self.by, 0
        counts = {name: dict.fromkeys(dataset.classes, 0) for name in SPLITS}
        images = dict.fromkeys(SPLITS, 0)
        members: dict[str, set[int]] = {name: set() for name in SPLITS}
        for item, number in zip(dataset.items, units.tolist(), strict=True):
            name = self.assignment.get(item.key)
            if name is not None:
                for shown in item.shown:
                    counts[name][shown] += 1
                images[name] += 1
                members[name].add(number)
        return SplitSummary(
            by=self.by,
            unit=unit,
            without_unit=unnamed,
            reason=self.reason,
            seed=self.seed,
            counts=counts,
            units={name: len(numbers) for name, numbers in members.items()},
            digest=self.digest,
            dropped=len(self.dropped),
            images=images if dataset.task == "multilabel" else {},
        )

    def _members(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(key for key, split in self.assignment.items() if split == name))

    def _facts(self) -> dict[str, Any]:
        dropped = dict(sorted(self.dropped.items()))
        return {"by": self.by, "reason": self.reason, "seed": self.seed, "dropped": dropped}


def log_opening(log: Path, opening: TestOpening) -> None:
    """One line more in the log, on the disk when this returns.

    Raises:
        StorageError: The log cannot be written.
    """
    with storage("the log of test openings"):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(opening.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())


def _assignment(tree: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Key -> split from the file's three lists."""
    assignment = {key: name for name in SPLITS for key in tree[name]}
    if len(assignment) != sum(len(tree[name]) for name in SPLITS):
        raise DataError(f"each image once in '{path}'", "an image that stands there twice")
    return assignment


def units(dataset: Dataset, fingerprints: Fingerprints, by: str) -> NDArray[np.int64]:
    """The unit of each item: what must not be torn apart, and what intervals resample.

    Args:
        dataset: The data set.
        fingerprints: Of its items, in the same order.
        by: "near-duplicate cluster" or "cluster", "image", or anything else that a `Split` may be
            divided by: all units that are known, merged with the clusters.

    Returns:
        int64 ``[items]``, numbered from 0; -1 for unreadable items.

    Raises:
        DataError: `by` is no such unit.
    """
    if by not in {*UNIT_KINDS, CLUSTER, "cluster", "image", "published"}:
        known = ", ".join((*UNIT_KINDS, CLUSTER, "published", "image"))
        raise DataError(f"a unit: {known}", f"'{by}'")
    readable = np.asarray(fingerprints.readable)
    clusters = np.where(readable, fingerprints.clusters, -1)
    if by == "image":
        merged = np.arange(len(dataset.items), dtype=np.int64)
    elif by in {CLUSTER, "cluster"}:
        merged = clusters
    else:
        merged = merge(clusters, *labelings(dataset.items))
    names = [int(u) if r else None for u, r in zip(merged, readable, strict=True)]
    return numbered(names)


def make_split(
    dataset: Dataset, fingerprints: Fingerprints, recipe: SplitRecipe, seed: int
) -> Split:
    """Divide a data set; the same data, recipe and seed give the same split in any item order.

    Fingerprints are those of its items, in the same order; the study's seed is added to the
    recipe's own.

    Raises:
        DataError: A class would be missing from a split, patients or published splits are not
            known though asked for, or the split file does not fit the data.
    """
    if recipe.file is not None:
        return _from_file(Path(recipe.file), dataset, fingerprints)
    items = {item.key: item for item in dataset.items}
    usable = [k for k, ok in zip(fingerprints.keys, fingerprints.readable, strict=True) if ok]
    by, reason = _unit_and_reason([items[key] for key in usable], recipe)
    unit = dict(zip(fingerprints.keys, units(dataset, fingerprints, by).tolist(), strict=True))
    # from here on everything is in the order of the keys, so the order of listing cannot matter
    table = _Table(dataset.classes, [items[key] for key in sorted(usable)], unit)
    chosen = recipe.seed + seed
    readable = set(usable)
    dropped = {k: "could not be read" for k in fingerprints.keys if k not in readable}
    if by == "published":
        assignment, leaking, note = _published(table, recipe, chosen)
        dropped |= leaking
        reason += note
    else:
        assignment = table.dealt(table.items, SPLITS, recipe.fractions, chosen)
    _check_classes(assignment, table)
    _check_whole(assignment, table, by)
    return Split(by, reason, chosen, assignment, dropped)


@dataclass(frozen=True)
class _Table:
    classes: tuple[str, ...]
    items: list[ImageItem]
    unit: Mapping[str, int]

    def dealt(
        self, items: list[ImageItem], names: Sequence[str], shares: Sequence[float], seed: int
    ) -> dict[str, str]:
        number = numbered([self.unit[item.key] for item in items])
        # items are sorted by key, so a unit's number and its first key do not depend on listing
        _, first = np.unique(number, return_index=True)
        order = shuffled_by_key([items[i].key for i in first], seed)
        result = deal(self._counts(items, number), shares, order)
        return {item.key: names[result[u]] for item, u in zip(items, number, strict=True)}

    def _counts(self, items: list[ImageItem], number: NDArray[np.int64]) -> NDArray[np.int64]:
        """What each unit holds of what is to be shared out evenly."""
        if items and items[0].findings is not None:
            known = [[int(name in item.present) for name in self.classes] for item in items]
            return finding_counts(number, np.asarray(known, dtype=np.int64))
        labels = np.asarray([self.classes.index(item.label) for item in items], dtype=np.int64)
        return class_counts(number, labels, len(self.classes))


def _unit_and_reason(items: list[ImageItem], recipe: SplitRecipe) -> tuple[str, str]:
    unpatient = sum(item.patient is None for item in items)
    if recipe.by == "published":
        where = "" if recipe.column is None else f", in its column '{recipe.column}',"
        return "published", f"the data set's own splits{where} were asked for"
    if recipe.by == "image":
        return "image", (
            "split by image because the study asks for it: images of one patient or near-copies "
            "may stand on both sides and flatter every figure"
        )
    if recipe.by == "patient" and unpatient:
        raise DataError(
            "a patient for every image",
            f"{unpatient} of {len(items)} images without one",
            "complete the manifest's patient column, or split by 'auto', which keeps whole what is "
            "known",
        )
    kind, unnamed = best_unit(items)
    if recipe.by == "cluster" or kind == CLUSTER:
        asked = "near-duplicate clusters were asked for"
        cause = asked if recipe.by == "cluster" else "no image names its patient"
        return CLUSTER, (
            f"{cause}: near-duplicates stay together, but neighbouring slices of one patient "
            "cannot be recognised"
        )
    named = f"{len(items) - unnamed:,} of {len(items):,} images name their {kind}"
    known = f"{named}, and the others stay with " if unnamed else f"every image names its {kind}; "
    if unnamed:
        known += "what else is known of them, at least their near-duplicates; "
    known += f"{'patients who' if kind == 'patient' else f'{plural_of(kind)} that'} share a "
    known += "near-duplicate stay together"
    if kind != "patient" and unpatient:
        known += "; patients are not named, so images of one may stand on both sides"
    return kind, known


def _published(
    table: _Table, recipe: SplitRecipe, seed: int
) -> tuple[dict[str, str], dict[str, str], str]:
    """Published splits without what leaks: (assignment, dropped, what to add to the reason)."""
    _check_roles(table.items)
    assignment = {item.key: item.split for item in table.items if item.split is not None}
    dropped: dict[str, str] = {}
    # the test split is kept whole; what shares a unit with it leaves the others
    for weak, strong in CROSSINGS:
        for key, why in _leaking(table, assignment, weak, strong).items():
            del assignment[key]
            dropped[key] = why
    note = f"; {_repair(table.items, len(dropped), names=0)}"
    if "validation" not in assignment.values():
        train = [item for item in table.items if assignment.get(item.key) == "train"]
        share = recipe.fractions[1] / (recipe.fractions[0] + recipe.fractions[1])
        assignment |= table.dealt(train, ("train", "validation"), (1 - share, share), seed)
        note += "; validation carved out of train by the same units"
    return assignment, dropped, note


def _leaking(
    table: _Table, assignment: Mapping[str, str], weak: str, strong: str
) -> dict[str, str]:
    """Images of the split `weak` whose unit also stands in `strong`, each with the reason."""
    held: dict[int, ImageItem] = {}
    known: dict[tuple[str, str], ImageItem] = {}
    for item in table.items:
        if assignment.get(item.key) == strong:
            held.setdefault(table.unit[item.key], item)
            for kind, name in _named_units(item):
                known.setdefault((kind, name), item)
    reasons: dict[str, str] = {}
    for item in table.items:
        other = held.get(table.unit[item.key])
        if other is not None and assignment.get(item.key) == weak:
            what = "is a near-duplicate of, or linked with,"
            same = next((unit for unit in _named_units(item) if unit in known), None)
            if same is not None:
                other, what = known[same], f"shares its {same[0]} '{same[1]}' with"
            reasons[item.key] = f"{what}{PUBLISHED}{strong} image '{other.key}'"
    return reasons


def _named_units(item: ImageItem) -> Iterator[tuple[str, str]]:
    """Kind and identifier of all it is known to be a part of, the best kind first."""
    return ((kind, name) for kind in UNIT_KINDS if (name := item.unit(kind)))


def repair_lines(dataset: Dataset, split: Split) -> list[str]:
    """What was left out of published splits and why, with the first names; none for nothing."""
    dropped = sum(PUBLISHED in why for why in split.dropped.values())
    if split.by != "published" or not dropped:
        return []
    return [f"published splits: {_repair(dataset.items, dropped, names=3)}"]


def _repair(items: Sequence[ImageItem], dropped: int, *, names: int) -> str:
    """Who stands in several published splits, and that what was dropped repairs it."""
    kind, _ = best_unit(items)
    images = "1 image that shares" if dropped == 1 else f"{dropped} images that share"
    either = "" if kind == CLUSTER else f"{kind} or "
    left_out = f"{images} a {either}near-duplicate across them left out"
    if dropped:
        left_out = f"repaired: {left_out} of train and validation, the test split kept whole"
    held: dict[str, set[str]] = {name: set() for name in SPLITS}
    for item in items:
        if item.split in held and (unit := item.unit(kind)):
            held[item.split].add(unit)
    shared = {(a, b): held[a] & held[b] for a, b in CROSSINGS if held[a] & held[b]}
    if not shared:
        return left_out
    parts = []
    for (a, b), both in shared.items():
        listed = sorted(both, key=natural)
        more = [f"{len(listed) - names:,} more"] if len(listed) > names else []
        shown = joined([f"'{name}'" for name in listed[:names]] + more)
        parts.append(f"{len(listed):,} in {a} and {b}" + (f" ({shown})" if names else ""))
    every = len(set().union(*shared.values()))
    noun, verb = (kind, "stands") if every == 1 else (plural_of(kind), "stand")
    return f"{every:,} {noun} {verb} in more than one: {joined(parts)}; {left_out}"


def _check_roles(items: list[ImageItem]) -> None:
    unknown = [item for item in items if item.split is None]
    if unknown:
        raise DataError(
            "a published split (train, validation or test) for every image",
            f"{len(unknown)} of {len(items)} images without one, such as '{unknown[0].key}'",
            "split by 'auto' instead",
        )
    missing = {"train", "test"} - {item.split for item in items}
    if missing:
        raise DataError(
            "published train and test splits",
            f"a data set without {' and '.join(sorted(missing))}",
            "split by 'auto' instead",
        )


def _check_whole(assignment: Mapping[str, str], table: _Table, by: str) -> None:
    """What is said to be kept whole is: no unit, and no patient who is named, on two sides."""
    if by == "image":
        return
    first: dict[tuple[str, str], str] = {}
    for item in table.items:
        named = [] if by == CLUSTER else [*_named_units(item)]
        for kind, name in [("unit", str(table.unit[item.key])), *named]:
            here = assignment.get(item.key)
            if here is not None and first.setdefault((kind, name), here) != here:
                raise DataError(
                    f"each {kind} in one split, as the division by {by} promises",
                    f"'{name}' in {first[kind, name]} and {here} ('{item.key}')",
                    "report it: this is a fault of clinipress",
                )


def _check_findings(assignment: Mapping[str, str], table: _Table) -> None:
    """Every finding must be there, and not be there, in what is trained on."""
    train = [i for i in table.items if assignment.get(i.key) == "train"]
    for name in table.classes:
        known = {item.findings[name] for item in train if item.findings and name in item.findings}
        if len(known) < 2:
            there = sum(name in item.present for item in table.items)
            which = "present" if known == {True} else "absent or unknown"
            raise DataError(
                f"images with and without '{name}' to train on",
                f"it is {which} in all {len(train):,} (present in {there:,} of "
                f"{len(table.items):,} images of the set)",
                f"leave '{name}' out with data.classes, or map it to another with class_map",
            )


def _check_classes(assignment: Mapping[str, str], table: _Table) -> None:
    if table.items and table.items[0].findings is not None:
        _check_findings(assignment, table)
        return
    label = {item.key: item.label for item in table.items}
    counts = Counter((label[key], name) for key, name in assignment.items())
    for name in SPLITS:
        for class_name in table.classes:
            if not counts[class_name, name]:
                shown = ", ".join(f"{counts[class_name, s]} in {s}" for s in SPLITS)
                own = [item for item in table.items if item.label == class_name]
                whole = len({table.unit[item.key] for item in own})
                kind, _ = best_unit(own)
                parts = f"{whole} separate {kind if whole == 1 else plural_of(kind)} of it"
                fix = (
                    "add images of that class, merge it with another by class_map, or leave it out"
                )
                if whole < len(SPLITS) <= len(own) and kind != CLUSTER:
                    fix += f"; or, where that is no {kind} but a name for many, take the name out"
                raise DataError(
                    f"every class in every split, '{class_name}' in {name} too",
                    f"{shown} ({parts})",
                    fix,
                )


def _from_file(path: Path, dataset: Dataset, fingerprints: Fingerprints) -> Split:
    split = Split.load(path)
    known = {item.key for item in dataset.items}
    listed = set(split.assignment) | set(split.dropped)
    readable = {k for k, ok in zip(fingerprints.keys, fingerprints.readable, strict=True) if ok}
    for what, keys in (
        ("images of this data set only", set(split.assignment) - known),
        ("every image of this data set", readable - listed),
        ("readable images", set(split.assignment) & (known - readable)),
    ):
        if keys:
            raise DataError(
                f"{what} in the split file '{path}'",
                f"{len(keys)} others, such as '{min(keys)}'",
                "make a new split for this data",
            )
    number = units(dataset, fingerprints, "patient")
    unit = dict(zip(fingerprints.keys, number.tolist(), strict=True))
    _check_classes(split.assignment, _Table(dataset.classes, list(dataset.items), unit))
    held = {(unit[key], name) for key, name in split.assignment.items()}
    torn = sum(count > 1 for count in Counter(unit_number for unit_number, _ in held).values())
    kind, _ = best_unit(dataset.items)
    noun, verb = (kind, "stands") if torn == 1 else (plural_of(kind), "stand")
    note = f"; {torn} {noun} {verb} in more than one split of the file"
    return replace(split, reason=split.reason + note) if torn else split
