"""Predictive values at a prevalence that is known; without numpy, as the pages are."""

from __future__ import annotations

from clinipress.records.result import Interval

__all__ = ["complement", "predictive_value"]


def complement(share: Interval) -> Interval:
    """The share of the others."""
    ends = {"value": 1 - share.value, "low": 1 - share.high, "high": 1 - share.low}
    return share.model_copy(update=ends)


def predictive_value(right: Interval, wrong: Interval, prevalence: float) -> Interval | None:
    """Positive predictive value at a prevalence that is known, with its interval.

    ``1 / (1 + R (1 - p) / p)`` with R = wrong / right, the ratio of two independent proportions.
    The limits are those of R by the method of variance estimates recovery from the two Wilson
    intervals (Donner and Zou 2012, Stat Methods Med Res 21:347, equation 9), put into the same
    formula. Unlike the logit intervals of Mercaldo et al. (2007, Stat Med 26:2170) they exist
    where nothing was called wrongly, and carry the effective numbers of cases of patients.

    Args:
        right: Share of the class that is called: the sensitivity.
        wrong: Share of the others that is called: 1 - specificity.
        prevalence: Share of the class, inside (0, 1).

    Returns:
        The value; swap the classes for the negative predictive value. None where nothing was
        called, of which no share can be right.
    """
    if right.value + wrong.value == 0:
        return None
    odds = (1 - prevalence) / prevalence

    def value(above: float, below: float) -> float:
        return below / (below + odds * above) if above + below else 0.0

    least = _ratio_limit(wrong, right)
    most = _ratio_limit(right, wrong)  # of 1 / R
    best = value(wrong.value, right.value)
    return Interval(
        value=best,
        low=min(value(1.0, most), best),
        high=max(value(least, 1.0), best),
        confidence=right.confidence,
        method="ratio of wilson intervals at a fixed prevalence",
        n=(right.n or 0) + (wrong.n or 0),
    )


def _ratio_limit(above: Interval, below: Interval) -> float:
    """Lower limit of above / below (Donner and Zou); 0 where nothing is above.

    Multiplied by its conjugate, since the printed form is 0 / 0 at ``below.high = 2 below.value``.
    """
    product, low, high = above.value * below.value, above.low, below.high
    recovered = low * (2 * above.value - low)
    spread = product**2 - recovered * high * (2 * below.value - high)
    under = product + max(spread, 0.0) ** 0.5
    return recovered / under if under else 0.0
