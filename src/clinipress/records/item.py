"""One case as it is listed: its key, its file, its label, and what is known beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ImageItem"]


@dataclass(frozen=True)
class ImageItem:
    """One picture.

    Attributes:
        key: Unique name, relative to the root, with forward slashes; "a/x.jpg", "a/v.nii#34",
            "set.npz#train#12".
        path: The file it is in.
        label: Name of its class.
        index: Number of the picture in a file with several, from 0.
        split: "train", "validation" or "test" where the data set itself says so.
        patient: Who it is of, where that is known.
        groups: Column -> value of what else is known, such as sex or scanner, without empty cells.
    """

    key: str
    path: Path
    label: str
    index: int | None = None
    split: str | None = None
    patient: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
