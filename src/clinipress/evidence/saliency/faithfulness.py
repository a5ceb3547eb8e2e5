"""Whether a map shows what the answer hangs on: by showing and hiding what it points at.

Average drop and increase in confidence: Chattopadhay et al. 2018 (Grad-CAM++, WACV, section 4.1).
Deletion and insertion: Petsiuk et al. 2018 (RISE, BMVC, section 4.3). All with the probability of
the explained class, softmax at temperature 1 for every candidate alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clinipress.records.candidate import FeatureNetwork
from clinipress.stats.metrics import sigmoid, softmax

__all__ = ["FAITHFULNESS", "Faithfulness", "energy_inside", "faithfulness"]

Floats = NDArray[np.float32]
FAITHFULNESS = ("average_drop", "increase_in_confidence", "deletion_auc", "insertion_auc")
STEPS = 32  # Petsiuk et al. take one row of pixels at a time: 224; a seventh of the passes here
TINY = 1e-300  # a probability that came out as 0
BLUR, BLUR_SIGMA = 11, 5.0  # of the image that insertion starts from, as in their code


@dataclass(frozen=True)
class Faithfulness:
    """Per image, float64 ``[n]``.

    Attributes:
        average_drop: ``max(0, y - o) / y``: share of the explained class's probability y that is
            lost when the image is multiplied with its map (o); 0 is best.
        increase_in_confidence: 1 where o is above y.
        deletion_auc: Area under the probability while the pixels that stand out most are replaced
            first; low is good.
        insertion_auc: While they are put back first; high is good.
    """

    average_drop: NDArray[np.float64]
    increase_in_confidence: NDArray[np.float64]
    deletion_auc: NDArray[np.float64]
    insertion_auc: NDArray[np.float64]


def faithfulness(
    network: FeatureNetwork,
    images: NDArray[np.uint8],
    maps: Floats,
    explained: NDArray[np.integer],
    *,
    fill: float | Floats,
    several: bool = False,
) -> Faithfulness:
    """Show a network what its own maps point at.

    Args:
        network: The one that the maps explain.
        images: uint8 ``[n, channels, h, w]``.
        maps: float32 ``[n, h, w]`` in [0, 1].
        explained: ``[n]``, the class each map explains.
        fill: Grey level of what is hidden, 0..255; deletion ends there. Petsiuk et al. insert into
            a blurred image; so does this, with their window.
        several: An image may show several findings: the probability is a sigmoid.
    """
    rows = [
        _figures(network, image.astype(np.float32), saliency, int(label), fill, several=several)
        for image, saliency, label in zip(images, maps, explained, strict=True)
    ]
    table = np.asarray(rows, np.float64).reshape(len(rows), len(FAITHFULNESS))
    return Faithfulness(*(column.copy() for column in table.T))


def _figures(
    network: FeatureNetwork,
    image: Floats,
    saliency: Floats,
    label: int,
    fill: float | Floats,
    *,
    several: bool,
) -> tuple[float, ...]:
    def probability(batch: Floats) -> NDArray[np.float64]:
        logits = network.answer(batch.astype(np.float32, copy=False))
        values = logits.astype(np.float64)
        return np.asarray((sigmoid(values) if several else softmax(values))[:, label])

    grey = np.broadcast_to(np.asarray(fill, np.float32), image.shape)
    shown, whole = probability(np.stack([grey + (image - grey) * saliency, image]))
    # the same order for both; equal values by their place
    rank = np.empty(saliency.size, np.int64)
    rank[np.argsort(-saliency.ravel(), kind="stable")] = np.arange(saliency.size)
    steps = np.linspace(0, saliency.size, min(STEPS, saliency.size) + 1).round()
    taken = rank.reshape(saliency.shape) < steps[:, None, None, None]  # [steps, 1, h, w]
    deleted = probability(np.where(taken, grey, image))
    inserted = probability(np.where(taken, image, _blurred(image)))
    areas = [float((each[1:] + each[:-1]).mean() / 2) for each in (deleted, inserted)]
    drop = max(0.0, float(whole - shown)) / max(float(whole), TINY)
    return drop, float(shown > whole), *areas


def _blurred(image: Floats) -> Floats:
    """Gaussian blur, zeros outside of the image, as a convolution with padding gives it."""
    offsets = np.arange(BLUR) - BLUR // 2
    weights = np.exp(-(offsets**2) / (2 * BLUR_SIGMA**2))
    weights /= weights.sum()
    down, across = (_banded(side, weights, offsets) for side in image.shape[1:])
    return np.asarray(down @ image @ across.T, np.float32)


def _banded(
    side: int, weights: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The weights around each place of one axis, float64 ``[side, side]``."""
    matrix = np.zeros((side, side))
    for weight, offset in zip(weights, offsets, strict=True):
        matrix += weight * np.eye(side, k=int(offset))
    return matrix


def energy_inside(maps: Floats, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of each map that lies inside a mask: the energy-based pointing game (Wang 2020, 4.3).

    Args:
        maps: float ``[n, h, w]``, nothing below 0.
        masks: bool ``[n, h, w]``.

    Returns:
        float64 ``[n]``; NaN without a map, or without a mask.
    """
    total = maps.sum((1, 2), dtype=np.float64)
    inside = (maps * masks).sum((1, 2), dtype=np.float64)
    known = (total > 0) & masks.any((1, 2))
    shares = np.divide(inside, total, out=np.full(len(maps), np.nan), where=known)
    return np.asarray(shares, np.float64)
