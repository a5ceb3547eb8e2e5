"""How like two saliency maps of one image are: SSIM, Spearman's correlation, overlap of the top."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.records.result import Interval
from clinipress.stats.intervals import is_clustered, percentile_interval, resample, unit_index

__all__ = [
    "METRICS",
    "RANGES",
    "UNKNOWN",
    "iou_top20",
    "mean_interval",
    "similarities",
    "spearman",
    "ssim",
]

Floats = NDArray[np.float64]
Maps = NDArray[np.floating]
METRICS = ("ssim", "spearman", "iou_top20")
RANGES: Mapping[str, tuple[float, float]] = {
    "ssim": (-1.0, 1.0), "spearman": (-1.0, 1.0), "iou_top20": (0.0, 1.0),
}  # fmt: skip
TOP = 0.2
# Wang et al. 2004, section III.B and C
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
RESAMPLES = 2000
UNKNOWN = "one unit: not known"


def spearman(first: Maps, second: Maps) -> Floats:
    """Spearman's rank correlation over the pixels of each image; ties share their mean rank.

    Args:
        first: ``[n, h, w]``.
        second: Likewise.

    Returns:
        float64 ``[n]``; NaN where one of the two maps is of one value alone.
    """
    a, b = (np.stack([_ranks(saliency) for saliency in maps]) for maps in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    correlation = np.divide((a * b).sum(1), spread, out=np.full(len(a), np.nan), where=spread > 0)
    return np.asarray(correlation, np.float64)


def _ranks(values: Maps) -> Floats:
    """Ranks 0, 1, ... of all values, the mean for equal ones."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse.reshape(-1)], np.float64)


def iou_top20(first: Maps, second: Maps) -> Floats:
    """Overlap (intersection over union) of the fifths of the pixels that stand out most.

    Of equal values at the border, the first in reading order belong to the top, so that both tops
    have the same number of pixels.

    Args:
        first: ``[n, h, w]``.
        second: Likewise.

    Returns:
        float64 ``[n]``; NaN where one of the two maps is of one value alone.
    """
    overlap = np.full(len(first), np.nan)
    for row, pair in enumerate(zip(first, second, strict=True)):
        if all(np.ptp(saliency) > 0 for saliency in pair):
            a, b = (_top(saliency) for saliency in pair)
            overlap[row] = (a & b).sum() / (a | b).sum()
    return overlap


def _top(values: Maps) -> NDArray[np.bool_]:
    flat = values.ravel()
    chosen = np.zeros(flat.size, np.bool_)
    chosen[np.argsort(-flat, kind="stable")[: max(1, round(TOP * flat.size))]] = True
    return chosen


def ssim(first: Maps, second: Maps) -> Floats:
    """Structural similarity (Wang et al. 2004, equation 13) of maps in [0, 1].

    Gaussian window of 11 pixels and 1.5 standard deviation, constants 0.01 and 0.03, the mean over
    all windows that lie inside the image. In smaller images the window is as large as fits.

    Args:
        first: ``[n, h, w]`` in [0, 1].
        second: Likewise.

    Returns:
        float64 ``[n]``.
    """
    a, b = (np.asarray(maps, np.float64) for maps in (first, second))
    rows, columns = (_windows(side) for side in a.shape[1:])

    def local(values: Floats) -> Floats:
        return np.asarray(rows @ values @ columns.T, np.float64)

    mean_a, mean_b = local(a), local(b)
    c1, c2 = K1**2, K2**2
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    shape = (2 * both + c2) / (var_a + var_b + c2)
    return np.asarray((light * shape).mean((1, 2)), np.float64)


def _windows(side: int) -> Floats:
    """Weighted means of each window along one axis, float64 ``[windows, side]``."""
    width = min(WINDOW, side)
    weights = np.exp(-((np.arange(width) - (width - 1) / 2) ** 2) / (2 * SIGMA**2))
    matrix = np.zeros((side - width + 1, side))
    for row in range(len(matrix)):
        matrix[row, row : row + width] = weights / weights.sum()
    return matrix


def similarities(reference: Maps, candidate: Maps) -> dict[str, Floats]:
    """All three of each image.

    Where the reference has no map (all of one value) there is nothing to be like: NaN in all three.
    Where it has one and the candidate has none, correlation and overlap are 0: it lost all of it.

    Args:
        reference: float ``[n, h, w]`` in [0, 1].
        candidate: Likewise.

    Returns:
        Metric -> float64 ``[n]``.

    Raises:
        DataError: The two are not of one shape.
    """
    if reference.shape != candidate.shape or reference.ndim != 3:
        raise DataError(f"maps {list(reference.shape)}", f"{list(candidate.shape)}")
    if not len(reference):
        return {name: np.zeros(0) for name in METRICS}
    empty = np.ptp(reference.reshape(len(reference), -1), axis=1) == 0
    figures = {
        "ssim": ssim(reference, candidate),
        "spearman": np.nan_to_num(spearman(reference, candidate)),
        "iou_top20": np.nan_to_num(iou_top20(reference, candidate)),
    }
    return {name: np.where(empty, np.nan, values) for name, values in figures.items()}


def mean_interval(
    values: Floats,
    units: NDArray[np.integer] | None,
    labels: NDArray[np.integer],
    *,
    limits: tuple[float, float],
    seed: int = 0,
) -> Interval | None:
    """Mean of per-image figures, with the percentile bootstrap over units, stratified by class.

    Args:
        values: float64 ``[n]``; NaN where an image has none, which is then left out.
        units: ``[n]``, patient or cluster; None: each image is its own.
        labels: ``[n]``, class of each image.
        limits: Smallest and largest possible value: the interval where a single unit is left, of
            which no spread can be known.
        seed: Of the resamples.

    Returns:
        The interval, or None without a value.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    kept, index = values[known], unit_index(units, len(values))[known]
    index = unit_index(index, len(index))
    count, mean = len(kept), float(kept.mean())
    size = int(index.max()) + 1
    if size < 2:
        low, high = limits
        return Interval(value=mean, low=low, high=high, method=UNKNOWN, n=count)
    sums, sizes = (np.bincount(index, each, size) for each in (kept, np.ones(count)))
    drawn = resample(index, np.asarray(labels, np.int64)[known], RESAMPLES, seed)
    replicates = np.concatenate([(sums @ block) / (sizes @ block) for block in drawn])
    method = "cluster-bootstrap" if is_clustered(index) else "bootstrap"
    return percentile_interval(mean, replicates, method=method, n=count)
