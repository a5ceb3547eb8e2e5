"""Calibrated probabilities: temperature, thresholds, when to say "uncertain", and the section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence.evidence import unchanged
from clinipress.evidence.family import (
    ITSELF,
    check_pair,
    check_same_images,
    identical,
    joint_confidence,
    judge_family,
    widened,
)
from clinipress.evidence.gate import IDENTICAL
from clinipress.evidence.reliability import CalibrationStatistics, reliability
from clinipress.evidence.scores import Scores
from clinipress.records.candidate import ANY_FINDING, OperatingPoint
from clinipress.records.judgement import Calibration, GradeCalibration
from clinipress.records.result import Interval, Reason, Rule, Verdict
from clinipress.reporting.wording.reasons import worded
from clinipress.stats.bootstrap import BootstrapSpread, bootstrap, spread_interval
from clinipress.stats.intervals import effective_units, proportion, wilson
from clinipress.stats.metrics import log_losses, sigmoid, softmax

__all__ = [
    "Together",
    "calibration_section",
    "called_together",
    "fit_findings",
    "fit_temperature",
    "operating_points",
    "thresholds",
    "uncertain_threshold",
]

ENOUGH = 10  # images on either side from which a finding has a temperature of its own
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

JOINT = joint_confidence(2)  # two calibration errors are judged
# a split answered without an error would ask for T -> 0, that is for certainty: not granted
LOW, HIGH = 0.25, 20.0


def fit_findings(
    logits: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[tuple[float, ...], tuple[float | None, ...]]:
    """Of several findings: each one's temperature, and the probability at which it is called.

    A temperature is fitted to all findings together, and to each that at least `ENOUGH` images show
    and do not show by itself. A threshold is where sensitivity plus specificity is greatest
    (Youden 1950), halfway between two probabilities that occur: it is met or not, never equalled.
    A finding that no image shows, or every one, has none: nobody could say where to call it.

    Args:
        logits: Floating ``[n, k]`` of a split the model was not fitted on.
        labels: Integer ``[n, k]``: 1 present, 0 absent, -1 unknown.

    Returns:
        k temperatures, k thresholds in (0, 1) or None.
    """
    known = labels >= 0
    together = _binary_temperature(logits[known], labels[known])
    temperatures, limits = [], []
    for c in range(labels.shape[1]):
        rows = known[:, c]
        odds, truth = logits[rows, c].astype(np.float64), labels[rows, c]
        enough = min(int((truth == 1).sum()), int((truth == 0).sum())) >= ENOUGH
        temperatures.append(_binary_temperature(odds, truth) if enough else together)
        limits.append(_youden(sigmoid(odds / temperatures[-1]), truth == 1))
    return tuple(temperatures), tuple(limits)


def _binary_temperature(odds: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """`fit_temperature` of the two classes of one question."""
    if len(np.unique(truth)) < 2:
        return 1.0
    return fit_temperature(np.stack([odds / 2, -odds / 2], axis=1), (1 - truth).astype(np.int64))


def _youden(chances: Floats, there: NDArray[np.bool_]) -> float | None:
    if not there.any() or there.all():
        return None
    values, inverse = np.unique(chances, return_inverse=True)
    found = np.bincount(inverse, there, len(values))
    spared = np.bincount(inverse, ~there, len(values))
    # called from values[i] on: all that lies there and above is found, all below is spared
    sensitivity = found[::-1].cumsum()[::-1] / there.sum()
    specificity = (spared.cumsum() - spared) / (~there).sum()
    best = int((sensitivity + specificity).argmax())
    below = values[best - 1] if best else 0.0
    return float(np.clip((below + values[best]) / 2, 1e-6, 1 - 1e-6))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al., ICML 2017, 4.2).

    The likelihood is quasi-convex in log T, so a golden-section search finds its minimum.

    Args:
        logits: float ``[n, classes]`` of a split the model was not fitted on.
        labels: int64 ``[n]``.

    Returns:
        T in [0.25, 20]; divide the logits by it.
    """
    ratio = (np.sqrt(5) - 1) / 2
    low, high = np.log(LOW), np.log(HIGH)
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _negative_log_likelihood(logits, labels, left) <= _negative_log_likelihood(
            logits, labels, right
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def _negative_log_likelihood(
    logits: NDArray[np.float32], labels: NDArray[np.int64], log_temperature: float
) -> float:
    return float(log_losses(logits.astype(np.float64) / np.exp(log_temperature), labels).mean())


def uncertain_threshold(
    scaled_logits: NDArray[np.float32], labels: NDArray[np.int64], aim: float = 0.95
) -> float | None:
    """Top probability under which an answer is called uncertain.

    The lowest threshold at which the answers above it reach the accuracy `aim` on this split, but
    never one that calls more than three answers in ten uncertain.

    Args:
        scaled_logits: float ``[n, classes]``, already divided by the temperature.
        labels: int64 ``[n]``.
        aim: Accuracy wanted of the certain answers.

    Returns:
        A probability, or None where all answers together already reach `aim`.
    """
    top = softmax(scaled_logits).max(axis=1)
    right = scaled_logits.argmax(axis=1) == labels
    order = np.argsort(-top, kind="stable")
    share_right = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    if share_right[-1] >= aim:
        return None
    enough = np.flatnonzero(share_right >= aim)
    kept = max(int(enough[-1]) + 1 if len(enough) else 0, int(np.ceil(0.7 * len(order))))
    return float(top[order[min(kept, len(order)) - 1]])


def thresholds(
    own: NDArray[np.floating], others: NDArray[np.floating], aim: float = 0.95
) -> dict[str, float]:
    """The highest threshold that finds enough of a class, the lowest that spares enough others.

    Args:
        own: Probabilities of the class for its own images, ``[p]``, p > 0.
        others: For all other images, ``[q]``, q > 0.
        aim: Share to be found, or spared, at least.

    Returns:
        "sensitivity" and "specificity" -> threshold in [0, 1]; a class is called at or above it.
    """
    mine, rest = np.sort(own), np.sort(others)
    # called when p >= threshold: one of the class's own, or the next number above the others
    sensitive = float(mine[int(np.floor((1 - aim) * len(mine) + 1e-9))])
    spared = int(np.ceil(aim * len(rest) - 1e-9))
    specific = float(min(np.nextafter(rest[spared - 1], 2.0), 1.0))
    return {"sensitivity": sensitive, "specificity": specific}


@dataclass(frozen=True)
class Together:
    """A class, or several together, that a threshold calls.

    Attributes:
        label: What it is called.
        columns: Numbers of the classes.
        complement: The probability is what the class that is left out leaves of 1.
    """

    label: str
    columns: tuple[int, ...]
    complement: int | None = None

    def of(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images are of them, bool ``[n]``."""
        return np.isin(labels, self.columns)

    def chances(self, probabilities: NDArray[np.floating]) -> Floats:
        """Their probability, float ``[n]``, of ``[n, k]``."""
        if self.complement is not None:
            return np.asarray(1 - probabilities[:, self.complement])
        if len(self.columns) == 1:
            return np.asarray(probabilities[:, self.columns[0]])
        return np.asarray(np.minimum(probabilities[:, list(self.columns)].sum(axis=1), 1))


def called_together(
    classes: Sequence[str], *, normal: str | None = None, order: Sequence[str] = ()
) -> list[Together]:
    """What thresholds call: each class; any finding in place of the normal class; grades upwards.

    Args:
        classes: k names in the order of the probabilities.
        normal: The class without a finding, of three or more.
        order: The classes by grade, the least first.
    """
    numbers = range(len(classes))
    if order:
        graver = [tuple(c for c in numbers if order.index(classes[c]) >= g) for g in numbers[1:]]
        names = [*(f"{name} or worse" for name in order[1:-1]), order[-1]]
        return [Together(name, columns) for name, columns in zip(names, graver, strict=True)]
    targets = [Together(name, (number,)) for number, name in enumerate(classes)]
    if normal is not None and normal in classes and len(classes) > 2:
        number = list(classes).index(normal)
        rest = tuple(c for c in numbers if c != number)
        targets[number] = Together(ANY_FINDING, rest, complement=number)
    return targets


def operating_points(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    aim: float = 0.95,
    *,
    normal: str | None = None,
    order: Sequence[str] = (),
) -> tuple[OperatingPoint, ...]:
    """Thresholds per class: the highest that finds enough of it, the lowest that spares enough.

    Args:
        probabilities: float ``[n, classes]``, calibrated.
        labels: int64 ``[n]`` of a split the model was not fitted on.
        classes: Their names.
        aim: Sensitivity of the first, specificity of the second kind of threshold.
        normal: The class without a finding, of three or more; in its place stand the thresholds of
            any finding, on the probability of all others together.
        order: The classes by grade, the least first: then thresholds are of each grade and all
            graver ones together, on the sum of their probabilities.

    Returns:
        Two points per class that has images on both sides, each with Wilson intervals. The figures
        are of the images the thresholds were chosen on, which flatters them.
    """
    rows = []
    for target in called_together(classes, normal=normal, order=order):
        name, mine, chances = target.label, target.of(labels), target.chances(probabilities)
        own, others = chances[mine], chances[~mine]
        if not len(own) or not len(others):
            continue
        for what, threshold in thresholds(own, others, aim).items():
            rows.append(
                OperatingPoint(
                    label=name,
                    aim=f"{what} {aim:g}",
                    threshold=threshold,
                    sensitivity=_share(own >= threshold),
                    specificity=_share(others < threshold),
                )
            )
    return tuple(rows)


def _share(right: NDArray[np.bool_]) -> Interval:
    hits, n = int(right.sum()), len(right)
    low, high = wilson(hits, n)
    return Interval(value=hits / n, low=low, high=high, method="wilson", n=n)


def calibration_section(
    reference: Scores,
    candidate: Scores,
    *,
    margin: float,
    chosen_on: str = "validation",
    resamples: int = 2000,
    seed: int = 0,
) -> Calibration:
    """How far probabilities can be taken at their word, before and after the temperature.

    "ece" has 15 bins of equal width, "ece_equal_mass" 15 of equal mass, whose edges are those of
    the whole split in every resample; "brier" and "log_loss" are means over images; "slope" and
    "intercept" are of the answer given (`clinipress.evidence.reliability` says why). Intervals are
    those of `clinipress.evidence.evidence`, from the same resamples of units: what both measure
    has the same interval in both. Changes are on the same resamples for both classifiers; one that
    is not zero and yet never varies comes from too few units and is absent. More is not better
    for a slope or an intercept: their changes are of the distance from the right value,
    "slope_error" = |slope - 1| and "intercept_error" = |intercept|.

    What is judged: the expected calibration error after the temperature must be shown to have
    risen by less than the margin; that of equal mass can fail and need not be shown to hold.

    Args:
        reference: The reference's answers, with its own temperature.
        candidate: The candidate's on the same images, with its own; the very same object for the
            reference itself, which then has no changes.
        margin: Largest rise allowed of the expected calibration error, a share.
        chosen_on: The split that the temperatures were fitted on.
        resamples: Bootstrap resamples.
        seed: Same seed, same intervals.

    Returns:
        The section; a figure that is undefined (a slope where no answer is wrong) is absent.

    Raises:
        DataError: Answers that do not belong together.
    """
    itself, same = candidate is reference, False
    original, raw_scores = reference, candidate
    findings: dict[str, float] = {}
    pairs = zip(candidate.classes, candidate.thresholds, strict=False)
    limits = {name: limit for name, limit in pairs if limit is not None}
    if candidate.several:  # every known pair of image and finding; each unit holds all of its own
        check_same_images(reference, candidate)
        temperatures = candidate.temperatures or (1.0,) * len(candidate.classes)
        findings = dict(zip(candidate.classes, temperatures, strict=True))
        raw_scores = candidate.pairs(raw=True)
        original, candidate = reference.pairs(), candidate.pairs()
        original = candidate if itself else original
    before, after, index = check_pair(original, candidate)
    unscaled = check_pair(raw_scores, raw_scores)[0] if findings else after
    classifiers = [
        CalibrationStatistics.of(unscaled, 1.0, index),
        CalibrationStatistics.of(after, candidate.temperature, index),
    ]
    if not itself:
        classifiers.append(CalibrationStatistics.of(before, original.temperature, index))

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        weights = counts[index]
        return [classifier.figures(counts, weights) for classifier in classifiers]

    spreads = bootstrap(measure, index, after.labels, resamples, seed)
    raw, calibrated = (_intervals(figures, index, floor=0.0) for figures in spreads[:2])
    changes: dict[str, Interval] = {}
    if not itself:
        ours, theirs = (_errors(figures) for figures in spreads[1:])
        apart = {name: ours[name] - theirs[name] for name in ours if name in theirs}
        intervals = _intervals(apart, index, floor=-1.0)
        changes = {n: c for n, c in intervals.items() if c.low < c.high}
        if same := identical(original, candidate):
            changes = {name: unchanged(change) for name, change in intervals.items()}
    return Calibration(
        temperature=candidate.temperature,
        temperatures=findings,
        thresholds=limits if findings else {},
        chosen_on=chosen_on,
        before=raw,
        after=calibrated,
        changes=changes,
        bins=reliability(raw_scores, index, 1.0),
        bins_after=reliability(candidate, index, candidate.temperature),
        grades=_by_grade(candidate, index, resamples, seed),
        verdict=ITSELF
        if itself
        else IDENTICAL
        if same
        else _verdict(raw, calibrated, changes, margin, effective_units(index), bool(findings)),
    )


def _by_grade(
    candidate: Scores, index: Integers, resamples: int, seed: int
) -> tuple[GradeCalibration, ...]:
    """Each grade and all graver ones together: calibration in the large, by units."""
    if not candidate.order:
        return ()
    targets = called_together(candidate.classes, order=candidate.order)
    there = [target.of(candidate.labels) for target in targets]
    stated = [target.chances(candidate.probabilities) for target in targets]
    units = int(index.max()) + 1
    gaps = np.stack([np.bincount(index, p - y, units) for p, y in zip(stated, there, strict=True)])
    cases = np.bincount(index, minlength=units).astype(np.float64)

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        apart = gaps @ counts / (cases @ counts)
        return [{target.label: row for target, row in zip(targets, apart, strict=True)}]

    (spreads,) = bootstrap(measure, index, candidate.labels, resamples, seed)
    excesses = _intervals(spreads, index, floor=-1.0)
    rows = zip(targets, stated, there, strict=True)
    shares = [(t.label, float(p.mean()), proportion(y, index)) for t, p, y in rows]
    return tuple(
        GradeCalibration(label=label, stated=mean, observed=share, excess=excesses[label])
        for label, mean, share in shares
        if share is not None and label in excesses
    )


def _errors(spreads: dict[str, BootstrapSpread]) -> dict[str, BootstrapSpread]:
    """Slope and intercept turned into distances from where they should be."""
    right = {"slope": 1.0, "intercept": 0.0}
    return {
        f"{name}_error" if name in right else name: spread.distance(right[name])
        if name in right
        else spread
        for name, spread in spreads.items()
    }


def _intervals(
    spreads: dict[str, BootstrapSpread], index: Integers, floor: float
) -> dict[str, Interval]:
    """Named intervals; none from a single unit, which never varies."""
    if not index.max():
        return {}
    intervals = {
        name: spread_interval(name, spread, index, floor) for name, spread in spreads.items()
    }
    return {name: interval for name, interval in intervals.items() if interval is not None}


def _verdict(
    raw: dict[str, Interval],
    calibrated: dict[str, Interval],
    changes: dict[str, Interval],
    margin: float,
    units: float,
    several: bool,
) -> Verdict:
    plain: dict[str, Interval] = {
        name: changes[name] for name in ("ece", "ece_equal_mass") if name in changes
    }
    joint: dict[str, Interval] = {name: widened(change, JOINT) for name, change in plain.items()}
    rules = [
        Rule(metric="ece", margin=margin),
        Rule(metric="ece_equal_mass", margin=margin, primary=False),
    ]
    verdict = judge_family(rules, plain, joint, dict.fromkeys(plain, units))
    reasons = list(verdict.reasons) or [
        Reason(kind="unmeasured", status="inconclusive", rule="primary", metric="calibration")
    ]
    if "ece" in raw and "ece" in calibrated:
        pair: dict[str, Any] = {
            "before": raw["ece"].model_dump(), "after": calibrated["ece"].model_dump()
        }  # fmt: skip
        pair |= {"several": True} if several else {}
        reasons.append(Reason(kind="calibration error", metric="ece", parameters=pair))
    if "slope" in calibrated:
        slope = calibrated["slope"]
        reasons.append(Reason(kind="calibration slope", metric="slope", interval=slope))
    return verdict.model_copy(update={"reasons": worded(reasons)})
