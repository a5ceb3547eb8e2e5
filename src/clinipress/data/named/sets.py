"""What is written down of a public data set before anybody has it on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clinipress.data.named.fetch import Download

__all__ = ["ALL_SPLITS", "Count", "NamedSet", "low"]

Count = int | tuple[int, int]
"""Images of a class; two numbers where the sources disagree and either is right."""
ALL_SPLITS = ""
"""The "split" of counts that hold for the whole set."""


@dataclass(frozen=True)
class NamedSet:
    """What is known of a public data set.

    Attributes:
        name: As `clinipress data` takes it.
        title: As its publisher calls it.
        adapter: Which reader of `clinipress.data.named.layouts` understands its layout.
        page: Where people find it.
        layout: What is on disk when it is unpacked.
        counts: Split -> class -> images, `ALL_SPLITS` where the set has no splits or their sizes
            are not published.
        licence: As reported, and by whom where that is not the publisher.
        citation: What to cite.
        defects: What must be known before a figure on it is believed.
        unit: What is kept whole when it is divided: "patient", "lesion", "tile"; None where the
            set names none and near-duplicate clusters take that place.
        units: How many of them there should be.
        files: Direct addresses.
        kaggle: OWNER/SET of Kaggle, with /versions/N where one is pinned.
        archive_sha256: Of the archive that a browser gets from Kaggle, in the version named there.
        folders: Pattern of a class folder's path, its parts joined by "/" and in small letters ->
            split and class.
        labels: Names of the classes where the counts do not name them.
        aliases: Other names.
    """

    name: str
    title: str
    adapter: str
    page: str
    layout: str
    counts: Mapping[str, Mapping[str, Count]]
    licence: str
    citation: str
    defects: tuple[str, ...]
    unit: str | None = None
    units: int | None = None
    files: tuple[Download, ...] = ()
    kaggle: str | None = None
    archive_sha256: str | None = None
    folders: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Images in all; the lower number where the sources disagree."""
        return sum(low(n) for classes in self.counts.values() for n in classes.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.labels or tuple(
            dict.fromkeys(name for part in self.counts.values() for name in part)
        )

    @property
    def archives(self) -> tuple[str, ...]:
        """Names of archives that are unpacked where they are found."""
        direct = tuple(file.name for file in self.files if file.name.endswith(".zip"))
        if self.kaggle is None:
            return direct
        return *direct, "archive.zip", f"{self.kaggle.split('/')[1]}.zip"

    def as_facts(self) -> dict[str, Any]:
        """What a listing shows, JSON-able."""
        return {
            "name": self.name,
            "title": self.title,
            "images": self.images,
            "classes": list(self.classes),
            "counts": {
                split or "all": {
                    k or "all": list(n) if isinstance(n, tuple) else n for k, n in part.items()
                }
                for split, part in self.counts.items()
            },
            "unit": self.unit,
            "units": self.units,
            "licence": self.licence,
            "citation": self.citation,
            "defects": list(self.defects),
            "page": self.page,
            "layout": self.layout,
            "fetch": "direct" if self.files else "kagglehub" if self.kaggle else "by hand",
        }


def low(count: Count) -> int:
    """The lower of two numbers that sources disagree about."""
    return count if isinstance(count, int) else count[0]
