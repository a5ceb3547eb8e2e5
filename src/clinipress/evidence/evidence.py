"""Evidence of one classifier, and the paired changes between two, every figure with its interval.

Which method serves which figure:

- accuracy, agreement, sensitivity, specificity, precision: Wilson, on the effective number of
  cases where units hold several;
- f1 of one class: Wilson of the Jaccard index J, which is a proportion, through F1 = 2 J / (1 + J);
- AUROC of one class, and of a two-class task, and its change: DeLong, by units where they hold
  several cases;
- where classes are grades, the share of answers two grades off or more: Wilson, its change Tango;
- balanced accuracy, macro AUROC, macro F1, kappa, log loss, Brier score: percentile bootstrap over
  units, stratified by class, with the tails of Student's t; expected calibration error, which is
  biased upwards: the same resamples with their bias taken off;
- changes of accuracy, sensitivity, specificity and precision: Tango, effective number as above; all
  other changes: the same bootstrap, both on the same resamples, and figures of counts no surer than
  a split without a changed answer would leave them.

Where few cases are wrong or change, those that come nearest to it tell how the cases of a unit go
together (`clinipress.stats.paired.nearest`). Two models of equal logits are identical: their
changes are 0, and nothing is left to chance.

A bootstrap in which nothing varies (no error at all) has no width; then the ends come from the
score intervals of the parts (`_without_width`), never from the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.records.result import Interval
from clinipress.stats.bootstrap import BootstrapSpread, bootstrap, spread_interval, weighted_sums
from clinipress.stats.delong import auroc_difference, auroc_interval
from clinipress.stats.intervals import (
    effective_size,
    effective_units,
    f1_of_jaccard,
    proportion,
    unit_index,
    with_ends,
    z_value,
)
from clinipress.stats.metrics import (
    CALIBRATION_BINS,
    FAR_OFF,
    Cases,
    RankTable,
    brier_scores,
    calibration_gaps,
    check_cases,
    grades_off,
    log_losses,
    log_odds,
    mean_of_defined,
    predictions,
    quadratic_kappa,
    rank_table,
    rates,
    softmax,
    weighted_auroc,
)
from clinipress.stats.paired import (
    discordance,
    margins,
    nearest,
    paired_difference,
    precision_difference,
)

__all__ = ["carried_by", "changes", "discordance", "evidence", "unchanged"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Intervals = dict[str, Interval]
NEVER_FAR = 1e9  # logits apart, where no grade is two off
_MACRO = (
    *("balanced_accuracy", "auroc_macro", "f1_macro", "kappa", "kappa_quadratic"),
    *("log_loss", "brier", "ece"),
)
_UNBOUNDED_BY_PARTS = ("log_loss", "brier", "ece")
_COUNTED = ("balanced_accuracy", "f1", "kappa")
_PARTS = {"balanced_accuracy": "sensitivity[", "f1_macro": "f1[", "auroc_macro": "auroc["}


@dataclass(frozen=True)
class _Table:
    """Sufficient statistics of one classifier: all a resample needs.

    Attributes:
        sums: float64 ``[q, units]``: rows are k hits, k cases, k predictions, log loss, Brier
            score, 15 calibration gaps and, of grades, the k x k table of true grade and grade
            called, each added up over the unit's cases.
        ranks: One sorted table per class; none with two classes, whose area DeLong serves.
    """

    sums: Floats
    ranks: tuple[RankTable, ...]


def evidence(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    reference: NDArray[np.floating] | None = None,
    positive: str | None = None,
    order: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure one classifier on one split.

    Args:
        logits: Floating ``[n, k]``, finite.
        labels: Integer ``[n]`` in ``[0, k)``.
        classes: k names in the order of the logits.
        units: Integer ``[n]``, the patient or cluster of each case; None: each its own.
        reference: The reference's logits ``[n, k]``, for "agreement".
        positive: The finding of a two-class task; None: no "sensitivity" and "specificity".
        order: All classes by grade, the least first; empty: no "kappa_quadratic" and "two_off".
        resamples: Bootstrap resamples.
        seed: Same seed, same interval.

    Returns:
        "accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "kappa", "log_loss", "brier",
        "ece", "agreement" (with a reference) and per class "sensitivity[CLASS]",
        "precision[CLASS]", "f1[CLASS]", "auroc[CLASS]" (three classes or more); with `positive`
        "sensitivity" and "specificity"; with `order` "kappa_quadratic" and "two_off", the share of
        answers two grades off or more. What is undefined is absent, never NaN.

    Raises:
        DataError: Shapes, labels, units or logits that cannot be used.
    """
    cases = check_cases(logits, labels, classes, positive, order)
    index = check_units(units, len(cases.labels))
    intervals = _proportions(cases, index)
    if reference is not None:
        other = check_cases(reference, labels, classes, positive)
        same = predictions(other.logits) == predictions(cases.logits)
        put(intervals, "agreement", proportion(same, index))
    scores = log_odds(cases.logits)
    for name, column in _ranked_classes(cases):
        put(intervals, name, auroc_interval(scores[:, column], cases.labels == column, index))
    (spreads,) = _bootstrap([cases], index, resamples, seed)
    least = carried_by(cases.labels, classes, units=index)
    for name in _MACRO:
        if name not in spreads:
            continue
        interval = spread_interval(name, spreads[name], index, 0, least.get(name, math.inf))
        if interval is not None and interval.low == interval.high:
            interval = _without_width(name, interval, intervals, cases, index)
        put(intervals, name, interval)
    return intervals


def changes(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    positive: str | None = None,
    order: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Candidate minus reference, paired on the same cases.

    A negative change of accuracy is a loss; log loss, Brier score and "ece" get better downwards,
    so there a positive one is (`clinipress.records.metrics.metric_facts` says which is which).

    Args:
        reference_logits: Floating ``[n, k]``.
        candidate_logits: Floating ``[n, k]``, same cases in the same order.
        labels: Integer ``[n]`` in ``[0, k)``.
        classes: k names in the order of the logits.
        units: Integer ``[n]``, the patient or cluster of each case; None: each its own.
        positive: The finding of a two-class task; None: no "sensitivity" and "specificity".
        order: All classes by grade, the least first; empty: no "kappa_quadratic" and "two_off".
        resamples: Bootstrap resamples, shared by the two.
        seed: Same seed, same interval.

    Returns:
        The names of `evidence` without "agreement", all 0 by method "identical" where the logits
        are equal; what is undefined for either is absent, and
        so is a bootstrapped change where too few units vary to give it an interval.

    Raises:
        DataError: Shapes, labels, units or logits that cannot be used.
    """
    before = check_cases(reference_logits, labels, classes, positive, order)
    after = check_cases(candidate_logits, labels, classes, positive, order)
    index = check_units(units, len(before.labels))
    intervals = _paired_proportions(before, after, index)
    scores, others = log_odds(before.logits), log_odds(after.logits)
    for name, column in _ranked_classes(before):
        mine = before.labels == column
        put(intervals, name, auroc_difference(others[:, column], scores[:, column], mine, index))
    spreads, others_spreads = _bootstrap([before, after], index, resamples, seed)
    least = carried_by(before.labels, classes, units=index)
    for name, spread in spreads.items():
        apart = others_spreads[name] - spread
        interval = spread_interval(name, apart, index, -1, least.get(name, math.inf))
        if interval is not None and name.startswith(_COUNTED):
            interval = _at_least(interval, _none_changed(name, before, after, index))
        elif interval is not None and interval.low == interval.high:
            interval = _change_without_width(name, interval, intervals)
        put(intervals, name, interval)
    if np.array_equal(before.logits, after.logits):
        return {name: unchanged(interval) for name, interval in intervals.items()}
    return intervals


def carried_by(
    labels: NDArray[np.integer],
    classes: Sequence[str],
    *,
    units: NDArray[np.integer] | None = None,
    positive: str | None = None,
) -> dict[str, float]:
    """How many units of one size would carry each figure as these do (`effective_units`).

    Args:
        labels: Integer ``[n]`` in ``[0, k)``.
        classes: k names.
        units: Integer ``[n]``, the patient or cluster of each case; None: each its own.
        positive: The finding of a two-class task; None names none.

    Returns:
        Metric -> number; of a figure of one class that of its cases, of a mean over classes the
        least of them. Of figures of all cases alike those that have rules are there alone.
    """
    index = check_units(units, len(labels))
    mine = [effective_units(index[labels == number]) for number in range(len(classes))]
    carried = dict.fromkeys(("accuracy", "two_off"), effective_units(index))
    carried |= dict.fromkeys(
        ("balanced_accuracy", "auroc_macro", "f1_macro"), min(filter(None, mine))
    )
    for name, number in zip(classes, mine, strict=True):
        carried |= {f"{metric}[{name}]": number for metric in ("sensitivity", "f1", "auroc")}
    if len(classes) == 2 and positive is not None:
        finding = list(classes).index(positive)
        carried |= {"sensitivity": mine[finding], "specificity": mine[1 - finding]}
    return carried


def _ranked_classes(cases: Cases) -> list[tuple[str, int]]:
    """Names and columns of the areas of single classes; two classes have one between them."""
    if len(cases.classes) == 2:
        return [("auroc_macro", 1)]
    return [(f"auroc[{name}]", column) for column, name in enumerate(cases.classes)]


def check_units(units: NDArray[np.integer] | None, n: int) -> Integers:
    """Units numbered from 0; an error when there is not one for each case."""
    if units is not None and np.shape(units) != (n,):
        raise DataError(f"one unit for each of the {n} cases", f"units {list(np.shape(units))}")
    return unit_index(units, n)


def unchanged(interval: Interval) -> Interval:
    """The change between two identical sets of answers: none, and nothing left to chance."""
    none = {"value": 0.0, "low": 0.0, "high": 0.0, "method": "identical"}
    return interval.model_copy(update=none)


def put(intervals: Intervals, name: str, interval: Interval | None) -> None:
    """What is undefined is absent."""
    if interval is not None:
        intervals[name] = interval


def _proportions(cases: Cases, index: Integers) -> Intervals:
    """Accuracy and the rates of each class, by Wilson."""
    called, labels = predictions(cases.logits), cases.labels
    hits = called == labels
    right, still = margins(cases.logits, labels), np.zeros(len(labels))

    def share(rows: NDArray[np.bool_]) -> Interval | None:
        likely = nearest(hits[rows] - 1, right[rows], still[rows], index[rows]) == 0
        return proportion(hits[rows], index[rows], likely=likely)

    intervals: Intervals = {}
    put(intervals, "accuracy", share(np.ones(len(labels), np.bool_)))
    for number, name in enumerate(cases.classes):
        actual, predicted = labels == number, called == number
        put(intervals, f"sensitivity[{name}]", share(actual))
        put(intervals, f"precision[{name}]", proportion(hits[predicted], index[predicted]))
        jaccard = share(actual | predicted)
        put(intervals, f"f1[{name}]", jaccard and f1_of_jaccard(jaccard))
    if cases.grades is not None:
        far = grades_off(cases) >= FAR_OFF
        likely = nearest(-far.astype(np.int64), _reach(cases, cases.grades), still, index) != 0
        put(intervals, "two_off", proportion(far, index, likely=likely))
    _name_two_classes(intervals, cases)
    return intervals


def _reach(cases: Cases, grades: Integers) -> Floats:
    """How far the best logit within a grade of the truth stands above the best beyond, ``[n]``."""
    off = np.abs(grades - grades[cases.labels][:, None])
    near, far = (
        np.where(rows, cases.logits, -np.inf).max(axis=1)
        for rows in (off < FAR_OFF, off >= FAR_OFF)
    )
    return np.asarray(np.minimum(near - far, NEVER_FAR))


def _name_two_classes(intervals: Intervals, cases: Cases) -> None:
    """Where a finding is named, sensitivity and specificity go by their own names too."""
    if cases.positive is None:
        return
    finding, other = cases.classes[cases.positive], cases.classes[1 - cases.positive]
    put(intervals, "sensitivity", intervals.get(f"sensitivity[{finding}]"))
    put(intervals, "specificity", intervals.get(f"sensitivity[{other}]"))


def _paired_proportions(before: Cases, after: Cases, index: Integers) -> Intervals:
    """Changes of accuracy, sensitivity and precision, by Tango."""
    labels = before.labels
    right = predictions(before.logits) == labels
    still = predictions(after.logits) == labels
    was, now = (margins(cases.logits, labels) for cases in (before, after))

    def change(rows: NDArray[np.bool_]) -> Interval | None:
        events = still[rows].astype(np.int64) - right[rows]
        likely = nearest(events, now[rows], (now - was)[rows], index[rows])
        return paired_difference(still[rows], right[rows], index[rows], likely=likely)

    intervals: Intervals = {}
    put(intervals, "accuracy", change(np.ones(len(labels), np.bool_)))
    for number, name in enumerate(before.classes):
        mine = labels == number
        put(intervals, f"sensitivity[{name}]", change(mine))
        called, recalled = (predictions(cases.logits) == number for cases in (before, after))
        class_was, class_now = (margins(cases.logits, number) for cases in (before, after))
        rows = called | recalled
        likely = np.zeros(len(labels), np.int64)
        likely[rows] = nearest(
            recalled[rows].astype(np.int64) - called[rows],
            class_now[rows],
            (class_now - class_was)[rows],
            index[rows],
        )
        precision = precision_difference(mine, recalled, called, index, likely=likely)
        put(intervals, f"precision[{name}]", precision)
    if before.grades is not None:
        far, farther = (grades_off(cases) >= FAR_OFF for cases in (before, after))
        reach, reached = (_reach(cases, before.grades) for cases in (before, after))
        events = farther.astype(np.int64) - far
        likely = -nearest(-events, reached, reached - reach, index)
        put(intervals, "two_off", paired_difference(farther, far, index, likely=likely))
    _name_two_classes(intervals, before)
    return intervals


def _table(cases: Cases, index: Integers) -> _Table:
    """Everything about one classifier that does not change between resamples."""
    k, n = len(cases.classes), len(cases.labels)
    called, labels = predictions(cases.logits), cases.labels
    chances = softmax(cases.logits)
    bins, gaps = calibration_gaps(chances, labels)
    graded = 0 if cases.grades is None else k * k
    rows = np.zeros((3 * k + 2 + CALIBRATION_BINS + graded, n))
    every = np.arange(n)
    rows[labels, every] = called == labels
    rows[k + labels, every] = 1
    rows[2 * k + called, every] = 1
    rows[3 * k] = log_losses(cases.logits, labels)
    rows[3 * k + 1] = brier_scores(chances, labels)
    rows[3 * k + 2 + bins, every] = gaps
    if cases.grades is not None:
        rows[3 * k + 2 + CALIBRATION_BINS :][
            k * cases.grades[labels] + cases.grades[called], every
        ] = 1
    sums: Floats = np.stack([np.bincount(index, row) for row in rows]).astype(np.float64)
    scores = log_odds(cases.logits)
    ranked = range(k) if k > 2 else ()
    return _Table(sums, tuple(rank_table(scores[:, c], labels == c) for c in ranked))


def _measure(
    table: _Table, counts: Floats, weights: NDArray[np.float32], classes: Sequence[str]
) -> dict[str, Floats]:
    """Bootstrapped metrics for a block of resamples, each ``[block]``.

    Args:
        table: The classifier.
        counts: How often each unit was drawn, ``[units, block]``.
        weights: The same per case, ``[n, block]``.
        classes: k names.
    """
    k = len(classes)
    by_grade = 3 * k + 2 + CALIBRATION_BINS
    sums = weighted_sums(table.sums, counts)
    total = sums[k : 2 * k].sum(axis=0)
    by_class = rates(sums[:k], sums[k : 2 * k], sums[2 * k : 3 * k])
    figures = {
        "balanced_accuracy": by_class["balanced_accuracy"],
        "f1_macro": by_class["f1_macro"],
        "kappa": by_class["kappa"],
        "log_loss": sums[3 * k] / total,
        "brier": sums[3 * k + 1] / total,
        "ece": np.abs(sums[3 * k + 2 : by_grade]).sum(axis=0) / total,
    }
    if len(sums) > by_grade:
        figures["kappa_quadratic"] = quadratic_kappa(sums[by_grade:].reshape(k, k, -1))
    if table.ranks:
        areas = np.stack([weighted_auroc(ranks, weights) for ranks in table.ranks])
        figures["auroc_macro"] = mean_of_defined(areas)
    for number, name in enumerate(classes):
        figures[f"f1[{name}]"] = by_class["f1"][number]
    return figures


def _bootstrap(
    models: Sequence[Cases], index: Integers, resamples: int, seed: int
) -> list[dict[str, BootstrapSpread]]:
    """All that is bootstrapped of each classifier, on draws that they share."""
    tables = [_table(cases, index) for cases in models]
    classes = models[0].classes

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        weights = counts.astype(np.float32)[index]
        return [_measure(table, counts, weights, classes) for table in tables]

    return bootstrap(measure, index, models[0].labels, resamples, seed)


def _without_width(
    name: str, interval: Interval, intervals: Intervals, cases: Cases, index: Integers
) -> Interval | None:
    """Ends from the score intervals of the parts, where the bootstrap has no width.

    The mean of the parts' ends is wider than the interval of their mean: the safe side.
    """
    if name in _UNBOUNDED_BY_PARTS:
        return interval if int(index.max()) else None
    if name == "kappa":
        chance = _chance_agreement(cases)
        accuracy = intervals["accuracy"]
        parts = [((e - chance) / (1 - chance)) for e in (accuracy.low, accuracy.high)]
        return with_ends(interval, [(parts[0], parts[1])])
    if name == "kappa_quadratic":
        return with_ends(interval, [_graded_ends(intervals, cases)])
    return with_ends(interval, _part_ends(name, intervals))


def _graded_ends(intervals: Intervals, cases: Cases) -> tuple[float, float]:
    """Of the weighted kappa: as many a grade off, and as many all grades off, as may be."""
    accuracy, far, step = intervals["accuracy"], intervals["two_off"], _a_grade(cases)
    ends = [(1 - a - f, f) for a, f in ((accuracy.low, far.high), (accuracy.high, far.low))]
    low, high = (
        1 - step * max(wrong, 0.0) - step * (len(cases.classes) - 1) ** 2 * two_off
        for wrong, two_off in ends
    )
    return low, high


def _a_grade(cases: Cases) -> float:
    """What the weighted kappa loses where all cases are called a grade off: ``n / sum w e``."""
    if cases.grades is None:
        return 0.0
    k, n = len(cases.classes), len(cases.labels)
    actual, called = (
        np.bincount(cases.grades[numbers], minlength=k)
        for numbers in (cases.labels, predictions(cases.logits))
    )
    weights = np.subtract.outer(np.arange(k), np.arange(k)) ** 2
    chance = float(actual @ weights @ called) / n**2
    return 1 / chance if chance else 0.0


def _part_ends(name: str, intervals: Intervals) -> list[tuple[float, float]]:
    return [
        (part.low, part.high) for key, part in intervals.items() if key.startswith(_PARTS[name])
    ]


def _chance_agreement(cases: Cases) -> float:
    k, n = len(cases.classes), len(cases.labels)
    actual = np.bincount(cases.labels, minlength=k)
    predicted = np.bincount(predictions(cases.logits), minlength=k)
    return float((actual * predicted).sum() / n**2)


def _none_changed(name: str, before: Cases, after: Cases, index: Integers) -> float:
    """Largest change of a figure of counts that a split without a changed answer leaves open.

    Tango's ``z^2 / (n + z^2)`` of as many cases as the figure is made of, on the effective number:
    for a mean over classes those whose share would vary as much, ``k^2 / sum 1 / n_class``.
    """
    labels, k = before.labels, len(before.classes)
    called = predictions(before.logits)
    still = (predictions(after.logits) == labels).astype(np.int64)
    was, now = (margins(cases.logits, labels) for cases in (before, after))
    likely = nearest(still - (called == labels), now, now - was, index)
    actual, named = (np.bincount(rows, minlength=k) for rows in (labels, called))
    n, stretch = float(len(labels)), 1.0
    if name == "kappa":
        stretch = 1 / (1 - _chance_agreement(before))
    elif name == "kappa_quadratic":
        stretch = _a_grade(before) * _next_step(after)
    elif name == "balanced_accuracy":
        n = np.count_nonzero(actual) ** 2 / float((1 / actual[actual > 0]).sum())
    else:  # one answer moves an F1 by no more than 1 - F1 / 2 cases of (actual + called) / 2
        f1 = 2 * np.bincount(labels[called == labels], minlength=k) / np.maximum(actual + named, 1)
        sizes = (actual + named) / 2 / np.maximum(1 - f1 / 2, 0.5)
        c = np.flatnonzero([name == f"f1[{label}]" for label in before.classes])
        sizes = sizes[c] if len(c) else sizes[sizes > 0]
        n = len(sizes) ** 2 / float((1 / sizes).sum())
    z2 = z_value(0.95) ** 2
    return stretch * z2 / (n * effective_size(likely, index) / len(labels) + z2)


def _next_step(cases: Cases) -> float:
    """How much nearer to or farther from the truth, in squared grades, the next answers would be.

    The mean over all cases if each were called what comes second to it; 1, a right answer that
    becomes one of the next grade, at the least.
    """
    if cases.grades is None:
        return 1.0
    off = (cases.grades - cases.grades[cases.labels][:, None]) ** 2
    first, second = np.argsort(-cases.logits, axis=1, kind="stable")[:, :2].T
    rows = np.arange(len(off))
    return max(1.0, float(np.abs(off[rows, second] - off[rows, first]).mean()))


def _at_least(interval: Interval, half: float) -> Interval:
    """An interval whose ends lie no nearer to the value, as far as a change can go."""
    low, high = interval.value - half, interval.value + half
    ends = {"low": min(interval.low, max(low, -1.0)), "high": max(interval.high, min(high, 1.0))}
    return interval.model_copy(update={name: float(end) for name, end in ends.items()})


def _change_without_width(name: str, interval: Interval, intervals: Intervals) -> Interval | None:
    """Where no resample differs: the parts where they have ends, else zero stays, the rest goes.

    A change of exactly zero in every resample is two classifiers with the same answers. Any other
    change without width comes from too few units to say how sure it is.
    """
    if name == "auroc_macro":
        return with_ends(interval, _part_ends(name, intervals))
    return interval if interval.value == 0 else None
