"""Figures of groups of images, for many resamples of their patients at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence.scores import Scores
from clinipress.records.result import Interval
from clinipress.stats.bootstrap import (
    BootstrapSpread,
    bootstrap,
    expanded_interval,
    spread_interval,
    weighted_sums,
)
from clinipress.stats.intervals import is_clustered
from clinipress.stats.metrics import (
    CALIBRATION_BINS,
    RankTable,
    calibration_gaps,
    log_odds,
    predictions,
    rank_table,
    rates,
    weighted_auroc,
)

__all__ = [
    "Answers",
    "bootstrap_groups",
    "change_interval",
    "drawn_interval",
    "gap_interval",
    "gap_of",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """One classifier's answers, worked out once.

    Attributes:
        right: bool ``[n]``.
        odds: Log odds of each class, float64 ``[n, k]``.
        bins: Calibration bin of each image, int64 ``[n]``.
        gaps: Calibrated top probability minus correctness, float64 ``[n]``.
    """

    right: NDArray[np.bool_]
    odds: Floats
    bins: Integers
    gaps: Floats

    @classmethod
    def of(cls, scores: Scores) -> Answers:
        """Of all images of a split."""
        bins, gaps = calibration_gaps(scores.probabilities, scores.labels)
        return cls(predictions(scores.logits) == scores.labels, log_odds(scores.logits), bins, gaps)


@dataclass(frozen=True)
class _Table:
    """One classifier in one group: sums by unit ``[2 k + 15, units]``, one rank table per class."""

    sums: Floats
    ranks: tuple[RankTable, ...]

    @classmethod
    def of(
        cls, answers: Answers, labels: Integers, k: int, rows: Integers, local: Integers
    ) -> _Table:
        mine, every = labels[rows], np.arange(len(rows))
        cells = np.zeros((2 * k + CALIBRATION_BINS, len(rows)))
        cells[mine, every] = answers.right[rows]
        cells[k + mine, every] = 1
        cells[2 * k + answers.bins[rows], every] = answers.gaps[rows]
        sums = np.stack([np.bincount(local, cell) for cell in cells]).astype(np.float64)
        # with two classes one table serves both
        sides = [(c, mine == c) for c in (range(k) if k > 2 else range(1, 2))]
        ranked = [rank_table(answers.odds[rows, c], m) for c, m in sides if m.any() and not m.all()]
        return cls(sums, tuple(ranked))

    def measure(
        self, counts: Floats, weights: NDArray[np.float32], classes: Sequence[str]
    ) -> dict[str, Floats]:
        """Figures ``[m]`` of resamples, counted by unit ``[units, m]`` and by image ``[n, m]``."""
        k = len(classes)
        sums = weighted_sums(self.sums, counts)
        actual = sums[k : 2 * k]
        # no precision is asked for: the cases of a class stand in for those called so
        by_class = rates(sums[:k], actual, actual)
        total = actual.sum(axis=0)
        shown = {f"sensitivity[{c}]": by_class["sensitivity"][i] for i, c in enumerate(classes)}
        shown |= {name: by_class[name] for name in ("accuracy", "balanced_accuracy")}
        shown["ece"] = np.where(
            total > 0, np.abs(sums[2 * k :]).sum(axis=0) / np.maximum(total, 1), np.nan
        )
        if self.ranks:
            areas = [weighted_auroc(ranks, weights) for ranks in self.ranks]
            shown["auroc_macro"] = np.mean(areas, axis=0)
        return shown


@dataclass(frozen=True)
class _Part:
    """One group: which of the drawn units are in it, and a table of each classifier."""

    units: Integers
    local: Integers
    tables: tuple[_Table, ...]

    def measure(self, counts: Floats, classes: Sequence[str]) -> list[dict[str, Floats]]:
        drawn = counts[self.units]
        weights = drawn.astype(np.float32)[self.local]
        return [table.measure(drawn, weights, classes) for table in self.tables]


def bootstrap_groups(
    classifiers: Sequence[Answers],
    labels: Integers,
    classes: Sequence[str],
    index: Integers,
    groups: Mapping[str, Integers],
    *,
    resamples: int,
    seed: int,
) -> dict[str, tuple[dict[str, BootstrapSpread], ...]]:
    """Measure every group for every classifier, on the same resamples.

    Units are drawn within their class and group. One with images of several groups counts in each
    of them and is drawn once; without it nothing would tie their figures together.

    Args:
        classifiers: The classifiers, on the same n images.
        labels: int64 ``[n]``.
        classes: k names.
        index: Unit of each image, int64 ``[n]``.
        groups: Name -> images, int64; no image in two.
        resamples: How many.
        seed: Same seed, same draws.

    Returns:
        Group -> for each of `classifiers`, "accuracy", "balanced_accuracy", "sensitivity[CLASS]",
        "auroc_macro" and "ece"; NaN or absent where undefined. Means over classes are over those
        that the group has.
    """
    if not groups:
        return {}
    every = np.concatenate(list(groups.values()))
    sizes = [len(rows) for rows in groups.values()]
    dense = np.unique(index[every], return_inverse=True)[1].reshape(-1)
    parts = {}
    for name, units in zip(groups, np.split(dense, np.cumsum(sizes)[:-1]), strict=True):
        mine, local = np.unique(units, return_inverse=True)
        tables = [
            _Table.of(answers, labels, len(classes), groups[name], local) for answers in classifiers
        ]
        parts[name] = _Part(mine, local.reshape(-1), tuple(tables))
    cells = labels[every] * len(groups) + np.repeat(np.arange(len(groups)), sizes)

    def measure(counts: Floats) -> list[dict[str, Floats]]:
        return [figures for part in parts.values() for figures in part.measure(counts, classes)]

    spreads = bootstrap(measure, dense, cells, resamples, seed)
    per = len(classifiers)
    return {name: tuple(spreads[per * i : per * (i + 1)]) for i, name in enumerate(parts)}


def drawn_interval(
    name: str, spread: BootstrapSpread, units: Integers, floor: float, carried: float = math.inf
) -> Interval | None:
    """As `spread_interval`, of a group of units; none where there is but one."""
    if len(np.unique(units)) < 2:
        return None
    return spread_interval(name, spread, units, floor, carried)


def gap_of(groups: Sequence[BootstrapSpread]) -> BootstrapSpread:
    """Best minus worst, the groups being chosen anew in every resample."""
    return BootstrapSpread(
        float(np.ptp([spread.value for spread in groups])),
        np.ptp([spread.resampled for spread in groups], axis=0),
        np.ptp([spread.left_out for spread in groups], axis=0),
    )


def gap_interval(gap: BootstrapSpread, units: Integers) -> Interval | None:
    """Of best minus worst: below the percentile interval turned about the gap, above itself."""
    drawn = _percentiles(gap, units)
    if drawn is None:
        return None
    low = max(2 * gap.value - drawn.high, 0.0)
    return drawn.model_copy(update={"low": min(low, gap.value)})


def change_interval(
    before: Sequence[BootstrapSpread], after: Sequence[BootstrapSpread], units: Integers
) -> Interval | None:
    """How a gap changed: no higher than the upper end of any two groups' moving apart.

    Chance makes a gap larger than it is, and most so where groups are equal, so a gap that
    compression opens seems to have opened less than it did. But the gap there is now is the
    difference of some two groups, which before was no larger than the gap there was; so the change
    is at most the largest change of a difference, and the largest of their upper ends bounds it
    with the confidence that each has alone (as in an intersection-union test). The lower end is the
    further one of the percentile interval and of the same turned about the change.

    Args:
        before: A figure of each group of the reference.
        after: The same of the candidate, on the same draws.
        units: Unit of each image, int64 ``[n]``.
    """
    drawn = _percentiles(gap_of(after) - gap_of(before), units)
    changes = [now - was for was, now in zip(before, after, strict=True)]
    apart = [_percentiles(change - other, units) for change, other in combinations(changes, 2)]
    known = [pair for pair in apart if pair is not None]
    if drawn is None or len(known) < len(apart):
        return None
    low = max(min(drawn.low, 2 * drawn.value - drawn.high), -1.0)
    high = max(max(pair.high, -pair.low) for pair in known)
    return drawn.model_copy(update={"low": low, "high": max(min(high, 1.0), drawn.value)})


def _percentiles(spread: BootstrapSpread, units: Integers) -> Interval | None:
    method = "cluster-bootstrap" if is_clustered(units) else "bootstrap"
    return expanded_interval(spread, method=method, n=len(units))
