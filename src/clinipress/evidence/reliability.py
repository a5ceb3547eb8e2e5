"""What probabilities are worth: calibration errors, slope and intercept, the reliability diagram.

All of it is about the answer that was given, the class of the highest probability. Slope and
intercept are of the log odds of that answer too; with two classes, where the answer's log odds are
the finding's without their sign, they are of the finding, which is Cox's own definition. The
multinomial recalibration of Van Hoorde et al. (2014, Stat Med 33:2585), with a slope for every
class but one, asks for more cases of each class than most studies have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.evidence.scores import Scores
from clinipress.records.judgement import ReliabilityBin
from clinipress.stats.bootstrap import weighted_sums
from clinipress.stats.intervals import proportion
from clinipress.stats.metrics import (
    CALIBRATION_BINS,
    Cases,
    brier_scores,
    calibration_gaps,
    log_losses,
    log_odds,
    softmax,
)
from clinipress.stats.recalibration import BinnedFit

__all__ = ["CalibrationStatistics", "equal_mass_bins", "reliability"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
POSITION = {"slope": 1, "intercept": 0}  # in a fit of both
MIDDLE = 3 + CALIBRATION_BINS


def equal_mass_bins(top: Floats, bins: int = CALIBRATION_BINS) -> Integers:
    """Bin of each case, int64 ``[n]``, when each bin holds about as many cases.

    Nguyen and O'Connor (2015, EMNLP, section 4.1). Edges are quantiles of `top`, ``[n]``, and ties
    stay together; as in scikit-learn's `calibration_curve`, a bin takes its upper edge and not its
    lower one.
    """
    edges = np.quantile(top, np.linspace(0, 1, bins + 1)[1:-1])
    return np.asarray(np.searchsorted(edges, top, side="left"), np.int64)


def reliability(scores: Scores, index: Integers, temperature: float) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram: 15 bins of equal width of the top probability, empty ones too.

    Args:
        scores: Answers.
        index: Unit of each image, int64 ``[n]``, for Wilson's intervals.
        temperature: What the logits are divided by.
    """
    chances = softmax(scores.logits, temperature)
    bins, _ = calibration_gaps(chances, scores.labels)
    top, right = chances.max(axis=1), chances.argmax(axis=1) == scores.labels
    rows = []
    for number in range(CALIBRATION_BINS):
        mine = bins == number
        rows.append(
            ReliabilityBin(
                low=number / CALIBRATION_BINS,
                high=(number + 1) / CALIBRATION_BINS,
                cases=int(mine.sum()),
                confidence=float(top[mine].mean()) if mine.any() else None,
                accuracy=proportion(right[mine], index[mine]),
            )
        )
    return tuple(rows)


@dataclass(frozen=True)
class CalibrationStatistics:
    """One classifier at one temperature: all that a resample needs.

    Attributes:
        rows: float64 ``[1 + 2 + 15 + 15, units]``: cases, log loss, Brier score, gaps by bin of
            either kind, each added up over the unit's cases.
        fits: "slope" and "intercept" -> their fit to the log odds of the answer (of the finding,
            with two classes); absent where there is none.
    """

    rows: Floats
    fits: dict[str, BinnedFit]

    @classmethod
    def of(cls, cases: Cases, temperature: float, index: Integers) -> CalibrationStatistics:
        """Measure once.

        Args:
            cases: Answers.
            temperature: What the logits are divided by.
            index: Unit of each image, int64 ``[n]``.
        """
        logits, labels = cases.logits / temperature, cases.labels
        chances, every, units = softmax(logits), np.arange(len(labels)), int(index.max()) + 1
        bins, gaps = calibration_gaps(chances, labels)
        losses = log_losses(logits, labels), brier_scores(chances, labels)
        sums = [np.bincount(index, row)[None] for row in (np.ones(len(labels)), *losses)]
        for number in (bins, equal_mass_bins(chances.max(axis=1))):
            cells = np.bincount(number * units + index, gaps, CALIBRATION_BINS * units)
            sums.append(cells.reshape(CALIBRATION_BINS, units))
        shown = cases.positive
        answer = logits.argmax(axis=1) if shown is None else np.full(len(labels), shown)
        x, y = log_odds(logits)[every, answer], labels == answer
        fits = {name: BinnedFit.of(x, y, slope=name == "slope") for name in POSITION}
        rows = np.concatenate(sums).astype(np.float64)
        return cls(rows, {name: fit for name, fit in fits.items() if fit is not None})

    def figures(self, counts: Floats, weights: Floats) -> dict[str, Floats]:
        """All figures by name, ``[m]``; an undefined slope or intercept is absent.

        Args:
            counts: How often each unit counts, float64 ``[units, m]``.
            weights: The same by case, float64 ``[n, m]``.
        """
        refits = {name: fit.refit(weights)[POSITION[name]] for name, fit in self.fits.items()}
        return _means(weighted_sums(self.rows, counts)) | refits


def _means(sums: Floats) -> dict[str, Floats]:
    """Means and calibration errors ``[m]`` from added-up rows ``[33, m]``."""
    return {
        "ece": np.abs(sums[3:MIDDLE]).sum(axis=0) / sums[0],
        "ece_equal_mass": np.abs(sums[MIDDLE:]).sum(axis=0) / sums[0],
        "brier": sums[2] / sums[0],
        "log_loss": sums[1] / sums[0],
    }
