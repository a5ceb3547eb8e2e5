"""Score-CAM (Wang et al. 2020, CVPR Workshops, arXiv:1910.01279), without gradients.

Each channel of the last feature map is stretched to the image's size and to [0, 1]; the image is
multiplied with it, so that only what the channel looks at stays; the logit of the explained class
says what that part is worth. The map is the sum of the channels by the softmax of these logits,
without its negative part, in [0, 1]:

    mask_k = (up(A_k) - min) / (max - min),  s_k = f_class(x * mask_k),
    map    = up(relu(sum_k softmax(s)_k A_k))

Interpolation, scaling and the softmax over raw logits are those of pytorch-grad-cam 1.5, against
which the tests compare map by map. x is the normalised image, so what is masked becomes the fill:
the mean grey of the training images.

The two modes differ in how many masks are run, not in what is run:

    exact   every mask once. Channels whose masks are equal up to 1e-6, such as the many that answer
            in one cell of a small map, share one forward pass, and all channels without a place
            (constant maps, which rounding would otherwise turn into noise) share the empty mask.
    fast    the masks are put into groups (k-means), and a group's mean mask is run for all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clinipress.errors import DataError
from clinipress.progress import SILENT, Progress
from clinipress.records.candidate import FeatureNetwork
from clinipress.stats.metrics import softmax

__all__ = ["GROUPS", "Masks", "Mode", "channel_masks", "grouped", "score_cam"]

Mode = Literal["exact", "fast"]
Floats = NDArray[np.float32]
SAME = 1e-6  # of a mask in [0, 1]; a grey level is 1/255
FLAT = 1e-6  # of the largest value: float32 rounding of an interpolated constant
TASK = "saliency maps"
GROUPS = 128
ROUNDS = 10
AT_ONCE = 32  # masked images made at a time: some megabytes


@dataclass(frozen=True)
class Masks:
    """The different masks of one image's channels.

    Attributes:
        cells: float32 ``[m, h, w]`` in [0, 1], at the feature map's own size.
        of_channel: int64 ``[c]``: the mask of each channel.
    """

    cells: Floats
    of_channel: NDArray[np.int64]


def channel_masks(maps: Floats) -> Masks:
    """Masks of one image's feature map, each different one once.

    Args:
        maps: float32 ``[c, h, w]``.
    """
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    low, high = flat.min(1), flat.max(1)
    span = high - low
    placeless = span <= FLAT * np.maximum(np.abs(low), np.abs(high))
    cells = (flat - low[:, None]) / np.where(placeless, 1.0, span)[:, None]
    cells[placeless] = 0
    steps = np.rint(cells / SAME).astype(np.int64)
    _, first, of_channel = np.unique(steps, axis=0, return_index=True, return_inverse=True)
    kept = cells[first].astype(np.float32).reshape(-1, *maps.shape[1:])
    return Masks(kept, np.asarray(of_channel, np.int64).reshape(-1))


def grouped(masks: Masks, weights: Floats, groups: int, seed: int = 0) -> Masks:
    """At most `groups` masks in place of many: k-means, each group by its mean.

    Lloyd's algorithm from a seeded weighted start; the same arguments give the same groups.

    Args:
        masks: As `channel_masks` gives them.
        weights: ``[c]``, what each channel may add to the map; none of a group of zeros is run.
        groups: Largest number of masks.
        seed: Of the start.
    """
    mass = np.bincount(masks.of_channel, weights, len(masks.cells))
    if len(masks.cells) <= groups:
        return masks
    points = masks.cells.reshape(len(masks.cells), -1).astype(np.float64)
    random = np.random.default_rng(seed)
    share = mass + 1e-12 * max(mass.max(), 1e-30)
    start = random.choice(len(points), groups, replace=False, p=share / share.sum())
    centres = points[start]
    for _ in range(ROUNDS):
        nearest = _nearest(points, centres)
        total = np.bincount(nearest, share, groups)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points * share[:, None])
        filled = total > 0
        centres[filled] = sums[filled] / total[filled, None]
    nearest = _nearest(points, centres)
    used, nearest = np.unique(nearest, return_inverse=True)
    cells = centres[used].astype(np.float32).reshape(-1, *masks.cells.shape[1:])
    return Masks(cells, np.asarray(nearest, np.int64).reshape(-1)[masks.of_channel])


def _nearest(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    distance = (centres**2).sum(1) - 2 * points @ centres.T
    return np.asarray(distance.argmin(1), np.int64)


def score_cam(
    network: FeatureNetwork,
    images: NDArray[np.uint8],
    explained: NDArray[np.integer],
    *,
    fill: float | Floats,
    mode: Mode = "exact",
    groups: int = GROUPS,
    seed: int = 0,
    scored_by: FeatureNetwork | None = None,
    progress: Progress = SILENT,
) -> Floats:
    """Where a network looks for a class.

    Args:
        network: What is explained.
        images: uint8 ``[n, channels, height, width]``.
        explained: ``[n]``, the class each map explains.
        fill: Grey level that masked pixels become, 0..255, one or ``[channels, 1, 1]``.
        mode: "exact" or "fast".
        groups: Masks run per image in the fast mode.
        seed: Of the groups.
        scored_by: Answers to masked images in the network's place, such as its int8 file. Never
            for a comparison with that file: the two would look alike because they are.
        progress: The listener.

    Returns:
        float32 ``[n, height, width]`` in [0, 1]; all 0 where no channel speaks for the class.

    Raises:
        DataError: `explained` is not one class per image.
    """
    if len(explained) != len(images):
        raise DataError(f"a class to explain for each of {len(images)} images", f"{len(explained)}")
    saliency = np.zeros((len(images), *images.shape[2:]), np.float32)
    progress.start(TASK, len(images))
    for row, image in enumerate(images):
        _, maps = network.look(image[None])
        masks = channel_masks(maps[0])
        if mode == "fast":
            masks = grouped(masks, np.abs(maps[0]).sum((1, 2)), groups, seed)
        scores = _scores(scored_by or network, image, masks.cells, int(explained[row]), fill)
        saliency[row] = _map(maps[0], scores[masks.of_channel], images.shape[2:])
        progress.advance(TASK)
    progress.finish(TASK)
    return saliency


def _scores(
    network: FeatureNetwork,
    image: NDArray[np.uint8],
    cells: Floats,
    explained: int,
    fill: float | Floats,
) -> Floats:
    """Logit of the explained class for the image under each mask."""
    down, across = (
        _stretch(small, large, aligned=True)
        for small, large in zip(cells.shape[1:], image.shape[1:], strict=True)
    )
    rest = image.astype(np.float32) - fill
    logits = []
    for start in range(0, len(cells), AT_ONCE):
        masks = down @ cells[start : start + AT_ONCE] @ across.T
        # the ends of a mask may lie between the image's pixels: [0, 1] again
        low, high = masks.min((1, 2), keepdims=True), masks.max((1, 2), keepdims=True)
        masks = (masks - low) / (high - low + 1e-8)
        masked = fill + rest[None] * masks[:, None]
        logits.append(network.answer(masked.astype(np.float32, copy=False))[:, explained])
    return np.concatenate(logits)


def _map(maps: Floats, scores: Floats, size: tuple[int, ...]) -> Floats:
    """float32 ``[height, width]`` of feature maps ``[c, h, w]`` and a logit per channel."""
    total = np.tensordot(softmax(scores), maps.astype(np.float64), axes=1)
    small = _unit(np.maximum(total, 0))
    down, across = (
        _stretch(few, many, aligned=False) for few, many in zip(maps.shape[1:], size, strict=True)
    )
    return _unit(down @ small @ across.T).astype(np.float32)


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretched to [0, 1]; pytorch-grad-cam's term of 1e-7 for maps of zeros."""
    lifted = values - values.min()
    return np.asarray(lifted / (1e-7 + lifted.max()), np.float64)


def _stretch(few: int, many: int, *, aligned: bool) -> Floats:
    """Linear interpolation of `few` values to `many`, as a matrix float32 ``[many, few]``.

    Args:
        few: Values.
        many: Places.
        aligned: The first and last places are the first and last values (``align_corners``, as for
            the masks); else values are the middles of equal parts (as for the finished map).
    """
    places = np.arange(many, dtype=np.float64)
    if aligned:
        at = places * ((few - 1) / max(many - 1, 1))
    else:
        at = np.clip((places + 0.5) * (few / many) - 0.5, 0, few - 1)
    left = np.minimum(at.astype(np.int64), max(few - 2, 0))
    matrix = np.zeros((many, few), np.float32)
    rows = np.arange(many)
    matrix[rows, left] = 1 - (at - left)
    matrix[rows, np.minimum(left + 1, few - 1)] += at - left
    return matrix
