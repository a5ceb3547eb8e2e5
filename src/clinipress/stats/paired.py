"""Paired comparison of two classifiers on the same cases.

Two classifiers that agree on nearly every image are compared on the few on which they differ; two
separate intervals would throw that away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clinipress.records.result import Interval
from clinipress.stats.distributions import binomial_cdf
from clinipress.stats.intervals import effective_size, is_clustered, unit_index, wilson, z_value
from clinipress.stats.metrics import predictions

__all__ = [
    "discordance",
    "margins",
    "mcnemar_exact",
    "nearest",
    "newcombe",
    "paired_difference",
    "precision_difference",
    "tango",
    "tango_score",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
ENOUGH = 20  # events that tell whether those of a unit go together
_HALVINGS = 60  # an interval of length 2 halved 60 times is below one rounding of float64


def mcnemar_exact(lost: int, gained: int) -> float:
    """Exact two-sided McNemar test: binomial with n = lost + gained and p = 1/2.

    ``min(1, 2 P(X <= min(lost, gained)))``; 1 when no case differs. It treats cases as
    independent; with several images of a patient it is too small, and the interval is what counts.
    """
    return min(1.0, 2.0 * binomial_cdf(min(lost, gained), lost + gained, 0.5))


def discordance(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str] = (),
) -> dict[str, float]:
    """Share of cases that only one of the two gets right: what the number of cases needed rests on.

    Args:
        reference_logits: Floating ``[n, k]``.
        candidate_logits: Floating ``[n, k]``.
        labels: Integer ``[n]``.
        classes: k names; without them only "accuracy" is returned.

    Returns:
        "accuracy" and "sensitivity[CLASS]" for each class with a case, in ``[0, 1]``.
    """
    before = predictions(reference_logits) == labels
    differs = before != (predictions(candidate_logits) == labels)
    shares = {"accuracy": float(differs.mean())}
    for index, name in enumerate(classes):
        mine = labels == index
        if mine.any():
            shares[f"sensitivity[{name}]"] = float(differs[mine].mean())
    return shares


def margins(logits: NDArray[np.floating], column: NDArray[np.integer] | int) -> Floats:
    """How far a class's logit stands above the best of the others, float64 ``[n]``.

    Args:
        logits: Floating ``[n, k]``.
        column: The class, one or one per case.
    """
    values, rows = np.array(logits, np.float64), np.arange(len(logits))
    own = values[rows, column].copy()
    values[rows, column] = -np.inf
    return np.asarray(own - values.max(axis=1))


def nearest(
    events: NDArray[np.integer], margin: Floats, moved: Floats, index: Integers
) -> NDArray[np.int64]:
    """Events, and those that would come next until there are 20.

    Few changed answers do not say whether a patient's cases change together; the answers that came
    nearest to changing do. What would change next is what the same movement, a little larger, takes
    across the boundary, then what lies nearest to it. So the interval does not grow again as the
    last changes go, and ends at the bound for none changed. The idea is ours.

    Args:
        events: What happened to each case, in {-1, 0, 1}, ``[n]``.
        margin: How far on the right side each case is, negative on the wrong one, float64 ``[n]``.
        moved: How far the candidate moved it, float64 ``[n]``; 0 for one classifier's own errors.
        index: Unit of each case, int64 ``[n]``.

    Returns:
        int64 ``[n]`` in {-1, 0, 1}.
    """
    missing = ENOUGH - int(np.count_nonzero(events))
    likely = np.array(events, np.int64)
    if missing <= 0 or not is_clustered(index):
        return likely
    towards = margin * moved < 0
    ratio = np.divide(-margin, moved, out=np.full(len(margin), np.inf), where=towards)
    order = np.lexsort((np.abs(margin), ratio, likely != 0))[
        : len(likely) - np.count_nonzero(events)
    ]
    chosen = order[:missing]
    likely[chosen] = np.where(towards[chosen] & (margin[chosen] < 0), 1, -1)
    return likely


def tango_score(lost: float, gained: float, n: float, difference: float) -> float:
    """Tango's score statistic for a difference of paired proportions (1998, Stat Med 17:891).

    With ``p_lost - p_gained = D``, the maximum-likelihood estimate of ``q = p_gained`` under that
    constraint is the larger root of ``2 n q^2 + B q + C = 0``,
    ``B = (2 n - lost + gained) D - (lost + gained)``, ``C = -gained D (1 - D)``, and the score is
    ``(lost - gained - n D) / sqrt(n (2 q + D (1 - D)))``.

    Args:
        lost: Cases that only the reference gets right; need not be whole.
        gained: Cases that only the candidate gets right.
        n: All cases, > 0.
        difference: D in ``[-1, 1]``.

    Returns:
        The score; infinite with the sign of the numerator where the variance is 0, and 0 for 0/0.
    """
    b_term = (2 * n - lost + gained) * difference - (lost + gained)
    c_term = -gained * difference * (1 - difference)
    root = max(b_term * b_term - 8 * n * c_term, 0.0) ** 0.5
    # the plain form (root - B) / 4n cancels when B > 0; both are the same root
    stable = b_term > 0
    share = -2 * c_term / (b_term + root) if stable else (root - b_term) / (4 * n)
    share = max(share, 0.0, -difference)
    variance = n * (2 * share + difference * (1 - difference))
    above = lost - gained - n * difference
    if variance > 0:
        return float(above / variance**0.5)
    return float(np.sign(above) * np.inf) if above else 0.0


def tango(lost: float, gained: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of ``(lost - gained) / n``: all D with ``|tango_score| <= z``.

    Honest where others are not: with no case lost or gained it is ``+- z^2 / (n + z^2)``, not 0.
    The score falls as D rises, so each end is found by halving.
    """
    z, value = z_value(confidence), (lost - gained) / n
    ends = []
    for limit in (-1.0, 1.0):
        inside, outside = value, limit
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if abs(tango_score(lost, gained, n, middle)) <= z:
                inside = middle
            else:
                outside = middle
        ends.append(inside)
    return ends[0], ends[1]


def newcombe(
    both: float, lost: float, gained: float, neither: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of ``(lost - gained) / n`` from two Wilson intervals (Newcombe 1998, method 10).

    ``D - sqrt((p1 - l1)^2 - 2 phi (p1 - l1) (u2 - p2) + (u2 - p2)^2)`` and likewise upwards
    (Stat Med 17:2635), with the continuity-corrected correlation phi: its numerator is
    ``max(both neither - lost gained - n / 2, 0)`` where that product is above 0; phi is 0 where a
    margin of the table is.

    Args:
        both: Cases right by both; need not be whole, as effective numbers are not.
        lost: Right by the reference only.
        gained: Right by the candidate only.
        neither: Wrong by both. Their sum n > 0.
        confidence: Two-sided coverage aimed at.
    """
    n = both + lost + gained + neither
    first, second = (both + lost) / n, (both + gained) / n
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    product = both * neither - lost * gained
    if product > 0:
        product = max(product - n / 2, 0.0)
    phi = product / margins**0.5 if margins > 0 else 0.0
    ends_1 = wilson(min(both + lost, n), n, confidence)
    ends_2 = wilson(min(both + gained, n), n, confidence)
    return _square_and_add(first, ends_1, second, ends_2, phi)


def _square_and_add(
    first: float,
    ends_1: tuple[float, float],
    second: float,
    ends_2: tuple[float, float],
    correlation: float,
) -> tuple[float, float]:
    """Ends of ``first - second`` from the ends of both and how the two are correlated."""

    def joined(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    return (
        first - second - joined(first - ends_1[0], ends_2[1] - second),
        first - second + joined(ends_1[1] - first, second - ends_2[0]),
    )


def precision_difference(
    actual: NDArray[np.bool_],
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    index: Integers,
    confidence: float = 0.95,
    likely: Integers | None = None,
) -> Interval | None:
    """Difference of two precisions, first minus second, whose cases differ between the two.

    With p the mean of both precisions, ``sum first (y - p) / n_1 - sum second (y - p) / n_2`` is
    their difference exactly: each case adds its part, and one called by both next to nothing. These
    parts are taken for events of a paired proportion among the cases that either calls and have
    Tango's interval, on the effective number of cases; an event smaller than a whole one counts by
    the mean size of the events, one whole event more taken as seen. With no call changed the ends
    are those of an accuracy with none changed.

    Args:
        actual: Cases of the class, bool ``[n]``.
        first: Cases that the one classifier calls so, bool ``[n]``.
        second: Cases that the other calls so.
        index: Unit of each case, int64 ``[n]``.
        confidence: Two-sided coverage aimed at.
        likely: Calls added (1) and dropped (-1), and those that would come next (`nearest`),
            int64 ``[n]``.

    Returns:
        The difference, or None where either never calls the class.
    """
    calls = int(first.sum()), int(second.sum())
    if not min(calls):
        return None
    rows = first | second
    right, units, mean = actual[rows], index[rows], sum(calls) / 2
    shares = [float(actual[called].mean()) for called in (first, second)]
    apart = right - sum(shares) / 2
    parts = mean * apart * (first[rows] / calls[0] - second[rows] / calls[1])
    told = apart * ((first[rows] * 1 - second[rows]) if likely is None else likely[rows])
    size = float((parts @ parts + 1) / (np.abs(parts).sum() + 1))
    effective = effective_size(told, units, confidence)
    scale = effective / len(parts)
    more, fewer = (float(np.maximum(side, 0).sum()) / size * scale for side in (parts, -parts))
    stretch = size * len(parts) / mean
    low, high = (stretch * end for end in tango(more, fewer, effective, confidence))
    value = shares[0] - shares[1]
    return Interval(
        value=value,
        low=max(min(low, value), -1.0),
        high=min(max(high, value), 1.0),
        confidence=confidence,
        method="tango-cluster" if is_clustered(index) else "tango",
        n=len(index),
    )


def paired_difference(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    index: Integers | None = None,
    confidence: float = 0.95,
    method: Literal["tango", "newcombe"] = "tango",
    likely: Integers | None = None,
) -> Interval | None:
    """Difference of two proportions on a fixed set of cases, first minus second.

    Tango's interval, or Newcombe's where asked; where units hold several cases, on the effective
    number of cases that the design effect of the paired differences leaves (counts scaled alike).

    Args:
        first: Right or not by the one classifier, bool ``[n]``.
        second: The same by the other, on the same cases.
        index: Unit of each case, int64 ``[n]``; None: each its own.
        confidence: Two-sided coverage aimed at.
        method: "tango" has the better coverage with few discordant cases, and is what every rule
            is judged by; "newcombe" needs no iteration and is what many papers report.
        likely: The differences and those that would come next (`nearest`), to tell how units go
            together where few differ.

    Returns:
        The difference with its interval, or None without a case.
    """
    n = len(first)
    if not n:
        return None
    units = unit_index(None, n) if index is None else index
    more = int(np.count_nonzero(first & ~second))
    fewer = int(np.count_nonzero(~first & second))
    differences = first.astype(np.int64) - second.astype(np.int64)
    effective = effective_size(differences if likely is None else likely, units, confidence)
    scale = effective / n
    if method == "tango":
        low, high = tango(more * scale, fewer * scale, effective, confidence)
    else:
        both = int(np.count_nonzero(first & second))
        neither = n - both - more - fewer
        low, high = newcombe(both * scale, more * scale, fewer * scale, neither * scale, confidence)
    value = (more - fewer) / n
    return Interval(
        value=value,
        low=min(low, value),
        high=max(high, value),
        confidence=confidence,
        method=f"{method}-cluster" if is_clustered(units) else method,
        n=n,
    )
