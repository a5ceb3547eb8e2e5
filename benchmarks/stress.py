"""Time of the stress section: ``python benchmarks/stress.py [images]``.

Milliseconds per image of each disturbance, mean of its five strengths, at 128 and 224 pixels, grey
and colour; and of the statistics, from stored answers to verdict, for 200 images and 50 levels.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from clinipress.evidence.scores import Scores
from clinipress.evidence.stress import stress_section
from clinipress.kinds.image.disturb import DISTURBANCES, STRENGTHS, disturb

FORMS = ((1, 128), (1, 224), (3, 224))


def pictures(n: int, channels: int, side: int) -> np.ndarray:
    """SYNTHETIC: smooth waves with grain, uint8 ``[n, channels, side, side]``."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(x * a + y * b) for a, b in random.uniform(2, 20, (n * channels, 2))]
    grain = random.normal(0, 6, (n, channels, side, side))
    smooth = 128 + 80 * np.reshape(waves, grain.shape)
    return np.asarray(np.clip(smooth + grain, 0, 255), np.uint8)


def time_disturbances(n: int) -> None:
    """Print a row per disturbance."""
    sets = [pictures(n, channels, side) for channels, side in FORMS]
    keys = [str(number) for number in range(n)]
    heads = " ".join(f"{f'{c} x {side} px':>12}" for c, side in FORMS)
    print(f"{'ms per image':12} {heads}")
    totals = np.zeros(len(sets))
    for kind in DISTURBANCES:
        row = []
        for images in sets:
            disturb(images[:1], keys[:1], kind, 5)  # what is made once per size
            began = time.perf_counter()
            for strength in STRENGTHS:
                disturb(images, keys, kind, strength)
            row.append(1000 * (time.perf_counter() - began) / (n * len(STRENGTHS)))
        totals += row
        print(f"{kind:12} " + " ".join(f"{figure:12.2f}" for figure in row))
    print(f"{'mean':12} " + " ".join(f"{figure:12.2f}" for figure in totals / len(DISTURBANCES)))


def time_statistics(n: int = 200, classes: int = 4) -> None:
    """Print the time of one candidate's section on made-up answers, by image and by patient."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, n)
    names = tuple(f"class {number}" for number in range(classes))

    def logits() -> np.ndarray:
        truth = 2 * np.eye(classes)[labels]
        return np.asarray(random.normal(size=(n, classes)) + truth, np.float32)

    stored = {(kind, s): (logits(), logits()) for kind in DISTURBANCES for s in STRENGTHS}
    for label, units in (("images", np.arange(n)), ("patients of 4", np.arange(n) // 4)):
        keys = tuple(map(str, range(n)))
        before, after = (Scores(logits(), labels, units, keys, names) for _ in range(2))
        began = time.perf_counter()
        stress_section(before, after, np.arange(n), stored, margin=0.02)
        print(f"statistics of {n} images by {label}: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    time_disturbances(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    time_statistics()
