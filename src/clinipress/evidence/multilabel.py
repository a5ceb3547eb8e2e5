"""Evidence and paired changes where an image may show several findings at once, or none.

Every label is a two-sided question of its own: its probability is the sigmoid of its logit, and it
is called at or above a threshold. The methods are those of `clinipress.evidence.evidence`:

- per label sensitivity, specificity, precision: Wilson; f1: Wilson of the Jaccard index; AUROC:
  DeLong; changes of sensitivity, specificity and precision: Tango;
- micro figures and Hamming accuracy pool all (image, label) pairs: the same intervals, the pairs of
  an image being one unit (or of a patient, where units hold several images);
- exact match: Wilson, its change Tango;
- macro means, Brier score, expected calibration error, changes of f1: the bootstrap over units.

Resamples are not stratified, unlike those of one-class tasks: combinations of labels are too many
and too small to be strata, which would then hardly vary. A resample without a case of some label
leaves that label out of its macro mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.evidence.evidence import check_units, put, unchanged
from clinipress.records.result import Interval
from clinipress.stats.bootstrap import BootstrapSpread, bootstrap, spread_interval, weighted_sums
from clinipress.stats.delong import auroc_difference, auroc_interval
from clinipress.stats.intervals import f1_of_jaccard, proportion, with_ends
from clinipress.stats.metrics import (
    CALIBRATION_BINS,
    RankTable,
    mean_of_defined,
    rank_table,
    weighted_auroc,
)
from clinipress.stats.paired import paired_difference, precision_difference

__all__ = ["check_multilabel", "multilabel_changes", "multilabel_evidence", "sigmoid"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Intervals = dict[str, Interval]


@dataclass(frozen=True)
class LabelAnswers:
    """Checked answers of one classifier.

    Attributes:
        logits: float64 ``[n, k]``, finite.
        truth: bool ``[n, k]``.
        called: bool ``[n, k]``.
        labels: k names.
    """

    logits: Floats
    truth: Bools
    called: Bools
    labels: tuple[str, ...]


def sigmoid(logits: NDArray[np.floating]) -> Floats:
    """Probability of each label by itself, float64, the shape of the logits."""
    powers = np.exp(-np.abs(np.asarray(logits, np.float64)))
    return np.asarray(np.where(np.asarray(logits) >= 0, 1.0, powers) / (1 + powers))


def check_multilabel(
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_] | NDArray[np.integer],
    labels: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
) -> LabelAnswers:
    """Check what every figure assumes, once, at the public boundary.

    Args:
        logits: Floating ``[n, k]``.
        truth: bool, or 0 and 1, ``[n, k]``.
        labels: k names.
        thresholds: Probability at or above which a label is called; one, or one per label.

    Raises:
        DataError: No image, shapes that do not match, truth other than 0 and 1, logits that are
            not finite, thresholds outside (0, 1).
    """
    values, known, names = np.asarray(logits, np.float64), np.asarray(truth), tuple(labels)
    if values.ndim != 2 or not values.size or values.shape[1] != len(names):
        raise DataError(
            f"logits [n, {max(len(names), 1)}] of at least one image and label",
            f"logits {list(values.shape)} for {len(names)} labels",
        )
    if known.shape != values.shape or not np.isin(known, (0, 1)).all():
        raise DataError(
            f"truth of 0 and 1, {list(values.shape)}", f"{known.dtype} {list(known.shape)}"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise DataError("finite logits", f"NaN or infinity in {bad} of {len(values)} rows")
    limits = np.asarray(thresholds, np.float64)
    if limits.shape not in ((), (len(names),)) or not ((limits > 0) & (limits < 1)).all():
        raise DataError(f"one threshold between 0 and 1, or {len(names)} of them", f"{thresholds}")
    called = values >= np.log(limits / (1 - limits))
    return LabelAnswers(values, known.astype(np.bool_), called, names)


def multilabel_evidence(
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_] | NDArray[np.integer],
    labels: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    thresholds: float | Sequence[float] = 0.5,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure one multi-label classifier on one split.

    Args:
        logits: Floating ``[n, k]``, finite.
        truth: bool, or 0 and 1, ``[n, k]``.
        labels: k names.
        units: Integer ``[n]``, the patient or cluster of each image; None: each its own.
        thresholds: Probability at or above which a label is called; one, or one per label.
        resamples: Bootstrap resamples.
        seed: Same seed, same interval.

    Returns:
        "exact_match" (all labels of an image right), "hamming_accuracy" (share of pairs right);
        per label "sensitivity[LABEL]", "specificity[LABEL]", "precision[LABEL]", "f1[LABEL]",
        "auroc[LABEL]", "brier[LABEL]", "ece[LABEL]"; of these the means over labels
        "sensitivity_macro", ..., "f1_macro", "auroc_macro", "brier", "ece", and over pairs
        "sensitivity_micro", "specificity_micro", "precision_micro", "f1_micro", "auroc_micro".
        What is undefined is absent.

    Raises:
        DataError: As `check_multilabel`, or units that do not fit.
    """
    answers = check_multilabel(logits, truth, labels, thresholds)
    index = check_units(units, len(answers.truth))
    intervals: Intervals = {}
    for name, (actual, called, scores, where) in _questions(answers, index).items():
        right = actual == called
        put(intervals, f"sensitivity{name}", proportion(called[actual], where[actual]))
        put(intervals, f"specificity{name}", proportion(~called[~actual], where[~actual]))
        put(intervals, f"precision{name}", proportion(actual[called], where[called]))
        either = actual | called
        jaccard = proportion(right[either], where[either])
        put(intervals, f"f1{name}", jaccard and f1_of_jaccard(jaccard))
        put(intervals, f"auroc{name}", auroc_interval(scores, actual, where))
    intervals |= _overall(answers, index)
    (spreads,) = _bootstrap([answers], index, resamples, seed)
    for name, spread in spreads.items():
        if name not in intervals:
            interval = spread_interval(name, spread, index, floor=0)
            put(intervals, name, _with_width(name, interval, intervals))
    return intervals


def multilabel_changes(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    truth: NDArray[np.bool_] | NDArray[np.integer],
    labels: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    thresholds: float | Sequence[float] = 0.5,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Candidate minus reference, paired on the same images; arguments as `multilabel_evidence`.

    Returns:
        The names of `multilabel_evidence`; what is undefined for either is absent. A positive
        change of "brier" and "ece" is a loss, as everywhere.

    Raises:
        DataError: As `multilabel_evidence`.
    """
    before = check_multilabel(reference_logits, truth, labels, thresholds)
    after = check_multilabel(candidate_logits, truth, labels, thresholds)
    index = check_units(units, len(before.truth))
    intervals: Intervals = {}
    others = _questions(after, index)
    for name, (actual, was, scores, where) in _questions(before, index).items():
        _, now, rescored, _ = others[name]
        sensitivity = paired_difference(now[actual], was[actual], where[actual])
        put(intervals, f"sensitivity{name}", sensitivity)
        specificity = paired_difference(~now[~actual], ~was[~actual], where[~actual])
        put(intervals, f"specificity{name}", specificity)
        put(intervals, f"precision{name}", precision_difference(actual, now, was, where))
        put(intervals, f"auroc{name}", auroc_difference(rescored, scores, actual, where))
    intervals |= _overall_changes(before, after, index)
    first, second = _bootstrap([before, after], index, resamples, seed)
    for name, spread in first.items():
        if name not in intervals:
            interval = spread_interval(name, second[name] - spread, index, floor=-1)
            put(intervals, name, _with_width(name, interval, intervals))
    if np.array_equal(before.logits, after.logits):
        return {name: unchanged(interval) for name, interval in intervals.items()}
    return intervals


def _with_width(name: str, interval: Interval | None, intervals: Intervals) -> Interval | None:
    """Where no resample differs, a macro mean has the ends of its parts.

    Without parts of their own, two equal classifiers keep a change of zero; anything else comes
    from too few units to say how sure it is.
    """
    if interval is None or interval.low < interval.high:
        return interval
    family, macro, _ = name.partition("_macro")
    parts = [part for key, part in intervals.items() if key.startswith(f"{family}[") and macro]
    if family.startswith("f1") and not macro:  # lies between its two parts, and so do its ends
        halves = (name.replace("f1", half, 1) for half in ("sensitivity", "precision"))
        parts = [intervals[half] for half in halves if half in intervals]
    if parts:
        return with_ends(interval, [(part.low, part.high) for part in parts])
    return interval if interval.value == 0 else None


def _questions(
    answers: LabelAnswers, index: Integers
) -> dict[str, tuple[Bools, Bools, Floats, Integers]]:
    """Truth, calls, scores and units of each label, and of all pairs pooled under "_micro"."""
    questions = {
        f"[{name}]": (answers.truth[:, c], answers.called[:, c], answers.logits[:, c], index)
        for c, name in enumerate(answers.labels)
    }
    pooled = np.repeat(index, len(answers.labels))
    questions["_micro"] = (
        answers.truth.ravel(),
        answers.called.ravel(),
        answers.logits.ravel(),
        pooled,
    )
    return questions


def _overall(answers: LabelAnswers, index: Integers) -> Intervals:
    right = answers.truth == answers.called
    intervals: Intervals = {}
    put(intervals, "exact_match", proportion(right.all(axis=1), index))
    pairs = np.repeat(index, len(answers.labels))
    put(intervals, "hamming_accuracy", proportion(right.ravel(), pairs))
    return intervals


def _overall_changes(before: LabelAnswers, after: LabelAnswers, index: Integers) -> Intervals:
    was, now = before.truth == before.called, after.truth == after.called
    intervals: Intervals = {}
    put(intervals, "exact_match", paired_difference(now.all(axis=1), was.all(axis=1), index))
    pairs = np.repeat(index, len(before.labels))
    put(intervals, "hamming_accuracy", paired_difference(now.ravel(), was.ravel(), pairs))
    return intervals


def _bootstrap(
    models: Sequence[LabelAnswers], index: Integers, resamples: int, seed: int
) -> list[dict[str, BootstrapSpread]]:
    """All that is bootstrapped of each classifier, on draws that they share."""
    tables = [_sums(answers, index) for answers in models]
    ranks = [
        [rank_table(answers.logits[:, c], answers.truth[:, c]) for c in range(len(answers.labels))]
        for answers in models
    ]

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        weights = counts.astype(np.float32)[index]
        return [
            _measure(sums, rank, counts, weights, models[0].labels)
            for sums, rank in zip(tables, ranks, strict=True)
        ]

    # one stratum: see the head of the module
    return bootstrap(measure, index, np.zeros(len(index), np.int64), resamples, seed)


def _sums(answers: LabelAnswers, index: Integers) -> Floats:
    """Sufficient statistics by unit, float64 ``[5 + 15, k, units]``.

    Hits, actual, called, images, squared errors, and the gap (probability minus truth) in 15 bins
    of equal width of the probability, (0, 1/15] to (14/15, 1].
    """
    chances, units = sigmoid(answers.logits), int(index.max()) + 1
    gaps = chances - answers.truth
    bins = np.clip(np.ceil(chances * CALIBRATION_BINS).astype(np.int64) - 1, 0, None)
    rows = [
        answers.truth & answers.called,
        answers.truth,
        answers.called,
        np.ones_like(gaps),
        gaps**2,
    ]
    rows += [np.where(bins == number, gaps, 0) for number in range(CALIBRATION_BINS)]
    sums: Floats = np.zeros((len(rows), len(answers.labels), units))
    for number, row in enumerate(rows):
        for column in range(len(answers.labels)):
            sums[number, column] = np.bincount(index, row[:, column], minlength=units)
    return sums


def _measure(
    sums: Floats,
    ranks: Sequence[RankTable],
    counts: Floats,
    weights: NDArray[np.float32],
    labels: Sequence[str],
) -> dict[str, Floats]:
    """Figures of a block of resamples, each ``[block]``, counts ``[units, block]``."""
    flat = weighted_sums(sums.reshape(-1, sums.shape[2]), counts)
    totals = flat.reshape(*sums.shape[:2], -1)
    hits, actual, called, images, squares = totals[:5]
    by_label = {
        "sensitivity": _ratio(hits, actual),
        "specificity": _ratio(images - actual - called + hits, images - actual),
        "precision": _ratio(hits, called),
        "f1": _ratio(2 * hits, actual + called),
        "auroc": np.stack([weighted_auroc(table, weights) for table in ranks]),
        "brier": _ratio(squares, images),
        "ece": _ratio(np.abs(totals[5:]).sum(axis=0), images),
    }
    figures = {
        name if name in ("brier", "ece") else f"{name}_macro": mean_of_defined(values)
        for name, values in by_label.items()
    }
    for kind in ("f1", "brier", "ece"):
        figures |= {f"{kind}[{name}]": by_label[kind][c] for c, name in enumerate(labels)}
    figures["f1_micro"] = _ratio(2 * hits.sum(axis=0), (actual + called).sum(axis=0))
    return figures


def _ratio(above: Floats, below: Floats) -> Floats:
    undefined = np.full(above.shape, math.nan)
    return np.asarray(np.divide(above, below, out=undefined, where=below > 0))
