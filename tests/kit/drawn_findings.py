"""A SYNTHETIC set of small pictures that may show any of three findings, some unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kit.folders import table

FINDINGS = ("bar", "disc", "shade")


def draw_findings(root: Path, patients: int = 60, size: int = 32, seed: int = 0) -> Path:
    """Two pictures of each patient, and a manifest with a column for each finding.

    A finding is there in about a third of them; of about a tenth it is left blank or said to be
    uncertain (-1).
    """
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    rows = [f"path,patient_id,{','.join(FINDINGS)}"]
    for number in range(2 * patients):
        shown = random.random(3) < 0.35
        pixels = 0.35 + random.normal(0, 0.05, (size, size)) + random.normal(0, 0.03)
        place = random.uniform(0.3, 0.7, 2)
        pixels += 0.35 * shown[0] * (np.abs(x - place[0]) < 0.06)
        pixels += 0.35 * shown[1] * (np.hypot(x - place[1], y - place[0]) < 0.16)
        pixels -= 0.3 * shown[2] * (y > 0.75)
        Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8)).save(root / f"{number}.png")
        cells = [str(int(there)) for there in shown]
        if number % 10 == 3:
            cells[number // 10 % 3] = "" if number // 10 % 2 else "-1"
        rows.append(f"{number}.png,p{number // 2},{','.join(cells)}")
    table(root / "manifest.csv", rows)
    return root
