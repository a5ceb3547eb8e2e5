"""Time and memory of the evidence: ``python benchmarks/evidence.py [cases] [classes] [resamples]``.

The aim: 5,000 cases, 7 classes, 2,000 resamples, evidence and drops together, within 10 s on two
cores and 1 GB.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from clinipress.evaluate.evidence import drops, evidence


def main(cases: int = 5000, classes: int = 7, resamples: int = 2000) -> None:
    """Measure on made-up logits, single images and images in patients of ten."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, cases)
    reference = (random.normal(size=(cases, classes)) + 3 * np.eye(classes)[labels]).astype("f4")
    candidate = reference + 0.3 * random.normal(size=reference.shape).astype("f4")
    names = [f"class {number}" for number in range(classes)]
    print(f"{cases} cases, {classes} classes, {resamples} resamples")
    for label, units in (("images", None), ("patients", np.arange(cases) // 10)):
        wall, processor = time.perf_counter(), time.process_time()
        evidence(candidate, labels, names, units=units, reference=reference, resamples=resamples)
        middle = time.perf_counter()
        drops(reference, candidate, labels, names, units=units, resamples=resamples)
        print(
            f"  by {label}: evidence {middle - wall:.2f} s, "
            f"drops {time.perf_counter() - middle:.2f} s, "
            f"processor {time.process_time() - processor:.2f} s"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak resident memory {peak:.0f} MiB")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
