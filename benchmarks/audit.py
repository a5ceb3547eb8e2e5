"""Speed of the audit: ``CLINIPRESS_DATA=... python benchmarks/audit.py [set] [threads]``.

Three figures of one run: the floor (reading the bytes of every file and decoding it with Pillow,
nothing else, with as many threads), the audit, and the near-duplicate search among 50,000 made-up
thumbnails. The aim is 3,264 images within 20 s on two cores, and at most 150 MB beyond the
thumbnails for the 50,000. On a busy machine compare processor seconds, not the wall's.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clinipress.data.audit.audit import audit
from clinipress.data.audit.duplicates import find_duplicates
from clinipress.data.sources import Dataset, read_dataset

MANY = 50_000
MEGABYTE = 1e6


def floor(dataset: Dataset, threads: int) -> None:
    """Read and decode every file at its full size."""

    def one(path: Path) -> None:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, [item.path for item in dataset.items], chunksize=32):
            pass


def thumbnails(n: int) -> NDArray[np.uint8]:
    """SYNTHETIC thumbnails: smooth, bright in the middle as bodies are, every tenth one twice."""
    random = np.random.default_rng(0)
    axis = np.linspace(-1, 1, 32)
    body = 120 * np.exp(-2 * (axis[:, None] ** 2 + axis[None] ** 2))
    found = np.empty((n, 32, 32), dtype=np.uint8)
    for start in range(0, n, 1000):
        coarse = random.uniform(0, 90, (min(1000, n - start), 8, 8))
        found[start : start + 1000] = body + coarse.repeat(4, axis=1).repeat(4, axis=2)
    found[::10] = found[1::10]
    return found


def resident() -> float:
    """Largest resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE


def main(name: str = "brain-mri", threads: str = "") -> None:
    """Measure and print."""
    data = os.environ.get("CLINIPRESS_DATA")
    if not data:
        raise SystemExit("set CLINIPRESS_DATA to the folder of real images")
    dataset, workers = read_dataset(Path(data) / name), int(threads or os.cpu_count() or 1)
    n = len(dataset.items)
    floor(dataset, workers)  # the first reading warms the system's file cache for both
    wall, processor = time.perf_counter(), time.process_time()
    floor(dataset, workers)
    floor_wall, floor_processor = time.perf_counter() - wall, time.process_time() - processor
    wall, processor = time.perf_counter(), time.process_time()
    found, _ = audit(dataset, threads=workers)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name}: {n} images, {workers} threads")
    print(f"  bytes and decoding alone: {floor_wall:.2f} s, processor {floor_processor:.2f} s")
    print(f"  audit: {wall:.2f} s ({n / wall:.0f} images/s), processor {processor:.2f} s")
    print(f"  share of the floor in the audit's processor time: {floor_processor / processor:.0%}")
    print(f"  leaks {found.leaks}, clusters {found.clusters}")
    many = thumbnails(MANY)
    hashes = np.random.default_rng(1).integers(0, 2**63, MANY, dtype=np.uint64)
    hashes[::10] = hashes[1::10]
    names = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest() for number in range(MANY)]
    before, start = resident(), time.perf_counter()
    twins = find_duplicates(names, hashes, many, np.ones(MANY, dtype=np.bool_))
    seconds, more = time.perf_counter() - start, resident() - before
    print(f"near-duplicates among {MANY} SYNTHETIC thumbnails: {len(twins.near)} pairs")
    print(f"  {seconds:.1f} s, {more:.0f} MB beyond the thumbnails")


if __name__ == "__main__":
    main(*sys.argv[1:])
