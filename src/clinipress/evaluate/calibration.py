"""Calibrated probabilities: temperature scaling, thresholds, and when to say "uncertain"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clinipress.evaluate.intervals import wilson
from clinipress.records import Interval, OperatingPoint

__all__ = ["fit_temperature", "operating_points", "uncertain_threshold"]

# a split answered without an error would ask for T -> 0, that is for certainty: not granted
LOW, HIGH = 0.25, 20.0


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
    scaled = logits.astype(np.float64) / np.exp(log_temperature)
    top = scaled.max(axis=1)
    log_sum = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float(np.mean(log_sum - scaled[np.arange(len(labels)), labels]))


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
    scaled = scaled_logits.astype(np.float64)
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    top = weights.max(axis=1) / weights.sum(axis=1)
    right = scaled.argmax(axis=1) == labels
    order = np.argsort(-top, kind="stable")
    share_right = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    if share_right[-1] >= aim:
        return None
    enough = np.flatnonzero(share_right >= aim)
    kept = max(int(enough[-1]) + 1 if len(enough) else 0, int(np.ceil(0.7 * len(order))))
    return float(top[order[min(kept, len(order)) - 1]])


def operating_points(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    aim: float = 0.95,
) -> tuple[OperatingPoint, ...]:
    """Thresholds per class: the highest that finds enough of it, the lowest that spares enough.

    Args:
        probabilities: float ``[n, classes]``, calibrated.
        labels: int64 ``[n]`` of a split the model was not fitted on.
        classes: Their names.
        aim: Sensitivity of the first, specificity of the second kind of threshold.

    Returns:
        Two points per class that has images on both sides, each with Wilson intervals. The figures
        are of the images the thresholds were chosen on, which flatters them.
    """
    found = []
    for number, name in enumerate(classes):
        mine = labels == number
        own, others = np.sort(probabilities[mine, number]), np.sort(probabilities[~mine, number])
        if not len(own) or not len(others):
            continue
        # called when p >= threshold: one of the class's own, or the next number above the others
        sensitive = float(own[int(np.floor((1 - aim) * len(own) + 1e-9))])
        spared = int(np.ceil(aim * len(others) - 1e-9))
        specific = float(min(np.nextafter(others[spared - 1], 2.0), 1.0))
        for what, threshold in (("sensitivity", sensitive), ("specificity", specific)):
            found.append(
                OperatingPoint(
                    label=name,
                    aim=f"{what} {aim:g}",
                    threshold=threshold,
                    sensitivity=_share(own >= threshold),
                    specificity=_share(others < threshold),
                )
            )
    return tuple(found)


def _share(right: NDArray[np.bool_]) -> Interval:
    hits, n = int(right.sum()), len(right)
    low, high = wilson(hits, n)
    return Interval(value=hits / n, low=low, high=high, method="wilson", n=n)
