"""The losses: cross-entropy with smoothing and class weights, and Hinton's distillation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

__all__ = ["HardLoss", "balanced_weights", "cross_entropy", "distillation"]


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

    Args:
        logits: float ``[n, k]``.
        labels: int64 ``[n]`` in 0..k-1.
        smoothing: Share given to all classes alike, in [0, 1).
        class_weights: float ``[k]`` or None.

    Returns:
        A scalar.
    """
    losses = F.cross_entropy(
        logits, labels, weight=class_weights, reduction="none", label_smoothing=smoothing
    )
    return losses.mean()


def distillation(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float,
    alpha: float,
    smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hinton's loss: ``alpha * T^2 * KL(teacher || student) + (1 - alpha) * cross-entropy``.

    Both softmaxes of the soft part are taken at temperature T; the factor T^2 keeps its gradient
    of the order of the hard part's (Hinton, Vinyals, Dean, arXiv:1503.02531, section 2). The
    divergence is summed over classes and averaged over images.

    Args:
        logits: The student's, float ``[n, k]``.
        labels: int64 ``[n]``.
        teacher_logits: float ``[n, k]`` of the same views of the same images.
        temperature: T, above 0.
        alpha: Weight of the soft part, in [0, 1]; 0 is the control without a teacher.
        smoothing: Of the hard part only.
        class_weights: Of the hard part only, float ``[k]`` or None.

    Returns:
        A scalar.
    """
    hard = cross_entropy(logits, labels, smoothing, class_weights)
    if alpha == 0:
        return hard
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return alpha * temperature**2 * soft + (1 - alpha) * hard


def balanced_weights(labels: NDArray[np.int64], classes: int) -> torch.Tensor:
    """Class weights by inverse frequency; their mean over the images is 1.

    Args:
        labels: int64 ``[n]`` of the training images.
        classes: Number of classes k; one that has no image gets weight 0.

    Returns:
        float32 ``[k]``.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return torch.from_numpy(weights.astype(np.float32))


class HardLoss:
    """Cross-entropy as the training loop calls a loss: smoothing, weights balanced or not.

    Args:
        smoothing: Share given to all classes alike.
        balance: Labels of the training images, to weight classes by inverse frequency; None: all
            images count alike.
    """

    def __init__(self, smoothing: float, balance: NDArray[np.int64] | None = None) -> None:
        self._smoothing, self._balance = smoothing, balance
        self._weights: torch.Tensor | None = None

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, rows: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        """Mean loss of a batch; rows and view play no part."""
        if self._balance is not None and self._weights is None:
            # only the logits know how many classes there are: a class may have no image
            weights = balanced_weights(self._balance, logits.shape[1])
            self._weights = weights.to(logits.device)
        return cross_entropy(logits, labels, self._smoothing, self._weights)
