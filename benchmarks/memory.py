"""Resident memory of training from the image cache: ``python benchmarks/memory.py [images]``.

Makes a SYNTHETIC cache of 50,000 grey images of 128 pixels (819 MB) in a temporary folder, reads
two shuffled epochs in batches of 32, and prints by how much resident memory grew at most. The aim
is 300 MB; exit code 1 when it is missed. The folder is deleted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from clinipress.data.cache import Cache, build_cache
from clinipress.records.candidate import InputSpec
from clinipress.records.item import ImageItem

IMAGES, SIDE, BATCH, EPOCHS = 50_000, 128, 32, 2
FILES = 200  # each stands for many images: the cache does not mind, and drawing them is quick
LIMIT_MB = 300.0


def resident() -> float:
    """Resident memory now, MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def make(folder: Path, images: int) -> Cache:
    """Decode a cache of `images` from a few SYNTHETIC files."""
    random = np.random.default_rng(0)
    mark = PngImagePlugin.PngInfo()
    mark.add_text("Comment", "SYNTHETIC")
    for number in range(FILES):
        noise = Image.fromarray(random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
        noise.save(folder / f"{number}.png", pnginfo=mark, compress_level=0)
    items = [
        ImageItem(
            key=f"SYNTHETIC-{number}", path=folder / f"{number % FILES}.png", label="SYNTHETIC"
        )
        for number in range(images)
    ]
    spec = InputSpec(channels=1, height=SIDE, width=SIDE)
    return build_cache(items, ("SYNTHETIC",), spec, folder / "cache")


def main(images: int = IMAGES) -> int:
    """Measure and print; 0 when the aim is met."""
    with tempfile.TemporaryDirectory(prefix="clinipress-SYNTHETIC-") as name:
        start = resident()
        clock = time.perf_counter()
        cache = make(Path(name), images)
        built, seconds = resident(), time.perf_counter() - clock
        total = float(np.prod(cache.shape)) / 1e6
        print(f"SYNTHETIC cache: {images} images, {total:.0f} MB, made in {seconds:.1f} s")
        print(f"  resident {start:.0f} MB before, {built:.0f} MB after building it")
        clock, most = time.perf_counter(), built
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(images)
            for first in range(0, images, BATCH):
                cache.take(order[first : first + BATCH])
                most = max(most, resident())
        rate = EPOCHS * images / (time.perf_counter() - clock)
        print(f"  {EPOCHS} shuffled epochs at {rate:.0f} images/s")
        print(f"  at most {most - built:.0f} MB more resident (the aim: {LIMIT_MB:.0f} MB)")
        return int(most - built > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
