"""The loss of distillation, as the training loop calls it: labels, cached answers, feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from clinipress.steps.distill.features import FeatureLoss
from clinipress.steps.distill.teacher import Places
from clinipress.train.losses import Method, distillation, mean_teacher, ranked_probability_score

__all__ = ["DistillationLoss"]


class DistillationLoss:
    """Labels and a teacher, as the training loop calls a loss (`losses.distillation`).

    Args:
        teachers: float32 ``[views, n, classes]`` from `teacher_logits`; or several of them, whose
            softened probabilities are averaged (`losses.mean_teacher`).
        rows: int64 ``[n]``, the rows they were computed for.
        temperature: T of both softmaxes.
        alpha: Weight of the teacher's part; 0 is the control.
        method: "soft", "dkd" or "dist".
        beta: Weight of the method's second part, or of `features`.
        features: What is asked of feature maps, added to the teacher's part.
        warmup: Epochs over which the teacher's part of "dkd" grows to its weight.
        smoothing: Of the hard part.
        class_weights: Of the hard part, float ``[classes]`` or None.
        ordinal: Weight of the `ranked_probability_score` in both parts.
        order: Columns of the grades that it is of.
    """

    def __init__(
        self,
        teachers: NDArray[np.float32] | Sequence[NDArray[np.float32]],
        rows: NDArray[np.int64],
        *,
        temperature: float,
        alpha: float,
        method: Method = "soft",
        beta: float = 1.0,
        features: FeatureLoss | None = None,
        warmup: float = 0.0,
        smoothing: float = 0.0,
        class_weights: torch.Tensor | None = None,
        ordinal: float = 0.0,
        order: Sequence[int] = (),
    ) -> None:
        self._tables = [teachers] if isinstance(teachers, np.ndarray) else list(teachers)
        self._temperature, self._alpha, self._method, self._beta = temperature, alpha, method, beta
        self._features, self._smoothing, self._weights = features, smoothing, class_weights
        self._warmup = warmup if method == "dkd" else 0.0
        self._share = 1.0
        self._ordinal, self._order = ordinal, tuple(order)
        self._places = Places(rows)

    def begin(self, epoch: int) -> None:
        """Called before every epoch: "dkd" starts gently, as in its paper (section 4).

        In the first epochs a student knows nothing, and the weight of the other classes would
        drown the labels. The whole teacher's part is multiplied by min((epoch + 1) / warmup, 1).
        """
        self._share = min((epoch + 1) / self._warmup, 1.0) if self._warmup else 1.0

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, rows: NDArray[np.int64], view: int
    ) -> torch.Tensor:
        """Mean loss of a batch: rows find the teacher's logits, view says which."""
        weights = None if self._weights is None else self._weights.to(logits.device)
        teacher = self._teacher(labels, rows, view).to(logits.device)
        loss = distillation(
            logits, labels, teacher, self._temperature, self._alpha, self._smoothing, weights,
            method=self._method, beta=self._beta, share=self._share,
        )  # fmt: skip
        if self._ordinal:
            for weight, target in ((1 - self._alpha, labels), (self._alpha, teacher.softmax(1))):
                apart = ranked_probability_score(logits, target, self._order)
                loss = loss + self._ordinal * weight * apart
        if self._features is None:
            return loss
        return loss + self._alpha * self._beta * self._features(rows, view)

    def _teacher(self, labels: torch.Tensor, rows: NDArray[np.int64], view: int) -> torch.Tensor:
        places = self._places(rows)
        answers = np.stack([table[view % len(table), places] for table in self._tables])
        return mean_teacher(
            torch.from_numpy(answers), self._temperature, multi_label=labels.ndim == 2
        )
