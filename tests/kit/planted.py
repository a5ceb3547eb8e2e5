"""Scores of a reference and of candidates made from it, some with a loss planted in one place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clinipress.evidence.calibration import fit_temperature
from clinipress.evidence.scores import Scores

CLASSES = ("effusion", "nodule", "normal")


def reference(seed=0, n=1500, classes=CLASSES, per_unit=1, sharp=3.0) -> Scores:
    """Some nine answers in ten right and well calibrated; sex, age and site of each patient."""
    random = np.random.default_rng(seed)
    k, units = len(classes), np.arange(n) // per_unit
    labels = random.integers(0, k, n)
    logits = random.normal(size=(n, k)) * 1.2 + sharp * np.eye(k)[labels]
    patients = int(units.max()) + 1
    groups = {
        "sex": random.choice(["female", "male"], patients),
        "age": random.integers(1, 99, patients).astype(str),
        "site": random.choice(["A", "B"], patients),
    }
    scores = Scores(
        logits=logits.astype(np.float32),
        labels=labels.astype(np.int64),
        units=units.astype(np.int64),
        keys=tuple(f"image {i}" for i in range(n)),
        classes=tuple(classes),
        groups={name: tuple(values[units].tolist()) for name, values in groups.items()},
    )
    return tempered(scores)


def tempered(scores: Scores) -> Scores:
    """With its own temperature, as a run fits it."""
    return replace(scores, temperature=fit_temperature(scores.logits, scores.labels))


def with_logits(scores: Scores, logits) -> Scores:
    return tempered(replace(scores, logits=np.asarray(logits, np.float32)))


def rounded(scores: Scores, seed=1, noise=0.08) -> Scores:
    """An honest candidate: the same answers but for a little noise, as in 8 bits."""
    random = np.random.default_rng(seed)
    return with_logits(scores, scores.logits + random.normal(size=scores.logits.shape) * noise)


def swap(scores: Scores, rows, other) -> Scores:
    """On these rows the winning class gives its logit to `other`, which is then called."""
    logits = scores.logits.copy()
    top = logits[rows].argmax(axis=1)
    other = np.broadcast_to(other, len(top))
    logits[rows, top], logits[rows, other] = logits[rows, other], logits[rows, top]
    return with_logits(scores, logits)


def wrong_and_right(scores: Scores, where):
    """Rows among `where` (bool) that are answered rightly, and those answered wrongly."""
    right = scores.logits.argmax(axis=1) == scores.labels
    return np.flatnonzero(where & right), np.flatnonzero(where & ~right)


def one_class_falls(scores: Scores, label=0, share=0.3) -> Scores:
    """A class loses a share of its images to the others, which gain as many: accuracy holds.

    The others gain only what was wrong, so the trade is limited by how many those are.
    """
    mine = scores.labels == label
    right, _ = wrong_and_right(scores, mine)
    _, wrong = wrong_and_right(scores, ~mine)
    lost = right[: min(int(share * mine.sum()), len(wrong))]
    harmed = swap(scores, lost, (label + 1) % len(scores.classes))
    return swap(harmed, wrong[: len(lost)], scores.labels[wrong[: len(lost)]])


def one_sex_falls(scores: Scores, sex="female") -> Scores:
    """Women lose what men gain."""
    women = np.array(scores.groups["sex"]) == sex
    right, _ = wrong_and_right(scores, women)
    _, wrong = wrong_and_right(scores, ~women)
    lost = right[: len(wrong)]
    harmed = swap(scores, lost, (scores.labels[lost] + 1) % len(scores.classes))
    return swap(harmed, wrong, scores.labels[wrong])


def miscalibrated(scores: Scores, seed=2) -> Scores:
    """Every answer kept; half of them far too sure, half too unsure: no temperature mends both."""
    random = np.random.default_rng(seed)
    factor = np.where(random.random(len(scores.labels)) < 0.5, 6.0, 0.15)
    return with_logits(scores, scores.logits * factor[:, None])


def accuracy(scores: Scores) -> float:
    return float((scores.logits.argmax(axis=1) == scores.labels).mean())
