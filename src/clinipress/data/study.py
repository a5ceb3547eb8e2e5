"""A study's images: read, audited, divided, decoded once, with the test split sealed."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress import distributed
from clinipress.data.audit.audit import Fingerprints, audit
from clinipress.data.audit.fingerprints import content_digests
from clinipress.data.audit.overlap import Seen
from clinipress.data.cache import DECODERS, Cache, build_cache
from clinipress.data.finding import check_finding
from clinipress.data.layouts.findings import matched_findings
from clinipress.data.layouts.items import (
    ONE_LABEL,
    SPLIT_NAMES,
    Labelling,
    drawn,
    left_out_lines,
    split_name,
)
from clinipress.data.refusals import check_refusals, refusal_words
from clinipress.data.sources import Dataset, ImageItem, read_dataset
from clinipress.data.splits import SPLITS, Split, make_split, repair_lines, units
from clinipress.errors import DataError
from clinipress.kinds.image.pixels import READING
from clinipress.progress import SILENT, Progress
from clinipress.recipe.study import DataRecipe
from clinipress.records.candidate import Candidate, InputSpec, Task
from clinipress.records.result import Audit, Overlap, SplitSummary
from clinipress.records.store import Store, digest_of, read_json, write_atomically
from clinipress.text import joined, turned_words

__all__ = [
    "FINGERPRINTS",
    "OPENINGS",
    "PREDICT_BATCH",
    "OverlapPolicy",
    "Rows",
    "StudyData",
    "listing",
    "open_study_data",
    "pixel_statistics",
    "predict_rows",
    "whole_dataset",
    "with_test_set",
]

STATISTICS_IMAGES = 2000
OPENINGS = "test_openings.jsonl"
FINGERPRINTS = "fingerprints.npz"
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
OverlapPolicy = Literal["refuse", "leave-out", "keep"]


@dataclass(frozen=True)
class Rows:
    """Some images of a cache, in a fixed order.

    Attributes:
        index: int64 ``[n]`` row numbers in the cache.
        labels: int64 ``[n]`` class numbers.
        units: int64 ``[n]`` unit of each image (patient, lesion, cluster), for intervals.
        keys: Names of the images.
        groups: Column -> what is known of each image, "" for nothing.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    units: NDArray[np.int64]
    keys: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass
class StudyData:
    """Everything a study knows of its images.

    Attributes:
        unit_of: Image key -> number of its patient or cluster.
        contents: Image key -> sha256 of its file.
        baseline: As in `Fingerprints`.
        order: Grades from the least to the gravest, or empty.
    """

    dataset: Dataset
    audit: Audit
    split: Split
    summary: SplitSummary
    modality: str
    folder: Path
    unit_of: Mapping[str, int]
    contents: Mapping[str, str]
    baseline: Mapping[str, bool] = field(default_factory=dict)
    threads: int | None = None
    progress: Progress = SILENT
    order: tuple[str, ...] = ()
    _caches: dict[str, Cache] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.dataset.classes

    @property
    def task(self) -> Task:
        """Whether an image may show several findings."""
        return self.dataset.task

    @functools.cached_property
    def digest(self) -> str:
        """Changes with the split, and the files and labels of train and validation."""
        return digest_of(self._facts(SPLITS[:2]))

    @functools.cached_property
    def test_digest(self) -> str:
        """Changes with the same of all images, the sealed ones too, and with their units."""
        together: dict[int, list[str]] = {}
        for key in self.split.assignment:  # units by their members: their numbers say nothing
            together.setdefault(self.unit_of[key], []).append(key)
        units = sorted(sorted(keys) for keys in together.values())
        return digest_of(self._facts(SPLITS) | {"units": units})

    @functools.cached_property
    def test_images(self) -> str:
        """Number and digest of the sealed images with their labels and units, for the rules."""
        sealed = [i for i in self.dataset.items if self.split.assignment.get(i.key) == "test"]
        first: dict[int, str] = {}  # a unit by its first image: its number says nothing
        for key in sorted(item.key for item in sealed):
            first.setdefault(self.unit_of[key], key)
        rows = [[i.key, i.truth, self.contents[i.key], first[self.unit_of[i.key]]] for i in sealed]
        return f"{len(rows):,}, sha256 {digest_of(sorted(rows))}"

    def _facts(self, splits: Container[str]) -> dict[str, Any]:
        images = [
            [item.key, item.truth, self.contents[item.key]]
            for item in self.dataset.items
            if self.split.assignment.get(item.key) in splits
        ]
        return {
            "split": self.split.digest,
            "classes": self.classes,
            "images": images,
            "reading": READING,
        }

    def cache(self, spec: InputSpec) -> Cache:
        """All images of the split, decoded once for this input and kept on disk."""
        name = digest_of(spec.model_dump())[:16]
        if name not in self._caches:
            wanted = [item for item in self.dataset.items if item.key in self.split.assignment]
            self._caches[name] = build_cache(
                wanted,
                self.classes,
                spec,
                self.folder / "cache" / name,
                contents=self.contents,
                threads=self.threads,
                progress=self.progress,
            )
        return self._caches[name]

    def units(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Number of the patient or cluster of some images: int64 ``[n]``."""
        return np.asarray([self.unit_of[key] for key in keys], dtype=np.int64)

    def groups(self, keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """What else is known of some images: column -> a value for each, "" for none."""
        return _groups(self.dataset, keys)

    def check_accepted(self) -> None:
        """Stop where most of a class would be refused by the device; else say what would be.

        Raises:
            DataError: The finished model would answer next to nothing of a class.
        """
        labels = {i.key: [*i.shown] for i in self.dataset.items if i.key in self.split.assignment}
        refused = [image for image in self.audit.refused if image.path in labels]
        check_refusals(refused, labels, "class" if self.task == "multiclass" else "finding")
        if refused:
            self.progress.say(f"warning: {refusal_words(refused, len(labels))}")

    def rows(self, name: Literal["train", "validation"], spec: InputSpec) -> Rows:
        """Row numbers, labels and units of a split that may be looked at."""
        return self._rows(self.split.keys(name), spec)

    def open_test(
        self,
        spec: InputSpec,
        candidates: tuple[str, ...],
        reason: str,
        *,
        rules: str | None = None,
        kept: Path | None = None,
    ) -> Rows:
        """Open the sealed test split; the opening is logged before anything is read."""
        keys = self.split.open_test(
            self.folder / OPENINGS, candidates=candidates, reason=reason, rules=rules, kept=kept
        )
        return self._rows(keys, spec)

    def _rows(self, keys: tuple[str, ...], spec: InputSpec) -> Rows:
        cache = self.cache(spec)
        index = cache.where(keys)
        units = self.units(keys)
        return Rows(index, cache.labels[index], units, tuple(keys), self.groups(keys))


def _groups(dataset: Dataset, keys: Sequence[str]) -> dict[str, tuple[str, ...]]:
    known = {item.key: item.groups for item in dataset.items}
    return {
        column: tuple(known[key].get(column, "") for key in keys)
        for column in dataset.group_columns
    }


def open_study_data(
    path: Path,
    recipe: DataRecipe,
    store: Store,
    *,
    seed: int,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> StudyData:
    """Read, audit and divide a study's images; what was done before is read back.

    Raises:
        DataError: The folder, a class or a split is not usable.
    """
    dataset = _read(path, recipe, recipe.classes, recipe.split.column)
    if recipe.test is not None:
        dataset = with_test_set(dataset, Path(recipe.test), recipe)
    if recipe.classes is None:
        dataset = _shown_somewhere(dataset)
    _say(progress, (*dataset.notes, *left_out_lines(dataset.left_out)))
    check_finding(recipe, dataset.classes)
    whole = len(dataset.items)
    if recipe.sample is not None:
        dataset = drawn(dataset, recipe.sample, seed)

    @functools.cache
    def examined() -> tuple[Audit, Fingerprints]:
        return audit(dataset, recipe.input, seed=seed, progress=progress, threads=threads)

    # the audit hashes every file it reads; a folder that was audited before may do without it, and
    # then files are hashed alone: sizes and times do not tell whether it is still the same image
    audited = any((store.folder / "objects").glob("audit-*"))
    new = distributed.is_main() and not audited
    contents = content_digests(dataset, examined()[1] if new else None, threads=threads)
    about = {
        # a digest: names and patients are no business of whoever is sent a piece
        "items": digest_of(listing(dataset, contents)),
        "classes": dataset.classes,
        "seed": seed,
        "of": whole,
    }
    split_file = recipe.split.file and Split.load(Path(recipe.split.file)).digest
    divided_by = recipe.split
    if recipe.test is not None:  # the set itself says what is tested
        divided_by = divided_by.model_copy(update={"by": "published"})
    # the column is not among them: which split each image is published in is, in `listing`
    asked = divided_by.model_dump(exclude={"column"}) | {"file": split_file}

    def divide(folder: Path) -> None:
        _, fingerprints = examined()
        split = make_split(dataset, fingerprints, divided_by, seed)
        by = units(dataset, fingerprints, split.by)
        split.save(folder / "split.json")
        unit_of = {item.key: int(u) for item, u in zip(dataset.items, by, strict=True)}
        write_atomically(folder / "units.json", json.dumps(unit_of))
        summary = split.summary(dataset, by)
        write_atomically(folder / "split-summary.json", summary.model_dump_json(indent=1))

    def describe(folder: Path) -> None:
        record, fingerprints = examined()
        write_atomically(folder / "baseline.json", json.dumps(dict(fingerprints.baseline)))
        seen = Seen.of(fingerprints, (item.patient for item in dataset.items))
        write_atomically(folder / FINGERPRINTS, seen.to_bytes())
        if len(dataset.items) < whole:
            trial = f"A trial: {len(dataset.items):,} of {whole:,} images, drawn by class"
            record = record.model_copy(update={"warnings": (trial, *record.warnings)})
        write_atomically(folder / "audit.json", record.model_dump_json(indent=1))

    # the split stays over upgrades: another one would put images that were trained on, or looked
    # at, into the test split
    done = store.once("data", about | {"split": asked}, divide, packages=None)
    groups = digest_of([dict(item.groups) for item in dataset.items])
    also = {
        "layout": dataset.layout,
        "groups": groups,
        "notes": dataset.notes,
        "left_out": digest_of([row.model_dump() for row in dataset.left_out]),
        "input": recipe.input.model_dump(),
        "reading": READING,
        "kept": ["audit", "baseline", "fingerprints", "patients"],  # earlier versions kept less
    }
    described = store.once("audit", about | also, describe, packages=DECODERS)
    split = Split.load(done / "split.json")
    split.save(store.folder / "split.json")
    _say(progress, repair_lines(dataset, split))
    if distributed.is_main():
        content = (described / FINGERPRINTS).read_bytes()
        write_atomically(store.folder / FINGERPRINTS, content)
    record = Audit.model_validate(read_json(described / "audit.json"))
    trial_of = whole if len(dataset.items) < whole else None
    return StudyData(
        dataset=dataset,
        audit=record.model_copy(update={"path": str(dataset.root), "trial_of": trial_of}),
        split=split,
        summary=SplitSummary.model_validate(read_json(done / "split-summary.json")),
        modality=recipe.modality,
        folder=store.folder,
        unit_of=read_json(done / "units.json"),
        contents=contents,
        baseline=read_json(described / "baseline.json"),
        threads=threads,
        progress=progress,
        order=recipe.order,
    )


def _shown_somewhere(dataset: Dataset) -> Dataset:
    """Without findings that no image shows and nobody asked for: they cannot be learnt."""
    shown = {name for item in dataset.items for name in item.present}
    never = [name for name in dataset.classes if name not in shown]
    if dataset.task == "multiclass" or not never:
        return dataset
    names = tuple(name for name in dataset.classes if name in shown)
    items = [
        replace(item, findings={n: item.findings[n] for n in names if n in item.findings})
        if item.findings
        else item
        for item in dataset.items
    ]
    note = f"no image shows {joined(never, 'or')}: not learnt"
    return replace(dataset, classes=names, items=tuple(items), notes=(*dataset.notes, note))


def _say(progress: Progress, lines: Iterable[str]) -> None:
    for line in lines:
        progress.say(line)


def _read(
    path: Path, recipe: DataRecipe, classes: Sequence[str] | None, split_column: str | None = None
) -> Dataset:
    """A set with its labels read as a study says."""
    return read_dataset(
        path,
        classes=classes,
        class_map=recipe.class_map,
        task=recipe.task,
        blank=recipe.blank,
        uncertain=recipe.uncertain,
        split_column=split_column,
        readers=recipe.readers,
        parents=recipe.parents,
    )


def with_test_set(dataset: Dataset, path: Path, recipe: DataRecipe) -> Dataset:
    """A set whose test split is another set: its own images are to train and validate on.

    Raises:
        DataError: The other one cannot be read, has other classes, or is the same.
    """
    if path.resolve() == dataset.root.resolve():
        raise DataError("a test set of its own", f"'{path}', which is the set itself")
    published = sum(item.split == "test" for item in dataset.items)
    if published:
        raise DataError(
            "a set without a test split of its own beside 'data.test'",
            f"{published:,} images that it publishes as 'test'",
            "name its training folder, or leave the other test set out",
        )
    test = _read(path, recipe, dataset.classes)
    known = {item.key for item in dataset.items}
    prefix = "test set"
    while any(key.startswith(f"{prefix}/") for key in known):
        prefix += "'"
    own = [
        replace(item, split="validation" if item.split == "validation" else "train")
        for item in dataset.items
    ]
    others = [replace(item, key=f"{prefix}/{item.key}", split="test") for item in test.items]
    inside = {item.path.resolve() for item in test.items}
    own = [item for item in own if item.path.resolve() not in inside or item.index is not None]
    if not own:
        raise DataError("images to train on besides the test set", f"none outside '{path}'")
    columns = dict.fromkeys((*dataset.group_columns, *test.group_columns))
    left_out = [row.model_copy(update={"path": f"{prefix}/{row.path}"}) for row in test.left_out]
    return replace(
        dataset,
        items=(*own, *others),
        group_columns=tuple(columns),
        left_out=(*dataset.left_out, *left_out),
        notes=(*dataset.notes, *test.notes),
    )


def listing(dataset: Dataset, contents: Mapping[str, str]) -> list[list[str | None]]:
    """What the split depends on: each image's name, label, published split, units and content."""
    return [
        [i.key, i.truth, i.split, i.patient, *map("=".join, i.units.items()), contents[i.key]]
        for i in dataset.items
    ]


def pixel_statistics(cache: Cache, rows: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of training pixels in [0, 1], over all channels.

    The mean is rounded to a whole grey level (k / 255), so that an int8 graph can hold it exactly
    as a zero point.
    """
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_IMAGES)).astype(np.int64)]
    total = squares = count = 0.0
    for block in np.array_split(chosen, max(1, len(chosen) // 64)):
        pixels = cache.take(block).astype(np.float64) / 255
        total, squares, count = (
            total + pixels.sum(),
            squares + (pixels**2).sum(),
            count + pixels.size,
        )
    mean = round(total / count * 255) / 255
    return mean, max(float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0))), 1 / 255)


def whole_dataset(
    path: Path,
    spec: InputSpec,
    classes: tuple[str, ...],
    class_map: Mapping[str, str],
    folder: Path,
    *,
    labelling: Labelling = ONE_LABEL,
    split: str | None = None,
    seen: Seen | None = None,
    overlap: OverlapPolicy = "refuse",
    threads: int | None = None,
    progress: Progress = SILENT,
    own_names: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Cache, Rows, Audit, Known]:
    """All readable images of a data set, for `evaluate` and `compare`: nothing is trained on them.

    `path` is a folder, manifest or .npz whose classes are among `classes`, the classifier's, after
    `class_map` (the data set's name -> the classifier's). With `split`, only images the data set
    itself publishes under it. Decoded images go into `folder`. With `seen`, images that the study
    behind the classifier has, too, are refused, left out or kept, as `overlap` says. `labelling`
    says how labels are read; its classes have no say. Of several findings those of the set are
    matched by name (`matched_findings`). `own_names` are those of the classifier's training data ->
    its classes: a set that has them needs no map.

    Raises:
        DataError: A class of the data set is unknown to the classifier, images are the study's own,
            or nothing is left.
    """
    try:
        split = split and split_name(split)
    except DataError as problem:
        raise DataError(f"--split {joined([*SPLIT_NAMES], 'or')}", problem.got) from None
    dataset = read_dataset(
        path, class_map=dict(class_map), task=labelling.task, blank=labelling.blank,
        uncertain=labelling.uncertain, readers=labelling.readers, judged=(*classes, *own_names),
    )  # fmt: skip
    if labelling.task == "multilabel":
        dataset, notes = matched_findings(dataset, classes, own_names, tuple(class_map.values()))
        dataset = replace(dataset, notes=(*dataset.notes, *notes))
    else:
        dataset = _as_trained(dataset, classes, own_names, progress)
    foreign = [name for name in dataset.classes if name not in classes]
    if foreign:
        own = [f"{name}={to}" for name, to in class_map.items() if to in foreign]
        raise DataError(
            f"the classes {', '.join(classes)}",
            f"{', '.join(foreign)} in '{path}'",
            f"correct --class-map {own[0]}"
            if own
            else f"map them with --class-map {foreign[0]}=...",
        )
    record, fingerprints = audit(dataset, spec, progress=progress, threads=threads)
    keep = [
        (item, number)
        for number, item in enumerate(dataset.items)
        if fingerprints.readable[number] and (split is None or item.split == split)
    ]
    if not keep:
        there = sorted({item.split for item in dataset.items if item.split})
        raise DataError(
            f"images of the split '{split}'", f"the splits {', '.join(there) or '(none)'}"
        )
    keep, shared = _without_overlap(keep, fingerprints, seen, overlap)
    by = units(dataset, fingerprints, "patient")
    cache = build_cache(
        [item for item, _ in keep], classes, spec, folder, threads=threads, progress=progress
    )
    index = np.arange(len(keep), dtype=np.int64)
    unit = np.asarray([by[number] for _, number in keep], dtype=np.int64)
    keys = tuple(item.key for item, _ in keep)
    rows = Rows(index, cache.labels[index], unit, keys, _groups(dataset, keys))
    return cache, rows, record, Known(shared, fingerprints.baseline)


def _as_trained(
    dataset: Dataset, classes: Sequence[str], own_names: Mapping[str, str], progress: Progress
) -> Dataset:
    """With the classifier's names where the set has those of its training data."""
    own = {
        theirs: own_names[theirs]
        for theirs in dataset.classes
        if theirs not in classes and own_names.get(theirs) in classes
    }
    equal = {n: to for n, to in _equal_numbers(dataset.classes, classes).items() if n not in own}
    for words, pairs in (("named as in the training data", own), ("of equal numbers", equal)):
        shown = joined([f"'{theirs}' as {ours}" for theirs, ours in pairs.items()])
        _say(progress, [f"classes {words}: {shown}"] if pairs else [])
    own |= equal
    if not own:
        return dataset
    items = [replace(item, label=own.get(item.label, item.label)) for item in dataset.items]
    names = dict.fromkeys(own.get(name, name) for name in dataset.classes)
    return replace(dataset, classes=tuple(names), items=tuple(items))


def _equal_numbers(theirs: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Names of a set -> the classes that are the same numbers, "1.0" as "1", where one alone is."""
    values = {name: float(name) for name in (*theirs, *classes) if _NUMBER.fullmatch(name)}
    equal = {
        name: [c for c in classes if values.get(c) == values[name]]
        for name in theirs
        if name in values and name not in classes
    }
    count = Counter(values[name] for name in theirs if name in values)
    return {n: of[0] for n, of in equal.items() if len(of) == 1 and count[values[n]] == 1}


@dataclass(frozen=True)
class Known:
    """What is known of a set from elsewhere besides its audit.

    Attributes:
        overlap: With the study behind the classifier.
        baseline: As in `Fingerprints`.
    """

    overlap: Overlap
    baseline: Mapping[str, bool]


def _without_overlap(
    keep: list[tuple[ImageItem, int]],
    fingerprints: Fingerprints,
    seen: Seen | None,
    policy: OverlapPolicy,
) -> tuple[list[tuple[ImageItem, int]], Overlap]:
    """The images that are measured, and which of all are the study's own."""
    if seen is None:
        return keep, Overlap()
    twins = seen.twins(fingerprints)
    shared = [(item, number) for item, number in keep if twins.twin[number] >= 0]
    pairs = [(item.key, int(twins.twin[number])) for item, number in shared]
    others = [(item, number) for item, number in keep if twins.twin[number] < 0]
    named = seen.names([item.patient for item, _ in others])
    patients = None if named is None else int(named.sum())
    examples = tuple((key, seen.keys[twin]) for key, twin in pairs[:EXAMPLES] if seen.keys)
    exact = sum(bool(twins.exact[number]) for _, number in shared)
    kinds = Counter(filter(None, (twins.turned[number] for _, number in shared)))
    turned = dict(sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0])))
    overlap = Overlap(
        exact=exact,
        near=len(shared) - exact,
        turned=turned,
        patients=patients,
        left_out=len(shared) + (patients or 0) if policy == "leave-out" else 0,
        examples=examples,
        compared_with=len(seen),
    )
    if policy == "keep" or not (shared or patients):
        return keep, overlap
    facts = (
        f"{len(shared)} of {len(keep)} that the study has, too ({exact} the same file or pixels, "
        f"{len(shared) - exact} nearly the same picture{turned_words(turned)}; "
        f"{patients or 0} more name a patient of it)"
    )
    facts += f", such as '{pairs[0][0]}'" if pairs else ""
    if policy == "refuse" and not shared:  # another hospital may number its patients alike
        return keep, overlap
    if policy == "refuse":
        raise DataError(
            "images that the study has not seen",
            facts,
            "add --overlap leave-out to measure the others",
        )
    own = named if named is not None else np.zeros(len(others), np.bool_)
    rest = [pair for pair, known in zip(others, own, strict=True) if not known]
    if not rest:
        raise DataError("images that the study has not seen", facts, "nothing would be left")
    return rest, overlap


EXAMPLES = 20
PREDICT_BATCH = 64


def predict_rows(candidate: Candidate, cache: Cache, rows: Rows) -> NDArray[np.float32]:
    """Logits float32 ``[n, classes]`` of some images, read from the cache in batches."""
    starts = range(0, len(rows.index), PREDICT_BATCH)
    parts = [candidate.predict(cache.take(rows.index[s : s + PREDICT_BATCH])) for s in starts]
    return np.concatenate(parts)
