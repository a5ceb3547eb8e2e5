"""What is wrong with a data folder, found before any training.

Counts, files that cannot be read, duplicates, leaks across published splits, one image under two
labels, patients on both sides, class balance, groups, and shortcuts. A problem is reported, never
repaired: the split decides what to leave out.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.data.audit.duplicates import Duplicates, find_duplicates
from clinipress.data.audit.fingerprints import BLACK, Fingerprints, Readings, read_all
from clinipress.data.audit.shortcuts import (
    WARNING_FROM,
    FeatureTable,
    feature_shortcuts,
    finding_shortcuts,
    statistics_baseline,
)
from clinipress.data.grouping import merge, numbered
from clinipress.data.layouts.items import left_out_lines, patient_columns
from clinipress.data.refusals import find_refusals, refusal_words
from clinipress.data.sources import Dataset, ImageItem
from clinipress.data.units import labelings
from clinipress.errors import DataError
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import InputSpec
from clinipress.records.item import UNIT_KINDS, plural_of
from clinipress.records.result import Audit, DuplicatePair, Interval, LeftOut, Shortcut, Unreadable
from clinipress.text import DASH, joined, tally

__all__ = ["Fingerprints", "audit"]

MOST_PAIRS = 200
MOST_LEAKED = 1000
MOST_LEFT_OUT = 1000  # of one kind and reason
MOST_SHORTCUTS = 20
MOST_GROUPS = 20
MOST_VALUES = 10
# from these on a warning is given
LOPSIDED = 3.0
FEW_IMAGES = 50


def audit(
    dataset: Dataset,
    spec: InputSpec | None = None,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
    threads: int | None = None,
) -> tuple[Audit, Fingerprints]:
    """Look at every image of a data set once; the record, and the facts that `make_split` needs.

    `exact_duplicates` counts images beyond the first of each sha256, `near_duplicates` those
    beyond the first of each cluster that are no exact ones, so that readable images = clusters +
    exact + near. `leaks["test->train"]` counts test images with a direct twin in train. All counts
    are full; lists are cut at 200 pairs and 1,000 leaked images. `seed` is that of the baseline's
    folds; without `threads` every core reads. `spec` is the input of the model that is to be made,
    for what a device would refuse.

    On the Bhuvaji brain MRI this finds 259 of the 394 Testing images in Training, on the copies
    at hand (grey, longest side 256). Two figures are known for the originals, both 259 of 394: by
    a correlation of 0.99 at 64x64, and by the criterion used here; 88 of them are the same file
    there.

    Raises:
        DataError: Not a single image can be read.
    """
    start = time.perf_counter()
    readings = read_all(dataset, threads=threads, progress=progress)
    if not readings.readable.any():
        bad = readings.unreadable[0]
        got = f"none in '{dataset.root}'"
        raise DataError("readable images", got, f"'{bad.path}': {bad.reason}")
    duplicates = find_duplicates(
        readings.sha256, readings.dhash, readings.thumbnails, readings.readable, progress=progress
    )
    fingerprints = _fingerprints(dataset, readings, duplicates)
    if dataset.task == "multilabel":
        singles, baseline = finding_shortcuts(_finding_facts(dataset, fingerprints), seed), None
    else:
        facts = _facts(dataset, fingerprints)
        singles, baseline = feature_shortcuts(facts), statistics_baseline(facts, seed)
    readable = [item for item, ok in zip(dataset.items, readings.readable, strict=True) if ok]
    refusals = find_refusals(readable, spec, threads=threads, progress=progress)
    record = Audit(
        path=str(dataset.root),
        layout=dataset.layout,
        images=len(dataset.items),
        classes=_counts(dataset),
        splits=_splits(dataset),
        groups=_groups(dataset),
        unreadable=tuple(readings.unreadable),
        refused=refusals.images,
        colourful=refusals.colourful,
        dark=_dark(fingerprints),
        shortcuts=(baseline.shortcuts if baseline else ()) + _listed(singles),
        baseline_accuracy=baseline.accuracy if baseline else None,
        majority_accuracy=baseline.majority if baseline else None,
        left_out=tuple(_left_out(dataset, readings)),
        **_duplicate_facts(dataset, duplicates, fingerprints.clusters),
        **_unit_facts(dataset),
    )
    update = {
        "warnings": (
            *dataset.notes,
            *_warnings(record, dataset),
            *_planes(readings.mixed_planes()),
        ),
        "seconds": time.perf_counter() - start,
    }
    by_image = baseline.right if baseline else {}
    return record.model_copy(update=update), replace(fingerprints, baseline=by_image)


def _planes(slices: dict[str, int]) -> Iterator[str]:
    """Volumes of thick slices are cut as they were acquired, and DICOM is never cut anew."""
    if slices:
        counts = ", ".join(f"{count:,} {plane}" for plane, count in sorted(slices.items()))
        yield (
            f"the slices lie in different planes ({counts}): a network may learn the plane instead "
            "of the disease; keep one plane, or make sure that every class has all alike"
        )


def _fingerprints(dataset: Dataset, readings: Readings, duplicates: Duplicates) -> Fingerprints:
    features, names = readings.table()
    return Fingerprints(
        keys=tuple(item.key for item in dataset.items),
        readable=readings.readable,
        sha256=readings.sha256,
        dhash=readings.dhash,
        thumbnails=readings.thumbnails,
        features=features,
        feature_names=names,
        clusters=duplicates.clusters(),
    )


def _facts(dataset: Dataset, fingerprints: Fingerprints) -> FeatureTable:
    rows = np.flatnonzero(fingerprints.readable)
    items = [dataset.items[row] for row in rows]
    number = {name: i for i, name in enumerate(dataset.classes)}
    return FeatureTable(
        keys=[item.key for item in items],
        features=fingerprints.features[rows],
        names=fingerprints.feature_names,
        labels=np.asarray([number[item.label] for item in items], dtype=np.int64),
        classes=dataset.classes,
        units=merge(fingerprints.clusters[rows], *labelings(items)),
    )


def _finding_facts(dataset: Dataset, fingerprints: Fingerprints) -> dict[str, FeatureTable]:
    """Of each finding the readable images of which it is known, present (0) or not."""
    tables = {}
    units = merge(fingerprints.clusters, *labelings(dataset.items))
    for name in dataset.classes:
        known = [name in (item.findings or {}) for item in dataset.items]
        rows = np.flatnonzero(fingerprints.readable & np.asarray(known))
        absent = [name not in dataset.items[row].present for row in rows]
        tables[name] = FeatureTable(
            keys=[dataset.items[row].key for row in rows],
            features=fingerprints.features[rows],
            names=fingerprints.feature_names,
            labels=np.asarray(absent, dtype=np.int64),
            classes=(name, "not"),
            units=units[rows],
        )
    return tables


def _counts(dataset: Dataset) -> dict[str, int]:
    counts = Counter(shown for item in dataset.items for shown in item.shown)
    return {name: counts[name] for name in dataset.classes}


def _splits(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Published split -> class -> images; empty where nothing is published."""
    counts = Counter((i.split, shown) for i in dataset.items if i.split for shown in i.shown)
    present = sorted({split for split, _ in counts}, key=_split_order)
    return {s: {name: counts[s, name] for name in dataset.classes} for s in present}


def _split_order(name: str) -> tuple[int, str]:
    order = ("train", "validation", "test")
    return (order.index(name) if name in order else len(order)), name


def _groups(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Column -> value -> images; numbers of many values by tens, rare names together."""
    tables = {}
    for column in dataset.group_columns:
        values = [item.groups[column] for item in dataset.items if column in item.groups]
        counts = Counter(values)
        if len(counts) > MOST_VALUES and all(_is_number(value) for value in counts):
            tens = Counter(math.floor(float(value) / 10) * 10 for value in values)
            table = {f"{ten} to {ten + 9}": tens[ten] for ten in sorted(tens)}
        else:
            table = dict(sorted(counts.most_common(MOST_GROUPS)))
            others = len(values) - sum(table.values())
            table |= {"other": others} if others else {}
        missing = len(dataset.items) - len(values)
        tables[column] = table | ({"not known": missing} if missing else {})
    return tables


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _duplicate_facts(
    dataset: Dataset, duplicates: Duplicates, clusters: NDArray[np.int64]
) -> dict[str, Any]:
    known = duplicates.first >= 0
    count = int(clusters.max(initial=-1)) + 1
    distinct = int((duplicates.first == np.arange(len(known))).sum())
    pairs = _pairs(dataset, duplicates)
    return {
        "exact_duplicates": int(known.sum()) - distinct,
        "near_duplicates": distinct - count,
        "clusters": count,
        "duplicate_pairs": pairs,
        "conflicting_labels": tuple(
            pair
            for pair in pairs
            if pair.findings or (dataset.task == "multiclass" and pair.label_a != pair.label_b)
        ),
        **_leaks(dataset, duplicates),
    }


def _pairs(dataset: Dataset, duplicates: Duplicates) -> tuple[DuplicatePair, ...]:
    """Each copy with the first of its kind, and each near pair of first ones; gravest first.

    Only those that will be listed become records: a video in a folder has millions of pairs.
    """
    copies = np.flatnonzero(
        (duplicates.first >= 0) & (duplicates.first != np.arange(len(duplicates.first)))
    )
    same = np.stack([duplicates.first[copies], copies], axis=1)
    same = np.concatenate([same, _opposed_copies(dataset, duplicates)])
    ends = np.concatenate([same, duplicates.near])
    correlation = np.concatenate([np.ones(len(same), np.float32), duplicates.correlation])
    split = numbered([item.split for item in dataset.items])
    same_label = ~_conflicts(dataset, ends)
    same_split = split[ends[:, 0]] == split[ends[:, 1]]
    order = np.lexsort((ends[:, 1], ends[:, 0], same_split, same_label))[:MOST_PAIRS]
    return tuple(
        _pair(dataset, int(a), int(b), bool(row < len(same)), float(correlation[row]))
        for row, (a, b) in zip(order, ends[order], strict=True)
    )


def _opposed_copies(dataset: Dataset, duplicates: Duplicates) -> NDArray[np.int64]:
    """Copies of one file that contradict each other in a finding that its first does not know."""
    pairs = set()
    for name in dataset.classes if dataset.task == "multilabel" else ():
        known: dict[tuple[int, bool], int] = {}
        for row, (item, first) in enumerate(
            zip(dataset.items, duplicates.first.tolist(), strict=True)
        ):
            if first >= 0 and name in (item.findings or {}):
                known.setdefault((first, name in item.present), row)
        for (first, there), row in known.items():
            other = known.get((first, False)) if there else None
            if other is not None and first not in (row, other):
                pairs.add((min(row, other), max(row, other)))
    return np.asarray(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _conflicts(dataset: Dataset, ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pairs of two labels, or of a finding that is known in both and present in one alone."""
    a, b = ends.T
    if dataset.task == "multiclass":
        label = numbered([item.label for item in dataset.items])
        conflict: NDArray[np.bool_] = label[a] != label[b]
        return conflict
    conflict = np.zeros(len(ends), np.bool_)
    for name in dataset.classes:
        known = np.asarray([(item.findings or {}).get(name, -1) for item in dataset.items], np.int8)
        conflict |= (known[a] >= 0) & (known[b] >= 0) & (known[a] != known[b])
    return conflict


def _pair(dataset: Dataset, a: int, b: int, exact: bool, correlation: float) -> DuplicatePair:
    first, other = dataset.items[a], dataset.items[b]
    return DuplicatePair(
        a=first.key,
        b=other.key,
        exact=exact,
        correlation=min(correlation, 1.0),
        label_a=first.label,
        label_b=other.label,
        split_a=first.split,
        split_b=other.split,
        findings=tuple(name for name in dataset.classes if _opposed(name, first, other)),
    )


def _opposed(finding: str, a: ImageItem, b: ImageItem) -> bool:
    return {(a.findings or {}).get(finding), (b.findings or {}).get(finding)} == {True, False}


def _leaks(dataset: Dataset, duplicates: Duplicates) -> dict[str, Any]:
    """Images of one published split with a direct twin in another: counts and names."""
    split = np.asarray([item.split or "" for item in dataset.items])
    counts: dict[str, int] = {}
    names: dict[str, tuple[str, ...]] = {}
    for here, there in _directions(set(split.tolist())):
        rows = np.flatnonzero(duplicates.having_duplicate_in(split == here, split == there))
        if len(rows):
            counts[f"{here}->{there}"] = len(rows)
            leaked = tuple(dataset.items[row].key for row in rows[:MOST_LEAKED])
            names[f"{here}->{there}"] = leaked
    return {"leaks": counts, "leaked_images": names}


def _directions(splits: set[str]) -> Iterator[tuple[str, str]]:
    """(what must be unseen, where it may have been seen) for the splits that are there."""
    for here, there in (("test", "train"), ("test", "validation"), ("validation", "train")):
        if here in splits and there in splits:
            yield here, there


def _unit_facts(dataset: Dataset) -> dict[str, Any]:
    names = {kind: {item.unit(kind) for item in dataset.items} - {None} for kind in UNIT_KINDS}
    facts = {
        "units": {kind: len(known) for kind, known in names.items() if known},
        "without_patient": sum(item.patient is None for item in dataset.items),
    }
    if not names["patient"]:
        return {"patients": None, **facts}
    held: dict[str, set[str]] = {}
    for item in dataset.items:
        if item.split and item.patient is not None:
            held.setdefault(item.split, set()).add(item.patient)
    crossing = {f"{a}->{b}": len(held[a] & held[b]) for a, b in _directions(set(held))}
    leaks = {k: n for k, n in crossing.items() if n}
    return {"patients": len(names["patient"]), "patient_leaks": leaks, **facts}


def _left_out(dataset: Dataset, readings: Readings) -> Iterator[LeftOut]:
    """All that is not used; of one kind and reason 1,000 by name, and the number of the others."""
    seen: Counter[tuple[str, str]] = Counter()
    others: Counter[tuple[str, str]] = Counter()
    for entry in (*dataset.left_out, *_pages(dataset, readings)):
        why = entry.kind, entry.reason
        seen[why] += 1
        if seen[why] <= MOST_LEFT_OUT:
            yield entry
        else:
            others[why] += entry.count
    for (kind, reason), count in others.items():
        yield LeftOut(path="...", kind=kind, reason=reason, count=count)


def _pages(dataset: Dataset, readings: Readings) -> Iterator[LeftOut]:
    """Pictures behind the first one of a file that counts as a single picture."""
    for item, frames in zip(dataset.items, readings.frames, strict=True):
        if item.index is None and frames > 1:
            yield LeftOut(
                path=item.key, kind="page", reason="only the first is read", count=frames - 1
            )


def _listed(shortcuts: tuple[Shortcut, ...]) -> tuple[Shortcut, ...]:
    """All that warn, and the strongest of the others up to 20 in all."""
    warning = sum(shortcut.warning for shortcut in shortcuts)
    return shortcuts[: max(warning, MOST_SHORTCUTS)]


def _warnings(record: Audit, dataset: Dataset) -> Iterator[str]:
    yield from left_out_lines(record.left_out)
    yield from _leak_warnings(record)
    yield from _label_warnings(record)
    if record.unreadable:
        yield f"{_count(len(record.unreadable), 'file')} cannot be read: set aside"
    if record.refused:
        yield refusal_words(record.refused, record.images)
    if record.dark:
        yield (
            f"{_count(len(record.dark), 'image')} of {record.images:,} with nothing brighter than "
            f"{BLACK} of 255, first '{record.dark[0].path}': check window and look-up table"
        )
    if record.exact_duplicates + record.near_duplicates:
        yield (
            f"{record.exact_duplicates} exact and {record.near_duplicates} near duplicates: "
            f"{record.clusters} distinct pictures in {record.images} images"
        )
    if record.patients is None:
        kept = joined([f"{count:,} {plural_of(kind)}" for kind, count in record.units.items()])
        text = "no patient is named: images of one patient may stand on both sides of a split"
        likely = patient_columns(record.left_out)
        fix = f"; if column {joined(likely[:4], 'or')} names the patient, call it patient_id"
        text += f" ({kept} are kept whole)" if kept else ""
        yield text + (fix if likely else "")
    elif record.without_patient:
        verb = "names" if record.without_patient == 1 else "name"
        yield (
            f"{record.without_patient:,} of {record.images:,} images {verb} no patient: those of "
            "one patient may stand on both sides of a split"
        )
    yield from _balance_warnings(record.classes, dataset)
    yield from _shortcut_warnings(record)


def _dark(fingerprints: Fingerprints) -> tuple[Unreadable, ...]:
    """A wrong window shows as little as a lens cap, and may yet hold enough not to be refused."""
    share = fingerprints.features[:, fingerprints.feature_names.index("black share")]
    dark = np.flatnonzero(fingerprints.readable & (share == 1))
    reason = f"nothing brighter than {BLACK} of 255"
    return tuple(Unreadable(path=fingerprints.keys[row], reason=reason) for row in dark)


def _leak_warnings(record: Audit) -> Iterator[str]:
    for direction, count in record.leaks.items():
        here, there = direction.split("->")
        total = sum(record.splits[here].values())
        yield (
            f"{count} of {total} {here} images are also in {there} (same file or near-duplicate): "
            f"figures on the published {here} split are flattered"
        )
    for direction, count in record.patient_leaks.items():
        verb = "stands" if count == 1 else "stand"
        both = direction.replace("->", " and ")
        yield f"{_count(count, 'patient')} {verb} in both {both} as published"


def _label_warnings(record: Audit) -> Iterator[str]:
    pairs = record.conflicting_labels
    if pairs:
        least = "at least " if len(pairs) >= MOST_PAIRS else ""  # the list was cut
        verb, pair = "carries" if len(pairs) == 1 else "carry", pairs[0]
        what = "two labels"
        if pair.findings:
            counts = Counter(name for each in pairs for name in each.findings).most_common(5)
            what = f"findings that contradict each other ({tally(counts)})"
        yield (
            f"{least}{_count(len(pairs), 'pair')} of the same picture {verb} {what}, such as "
            f"'{pair.a}' ({pair.label_a}) and '{pair.b}' ({pair.label_b})"
        )


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _balance_warnings(counts: Mapping[str, int], dataset: Dataset) -> Iterator[str]:
    """Of classes, or of the findings of which the set knows anything."""
    noun, nouns = "class", "classes"
    if dataset.task == "multilabel":
        noun, nouns = "finding", "findings"
        known = {name for item in dataset.items for name in item.findings or {}}
        counts = {name: count for name, count in counts.items() if name in known}
    if not counts:
        return
    small, large = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[large] > LOPSIDED * counts[small]:
        ratio = counts[large] / max(counts[small], 1)
        yield f"{nouns} are uneven: '{large}' has {ratio:.1f} times the images of '{small}'"
    for name, count in counts.items():
        if count < FEW_IMAGES:
            yield (
                f"{noun} '{name}' has {_count(count, 'image')} only: its figures will be uncertain"
            )


def _shortcut_warnings(record: Audit) -> Iterator[str]:
    accuracy, majority = record.baseline_accuracy, record.majority_accuracy or 0
    together = [s for s in record.shortcuts if s.feature == "all" and s.warning]
    if accuracy and together:
        strong = any(s.auroc.low >= WARNING_FROM for s in together)
        yield (
            "facts of the files alone, without the picture, classify "
            f"{_percent(accuracy)} of all images right (always the largest class: "
            f"{100 * majority:.1f} %): a {'strong' if strong else 'weak'} shortcut"
        )
    seen: set[str] = set()
    for shortcut in record.shortcuts:
        if shortcut.warning and shortcut.feature not in {"all", *seen}:
            seen.add(shortcut.feature)
            area = shortcut.auroc
            yield (
                f"{shortcut.feature} alone tells '{shortcut.target}' from the rest with AUROC "
                f"{area.value:.2f} ({area.low:.2f}{DASH}{area.high:.2f}): "
                "a model may learn that instead of the disease"
            )


def _percent(share: Interval) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f}{DASH}{100 * share.high:.1f})"
