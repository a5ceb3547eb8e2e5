"""A named set on disk to what a study takes, and how far it is what was published.

    WHERE/                      the published folders, or the archives as they were downloaded
      NAME.manifest.csv         written here: path, label, split, patient_id and groups
      NAME.masks.csv            image, kind and mask, where the set has masks
      NAME.received.json        what was fetched, with the sha256 of what came

Nothing is fetched unless that is asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clinipress.data.layouts.arrays import read_arrays
from clinipress.data.layouts.items import Dataset
from clinipress.data.named.archives import unpack
from clinipress.data.named.catalogue import SETS, find_set
from clinipress.data.named.fetch import NOT_KNOWN, Download, Receipt, download, from_kaggle, verify
from clinipress.data.named.layouts import read_layout
from clinipress.data.named.rows import ListedImage
from clinipress.data.named.sets import ALL_SPLITS, NamedSet, low
from clinipress.data.named.tables import write_manifest, write_masks
from clinipress.data.sources import read_dataset
from clinipress.errors import DataError
from clinipress.progress import SILENT, Progress
from clinipress.records.store import write_atomically

__all__ = ["Counts", "PreparedSet", "Status", "differences", "list_sets", "prepare"]

Status = Literal["complete", "partial", "different", "absent"]
"""All that was published; less; more or other; nothing."""
Counts = Mapping[str, Mapping[str, int]]
"""Split -> class -> images."""


@dataclass(frozen=True)
class PreparedSet:
    """A named set as it was found.

    Attributes:
        facts: What is known of it.
        where: Its folder.
        status: How far it is what was published.
        source: What `clinipress run --data` takes; None when nothing is there.
        class_map: What the study must say beside it: label -> name of the class.
        counts: Images found.
        differences: What is missing or too many, one sentence each.
        notes: What was left out or stood in, one sentence each.
        masks: The table of masks, for saliency.
        received: What was fetched for it, now or earlier.
        steps: How to get what is missing, one sentence each.
    """

    facts: NamedSet
    where: Path
    status: Status
    source: Path | None = None
    class_map: Mapping[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    masks: Path | None = None
    received: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[str, ...] = ()

    def dataset(self) -> Dataset:
        """The set as every other part of clinipress sees it.

        Raises:
            DataError: Nothing is there.
        """
        if self.source is None:
            raise DataError(f"the images of {self.facts.name}", f"none in '{self.where}'")
        return read_dataset(self.source, class_map=self.class_map)

    def as_facts(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **self.facts.as_facts(),
            "where": str(self.where),
            "status": self.status,
            "source": None if self.source is None else str(self.source),
            "class_map": dict(self.class_map),
            "found": {split or "all": dict(part) for split, part in self.counts.items()},
            "differences": list(self.differences),
            "notes": list(self.notes),
            "masks": None if self.masks is None else str(self.masks),
            "received": [dict(entry) for entry in self.received],
            "steps": list(self.steps),
        }


def list_sets() -> list[dict[str, Any]]:
    """Facts of every named set, JSON-able; nothing is looked up."""
    return [named_set.as_facts() for named_set in SETS]


def prepare(
    name: str,
    where: Path,
    *,
    fetch: bool = False,
    manifest: Path | None = None,
    progress: Progress = SILENT,
) -> PreparedSet:
    """Find a named set on disk, compare it with what was published and write its manifest.

    Archives that lie in `where` as they were downloaded are unpacked. A set that is not whole is
    used as it is, and what it lacks is said.

    Args:
        name: Of `list_sets`.
        where: The set's folder.
        fetch: Whether to download what is missing, where the source allows.
        manifest: Where the manifest goes; default ``NAME.manifest.csv`` in `where`. Tables and
            pictures that have to be made go beside it.
        progress: Told of bytes and files.

    Raises:
        DataError: No such set, two copies in one folder, a download that is not what is known.
        StudyError: A download broke; run again, it goes on.
        StorageError: The manifest or a download cannot be written.
        MissingExtraError: Reading or fetching needs a package that is not installed.
    """
    wanted = find_set(name)
    if where.exists() and not where.is_dir():
        raise DataError(f"a folder for {wanted.name}", f"the file '{where}'")
    if manifest is not None and not manifest.parent.is_dir():
        raise DataError("a folder for the manifest", f"nothing or a file at '{manifest.parent}'")
    desk = _Preparation(wanted, where, manifest or where / f"{wanted.name}.manifest.csv", progress)
    prepared = desk.look()
    if fetch and prepared.status in ("partial", "absent") and wanted.files:
        desk.fetch_files()
        desk.unpack_archives(prepared)
        prepared = desk.look()
    elif prepared.status in ("partial", "absent") and desk.unpack_archives(prepared):
        prepared = desk.look()
    if fetch and prepared.status == "absent" and wanted.kaggle:
        desk.fetch_from_kaggle()
        prepared = desk.look()
    return prepared


def differences(published: NamedSet, counts: Counts) -> tuple[Status, tuple[str, ...]]:
    """The status, and a sentence for each class that differs; class "" stands for a whole split."""
    lines, less, more = [], False, False
    places = dict.fromkeys(
        [(s, c) for s, part in published.counts.items() for c in part]
        + [(s, c) for s, part in counts.items() for c in part]
    )
    for split, label in places:
        known = published.counts.get(split, {}).get(label, 0)
        allowed = known if isinstance(known, tuple) else (known, known)
        count = counts.get(split, {}).get(label, 0)
        if allowed[0] <= count <= allowed[1]:
            continue
        less, more = less or count < allowed[0], more or count > allowed[1]
        by = allowed[0] - count if count < allowed[0] else count - allowed[1]
        subject = " of ".join(part for part in (label, split) if part) or "the set"
        word = "missing" if count < allowed[0] else "too many"
        lines.append(f"{subject}: {count:,} of {low(known):,}, {by:,} {word}")
    if not any(n for part in counts.values() for n in part.values()):
        return "absent", ()
    return ("different" if more else "partial" if less else "complete"), tuple(lines)


@dataclass(frozen=True)
class _Preparation:
    wanted: NamedSet
    where: Path
    table: Path
    progress: Progress

    def look(self) -> PreparedSet:
        prepared = self._npz() if self.wanted.adapter == "medmnist" else self._pictures()
        received = tuple(self._received().values())
        steps = (
            ()
            if prepared.status in ("complete", "different")
            else self._steps(prepared.status == "partial")
        )
        return replace(prepared, received=received, steps=steps)

    def fetch_files(self) -> None:
        for file in self.wanted.files:
            self._record(download(file, self.where, progress=self.progress))

    def fetch_from_kaggle(self) -> None:
        handle = str(self.wanted.kaggle)
        from_kaggle(handle, self.where / "kaggle")
        self._record(Receipt("kaggle", f"kaggle: {handle}", 0, "", NOT_KNOWN))

    def unpack_archives(self, prepared: PreparedSet) -> bool:
        """Unpack archives that lie there, unless that could make a second copy of the set."""
        folders = {path.name for path in self.where.iterdir()} if self.where.is_dir() else set()
        folders = {n for n in folders if (self.where / n).is_dir() and not n.startswith(".")}
        stems = {Path(name).stem for name in self.wanted.archives}
        if prepared.status == "partial" and folders - stems - {"images", "masks"}:
            return False
        files = {file.name: file for file in self.wanted.files}
        done = False
        for name in self.wanted.archives:
            archive, folder = self.where / name, self.where / Path(name).stem
            if not archive.is_file() or folder.is_dir():
                continue
            self._record(self._of_kaggle(verify(files.get(name, Download(name, "")), archive)))
            unpack(archive, folder, progress=self.progress)
            done = True
        return done

    def _of_kaggle(self, received: Receipt) -> Receipt:
        known = self.wanted.archive_sha256
        if known is None or received.url:
            return received
        same = received.sha256 == known
        return replace(
            received, checked="sha256" if same else "another version than the one pinned"
        )

    def _pictures(self) -> PreparedSet:
        listing = read_layout(self.wanted, self.where, self.table.parent, progress=self.progress)
        counts = _count(listing.rows, by_split=ALL_SPLITS not in self.wanted.counts)
        status, lines = differences(self.wanted, counts)
        base = PreparedSet(self.wanted, self.where, status, counts=counts, notes=listing.notes)
        if status == "absent":
            return base
        units = {row.unit for row in listing.rows if row.unit is not None}
        unit = self.wanted.unit
        if self.wanted.units is not None and len(units) != self.wanted.units:
            lines = (*lines, f"{len(units):,} {unit}s of {self.wanted.units:,}")
            status = "partial" if status == "complete" else status
        source = write_manifest(listing.rows, self.table)
        masks = write_masks(listing.rows, self.table, self.wanted.name)
        return replace(base, status=status, source=source, differences=lines, masks=masks)

    def _npz(self) -> PreparedSet:
        name = self.wanted.files[0].name
        path = self.where / name
        if not path.is_file():
            return PreparedSet(self.wanted, self.where, "absent")
        labels = dict(enumerate(self.wanted.labels))
        items = read_arrays(path, {})
        counts: dict[str, dict[str, int]] = {}
        for item in items:
            part = counts.setdefault(item.split or ALL_SPLITS, {ALL_SPLITS: 0})
            part[ALL_SPLITS] += 1
        status, lines = differences(self.wanted, counts)
        unknown = {item.label for item in items} - {str(number) for number in labels}
        if unknown:
            status, lines = "different", (*lines, f"labels without a name: {sorted(unknown)}")
        return PreparedSet(
            self.wanted,
            self.where,
            status,
            source=path,
            class_map={str(number): text for number, text in labels.items()},
            counts=counts,
            differences=lines,
        )

    def _steps(self, partial: bool) -> tuple[str, ...]:
        steps = []
        for file in self.wanted.files:
            known = f"sha256 {file.sha256}" if file.sha256 else f"md5 {file.md5}"
            checksum = known if file.sha256 or file.md5 else NOT_KNOWN
            steps.append(f"download {file.url} as {self.where / file.name} ({checksum})")
        if self.wanted.kaggle:
            also = "or " if self.wanted.archives[0] != "archive.zip" else ""
            page = "https://www.kaggle.com/datasets/" + self.wanted.kaggle.partition("/versions")[0]
            steps.append(
                f"{also}download {page} with a browser, and put archive.zip or what it holds into"
                f" {self.where} ({self._kaggle_checksum()})"
            )
        steps.append("run the same command again; archives are checked and unpacked by it")
        if partial and not self.wanted.files:
            steps.append("or name an empty folder with --fetch; what is partly there is left alone")
        else:
            steps.append("or add --fetch, which does all of this")
        return tuple(steps)

    def _kaggle_checksum(self) -> str:
        known, version = self.wanted.archive_sha256, str(self.wanted.kaggle).rpartition("/")[2]
        return f"version {version} has sha256 {known}" if known else NOT_KNOWN

    def _received(self) -> dict[str, dict[str, Any]]:
        try:
            facts = json.loads(self._log.read_text(encoding="utf-8"))
            return {entry["name"]: entry for entry in facts}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _record(self, received: Receipt) -> None:
        known = self._received() | {received.name: received.as_facts()}
        write_atomically(self._log, json.dumps(list(known.values()), indent=1) + "\n")

    @property
    def _log(self) -> Path:
        return self.where / f"{self.wanted.name}.received.json"


def _count(rows: tuple[ListedImage, ...], *, by_split: bool) -> dict[str, dict[str, int]]:
    tally = Counter(
        ((row.split or ALL_SPLITS) if by_split else ALL_SPLITS, row.label) for row in rows
    )
    counts: dict[str, dict[str, int]] = {}
    for (split, label), number in sorted(tally.items()):
        counts.setdefault(split, {})[label] = number
    return counts
