"""Ranges of activations for 8-bit files, found on calibration images.

    minmax      every value fits
    percentile  the outermost 0.001 % do not
    entropy     the range whose quantized histogram diverges least (Kullback-Leibler)
    mse         the range with the least squared error of rounding and clipping together

The first three are onnxruntime's own calibrators; the last is here (`mse_range`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clinipress.formats.onnx.run import INPUT_NAME, images_per_call

__all__ = ["Method", "Ranges", "find_ranges", "mse_range", "quiet", "with_zero"]

Method = Literal["minmax", "percentile", "entropy", "mse"]
Ranges = dict[str, tuple[float, float]]

CALIBRATION_BATCH = 8
# "mse" reads the histograms that the percentile method collects
ENGINE_METHODS = {
    "minmax": "MinMax",
    "percentile": "Percentile",
    "entropy": "Entropy",
    "mse": "Percentile",
}
# Shares of the full range that `mse_range` tries for each end, in steps of 2 %.
SHARES = np.linspace(1.0, 0.2, 41)
REFINEMENTS = 2


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what engines print and warn; errors still come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class Batches:
    """Calibration images a few at a time, in the form of onnxruntime's CalibrationDataReader.

    With a stride of one batch the calibrator condenses each batch into ranges or histograms before
    it asks for the next; else it keeps every activation of every image (gigabytes).
    """

    def __init__(self, images: NDArray[np.uint8], size: int = CALIBRATION_BATCH) -> None:
        self._images, self._size = images, size
        self._rows: Iterator[int] = iter(())

    def __len__(self) -> int:
        return -(-len(self._images) // self._size)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go to a batch, counted from 0."""
        self._rows = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch by input name, or None behind the last."""
        number = next(self._rows, None)
        if number is None:
            return None
        start = number * self._size
        batch = self._images[start : start + self._size]
        return {INPUT_NAME: np.ascontiguousarray(batch)}


def find_ranges(
    prepared: Path,
    images: NDArray[np.uint8],
    methods: tuple[Method, ...],
    operators: tuple[str, ...],
) -> dict[Method, Ranges]:
    """Lowest and highest value to represent, per method and activation.

    The histograms of activations are collected once for all methods that read them.

    Args:
        prepared: A float32 ONNX file.
        images: uint8 ``[n, c, h, w]``, n of 1 or more; they pass in small batches, so memory does
            not grow with their number.
        methods: How ranges are chosen.
        operators: Operator types whose inputs and outputs are looked at.

    Returns:
        Method -> tensor name -> (low, high), low <= 0 <= high not enforced here.
    """
    by_method: dict[Method, Ranges] = {}
    engines = {ENGINE_METHODS[method] for method in methods}
    shared = len(engines) > 1 and "Percentile" in engines
    if shared:
        engines.discard("MinMax")  # histograms keep the extremes
    with quiet():
        for engine in sorted(engines):
            calibrator = _collect(prepared, images, engine, operators)
            for method in methods:
                if ENGINE_METHODS[method] == engine and method != "mse":
                    ranges = calibrator.compute_data()
                    by_method[method] = {k: _pair(*v.range_value) for k, v in ranges.items()}
            if engine == "Percentile":
                histograms = calibrator.collector.get_histogram_dict()
                if "mse" in methods:
                    by_method["mse"] = _mse_ranges(histograms)
                if shared and "minmax" in methods:
                    by_method["minmax"] = {k: _pair(v[2], v[3]) for k, v in histograms.items()}
    return {method: by_method[method] for method in methods}


def _collect(
    prepared: Path, images: NDArray[np.uint8], engine: str, operators: tuple[str, ...]
) -> Any:
    from onnxruntime.quantization import calibrate

    with tempfile.TemporaryDirectory(prefix="clinipress-") as folder:
        calibrator = calibrate.create_calibrator(
            prepared,
            list(operators),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=getattr(calibrate.CalibrationMethod, engine),
            extra_options={"symmetric": False},
        )
        size = images_per_call(calibrator.infer_session, CALIBRATION_BATCH)
        batches = Batches(images, size)
        for number in range(len(batches)):
            batches.set_range(number, number + 1)
            calibrator.collect_data(batches)
        if engine == "MinMax":
            calibrator.compute_data()  # what it reads lies in the folder
    return calibrator


def _pair(low: Any, high: Any) -> tuple[float, float]:
    return float(np.asarray(low).ravel()[0]), float(np.asarray(high).ravel()[0])


def _mse_ranges(histograms: dict[str, Any]) -> Ranges:
    """From onnxruntime's (counts, edges, lowest, highest, threshold) per tensor."""
    ranges: Ranges = {}
    for name, (counts, edges, lowest, highest, _) in histograms.items():
        low, high = mse_range(np.asarray(counts), np.asarray(edges, np.float64))
        # bins are wider than the data: never beyond what was seen
        low, high = max(low, float(lowest)), min(high, float(highest))
        ranges[name] = (min(low, 0.0), max(high, 0.0))
    return ranges


def mse_range(
    counts: NDArray[Any], edges: NDArray[np.float64], levels: int = 256
) -> tuple[float, float]:
    """The range whose uniform quantization has the least squared error.

    Both ends are shrunk from the full range on a grid, coarse then finer, and zero stays inside
    (it must be a value of its own: padding is zero). The error of a bin is that of its centre,
    rounded to the nearest level or clipped; within a step much wider than a bin this is the usual
    mean squared error estimate (as in Choukroun et al. 2019, who minimise it too).

    Args:
        counts: ``[bins]``, how many values fell into each.
        edges: ``[bins + 1]``, increasing.
        levels: Of the quantizer.

    Returns:
        (low, high) with low <= 0 <= high; (0, 0) when nothing was counted.
    """
    used = np.flatnonzero(counts)
    if not used.size:
        return 0.0, 0.0
    values = ((edges[:-1] + edges[1:]) / 2)[used]
    weights = np.asarray(counts, np.float64)[used]
    full_low, full_high = min(float(edges[used[0]]), 0.0), max(float(edges[used[-1] + 1]), 0.0)
    lows, highs = full_low * SHARES, full_high * SHARES
    best = (full_low, full_high)
    for _ in range(1 + REFINEMENTS):
        best = _least_error(values, weights, np.unique(lows), np.unique(highs), levels)
        lows = _around(best[0], lows, full_low, 0.0)
        highs = _around(best[1], highs, 0.0, full_high)
    return best


def _around(
    centre: float, grid: NDArray[np.float64], floor: float, ceiling: float
) -> NDArray[np.float64]:
    """A finer grid about a point, as wide as two steps of the coarser one."""
    step = float(np.abs(np.diff(grid)).max()) if len(grid) > 1 else 0.0
    return np.clip(np.linspace(centre - step, centre + step, 9), floor, ceiling)


def _least_error(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    levels: int,
) -> tuple[float, float]:
    """The pair of ends with the least error; the widest of equals."""
    best, least = (float(lows[0]), float(highs[-1])), np.inf
    for low in lows:
        tops = highs[highs > low]
        if not tops.size:
            continue
        scale = ((tops - low) / (levels - 1))[:, None]
        zero = np.round(-low / scale)
        levels_of = np.clip(np.round(values / scale) + zero, 0, levels - 1)
        errors = (((levels_of - zero) * scale - values) ** 2) @ weights
        index = len(errors) - 1 - int(np.argmin(errors[::-1]))
        if errors[index] < least:
            best, least = (float(low), float(tops[index])), float(errors[index])
    return best


def with_zero(low: float, high: float) -> tuple[float, float]:
    """A range moved so that 0 is one of its 256 levels: padding and clamps are exact.

    Example:
        >>> with_zero(-1.2, 253.8)
        (-1.0, 254.0)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255 or 1.0
    zero = round(-low / step)
    return -zero * step, (255 - zero) * step
