"""Time and memory of the gate: ``python benchmarks/evidence.py [cases] [classes] [resamples]``.

The aim: 5,000 cases, 7 classes, 2,000 resamples by patient, all metrics of the candidate, all
changes and the verdict, within 10 s on two cores and 1 GB. Measured on made-up logits; processor
seconds are those that count where others use the machine too. The last row is 14 labels at once.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from clinipress.evidence import gate
from clinipress.evidence.evidence import changes, discordance, evidence
from clinipress.evidence.multilabel import multilabel_changes, multilabel_evidence


def main(cases: int = 5000, classes: int = 7, resamples: int = 2000) -> None:
    """Measure on made-up logits, single images and images in patients of ten."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, cases)
    reference = (random.normal(size=(cases, classes)) + 3 * np.eye(classes)[labels]).astype("f4")
    candidate = reference + 0.3 * random.normal(size=reference.shape).astype("f4")
    names = [f"class {number}" for number in range(classes)]
    print(f"{cases} cases, {classes} classes, {resamples} resamples")
    for label, units in (("images", None), ("patients of 10", np.arange(cases) // 10)):
        wall, processor = time.perf_counter(), time.process_time()
        found = evidence(
            candidate, labels, names, units=units, reference=reference, resamples=resamples
        )
        differences = changes(reference, candidate, labels, names, units=units, resamples=resamples)
        shares = discordance(reference, candidate, labels, names)
        verdict = gate.judge(gate.rules_for("medium"), differences, discordance=shares)
        show(
            f"by {label}: {len(found)} figures, {len(differences)} changes, {verdict.status}",
            wall,
            processor,
        )
    k = 14
    truth = random.random((cases, k)) < 0.15
    before = 2 * truth + random.normal(size=truth.shape)
    after = before + 0.3 * random.normal(size=truth.shape)
    names, units = [f"label {number}" for number in range(k)], np.arange(cases) // 10
    wall, processor = time.perf_counter(), time.process_time()
    multilabel_evidence(after, truth, names, units=units, resamples=resamples)
    multilabel_changes(before, after, truth, names, units=units, resamples=resamples)
    show(f"{k} labels at once by patients of 10", wall, processor)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak resident memory {peak:.0f} MiB")


def show(what: str, wall: float, processor: float) -> None:
    """One row, from when both clocks were read."""
    seconds, busy = time.perf_counter() - wall, time.process_time() - processor
    print(f"  {what}: {seconds:.2f} s, processor {busy:.2f} s")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
