"""Figures of groups of images, for many resamples of their patients at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.evaluate.family import weighted_sums
from clinipress.evaluate.intervals import (
    basic_interval,
    is_clustered,
    percentile_interval,
    resample,
)
from clinipress.evaluate.metrics import (
    CALIBRATION_BINS,
    RankTable,
    calibration_gaps,
    log_odds,
    predictions,
    rank_table,
    rates,
    weighted_auroc,
)
from clinipress.evaluate.scores import Scores
from clinipress.records import Interval

__all__ = ["Answers", "Replicated", "bootstrap_groups", "drawn_interval", "spread_interval"]

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
class Replicated:
    """Figures of one classifier in one group.

    Attributes:
        values: "accuracy", "balanced_accuracy", "sensitivity[CLASS]", "auroc_macro", "ece" -> the
            figure; NaN or absent where undefined.
        draws: The same names -> replicates, float64 ``[resamples]``.
    """

    values: dict[str, float]
    draws: dict[str, Floats]


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
        found = rates(sums[:k], actual, actual)
        total = actual.sum(axis=0)
        shown = {f"sensitivity[{c}]": found["sensitivity"][i] for i, c in enumerate(classes)}
        shown |= {name: found[name] for name in ("accuracy", "balanced_accuracy")}
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
    asked: Sequence[Answers],
    labels: Integers,
    classes: Sequence[str],
    index: Integers,
    groups: Mapping[str, Integers],
    *,
    resamples: int,
    seed: int,
) -> dict[str, tuple[Replicated, ...]]:
    """Measure every group for every classifier, on the same resamples.

    Units are drawn within their class and group. One with images of several groups counts in each
    of them and is drawn once; without it nothing would tie their figures together.

    Args:
        asked: The classifiers, on the same n images.
        labels: int64 ``[n]``.
        classes: k names.
        index: Unit of each image, int64 ``[n]``.
        groups: Name -> images, int64; no image in two.
        resamples: How many.
        seed: Same seed, same draws.

    Returns:
        Group -> what was found, in the order of `asked`. Means over classes are over those that
        the group has.
    """
    if not groups:
        return {}
    every = np.concatenate(list(groups.values()))
    sizes = [len(rows) for rows in groups.values()]
    dense = np.unique(index[every], return_inverse=True)[1].reshape(-1)
    parts = {}
    for name, units in zip(groups, np.split(dense, np.cumsum(sizes)[:-1]), strict=True):
        mine, local = np.unique(units, return_inverse=True)
        tables = [_Table.of(one, labels, len(classes), groups[name], local) for one in asked]
        parts[name] = _Part(mine, local.reshape(-1), tuple(tables))
    cells = labels[every] * len(groups) + np.repeat(np.arange(len(groups)), sizes)
    blocks: dict[str, list[list[dict[str, Floats]]]] = {name: [] for name in parts}
    for counts in resample(dense, cells, resamples, seed):
        for name, part in parts.items():
            blocks[name].append(part.measure(counts, classes))
    whole = np.ones((int(dense.max()) + 1, 1))
    return {
        name: tuple(
            Replicated(
                {figure: float(value[0]) for figure, value in values.items()},
                {figure: np.concatenate([b[i][figure] for b in blocks[name]]) for figure in values},
            )
            for i, values in enumerate(part.measure(whole, classes))
        )
        for name, part in parts.items()
    }


def drawn_interval(
    name: str,
    values: Mapping[str, float],
    draws: Mapping[str, Floats],
    units: Integers,
    floor: float,
) -> Interval | None:
    """The bootstrap's interval: basic for "ece", which chance pushes upwards, else percentile.

    Args:
        name: The figure.
        values: Its value by that name.
        draws: Its replicates, float64 ``[resamples]``.
        units: Unit of each image, int64 ``[n]``.
        floor: Smallest possible value.

    Returns:
        None where the figure is undefined or there is but one unit.
    """
    if name not in values or len(np.unique(units)) < 2:
        return None
    if name == "ece":
        return _basic(values[name], draws[name], units, floor)
    method = "cluster-bootstrap" if is_clustered(units) else "bootstrap"
    return percentile_interval(values[name], draws[name], method=method, n=len(units))


def _basic(value: float, draws: Floats, units: Integers, floor: float) -> Interval | None:
    method = "cluster-bootstrap" if is_clustered(units) else "bootstrap"
    found = basic_interval(value, draws, method=method, n=len(units), floor=floor)
    return found and found.model_copy(update={"high": min(found.high, 1.0)})


def spread_interval(
    value: float, draws: Floats, units: Integers, *, floor: float, both: bool
) -> Interval | None:
    """Of best minus worst: basic below, percentile above.

    Args:
        value: The spread, or its change.
        draws: Replicates, float64 ``[resamples]``.
        units: Unit of each image, int64 ``[n]``.
        floor: Smallest possible value.
        both: Take the further end of either interval on either side, as for a change of the spread.
    """
    basic = _basic(value, draws, units, floor)
    method = "cluster-bootstrap" if is_clustered(units) else "bootstrap"
    drawn = percentile_interval(value, draws, method=method, n=len(units))
    if basic is None or drawn is None:
        return None
    low, high = basic.low, drawn.high
    if both:
        low, high = min(low, drawn.low), max(high, basic.high)
    return drawn.model_copy(update={"low": low, "high": high})
