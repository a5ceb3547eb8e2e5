"""What a data set is, once it has been read: a list of items, each with its label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

from clinipress.errors import DataError
from clinipress.records.item import ImageItem

__all__ = ["SPLIT_NAMES", "Dataset", "Layout", "drawn", "natural", "split_name"]


Layout = Literal["class folders", "split/class folders", "manifest", "npz"]


SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Dataset:
    """All pictures of a set.

    Attributes:
        root: The folder that keys are relative to.
        layout: How it was laid out.
        classes: Class names in the order of the logits.
        items: Sorted by key, numbers in names by value.
        group_columns: Names of the columns in `ImageItem.groups`.
        unit_notes: What was noticed of the names of patients and other units, sentence parts.
    """

    root: Path
    layout: Layout
    classes: tuple[str, ...]
    items: tuple[ImageItem, ...]
    group_columns: tuple[str, ...] = ()
    unit_notes: tuple[str, ...] = ()


def drawn(dataset: Dataset, count: int, seed: int) -> Dataset:
    """Some items of a set, as many of each class as its share of the whole; at least one of each.

    Patients and near-duplicates may lose images; those that are left still belong together. A set
    of no more than `count` images is given back as it is.
    """
    if count >= len(dataset.items):
        return dataset
    random = Random(seed)
    kept: set[str] = set()
    for label in dataset.classes:
        keys = [item.key for item in dataset.items if item.label == label]
        share = max(1, round(count * len(keys) / len(dataset.items)))
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
