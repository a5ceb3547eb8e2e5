"""Class folders, with or without split folders above them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clinipress.data.layouts.items import SPLIT_NAMES, Layout
from clinipress.errors import DataError
from clinipress.records.item import ImageItem

__all__ = ["image_files", "one_name_per_class", "read_folders", "subfolders"]

# Anything else is kept: a file that ought to be an image and is not belongs in the audit.
# fmt: off
_NOT_IMAGES = frozenset({
    ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".xml", ".yaml", ".yml", ".html", ".htm",
    ".db", ".ini", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx",
    ".py", ".ipynb", ".sh", ".npy", ".npz", ".zip", ".pt", ".pth", ".onnx",
})
# fmt: on
_NOT_FOLDERS = frozenset({"__MACOSX", "__pycache__"})
_MASKS = re.compile(r"(^|[^a-z])masks?($|[^a-z])")


def read_folders(root: Path, class_map: Mapping[str, str]) -> tuple[Layout, list[ImageItem]]:
    """Items of class folders under `root`, before files with several pictures are opened.

    Splits are told by the names of folders (train, training, val, valid, validation, dev, test,
    testing, in any case). Single folders on the way down are passed through.

    Raises:
        DataError: No class folders, a folder that fits neither reading, or names of classes that
            cannot be matched across splits.
    """
    top = _descend(root)
    splits = _splits(top)
    if not splits:
        return "class folders", [
            item
            for folder in subfolders(top)
            for item in _items(root, folder, class_map.get(folder.name, folder.name), None)
        ]
    names = {
        split: [class_map.get(f.name, f.name) for f in subfolders(folder)]
        for split, folder in splits.items()
    }
    renamed = one_name_per_class(names, frozenset(class_map.values()))
    return "split/class folders", [
        item
        for split, folder in splits.items()
        for inner in subfolders(folder)
        for item in _items(root, inner, renamed[class_map.get(inner.name, inner.name)], split)
    ]


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly inside, sorted by name."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and _visible(f.name))


def image_files(folder: Path) -> Iterator[Path]:
    """Files at any depth that may be images, sorted.

    Hidden files, files with the ending of a text, table, document or model, pipes and dangling
    links are passed over, and so are folders of masks beside a folder "images".
    """
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if _visible(f))
        if any(f.casefold() in ("images", "image") for f in folders):
            folders[:] = [f for f in folders if not _MASKS.search(f.casefold())]
        for name in sorted(files):
            path = Path(where, name)
            if _visible(name) and path.suffix.casefold() not in _NOT_IMAGES and path.is_file():
                yield path


def one_name_per_class(
    names: Mapping[str, Iterable[str]], fixed: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Match class names across splits: a longer one that continues a shorter one is the same class.

    "adenocarcinoma" in one split and "adenocarcinoma_left.lower.lobe" in another are one class,
    named by the shorter. Case does not count. What follows must not be a letter or digit, so
    "normal" and "normal2" stay apart.

    Args:
        names: split -> the names of its classes.
        fixed: Names the user chose, which are matched with nothing.

    Returns:
        Name -> name of its class.

    Raises:
        DataError: Two names of one split would become one class.
    """
    sets = {split: set(members) for split, members in names.items()}
    every = sorted(set().union(*sets.values()), key=lambda name: (len(name), name))
    if all(members == sets[next(iter(sets))] for members in sets.values()):
        return {name: name for name in every}
    free = [name for name in every if name not in fixed]
    renamed = {name: name for name in fixed & set(every)}
    for name in free:
        renamed[name] = next(root for root in free if _continues(name, root))
    for split, members in sets.items():
        for root in set(renamed.values()):
            same = sorted(name for name in members if renamed[name] == root)
            if len(same) > 1:
                raise DataError(
                    "one folder per class in every split",
                    f"{' and '.join(same)} in {split}, which both fit '{root}'",
                    "say which is which with class_map",
                )
    return renamed


def _continues(name: str, root: str) -> bool:
    """True when `name` is `root`, or `root` and more after something that is no letter or digit."""
    name, root = name.casefold(), root.casefold()
    return name == root or (name.startswith(root) and not name[len(root)].isalnum())


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_FOLDERS


def _descend(root: Path) -> Path:
    """Through folders that hold one folder and nothing else, to where the choice begins."""
    top = root
    while True:
        inner = subfolders(top)
        if len(inner) != 1 or inner[0].name.casefold() in SPLIT_NAMES or not subfolders(inner[0]):
            return top
        top = inner[0]


def _splits(top: Path) -> dict[str, Path]:
    """Folder of each split; none when the folders are classes.

    A folder named like a split counts as one when it has folders inside; "test" full of images
    is a class.
    """
    inner = subfolders(top)
    if not inner:
        fix = "or give a manifest (.csv) or .npz"
        raise DataError("a folder with one sub-folder per class", f"no sub-folders in '{top}'", fix)
    named = [f for f in inner if f.name.casefold() in SPLIT_NAMES and subfolders(f)]
    if not named:
        return {}
    others = [f for f in inner if f not in named and next(image_files(f), None) is not None]
    if others:
        raise DataError(
            "split folders or class folders, not both",
            f"'{named[0].name}' beside '{others[0].name}' in '{top}'",
            "move one of them away",
        )
    splits: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.casefold()]
        if split in splits:
            both = f"'{splits[split].name}' and '{folder.name}'"
            raise DataError(f"one {split} folder", f"{both} in '{top}'")
        splits[split] = folder
    return splits


def _items(root: Path, folder: Path, label: str, split: str | None) -> Iterator[ImageItem]:
    for path in image_files(folder):
        inside = path.relative_to(folder).parent.as_posix()
        units = {"folder": inside} if inside != "." else {}
        yield ImageItem(path.relative_to(root).as_posix(), path, label, split=split, units=units)
