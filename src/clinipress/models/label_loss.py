"""What the labels say of a network's logits: trained by, and channels ranked by.

Means over the images of a batch, so that a batch split over processes has the loss of the whole.
Throughout, `logits` are float ``[n, k]``, `labels` int64 ``[n]`` in 0..k-1 unless said otherwise,
`class_weights` float ``[k]``, `smoothing` in [0, 1); every loss is a scalar.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["binary_cross_entropy", "cross_entropy", "hard_loss"]


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy over the images of a batch.

    With smoothing s and k classes the target is ``(1 - s) * one_hot + s / k`` (Szegedy et al.,
    2016), each class term weighted by its class weight. Deviation from
    ``torch.nn.functional.cross_entropy``: the weighted sum is divided by the number of images, not
    by the sum of their weights. The mean of a batch split over processes is then the mean over the
    whole batch; the weights of `balanced_weights` average 1, so the scale is the same.
    """
    losses = F.cross_entropy(
        logits, labels, weight=class_weights, reduction="none", label_smoothing=smoothing
    )
    return losses.mean()


def binary_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy over images and findings, for a head with one sigmoid per finding.

    With smoothing s the target is ``(1 - s) * label + s / 2``, as `cross_entropy` with two classes.
    What is unknown adds nothing; the sum is divided by all pairs all the same, so that a batch
    split over processes has the loss of the whole.

    Args:
        logits: ``[n, k]``.
        labels: ``[n, k]``: 1 present, 0 absent, -1 unknown; or floating, in [0, 1].
        smoothing: s.
        class_weights: Weight of each finding where it is present, ``[k]``.
    """
    known = labels >= 0
    target = torch.where(known, labels, 0).to(logits.dtype)
    target = (1 - smoothing) * target + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=class_weights, reduction="none"
    )
    return torch.where(known, losses, 0).mean()


def hard_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """`cross_entropy` of labels ``[n]``, `binary_cross_entropy` of labels ``[n, k]``."""
    chosen = binary_cross_entropy if labels.ndim == 2 else cross_entropy
    return chosen(logits, labels, smoothing, class_weights)
