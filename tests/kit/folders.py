"""Data folders of small pictures, and what a reader makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from clinipress.data.sources import Dataset

__all__ = ["folder_of", "left", "picture", "rows_of", "table"]


def picture(path: Path, seed: int = 0, mark: bool = False) -> Path:
    """A smooth random picture of 24 x 24, with a bright field where it is marked. SYNTHETIC."""
    coarse = np.random.default_rng(seed).integers(20, 160, (5, 5), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((24, 24), Image.Resampling.BICUBIC)
    if mark:
        image.paste(240, (4, 4, 12, 12))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, path.suffix.lstrip(".").upper().replace("JPG", "JPEG") or "PNG")
    return path


def folder_of(root: Path, names: Iterable[str]) -> Path:
    """Pictures of these names below `root`, each another one."""
    for seed, name in enumerate(names):
        picture(root / name, seed, mark=bool(seed % 2))
    return root


def table(path: Path, lines: Iterable[str], encoding: str = "utf-8") -> Path:
    """A table of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def rows_of(dataset: Dataset) -> list[tuple[object, ...]]:
    """All that is known of each item."""
    return [(i.key, i.label, i.index, i.split, i.patient, dict(i.groups)) for i in dataset.items]


def left(dataset: Dataset) -> dict[tuple[str, str], list[str]]:
    """(kind, reason) -> names of what is not used."""
    entries: dict[tuple[str, str], list[str]] = {}
    for entry in dataset.left_out:
        entries.setdefault((entry.kind, entry.reason), []).append(entry.path)
    return entries
