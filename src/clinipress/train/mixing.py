"""Mixup and CutMix: images of a batch mixed in pairs, and their losses with them.

Which image meets which, and in what share, depends on (seed, epoch, step) alone and is drawn for
the whole batch before it is divided among processes, so resumed and shared trainings mix alike.
One share for a batch, as the authors of both papers do it in their code.

The loss of a mixed batch is ``share * loss(first labels) + (1 - share) * loss(second labels)``.
Cross-entropy is linear in its targets, so for labels, smoothed and weighted ones too, this is
exactly the loss of the mixed targets. Of a teacher's soft targets it has exactly the gradient that
the mixed softened probabilities of the two images have (the divergence differs by a constant): the
teacher is taken to answer in between, which its cached answers allow, and is never asked about the
mixture itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Box", "Mix", "Partner", "cut_box", "draw_mix", "mix_images", "mixed_loss"]

Box = tuple[int, int, int, int]  # top, bottom, left, right, in pixels, the ends not included
TAG = 0x6D6978  # a stream of its own beside the order of the images


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed.

    Attributes:
        partners: int64 ``[n]``, for each image the row of the one it is mixed with.
        share: Of the image itself, in [0, 1].
        box: What is pasted of the partner; None: both are blended.
    """

    partners: NDArray[np.int64]
    share: float
    box: Box | None


@dataclass(frozen=True)
class Partner:
    """The second images of a mixed batch, as its loss needs them.

    Attributes:
        labels: int64 ``[n]`` on the device (or as the cache has them).
        rows: int64 ``[n]``, row numbers in the cache.
        share: Of the first images, in [0, 1].
    """

    labels: torch.Tensor
    rows: NDArray[np.int64]
    share: float


def draw_mix(
    rows: NDArray[np.int64],
    size: tuple[int, int],
    *,
    mixup: float | None,
    cutmix: float | None,
    seed: int,
    epoch: int,
    step: int,
) -> Mix | None:
    """How the batch of one step is mixed; None where both kinds are off.

    Args:
        rows: int64 ``[n]`` of the whole batch, over all processes.
        size: (height, width) at which it is trained.
        mixup: Both parameters of the Beta distribution of the share (Zhang et al., ICLR 2018).
        cutmix: The same for the share of the area (Yun et al., ICCV 2019); with both, each batch
            takes either with probability 1/2.
        seed: Seed of the training.
        epoch: From 0.
        step: Within the epoch, from 0.
    """
    if not mixup and not cutmix:
        return None
    random = np.random.default_rng([seed, epoch, step, TAG])
    cut = bool(cutmix) and (not mixup or random.random() < 0.5)
    alpha = (cutmix if cut else mixup) or 1.0
    share = float(random.beta(alpha, alpha))
    partners = random.permutation(rows)
    if not cut:
        return Mix(partners, share, None)
    height, width = size
    box = cut_box(share, int(random.integers(height)), int(random.integers(width)), size)
    top, bottom, left, right = box
    return Mix(partners, 1 - (bottom - top) * (right - left) / (height * width), box)


def cut_box(share: float, y: int, x: int, size: tuple[int, int]) -> Box:
    """The rectangle that leaves `share` of an image (Yun et al., eq. 2), cut at the borders.

    Its centre is at row `y` and column `x` of an image of `size` (height, width).
    """
    ratio = float(np.sqrt(1 - share))
    tall, wide = int(size[0] * ratio), int(size[1] * ratio)
    return (
        max(y - tall // 2, 0),
        min(y + (tall + 1) // 2, size[0]),
        max(x - wide // 2, 0),
        min(x + (wide + 1) // 2, size[1]),
    )


def mix_images(
    images: torch.Tensor, partners: torch.Tensor, share: float, box: Box | None
) -> torch.Tensor:
    """``share * image + (1 - share) * partner``, rounded; or the partner's box pasted in.

    A new uint8 ``[n, c, h, w]``, of two such; a box, in pixels, has its own share.
    """
    if box is None:
        blend = torch.lerp(partners.to(torch.float32), images.to(torch.float32), share)
        return blend.round_().to(torch.uint8)
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed


def mixed_loss(
    loss: Callable[[torch.Tensor, NDArray[np.int64]], torch.Tensor],
    labels: torch.Tensor,
    rows: NDArray[np.int64],
    partner: Partner | None,
) -> torch.Tensor:
    """The loss of a batch, mixed with a partner or not; `loss` is (labels, rows) -> their mean."""
    if partner is None:
        return loss(labels, rows)
    first, second = loss(labels, rows), loss(partner.labels, partner.rows)
    return partner.share * first + (1 - partner.share) * second
