"""Intervals of single figures: Wilson with a design effect, and the bootstrap over units.

Images of one patient, or near-duplicates of one picture, are not independent cases. Proportions
are corrected by the design effect of Rao and Scott (1992, Biometrics 48:577); everything else is
resampled by whole units. With no units given, each image is its own unit and both reduce to the
textbook methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clinipress.records.result import Interval
from clinipress.stats.distributions import student_t_quantile

__all__ = [
    "auroc_score_limits",
    "degrees_of_freedom",
    "design_effect",
    "effective_size",
    "effective_units",
    "f1_of_jaccard",
    "further_unit",
    "is_clustered",
    "percentile_interval",
    "proportion",
    "resample",
    "strata",
    "t_value",
    "unit_index",
    "wilson",
    "with_ends",
    "z_value",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
FURTHER = 10.0  # effective units at which one more like the most extreme counts once
BLOCK_ELEMENTS = 2**19  # of [units, resamples]: 4 MB of float64, which stays in a core's cache


def z_value(confidence: float) -> float:
    """Standard normal quantile of a two-sided interval: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def t_value(freedom: float, confidence: float = 0.95) -> float:
    """Quantile of Student's t of a two-sided interval; the normal one at infinite freedom."""
    return student_t_quantile((1 + confidence) / 2, freedom)


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), without continuity correction.

    The set of pi with ``|p - pi| <= z sqrt(pi (1 - pi) / n)``; for fixed p a smaller n always
    gives a wider interval that contains the narrower one.

    Args:
        successes: In ``[0, n]``; need not be whole, as an effective number is not.
        n: Number of cases, or the effective number, > 0.
        confidence: Two-sided coverage aimed at.
    """
    z2, p = z_value(confidence) ** 2, successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (p * (1 - p) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    # at 0 and 1 the end is exact in theory and one rounding off in floating point
    low = 0.0 if successes <= 0 else min(max(centre - half, 0.0), p)
    high = 1.0 if successes >= n else max(min(centre + half, 1.0), p)
    return low, high


def unit_index(units: NDArray[np.integer] | None, n: int) -> Integers:
    """Units renumbered 0, 1, ... ``[n]``; each case its own when none are given."""
    if units is None:
        return np.arange(n, dtype=np.int64)
    return np.asarray(np.unique(np.asarray(units), return_inverse=True)[1], np.int64).reshape(-1)


def is_clustered(index: Integers) -> bool:
    """True when some unit has more than one case."""
    return bool(len(index) and np.bincount(index).max() > 1)


def design_effect(values: NDArray[np.number] | NDArray[np.bool_], index: Integers) -> float:
    """How many times larger the variance of a mean is because cases come in units; at least 1.

    The estimate is the linearised cluster variance (Rao and Scott 1992),
    ``(m - 1) / m * sum_u (sum_{i in u} (y_i - mean) / (1 - n_u / n))^2 / n^2``, over the variance
    ``s^2 / n`` of independent cases; each unit's sum is divided by the share of cases outside it,
    since a large unit draws the mean to itself (the jackknife's estimate, CR3: Bell and McCaffrey
    2002, Survey Methodology 28:169; ``m / (m - 1)`` where units are of one size), and there is a
    `further_unit`. It says little
    when events are rare and nothing when there are none, so it is averaged with the worst case,
    ``sum n_u^2 / n`` (all cases of a unit alike; Kish 1965), as if one pair of fully alike cases
    had been seen: ``(W D + K) / (W + 1)`` where W is the number of pairs of an event with another
    case of its unit. This averaging is ours; without it one error would give a narrower interval
    than none.

    Args:
        values: One number per case, ``[n]``: correct or not (0, 1), or a paired difference
            (-1, 0, 1). Events are the cases that differ from the commonest value.
        index: Unit of each case, int64 ``[n]``, as `unit_index` gives.
    """
    y = np.asarray(values, np.float64)
    _, dense = np.unique(index, return_inverse=True)
    sizes = np.bincount(dense).astype(np.float64)
    n, m = float(len(y)), len(sizes)
    worst = float((sizes**2).sum() / n)
    spread = float(((y - y.mean()) ** 2).mean())
    if m < 2 or spread == 0 or m == n:
        return max(1.0, worst)
    sums = _unit_sums(y, dense, sizes)
    more = further_unit(sums, effective_units(dense)) if sums.any() else 1.0
    plain = (m - 1) / m * float((sums**2).sum()) / (n * spread)
    estimate = max(1.0, plain, min(more * plain, worst))
    levels, counts = np.unique(y, return_counts=True)
    events = y != levels[counts.argmax()]
    pairs = float((sizes[dense][events] - 1).sum())
    return (pairs * estimate + worst) / (pairs + 1)


def _unit_sums(y: Floats, dense: Integers, sizes: Floats) -> Floats:
    """What each unit adds to a mean beside what the others do, float64 ``[m]``."""
    return np.asarray(np.bincount(dense, y - y.mean()) / (1 - sizes / len(y)))


def effective_units(index: Integers) -> float:
    """Units of one size that carry as much as these, ``n^2 / sum n_u^2`` (Kish 1965); 0 for none.

    Where one patient holds three quarters of the cases it is below 2, however many others there
    are.
    """
    sizes = np.bincount(index).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(index) else 0.0


def further_unit(sums: Floats, units: float) -> float:
    """How much larger a variance is with one more unit like the most extreme, weighed; at least 1.

    The mean of few skewed values is most often too good, for the hard patient is not among them;
    its variance is then too small as well. ``1 + (10 / units) max x^2 / sum x^2`` is ours; what
    it does is in ``benchmarks/simulation.py``.

    Args:
        sums: What each unit adds, centred, float64 ``[m]``, not all 0.
        units: Effective number of them.
    """
    squares = sums**2
    return float(1 + FURTHER / max(units, 1.0) * squares.max() / squares.sum())


def effective_size(
    values: NDArray[np.number] | NDArray[np.bool_], index: Integers, confidence: float = 0.95
) -> float:
    """Number of independent cases that would tell as much as these, in ``[1, n]``.

    ``n / design effect``, times ``(z / t)^2`` because the design effect is itself estimated (Korn
    and Graubard 1998, Survey Methodology 24:193). The degrees of freedom of t are those of a
    variance of m unit sums with their kurtosis, ``2 m / (kurtosis - 1)``, from 1 to m - 1: few when
    a handful of units makes up all the variance, as rare flips of whole patients do. This never
    goes below ``n^2 / sum n_u^2``, the number when all cases of a unit are alike, since the
    intervals made from it are themselves good at small numbers. Exactly n when every unit is one
    case.

    Limit: where whole patients flip, but so few of them that a study may well hold none, nothing
    in its data says so. In simulation (60 patients of 10 images, 1.4 patients expected to flip)
    the upper end of a paired difference was too low in 11 % of studies instead of 2.5 %.
    Nor is the interval too wide for nothing. Where compression changes all patients alike a paired
    difference of 60 holds the truth in 97 to 98 %; where it changes some much more than others (22
    patients, a factor with a deviation of 0.7 of its logarithm) false passes are 4.4 %, and 5.9 %
    without the further unit (``benchmarks/README.md``).

    Args:
        values: One number per case, as for `design_effect`.
        index: Unit of each case, int64 ``[n]``.
        confidence: Two-sided coverage of the interval to be made.
    """
    n = len(values)
    _, dense = np.unique(index, return_inverse=True)
    sizes = np.bincount(dense).astype(np.float64)
    m = len(sizes)
    if m == n:
        return float(n)
    plain = n / design_effect(values, dense)
    effective = plain
    if m > 1:
        freedom = degrees_of_freedom(_unit_sums(np.asarray(values, np.float64), dense, sizes))
        shrink = (z_value(confidence) / t_value(freedom, confidence)) ** 2
        effective = max(plain * shrink, min(plain, n * n / float((sizes**2).sum())))
    return float(min(max(effective, 1.0), n))


def degrees_of_freedom(sums: Floats) -> float:
    """Of a variance of m values, from 1 to m - 1, matched to its own, ``(mu_4 - mu_2^2) / m``.

    Args:
        sums: One centred sum per unit, float64 ``[m]``, m >= 2.
    """
    m, second = len(sums), float((sums**2).mean())
    if second == 0:
        return m - 1
    kurtosis = float((sums**4).mean()) / second**2
    return min(max(2 * m / max(kurtosis - 1, 1e-9), 1.0), m - 1)


def proportion(
    hits: NDArray[np.bool_],
    index: Integers,
    confidence: float = 0.95,
    likely: NDArray[np.bool_] | None = None,
) -> Interval | None:
    """Share of hits with Wilson's interval, on the effective number of cases.

    Args:
        hits: bool ``[n]``.
        index: Unit of each case, int64 ``[n]``.
        confidence: Two-sided coverage aimed at.
        likely: The same with the misses that would come next (`clinipress.stats.paired.nearest`),
            bool ``[n]``, to tell how units go together where there are few.

    Returns:
        The interval, or None without a case. Never narrower than the simple Wilson interval.
    """
    n = len(hits)
    if not n:
        return None
    told = hits if likely is None else likely
    successes, effective = int(np.count_nonzero(hits)), effective_size(told, index, confidence)
    low, high = wilson(successes * effective / n, effective, confidence)
    if successes == n:
        high = 1.0
    method = "wilson-cluster" if is_clustered(index) else "wilson"
    return _containing(successes / n, low, high, method=method, n=n, confidence=confidence)


def f1_of_jaccard(jaccard: Interval) -> Interval:
    """The F1 score 2 J / (1 + J), which rises with J."""
    ends = {name: getattr(jaccard, name) for name in ("value", "low", "high")}
    return jaccard.model_copy(update={name: 2 * x / (1 + x) for name, x in ends.items()})


def with_ends(interval: Interval, ends: Sequence[tuple[float, float]]) -> Interval:
    """The interval of a mean of parts, from the parts' own ends: too wide, which is safe."""
    low, high = np.mean(ends, axis=0)
    update = {
        "low": min(float(low), interval.value),
        "high": max(float(high), interval.value),
        "method": "score intervals of the parts",
    }
    return interval.model_copy(update=update)


def auroc_score_limits(
    value: float, positives: float, negatives: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Score-type interval of an area under the ROC curve (Newcombe 2006, method 5).

    Solves ``|v - a| = z sqrt(a (1 - a) (1 + N (1 - a) / (2 - a) + N a / (1 + a)) / (P Q))`` for a,
    ``N = (P + Q) / 2 - 1``. Used where the bootstrap has no width: at a value of 1 or 0.

    Args:
        value: The estimated area.
        positives: (Effective) number P of positives, > 0.
        negatives: (Effective) number Q of negatives, > 0.
        confidence: Two-sided coverage aimed at.
    """
    z2, spare = z_value(confidence) ** 2, max((positives + negatives) / 2 - 1, 0.0)

    def outside(area: float) -> bool:
        shape = 1 + spare * (1 - area) / (2 - area) + spare * area / (1 + area)
        variance = area * (1 - area) * shape / (positives * negatives)
        return (value - area) ** 2 > z2 * variance

    ends = []
    for limit in (0.0, 1.0):
        inner, outer = value, limit
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if outside(middle) else (middle, outer)
        ends.append(inner)
    return ends[0], ends[1]


def strata(index: Integers, labels: Integers) -> Integers:
    """Stratum of each unit, int64 ``[units]``: its class.

    Units of mixed classes share one stratum, and so do units that are alone in their class: drawn
    from a stratum of their own they would never vary.
    """
    m, mixed = int(index.max()) + 1, int(labels.max()) + 1
    low, high = np.full(m, mixed), np.full(m, -1)
    np.minimum.at(low, index, labels)
    np.maximum.at(high, index, labels)
    group = np.where(low == high, low, mixed)
    alone = np.bincount(group, minlength=mixed + 1)[group] < 2
    return np.asarray(np.where(alone, mixed, group), np.int64)


def resample(index: Integers, labels: Integers, resamples: int, seed: int) -> Iterator[Floats]:
    """Draw units with replacement within their strata; how often each was drawn, block by block.

    The same units, labels, number and seed give the same draws, so that two models asked about the
    same cases are compared on the same resamples.

    Yields:
        float64 ``[units, block]``; the blocks' second axes add up to `resamples`.
    """
    group = strata(index, labels)
    members = [np.flatnonzero(group == level) for level in np.unique(group)]
    # rows shorter than a cache line or two cost more than the cache saves
    block = int(np.clip(BLOCK_ELEMENTS // len(group), 16, 256))
    random = np.random.default_rng(seed)
    for first in range(0, resamples, block):
        width = min(block, resamples - first)
        counts = np.empty((len(group), width))
        for rows in members:
            drawn = random.integers(0, len(rows), size=(len(rows), width))
            cells = (drawn * width + np.arange(width)).reshape(-1)
            counts[rows] = np.bincount(cells, minlength=len(rows) * width).reshape(-1, width)
        yield counts


def percentile_interval(
    value: float,
    replicates: Floats,
    *,
    method: str,
    n: int,
    confidence: float = 0.95,
    freedom: float = np.inf,
) -> Interval | None:
    """Percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Args:
        value: The estimate.
        replicates: float64 ``[m]``.
        method: Name to record.
        n: Number of cases.
        confidence: Two-sided coverage aimed at.
        freedom: Degrees of freedom; when finite the tails are those that Student's t leaves beyond
            its own quantile in a normal distribution (Hesterberg 2015).

    Returns:
        The interval, stretched to contain the value; None when the value, or more than half of
        the replicates, is undefined.
    """
    defined = replicates[np.isfinite(replicates)]
    if not np.isfinite(value) or 2 * len(defined) <= len(replicates):
        return None
    tail = NormalDist().cdf(-t_value(freedom, confidence))
    low, high = (float(end) for end in np.quantile(defined, [tail, 1 - tail]))
    return _containing(value, low, high, method=method, n=n, confidence=confidence)


def _containing(
    value: float, low: float, high: float, *, method: str, n: int, confidence: float
) -> Interval:
    """An interval stretched to contain its value, which rounding or resampling may leave out."""
    return Interval(
        value=value,
        low=min(low, value),
        high=max(high, value),
        confidence=confidence,
        method=method,
        n=n,
    )
