"""The losses: of the labels, and of a teacher's outputs (soft, decoupled, relational).

All are means over the images of a batch, so that a batch split over processes has the loss of the
whole; the one exception, the intra-class part of `relational`, says so. Throughout, `logits` (the
student's) and `teacher_logits` (of the same views) are float ``[n, k]``, `labels` int64 ``[n]`` in
0..k-1 unless said otherwise, `class_weights` float ``[k]``, `smoothing` in [0, 1), `temperature` T
above 0; every loss is a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clinipress.errors import RecipeError
from clinipress.models.label_loss import binary_cross_entropy, cross_entropy, hard_loss

__all__ = [
    "HardLoss",
    "Method",
    "balanced_weights",
    "binary_cross_entropy",
    "binary_soft_targets",
    "cross_entropy",
    "decoupled",
    "distillation",
    "hard_loss",
    "mean_teacher",
    "ranked_probability_score",
    "relational",
    "soft_targets",
]

Method = Literal["soft", "dkd", "dist"]
MOST_WEIGHT = 20.0  # a finding of one image would otherwise be all that is learnt


def soft_targets(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """``T^2 * KL(teacher || student)`` between softmaxes at temperature T.

    The factor T^2 keeps its gradient of the order of the hard part's (Hinton, Vinyals, Dean,
    arXiv:1503.02531, section 2). Summed over classes, averaged over images.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * _divergence(student, teacher)


def binary_soft_targets(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """`soft_targets` for a multi-label head: a binary divergence per label, sigmoids at T.

    Averaged over images and labels, as `binary_cross_entropy`, so that both parts keep their
    proportion however many labels there are.
    """
    student, teacher = logits / temperature, teacher_logits / temperature
    yes = _divergence(F.logsigmoid(student), F.logsigmoid(teacher))
    no = _divergence(F.logsigmoid(-student), F.logsigmoid(-teacher))
    return temperature**2 * (yes + no) / logits.shape[1]


def decoupled(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float,
    beta: float,
) -> torch.Tensor:
    """``T^2 * (TCKD + beta * NCKD)``: decoupled distillation (Zhao et al., CVPR 2022, eq. 7).

    TCKD is the divergence of (target, all others together), NCKD that among the other classes
    alone. Hinton's divergence is ``TCKD + (1 - p) * NCKD`` with p the teacher's probability of the
    target (eq. 5): the surer the teacher, the less it says of the others; `beta` undoes that. The
    paper's alpha, the weight of TCKD, is 1 as there. With two classes NCKD is 0.
    """
    parts = [_decouple(z / temperature, labels) for z in (logits, teacher_logits)]
    (student_target, student_rest), (teacher_target, teacher_rest) = parts
    target = _divergence(student_target, teacher_target)
    rest = _divergence(student_rest, teacher_rest)
    return temperature**2 * (target + beta * rest)


def _decouple(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities ``[n, 2]`` of target and others, and ``[n, k - 1]`` among the others."""
    n, k = logits.shape
    mine = F.one_hot(labels, k).bool()
    target = logits[mine].view(n, 1)
    others = logits[~mine].view(n, k - 1)
    pair = torch.cat([target, others.logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(pair, dim=1), F.log_softmax(others, dim=1)


def relational(
    logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float, beta: float
) -> torch.Tensor:
    """``T^2 * (inter + beta * intra)``: DIST (Huang et al., NeurIPS 2022, eq. 9 and 10).

    Both are 1 minus a mean Pearson correlation of softmaxes at T: inter over the classes of each
    image, intra over the images of a batch for each class (beta is gamma / beta in the paper's
    notation). It asks for the teacher's order, not its numbers. Intra needs the batch: split over
    processes, each correlates its own share. In ``[0, 2 T^2 (1 + beta)]``.
    """
    student = (logits / temperature).softmax(1)
    teacher = (teacher_logits / temperature).softmax(1)
    inter = 1 - _pearson(student, teacher).mean()
    intra = 1 - _pearson(student.T, teacher.T).mean()
    return temperature**2 * (inter + beta * intra)


def _pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation of each pair of rows, ``[rows]``; about 0 where one of them does not vary."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return F.cosine_similarity(a, b, dim=1)


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of log-probabilities ``[n, m]``: summed over m, mean over n."""
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def mean_teacher(
    logits: torch.Tensor, temperature: float, *, multi_label: bool = False
) -> torch.Tensor:
    """Logits ``[n, k]`` whose softmax at T is the mean of several teachers' ``[teachers, n, k]``.

    Probabilities are averaged, not logits, because networks differ in the scale of their logits
    and the one that is most sure of itself would decide (Hinton et al., arXiv:1503.02531, name
    both means). With `multi_label` the sigmoids at T are averaged. A single teacher's own logits
    come back bit for bit.
    """
    if len(logits) == 1:
        return logits[0]
    scaled, count = logits / temperature, math.log(len(logits))
    if not multi_label:
        return temperature * (F.log_softmax(scaled, dim=2).logsumexp(0) - count)
    yes, no = F.logsigmoid(scaled).logsumexp(0), F.logsigmoid(-scaled).logsumexp(0)
    return temperature * (yes - no)


def distillation(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float,
    alpha: float,
    smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    *,
    method: Method = "soft",
    beta: float = 1.0,
    share: float = 1.0,
) -> torch.Tensor:
    """``alpha * (what the teacher says) + (1 - alpha) * (what the labels say)``.

    What the teacher says is `soft_targets` (or `binary_soft_targets` where labels are ``[n, k]``:
    it speaks of unknown findings, too), `decoupled` or `relational`. Deviation: the last two papers
    write ``hard + w * teacher``; that is this with ``alpha = w / (1 + w)``, up to a factor that
    Adam does not feel.
    An alpha of 0 is the control without a teacher; `share` of the teacher's part, in (0, 1], is
    below 1 while it is warmed up; `beta` weighs the method's second part.

    Raises:
        RecipeError: The method is not defined for several labels per image.
    """
    hard = hard_loss(logits, labels, smoothing, class_weights)
    if alpha == 0:
        return hard
    soft = _taught(logits, labels, teacher_logits, temperature, method, beta)
    return alpha * share * soft + (1 - alpha) * hard


def _taught(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperature: float,
    method: Method,
    beta: float,
) -> torch.Tensor:
    """The teacher's part of `distillation`, the factor T^2 in it."""
    if method == "soft":
        chosen = binary_soft_targets if labels.ndim == 2 else soft_targets
        return chosen(logits, teacher_logits, temperature)
    if labels.ndim == 2:
        raise RecipeError(
            "method 'soft' for several labels per image",
            f"'{method}', which is defined on the classes of one softmax",
        )
    if method == "dkd":
        return decoupled(logits, labels, teacher_logits, temperature, beta)
    return relational(logits, teacher_logits, temperature, beta)


def balanced_weights(labels: NDArray[np.int64], classes: int) -> torch.Tensor:
    """Class weights float32 ``[k]`` by inverse frequency; their mean over the images is 1.

    A class that has no image gets weight 0. Of findings, labels ``[n, k]``, what a present one
    weighs: as many times as it is absent more often than present, at most `MOST_WEIGHT`.
    """
    if labels.ndim == 2:
        there, absent = (labels == 1).sum(0), (labels == 0).sum(0)
        odds = absent / np.maximum(there, 1)
        return torch.from_numpy(np.clip(odds, 1, MOST_WEIGHT).astype(np.float32))
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return torch.from_numpy(weights.astype(np.float32))


def ranked_probability_score(
    logits: torch.Tensor, target: torch.Tensor, order: Sequence[int]
) -> torch.Tensor:
    """Squared differences of the cumulative probabilities of grades, summed over the grades.

    Epstein (J. Appl. Meteorol. 1969, 8:985); as a loss of ordered classes the squared earth mover's
    distance of Hou, Yu and Samaras (arXiv:1611.05916, eq. 5): a probability costs the more, the
    more grades it is off. Against a teacher's probabilities it draws the expected grade to his.

    Args:
        logits: ``[n, k]``.
        target: int64 ``[n]``, or probabilities ``[n, k]``.
        order: Columns from the least grade to the gravest.

    Returns:
        The mean over the images, in ``[0, k - 1]``.
    """
    if target.ndim == 1:
        target = F.one_hot(target, logits.shape[1])
    gap = (logits.softmax(1) - target)[:, list(order)].cumsum(1)
    return (gap**2).sum(1).mean()


class HardLoss:
    """Cross-entropy as the training loop calls a loss: smoothing, weights balanced or not.

    `balance` are the labels of the training images, to weight classes by inverse frequency; to the
    loss `ordinal` times the `ranked_probability_score` of `order` is added.
    """

    def __init__(
        self,
        smoothing: float,
        balance: NDArray[np.int64] | None = None,
        *,
        ordinal: float = 0.0,
        order: Sequence[int] = (),
    ) -> None:
        self._smoothing, self._balance = smoothing, balance
        self._ordinal, self._order = ordinal, tuple(order)
        self._weights: torch.Tensor | None = None

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, rows: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        """Mean loss of a batch; rows and view play no part."""
        if self._balance is not None and self._weights is None:
            # only the logits know how many classes there are: a class may have no image
            weights = balanced_weights(self._balance, logits.shape[1])
            self._weights = weights.to(logits.device)
        loss = hard_loss(logits, labels, self._smoothing, self._weights)
        if self._ordinal:
            loss = loss + self._ordinal * ranked_probability_score(logits, labels, self._order)
        return loss
