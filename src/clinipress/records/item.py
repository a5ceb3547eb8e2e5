"""One case as it is listed: its key, its file, its label, and what is known beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

__all__ = ["NO_FINDING", "SYSTEM_NAMES", "UNIT_COLUMNS", "UNIT_KINDS", "ImageItem", "plural_of"]

# What systems leave in folders, in small letters: thumbnails, bins and the like are no images.
SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini"}
)

# What is said of an image that shows none of several findings
NO_FINDING = "no finding"
# What images may be parts of, the best first: kind -> its plural. Images of one are never torn
# apart, and sentences call a unit by its kind: a lesion is no patient.
UNIT_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "patient": "patients",
        "lesion": "lesions",
        "record": "records",
        "study": "studies",
        "series": "series",
        "slide": "slides",
        "tile": "tiles",
        "figure": "figures",
        "file": "files",
        "folder": "folders",
    }
)
# Columns of a table that name one, beside the patient's, without case and marks: "lesion_id".
UNIT_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        **{f"{kind}id": kind for kind in UNIT_KINDS if kind not in {"patient", "file", "folder"}},
        **{f"{kind}{uid}": kind for kind in ("study", "series") for uid in ("uid", "instanceuid")},
    }
)


@dataclass(frozen=True)
class ImageItem:
    """One picture.

    Attributes:
        key: Unique name, relative to the root, with forward slashes; "a/x.jpg", "a/v.nii#34",
            "set.npz#train#12".
        path: The file it is in.
        label: Name of its class; where an image may show several findings, those present in one
            text, for people.
        index: Number of the picture in a file with several, from 0.
        split: "train", "validation" or "test" where the data set itself says so.
        patient: Who it is of, where that is known.
        groups: Column -> value of what else is known, such as sex or scanner, without empty cells.
        units: Kind -> identifier of what else it is a part of, where that is known: `UNIT_KINDS`
            without the patient.
        findings: Finding -> whether it is present, where an image may show several; what is unknown
            is not in it. None: it has one label.
    """

    key: str
    path: Path
    label: str
    index: int | None = None
    split: str | None = None
    patient: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    findings: Mapping[str, bool] | None = None

    @property
    def present(self) -> frozenset[str]:
        """The findings it is known to show."""
        return frozenset(name for name, there in (self.findings or {}).items() if there)

    @property
    def shown(self) -> Iterable[str]:
        """What it counts for: its class, or the findings that are present."""
        return [self.label] if self.findings is None else self.present

    @property
    def truth(self) -> str:
        """All that is known of what it shows, in one text; for digests and comparisons."""
        if self.findings is None:
            return self.label
        return ",".join(f"{name}={there:d}" for name, there in sorted(self.findings.items()))

    def unit(self, kind: str) -> str | None:
        """Identifier of the unit of that kind, or None."""
        return self.patient if kind == "patient" else self.units.get(kind)


def plural_of(kind: str) -> str:
    """The plural of what a unit is called: "studies", "near-duplicate clusters"."""
    return UNIT_KINDS.get(kind, f"{kind}s")
