"""Evidence and paired changes where an image may show several findings at once, or none.

Every finding is a two-sided question of its own: its probability is the sigmoid of its logit, and
it is called at or above a threshold. Where it is unknown whether a finding is there, the image
counts for nothing in its figures, and cannot be wrong in those of whole images. Means over findings
are over those that at least `FEWEST_UNITS` patients show, and as many do not: the others are named
and decide nothing. The methods are those of `clinipress.evidence.evidence`:

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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.evidence.evidence import check_units, put, unchanged
from clinipress.evidence.gate import FEWEST_UNITS
from clinipress.records.result import Interval
from clinipress.stats.bootstrap import BootstrapSpread, bootstrap, spread_interval, weighted_sums
from clinipress.stats.delong import auroc_difference, auroc_interval
from clinipress.stats.intervals import effective_units, f1_of_jaccard, proportion, with_ends
from clinipress.stats.metrics import (
    CALIBRATION_BINS,
    RankTable,
    mean_of_defined,
    rank_table,
    sigmoid,
    weighted_auroc,
)
from clinipress.stats.paired import paired_difference, precision_difference

__all__ = [
    "carried_by_findings",
    "check_multilabel",
    "judgeable",
    "multilabel_changes",
    "multilabel_evidence",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Intervals = dict[str, Interval]


@dataclass(frozen=True)
class LabelAnswers:
    """Checked answers of one classifier.

    Attributes:
        logits: float64 ``[n, k]``, finite.
        truth: bool ``[n, k]``, False where unknown.
        known: bool ``[n, k]``.
        called: bool ``[n, k]``.
        labels: k names.
        asked: bool ``[k]``, which have a threshold.
    """

    logits: Floats
    truth: Bools
    known: Bools
    called: Bools
    labels: tuple[str, ...]
    asked: Bools

    @property
    def answered(self) -> Bools:
        """Pairs that are called or spared, and of which it is known which is right, ``[n, k]``."""
        return self.known & self.asked


def check_multilabel(
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_] | NDArray[np.integer],
    labels: Sequence[str],
    thresholds: float | Sequence[float | None] = 0.5,
) -> LabelAnswers:
    """Check what every figure assumes, once, at the public boundary.

    Args:
        logits: Floating ``[n, k]``.
        truth: bool, or 1, 0 and -1 (unknown), ``[n, k]``.
        labels: k names.
        thresholds: Probability at or above which a label is called; one, or one per label, None
            for a label that is not asked.

    Raises:
        DataError: No image, shapes that do not match, truth other than 1, 0 and -1, logits that
            are not finite, thresholds outside (0, 1).
    """
    values, known, names = np.asarray(logits, np.float64), np.asarray(truth), tuple(labels)
    if values.ndim != 2 or not values.size or values.shape[1] != len(names):
        raise DataError(
            f"logits [n, {max(len(names), 1)}] of at least one image and label",
            f"logits {list(values.shape)} for {len(names)} labels",
        )
    if known.shape != values.shape or not np.isin(known, (-1, 0, 1)).all():
        raise DataError(
            f"truth of 1, 0 and -1 (unknown), {list(values.shape)}",
            f"{known.dtype} {list(known.shape)}",
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise DataError("finite logits", f"NaN or infinity in {bad} of {len(values)} rows")
    limits = np.asarray(thresholds, np.float64)
    inside = ((limits > 0) & (limits < 1)) | np.isnan(limits)
    if limits.shape not in ((), (len(names),)) or not inside.all():
        raise DataError(f"one threshold between 0 and 1, or {len(names)} of them", f"{thresholds}")
    called = np.round(values - np.log(limits / (1 - limits)), 9) >= 0
    asked = np.broadcast_to(~np.isnan(limits), len(names))
    return LabelAnswers(values, known == 1, known >= 0, called, names, asked)


def judgeable(truth: NDArray[np.integer], units: NDArray[np.integer] | None = None) -> Bools:
    """Findings that enough patients show, and enough do not: bool ``[k]``.

    Args:
        truth: 1, 0 and -1 (unknown), ``[n, k]``.
        units: Integer ``[n]``; None: each image its own.
    """
    index = check_units(units, len(truth))
    sides = [[len(np.unique(index[truth[:, c] == side])) for side in (0, 1)]
             for c in range(truth.shape[1])]  # fmt: skip
    return np.asarray([min(pair) >= FEWEST_UNITS for pair in sides], np.bool_)


def carried_by_findings(
    truth: NDArray[np.integer],
    labels: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    asked: Bools | None = None,
) -> dict[str, float]:
    """How many units carry each figure: of a finding, those that show it or do not, the fewer.

    Arguments as `multilabel_evidence`; of a finding that is not `asked`, bool ``[k]``, none carry
    what needs a threshold. A mean over findings is of all units: the findings that too
    few show are not in it.
    """
    index = check_units(units, len(truth))
    carried: dict[str, float] = {}
    for c, name in enumerate(labels):
        there, absent = (len(np.unique(index[truth[:, c] == side])) for side in (1, 0))
        fewer = float(min(there, absent))
        at_threshold = fewer if asked is None or asked[c] else 0.0
        carried[f"auroc[{name}]"] = fewer
        carried |= {f"{m}[{name}]": at_threshold for m in ("sensitivity", "specificity", "f1")}
    every = effective_units(index) if judgeable(truth, units).any() else 0.0
    macro = ("auroc_macro", "sensitivity_macro", "specificity_macro", "f1_macro")
    return carried | dict.fromkeys(macro, every)


def multilabel_evidence(
    logits: NDArray[np.floating],
    truth: NDArray[np.bool_] | NDArray[np.integer],
    labels: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    thresholds: float | Sequence[float | None] = 0.5,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure one multi-label classifier on one split.

    Args:
        logits: Floating ``[n, k]``, finite.
        truth: bool, or 1, 0 and -1 (unknown), ``[n, k]``.
        labels: k names.
        units: Integer ``[n]``, the patient or cluster of each image; None: each its own.
        thresholds: Probability at or above which a label is called; one, or one per label. None:
            the label has none; nothing that needs one is told of it or has it in its mean.
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
    for name, (actual, called, where) in _calls(answers, index).items():
        right = actual == called
        put(intervals, f"sensitivity{name}", proportion(called[actual], where[actual]))
        put(intervals, f"specificity{name}", proportion(~called[~actual], where[~actual]))
        put(intervals, f"precision{name}", proportion(actual[called], where[called]))
        either = actual | called
        jaccard = proportion(right[either], where[either])
        put(intervals, f"f1{name}", jaccard and f1_of_jaccard(jaccard))
    for name, (actual, scores, where) in _ranks(answers, index).items():
        put(intervals, f"auroc{name}", auroc_interval(scores, actual, where))
    intervals |= _overall(answers, index)
    (spreads,) = _bootstrap([answers], index, resamples, seed)
    parts = _judged_parts(answers, index, intervals)
    for name, spread in spreads.items():
        if name not in intervals:
            interval = spread_interval(name, spread, index, floor=0)
            put(intervals, name, _with_width(name, interval, intervals, parts))
    return intervals


def multilabel_changes(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    truth: NDArray[np.bool_] | NDArray[np.integer],
    labels: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    thresholds: float | Sequence[float | None] = 0.5,
    candidate_thresholds: float | Sequence[float | None] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Candidate minus reference, paired on the same images; arguments as `multilabel_evidence`.

    `candidate_thresholds` are the candidate's own; None: the same as the reference's.

    Returns:
        The names of `multilabel_evidence`; what is undefined for either is absent. A positive
        change of "brier" and "ece" is a loss, as everywhere.

    Raises:
        DataError: As `multilabel_evidence`.
    """
    before = check_multilabel(reference_logits, truth, labels, thresholds)
    own = thresholds if candidate_thresholds is None else candidate_thresholds
    after = check_multilabel(candidate_logits, truth, labels, own)
    index = check_units(units, len(before.truth))
    intervals: Intervals = {}
    asked = before.asked & after.asked
    before, after = replace(before, asked=asked), replace(after, asked=asked)
    others = _calls(after, index)
    for name, (actual, was, where) in _calls(before, index).items():
        now = others[name][1]
        sensitivity = paired_difference(now[actual], was[actual], where[actual])
        put(intervals, f"sensitivity{name}", sensitivity)
        specificity = paired_difference(~now[~actual], ~was[~actual], where[~actual])
        put(intervals, f"specificity{name}", specificity)
        put(intervals, f"precision{name}", precision_difference(actual, now, was, where))
    rescored = _ranks(after, index)
    for name, (actual, scores, where) in _ranks(before, index).items():
        put(intervals, f"auroc{name}", auroc_difference(rescored[name][1], scores, actual, where))
    intervals |= _overall_changes(before, after, index)
    first, second = _bootstrap([before, after], index, resamples, seed)
    parts = _judged_parts(before, index, intervals)
    for name, spread in first.items():
        if name not in intervals:
            interval = spread_interval(name, second[name] - spread, index, floor=-1)
            put(intervals, name, _with_width(name, interval, intervals, parts))
    same = np.array_equal(before.called, after.called)
    if same and np.array_equal(before.logits, after.logits):
        return {name: unchanged(interval) for name, interval in intervals.items()}
    return intervals


def _judged_parts(answers: LabelAnswers, index: Integers, intervals: Intervals) -> Intervals:
    """The figures of the findings that means are of (`judgeable`)."""
    counted = judgeable(np.where(answers.known, answers.truth, -1), index)
    names = {f"[{name}]" for name, judged in zip(answers.labels, counted, strict=True) if judged}
    return {key: part for key, part in intervals.items() if key[key.find("[") :] in names}


def _with_width(
    name: str, interval: Interval | None, intervals: Intervals, judged: Intervals
) -> Interval | None:
    """Where no resample differs, a macro mean has the ends of its parts.

    Without parts of their own, two equal classifiers keep a change of zero; anything else comes
    from too few units to say how sure it is.
    """
    if interval is None or interval.low < interval.high:
        return interval
    family, macro, _ = name.partition("_macro")
    parts = [part for key, part in judged.items() if key.startswith(f"{family}[") and macro]
    if family.startswith("f1") and not macro:  # lies between its two parts, and so do its ends
        halves = (name.replace("f1", half, 1) for half in ("sensitivity", "precision"))
        parts = [intervals[half] for half in halves if half in intervals]
    if parts:
        return with_ends(interval, [(part.low, part.high) for part in parts])
    return interval if interval.value == 0 else None


def _calls(answers: LabelAnswers, index: Integers) -> dict[str, tuple[Bools, Bools, Integers]]:
    return _parts(answers, answers.answered, answers.called, index)


def _ranks(answers: LabelAnswers, index: Integers) -> dict[str, tuple[Bools, Floats, Integers]]:
    return _parts(answers, answers.known, answers.logits, index)


def _parts(
    answers: LabelAnswers, pairs: Bools, values: NDArray[Any], index: Integers
) -> dict[str, tuple[Bools, NDArray[Any], Integers]]:
    """Truth, values and units of some pairs: of each label, and of all pooled under "_micro"."""
    parts = {
        f"[{name}]": (answers.truth[rows, c], values[rows, c], index[rows])
        for c, (name, rows) in enumerate(zip(answers.labels, pairs.T, strict=True))
    }
    return {**parts, "_micro": (answers.truth[pairs], values[pairs], _units_of(pairs, index))}


def _units_of(pairs: Bools, index: Integers) -> Integers:
    return np.asarray(np.broadcast_to(index[:, None], pairs.shape)[pairs])


def _overall(answers: LabelAnswers, index: Integers) -> Intervals:
    right, known = answers.truth == answers.called, answers.answered
    intervals: Intervals = {}
    some = known.any(axis=1)
    put(intervals, "exact_match", proportion((right | ~known).all(axis=1)[some], index[some]))
    put(intervals, "hamming_accuracy", proportion(right[known], _units_of(known, index)))
    return intervals


def _overall_changes(before: LabelAnswers, after: LabelAnswers, index: Integers) -> Intervals:
    known = before.answered
    was, now = before.truth == before.called, after.truth == after.called
    intervals: Intervals = {}
    some = known.any(axis=1)
    after_all, before_all = ((right | ~known).all(axis=1)[some] for right in (now, was))
    put(intervals, "exact_match", paired_difference(after_all, before_all, index[some]))
    pairs = _units_of(known, index)
    put(intervals, "hamming_accuracy", paired_difference(now[known], was[known], pairs))
    return intervals


def _bootstrap(
    models: Sequence[LabelAnswers], index: Integers, resamples: int, seed: int
) -> list[dict[str, BootstrapSpread]]:
    """All that is bootstrapped of each classifier, on draws that they share."""
    tables = [_sums(answers, index) for answers in models]
    rows = [np.flatnonzero(models[0].known[:, c]) for c in range(len(models[0].labels))]
    ranks = [
        [(own, rank_table(m.logits[own, c], m.truth[own, c])) for c, own in enumerate(rows)]
        for m in models
    ]
    counted = judgeable(np.where(models[0].known, models[0].truth, -1), index)

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        weights = counts.astype(np.float32)[index]
        return [
            _measure(sums, rank, counts, weights, models[0], counted)
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
    gaps = np.where(answers.known, gaps, 0)
    called = answers.called & answers.known
    rows = [answers.truth & called, answers.truth, called, answers.known, gaps**2]
    rows += [np.where(bins == number, gaps, 0) for number in range(CALIBRATION_BINS)]
    sums: Floats = np.zeros((len(rows), len(answers.labels), units))
    for number, row in enumerate(rows):
        for column in range(len(answers.labels)):
            sums[number, column] = np.bincount(index, row[:, column], minlength=units)
    return sums


def _measure(
    sums: Floats,
    ranks: Sequence[tuple[Integers, RankTable]],
    counts: Floats,
    weights: NDArray[np.float32],
    answers: LabelAnswers,
    counted: Bools,
) -> dict[str, Floats]:
    """Figures of a block of resamples, each ``[block]``, counts ``[units, block]``."""
    flat = weighted_sums(sums.reshape(-1, sums.shape[2]), counts)
    totals = flat.reshape(*sums.shape[:2], -1)
    hits, actual, called, images, squares = totals[:5]
    # undefined for a label without a threshold, and nothing in a sum over labels
    hits, positives, called, answered = (
        np.where(answers.asked[:, None], part, 0) for part in (hits, actual, called, images)
    )
    by_label = {
        "sensitivity": _ratio(hits, positives),
        "specificity": _ratio(answered - positives - called + hits, answered - positives),
        "precision": _ratio(hits, called),
        "f1": _ratio(2 * hits, positives + called),
        "auroc": np.stack([weighted_auroc(table, weights[rows]) for rows, table in ranks]),
        "brier": _ratio(squares, images),
        "ece": _ratio(np.abs(totals[5:]).sum(axis=0), images),
    }
    figures = {
        name if name in ("brier", "ece") else f"{name}_macro": mean_of_defined(values[counted])
        for name, values in by_label.items()
    }
    for kind in ("f1", "brier", "ece"):
        figures |= {f"{kind}[{name}]": by_label[kind][c] for c, name in enumerate(answers.labels)}
    figures["f1_micro"] = _ratio(2 * hits.sum(axis=0), (positives + called).sum(axis=0))
    return figures


def _ratio(above: Floats, below: Floats) -> Floats:
    undefined = np.full(above.shape, math.nan)
    return np.asarray(np.divide(above, below, out=undefined, where=below > 0))
