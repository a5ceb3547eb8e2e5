"""Class folders, with or without split folders above them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clinipress.data.layouts.items import (
    HIDDEN,
    NOT_READ,
    SPLIT_NAMES,
    FolderLook,
    LeftOuts,
    Listed,
)
from clinipress.data.layouts.tables import TABLE_SUFFIXES, named
from clinipress.errors import DataError
from clinipress.records.item import SYSTEM_NAMES, ImageItem
from clinipress.text import counted

__all__ = ["image_files", "inner_folders", "one_name_per_class", "read_folders"]

# Anything else is kept: a file that ought to be an image and is not belongs in the audit.
# fmt: off
_NOT_IMAGES = frozenset({
    ".txt", ".csv", ".tsv", ".tab", ".json", ".jsonl", ".md", ".xml", ".yaml", ".yml", ".html",
    ".htm", ".db", ".ini", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".parquet",
    ".py", ".ipynb", ".sh", ".npy", ".npz", ".zip", ".tar", ".7z", ".rar", ".pt", ".pth", ".onnx",
})
# fmt: on
_MASK_WORDS = r"masks?|segmentations?|segs?|ground[ _-]?truths?|gts?|annotations?|labels?|contours?"
_MASK_FOLDER = re.compile(rf"(^|[^a-z])({_MASK_WORDS})($|[^a-z])")
_ONLY_MASKS = re.compile(r"[ _.-]*(masks?|segmentations?)$")
# "x_mask.png" beside "x.png", and "x_mask_1.png" where there are several
_MASK_FILE = re.compile(r"(.*?)[ _.-]*(mask|segmentation|seg|ground[ _-]?truth|gt)[ _.-]?[0-9]*$")
_MASK_WORD = re.compile("mask|seg|truth|gt", re.IGNORECASE)
_IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img"})
# Names of folders that speak of how files were put away, and not of what is to be seen on them
_STORAGE = {*SPLIT_NAMES, *_IMAGE_FOLDERS, *_MASK_WORDS.replace("?", "").split("|")} | set(
    re.findall(
        "[a-z]+",
        "mask label annotation segmentation pictures photos pics files data dataset set sets "
        "part parts fold folds batch chunk folder dir split holdout eval evaluation unlabeled "
        "unlabelled series ser se study scan scans session ses sub subject subjects patient "
        "patients pat case person volume vol disc archive dicom dcm png jpg jpeg tif tiff "
        "nifti raw ",
    )
)
_OTHERWISE = "or give a manifest (.csv) or .npz"
IN_NO_CLASS = "in no class folder"


def read_folders(
    root: Path, class_map: Mapping[str, str], left_out: LeftOuts | None = None
) -> Listed:
    """Items of class folders under `root`, before files with several pictures are opened.

    Splits are told by the names of folders (train, training, val, valid, validation, dev, test,
    testing, in any case), above the classes or inside all of them. Single folders on the way down
    are passed through. What lies there and is used by none goes into `left_out`.

    Args:
        root: The folder.
        class_map: Name of a folder -> name of its class.
        left_out: The account of what is passed over.

    Raises:
        DataError: No class folders, a folder that fits neither reading, folders that look like
            parts of a set and not like classes, or names that cannot be matched across splits.
    """
    account = left_out if left_out is not None else LeftOuts(root, class_map)
    top = _descend(root, account)
    splits = _splits(top, account)
    for folder in {root, top, *(f for f in top.parents if root in f.parents)}:
        _account_for_files(folder, account)
    if not splits:
        folders = inner_folders(top, account)
        _check_guess(top, folders, account)
        inside = _splits_inside(folders, account)
        return Listed(
            "split/class folders" if inside else "class folders",
            root,
            [
                item
                for folder in folders
                for item in _items(
                    root, folder, class_map.get(folder.name, folder.name), inside or None, account
                )
            ],
            notes=[*_alike_inside(folders, account)],
            names=frozenset(folder.name for folder in folders),
        )
    names: dict[str, list[str]] = {}
    folders = []
    for split, folder in splits.items():
        inner = inner_folders(folder, account)
        _check_guess(folder, inner, account)
        _account_for_files(folder, account)
        names[split] = [class_map.get(f.name, f.name) for f in inner]
        folders += inner
    renamed = one_name_per_class(names, frozenset(class_map.values()))
    return Listed(
        "split/class folders",
        root,
        [
            item
            for split, folder in splits.items()
            for inner in inner_folders(folder, account)
            for item in _items(
                root, inner, renamed[class_map.get(inner.name, inner.name)], split, account
            )
        ],
        names=frozenset(folder.name for folder in folders),
    )


def inner_folders(folder: Path, left_out: LeftOuts | None = None) -> list[Path]:
    """Visible folders directly inside, sorted by name, without those of masks beside images."""
    account = left_out if left_out is not None else LeftOuts(folder)
    return _look(folder, account)[0]


def image_files(folder: Path, left_out: LeftOuts | None = None) -> Iterator[Path]:
    """Files at any depth that may be images, sorted; links to folders are followed, once each.

    Hidden files, files with the ending of a text, table, document or model, pipes, dangling links,
    masks beside images and folders that cannot be opened are passed over.
    """
    account = left_out if left_out is not None else LeftOuts(folder)
    linked: set[tuple[int, int]] = set()
    stack = [(folder, frozenset({_identity(folder)}))]
    while stack:
        here, above = stack.pop()
        folders, files = _look(here, account)
        yield from files
        inner = []
        for path in folders:
            identity = _identity(path)
            if identity in above:
                account.add(path, "link", "leads back to a folder that it lies in")
            elif path.is_symlink() and identity in linked:
                account.add(path, "link", "leads to a folder that another link leads to")
            else:
                linked |= {identity} if path.is_symlink() else set()
                inner.append((path, above | {identity}))
        stack += reversed(inner)


def _identity(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return (-1, -1)
    return facts.st_dev, facts.st_ino


def _look(folder: Path, account: LeftOuts) -> tuple[list[Path], list[Path]]:
    """Folders and possible images directly inside, both sorted; the account gets the rest."""
    if folder not in account.looked:
        account.looked[folder] = _listed(folder, account)
    folders, files, passed_over = account.looked[folder]
    for entry in passed_over:
        account.add(*entry)
    return folders, files


def _listed(folder: Path, account: LeftOuts) -> FolderLook:
    try:
        with os.scandir(folder) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
    except OSError as problem:
        if folder == account.root:
            raise DataError(
                "a folder that can be opened", f"'{folder}' ({problem.strerror})"
            ) from None
        reason = f"cannot be opened ({problem.strerror})"
        return FolderLook([], [], [(folder, "folder", reason)])
    folders: list[Path] = []
    files: list[Path] = []
    passed_over: list[tuple[Path, str, str]] = []
    for entry in there:
        path, why = folder / entry.name, _passed_over(entry)
        if why:
            passed_over.append((path, *why))
        else:
            (folders if entry.is_dir() else files).append(path)
    masks = _mask_folders(folders, account.classes)
    passed_over += [(path, "folder", "masks beside images") for path in masks]
    mask_files = _mask_files(files)
    passed_over += [(path, "mask", "a mask beside its image") for path in mask_files]
    return FolderLook(
        [path for path in folders if path not in masks],
        [path for path in files if path not in mask_files],
        passed_over,
    )


def _passed_over(entry: os.DirEntry[str]) -> tuple[str, str] | None:
    """Kind and reason of what is neither a folder nor a possible image; None for what is."""
    name = entry.name.casefold()
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a chain of links that never ends
        is_folder = is_file = False
    if name.startswith(".") or name in SYSTEM_NAMES:
        return "folder" if is_folder else "file", HIDDEN
    if is_folder:
        return None
    if not is_file:
        return ("link", "leads nowhere") if entry.is_symlink() else ("file", "no ordinary file")
    suffix = f".{name.rpartition('.')[2]}"
    if suffix in TABLE_SUFFIXES:
        return "table", "lies beside the images, not at the top"
    return ("file", f"{suffix} {NOT_READ}") if suffix in _NOT_IMAGES else None


def _mask_folders(folders: list[Path], classes: frozenset[str]) -> set[Path]:
    names = {folder.name.casefold() for folder in folders}
    images = not _IMAGE_FOLDERS.isdisjoint(names)
    return {
        folder
        for folder, name in ((folder, folder.name.casefold()) for folder in folders)
        if folder.name not in classes
        and (
            (images and _MASK_FOLDER.search(name))
            or (_ONLY_MASKS.search(name) and _ONLY_MASKS.sub("", name) in names)
        )
    }


def _mask_files(files: list[Path]) -> set[Path]:
    candidates = {}
    for path in files:
        if _MASK_WORD.search(path.name) and (match := _MASK_FILE.fullmatch(_stem(path))):
            candidates[path] = match[1]
    if not candidates:
        return set()
    bare = {_stem(path) for path in files if path not in candidates}
    # "BraTS_1_seg" lies beside "BraTS_1_t1": what comes before a mark is a beginning
    begun = {stem[: mark.start()] for stem in bare for mark in re.finditer(r"[\W_]", stem)}
    alone = not bare.isdisjoint({*_IMAGE_FOLDERS, "scan", "picture", "original"})
    return {path for path, base in candidates.items() if (base in bare | begun if base else alone)}


def _stem(path: Path) -> str:
    return path.name.casefold().rpartition(".")[0].removesuffix(".nii") or path.name.casefold()


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
        renamed[name] = next(
            root
            for root in free
            if _same(name, root) or (_continues(name, root) and not _both(name, root, sets))
        )
    for split, members in sets.items():
        for root in set(renamed.values()):
            same = sorted(name for name in members if renamed[name] == root)
            if len(same) > 1:
                raise DataError(
                    "one folder per class in every split",
                    f"{' and '.join(same)} in {split}, which both fit '{root}'",
                    "rename one, or say which is which with class_map (--class-map)",
                )
    return renamed


def _same(name: str, other: str) -> bool:
    """Spelled alike but for case and the way that accents are stored (macOS stores them apart)."""
    return _folded(name) == _folded(other)


def _both(name: str, root: str, sets: Mapping[str, set[str]]) -> bool:
    """True where the two stand side by side in one split, and in another one `root` alone does.

    Then they are two classes, and one of them has no images there.
    """
    return any(
        any(_same(name, other) for other in members)
        and any(_same(root, other) for other in members)
        for members in sets.values()
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _continues(name: str, root: str) -> bool:
    """True when `name` is `root`, or `root` and more after something that is no letter or digit."""
    name, root = _folded(name), _folded(root)
    return name == root or (name.startswith(root) and not name[len(root)].isalnum())


def _account_for_files(folder: Path, account: LeftOuts) -> None:
    """What lies above the class folders belongs to no class."""
    for path in _look(folder, account)[1]:
        account.add(path, "file", IN_NO_CLASS)


def _descend(root: Path, account: LeftOuts) -> Path:
    """Through folders that hold one folder and nothing else, to where the choice begins."""
    top = root
    while True:
        inner = inner_folders(top, account)
        if (
            len(inner) != 1
            or inner[0].name.casefold() in SPLIT_NAMES
            or inner[0].is_symlink()
            or not inner_folders(inner[0], account)
        ):
            return top
        top = inner[0]


def _splits(top: Path, account: LeftOuts) -> dict[str, Path]:
    """Folder of each split; none when the folders are classes.

    A folder named like a split counts as one when it has folders inside; "test" full of images
    is a class, unless it stands beside splits: then its images have no label.
    """
    inner = inner_folders(top, account)
    if not inner:
        archive = next((f for f in sorted(top.iterdir()) if f.suffix.casefold() == ".npz"), None)
        fix = f"give the archive itself: '{archive}'" if archive else _OTHERWISE
        raise DataError("a folder with one sub-folder per class", f"no sub-folders in '{top}'", fix)
    alike = [f for f in inner if f.name.casefold() in SPLIT_NAMES]
    named = [f for f in alike if inner_folders(f, account)]
    if not named:
        return {}
    others = [f for f in inner if f not in alike and next(image_files(f, account), None)]
    if others:
        raise DataError(
            "split folders or class folders, not both",
            f"'{named[0].name}' beside '{others[0].name}' in '{top}'",
            "move one of them away",
        )
    for folder in alike:
        images = 0 if folder in named else sum(1 for _ in image_files(folder, account))
        if images:
            number = counted(images, "image")
            account.add(folder, "folder", f"no class folders in it: {number} without a label")
    splits: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.casefold()]
        if split in splits:
            both = f"'{splits[split].name}' and '{folder.name}'"
            raise DataError(f"one {split} folder", f"{both} in '{top}'", "rename one, or join them")
        splits[split] = folder
    return splits


def _splits_inside(folders: list[Path], account: LeftOuts) -> dict[str, str]:
    """Name of a folder inside each class -> its split, where they are nothing else."""
    names = set()
    for folder in folders:
        inner, files = _look(folder, account)
        if files or not inner:
            return {}
        names |= {f.name for f in inner}
    splits = {name: SPLIT_NAMES.get(name.casefold(), "") for name in names}
    return splits if all(splits.values()) and len(set(splits.values())) > 1 else {}


def _check_guess(top: Path, folders: list[Path], account: LeftOuts) -> None:
    """Refuse folders whose names, or what lies in them, say that they are no classes.

    Those that the user named are classes because the user says so.
    """
    names = [folder.name for folder in folders]
    if len(names) < 2 or account.classes.issuperset(names):
        return
    words = [_words(name) for name in names]
    stems = {re.sub("[0-9]+", "", name).casefold() for name in names}
    reason = ""
    if all(w and _STORAGE.issuperset(w) for w in words):
        reason = "whose names speak of storage, not of classes"
    elif len(stems) == 1 and words[0] and words[0][-1] in _STORAGE:
        reason = "which are numbered parts"
    elif (same := sorted(_same_inside(folders, account))) and not re.search("[0-9]", "".join(same)):
        reason = f"which all hold the same folders ({named(same, 3)})"
    if reason:
        shown = ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")
        raise DataError(
            f"one folder for each class in '{top}'",
            f"the folders {shown}, {reason}",
            "give a manifest (.csv) with the columns path and label, or, if they are the classes, "
            "name them in class_map (--class-map)",
        )


def _alike_inside(folders: list[Path], account: LeftOuts) -> Iterator[str]:
    inside = sorted(_same_inside(folders, account))
    if len(folders) > 1 and inside:
        yield (
            f"every class folder holds the same folders ({named(inside, 4)}): taken for parts of "
            "it, not for classes"
        )


def _same_inside(folders: list[Path], account: LeftOuts) -> set[str]:
    """Names of the folders, two or more, that all of `folders` hold; none that speak of storage."""
    sets = [{f.name for f in inner_folders(folder, account)} for folder in folders]
    same = sets[0] if sets and all(names == sets[0] for names in sets) else set()
    speaking = {name for name in same if not _STORAGE.issuperset(_words(name) or ["?"])}
    return speaking if len(speaking) > 1 else set()


def _words(name: str) -> list[str]:
    """The words of a name in small letters: "train" and "images" of "TrainImages_01"."""
    name = unicodedata.normalize("NFC", name)
    return [w.casefold() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", name)]


def _items(
    root: Path, folder: Path, label: str, split: Mapping[str, str] | str | None, account: LeftOuts
) -> Iterator[ImageItem]:
    """Items of a class folder; `split` may depend on the folder inside that an image lies in."""
    empty = True
    for path in image_files(folder, account):
        empty = False
        inner = path.relative_to(folder).parts
        part = split[inner[0]] if isinstance(split, Mapping) else split
        # a folder inside that is a split's is no unit
        inside = "/".join(inner[1 if isinstance(split, Mapping) else 0 : -1])
        units = {"folder": inside} if inside else {}
        yield ImageItem(path.relative_to(root).as_posix(), path, label, split=part, units=units)
    if empty:
        account.add(folder, "folder", "no images in it")
