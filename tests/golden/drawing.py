"""The SYNTHETIC images of the golden studies: easy to tell apart, some with a wrong label.

Networks must be sure of every image, so that no answer hangs on the last digit of a sum, and yet
not right on all, so that the figures are not all 100 %. Hence strong patterns, and labels that are
wrong in validation and test alone. Whole numbers only: the same bytes on every processor.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

CLASSES = ("normal", "nodule", "opacity")
MARK = "SYNTHETIC: drawn by the tests, not a patient's image"
COUNTS = {"train": 240, "validation": 150, "test": 150}
WRONG = 14  # one label in so many, in validation and test
STRENGTH = 60  # of the patterns, grey levels


def draw(folder: Path, side: int) -> Path:
    """Images of `side` pixels and their manifest, which is returned."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(16)
    lines = []
    for split, count in COUNTS.items():
        for number in range(count):
            kind = number % len(CLASSES)
            patient = f"SYNTHETIC-{split}-{number // 2:03d}"
            group = np.random.default_rng([number // 2, len(split)])
            path = f"images/{split}-{number:03d}.png"
            _save(folder / path, _picture(random, kind, side))
            wrong = split != "train" and number % WRONG == WRONG - 1
            lines.append(
                {
                    "path": path,
                    "label": CLASSES[(kind + wrong) % len(CLASSES)],
                    "split": split,
                    "patient_id": patient,
                    "sex": "FM"[int(group.integers(2))],
                    "age": int(group.integers(30, 85)),
                }
            )
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return manifest


def _picture(random: np.random.Generator, kind: int, side: int) -> NDArray[np.uint8]:
    """A grey ground of squares with noise, and the pattern of its class."""
    squares = random.integers(30, 90, (side // 8, side // 8))
    image = squares.repeat(8, 0).repeat(8, 1) + random.integers(0, 25, (side, side))
    size = side // 2
    top, left = (int(start) for start in random.integers(0, side - size + 1, 2))
    y, x = np.mgrid[:size, :size]
    if kind == 1:
        image[top : top + size, left : left + size] += np.where(
            (2 * y - size) ** 2 + (2 * x - size) ** 2 < size * size, STRENGTH, 0
        )
    if kind == 2:
        image[top : top + size, left : left + size] += np.where(y % 4 < 2, STRENGTH, 0)
    return image.astype(np.uint8)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("Comment", MARK)
    Image.fromarray(pixels).save(path, pnginfo=said)
