"""A SYNTHETIC chest-CT-like set, drawn by our own code: patients, sex, age, scanner, three classes.

Each slice is painted from ellipses with soft edges, back to front: couch, skin and fat, muscle,
ribs, two lungs with vessels, heart, aorta, spine, sternum. "nodule" adds one solid, slightly
spiculated density inside a lung, "opacity" a soft, patchy one (ground glass), "normal" nothing.
The slices of a patient share the anatomy and the finding, at other levels. The two scanners differ
in noise and sharpness, every class is drawn on both, and gain and body size vary more than a
finding adds, so that neither scanner nor mean brightness gives a class away.

Nothing here is anatomy: the set exists so that the whole flow can be run without any patient's
image. Lengths are in half image sides, x to the right and y down from the centre; grey levels are
in [0, 1] until the end.
"""

from __future__ import annotations

import csv
import functools
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from clinipress.errors import InputError
from clinipress.records.store import storage, write_atomically

__all__ = [
    "CLASSES",
    "MARK",
    "SCANNERS",
    "SMALLEST_SIZE",
    "draw_body",
    "draw_phantoms",
    "draw_slice",
]

CLASSES = ("normal", "nodule", "opacity")
MARK = "SYNTHETIC: drawn by clinipress, not a patient's image"
# noise (deviation of the grey level) and blur (deviation in pixels of a 96-pixel image)
SCANNERS = {"A": (0.030, 0.55), "B": (0.048, 0.95)}
LARGEST_PER_PATIENT = 3
SMALLEST_SIZE = 16
AIR, LUNG, FAT, MUSCLE, BLOOD, BONE = 0.0, 0.12, 0.34, 0.47, 0.50, 0.86
Picture = NDArray[np.float32]
Box = tuple[slice, slice]
Draw = np.random.Generator


@dataclass(frozen=True)
class Ellipse:
    """Centre, half axes, and the angle of the first axis from x, in radians."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0


@dataclass
class Canvas:
    """A picture being painted; each stroke touches only the box around its ellipse."""

    size: int
    image: Picture = field(init=False)

    def __post_init__(self) -> None:
        self.image = np.full((self.size, self.size), AIR, dtype=np.float32)

    def cover(self, ellipse: Ellipse, soft: float = 1.0) -> tuple[Box, Picture]:
        """Share of each pixel that lies inside (box and float32), `soft` pixels of edge."""
        cosine, sine = math.cos(ellipse.angle), math.sin(ellipse.angle)
        margin = soft * 2 / self.size
        box = (
            self._span(ellipse.y, math.hypot(ellipse.a * sine, ellipse.b * cosine) + margin),
            self._span(ellipse.x, math.hypot(ellipse.a * cosine, ellipse.b * sine) + margin),
        )
        axis = _axis(self.size)
        y, x = axis[box[0], None] - ellipse.y, axis[None, box[1]] - ellipse.x
        along = x * (cosine / ellipse.a) + y * (sine / ellipse.a)
        across = y * (cosine / ellipse.b) - x * (sine / ellipse.b)
        # the radius times the shorter half axis is near enough to a distance where the edge is
        slope = min(ellipse.a, ellipse.b) / margin
        share: Picture = np.hypot(along, across)
        share *= -slope
        share += 0.5 + slope
        # the ufuncs themselves: np.clip's wrapper would cost as much as all of the above
        np.maximum(share, 0, out=share)
        np.minimum(share, 1, out=share)
        return box, share

    def paint(self, level: float, ellipse: Ellipse, soft: float = 1.0) -> None:
        """Cover what is there with one grey level."""
        box, share = self.cover(ellipse, soft)
        self.image[box] += share * (level - self.image[box])

    def mask(self, *several: Ellipse) -> Picture:
        """Union of ellipses: float32 ``[size, size]`` in [0, 1]."""
        union = np.zeros_like(self.image)
        for ellipse in several:
            box, share = self.cover(ellipse)
            np.maximum(union[box], share, out=union[box])
        return union

    def _span(self, centre: float, reach: float) -> slice:
        first = int((centre - reach + 1) / 2 * self.size)
        last = int((centre + reach + 1) / 2 * self.size) + 1
        return slice(max(first, 0), min(max(last, 0), self.size))


@functools.cache
def _axis(size: int) -> Picture:
    """Pixel centres in [-1, 1]: float32 ``[size]``."""
    return ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)


@functools.cache
def _weights(sigma: float) -> tuple[float, ...]:
    """A Gaussian's weights from the middle outwards; with their mirror they sum to 1."""
    reach = math.ceil(3 * sigma)
    half = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    return tuple((half / (2 * half.sum() - half[0])).tolist())


def _smoothed(image: Picture, sigma: float) -> Picture:
    """Gaussian blur, side by side; beyond the edge is the edge's own value."""
    middle, *outer = _weights(sigma)
    reach = len(outer)
    for _ in range(2):
        n = len(image)
        wide = np.empty((n + 2 * reach, n), dtype=np.float32)
        wide[reach : n + reach] = image
        wide[:reach], wide[n + reach :] = image[0], image[-1]
        blurred = middle * image
        for step, weight in enumerate(outer, start=1):
            pair = wide[reach - step : n + reach - step] + wide[reach + step : n + reach + step]
            pair *= weight
            blurred += pair
        image = np.ascontiguousarray(blurred.T)
    return image


@dataclass(frozen=True)
class Body:
    """One patient's anatomy, shared by their slices.

    Attributes:
        wide: Half width of the chest.
        deep: Half depth of the chest.
        fat: Thickness of the fat.
        lungs: Half width and half height of a lung at mid level.
        heart: Half width of the heart at mid level.
        bone: Grey level of bone.
        side: Of the finding: -1 is the image's left.
        position: Of the finding within its lung, from -1 to 1 across and down.
        radius: Of a nodule.
        contrast: Of the finding, before blur: 0 barely visible to 1 strong.
    """

    wide: float
    deep: float
    fat: float
    lungs: tuple[float, float]
    heart: float
    bone: float
    side: int
    position: tuple[float, float]
    radius: float
    contrast: float


def _body(sex: str, draw: Draw) -> Body:
    wide = draw.uniform(0.76, 0.90) + (0.04 if sex == "M" else 0.0)
    deep = wide * draw.uniform(0.68, 0.80)
    return Body(
        wide=wide,
        deep=deep,
        fat=draw.uniform(0.02, 0.08),
        lungs=(wide * draw.uniform(0.31, 0.35), deep * draw.uniform(0.66, 0.74)),
        heart=draw.uniform(0.19, 0.25),
        bone=BONE * draw.uniform(0.92, 1.06),
        side=1 if draw.random() < 0.5 else -1,
        position=(draw.uniform(-0.1, 0.5), draw.uniform(-0.5, 0.6)),
        radius=draw.uniform(0.048, 0.095),
        contrast=draw.uniform(0.0, 1.0),
    )


def draw_body(draw: Draw) -> Body:
    """A patient's anatomy of either sex."""
    return _body("M" if draw.random() < 0.5 else "F", draw)


def draw_slice(label: str, body: Body, scanner: str, size: int, draw: Draw) -> NDArray[np.uint8]:
    """One slice of a patient at a random level: uint8 ``[size, size]``, air black, bone white.

    `label` is one of `CLASSES`, `scanner` one of `SCANNERS`.
    """
    canvas, level = Canvas(size), draw.uniform(-1, 1)
    lungs = _lungs(body, level)
    _paint_wall(canvas, body, draw)
    inside = canvas.mask(*lungs)
    canvas.image += inside * (LUNG * draw.uniform(0.9, 1.2) - canvas.image)
    air = Canvas(size)
    _paint_vessels(air, lungs, draw)
    if label == "nodule":
        _paint_nodule(air, lungs[body.side > 0], body, draw)
    elif label == "opacity":
        _paint_opacity(air, lungs[body.side > 0], body, draw)
    canvas.image += inside * air.image
    _paint_middle(canvas, body, level, draw)
    return _scanned(canvas.image, scanner, draw)


def _lungs(body: Body, level: float) -> tuple[Ellipse, Ellipse]:
    wide, tall = body.lungs
    scale = 1 - 0.10 * level**2 - 0.04 * level
    at, tilt = 0.475 * body.wide, 0.10
    return (
        Ellipse(-at, 0.01, tall * scale, wide * scale, math.pi / 2 + tilt),
        Ellipse(at, 0.01, tall * scale * 0.97, wide * scale * 0.95, math.pi / 2 - tilt),
    )


def _paint_wall(canvas: Canvas, body: Body, draw: Draw) -> None:
    canvas.paint(0.30, Ellipse(0, 0.96, 0.80, 0.05))
    canvas.paint(0.06, Ellipse(0, 0.94, 0.78, 0.04))
    canvas.paint(MUSCLE, Ellipse(0, 0.03, body.wide, body.deep))
    canvas.paint(FAT, Ellipse(0, 0.03, body.wide - 0.02, body.deep - 0.02))
    inner = body.wide - 0.02 - body.fat, body.deep - 0.02 - body.fat * 0.8
    canvas.paint(MUSCLE, Ellipse(0, 0.03, *inner), soft=1.5)
    turn = draw.uniform(-0.12, 0.12)
    for angle in (np.linspace(0.35, 2 * math.pi - 0.35, 12) + turn).tolist():
        # 0 is the spine; ribs run along the wall, cut at a slant
        x, y = 0.93 * inner[0] * math.sin(angle), 0.03 + 0.92 * inner[1] * math.cos(angle)
        along = math.atan2(-inner[1] * math.sin(angle), inner[0] * math.cos(angle))
        length = draw.uniform(0.045, 0.10)
        canvas.paint(body.bone, Ellipse(x, y, length, draw.uniform(0.020, 0.028), along))


def _paint_vessels(air: Canvas, lungs: tuple[Ellipse, Ellipse], draw: Draw) -> None:
    for lung, inward in zip(lungs, (1, -1), strict=True):
        hilum = lung.x + inward * lung.b * 0.8
        for _ in range(int(draw.integers(9, 15))):
            share, angle = draw.uniform(0.12, 0.95), draw.uniform(-1.25, 1.25)
            x = hilum - inward * share * 1.75 * lung.b * math.cos(angle)
            y = lung.y + share * 0.85 * lung.a * math.sin(angle)
            thick = 0.007 + 0.014 * (1 - share)
            streak = thick * draw.uniform(1.0, 7.0)
            slope = math.atan2(y - lung.y, x - hilum)
            air.paint(draw.uniform(0.18, 0.40), Ellipse(x, y, streak, thick, slope))


def _finding_position(lung: Ellipse, body: Body, draw: Draw) -> tuple[float, float]:
    """Where the finding is in this slice: nearly the same place in each of the patient's."""
    x = lung.x + body.side * body.position[0] * lung.b + draw.uniform(-0.02, 0.02)
    return x, lung.y + body.position[1] * lung.a + draw.uniform(-0.02, 0.02)


def _paint_nodule(air: Canvas, lung: Ellipse, body: Body, draw: Draw) -> None:
    x, y = _finding_position(lung, body, draw)
    radius, level = body.radius * draw.uniform(0.85, 1.05), 0.30 + 0.22 * body.contrast
    for angle in draw.uniform(0, math.pi, int(draw.integers(2, 6))).tolist():
        air.paint(0.75 * level, Ellipse(x, y, 1.6 * radius, 0.012, angle), soft=1.5)
    shape = radius * draw.uniform(0.8, 1.15)
    air.paint(level, Ellipse(x, y, radius, shape, draw.uniform(0, math.pi)), soft=1.5)


def _paint_opacity(air: Canvas, lung: Ellipse, body: Body, draw: Draw) -> None:
    x, y = _finding_position(lung, body, draw)
    haze = np.zeros_like(air.image)
    for _ in range(int(draw.integers(3, 6))):
        dx, dy = draw.uniform(-0.12, 0.12, 2).tolist()
        a, b = draw.uniform(0.08, 0.17, 2).tolist()
        box, share = air.cover(Ellipse(x + dx, y + dy, a, b, draw.uniform(0, math.pi)), soft=4)
        np.maximum(haze[box], share, out=haze[box])
    grain = _smoothed(draw.standard_normal(haze.shape, dtype=np.float32), 1.5 * air.size / 96)
    texture = np.clip(1 + 0.4 * grain / max(float(grain.std()), 1e-6), 0.1, 2.0)
    air.image += (0.13 + 0.13 * body.contrast) * haze * texture


def _paint_middle(canvas: Canvas, body: Body, level: float, draw: Draw) -> None:
    low = 0.5 * (level + 1)
    canvas.paint(MUSCLE, Ellipse(0, 0.0, 0.13, 0.72 * body.deep), soft=2)
    heart = body.heart * (0.70 + 0.45 * low)
    tilt = draw.uniform(0.3, 0.6)
    canvas.paint(BLOOD, Ellipse(0.08 + draw.uniform(-0.02, 0.02), -0.10, heart, 0.8 * heart, tilt))
    canvas.paint(BLOOD * 1.06, Ellipse(0.11, 0.22, 0.055, 0.055))
    for side in (-1, 1):
        apart = 0.03 + 0.06 * low
        canvas.paint(0.05, Ellipse(side * apart, 0.10, 0.026, 0.032))
    back = 0.03 + body.deep - body.fat - 0.22
    canvas.paint(body.bone * 0.90, Ellipse(0, back, 0.115, 0.095))
    canvas.paint(body.bone * 0.72, Ellipse(0, back, 0.085, 0.065), soft=2)
    canvas.paint(0.40, Ellipse(0, back + 0.115, 0.045, 0.030))
    canvas.paint(body.bone * 0.9, Ellipse(0, back + 0.165, 0.022, 0.035))
    for side in (-1, 1):
        canvas.paint(body.bone * 0.85, Ellipse(side * 0.10, back + 0.12, 0.06, 0.018, side * 0.5))
    canvas.paint(body.bone * 0.85, Ellipse(0, 0.05 - 0.86 * (body.deep - body.fat), 0.10, 0.028))


def _scanned(image: Picture, scanner: str, draw: Draw) -> NDArray[np.uint8]:
    noise, blur = SCANNERS[scanner]
    scale = len(image) / 96
    grain = draw.standard_normal(image.shape, dtype=np.float32)
    grain = 0.5 * grain + 1.4 * _smoothed(grain, 0.8)
    seen = _smoothed(image, blur * scale) + noise * draw.uniform(0.8, 1.25) * grain
    seen = seen * draw.uniform(0.90, 1.10) + draw.uniform(-0.015, 0.025)
    return np.clip(seen * 255, 0, 255).astype(np.uint8)


def draw_phantoms(folder: Path, *, patients: int, seed: int, size: int = 96) -> Path:
    """Draw a SYNTHETIC set: PNG files and a manifest with patients, sex, age and scanner.

    Args:
        folder: Where to write; made if it is not there.
        patients: How many; each has one finding, or none, and one to three slices.
        seed: Same seed, same bytes.
        size: Pixels of a side.

    Returns:
        Path of ``manifest.csv``, written last: a folder without it is unfinished.

    Raises:
        InputError: Fewer patients than classes, or too few pixels.
        StorageError: The disk is full or cannot be written.
    """
    if patients < len(CLASSES) or size < SMALLEST_SIZE:
        raise InputError(
            f"{len(CLASSES)} patients and {SMALLEST_SIZE} pixels at least", f"{patients} and {size}"
        )
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["path", "label", "patient_id", "sex", "age", "scanner"])
    with storage(f"the SYNTHETIC images in '{folder}'"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for number in range(patients):
            writer.writerows(_draw_patient(folder, number, seed, size))
    write_atomically(folder / "manifest.csv", table.getvalue())
    return folder / "manifest.csv"


def _draw_patient(folder: Path, number: int, seed: int, size: int) -> list[list[str]]:
    """Draw one patient's slices; their rows of the manifest. Patients do not depend on others."""
    draw = np.random.default_rng([seed, number])
    label = CLASSES[number % len(CLASSES)]
    sex, scanner = str(draw.choice(["F", "M"])), str(draw.choice(list(SCANNERS)))
    age, body = str(draw.integers(30, 86)), _body(sex, draw)
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Comment", MARK)
    rows = []
    for part in range(int(draw.integers(1, LARGEST_PER_PATIENT + 1))):
        name = f"images/{number:05d}-{part}.png"
        pixels = draw_slice(label, body, scanner, size, draw)
        Image.fromarray(pixels).save(folder / name, pnginfo=mark, compress_level=3)
        rows.append([name, label, f"SYNTHETIC-{number:05d}", sex, age, scanner])
    return rows
