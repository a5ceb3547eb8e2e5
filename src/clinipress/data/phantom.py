"""A SYNTHETIC chest-CT-like set, drawn by our own code: patients, sex, age, scanner, three classes.

Each slice is built from signed distances of ellipses: skin, chest wall with ribs, two lungs,
heart, spine, aorta, a scatter of vessels. "nodule" adds one solid round density inside a lung,
"opacity" a soft, patchy one (ground glass); "normal" adds nothing. The two scanners differ in noise
and sharpness, and every class is drawn on both, so neither scanner nor mean brightness gives it
away. Nothing here is anatomy: the set exists so that the whole flow can be run without any
patient's image.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from clinipress.store import storage

__all__ = ["CLASSES", "draw_phantoms", "draw_slice"]

CLASSES = ("normal", "nodule", "opacity")
SCANNERS = {"A": (0.035, 0.6), "B": (0.055, 1.0)}  # noise, blur in pixels at 96
LARGEST_PER_PATIENT = 3
Image2D = NDArray[np.float32]


@dataclass(frozen=True)
class _Grid:
    """Coordinates of a slice, x to the right and y down, both in [-1, 1]."""

    x: Image2D
    y: Image2D
    pixel: float

    def disc(self, cx: float, cy: float, rx: float, ry: float, soft: float = 1.0) -> Image2D:
        """1 inside an ellipse, 0 outside, with an edge `soft` pixels wide."""
        radius = np.hypot((self.x - cx) / rx, (self.y - cy) / ry)
        distance = (radius - 1) * min(rx, ry)
        edge = np.clip(0.5 - distance / (self.pixel * soft), 0, 1)
        return edge.astype(np.float32)


def _grid(size: int) -> _Grid:
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(axis, axis)
    return _Grid(x, y, 2 / size)


def _smooth(image: Image2D, sigma: float) -> Image2D:
    """Gaussian blur by the Fourier transform; the border wraps, where there is only air."""
    size = image.shape[0]
    frequency = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size)[None, :] ** 2
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * frequency)
    return np.fft.irfft2(np.fft.rfft2(image) * kernel, s=image.shape).astype(np.float32)


def draw_slice(
    label: str, *, size: int, scanner: str, build: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """One slice.

    Args:
        label: One of `CLASSES`.
        size: Pixels of a side.
        scanner: "A" or "B".
        build: Body size around 1: a patient's own, shared by their slices.
        generator: Source of all randomness.

    Returns:
        uint8 ``[size, size]``, air black, bone white.
    """
    grid, draw = _grid(size), generator.uniform
    image = np.zeros((size, size), np.float32)
    wide, tall = 0.88 * build, 0.66 * build
    image = np.maximum(image, 0.50 * grid.disc(0, 0.03, wide, tall))
    image -= 0.12 * grid.disc(0, 0.03, wide * 0.93, tall * 0.91) * (1 - 0.5 * draw())
    lungs = _lungs(grid, build, generator)
    image = image * (1 - lungs) + 0.12 * lungs
    image += _vessels(grid, lungs, generator)
    image += _finding(label, grid, lungs, build, generator)
    image = _solid(image, grid, build, generator)
    noise, blur = SCANNERS[scanner]
    image = _smooth(image, blur * size / 96)
    grain = generator.normal(0, 1, image.shape).astype(np.float32)
    image += noise * (0.5 * grain + 0.8 * _smooth(grain, 0.8))
    image = image * draw(0.92, 1.08) + draw(-0.02, 0.02)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _lungs(grid: _Grid, build: float, generator: np.random.Generator) -> Image2D:
    """Both lungs as a mask in [0, 1]; the left one is smaller, for the heart."""
    draw = generator.uniform
    height = 0.46 * build * draw(0.92, 1.06)
    right = grid.disc(-0.42 * build, 0.0, 0.30 * build * draw(0.92, 1.06), height)
    left = grid.disc(0.43 * build, 0.0, 0.28 * build * draw(0.92, 1.06), height * 0.97)
    return np.maximum(right, left)


def _vessels(grid: _Grid, lungs: Image2D, generator: np.random.Generator) -> Image2D:
    """Small bright dots and streaks inside the lungs, thicker near the middle."""
    vessels = np.zeros_like(lungs)
    for _ in range(int(generator.integers(14, 26))):
        x = generator.uniform(0.18, 0.68) * generator.choice([-1, 1])
        y = generator.uniform(-0.36, 0.36)
        radius = 0.011 + 0.016 * max(0.0, 0.6 - abs(x))
        stretch = generator.uniform(0.7, 2.4)
        dot = grid.disc(x, y, radius * stretch, radius)
        vessels = np.maximum(vessels, generator.uniform(0.15, 0.40) * dot)
    return vessels * lungs


def _solid(image: Image2D, grid: _Grid, build: float, generator: np.random.Generator) -> Image2D:
    """Heart, aorta, spine and ribs, drawn over what lies behind them."""
    draw = generator.uniform
    heart = grid.disc(0.08 + draw(-0.04, 0.04), -0.10, 0.24 * build, 0.22 * build)
    image = image * (1 - heart) + 0.47 * heart
    aorta = grid.disc(0.10, 0.24 * build, 0.06, 0.06)
    image = image * (1 - aorta) + 0.52 * aorta
    spine = grid.disc(0, 0.42 * build, 0.13 * build, 0.12 * build)
    image = image * (1 - spine) + draw(0.78, 0.92) * spine
    for angle in np.linspace(0.25, 2 * np.pi - 0.25, 12) + draw(-0.12, 0.12):
        rib = grid.disc(
            0.81 * build * float(np.sin(angle)),
            0.03 + 0.58 * build * float(np.cos(angle)),
            0.05,
            0.035,
        )
        image = image * (1 - rib) + 0.85 * rib
    return image


def _finding(
    label: str, grid: _Grid, lungs: Image2D, build: float, generator: np.random.Generator
) -> Image2D:
    """What makes the class: nothing, one solid nodule, or a soft patchy opacity."""
    if label == "normal":
        return np.zeros_like(lungs)
    side = generator.choice([-1, 1])
    x = side * generator.uniform(0.34, 0.52) * build
    y = generator.uniform(-0.24, 0.26) * build
    if label == "nodule":
        radius = generator.uniform(0.055, 0.10)
        spot = grid.disc(x, y, radius, radius * generator.uniform(0.85, 1.2), soft=1.5)
        return generator.uniform(0.38, 0.60) * spot * lungs
    haze = np.zeros_like(lungs)
    for _ in range(int(generator.integers(3, 6))):
        rx, ry = generator.uniform(0.09, 0.17, 2)
        dx, dy = generator.uniform(-0.11, 0.11, 2)
        haze = np.maximum(haze, grid.disc(x + dx, y + dy, rx, ry, soft=6))
    texture = _smooth(generator.normal(0, 1, lungs.shape).astype(np.float32), 2.0)
    texture = 1 + 0.35 * texture / max(float(texture.std()), 1e-6)
    return generator.uniform(0.14, 0.26) * haze * np.clip(texture, 0.2, 1.8) * lungs


def draw_phantoms(folder: Path, *, patients: int, seed: int, size: int = 96) -> Path:
    """Draw a SYNTHETIC set: PNG files and a manifest with patients, sex, age and scanner.

    Args:
        folder: Where to write; made if it is not there.
        patients: How many; each has one finding and one to three slices.
        seed: Same seed, same bytes.
        size: Pixels of a side.

    Returns:
        Path of ``manifest.csv``, written last: a folder without it is unfinished.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Comment", "SYNTHETIC: drawn by clinipress, not a patient's image")
    rows = []
    with storage(f"the SYNTHETIC images in '{folder}'"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for number in range(patients):
            generator = np.random.default_rng([seed, number])
            label = CLASSES[number % len(CLASSES)]
            sex = str(generator.choice(["F", "M"]))
            facts = {
                "patient_id": f"SYNTHETIC-{number:05d}",
                "sex": sex,
                "age": int(generator.integers(30, 86)),
                "scanner": str(generator.choice(list(SCANNERS))),
            }
            build = float(generator.uniform(0.90, 1.0) + (0.04 if sex == "M" else 0.0))
            for part in range(int(generator.integers(1, LARGEST_PER_PATIENT + 1))):
                pixels = draw_slice(
                    label, size=size, scanner=facts["scanner"], build=build, generator=generator
                )
                name = f"images/{number:05d}-{part}.png"
                Image.fromarray(pixels).save(folder / name, pnginfo=mark)
                rows.append({"path": name, "label": label, **facts})
        manifest = folder / "manifest.csv"
        part_file = manifest.with_suffix(".part")
        with part_file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        part_file.replace(manifest)
    return manifest
