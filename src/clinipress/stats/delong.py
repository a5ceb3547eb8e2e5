"""Areas under the ROC curve with DeLong's intervals, single and paired, by images or by units.

DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44:837): the area is a mean over positives of
their placements among the negatives, and likewise the other way round, and its variance is the sum
of the variances of these two means. Placements come from midranks in ``n log n`` steps (Sun and Xu
2014, IEEE Signal Processing Letters 21:1389), ties counting one half. Where units (patients) hold
several images the placements are added up by unit (Obuchowski 1997, Biometrics 53:567); with one
image per unit that is DeLong's variance exactly.

Deviations, said aloud:

- The interval of one area is symmetric in its log odds, so that it stays below 1; pROC's is
  symmetric in the area itself.
- Student's t stands in for the normal quantile, with the degrees of freedom that the kurtosis of
  the placements leaves their variance (`degrees_of_freedom`): of a good classifier a few hard cases
  make up nearly all of it. A difference, which comes from a few cases, is skewed too; its
  ends are those of Hall's (1992) transformation, whose upper end reaches further. Of 8,000 studies
  with 30 positives, 270 negatives and an area of 0.96 the normal quantile holds 91.6 % of areas and
  92.0 % of differences, and 7.6 % lie above their upper end; so changed, 94.3, 93.3 and 5.6 %.
  With some 16 patients of 5 images on one side it stays at 92.8 % of differences and 6.6 %.
- Where the variance is 0 or unknown (no case out of order, one unit on a side), one area has
  Newcombe's score limits, two differing areas combine theirs by square-and-add as if independent
  (Zou and Donner 2008), and equal areas of equal placements are taken for a paired proportion with
  no discordant case (Tango 1998): ``z^2 / (m + z^2)`` for the m units of the smaller side. Where
  some pairs are out of order, the same ones for both, the first to change places would have been
  seen: a difference such as one pair gives is left open, ``t sqrt(2) / (p q)``, t on one degree of
  freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.records.result import Interval
from clinipress.stats.intervals import (
    auroc_score_limits,
    degrees_of_freedom,
    effective_units,
    further_unit,
    is_clustered,
    t_value,
    z_value,
)

__all__ = ["Placements", "auroc_difference", "auroc_interval", "delong_variance", "placements"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_ROUNDING = 1e-28  # variances below it are roundings of placements that are all alike


@dataclass(frozen=True)
class Placements:
    """Where each case stands among those of the other side.

    Attributes:
        area: Area under the ROC curve.
        positives: Of each positive, the share of negatives below it, float64 ``[p]``.
        negatives: Of each negative, the share of positives above it, float64 ``[q]``.
    """

    area: float
    positives: Floats
    negatives: Floats


def placements(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Placements | None:
    """Placements of all cases, ties counting one half.

    Args:
        scores: Floating ``[n]``, higher for positives.
        positive: bool ``[n]``.

    Returns:
        The placements in the order of the cases, or None when one side is empty.
    """
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        return None
    of_positives = _share_below(below, above)
    of_negatives = 1 - _share_below(above, below)
    return Placements(float(of_positives.mean()), of_positives, of_negatives)


def _share_below(others: NDArray[np.floating], mine: NDArray[np.floating]) -> Floats:
    """Share of `others` below each of `mine`, a tie counting one half: midranks less own ranks."""
    ordered = np.sort(others)
    left = np.searchsorted(ordered, mine, side="left")
    right = np.searchsorted(ordered, mine, side="right")
    return np.asarray((left + right) / (2 * len(ordered)), np.float64)


def delong_variance(
    placement: Placements, positive: NDArray[np.bool_], index: Integers
) -> tuple[float, float, float]:
    """Variance of the area, the degrees of freedom it is known with, and its skewness.

    Also that of a difference of two areas, given the differences of their placements. With sums
    ``a_u`` over unit u's p_u positives of (placement - area) and ``b_u`` over its negatives,
    ``c_p / (c_p - 1) sum a_u^2 / p^2 + c_q / (c_q - 1) sum b_u^2 / q^2
    + 2 c / (c - 1) sum a_u b_u / (p q)``: c units, of which c_p have positives, c_q negatives.
    Where units hold several images, the p below a unit's sum is that of the other units, times
    ``c_p / (c_p - 1)``, and likewise q (the jackknife, as in `design_effect`; the same where units
    are of one size), and the variance is that with a `further_unit`.

    Args:
        placement: Placements, or differences of placements.
        positive: bool ``[n]``.
        index: Unit of each case, int64 ``[n]``.

    Returns:
        Variance, NaN where a side has only one unit; its degrees of freedom; the skewness of the
        area's own distribution, ``sum x^3 / (sum x^2)^1.5`` of the units' ``a_u / p + b_u / q``.
    """
    sides = index[positive], index[~positive]
    units, dense = np.unique(index, return_inverse=True)
    counts = [len(np.unique(side)) for side in sides]
    if min(counts) < 2:
        return math.nan, math.inf, 0.0
    own, other = (
        np.bincount(dense[side], values - values.mean(), minlength=len(units))
        / (side.sum() - np.bincount(dense[side], minlength=len(units)))
        * ((c - 1) / c)
        for c, side, values in zip(
            counts, (positive, ~positive), (placement.positives, placement.negatives), strict=True
        )
    )
    variance = sum(
        c / (c - 1) * float(share @ share) for c, share in zip(counts, (own, other), strict=True)
    )
    variance += 2 * len(units) / (len(units) - 1) * float(own @ other)
    together = own + other
    size = float(together @ together)
    skewness = float((together**3).sum()) / size**1.5 if size > _ROUNDING else 0.0
    if size > _ROUNDING and is_clustered(index):
        variance *= further_unit(together, min(map(effective_units, sides)))
    return max(variance, 0.0), degrees_of_freedom(together), skewness


def auroc_interval(
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    index: Integers,
    confidence: float = 0.95,
) -> Interval | None:
    """Area under the ROC curve of one class against the rest.

    ``logit(area) +- t se / (area (1 - area))``, turned back (Pepe 2003, section 5.2.4).

    Args:
        scores: Floating ``[n]``, higher for positives.
        positive: bool ``[n]``.
        index: Unit of each case, int64 ``[n]``.
        confidence: Two-sided coverage aimed at.

    Returns:
        The area, or None when one side is empty.
    """
    placement = placements(scores, positive)
    if placement is None:
        return None
    area = placement.area
    variance, freedom, _ = delong_variance(placement, positive, index)
    if variance > _ROUNDING and 0 < area < 1:
        spread = t_value(freedom, confidence) * math.sqrt(variance) / (area * (1 - area))
        middle = math.log(area / (1 - area))
        low, high = _logistic(middle - spread), _logistic(middle + spread)
        method = "delong"
    else:
        low, high = _score_limits(area, positive, index, confidence)
        method = "newcombe"
    return _interval(area, low, high, method, index, confidence)


def auroc_difference(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    positive: NDArray[np.bool_],
    index: Integers,
    confidence: float = 0.95,
) -> Interval | None:
    """Difference of two areas on the same cases, first minus second.

    ``d -+ se g(+-t)``, g undoing the skewness of the studentised difference d (`_unskewed`).

    Args:
        first: The one classifier's scores, floating ``[n]``.
        second: The other's, same cases.
        positive: bool ``[n]``.
        index: Unit of each case, int64 ``[n]``.
        confidence: Two-sided coverage aimed at.

    Returns:
        The difference, or None when one side is empty.
    """
    own, other = placements(first, positive), placements(second, positive)
    if own is None or other is None:
        return None
    value = own.area - other.area
    apart = Placements(value, own.positives - other.positives, own.negatives - other.negatives)
    variance, freedom, skewness = delong_variance(apart, positive, index)
    if variance > _ROUNDING:
        error, t = math.sqrt(variance), t_value(freedom, confidence)
        low, high = (value - error * _unskewed(end, skewness) for end in (t, -t))
        if is_clustered(index):  # few units: the longer of both at each end
            low, high = min(low, value - error * t), max(high, value + error * t)
        return _interval(value, low, high, "delong", index, confidence)
    if abs(value) < 1e-12:
        z2, smaller = z_value(confidence) ** 2, min(_units_by_side(positive, index))
        half = z2 / (smaller + z2)
        if 0 < own.area < 1:
            pairs = len(own.positives) * len(own.negatives)
            half = min(half, t_value(1, confidence) * math.sqrt(2) / pairs)
        return _interval(value, -half, half, "tango", index, confidence)
    low_1, high_1 = _score_limits(own.area, positive, index, confidence)
    low_2, high_2 = _score_limits(other.area, positive, index, confidence)
    low = value - math.hypot(own.area - low_1, high_2 - other.area)
    high = value + math.hypot(high_1 - own.area, other.area - low_2)
    return _interval(value, low, high, "newcombe", index, confidence)


def _unskewed(quantile: float, skewness: float) -> float:
    """Hall's (1992, J R Statist Soc B 54:221) monotone transformation, inverted.

    ``3 / s ((1 + s (x - s / 6))^(1/3) - 1)``, with s the skewness of the estimate.
    """
    if abs(skewness) < 1e-6:
        return quantile
    inner = 1 + skewness * (quantile - skewness / 6)
    return 3 / skewness * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def _units_by_side(positive: NDArray[np.bool_], index: Integers) -> tuple[int, int]:
    return len(np.unique(index[positive])), len(np.unique(index[~positive]))


def _score_limits(
    area: float, positive: NDArray[np.bool_], index: Integers, confidence: float
) -> tuple[float, float]:
    """Newcombe's limits, a unit counting as one case."""
    return auroc_score_limits(area, *_units_by_side(positive, index), confidence)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _interval(
    value: float, low: float, high: float, method: str, index: Integers, confidence: float
) -> Interval:
    return Interval(
        value=value,
        low=min(max(low, -1.0), value),
        high=max(min(high, 1.0), value),
        confidence=confidence,
        method=f"{method}-cluster" if is_clustered(index) else method,
        n=len(index),
    )
