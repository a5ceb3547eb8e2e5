"""What a plain reading of JPEG costs: ``CLINIPRESS_DATA=... python benchmarks/decoding.py``.

`decode` gives Pillow's own pixels; libjpeg could shrink large files first, as `sketch` still lets
it for the audit's thumbnails. Both in one run, in processor milliseconds for each image, and by how
many grey levels they differ: real brain MRI and COVID-CT, and a SYNTHETIC photograph of 12
megapixels.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from clinipress.kinds.image.read import decode
from clinipress.records.candidate import InputSpec

IMAGES = 200


def photograph(path: Path) -> Path:
    """Smooth, with a little noise."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((4000, 3000), Image.Resampling.BICUBIC), float)
    noisy = (smooth + random.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)
    return path


def milliseconds(paths: list[Path], spec: InputSpec, *, sketch: bool) -> float:
    """Of the processor for each image, the better of two runs."""
    runs = []
    for _ in range(2):
        start = time.process_time()
        for path in paths:
            decode(path, spec, sketch=sketch)
        runs.append(time.process_time() - start)
    return 1000 * min(runs) / len(paths)


def main() -> None:
    """Measure and print."""
    data = os.environ.get("CLINIPRESS_DATA")
    if not data:
        raise SystemExit("set CLINIPRESS_DATA to the folder of real images")
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            name: sorted((Path(data) / name).rglob("*.jpg"))[:IMAGES]
            for name in ("brain-mri", "covid-ct")
        }
        sets["photograph"] = [photograph(Path(folder) / "photograph.jpg")] * 3
        for name, paths in sets.items():
            for channels, side in ((1, 64), (1, 224), (3, 224)):
                spec = InputSpec(channels=channels, height=side, width=side)
                plain, short = (milliseconds(paths, spec, sketch=s) for s in (False, True))
                apart = max(
                    int(np.abs(decode(p, spec).astype(int) - decode(p, spec, sketch=True)).max())
                    for p in paths
                )
                print(
                    f"{name}, {side} px, {channels} channels: {plain:.2f} ms, shrunk first "
                    f"{short:.2f} ms ({plain / short:.2f} times), up to {apart} levels apart"
                )


if __name__ == "__main__":
    main()
