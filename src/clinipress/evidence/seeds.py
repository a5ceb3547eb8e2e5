"""Several seeds of one study: how much the training's chance moves each figure.

The intervals of one study say how sure a figure is for that network on those images. Trained again
from another seed the network is another one; the spread over seeds is a second uncertainty that no
interval of a single study holds. The interval here is of the mean over seeds, by Student's t, on
the same images: it does not hold the images' chance, which the single studies' intervals do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from clinipress.errors import DataError
from clinipress.records.metrics import metric_facts
from clinipress.records.result import Interval, SeedSpread
from clinipress.stats.intervals import t_value

__all__ = ["over_seeds"]


def over_seeds(
    studies: Sequence[Mapping[str, Interval]], *, changes: bool = False, confidence: float = 0.95
) -> dict[str, SeedSpread]:
    """Mean, spread and range of each figure over the seeds of a study.

    Args:
        studies: Per seed what `clinipress.evidence.evidence.evidence` or ``changes`` returned, of
            the same images.
        changes: They are changes, which may be below 0.
        confidence: Two-sided coverage of the interval of the mean.

    Returns:
        Metric -> its summary, for metrics that every seed has: a mean over some seeds only would
        compare unlike things.

    Raises:
        DataError: No study.
    """
    if not studies:
        raise DataError("the figures of at least one seed", "none")
    shared = [name for name in studies[0] if all(name in study for study in studies)]
    return {
        name: _summary(name, tuple(study[name].value for study in studies), changes, confidence)
        for name in shared
    }


def _summary(name: str, values: tuple[float, ...], changes: bool, confidence: float) -> SeedSpread:
    n, low, high = len(values), min(values), max(values)
    if n == 1:
        return SeedSpread(values=values, mean=None, deviation=None, low=low, high=high)
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_value(n - 1, confidence) * deviation / math.sqrt(n)
    floor, ceiling = _range(name, changes)
    interval = Interval(
        value=mean,
        low=min(max(mean - half, floor), mean),
        high=max(min(mean + half, ceiling), mean),
        confidence=confidence,
        method="t over seeds",
        n=n,
    )
    return SeedSpread(values=values, mean=interval, deviation=deviation, low=low, high=high)


def _range(name: str, changes: bool) -> tuple[float, float]:
    """Smallest and largest value that the metric, or a change of it, can have."""
    facts = metric_facts(name)
    if facts.high is None:
        return (-math.inf if changes else facts.low), math.inf
    return (facts.low - facts.high if changes else facts.low), (
        facts.high - facts.low if changes else facts.high
    )
