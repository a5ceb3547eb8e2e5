"""Point metrics of a classifier: pure functions of logits and labels, numpy only.

Everything that the intervals need again and again is written once, for any number of resamples at
a time: rates from three counts per class (`rates`), and the area under the ROC curve from a table
that is sorted once (`rank_table`, `weighted_auroc`).

Undefined figures (the sensitivity of a class without a case, the precision of a class that was
never named) are NaN inside arrays and absent from the dictionaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError

__all__ = [
    "CALIBRATION_BINS",
    "FAR_OFF",
    "Cases",
    "RankTable",
    "auroc",
    "brier_scores",
    "calibration_gaps",
    "check_cases",
    "class_aurocs",
    "confusion",
    "finding_aurocs",
    "grades_off",
    "log_losses",
    "log_odds",
    "log_softmax",
    "mean_of_defined",
    "overall_score",
    "point_metrics",
    "predictions",
    "quadratic_kappa",
    "rank_table",
    "rates",
    "same_answers",
    "score_words",
    "sigmoid",
    "softmax",
    "strata",
    "weighted_auroc",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
CALIBRATION_BINS = 15
FAR_OFF = 2  # grades between answer and truth: readers, too, differ by one


@dataclass(frozen=True)
class Cases:
    """Checked input of every metric.

    Attributes:
        logits: float64 ``[n, k]``, finite.
        labels: int64 ``[n]`` in ``[0, k)``.
        classes: k names, in the order of the logits.
        positive: Index of the class that is the finding in a two-class task, else None.
        grades: Grade of each class from 0, int64 ``[k]``; None where they have no order.
    """

    logits: Floats
    labels: Integers
    classes: tuple[str, ...]
    positive: int | None
    grades: Integers | None = None


def check_cases(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    positive: str | None = None,
    order: Sequence[str] = (),
) -> Cases:
    """Check what every metric assumes, once, at the public boundary.

    Args:
        logits: Floating ``[n, k]``.
        labels: Integer ``[n]`` in ``[0, k)``.
        classes: k names, k >= 2.
        positive: The finding of a two-class task, never guessed: None names none. Ignored with
            three classes or more.
        order: All classes from the least to the gravest, where they are grades.

    Raises:
        DataError: No case, shapes that do not match, labels out of range, NaN or infinite logits,
            an order of other classes.
    """
    values, truth, names = np.asarray(logits, np.float64), np.asarray(labels), tuple(classes)
    if values.ndim != 2 or values.shape[1] != len(names) or len(names) < 2:
        raise DataError(
            f"logits [n, {max(len(names), 2)}] for at least two classes",
            f"logits {list(values.shape)} for {len(names)} classes",
        )
    if not len(values) or truth.shape != values.shape[:1]:
        raise DataError(
            "at least one case, with one label each",
            f"{len(values)} rows of logits and labels {list(truth.shape)}",
        )
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= len(names):
        raise DataError(
            f"whole-number labels from 0 to {len(names) - 1}",
            f"{truth.dtype} labels from {truth.min()} to {truth.max()}",
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise DataError(
            "finite logits",
            f"NaN or infinity in {bad} of {len(values)} rows",
            "the model is broken",
        )
    if positive is not None and positive not in names:
        raise DataError(f"a positive class among {', '.join(names)}", f"'{positive}'")
    if order and sorted(order) != sorted(names):
        raise DataError(f"an order of {', '.join(names)}, each once", ", ".join(order))
    finding = names.index(positive) if positive is not None and len(names) == 2 else None
    grades = np.array([list(order).index(name) for name in names], np.int64) if order else None
    return Cases(values, truth.astype(np.int64), names, finding, grades)


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Probabilities, float64 of the shape of the logits, summing to 1 over the last axis.

    Args:
        logits: Floating ``[..., k]``.
        temperature: Logits are divided by it (Guo et al. 2017); above 1 makes the answers less
            sure.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.floating]) -> Floats:
    """Probability of each label by itself, float64, the shape of the logits."""
    powers = np.exp(-np.abs(np.asarray(logits, np.float64)))
    return np.asarray(np.where(np.asarray(logits) >= 0, 1.0, powers) / (1 + powers))


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Log-probabilities, float64 of the shape of the logits ``[..., k]``; they do not underflow."""
    scaled = np.asarray(logits, np.float64)
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def predictions(logits: NDArray[np.floating]) -> Integers:
    """Predicted class, int64 ``[n]``; the first of equal logits, so that answers repeat."""
    return np.asarray(np.argmax(logits, axis=1), np.int64)


def confusion(
    logits: NDArray[np.floating], labels: NDArray[np.integer], k: int
) -> NDArray[np.int64]:
    """Counts of true class (rows) by predicted class (columns), int64 ``[k, k]``."""
    cells = np.asarray(labels, np.int64) * k + predictions(logits)
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def rates(hits: Floats, actual: Floats, predicted: Floats) -> dict[str, Floats]:
    """All rates that follow from three counts per class, for many tables at once.

    Args:
        hits: Cases of each class that were called so, ``[k, ...]``.
        actual: Cases of each class, same shape.
        predicted: Cases called each class, same shape.

    Returns:
        "sensitivity", "precision", "f1" of shape ``[k, ...]`` and "accuracy",
        "balanced_accuracy", "f1_macro", "kappa" of shape ``[...]``; NaN where undefined. Macro
        means leave out what is undefined: classes without a case for balanced accuracy, classes
        neither present nor predicted for F1 (scikit-learn's rule).
    """
    total = actual.sum(axis=0)
    by_class = {
        "sensitivity": _ratio(hits, actual),
        "precision": _ratio(hits, predicted),
        "f1": _ratio(2 * hits, actual + predicted),
    }
    accuracy = _ratio(hits.sum(axis=0), total)
    chance = _ratio((actual * predicted).sum(axis=0), total * total)
    return by_class | {
        "accuracy": accuracy,
        "balanced_accuracy": mean_of_defined(by_class["sensitivity"]),
        "f1_macro": mean_of_defined(by_class["f1"]),
        "kappa": _ratio(accuracy - chance, 1 - chance),
    }


def grades_off(cases: Cases) -> Integers:
    """How many grades lie between each answer and the truth, int64 ``[n]``; 0 without an order."""
    if cases.grades is None:
        return np.zeros(len(cases.labels), np.int64)
    return np.asarray(np.abs(cases.grades[predictions(cases.logits)] - cases.grades[cases.labels]))


def quadratic_kappa(tables: Floats) -> Floats:
    """Weighted kappa with quadratic weights (Cohen 1968), for many tables at once.

    ``1 - sum w observed / sum w expected``, ``w = (i - j)^2``, expected from the margins. Grades
    that occur on neither side keep their place: closing them up would move the others nearer.

    Args:
        tables: Cases by true grade and grade called, ``[k, k, ...]``, in the order of the grades.

    Returns:
        Of shape ``[...]``; NaN where all cases have one grade and are called so.
    """
    k = len(tables)
    weights = (np.subtract.outer(np.arange(k), np.arange(k)) ** 2).astype(np.float64)
    observed = np.tensordot(weights, tables, axes=([0, 1], [0, 1]))
    actual, called = tables.sum(axis=1), tables.sum(axis=0)
    chance = np.einsum("ij,i...,j...->...", weights, actual, called)
    return np.asarray(1 - _ratio(observed * actual.sum(axis=0), chance))


def _ratio(above: Floats, below: Floats) -> Floats:
    undefined = np.full(np.broadcast(above, below).shape, np.nan)
    return np.asarray(np.divide(above, below, out=undefined, where=np.asarray(below) > 0))


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where nothing is defined."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def log_odds(logits: NDArray[np.floating]) -> Floats:
    """Log odds of each class against all others, float64 ``[n, k]``.

    It orders cases exactly as the softmax probability does and does not saturate: probabilities
    of 1 - 1e-17 and 1 - 1e-20 are the same float64, which would make ties where there are none.
    Rounded to 1e-9, beyond what float32 logits know, because rounding errors would otherwise order
    cases that are equal; the few distinct logits of int8 models make such ties common.
    """
    values = np.asarray(logits, np.float64)
    others = np.empty_like(values)
    for column in range(values.shape[1]):
        rest = np.delete(values, column, axis=1)
        top = rest.max(axis=1)
        others[:, column] = top + np.log(np.exp(rest - top[:, None]).sum(axis=1))
    return np.asarray(np.round(values - others, 9))


@dataclass(frozen=True)
class RankTable:
    """Scores of one class against the rest, sorted once and weighed many times.

    Attributes:
        positives: Row numbers of the class's cases.
        negatives: Row numbers of all others, by rising score.
        cuts: Rising positions in `negatives`, from 0, at which some positive's score falls;
            between two of them the negatives need only be added up.
        below: For each positive, the number of the cut under which all negatives score lower.
        not_above: For each positive, the same for negatives that score lower or the same.
    """

    positives: Integers
    negatives: Integers
    cuts: Integers
    below: Integers
    not_above: Integers


def rank_table(scores: Floats, positive: NDArray[np.bool_]) -> RankTable:
    """Sort once: scores ``[n]``, positive bool ``[n]``."""
    positives, rest = np.flatnonzero(positive), np.flatnonzero(~positive)
    negatives = rest[np.argsort(scores[rest], kind="stable")]
    ordered, mine = scores[negatives], scores[positives]
    below = np.searchsorted(ordered, mine, side="left")
    not_above = np.searchsorted(ordered, mine, side="right")
    cuts = np.unique(np.concatenate([[0], below, not_above, [len(negatives)]]))
    return RankTable(
        positives,
        negatives,
        cuts[:-1],
        np.searchsorted(cuts, below),
        np.searchsorted(cuts, not_above),
    )


def weighted_auroc(table: RankTable, weights: NDArray[np.floating]) -> Floats:
    """Area under the ROC curve for many weightings of the same cases.

    The Mann-Whitney form: the weighted share of (positive, negative) pairs in which the positive
    scores higher, a tie counting one half.

    Args:
        table: The sorted scores.
        weights: Floating ``[n, m]``, one column per weighting, such as how often a resample drew
            each case. Cases run down the rows so that gathers and sums are over whole rows.
            float32 is exact for whole numbers that add up to less than 2^23, and twice as fast.

    Returns:
        float64 ``[m]``; NaN where a column leaves no positive or no negative.
    """
    cumulated = np.zeros((len(table.cuts) + 1, weights.shape[1]), weights.dtype)
    if len(table.cuts):
        # adding up between cuts first: a running sum over all rows is several times slower
        between = np.add.reduceat(weights[table.negatives], table.cuts, axis=0)
        np.cumsum(between, axis=0, out=cumulated[1:])
    mine = weights[table.positives]
    lower = cumulated[table.below]
    tied = table.not_above > table.below
    lower[tied] = (lower[tied] + cumulated[table.not_above[tied]]) / 2
    pairs = mine.sum(axis=0, dtype=np.float64) * cumulated[-1]
    return _ratio((mine * lower).sum(axis=0, dtype=np.float64), pairs)


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of one class against the rest; NaN when one side is empty."""
    table = rank_table(np.asarray(scores, np.float64), np.asarray(positive, np.bool_))
    return float(weighted_auroc(table, np.ones((len(scores), 1)))[0])


def class_aurocs(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """One-vs-rest area under the ROC curve of each class, float64 ``[k]``, NaN where undefined."""
    scores = log_odds(logits)
    areas = [auroc(scores[:, index], labels == index) for index in range(scores.shape[1])]
    return np.asarray(areas, np.float64)


def finding_aurocs(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Area under the ROC curve of each finding, float64 ``[k]``, NaN where undefined.

    Args:
        logits: Floating ``[n, k]``.
        labels: Integer ``[n, k]``: 1 present, 0 absent, -1 unknown, which counts for nothing.
    """
    known = [labels[:, c] >= 0 for c in range(labels.shape[1])]
    areas = [auroc(logits[rows, c], labels[rows, c] == 1) for c, rows in enumerate(known)]
    return np.asarray(areas, np.float64)


def strata(labels: NDArray[np.integer]) -> Integers:
    """What images are drawn by, int64 ``[n]``: their class; of findings the rarest that each shows.

    Args:
        labels: Integer ``[n]``, or ``[n, k]`` as `finding_aurocs` takes them; -1 for an image that
            shows none.
    """
    if labels.ndim == 1:
        return np.asarray(labels, np.int64)
    there = labels == 1
    rarest = np.where(there, there.sum(0), len(labels) + 1).argmin(1)
    return np.asarray(np.where(there.any(1), rarest, -1), np.int64)


def overall_score(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """What training looks at: accuracy; of several findings their mean area under the ROC curve.

    Args:
        logits: Floating ``[n, k]``.
        labels: Integer ``[n]``, or ``[n, k]`` as `finding_aurocs` takes them.

    Returns:
        In [0, 1]; 0.5, which is chance, where no finding is present in some and absent in others.
    """
    if labels.ndim == 1:
        return float((predictions(logits) == labels).mean())
    score = float(mean_of_defined(finding_aurocs(logits, labels)))
    return score if np.isfinite(score) else 0.5


def score_words(score: float, *, several: bool = False) -> str:
    """An `overall_score` in words.

    Example:
        >>> score_words(0.9), score_words(0.9, several=True)
        ('accuracy 90.0%', 'mean AUROC 0.900')
    """
    return f"mean AUROC {score:.3f}" if several else f"accuracy {score:.1%}"


def same_answers(
    first: NDArray[np.floating], second: NDArray[np.floating], *, several: bool = False
) -> float:
    """Share of images, logits ``[n, k]``, that keep their class.

    With `several` findings: of image and finding, that stay on their side of a half. Of a finding
    that `first` puts all images on one side of, which any file would repeat, the tenth nearest to
    the other side is set apart instead.
    """
    if not several:
        return float((first.argmax(1) == second.argmax(1)).mean())
    low, high = np.quantile(first, (0.1, 0.9), axis=0)
    cuts = np.where((first <= 0).all(0), high, np.where((first > 0).all(0), low, 0))
    return float(((first > cuts) == (second > cuts)).mean())


def log_losses(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Minus the log probability of the true class, float64 ``[n]``, nats, never infinite."""
    values = np.asarray(logits, np.float64)
    top = values.max(axis=1)
    total = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    return np.asarray(total - values[np.arange(len(values)), labels])


def brier_scores(probabilities: Floats, labels: NDArray[np.integer]) -> Floats:
    """Squared distance of the probabilities from the truth, float64 ``[n]``.

    In ``[0, 2]``; halved for two classes, where it is then the usual Brier score of the positive
    class (Brier 1950; scikit-learn's "auto" scale).
    """
    truth = np.eye(probabilities.shape[1])[labels]
    scale = 0.5 if probabilities.shape[1] == 2 else 1.0
    return np.asarray(((probabilities - truth) ** 2).sum(axis=1) * scale)


def calibration_gaps(probabilities: Floats, labels: NDArray[np.integer]) -> tuple[Integers, Floats]:
    """What the expected calibration error is summed from.

    Expected calibration error (Guo et al. 2017, equation 3): ``sum_b |sum_{i in b} gap_i| / n``
    over 15 bins of equal width, (0, 1/15] to (14/15, 1], of the top probability.

    Returns:
        Bin of each case, int64 ``[n]``, and top probability minus correctness, float64 ``[n]``.
    """
    top = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(top * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    return bins, np.asarray(top - correct)


def point_metrics(
    logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    *,
    positive: str | None = None,
    order: Sequence[str] = (),
) -> dict[str, float]:
    """Every metric that is defined, without its interval.

    Args:
        logits: Floating ``[n, k]``.
        labels: Integer ``[n]``.
        classes: k names.
        positive: The finding of a two-class task; None: no "sensitivity" and "specificity".
        order: All classes by grade; empty: no "kappa_quadratic" and "two_off".

    Returns:
        "accuracy", "balanced_accuracy", "auroc_macro", "f1_macro", "kappa", "log_loss", "brier",
        "ece" and, per class, "sensitivity[CLASS]", "precision[CLASS]", "f1[CLASS]",
        "auroc[CLASS]"; with two classes also "sensitivity" and "specificity". What is undefined
        is absent.

    Raises:
        DataError: As `check_cases`.
    """
    cases = check_cases(logits, labels, classes, positive, order)
    table = confusion(cases.logits, cases.labels, len(cases.classes)).astype(np.float64)
    figures = rates(np.diag(table), table.sum(axis=1), table.sum(axis=0))
    figures["auroc"] = class_aurocs(cases.logits, cases.labels)
    chances = softmax(cases.logits)
    bins, gaps = calibration_gaps(chances, cases.labels)
    figures |= {
        "auroc_macro": mean_of_defined(figures["auroc"]),
        "log_loss": log_losses(cases.logits, cases.labels).mean(),
        "brier": brier_scores(chances, cases.labels).mean(),
        "ece": np.abs(np.bincount(bins, gaps)).sum() / len(gaps),
    }
    if cases.grades is not None:
        by_grade = np.argsort(cases.grades)
        figures["kappa_quadratic"] = quadratic_kappa(table[np.ix_(by_grade, by_grade)])
        figures["two_off"] = (grades_off(cases) >= FAR_OFF).mean()
    named: dict[str, float] = {}
    for name, value in figures.items():
        if np.ndim(value):
            named |= {f"{name}[{c}]": float(v) for c, v in zip(cases.classes, value, strict=True)}
        else:
            named[name] = float(value)
    if cases.positive is not None:
        named["sensitivity"] = float(figures["sensitivity"][cases.positive])
        named["specificity"] = float(figures["sensitivity"][1 - cases.positive])
    return {name: value for name, value in named.items() if np.isfinite(value)}
