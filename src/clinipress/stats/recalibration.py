"""Calibration slope and intercept: logistic recalibration of log odds, once and for resamples.

Cox (1958, Biometrika 45:562): ``logit P(right) = a + b x`` with x the log odds that the classifier
gave. The slope is b of that fit, 1 if right, below 1 where answers are too sure; the intercept is a
of ``logit P(right) = a + x`` (calibration in the large), 0 if right, below 0 where the
probabilities are too high altogether (Van Calster et al. 2019, BMC Medicine 17:230).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BinnedFit", "recalibrate"]

Floats = NDArray[np.float64]
Counts = NDArray[np.float64] | NDArray[np.bool_]
CLIP = 30.0  # beyond it a probability differs from 0 or 1 by 1e-13
BINS = 512
WIDTHS = 64  # bins of equal width among them, for the tails that decide a slope
SETTLED, UNSETTLED = 1e-6, 0.1  # last step of Newton: small enough, too large to be used
STEPS = 8  # of Newton, from the fit of the whole: each squares an error that begins at 1 / n


def recalibrate(x: Floats, y: NDArray[np.bool_], *, slope: bool) -> Floats | None:
    """Maximum-likelihood fit by Newton's method, halving steps that overshoot.

    Args:
        x: Log odds that were given, float64 ``[n]``.
        y: Whether it came true, bool ``[n]``.
        slope: Fit (a, b); else a alone with b held at 1.

    Returns:
        float64 ``[2]``: a and b. None where the likelihood has no maximum: everything came true or
        nothing did; and with a slope, x is constant or parts what came true from what did not.
    """
    if y.all() or not y.any() or (slope and _parted(x, y)):
        return None
    fit, loss = np.array([0.0, 1.0]), np.inf
    step = np.zeros(2)
    for _ in range(200):
        eta = fit[0] + step[0] + (fit[1] + step[1]) * x
        tried = float(np.mean(np.logaddexp(0, eta) - y * eta))
        if tried > loss:
            step = step / 2
            continue
        fit, gained, loss = fit + step, loss - tried, tried
        if gained < 1e-15:
            break
        step = _newton_step(x, ~y[:, None], y[:, None], fit[:, None], slope)[:, 0]
    return fit


def _parted(x: Floats, y: NDArray[np.bool_]) -> bool:
    yes, no = x[y], x[~y]
    return bool(no.max() <= yes.min() or yes.max() <= no.min())


def _newton_step(x: Floats, no: Counts, yes: Counts, at: Floats, slope: bool) -> Floats:
    """Newton steps ``[2, m]`` of m fits.

    Args:
        x: Log odds, ``[b]``.
        no: How often they did not come true, ``[b, m]``.
        yes: How often they did, ``[b, m]``.
        at: a and b of each fit, ``[2, m]``.
        slope: Whether b moves.
    """
    column = x[:, None]
    chance = 1 / (1 + np.exp(-np.clip(at[0] + at[1] * column, -CLIP, CLIP)))
    spread = (no + yes) * chance
    rest = yes - spread
    spread *= 1 - chance
    g0, h00 = rest.sum(axis=0), spread.sum(axis=0)
    if not slope:
        return np.stack([_over(g0, h00), np.zeros_like(g0)])
    # einsum: a product of matrices would wake a BLAS and its threads for every little block
    g1, h01 = np.einsum("b,bm->m", x, rest), np.einsum("b,bm->m", x, spread)
    h11 = np.einsum("b,bm->m", x * x, spread)
    area = h00 * h11 - h01 * h01
    return np.stack([_over(h11 * g0 - h01 * g1, area), _over(h00 * g1 - h01 * g0, area)])


def _over(above: Floats, below: Floats) -> Floats:
    """Quotient, NaN where nothing is left to divide by."""
    nothing = np.full(above.shape, np.nan)
    return np.asarray(np.divide(above, below, out=nothing, where=below > 1e-12))


@dataclass(frozen=True)
class BinnedFit:
    """Log odds in bins, to be fitted again for many resamples.

    Within a bin all cases take their mean; what that changes in the fit of the whole split is
    taken off every resample, so that a resample's fit is the whole's plus what drawing moved.
    Up to 512 distinct log odds nothing is changed; beyond, 192 bins of equal mass are cut by 64 of
    equal width.

    Attributes:
        whole: a and b of the whole split, float64 ``[2]``.
        coarse: The same from the bins.
        slope: Whether b was fitted.
        x: Mean log odds of each bin, ``[b]``.
        order: Cases that did not come true by bin, then those that did, int64 ``[n]``.
        starts: Where in `order` each bin with a case begins, int64 ``[c]``.
        cells: Row of each of them in a table of no above yes, int64 ``[c]`` in ``[0, 2 b)``.
    """

    whole: Floats
    coarse: Floats
    slope: bool
    x: Floats
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    cells: NDArray[np.int64]

    @classmethod
    def of(cls, x: Floats, y: NDArray[np.bool_], *, slope: bool) -> BinnedFit | None:
        """Fit the whole; None where `recalibrate` finds nothing."""
        whole = recalibrate(x, y, slope=slope)
        if whole is None:
            return None
        levels = np.unique(x)
        if len(levels) > BINS:
            mass = np.quantile(x, np.linspace(0, 1, BINS // 2 - WIDTHS + 1)[1:])
            levels = np.unique(np.concatenate([mass, np.linspace(x.min(), x.max(), WIDTHS)]))
        bins = np.searchsorted(levels, x)
        sizes = np.bincount(bins, minlength=len(levels))
        means = np.bincount(bins, x, minlength=len(levels)) / np.maximum(sizes, 1)
        cell = bins + len(levels) * y
        order = np.argsort(cell, kind="stable")
        cells, starts = np.unique(cell[order], return_index=True)
        coarse = recalibrate(means[bins], y, slope=slope)
        if coarse is None:
            return None
        return cls(whole, coarse, slope, means, order, starts, cells)

    def refit(self, weights: Floats) -> Floats:
        """Fit resamples.

        Args:
            weights: How often each case was drawn, float64 ``[n, m]``.

        Returns:
            a and b, float64 ``[2, m]``; NaN where a resample has no maximum.
        """
        table = np.zeros((2 * len(self.x), weights.shape[1]))
        table[self.cells] = np.add.reduceat(weights[self.order], self.starts, axis=0)
        no, yes = table[: len(self.x)], table[len(self.x) :]
        fits = np.repeat(self.coarse[:, None], weights.shape[1], axis=1)
        step = fits
        for _ in range(STEPS):
            step = _newton_step(self.x, no, yes, fits, self.slope)
            fits = fits + step
            if np.nanmax(np.abs(step), initial=0.0) < SETTLED:
                break
        one_sided = (no.sum(axis=0) == 0) | (yes.sum(axis=0) == 0)
        lost = one_sided | ~(np.abs(step).max(axis=0) < UNSETTLED)
        return np.where(lost, np.nan, fits + (self.whole - self.coarse)[:, None])
